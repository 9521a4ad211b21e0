"""The options of a run: the paper's by default, checked one by one, and read from TOML."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wdsr_edge import InputError
from wdsr_edge.config import ModelConfig
from wdsr_edge.loading import ZOO
from wdsr_edge.training import TrainConfig
from wdsr_edge.training.recipe import RunFile, read_run_file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.toml"


def test_the_defaults_are_the_papers() -> None:
    """Section 4.1: patches of 96 HR pixels, 16 a batch, L1, Adam, 1e-3 with weight norm, halved every 2e5 steps."""
    recipe = TrainConfig()
    assert (recipe.patch * 2, recipe.batch, recipe.loss) == (96, 16, "l1")
    assert (recipe.schedule, recipe.halve_every, recipe.warmup) == ("step", 200_000, 0)
    assert (recipe.ema, recipe.clip, recipe.compile) == (0, 0, False)


@pytest.mark.parametrize(("norm", "rate"), [("weight", 1e-3), ("none", 1e-4), ("batch", 1e-4)])
def test_weight_norm_allows_ten_times_the_rate(norm: Any, rate: float) -> None:
    config = ModelConfig("wdsr-b", 1, 8, 2, norm=norm)
    assert TrainConfig().peak_rate(config) == rate
    assert TrainConfig(learning_rate=0.02).peak_rate(config) == 0.02


def test_the_step_schedule_halves() -> None:
    recipe = TrainConfig(halve_every=100)
    assert [recipe.rate(step) for step in (0, 99, 100, 199, 200, 300)] == [1, 1, 0.5, 0.5, 0.25, 0.125]


def test_the_cosine_schedule_falls_to_one_percent() -> None:
    recipe = TrainConfig(steps=1000, schedule="cosine")
    rates = [recipe.rate(step) for step in range(1000)]
    assert rates == sorted(rates, reverse=True)
    assert [rates[0], rates[500], rates[-1]] == pytest.approx([1, 0.505, 0.01], abs=1e-4)


@pytest.mark.parametrize("schedule", ["step", "cosine"])
def test_the_rate_rises_evenly_and_then_starts_from_its_highest(schedule: Any) -> None:
    recipe = TrainConfig(steps=1000, warmup=4, schedule=schedule)
    assert [recipe.rate(step) for step in range(5)] == [0.25, 0.5, 0.75, 1, 1]


@given(
    steps=st.integers(1, 3000),
    warmup=st.integers(0, 3000),
    halve_every=st.integers(10, 3000),
    schedule=st.sampled_from(("step", "cosine")),
)
def test_a_rate_is_a_share_that_never_grows_after_the_warm_up(
    steps: int, warmup: int, halve_every: int, schedule: Any
) -> None:
    recipe = TrainConfig(steps=steps, warmup=warmup, halve_every=halve_every, schedule=schedule)
    rates = [recipe.rate(step) for step in range(0, steps, 7)]
    assert all(0 < rate <= 1 for rate in rates)
    after = rates[-(-warmup // 7) :]
    assert after == sorted(after, reverse=True)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        *(
            (name, 0, "from 1 to 1e+09, got 0")
            for name in ("steps", "batch", "halve_every", "save_every", "validate_every")
        ),
        *((name, -1, "from 0") for name in ("warmup", "seed", "clip", "workers", "ema")),
        ("patch", 3, "from 4 to 4096"),
        ("patch", 5000, "from 4 to 4096"),
        ("ema", 1.0, "ema"),
        ("amp_share", 1.1, "from 0 to 1"),
        ("distillation", -0.1, "from 0 to 1"),
        ("learning_rate", 0.0, "learning_rate"),
        ("learning_rate", math.nan, "got nan"),
        ("learning_rate", math.inf, "got inf"),
        ("clip", math.nan, "got nan"),
        ("steps", 10**400, "steps"),
        ("learning_rate", 10**400, "learning_rate"),
        ("steps", 4.0, "of type int, got 4.0"),
        ("steps", True, "of type int, got True"),
        ("steps", None, "of type int, got None"),
        ("ema", "0.9", "of type float, got '0.9'"),
        ("ema", False, "of type float"),
        ("channels_last", 1, "of type bool, got 1"),
        ("workers", 1.5, "of type int"),
        ("loss", "L1", "one of l1, l2, charbonnier, got 'L1'"),
        ("schedule", ["step"], "one of step, cosine"),
        ("amp", False, "one of auto, off, bfloat16, float16"),
    ],
)
def test_a_bad_value_is_named(name: str, value: Any, words: str) -> None:
    with pytest.raises(InputError) as raised:
        TrainConfig(**{name: value})
    assert str(raised.value).startswith(f"{name} must be ")
    assert words in str(raised.value)


def test_a_whole_number_will_do_for_a_fraction() -> None:
    assert TrainConfig(clip=1, learning_rate=1, ema=0).clip == 1


def test_a_file_has_places_recipe_and_network(file: Path) -> None:
    file.write_text(
        'model = "wdsr-b-3x32-x2"\ndata = ["a", "b"]\noutput = "out"\nsteps = 4\nema = 0.9\ncompile = true\n'
        '[network]\nnorm = "none"\nmean = [0.1, 0.2, 0.3]\n'
    )
    assert read_run_file(file) == RunFile(
        {"model": "wdsr-b-3x32-x2", "data": ["a", "b"], "output": "out"},
        {"steps": 4, "ema": 0.9, "compile": True},
        {"norm": "none", "mean": [0.1, 0.2, 0.3]},
    )


def test_one_data_folder_needs_no_list(file: Path) -> None:
    file.write_text('data = "photos"')
    assert read_run_file(file).places == {"data": ["photos"]}


def test_an_empty_file_says_nothing(file: Path) -> None:
    file.touch()
    assert read_run_file(file) == RunFile({}, {}, {})


def test_every_option_of_the_recipe_may_stand_in_a_file(file: Path) -> None:
    values = {"learning_rate": 0.5, "workers": 3} | {
        name: value for name, value in dataclasses.asdict(TrainConfig()).items() if value is not None
    }
    file.write_text("\n".join(f"{name} = {json.dumps(value)}" for name, value in values.items()))
    assert TrainConfig(**read_run_file(file).recipe) == TrainConfig(learning_rate=0.5, workers=3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps =", "is not valid TOML"),
        ("steps = 4\nsteps = 5", "is not valid TOML"),
        ("seed = " + "9" * 5000, "is not valid TOML"),
        ("a = " + "[" * 9999, "is not valid TOML"),
        ("stepps = 4", "unknown option 'stepps': did you mean steps?"),
        ("[network]\nscale = 3", "unknown option 'scale'"),
        ("[network]\nstd_ = 1", "did you mean std?"),
        ('norm = "weight"', "[network]"),
        ("network = 3", "must be a table, [network]"),
        ("[[network]]\nstd = 1", "must be a table, [network]"),
        ("[other]\nx = 1", "unknown option 'other'"),
        ("model = 3", "model must be a string"),
        ("data = [1]", "data must be a string"),
        ("data = []", "data must be a string"),
        ('output = ""', "output must be a string, not empty"),
        ('validation = ["a"]', "validation must be a string"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(file: Path, text: str, words: str) -> None:
    file.write_text(text)
    with pytest.raises(InputError) as raised:
        read_run_file(file)
    assert str(raised.value).startswith(str(file))
    assert words in str(raised.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path, content in ((tmp_path / "missing.toml", None), (tmp_path, None), (tmp_path / "latin", b"# \xe9")):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match=path.name):
            read_run_file(path)


def test_the_recipe_of_the_shipped_models_is_a_run_file() -> None:
    found = read_run_file(ZOO / "recipe.toml")
    assert TrainConfig(**found.recipe) != TrainConfig()
    assert replace(ModelConfig.from_name("wdsr-b-3x32-x2"), **found.network).channels == 32


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("lr = 0.1", "'lr': did you mean learning_rate?"),
        ("batch_size = 4", "did you mean batch?"),
        ("xyzzy = 1", "'xyzzy': there are amp, amp_share, batch,"),
        ('"" = 1', "unknown option '': there are"),
        ("norm = 'none'", "'norm': it belongs in the table [network]"),
        ("[network]\nq = 1", "'q': there are expansion,"),
        ("[network]\nsteps = 1", "unknown option 'steps'"),
        ("[optimizer]\nlr = 1", "unknown option 'optimizer'"),
    ],
)
def test_a_key_that_is_unknown(file: Path, line: str, words: str) -> None:
    file.write_text(line)
    with pytest.raises(InputError) as raised:
        read_run_file(file)
    assert str(raised.value).startswith(f"{file}: unknown option ")
    assert words in str(raised.value)


@given(name=st.text(min_size=1, max_size=12))
def test_any_key_is_known_or_named(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("toml") / "run.toml"
    file.write_bytes(f"{json.dumps(name, ensure_ascii=True)} = 1".encode())
    with contextlib.suppress(InputError):
        read_run_file(file)
