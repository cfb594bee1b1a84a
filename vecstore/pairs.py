"""Every record's neighbours among all the others, a batch at a time: what memory holds is one batch, whatever the size.

Where there is a graph it is walked from each record; else tiles of vectors are compared by the batch kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vecstore import crowds, order
from vecstore.device import Device
from vecstore.planner import Asked, Planner
from vecstore.query import answers, exact
from vecstore.query.found import Found
from vecstore.storage.slots import TEXT, read_slots
from vecstore.storage.state import Blocks, Numbers
from vecstore.storage.store import batches, read_stored

# So many records are searched for at once.
_BATCH = 2_000
# Pairs are sought with so many neighbours a record at first, then more: most have few, and some have crowds.
_WIDTHS = 8, 30, 120, 480, 1_500
# Who has more than fit into so many of these widths has a crowd.
_FEW = 2


# Of these places in a batch, so many of the nearest others, or all within a radius.
Nearest: TypeAlias = Callable[[Numbers, int | None, float], Sequence[Found]]


class Linked(NamedTuple):
    """Pairs of slots, and their distances."""

    first: Numbers
    second: Numbers
    distances: NDArray[np.float64]


def neighbours(
    planner: Planner, blocks: Blocks, asked: Asked, size: int
) -> Iterator[tuple[Numbers, Sequence[Found]]]:
    """The nearest others of every record, a batch of slots at a time."""
    slots = np.flatnonzero(planner.candidates(blocks, asked)).astype(np.int64)
    for part in batches(slots, size):
        found, _ = planner.answer(blocks, answers.queries_of(blocks, part), part, asked)
        yield part, found


def near(planner: Planner, blocks: Blocks, radius: float, asked: Asked) -> Iterator[Linked]:
    """All pairs within the radius, each once: the first of a pair is the record that was written to a lower slot."""
    mask = planner.candidates(blocks, asked)
    slots = np.flatnonzero(mask).astype(np.int64)
    if planner.walks(blocks, asked._replace(k=_WIDTHS[0])):
        yield from _near_by_walks(planner, blocks, slots, radius, asked)
        return
    for part in batches(slots, _BATCH):
        # Each record is compared with those behind it: the others were compared with it before.
        mask = mask.copy()
        mask[: part[0]] = 0
        nearest = partial(_compared, blocks, part, mask, asked.threads, planner.device)
        found, _ = _within(part, radius, nearest, (*_WIDTHS, None))
        yield _linked(part, found, lambda first, second: first < second)


def _near_by_walks(
    planner: Planner, blocks: Blocks, slots: Numbers, radius: float, asked: Asked
) -> Iterator[Linked]:
    """Those with crowds around them are left for the end, and then compared with one another."""
    crowded = np.zeros(int(slots[-1]) + 1 if slots.size else 0, dtype=np.bool_)
    joins = crowds.comparable(blocks)
    for part in batches(slots, _BATCH):
        nearest = partial(_walked, planner, blocks, part, asked)
        found, left = _within(part, radius, nearest, _WIDTHS[:_FEW] if joins else (*_WIDTHS, None))
        crowded[part[left]] = True
        # One that has a crowd finds nobody itself.
        yield _linked(part, found, lambda first, second: (first < second) | crowded[second])
    left = np.flatnonzero(crowded)
    if left.size <= crowds.MOST:
        for pairs in crowds.among(blocks, left, radius, asked.threads):
            yield Linked(*pairs)
        return
    for part in batches(left, _BATCH):
        nearest = partial(_walked, planner, blocks, part, asked)
        found, _ = _within(part, radius, nearest, (*_WIDTHS[_FEW:], None))
        yield _linked(part, found, lambda first, second: (first < second) & crowded[second])


def _linked(
    part: Numbers, found: Sequence[Found], counts: Callable[[Numbers, Numbers], NDArray[np.bool_]]
) -> Linked:
    """What was found from each of a part, as far as it counts."""
    first = np.repeat(part, [each[0].size for each in found])
    second = np.concatenate([each[0] for each in found])
    once = counts(first, second)
    first, second, distances = first[once], second[once], np.concatenate([each[1] for each in found])[once]
    return Linked(np.minimum(first, second), np.maximum(first, second), distances)


def _within(
    part: Numbers, radius: float, nearest: Nearest, widths: Sequence[int | None]
) -> tuple[list[Found], Numbers]:
    """All others within the radius of each: more and more of the nearest, until some lie beyond.

    And the places of those which have more than was asked for; nothing is found from these.
    """
    nothing = part[:0], np.zeros(0)
    found: list[Found] = [nothing] * part.size
    left = np.arange(part.size)
    for width in widths:
        if not left.size:
            break
        more = []
        for place, each in zip(left.tolist(), nearest(left, width, radius), strict=True):
            inside = order.cut(each, radius)
            # A walk that found hardly more than lie inside may have missed some that do.
            if width is not None and each[0].size == width and 4 * inside[0].size > 3 * width:
                more.append(place)
            else:
                found[place] = inside
        left = np.array(more, dtype=np.int64)
    return found, left


def _walked(
    planner: Planner,
    blocks: Blocks,
    part: Numbers,
    asked: Asked,
    left: Numbers,
    width: int | None,
    radius: float,
) -> Sequence[Found]:
    wanted = asked._replace(k=width, radius=radius if width is None else None)
    slots = part[left]
    return planner.answer(blocks, answers.queries_of(blocks, slots), slots, wanted)[0]


def _compared(
    blocks: Blocks,
    part: Numbers,
    mask: NDArray[np.uint8],
    threads: int,
    device: Device,
    left: Numbers,
    width: int | None,
    radius: float,
) -> list[Found]:
    slots = part[left]
    queries = answers.queries_of(blocks, slots)
    found: Sequence[Found]
    if width is None:
        found = exact.within(blocks, queries, radius, mask, threads)
    else:
        found = exact.nearest(blocks, queries, width + 1, mask, threads, device)
    others = (each[0] != own for each, own in zip(found, slots.tolist(), strict=True))
    return [
        (each[0][other][:width], each[1][other][:width]) for each, other in zip(found, others, strict=True)
    ]


def ids_of(blocks: Blocks, slots: Numbers) -> NDArray[Any]:
    """The ids of these slots: integers where all ids of the collection are."""
    different, places = np.unique(slots, return_inverse=True)
    entries = read_slots(blocks, different)
    if blocks.header.text_ids == 0:
        return entries["mark"].astype(np.int64)[places]
    ids = np.empty(different.size, dtype=object)
    ids[:] = entries["mark"].tolist()
    text = np.flatnonzero((entries["flags"] & TEXT) > 0)
    ids[text] = [stored.id for stored in read_stored(blocks, entries[text])]
    return ids[places]
