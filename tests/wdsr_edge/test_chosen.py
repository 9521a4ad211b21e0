"""What auto is, in words."""

from __future__ import annotations

import datetime
import json
import math
from pathlib import Path
from typing import Any

import pytest

import wdsr_edge
from tests.wdsr_edge.test_super_resolver import CONFIG, Nearest, resolver
from wdsr_edge import Bundle, SuperResolver
from wdsr_edge._files import user_cache
from wdsr_edge.choices import Choice, Known, recall, remember
from wdsr_edge.chosen import chosen
from wdsr_edge.loading import find_bundle

FP32, INT8 = Choice("onnxruntime", "fp32"), Choice("onnxruntime", "int8")
TODAY = datetime.date.today().isoformat()


@pytest.fixture
def bundle() -> Bundle:
    return Bundle.load(find_bundle("wdsr-b-1x32-x2"))


def test_what_was_measured_is_said_with_its_figures_and_its_day(bundle: Bundle) -> None:
    remember(bundle, {FP32: 9.0, INT8: 4.0}, known={INT8: Known("480x270", 3.5, 52.25), FP32: Known("8x8", 9.0, None)})
    with wdsr_edge.load(bundle.path) as sr:
        assert str(sr.chosen) == (
            f"auto is onnxruntime in int8: 3.5 ms for 480x270, 52.2 dB to the reference; measured here on {TODAY}"
        )
        assert sr.chosen is not None
        assert json.loads(json.dumps(sr.chosen.document()))["measured"] == TODAY
        assert repr(sr).startswith("<SuperResolver wdsr-b-1x32-x2, x2, onnxruntime in int8, automatic tiles of ")
        assert repr(sr).endswith(f"; 3.5 ms for 480x270, 52.2 dB to the reference; measured here on {TODAY}>")
    assert "closed" in repr(sr)
    recorded = chosen(bundle, FP32).golden_db
    assert recorded is not None
    assert recorded > 60


def test_without_a_measurement_the_order_is_what_decides(bundle: Bundle) -> None:
    with wdsr_edge.load(bundle.path, backend="onnxruntime") as sr:
        text = str(sr.chosen)
    assert text.startswith("auto is onnxruntime in fp32: ")
    assert " dB to the reference; first in the documented order, since nothing was measured here" in text
    assert " ms" not in text


def test_what_was_asked_for_is_not_called_auto(bundle: Bundle) -> None:
    with wdsr_edge.load(bundle.path, backend="onnxruntime", precision="int8", threads=1, tile=None) as sr:
        assert str(sr.chosen).startswith("as asked, onnxruntime in int8: ")
        assert str(sr.chosen).endswith("dB to the reference; not measured here")
        assert "onnxruntime in int8, 1 thread, whole frames; " in repr(sr)
        assert sr.threads == 1


def test_a_time_with_another_number_of_threads_says_so(bundle: Bundle) -> None:
    remember(bundle, {FP32: 9.0}, known={FP32: Known("8x8", 9.0, math.inf)})
    assert chosen(bundle, FP32).about == f"9.0 ms for 8x8, equal to the reference; measured here on {TODAY}"
    assert "9.0 ms for 8x8 without a bound on threads" in str(chosen(bundle, FP32, threads=2))
    remember(bundle, {FP32: 7.0}, known={FP32: Known("8x8", 7.0, math.inf)}, threads=2)
    assert "7.0 ms for 8x8, equal" in str(chosen(bundle, FP32, threads=2))


@pytest.mark.parametrize("parity", [{}, [], None, {"fp32": 3}, {"fp32": {"onnxruntime": {"golden_db": []}}}])
def test_a_bundle_that_records_nothing(bundle: Bundle, parity: Any) -> None:
    odd = Bundle(bundle.path, bundle.config, {**bundle.manifest, "parity": parity})
    assert chosen(odd, FP32, asked=True).about == "not measured here"


@pytest.mark.parametrize("entry", [{"size": 3}, 7, {"ms": "x"}, {"golden_db": {}}, {"day": []}])
def test_a_damaged_memory_is_none(bundle: Bundle, entry: Any) -> None:
    remember(bundle, {FP32: 9.0}, known={FP32: Known("8x8", 9.0, None)})
    (file,) = (user_cache() / "speed").iterdir()
    document = json.loads(file.read_text())
    document["measured"][0] = {**document["measured"][0], **entry} if isinstance(entry, dict) else entry
    file.write_text(json.dumps(document))
    found = recall(bundle, FP32)
    assert found is None or isinstance(found.size, str)
    assert "\n" not in str(chosen(bundle, FP32))
    wdsr_edge.load(bundle.path).close()


def test_what_an_older_version_remembered_still_counts(bundle: Bundle) -> None:
    """Only p50_ms, without what is told."""
    remember(bundle, {FP32: 9.0, INT8: 4.0})
    with wdsr_edge.load(bundle.path) as sr:
        assert (sr.backend, sr.precision) == INT8
        assert "measured here before" not in str(sr.chosen)


def test_one_without_a_bundle_has_a_name_as_well(tmp_path: Path) -> None:
    assert repr(resolver()).startswith("<SuperResolver wdsr-b-1x8-x2, x2, onnxruntime in fp32, automatic tiles of ")
    assert repr(SuperResolver(Nearest(), CONFIG, open_float_session=Nearest, tile=7)).endswith(", tile 7>")
