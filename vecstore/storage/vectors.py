"""Rows of vectors, slot by slot, in blocks that kernels read in place."""

from __future__ import annotations

import numpy as np

from vecstore.storage import keys
from vecstore.storage.blocks import HEAD, HEAD_BYTES, MAGIC, Bytes, Layout, count_of, new_block, set_count
from vecstore.storage.session import Session
from vecstore.storage.state import Blocks, Numbers, gather

# Blocks of a bulk load are made this many bytes at a time.
_FILL_BYTES = 8 << 20


def read_rows(blocks: Blocks, slots: Numbers) -> Bytes:
    """Copies of these rows, (n, row_bytes)."""
    width, per_block = blocks.layout.row_bytes, blocks.layout.rows
    numbers, inside = slots // per_block, slots % per_block
    if slots.size == 1:
        start = blocks.layout.row_start + int(inside[0]) * width
        row: Bytes = blocks.block(keys.VECTORS, int(numbers[0]))[start : start + width]
        one: Bytes = row.reshape(1, width).copy()
        return one
    distinct, inverse = np.unique(numbers, return_inverse=True)
    rows = blocks.file_rows(keys.VECTORS, distinct)
    if rows is not None:
        data, starts = rows
        return gather(data, starts[inverse] + blocks.layout.row_start + inside * width, width)
    found = np.empty((slots.size, width), dtype=np.uint8)
    for place, number in enumerate(distinct.tolist()):
        here = np.flatnonzero(inverse == place)
        found[here] = _table(blocks.block(keys.VECTORS, number), blocks.layout)[inside[here]]
    return found


def _table(block: Bytes, layout: Layout) -> Bytes:
    """A block's rows."""
    return block[layout.row_start :][: layout.rows * layout.row_bytes].reshape(layout.rows, layout.row_bytes)


def write_rows(session: Session, slots: Numbers, rows: Bytes) -> None:
    """Put rows into slots, ascending."""
    per_block = session.layout.rows
    length = session.layout.length(keys.VECTORS)
    whole = _whole_blocks(session, slots)
    if whole.stop > whole.start:
        for part in (slice(0, whole.start), slice(whole.stop, slots.size)):
            if part.stop > part.start:
                write_rows(session, slots[part], rows[part])
        first = int(slots[whole.start]) // per_block
        if not session.write_behind(first, rows[whole]):
            _fill_blocks(session, first, rows[whole])
        return
    numbers = slots // per_block
    starts = np.flatnonzero(np.r_[True, numbers[1:] != numbers[:-1]])
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), slots.size], strict=True):
        number = int(numbers[start])
        if not session.exists(keys.VECTORS, number):
            block = session.put(new_block(keys.VECTORS, number, length), keys.VECTORS, number)
        else:
            block = session.edit(keys.VECTORS, number)
        inside = slots[start:end] - number * per_block
        table = _table(block, session.layout)
        if int(inside[-1]) - int(inside[0]) == end - start - 1:
            table[int(inside[0]) : int(inside[-1]) + 1] = rows[start:end]
        else:
            table[inside] = rows[start:end]
        set_count(block, max(count_of(block), int(inside[-1]) + 1))
        session.stage()


def _whole_blocks(session: Session, slots: Numbers) -> slice:
    """The part of these slots, all behind those in use, that makes up whole new blocks."""
    per_block = session.layout.rows
    first = -(-int(slots[-1] + 1 - slots.size) // per_block) * per_block
    first = max(first, session.header.counts[keys.VECTORS] * per_block)
    start = int(np.searchsorted(slots, first))
    blocks = (slots.size - start) // per_block
    stop = start + blocks * per_block
    if not blocks or slots[start] != first or slots[stop - 1] - first != stop - 1 - start:
        return slice(0, 0)
    return slice(start, stop)


def _fill_blocks(session: Session, number: int, rows: Bytes) -> None:
    """Many new blocks, numbered from this one, in a few large copies: what a bulk load spends its time on."""
    width, per_block = session.layout.row_bytes, session.layout.rows
    length, begin = session.layout.length(keys.VECTORS), session.layout.row_start
    step = max(1, _FILL_BYTES // length)
    total = len(rows) // per_block
    for start in range(0, total, step):
        count = min(step, total - start)
        part = rows[start * per_block : (start + count) * per_block]
        blocks = np.zeros((count, length), dtype=np.uint8)
        blocks[:, begin : begin + per_block * width] = part.reshape(count, per_block * width)
        heads = blocks[:, :HEAD_BYTES].view(HEAD)[:, 0]
        heads["magic"], heads["kind"], heads["length"], heads["count"] = (
            MAGIC,
            keys.VECTORS,
            length,
            per_block,
        )
        heads["number"] = np.arange(number + start, number + start + count)
        for place, block in enumerate(blocks):
            session.put(block, keys.VECTORS, number + start + place)
        session.stage()
