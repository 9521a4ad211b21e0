"""Quantisation-aware fine-tuning: it begins as INT8 would be, learns, and comes back from its checkpoint the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.strategies import trained_like
from tests.wdsr_calibration.test_qdq import simulated
from wdsr_calibration import finetuning
from wdsr_calibration.finetuning import INT8_KEY, begin, learned, save
from wdsr_calibration.network import Network
from wdsr_calibration.placement import Placement, body
from wdsr_edge import CheckpointError, InputError
from wdsr_edge.config import ModelConfig
from wdsr_edge.data.pairs import Pair, load_pairs
from wdsr_edge.images.samples import PHOTOS
from wdsr_edge.models import fold, reference, save_checkpoint
from wdsr_edge.models.reference import to_tensor
from wdsr_edge.training import Progress, Student, TrainConfig, train

CONFIG = ModelConfig("wdsr-b", 1, 8, 2)
MODEL = trained_like(CONFIG)
PAIRS = [Pair(pair.name, pair.lr[:64, :64], pair.hr[:128, :128]) for pair in load_pairs([PHOTOS], 2)]
RECIPE = TrainConfig(steps=8, batch=2, patch=16, quantize=True, validate_every=4, save_every=4, ema=0.5)


def started() -> Network:
    return begin(MODEL, PAIRS, PAIRS[:1], 16)


def run(folder: Path, recipe: TrainConfig = RECIPE, **options: Any) -> Network:
    found = train(CONFIG, recipe, PAIRS, PAIRS[:1], folder, start=MODEL, student=Student(started(), save), **options)
    assert isinstance(found, Network)
    return found


def test_it_begins_with_the_body_in_int8_and_all_of_it_learns() -> None:
    network = started()
    assert Placement.of(network) == body(network, results=True)
    fused = begin(MODEL, PAIRS, PAIRS[:1], 16, fused=True)
    assert Placement.of(fused) == body(fused, identities=True, results=True)
    x = to_tensor(PAIRS[0].lr[None])
    assert (network(x) - fold(MODEL)(x)).abs().max() < 0.1
    network(x).square().mean().backward()
    for name in ("body.0.branch.0", "body.0.branch.3", "head", "tail", "skip"):
        conv = network.convs[name]
        assert conv.weight.grad is not None
        assert conv.weight.grad.abs().sum() > 0
    read = {edge.quantiser.name for edge in network.edges.values() if edge.quantised}
    for name, quantiser in network.tensors.items():
        moved = quantiser.exponent.grad is not None and bool(quantiser.exponent.grad != 0)
        assert moved == quantiser.exponent.requires_grad == (name in read)


def test_it_learns_and_its_checkpoint_is_what_was_validated(tmp_path: Path) -> None:
    reports: list[Progress] = []
    network = run(tmp_path / "run", on_report=reports.append)
    before = started()
    assert any(network.tensors[name].exponent != before.tensors[name].exponent for name in before.tensors)
    assert not torch.equal(network.convs["head"].weight, before.convs["head"].weight)
    found = learned(tmp_path / "run" / "last.safetensors")
    assert found is not None
    assert (found.scales, found.placement) == (network.scales, Placement.of(network))
    upscale = reference(simulated(found))
    for pair in PAIRS:
        assert (upscale(pair.lr) == reference(network)(pair.lr)).all()
    assert not (upscale(PAIRS[0].lr) == reference(found.model)(PAIRS[0].lr)).all()
    assert reports[-1].step == 8


def test_a_run_that_stopped_ends_on_the_same_bit(tmp_path: Path) -> None:
    run(tmp_path / "straight")

    def stop(step: int) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "twice", on_step=stop)
    run(tmp_path / "twice")
    straight, twice = (tmp_path / name / "last.safetensors" for name in ("straight", "twice"))
    assert straight.read_bytes() == twice.read_bytes()


def test_codes_are_not_computed_in_half_precision() -> None:
    with pytest.raises(InputError, match="amp must be off with quantize"):
        TrainConfig(quantize=True, amp="bfloat16")


def test_a_plain_checkpoint_has_learned_nothing(tmp_path: Path) -> None:
    save_checkpoint(MODEL, tmp_path / "plain.safetensors")
    assert learned(tmp_path / "plain.safetensors") is None


def changed(change: Callable[[dict[str, Any]], object]) -> str:
    network = started()
    int8 = {"scales": network.scales, "convs": ["body.0.branch.0"], "identities": []}
    change(int8)
    return json.dumps(int8)


HOSTILE = {
    "no JSON": "{",
    "deep": "[" * 100_000,
    "a list": "[]",
    "nothing in INT8": changed(lambda int8: int8.update(convs=[])),
    "no such convolution": changed(lambda int8: int8.update(convs=["body.9.branch.0"])),
    "an add as convolution": changed(lambda int8: int8.update(convs=["add"])),
    "no such add": changed(lambda int8: int8.update(identities=["add_9"])),
    "a scale is missing": changed(lambda int8: int8["scales"].popitem()),
    "a scale of zero": changed(lambda int8: int8["scales"].update(head=0)),
    "a negative scale": changed(lambda int8: int8["scales"].update(head=-1)),
    "a scale that is not a number": changed(lambda int8: int8["scales"].update(head="x")),
    "an infinite scale": changed(lambda int8: int8["scales"].update(head=float("inf"))),
    "a scale below FP16": changed(lambda int8: int8["scales"].update(head=1e-300)),
    "a scale of 400 digits": changed(lambda int8: int8["scales"].update(head=10**400)),
    "a convolution twice": changed(lambda int8: int8.update(convs=["body.0.branch.0"] * 2)),
    "unhashable": changed(lambda int8: int8.update(convs=[["body.0.branch.0"]])),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_metadata_that_does_not_fit_is_refused(tmp_path: Path, text: str) -> None:
    save_checkpoint(MODEL, tmp_path / "m.safetensors", {INT8_KEY: text})
    with pytest.raises(CheckpointError, match="metadata") as caught:
        learned(tmp_path / "m.safetensors")
    assert "\n" not in str(caught.value)


def test_crops_are_the_same_each_time_and_fit() -> None:
    first, second = finetuning._crops(PAIRS, 16), finetuning._crops(PAIRS, 16)
    for a, b in zip(first, second, strict=True):
        assert (a.lr == b.lr).all()
        assert (a.lr.shape, a.hr.shape) == ((16, 16, 3), (32, 32, 3))
