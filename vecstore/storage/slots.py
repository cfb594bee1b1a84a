"""The slot table: which slots are live, and where each slot's record lies."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vecstore.storage import keys
from vecstore.storage.blocks import HEAD_BYTES, Bytes, damaged, payload, set_count
from vecstore.storage.session import Session
from vecstore.storage.state import Blocks, Numbers, gather

# A slot's entry. ``mark`` is an integer id itself, or a text id's hash.
ENTRY = np.dtype([("mark", "<i8"), ("block", "<u4"), ("index", "<u2"), ("flags", "<u2")])
TEXT = 1  # the id is a text
LONG = 2  # the record lies in blocks of its own


def read_slots(blocks: Blocks, slots: Numbers) -> NDArray[np.void]:
    """The entries of these slots."""
    if slots.size == 0:
        return np.zeros(0, dtype=ENTRY)
    if int(slots.min()) < 0 or int(slots.max()) >= blocks.header.slots:
        raise damaged(keys.IDS, 0, "it names a slot that does not exist")
    per_block = blocks.layout.table_payload // ENTRY.itemsize
    numbers, inside = slots // per_block, slots % per_block
    if slots.size <= 4:
        return np.concatenate(
            [
                _entries(blocks.block(keys.SLOTS, n))[i : i + 1]
                for n, i in zip(numbers.tolist(), inside.tolist(), strict=True)
            ]
        )
    distinct, inverse = np.unique(numbers, return_inverse=True)
    rows = blocks.file_rows(keys.SLOTS, distinct)
    if rows is None:
        parts = [_entries(blocks.block(keys.SLOTS, number)) for number in distinct.tolist()]
        return np.stack(parts)[inverse, inside]
    data, starts = rows
    offsets = starts[inverse] + HEAD_BYTES + inside * ENTRY.itemsize
    return gather(data, offsets, ENTRY.itemsize).view(ENTRY)[:, 0]


def write_slots(session: Session, slots: Numbers, entries: NDArray[np.void]) -> None:
    per_block = session.layout.table_payload // ENTRY.itemsize
    order = np.argsort(slots, kind="stable")
    slots, entries = slots[order], entries[order]
    numbers = slots // per_block
    starts = np.flatnonzero(np.r_[True, numbers[1:] != numbers[:-1]])
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), slots.size], strict=True):
        number = int(numbers[start])
        while session.header.counts[keys.SLOTS] <= number:
            session.create(keys.SLOTS, session.header.counts[keys.SLOTS])
        block = session.edit(keys.SLOTS, number)
        _entries(block)[slots[start:end] - number * per_block] = entries[start:end]
        set_count(block, per_block)


def _entries(block: Bytes) -> NDArray[np.void]:
    data = payload(block)
    return data[: data.size // ENTRY.itemsize * ENTRY.itemsize].view(ENTRY)


# -- liveness


def live_mask(blocks: Blocks) -> NDArray[np.uint8]:
    """1 for each live slot, 0 for each dead one. Not to be written to."""
    known = blocks.cache.get("live")
    if known is None:
        parts = [
            payload(blocks.block(keys.LIVE, number)) for number in range(blocks.header.counts[keys.LIVE])
        ]
        bits = np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint8)
        if bits.size * 8 < blocks.header.slots:
            raise damaged(keys.LIVE, 0, "it covers too few slots")
        known = np.unpackbits(bits, count=blocks.header.slots, bitorder="little")
        if int(known.sum(dtype=np.int64)) != blocks.header.records:
            raise damaged(keys.LIVE, 0, "its live slots and the count of records differ")
        blocks.cache["live"] = known
    assert isinstance(known, np.ndarray)
    return known


def set_live(session: Session, slots: Numbers, live: bool) -> None:
    """Mark slots, and grow the mask to the header's count of slots."""
    mask = live_mask(session)
    grown = np.zeros(session.header.slots, dtype=np.uint8)
    grown[: mask.size] = mask
    grown[slots] = live
    session.cache["live"] = grown
    per_block = session.layout.table_payload * 8
    for number in np.unique(slots // per_block).tolist():
        while session.header.counts[keys.LIVE] <= number:
            session.create(keys.LIVE, session.header.counts[keys.LIVE])
        block = session.edit(keys.LIVE, number)
        bits = np.packbits(grown[number * per_block : (number + 1) * per_block], bitorder="little")
        payload(block)[: bits.size] = bits
        set_count(block, bits.size)
