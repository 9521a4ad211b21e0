"""``calibrate``: from a network and a calibration set to scales, kernels and a placement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from wdsr_edge._errors import InputError
from wdsr_edge.models import EDSR, WDSR, fold
from wdsr_edge.models.reference import to_tensor

from .drop import Budget, Drop, Loss
from .equalisation import equalise
from .learning import LearningConfig, learn
from .network import Network
from .placement import Placement, body
from .qdq import LEVELS_OF_FORM, RELU_LEVELS_OF_FORM, Form, Quantised
from .ranges import RangeMethod, channel_maxima, histograms, set_scales
from .samples import PHOTOGRAPHS, CalibrationSet, Contents
from .search import Identities, Layers, Point, evaluations, search


@dataclass(frozen=True)
class CalibrationConfig:
    """Options of one calibration."""

    form: Form = "tensorrt"
    """For which engines: kernels have 8 bits for TensorRT and 7 for CPUs, where the results of branches are INT8."""
    budget: Budget = field(default_factory=Budget)
    """Largest loss that INT8 may cause."""
    ranges: RangeMethod | Literal["auto"] = "auto"
    """Method that finds a tensor's range; ``auto`` takes the one that loses least at the output."""
    equalisation: bool = True
    """Make the channels of each tensor reach equally far first."""
    learning: LearningConfig = field(default_factory=LearningConfig)
    """Options of learning kernels and scales."""
    layers: Layers = "all"
    """Where convolutions may be INT8: everywhere but in head and skip, or in the body alone."""
    frontier: bool = False
    """Measure what each convolution costs, and drop against INT8 share, where all of them fit the budget as well."""
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

    def whole_body(self, network: Network) -> Placement:
        """All of the body that this quantises."""
        return body(network, self.identities == "int8", self.form == "cpu")


@dataclass(frozen=True)
class Calibration(Quantised):
    """A quantised network, and how it was found."""

    losses: Mapping[str, Loss]
    """Loss of each content of the held-out images, in simulation."""
    met: bool
    """True if that is within the budget."""
    share: float
    """INT8 share of the network's multiply-accumulates."""
    body_share: float
    """The same of its body."""
    ranges: RangeMethod
    """Method that found the ranges."""
    excess_by_ranges: Mapping[RangeMethod, float]
    """Share of the budget that each method took, kernels rounded to nearest and nothing learned."""
    frontier: Sequence[Point]
    """Drop against INT8 share."""
    sensitivity: Mapping[str, float]
    """Drop on photographs with one convolution or identity alone in INT8, dB."""
    convs: Sequence[str]
    """The network's convolutions, INT8 or not."""

    @property
    def drop_db(self) -> float:
        """PSNR on luma lost on the held-out photographs, in simulation."""
        return self.losses[PHOTOGRAPHS].mean_db


@dataclass(frozen=True)
class Fitted:
    """A network with the scales and kernels it is quantised with, wherever it is quantised."""

    network: Network
    """Its body is placed."""
    ranges: RangeMethod
    """Method that found the ranges."""
    excess_by_ranges: Mapping[RangeMethod, float]
    """Share of the budget that each method took, kernels rounded to nearest and nothing learned."""


def calibrate(
    model: EDSR | WDSR,
    samples: CalibrationSet,
    *,
    max_drop: float | None = None,
    config: CalibrationConfig = CalibrationConfig(),
    start: Calibration | None = None,
    on_stage: Callable[[str, int], None] = lambda stage, total: None,
    on_step: Callable[[], None] = lambda: None,
) -> Calibration:
    """Equalise ``model``, find ranges, learn kernels and scales, and place as much in INT8 as the budget lets it.

    What is learned sees the crops of ``samples``, the drop is measured on its held-out images. ``max_drop`` is the
    budget of photographs, dB, in place of ``config``'s. ``start`` is what was learned for another form: learning goes
    on there, for a third of the steps. Deterministic for the same samples and number of threads. Raises InputError for
    a budget that is negative or not a number.
    """
    if max_drop is not None:
        config = replace(config, budget=replace(config.budget, photographs_db=max_drop))
    drop = Drop(fold(model), samples.held_out)
    fitted = fit(model, samples.crops, drop, config, start=start, on_stage=on_stage, on_step=on_step)
    network, results = fitted.network, config.form == "cpu"
    on_stage("placement", evaluations(network, config.identities, config.layers, config.frontier))
    result = search(
        network,
        drop,
        config.budget,
        config.identities,
        config.layers,
        results=results,
        in_full=config.frontier,
        on_measured=on_step,
    )
    placement = result.best.placement
    return Calibration(
        config=model.config,
        model=network.plain(),
        form=config.form,
        scales=network.scales,
        placement=placement,
        losses=result.best.losses,
        met=result.met,
        share=result.best.share,
        body_share=placement.share(network.macs, "body."),
        ranges=fitted.ranges,
        excess_by_ranges=fitted.excess_by_ranges,
        frontier=result.frontier,
        sensitivity=result.sensitivity,
        convs=tuple(network.convs),
    )


def fit(
    model: EDSR | WDSR,
    crops: Contents,
    drop: Drop,
    config: CalibrationConfig = CalibrationConfig(),
    *,
    start: Calibration | None = None,
    on_stage: Callable[[str, int], None] = lambda stage, total: None,
    on_step: Callable[[], None] = lambda: None,
) -> Fitted:
    """Equalise ``model``, find ranges and learn, all with its body in INT8 (uint8 ``crops`` of one size)."""
    levels = {"kernel_levels": LEVELS_OF_FORM[config.form], "relu_levels": RELU_LEVELS_OF_FORM[config.form]}
    learning = config.learning
    if start is None:
        network = Network(model, **levels)
        by_ranges = _find_ranges(network, crops, drop, config, on_stage=on_stage, on_step=on_step)
        ranges = min(by_ranges, key=by_ranges.__getitem__)
    else:
        network, by_ranges, ranges = Network(start.model, **levels), dict(start.excess_by_ranges), start.ranges
        learning = replace(learning, steps=learning.steps // 3)
        for name, quantiser in network.tensors.items():
            quantiser.set_scale(start.scales[name])
    on_stage("learning", learning.steps)
    config.whole_body(network).apply(network)
    learn(network, fold(model), crops, config.budget, learning, on_step=lambda step: on_step())
    return Fitted(network, ranges, by_ranges)


def _find_ranges(
    network: Network,
    crops: Contents,
    drop: Drop,
    config: CalibrationConfig,
    *,
    on_stage: Callable[[str, int], None],
    on_step: Callable[[], None],
) -> dict[RangeMethod, float]:
    """Equalise ``network`` and give it the best of the ranges; the share of the budget that each method took."""
    batches = [to_tensor(crop.lr[None]) for pairs in crops.values() for crop in pairs]
    whole = config.whole_body(network)
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
        by_ranges[method] = config.budget.excess(drop(network, whole))
        on_step()
    best = min(by_ranges, key=by_ranges.__getitem__)
    set_scales(network, found, best)
    return by_ranges
