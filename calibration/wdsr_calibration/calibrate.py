"""``calibrate``: from a network and a calibration set to scales, kernels and a placement."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from wdsr_edge._errors import InputError
from wdsr_edge.images import Rgb
from wdsr_edge.models import EDSR, WDSR, fold
from wdsr_edge.models.reference import to_tensor

from .drop import Drop
from .equalisation import equalise
from .network import Network
from .placement import body
from .qdq import LEVELS_OF_FORM, Form, Quantised
from .ranges import RangeMethod, channel_maxima, histograms, set_scales
from .rounding import RoundingConfig, round_kernels
from .samples import CalibrationSet
from .search import Identities, Layers, Point, evaluations, search


@dataclass(frozen=True)
class CalibrationConfig:
    """How a network is calibrated."""

    form: Form = "tensorrt"
    """For which engines: kernels have 8 bits for TensorRT and 7 for CPUs."""
    ranges: RangeMethod | Literal["auto"] = "auto"
    """How a tensor's range is found; ``auto`` takes the one that loses least at the output."""
    equalisation: bool = True
    """Make the channels of each tensor reach equally far first."""
    rounding: RoundingConfig = field(default_factory=RoundingConfig)
    """How kernels are rounded."""
    layers: Layers = "all"
    """Where convolutions may be INT8: everywhere but in head and skip, or in the body alone."""
    identities: Identities = "float"
    """The identities of the residual adds: all float, all INT8, or INT8 as far as the budget allows."""

    def __post_init__(self) -> None:
        for name, choices in (
            ("form", get_args(Form)),
            ("ranges", (*get_args(RangeMethod), "auto")),
            ("layers", get_args(Layers)),
            ("identities", get_args(Identities)),
        ):
            if getattr(self, name) not in choices:
                raise InputError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class Calibration(Quantised):
    """A quantised network, and how it was found."""

    drop_db: float
    """PSNR on luma lost on the held-out images, in simulation."""
    met: bool
    """Whether that is within the budget."""
    share: float
    """INT8 share of the network's multiply-accumulates."""
    body_share: float
    """The same of its body."""
    ranges: RangeMethod
    """How ranges were found."""
    drop_by_ranges: Mapping[RangeMethod, float]
    """Drop with each method that was tried, kernels rounded to nearest."""
    frontier: Sequence[Point]
    """Drop against INT8 share."""
    sensitivity: Mapping[str, float]
    """Drop with one convolution or identity alone in INT8."""


@dataclass(frozen=True)
class Fitted:
    """A network with the scales and kernels it is quantised with, wherever it is quantised."""

    network: Network
    """Its body is placed."""
    ranges: RangeMethod
    """How ranges were found."""
    drop_by_ranges: Mapping[RangeMethod, float]
    """Drop with each method that was tried, kernels rounded to nearest."""


def calibrate(
    model: EDSR | WDSR,
    samples: CalibrationSet,
    *,
    max_drop: float = 0.02,
    config: CalibrationConfig = CalibrationConfig(),
    on_stage: Callable[[str, int], None] = lambda stage, total: None,
    on_step: Callable[[], None] = lambda: None,
) -> Calibration:
    """Equalise ``model``, find ranges, round kernels, and place as much in INT8 as loses at most ``max_drop`` dB.

    Ranges and rounding see the crops of ``samples``, the drop is measured on its held-out images. Deterministic for the
    same samples and number of threads. Raises InputError for a budget that is negative or no number.
    """
    check_budget(max_drop)
    drop = Drop(fold(model), samples.held_out)
    fitted = fit(model, samples.crops, drop, config, on_stage=on_stage, on_step=on_step)
    network = fitted.network
    on_stage("placement", evaluations(network, config.identities, config.layers))
    result = search(network, drop, max_drop, config.identities, config.layers, on_measured=on_step)
    placement = result.best.placement
    return Calibration(
        config=model.config,
        model=network.plain(),
        form=config.form,
        scales=network.scales,
        placement=placement,
        drop_db=result.best.drop_db,
        met=result.met,
        share=result.best.share,
        body_share=placement.share(network.macs, "body."),
        ranges=fitted.ranges,
        drop_by_ranges=fitted.drop_by_ranges,
        frontier=result.frontier,
        sensitivity=result.sensitivity,
    )


def check_budget(max_drop: float) -> None:
    """InputError for a budget that is negative or no number."""
    if not (math.isfinite(max_drop) and max_drop >= 0):
        raise InputError(f"the budget must be a number of dB from 0 up, got {max_drop}")


def fit(
    model: EDSR | WDSR,
    crops: Sequence[Rgb],
    drop: Drop,
    config: CalibrationConfig = CalibrationConfig(),
    *,
    on_stage: Callable[[str, int], None] = lambda stage, total: None,
    on_step: Callable[[], None] = lambda: None,
) -> Fitted:
    """Equalise ``model``, find ranges and round kernels, all with its body in INT8 (uint8 LR ``crops`` of one size)."""
    network = Network(model, kernel_levels=LEVELS_OF_FORM[config.form])
    batches = [to_tensor(crop[None]) for crop in crops]
    whole = body(network, config.identities == "int8")
    methods = get_args(RangeMethod) if config.ranges == "auto" else (config.ranges,)
    on_stage("ranges", len(methods) + 3)
    maxima = channel_maxima(network, batches)
    on_step()
    if config.equalisation:
        equalise(network, maxima)
        maxima = channel_maxima(network, batches)
    on_step()
    found = histograms(network, batches, maxima)
    on_step()
    by_ranges: dict[RangeMethod, float] = {}
    for method in methods:
        set_scales(network, found, method)
        by_ranges[method] = drop(network, whole)
        on_step()
    best = min(by_ranges, key=by_ranges.__getitem__)
    set_scales(network, found, best)
    on_stage("rounding", config.rounding.steps)
    whole.apply(network)
    round_kernels(network, fold(model), batches, config.rounding, on_step=lambda step: on_step())
    return Fitted(network, best, by_ranges)
