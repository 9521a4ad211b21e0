"""Which network a file's convolutions make, told from their shapes and order alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from ..._errors import CheckpointError, InputError
from ...config import GROUPS, ExpansionConv, ModelConfig, upsampler_factors
from .convolutions import Convolution

_SCALES = {3 * scale**2: scale for scale in (2, 3, 4)}


class Match(NamedTuple):
    """A network found in a file."""

    config: ModelConfig
    """Mean, std and res_scale are the defaults: shapes do not show them."""
    convs: tuple[Convolution, ...]
    """In the order of ``config.convs``."""


def match(convs: Sequence[Convolution]) -> Match:
    """The network that ``convs`` make up.

    Head, tail and skip may stand anywhere; the rest must be whole blocks in their order. Where shapes leave a choice,
    the head is the first convolution that can be it, and the tail the last. ``norm`` is ``weight`` if every
    convolution has one, else ``none``. Raises CheckpointError saying which tensor does not fit, and why.
    """
    if not convs:
        raise CheckpointError("it holds no convolutions")
    skips = [conv for conv in convs if conv.shape[2] == 5]
    for skip in skips:
        outputs, inputs, _ = skip.shape
        if len(skips) > 1 or inputs != 3 or outputs not in _SCALES:
            raise CheckpointError(
                f"{skip} is not a skip of a WDSR: expected one 5x5 convolution, from RGB to 12, 27 or 48 channels "
                "(scale 2, 3 or 4)"
            )
    others = [conv for conv in convs if conv not in skips]
    if skips:
        scale = _SCALES[skips[0].shape[0]]
        return _first_that_fits(others, 3 * scale**2, lambda *parts: _wdsr(scale, skips[0], *parts))
    return _first_that_fits(others, 3, _edsr)


Reading = Callable[[Convolution, list[Convolution], Convolution], Match]


def _first_that_fits(convs: Sequence[Convolution], outputs: int, read: Reading) -> Match:
    """``read(head, between, tail)`` for the first choice of head and tail that it takes; else the first's error."""
    errors = []
    for head, tail in _ends(convs, outputs):
        try:
            return read(head, [conv for conv in convs if conv not in (head, tail)], tail)
        except CheckpointError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    kind = "an EDSR (without a 5x5 skip it is not a WDSR)" if outputs == 3 else "a WDSR"
    listed = ", ".join(map(str, convs[:3]))
    raise CheckpointError(
        f"its convolutions are not those of {kind}: no 3x3 head from RGB, or no 3x3 tail from the head's channels to "
        f"{outputs}, among {len(convs)} ({listed}{', ...' if len(convs) > 3 else ''})"
    )


def _ends(convs: Sequence[Convolution], outputs: int) -> Iterator[tuple[Convolution, Convolution]]:
    """Head and tail: the likeliest first, and no more than four choices."""
    heads = [conv for conv in convs if conv.shape[1:] == (3, 3)]
    for head in dict.fromkeys([*heads[:1], *heads[-1:]]):
        tails = [conv for conv in convs if conv is not head and conv.shape == (outputs, head.shape[0], 3)]
        for tail in dict.fromkeys([*tails[-1:], *tails[:1]]):
            yield head, tail


def _wdsr(scale: int, skip: Convolution, head: Convolution, between: Sequence[Convolution], tail: Convolution) -> Match:
    c = head.shape[0]
    if not between:
        raise CheckpointError(f"no blocks between {head} and {tail}")
    wide, inputs, size = between[0].shape
    arch, length = ("wdsr-b", 3) if size == 1 else ("wdsr-a", 2)
    what = f"a {arch} block of {c} channels"
    if wide % c:
        raise CheckpointError(f"{between[0]} cannot start {what}: {wide} is not a multiple of {c}")
    low = between[1].shape[0] if len(between) > 1 and arch == "wdsr-b" else c
    if low > c:
        raise CheckpointError(f"{between[1]} cannot be the low-rank part of {what}: {low} outputs are more than {c}")
    shapes = [(wide, inputs, 3), (c, wide, 3)] if size != 1 else [(wide, inputs, 1), (low, wide, 1), (c, low, 3)]
    _check_repeats(between, shapes, what)
    values: dict[str, Any] = {"expansion": wide // c, "expansion_conv": _expansion_conv(between[0], c)}
    if arch == "wdsr-b":
        values["low_rank"] = 0.8 if int(c * 0.8 + 1e-9) == low else low / c
    return _matched([head, *between, tail, skip], arch, len(between) // length, c, scale, **values)


def _edsr(head: Convolution, between: Sequence[Convolution], tail: Convolution) -> Match:
    c = head.shape[0]
    stages = ((4 * c, c, 3), (9 * c, c, 3))
    upsampler = [conv for conv in between if conv.shape in stages]
    body = [conv for conv in between if conv.shape not in stages]
    scales = [s for s in (2, 3, 4) if [c * f**2 for f in upsampler_factors(s)] == [conv.shape[0] for conv in upsampler]]
    if not scales:
        listed = ", ".join(map(str, upsampler[:3])) or f"none of [{4 * c} or {9 * c}, {c}, 3, 3]"
        raise CheckpointError(f"its upsampler fits no scale 2, 3 or 4 of an EDSR: {listed}")
    if len(body) < 3:
        raise CheckpointError(f"no blocks between {head} and {upsampler[0]}")
    _check_repeats(body[:-1], [(c, c, 3)] * 2, f"an edsr block of {c} channels")
    _check_repeats(body[-1:], [(c, c, 3)], f"an edsr of {c} channels")
    return _matched([head, *body, *upsampler, tail], "edsr", len(body) // 2, c, scales[0])


def _check_repeats(convs: Sequence[Convolution], shapes: Sequence[tuple[int, int, int]], what: str) -> None:
    for i, conv in enumerate(convs):
        outputs, inputs, size = shapes[i % len(shapes)]
        if conv.shape != (outputs, inputs, size):
            place = f"convolution {i % len(shapes) + 1} of {what}"
            raise CheckpointError(f"{conv} does not fit: {place} would be [{outputs}, {inputs}, {size}, {size}]")
    if len(convs) % len(shapes):
        raise CheckpointError(f"{convs[-1]} ends in the middle of {what}")


def _expansion_conv(conv: Convolution, channels: int) -> ExpansionConv:
    inputs = conv.shape[1]
    if inputs == channels:
        return "dense"
    if inputs * GROUPS == channels:
        return "group"
    if inputs == 1:
        return "depthwise"
    raise CheckpointError(
        f"{conv} takes {inputs} channels: expected {channels}, or {channels // GROUPS} or 1 in groups"
    )


def _matched(convs: list[Convolution], arch: Any, blocks: int, channels: int, scale: int, **values: Any) -> Match:
    norm: Any = "weight" if all(conv.g is not None for conv in convs) else "none"
    try:
        config = ModelConfig(arch, blocks, channels, scale, norm=norm, **values)
    except InputError as error:
        raise CheckpointError(f"no network of ours has its shapes: {error}") from error
    expected = [(conv.outputs, conv.inputs // conv.groups, conv.kernel) for conv in config.convs]
    assert expected == [conv.shape for conv in convs]
    return Match(config, tuple(convs))
