"""All pairs within a distance among records that have crowds around them: every two are compared, block against block.

Walks that find hundreds of answers take longer than comparing all that have so many. Memory holds two blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vecstore.index import space
from vecstore.kernels import dispatch, reference
from vecstore.query.answers import queries_of
from vecstore.query.exact import executor
from vecstore.storage.state import Blocks, Numbers
from vecstore.storage.vectors import read_rows

# Metrics whose distances grow with the squared distance of points. A product says too little of that.
_METRICS = ("l2", "cosine", "hamming", "jaccard")
# More records than this take longer to compare with one another than to be walked from.
MOST = 200_000
_BLOCK = 2_048
_ROOM = 1 << 16
# Squares of longer vectors are no numbers of 32 bits.
_LONGEST = 1e18


class _Block(NamedTuple):
    """Some records: as points, as queries, and as they are stored; and the longest of the points."""

    slots: Numbers
    points: NDArray[np.float32]
    own: NDArray[Any]
    stored: NDArray[np.uint8]
    longest: float


Pairs = tuple[Numbers, Numbers, NDArray[np.float64]]


def comparable(blocks: Blocks) -> bool:
    """Whether records of this collection can be compared block against block."""
    return blocks.header.settings.metric in _METRICS


def among(blocks: Blocks, slots: Numbers, radius: float, threads: int) -> Iterator[Pairs]:
    """(lower slots, higher slots, distances) of all pairs of these within the radius; the slots ascend."""
    parts = [slots[start : start + _BLOCK] for start in range(0, slots.size, _BLOCK)]
    for place, part in enumerate(parts):
        mine = _read(blocks, part)
        yield from _between(blocks, mine, mine, radius, threads)
        for other in parts[place + 1 :]:
            yield from _between(blocks, mine, _read(blocks, other), radius, threads)


def _read(blocks: Blocks, slots: Numbers) -> _Block:
    settings = blocks.header.settings
    stored = read_rows(blocks, slots)
    if settings.dtype == "binary":
        points = np.unpackbits(stored, axis=1, count=settings.dim).astype(np.float32)
    else:
        points = space.prepare_rows(settings, stored, 0.0)
    own = reference.prepare_query(settings.metric, queries_of(blocks, slots))
    longest = float(np.sqrt(np.einsum("ij,ij->i", points, points, dtype=np.float64).max(initial=0.0)))
    return _Block(slots, points, own, stored, longest)


def _between(blocks: Blocks, mine: _Block, other: _Block, radius: float, threads: int) -> Iterator[Pairs]:
    settings = blocks.header.settings
    kernel = dispatch.cpu().join.join(settings.metric, settings.dtype)
    limit = np.float32(
        _limit(settings.metric, radius, mine.points.shape[1], max(mine.longest, other.longest))
    )

    def run(first: int, last: int) -> Pairs:
        room = _ROOM
        while True:
            i, j, distances = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room)
            given = mine.points, mine.own, first, last, other.points, other.stored
            count = kernel(settings.dim, *given, mine is other, limit, radius, i, j, distances)
            if count <= room:
                return mine.slots[i[:count]], other.slots[j[:count]], distances[:count]
            room = count

    bounds = np.linspace(0, mine.slots.size, threads + 1).astype(int).tolist()
    if threads == 1:
        yield run(*bounds)
    else:
        yield from executor(threads).map(run, *zip(*pairwise(bounds), strict=True))


def _limit(metric: str, radius: float, dim: int, longest: float) -> float:
    """The squared distance of points up to which a pair may be within the radius, whatever was lost to rounding."""
    if not longest < _LONGEST:
        return float("inf")
    part = min(max(radius, 0.0), 1.0)
    squared = {
        "l2": radius * radius,
        "cosine": 2 * radius,
        "hamming": radius,
        # Of two sets, the more they have the more of it may differ.
        "jaccard": part / (2 - part) * 2 * longest * longest,
    }[metric]
    lost = 4 * (dim + 32) * 2.0**-24 * longest * longest
    return squared * (1 + 1e-6) + lost + 1e-30
