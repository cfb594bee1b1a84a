"""Records: ids and metadata, packed one behind the other into blocks that are appended to.

A record is never changed in place: its new form goes to the tail, and the old one's bytes count as dead
in the catalog. Blocks that are mostly dead are emptied by ``store``'s purge. A record too long for its
block lies in blocks of its own, and a stub in its place names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np

from vecstore.storage import keys
from vecstore.storage.blocks import (
    HEAD_BYTES,
    Bytes,
    Layout,
    count_of,
    damaged,
    extra_of,
    payload,
    set_count,
)
from vecstore.storage.packed import Packed
from vecstore.storage.session import Session
from vecstore.storage.state import Blocks, Numbers

# Beside its bytes a record takes a slot number (4) and an end (2) in its block.
ENTRY_BYTES = 6

Places = tuple[Numbers, Numbers]


def longest(layout: Layout) -> int:
    """Records above a quarter of a block get blocks of their own, so that blocks fill well."""
    return layout.record_payload // 4


# -- reading


def read_records(blocks: Blocks, numbers: Numbers, indexes: Numbers, long: Sequence[bool]) -> list[bytes]:
    """The packed bytes of records at these places."""
    if numbers.size > 16:
        rows = blocks.file_rows(keys.RECORDS, np.unique(numbers))
        if rows is not None:
            return _follow(blocks, _read_many(blocks, numbers, indexes, *rows), long)
    found = []
    for number, index in zip(numbers.tolist(), indexes.tolist(), strict=True):
        block = blocks.block(keys.RECORDS, number)
        _, ends, data = parts(block, number)
        if index >= ends.size:
            raise damaged(keys.RECORDS, number, "it lacks a record that the slot table names")
        start = int(ends[index - 1]) if index else 0
        found.append(data[start : int(ends[index])].tobytes())
    return _follow(blocks, found, long)


def _read_many(
    blocks: Blocks, numbers: Numbers, indexes: Numbers, data: Bytes, starts: Numbers
) -> list[bytes]:
    _, inverse = np.unique(numbers, return_inverse=True)
    words, pairs = data.view("<u4"), data.view("<u2")
    counts = words[starts // 4 + 7].astype(np.int64)
    capacity = blocks.layout.record_payload
    if (counts * ENTRY_BYTES > capacity).any():
        raise damaged(keys.RECORDS, int(numbers[0]), "it counts more records than it can hold")
    starts, counts = starts[inverse], counts[inverse]
    if (indexes >= counts).any():
        raise damaged(
            keys.RECORDS,
            int(numbers[np.argmax(indexes >= counts)]),
            "it lacks a record that the slot table names",
        )
    ends_at = (starts + HEAD_BYTES + 4 * counts) // 2 + indexes
    ends = pairs[ends_at].astype(np.int64)
    begins = np.where(indexes > 0, pairs[ends_at - 1].astype(np.int64), 0)
    heap = starts + HEAD_BYTES + ENTRY_BYTES * counts
    if (begins > ends).any() or (ends + ENTRY_BYTES * counts > capacity).any():
        raise damaged(keys.RECORDS, int(numbers[0]), "its records overlap")
    view = memoryview(data)  # type: ignore[arg-type]
    return [bytes(view[a:b]) for a, b in zip((heap + begins).tolist(), (heap + ends).tolist(), strict=True)]


def _follow(blocks: Blocks, found: list[bytes], long: Sequence[bool]) -> list[bytes]:
    if any(long):
        for place, is_long in enumerate(long):
            if is_long:
                found[place] = _read_long(blocks, found[place])
    return found


def parts(block: Bytes, number: int) -> tuple[Any, Any, Bytes]:
    """(slots, ends, bytes) of a record block, checked against each other."""
    count, used, data = count_of(block), extra_of(block), payload(block)
    if count * ENTRY_BYTES + used > data.size:
        raise damaged(keys.RECORDS, number, "it counts more records than it can hold")
    slots = data[: 4 * count].view("<u4")
    ends = data[4 * count : ENTRY_BYTES * count].view("<u2")
    if count and ((np.diff(ends.astype(np.int64)) < 0).any() or int(ends[-1]) != used):
        raise damaged(keys.RECORDS, number, "its records overlap")
    return slots, ends, data[ENTRY_BYTES * count : ENTRY_BYTES * count + used]


def long_blocks(blocks: Blocks, stub: bytes) -> tuple[int, list[int]]:
    """(bytes, block numbers) that a stub names."""
    try:
        length, numbers = msgpack.unpackb(stub)
        if not all(
            isinstance(number, int) and 0 <= number < blocks.header.counts[keys.LONG] for number in numbers
        ):
            raise ValueError("it names a block that does not exist")
        if not 0 <= length <= len(numbers) * blocks.layout.data_payload:
            raise ValueError("its length is wrong")
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise damaged(keys.LONG, 0, f"the stub that leads there cannot be read ({error})") from None
    return length, numbers


def _read_long(blocks: Blocks, stub: bytes) -> bytes:
    length, numbers = long_blocks(blocks, stub)
    pieces = [payload(blocks.block(keys.LONG, number)).tobytes() for number in numbers]
    return b"".join(pieces)[:length]


# -- writing


def append_records(session: Session, slots: Numbers, packed: Packed) -> Places:
    """Write records to the tail; gives each one's block and index."""
    count = len(packed)
    sums = np.concatenate(([0], packed.ends)) + ENTRY_BYTES * np.arange(count + 1)
    numbers = np.empty(count, dtype=np.int64)
    indexes = np.empty(count, dtype=np.int64)
    capacity = session.layout.record_payload
    done = 0
    while done < count:
        number, block, used = _tail(session)
        fits = int(np.searchsorted(sums, sums[done] + capacity - used, side="right")) - 1
        if fits <= done:
            session.header.tail = None
            continue
        before = count_of(block)
        _extend(block, number, slots[done:fits], packed, done, fits)
        numbers[done:fits] = number
        indexes[done:fits] = np.arange(before, before + fits - done)
        done = fits
        session.stage()
    return numbers, indexes


def write_long(session: Session, packed: bytes) -> bytes:
    """Write one long record into blocks of its own; gives the stub that stands for it."""
    numbers = []
    piece = session.layout.data_payload
    for start in range(0, len(packed), piece):
        number, block = session.create(keys.LONG)
        part = np.frombuffer(packed[start : start + piece], dtype=np.uint8)
        payload(block)[: part.size] = part
        set_count(block, part.size)
        numbers.append(number)
    stub: bytes = msgpack.packb([len(packed), numbers])
    return stub


def _tail(session: Session) -> tuple[int, Bytes, int]:
    """The block that takes the next record, and how much of it is taken."""
    number = session.header.tail
    if number is None:
        number, _ = session.create(keys.RECORDS)
        session.header.tail = number
    block = session.edit(keys.RECORDS, number)
    used = count_of(block) * ENTRY_BYTES + extra_of(block)
    if used > session.layout.record_payload:
        raise damaged(keys.RECORDS, number, "it counts more records than it can hold")
    return number, block, used


def _extend(block: Bytes, number: int, slots: Numbers, packed: Packed, first: int, last: int) -> None:
    old_slots, old_ends, old_data = parts(block, number)
    begin = int(packed.ends[first - 1]) if first else 0
    ends = packed.ends[first:last] + ((int(old_ends[-1]) if old_ends.size else 0) - begin)
    pieces = (
        old_slots.view(np.uint8),
        slots.astype(np.uint32).view(np.uint8),
        old_ends.view(np.uint8),
        ends.astype(np.uint16).view(np.uint8),
        old_data,
        packed.data[begin : int(packed.ends[last - 1])],
    )
    whole = np.concatenate(pieces)
    payload(block)[: whole.size] = whole
    set_count(block, old_slots.size + slots.size, old_data.size + pieces[-1].size)
