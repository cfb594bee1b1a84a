"""Records in and out of the file's tables: the one place that knows how the tables belong together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vecstore.config import DEAD_BLOCKS_FLOOR, DEAD_SHARE
from vecstore.storage import fields, keys
from vecstore.storage import ids as id_table
from vecstore.storage.blocks import Bytes, count_of, damaged, extra_of
from vecstore.storage.growth import move_nodes, nodes_to_move
from vecstore.storage.ids import Ids, hash_ids
from vecstore.storage.linked import clear_linked
from vecstore.storage.packed import Packed
from vecstore.storage.records import (
    ENTRY_BYTES,
    append_records,
    long_blocks,
    longest,
    parts,
    read_records,
    write_long,
)
from vecstore.storage.session import Session
from vecstore.storage.slots import ENTRY, LONG, TEXT, live_mask, read_slots, set_live, write_slots
from vecstore.storage.state import Blocks, Numbers
from vecstore.storage.values import unpacked as unpacked
from vecstore.storage.vectors import read_rows, write_rows

# A purge moves about this many bytes of rows a commit.
_PURGE_BYTES = 16 << 20


@dataclass(frozen=True)
class Stored:
    """A record as the file has it."""

    id: str | int
    metadata: dict[str, object]


# -- reading


def find(blocks: Blocks, ids: Ids, *, verify: bool = True) -> Numbers:
    """The slot of each id, -1 where there is none.

    Text ids are found by a 64-bit hash. Unless told that the caller compares them, their records are
    read to be sure.
    """
    found = np.full(len(ids), -1, dtype=np.int64)
    places, slots = id_table.lookup(blocks, ids.hashes)
    if places.size == 0:
        return found
    entries = read_slots(blocks, slots)
    text = (entries["flags"] & TEXT) > 0
    same = (entries["mark"] == ids.marks[places]) & (text == ids.text[places])
    if verify and (same & text).any():
        at = np.flatnonzero(same & text)
        for place, stored in zip(at.tolist(), read_stored(blocks, entries[at]), strict=True):
            same[place] = stored.id == ids.values[places[place]]
    found[places[same]] = slots[same]
    return found


def read_packed(blocks: Blocks, entries: NDArray[np.void]) -> list[bytes]:
    """The records at these entries of the slot table, as packed bytes."""
    long = ((entries["flags"] & LONG) > 0).tolist()
    return read_records(blocks, entries["block"].astype(np.int64), entries["index"].astype(np.int64), long)


def read_stored(blocks: Blocks, entries: NDArray[np.void]) -> list[Stored]:
    """The records at these entries of the slot table, decoded."""
    marks, text = entries["mark"].tolist(), ((entries["flags"] & TEXT) > 0).tolist()
    packed = read_packed(blocks, entries)
    return [Stored(*unpacked(*record)) for record in zip(packed, marks, text, strict=True)]


def live_slots(blocks: Blocks) -> Numbers:
    return np.flatnonzero(live_mask(blocks)).astype(np.int64)


# -- writing


def insert(session: Session, ids: Ids, rows: Bytes, packed: Packed | Sequence[bytes]) -> Numbers:
    """Add records whose ids are known to be absent; gives their slots."""
    if not len(ids):
        return np.zeros(0, dtype=np.int64)
    header, packed = session.header, Packed.of(packed)
    before = header.slots
    slots = _allocate(session, len(ids))
    write_rows(session, slots, rows)
    entries = _append(session, ids.marks, ids.text, slots, packed)
    write_slots(session, slots, entries)
    fields.keep(session, slots, packed, ids.text, before)
    id_table.insert(session, ids.hashes, slots)
    set_live(session, slots, True)
    header.records += len(ids)
    header.text_ids += int(ids.text.sum())
    session.settle()
    return slots


def change_metadata(session: Session, slots: Numbers, packed: Packed | Sequence[bytes]) -> None:
    """Give records another packed form; rows and ids stay."""
    if not slots.size:
        return
    entries = read_slots(session, slots)
    _drop_records(session, entries)
    packed, text = Packed.of(packed), (entries["flags"] & TEXT) > 0
    write_slots(session, slots, _append(session, entries["mark"], text, slots, packed))
    fields.keep(session, slots, packed, text, session.header.slots)
    _free_dead_records(session)


def delete(session: Session, slots: Numbers) -> None:
    """Remove records by slot."""
    if not slots.size:
        return
    entries = read_slots(session, slots)
    id_table.remove(session, hashes_of(session, entries), slots)
    _drop_records(session, entries)
    set_live(session, slots, False)
    clear_linked(session, slots)
    session.header.records -= slots.size
    session.header.text_ids -= int(((entries["flags"] & TEXT) > 0).sum())
    _free_dead_vectors(session)
    _free_dead_records(session)


def hashes_of(blocks: Blocks, entries: NDArray[np.void]) -> NDArray[np.uint64]:
    """The ids' hashes, without reading the records."""
    hashes = entries["mark"].astype(np.uint64)
    whole = (entries["flags"] & TEXT) == 0
    if whole.any():
        hashes[whole] = hash_ids(entries["mark"][whole].tolist(), blocks.header.seed).hashes
    return hashes


def _append(
    session: Session, marks: NDArray[np.int64], text: NDArray[np.bool_], slots: Numbers, packed: Packed
) -> NDArray[np.void]:
    """Write records' bytes; gives their entries for the slot table."""
    limit = longest(session.layout)
    flags = np.where(text, TEXT, 0).astype(np.uint16)
    long = np.flatnonzero(packed.lengths > limit).tolist() if packed.data.size > limit else []
    if long:
        records = packed.records()
        for place in long:
            records[place] = write_long(session, records[place])
            flags[place] |= LONG
        packed = Packed.of(records)
    entries = np.zeros(len(packed), dtype=ENTRY)
    entries["block"], entries["index"] = append_records(session, slots, packed)
    entries["mark"], entries["flags"] = marks, flags
    return entries


def _allocate(session: Session, amount: int) -> Numbers:
    """Slots for new rows: in blocks of which a quarter is free, then in freed blocks, then at the end.

    A block with fewer holes is left alone: rewriting it would cost far more bytes than its holes are worth.
    """
    header, per_block = session.header, session.layout.rows
    chosen: list[Numbers] = []
    mask = live_mask(session)  # of the slots that there are, before there are more
    missing, roomy_from = amount, max(1, per_block // 4)
    if header.slots - header.records >= roomy_from:
        dead = _dead_rows(session)
        roomy = np.flatnonzero(dead >= roomy_from)
        freed = ~session.present(keys.VECTORS)[roomy]
        for number in roomy[np.lexsort((-dead[roomy], freed))].tolist():
            if missing == 0:
                break
            start = number * per_block
            holes = start + np.flatnonzero(mask[start : start + per_block] == 0)[:missing]
            chosen.append(holes)
            missing -= holes.size
    fresh = np.arange(header.slots, header.slots + missing, dtype=np.int64)
    header.slots += missing
    return np.sort(np.concatenate([*chosen, fresh]))


def _dead_rows(session: Session) -> Numbers:
    """Dead slots of each block; all of them for one that is absent."""
    per_block, slots = session.layout.rows, session.header.slots
    blocks = -(-slots // per_block)
    known = live_mask(session)  # before anything of the size that the header claims
    mask = np.zeros(blocks * per_block, dtype=np.uint8)
    mask[:slots] = known
    used = np.clip(slots - np.arange(blocks) * per_block, 0, per_block)
    live: Numbers = mask.reshape(blocks, per_block).sum(axis=1, dtype=np.int64)
    return used - live


def _drop_records(session: Session, entries: NDArray[np.void]) -> None:
    """Count records' bytes as dead, and free the blocks of long ones."""
    long = (entries["flags"] & LONG) > 0
    for stub in read_records(
        session,
        entries["block"][long].astype(np.int64),
        entries["index"][long].astype(np.int64),
        [False] * int(long.sum()),
    ):
        for number in long_blocks(session, stub)[1]:
            session.free(keys.LONG, number)
    order = np.argsort(entries["block"], kind="stable")
    numbers, indexes = entries["block"][order], entries["index"][order].astype(np.int64)
    starts = np.flatnonzero(np.r_[True, numbers[1:] != numbers[:-1]])
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), numbers.size], strict=True):
        number = int(numbers[start])
        _, ends, _ = parts(session.block(keys.RECORDS, number), number)
        bounds = np.concatenate(([0], ends.astype(np.int64)))
        here = indexes[start:end]
        if (here >= ends.size).any():
            raise damaged(keys.RECORDS, number, "it lacks a record that the slot table names")
        dropped = int((bounds[here + 1] - bounds[here]).sum()) + ENTRY_BYTES * here.size
        session.add_dead_bytes(keys.RECORDS, number, dropped)


def _free_dead_vectors(session: Session) -> None:
    """Drop blocks without a live row, and the dead slots at the very end."""
    per_block, header = session.layout.rows, session.header
    mask = live_mask(session)
    live = np.flatnonzero(mask)
    slots = int(live[-1]) + 1 if live.size else 0
    if header.graph is not None:
        slots = max(slots, header.graph.slots)  # its tables have a place for each of these
    if slots < header.slots:
        header.slots = slots
        session.cache["live"] = mask[:slots].copy()
        fields.shrink(session)
    blocks = -(-slots // per_block)
    padded = np.zeros(blocks * per_block, dtype=np.uint8)
    padded[:slots] = mask[:slots]
    empty = session.present(keys.VECTORS)
    empty[:blocks] &= ~padded.reshape(blocks, per_block).any(axis=1)
    for number in np.flatnonzero(empty).tolist():
        session.free(keys.VECTORS, number)


def _free_dead_records(session: Session) -> None:
    dead = session.dead_bytes(keys.RECORDS)
    for number in np.flatnonzero(session.present(keys.RECORDS) & (dead > 0)).tolist():
        if (
            dead[number] >= ENTRY_BYTES
            and number != session.header.tail
            and dead[number] >= _used(session, number)
        ):
            session.free(keys.RECORDS, number)


def _used(blocks: Blocks, number: int) -> int:
    block = blocks.block(keys.RECORDS, number)
    return ENTRY_BYTES * count_of(block) + extra_of(block)


# -- purging


def purge(session: Session) -> bool:
    """Move live rows and records out of the deadest blocks, a bounded step; False if none is due."""
    return _purge_vectors(session) or _purge_records(session)


def _purge_vectors(session: Session) -> bool:
    per_block, present = session.layout.rows, session.present(keys.VECTORS)
    dead = np.where(present[: -(-session.header.slots // per_block)], _dead_rows(session), 0)
    rows = int(present.sum()) * per_block
    if int(present.sum()) <= DEAD_BLOCKS_FLOOR or int(dead.sum()) <= DEAD_SHARE * rows:
        return False
    victims = np.argsort(-dead, kind="stable")[: max(1, _PURGE_BYTES // session.layout.length(keys.VECTORS))]
    # Blocks that lack a whole block's rows between them fit into fewer: each step frees one at least.
    wanted = max(dead.sum() - DEAD_SHARE / 2 * rows, per_block)
    victims = victims[: int((np.cumsum(dead[victims]) < wanted).sum()) + 1]
    mask = live_mask(session)
    starts = victims[:, None] * per_block + np.arange(per_block)
    slots = starts[starts < session.header.slots]
    move(session, np.sort(slots[mask[slots] > 0]))
    return True


def move(session: Session, slots: Numbers) -> None:
    """Give records other slots, and their rows and bytes other places."""
    entries = read_slots(session, slots)
    rows, packed = read_rows(session, slots), read_packed(session, entries)
    ids = stored_ids(session, entries)
    nodes = nodes_to_move(session, slots)
    delete(session, slots)
    move_nodes(session, nodes, insert(session, ids, rows, packed))


def stored_ids(blocks: Blocks, entries: NDArray[np.void]) -> Ids:
    """The ids at these entries; a text id stays a placeholder, since its mark and hash say all that is needed."""
    text = (entries["flags"] & TEXT) > 0
    marks = entries["mark"].tolist()
    values: list[str | int] = [
        "" if is_text else mark for is_text, mark in zip(text.tolist(), marks, strict=True)
    ]
    return Ids(values, text, hashes_of(blocks, entries))


def _purge_records(session: Session) -> bool:
    dead, present = session.dead_bytes(keys.RECORDS), session.present(keys.RECORDS)
    dead = np.where(present, dead, 0)
    total = int(present.sum()) * session.layout.record_payload
    if int(present.sum()) <= DEAD_BLOCKS_FLOOR or int(dead.sum()) <= DEAD_SHARE * total:
        return False
    victims = np.argsort(-dead, kind="stable")[: max(1, _PURGE_BYTES // session.layout.length(keys.RECORDS))]
    surplus = np.cumsum(dead[victims]) < dead.sum() - DEAD_SHARE / 2 * total
    chosen = [number for number in victims[: int(surplus.sum()) + 1].tolist() if dead[number]]
    if session.header.tail in chosen:
        session.header.tail = None
    slots, moved = [], []
    for number in chosen:
        held, _, _ = parts(session.block(keys.RECORDS, number), number)
        here = np.arange(held.size)
        owners = held.astype(np.int64)
        inside = owners < session.header.slots
        entries = read_slots(session, owners[inside])
        mask = live_mask(session)[owners[inside]] > 0
        mine = mask & (entries["block"] == number) & (entries["index"] == here[inside])
        slots.append(owners[inside][mine])
        moved.append(entries[mine])
    _rewrite(session, np.concatenate(slots), np.concatenate(moved))
    for number in chosen:
        session.free(keys.RECORDS, number)
    return True


def _rewrite(session: Session, slots: Numbers, entries: NDArray[np.void]) -> None:
    """Copy records to the tail as they are; stubs of long records go on naming the same blocks."""
    if not slots.size:
        return
    numbers, indexes = entries["block"].astype(np.int64), entries["index"].astype(np.int64)
    packed = read_records(session, numbers, indexes, [False] * slots.size)
    fresh = entries.copy()
    fresh["block"], fresh["index"] = append_records(session, slots, Packed.of(packed))
    write_slots(session, slots, fresh)


def batches(slots: Numbers, size: int) -> Iterator[Numbers]:
    for start in range(0, slots.size, size):
        yield slots[start : start + size]
