"""Rows of vectors, slot by slot, in blocks that kernels read in place."""

from __future__ import annotations

import numpy as np

from vecstore.storage import keys
from vecstore.storage.blocks import HEAD_BYTES, Bytes, count_of, new_block, payload, set_count
from vecstore.storage.session import Session
from vecstore.storage.state import Blocks, Numbers, gather


def read_rows(blocks: Blocks, slots: Numbers) -> Bytes:
    """Copies of these rows, (n, row_bytes)."""
    width, per_block = blocks.layout.row_bytes, blocks.layout.rows
    numbers, inside = slots // per_block, slots % per_block
    if slots.size == 1:
        start = HEAD_BYTES + int(inside[0]) * width
        row: Bytes = blocks.block(keys.VECTORS, int(numbers[0]))[start : start + width]
        one: Bytes = row.reshape(1, width).copy()
        return one
    distinct, inverse = np.unique(numbers, return_inverse=True)
    rows = blocks.file_rows(keys.VECTORS, distinct)
    if rows is not None:
        data, starts = rows
        return gather(data, starts[inverse] + HEAD_BYTES + inside * width, width)
    found = np.empty((slots.size, width), dtype=np.uint8)
    for place, number in enumerate(distinct.tolist()):
        here = np.flatnonzero(inverse == place)
        block = payload(blocks.block(keys.VECTORS, number))[: per_block * width].reshape(per_block, width)
        found[here] = block[inside[here]]
    return found


def write_rows(session: Session, slots: Numbers, rows: Bytes) -> None:
    """Put rows into slots, ascending; whole new blocks are filled in one copy."""
    width, per_block = session.layout.row_bytes, session.layout.rows
    length = session.layout.length(keys.VECTORS)
    numbers = slots // per_block
    starts = np.flatnonzero(np.r_[True, numbers[1:] != numbers[:-1]])
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), slots.size], strict=True):
        number = int(numbers[start])
        if not session.exists(keys.VECTORS, number):
            block = session.put(new_block(keys.VECTORS, number, length), keys.VECTORS, number)
        else:
            block = session.edit(keys.VECTORS, number)
        inside = slots[start:end] - number * per_block
        table = payload(block)[: per_block * width].reshape(per_block, width)
        if int(inside[-1]) - int(inside[0]) == end - start - 1:
            table[int(inside[0]) : int(inside[-1]) + 1] = rows[start:end]
        else:
            table[inside] = rows[start:end]
        set_count(block, max(count_of(block), int(inside[-1]) + 1))
        session.stage()
