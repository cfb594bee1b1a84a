"""Answers beyond the first few: all within a radius, and everything in order, portion by portion.

The graph is asked for more and more as long as that is quicker than comparing every record; a scan ends it. So what is
given is complete, to the recall target where a walk ended it and without a gap where the scan did.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore.config import MOST_WALKED
from vecstore.index.walk import Effort
from vecstore.planner import Asked, Planner
from vecstore.query.found import Found
from vecstore.storage.state import Blocks, Numbers

# Radii are walked for with so many answers, then more; a scan takes little longer than still more would.
_WIDTHS = 32, 256
# A portion in order has so many at first; walks, then scans, then give more.
_FIRST, _SCANNED = 128, 1 << 14


def answer(
    planner: Planner, blocks: Blocks, queries: NDArray[Any], own: Numbers | None, asked: Asked
) -> tuple[Sequence[Found], Effort | None]:
    """As ``planner.answer``, with radii walked for where there is a graph."""
    if asked.radius is None or asked.exact:
        return planner.answer(blocks, queries, own, asked)
    if asked.k is not None:
        # The nearest few are found more surely among some more.
        nearest = asked._replace(k=max(asked.k, _WIDTHS[0]), radius=None)
        if not planner.walks(blocks, nearest):
            return planner.answer(blocks, queries, own, asked)
        found, effort = planner.answer(blocks, queries, own, nearest)
        inside = (cut(each, asked.radius) for each in found)
        return [(slots[: asked.k], distances[: asked.k]) for slots, distances in inside], effort
    return _within(planner, blocks, queries, own, asked)


def _within(
    planner: Planner, blocks: Blocks, queries: NDArray[Any], own: Numbers | None, asked: Asked
) -> tuple[Sequence[Found], Effort | None]:
    """All within the radius: a walk is believed where at least half of what it found lies beyond."""
    assert asked.radius is not None
    answers: list[Found | None] = [None] * len(queries)
    left = np.arange(len(queries))
    effort: Effort | None = None
    for width in _WIDTHS:
        nearest = asked._replace(k=width, radius=None)
        if not left.size or not planner.walks(blocks, nearest):
            break
        found, more = planner.answer(blocks, queries[left], None if own is None else own[left], nearest)
        effort = more if effort is None else effort if more is None else effort + more
        for place, each in zip(left.tolist(), found, strict=True):
            inside = cut(each, asked.radius)
            if each[0].size < width or 2 * inside[0].size <= width:
                answers[place] = inside
        left = np.array([place for place in left.tolist() if answers[place] is None], dtype=np.int64)
    if left.size:
        rest, _ = planner.answer(blocks, queries[left], None if own is None else own[left], asked)
        for place, each in zip(left.tolist(), rest, strict=True):
            answers[place] = each
        effort = effort if left.size < len(queries) else None
    return [each for each in answers if each is not None], effort


def cut(found: Found, radius: float) -> Found:
    """What of it lies within the radius."""
    count = int(np.searchsorted(found[1], radius, side="right"))
    return found[0][:count], found[1][:count]


def in_order(
    planner: Planner, blocks: Blocks, query: NDArray[Any], own: Numbers | None, asked: Asked
) -> Iterator[Found]:
    """Every answer to one query, nearest first and each once, in portions that are found as they are asked for.

    What a walk missed comes with a later portion, and is all there at the end.
    """
    given = np.zeros(0, dtype=np.int64)
    for k in _portions(planner, blocks, asked):
        if k is not None:
            wanted = asked._replace(k=k, radius=None)
        elif asked.radius is not None:
            wanted = asked._replace(k=None, exact=True)
        else:
            wanted = asked._replace(k=None, exact=True, radius=np.inf)
        [found], _ = planner.answer(blocks, query, own, wanted)
        complete = k is None or found[0].size < k
        if asked.radius is not None and k is not None:
            inside = cut(found, asked.radius)
            complete = complete or 2 * inside[0].size <= k
            found = inside
        fresh = np.isin(found[0], given, assume_unique=True, invert=True)
        if fresh.any():
            yield found[0][fresh], found[1][fresh]
        if complete:
            return
        given = np.union1d(given, found[0])


def _portions(planner: Planner, blocks: Blocks, asked: Asked) -> Iterator[int | None]:
    """How many are asked for at a time; None for all of them."""
    yield _FIRST
    most = min(MOST_WALKED, blocks.header.records // 10)
    if most > _FIRST and planner.walks(blocks, asked._replace(k=most, radius=None)):
        yield most
    elif blocks.header.records > _SCANNED:
        yield _SCANNED
    yield None


def pages(portions: Iterator[Found], size: int) -> Iterator[Found]:
    """The same answers, so many at a time."""
    slots, distances = np.zeros(0, dtype=np.int64), np.zeros(0)
    for more in portions:
        slots, distances = np.concatenate((slots, more[0])), np.concatenate((distances, more[1]))
        whole = slots.size - slots.size % size
        for start in range(0, whole, size):
            yield slots[start : start + size], distances[start : start + size]
        slots, distances = slots[whole:], distances[whole:]
    if slots.size:
        yield slots, distances
