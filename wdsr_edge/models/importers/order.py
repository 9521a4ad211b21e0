"""In which order a file's convolutions make up its network: that of the file where it tells, else that of its names.

Files that were written as text lists (safetensors, HDF5, many converted ``.pth``) hold ``block10`` before ``block2``.
Where blocks have equal shapes nothing but the numbers in their names tells them apart, wherever those stand:
``body.10``, ``rb_10``, ``conv10a``, ``b10c2``.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from ..._errors import CheckpointError
from .convolutions import Convolution, printable
from .matching import Match, match

_TOKEN = re.compile(r"([0-9]+)|[./]|[_-]+(?=[0-9])|([^0-9./]+?(?=[_-]*[0-9])|[^0-9./]+)")
"""A number, a dot, a dash in front of a number (so that ``conv_1`` follows ``conv``), or a word."""


def match_in_order(convs: Sequence[Convolution], *, ordered: bool) -> Match:
    """``match`` of ``convs`` in the order of their network.

    Where a program wrote them in an order of its own (``ordered``) and numbers in it only rise, it is that; else the
    natural one of their names. Raises CheckpointError as ``match`` does, and if the names leave the order open.
    """
    if not ordered:
        convs = sorted(convs, key=lambda conv: conv.layer)
    elif _rises(convs):
        return match(convs)
    plain = _natural(convs, single_last=False)
    for natural in (_natural(convs, single_last=True), plain):
        fitting = [found for found in map(_try, (natural, _transposed(natural))) if found is not None]
        for other in fitting[1:]:
            for ours, theirs in zip(fitting[0].convs, other.convs, strict=True):
                if ours is not theirs:
                    raise _open(ours, theirs)
        if fitting:
            if not ordered:
                _check_words(fitting[0])
            return fitting[0]
    return match(plain)  # raises


def _try(convs: Sequence[Convolution]) -> Match | None:
    try:
        return match(convs)
    except CheckpointError:
        return None


def _rises(convs: Iterable[Convolution]) -> bool:
    """True if names that differ in numbers alone stand in the order of those."""
    last: dict[str, tuple[int, ...]] = {}
    for conv in convs:
        pattern, numbers = _pattern(conv.layer)
        if last.get(pattern, ()) > numbers:
            return False
        last[pattern] = numbers
    return True


def _pattern(name: str) -> tuple[str, tuple[int, ...]]:
    return re.sub("[0-9]+", "#", name), tuple(int(number) for number in re.findall("[0-9]+", name))


def _natural(convs: Sequence[Convolution], *, single_last: bool) -> list[Convolution]:
    """Sorted by name: numbers as numbers and before words, words in the order in which they first come.

    With ``single_last`` a word with one convolution below it comes behind those with many. That is where an EDSR's
    last convolution of the body belongs, whatever it is called.
    """
    below = Counter(conv.layer[:end] for conv in convs for *_, end in _tokens(conv.layer))
    ranks: dict[str, int] = {}

    def key(conv: Convolution) -> list[tuple[int, bool, int]]:
        places = []
        for number, word, end in _tokens(conv.layer):
            start = conv.layer[:end]
            if number:
                places.append((1, False, int(number)))
            elif word:
                places.append((2, single_last and below[start] == 1, ranks.setdefault(start, len(ranks))))
            else:  # a part of the path ends before a dash does: ``conv/x`` comes before ``conv_1/x``
                places.append((-1 if start[-1] in "./" else 0, False, 0))
        return places

    return [conv for _, conv in sorted([(key(conv), conv) for conv in convs], key=lambda pair: pair[0])]


def _tokens(name: str) -> list[tuple[str, str, int]]:
    """(number, word, end) of each part of a name; both are empty for what is between them."""
    return [(found[1] or "", found[2] or "", found.end()) for found in _TOKEN.finditer(name)]


def _transposed(convs: Sequence[Convolution]) -> list[Convolution]:
    """The same, but ``wide_1, wide_2, ..., narrow_1, narrow_2, ...`` as ``wide_1, narrow_1, wide_2, ...``."""
    numbers: defaultdict[str, set[tuple[int, ...]]] = defaultdict(set)
    for conv in convs:
        pattern, found = _pattern(conv.layer)
        numbers[pattern].add(found)
    alike = Counter(frozenset(found) for found in numbers.values() if len(found) > 1)
    places: defaultdict[frozenset[tuple[int, ...]], list[int]] = defaultdict(list)
    for i, conv in enumerate(convs):
        key = frozenset(numbers[_pattern(conv.layer)[0]])
        if alike[key] > 1:
            places[key].append(i)
    turned = list(convs)
    for taken in places.values():
        for i, j in zip(taken, sorted(taken, key=lambda i: _pattern(convs[i].layer)[1]), strict=True):
            turned[i] = convs[j]
    return turned


def _check_words(found: Match) -> None:
    """Refuse equal convolutions of the body whose order only words tell, such as ``one, two, three``: it is none."""
    last: dict[tuple[int, int, int], Convolution] = {}
    for conv, shape in zip(found.convs, found.config.convs, strict=True):
        if not shape.name.startswith("body."):
            continue
        before, last[conv.shape] = last.get(conv.shape), conv
        if before is not None:
            pairs = zip(_tokens(before.layer), _tokens(conv.layer), strict=False)
            words = next(((a[1], b[1]) for a, b in pairs if a[:2] != b[:2]), ("", ""))
            if all(words) and not _letters(*words):
                raise _open(before, conv)


def _letters(a: str, b: str) -> bool:
    """True if two words differ in one letter as ``conv_a`` and ``conv_b`` do."""
    return len(a) == len(b) and sum(x != y for x, y in zip(a, b, strict=True)) == 1


def _open(a: Convolution, b: Convolution) -> CheckpointError:
    names: Iterable[str] = (printable(conv.name) for conv in (a, b))
    return CheckpointError(
        f"neither the file nor the names tell which comes first of {' and '.join(names)}: save it with torch.save, "
        "in the order of the network, or number the blocks"
    )
