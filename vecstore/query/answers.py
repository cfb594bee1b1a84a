"""From slots to what callers see: records, hits, decoded vectors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore.errors import CorruptionError, RecordNotFoundError
from vecstore.query.exact import executor
from vecstore.query.found import Found, in_a_row
from vecstore.query.where import Where
from vecstore.storage import store
from vecstore.storage.fetch import fetch
from vecstore.storage.ids import hash_ids
from vecstore.storage.slots import read_slots
from vecstore.storage.state import Blocks, Numbers
from vecstore.storage.vectors import read_rows
from vecstore.types import Copied, Hits, HitsBatch, Id, Record

_DTYPES = {
    "float32": np.float32,
    "float16": np.float16,
    "uint8": np.uint8,
    "int8": np.int8,
    "binary": np.uint8,
}


def decoded(blocks: Blocks, rows: NDArray[np.uint8]) -> NDArray[Any]:
    """Rows of bytes as the numbers they are; packed bits stay packed."""
    return np.ascontiguousarray(rows).view(_DTYPES[blocks.header.settings.dtype])


def queries_of(blocks: Blocks, slots: Numbers) -> NDArray[Any]:
    """Stored vectors as queries."""
    rows = read_rows(blocks, slots) if slots.size else np.zeros((0, blocks.layout.row_bytes), dtype=np.uint8)
    return rows if blocks.header.settings.dtype == "binary" else decoded(blocks, rows).astype(np.float32)


def slots_of(blocks: Blocks, values: list[Id]) -> Numbers:
    slots = store.find(blocks, hash_ids(values, blocks.header.seed))
    if (slots < 0).any():
        raise RecordNotFoundError(f"no record has the id {values[int(np.argmin(slots))]!r}; nothing was done")
    return slots


def records_of(blocks: Blocks, slots: Numbers, *, vectors: bool = True) -> list[Record]:
    if not slots.size:
        return []
    stored = store.read_stored(blocks, read_slots(blocks, slots))
    rows: Iterable[Any] = decoded(blocks, read_rows(blocks, slots)) if vectors else [None] * slots.size
    return [Record(item.id, row, item.metadata) for item, row in zip(stored, rows, strict=True)]


def get(blocks: Blocks, values: list[Id]) -> list[Record | None]:
    batch = hash_ids(values, blocks.header.seed)
    slots = store.find(blocks, batch, verify=False)
    places = np.flatnonzero(slots >= 0)
    records = records_of(blocks, slots[places])
    if any(record.id != values[place] for place, record in zip(places.tolist(), records, strict=True)):
        slots = store.find(blocks, batch)
        places = np.flatnonzero(slots >= 0)
        records = records_of(blocks, slots[places])
    found: list[Record | None] = [None] * len(values)
    for place, record in zip(places.tolist(), records, strict=True):
        found[place] = record
    return found


def readable(blocks: Blocks, slots: Numbers, filter_: Where | None, vectors: bool) -> Iterator[Record]:
    for part in store.batches(slots, 1):
        with contextlib.suppress(CorruptionError):
            for record in records_of(blocks, part, vectors=vectors):
                if filter_ is None or filter_.matches(record.metadata):
                    yield record


def hits_of_one(blocks: Blocks, found: Found, *, cold: bool = False) -> Hits:
    """As ``hits``, for a single query."""
    slots, distances = found
    return Hits._of(Copied(distances, *fetch(blocks, slots, cold=cold), store.unpacked), range(slots.size))


def hits_of(
    blocks: Blocks, found: Sequence[Found], width: int | None = None, *, cold: bool = False, threads: int = 1
) -> HitsBatch:
    """As ``hits``, from each query's own slots and distances."""
    return hits(blocks, *in_a_row(found), width, cold=cold, threads=threads)


def hits(
    blocks: Blocks,
    slots: Numbers,
    distances: NDArray[np.float64],
    offsets: Numbers,
    width: int | None = None,
    *,
    cold: bool = False,
    threads: int = 1,
) -> HitsBatch:
    """What callers see: query i has what lies from ``offsets[i]`` to ``offsets[i + 1]``.

    The records are copied out of the state, and the arrays given here are kept. ``width`` is that of the
    batch's arrays, by default the largest number of hits that a query has.
    """
    starts, ends = offsets[:-1], offsets[1:]
    if width is None:
        width = int((ends - starts).max(initial=0))
    fetched = fetch(blocks, slots, cold=cold, threads=threads, executor=executor)
    copied = Copied(distances, *fetched, store.unpacked)
    return HitsBatch._of(copied, starts, ends, width, blocks.header.text_ids == 0)
