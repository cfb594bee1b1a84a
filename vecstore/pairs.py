"""Every record's neighbours among all the others, a batch at a time: what memory holds is one batch, whatever the size.

Where there is a graph it is walked from each record; else tiles of vectors are compared by the batch kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vecstore import order
from vecstore.planner import Asked, Planner
from vecstore.query import answers
from vecstore.query.exact import Found
from vecstore.storage.slots import TEXT, read_slots
from vecstore.storage.state import Blocks, Numbers
from vecstore.storage.store import batches, read_stored

# So many records are searched for at once.
_BATCH = 2_000
# Pairs are sought with so many neighbours a record at first, then more.
_WIDTHS = 12, 100, 1_000


class Linked(NamedTuple):
    """Pairs of slots, and their distances."""

    first: Numbers
    second: Numbers
    distances: NDArray[np.float64]


def neighbours(
    planner: Planner, blocks: Blocks, asked: Asked, size: int
) -> Iterator[tuple[Numbers, list[Found]]]:
    """The nearest others of every record, a batch of slots at a time."""
    slots = np.flatnonzero(planner.candidates(blocks, asked)).astype(np.int64)
    for part in batches(slots, size):
        found, _ = planner.answer(blocks, answers.queries_of(blocks, part), part, asked)
        yield part, found


def near(planner: Planner, blocks: Blocks, radius: float, asked: Asked) -> Iterator[Linked]:
    """All pairs within the radius, each once: the first of a pair is the record that was written to a lower slot."""
    slots = np.flatnonzero(planner.candidates(blocks, asked)).astype(np.int64)
    for part in batches(slots, _BATCH):
        found = _within(planner, blocks, part, radius, asked)
        sizes = np.array([each[0].size for each in found])
        first = np.repeat(part, sizes)
        second = np.concatenate([each[0] for each in found])
        once = first < second
        yield Linked(first[once], second[once], np.concatenate([each[1] for each in found])[once])


def _within(planner: Planner, blocks: Blocks, part: Numbers, radius: float, asked: Asked) -> list[Found]:
    queries = answers.queries_of(blocks, part)
    found: list[Found] = [(part[:0], np.zeros(0))] * part.size
    left = np.arange(part.size)
    for width in _WIDTHS:
        wanted = replace(asked, k=width)
        answered, _ = planner.answer(blocks, queries[left], part[left], wanted)
        more = []
        for place, each in zip(left.tolist(), answered, strict=True):
            inside = order.cut(each, radius)
            found[place] = inside
            if each[0].size == width and 4 * inside[0].size > 3 * width:
                more.append(place)
        left = np.array(more, dtype=np.int64)
        if not left.size:
            return found
    rest, _ = planner.answer(blocks, queries[left], part[left], replace(asked, k=None, radius=radius))
    for place, each in zip(left.tolist(), rest, strict=True):
        found[place] = each
    return found


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
