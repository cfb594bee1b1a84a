"""Indexes of fields: what a field is in each slot, in a word and a tag, kept in the transactions of the records.

A number's word is the number; that of a text, a list, a dict or a very large whole number is a keyed hash, and the record
of one slot that has it tells what it stands for. So whatever writes records needs no table of values, and who reads a
column needs as many records as there are distinct values. A block has the words of some slots, and their tags behind them;
the index that has place p has the blocks p, p + 16, p + 32 and so on.

An index is made from slot 0 up, some slots a commit. Below ``covered`` it is kept up from then on; rows of dead slots
stay as they were. Nobody asks it before it covers all slots.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vecstore import config
from vecstore.errors import InvalidArgumentError
from vecstore.storage import keys
from vecstore.storage.blocks import HEAD_BYTES, Bytes, count_of, damaged, payload, set_count
from vecstore.storage.header import FieldIndex
from vecstore.storage.packed import Packed
from vecstore.storage.session import Session
from vecstore.storage.state import Blocks, Numbers, gather
from vecstore.storage.values import LARGE
from vecstore.storage.values import read as values_of

Tags = NDArray[np.uint8]
Words = NDArray[np.uint64]

# So many records at once are read for their fields.
_KEPT_AT_ONCE = 1 << 16
# Names that the header holds besides those of indexes.
_MOST_NAMES = 32


def key_of(blocks: Blocks) -> bytes:
    """What the hashes of values are keyed by."""
    return blocks.header.seed.to_bytes(8, "little")


def complete(blocks: Blocks, field: str) -> FieldIndex | None:
    """The index of a field, where there is one that may be asked."""
    index = blocks.header.fields.get(field)
    return index if index is not None and index.covered >= blocks.header.slots else None


def unfinished(blocks: Blocks) -> bool:
    """Whether an index is being made."""
    return any(index.covered < blocks.header.slots for index in blocks.header.fields.values())


def listed(blocks: Blocks) -> dict[str, dict[str, object]]:
    """What there is to say of each index."""
    slots = blocks.header.slots
    return {
        field: {
            "built": round(index.covered / slots, 4) if slots else 1.0,
            "bytes": index.blocks(blocks.layout).size * blocks.layout.page_bytes,
            "by_itself": not index.asked,
        }
        for field, index in sorted(blocks.header.fields.items())
    }


def read(blocks: Blocks, index: FieldIndex, slots: Numbers) -> tuple[Tags, Words]:
    """The tags and words of these slots, ascending, which the index covers."""
    per_block = blocks.layout.field_rows
    wanted = np.zeros(index.blocks(blocks.layout).size, dtype=bool)
    wanted[slots // per_block] = True
    parts = np.flatnonzero(wanted)
    numbers = parts * config.MOST_INDEXES + index.place
    found = blocks.file_rows(keys.FIELDS, numbers) if parts.size else None
    if found is not None:
        data = gather(found[0], found[1] + HEAD_BYTES, 9 * per_block)
    else:
        rows = [payload(blocks.block(keys.FIELDS, number))[: 9 * per_block] for number in numbers.tolist()]
        data = np.stack(rows) if rows else np.zeros((0, 9 * per_block), dtype=np.uint8)
    words = np.ascontiguousarray(data[:, : 8 * per_block]).view("<u8").reshape(-1)
    tags = data[:, 8 * per_block :].reshape(-1)
    places = (np.cumsum(wanted) - 1)[slots // per_block] * per_block + slots % per_block
    if slots.size and places[-1] - places[0] == slots.size - 1:
        tags, words = (rows[places[0] : places[-1] + 1] for rows in (tags, words))
    else:
        tags, words = tags[places], words[places]
    wrong = tags > LARGE
    if wrong.any():
        number = number_of(blocks, index, int(slots[np.argmax(wrong)]))
        raise damaged(keys.FIELDS, number, "it has a value of a kind that does not exist")
    return tags, words.astype(np.uint64, copy=False)


def number_of(blocks: Blocks, index: FieldIndex, slot: int) -> int:
    """The block that has a slot's row."""
    return slot // blocks.layout.field_rows * config.MOST_INDEXES + index.place


def write(session: Session, index: FieldIndex, slots: Numbers, tags: Tags, words: Words) -> None:
    """Put the rows of these slots, ascending."""
    per_block = session.layout.field_rows
    parts = slots // per_block
    ends = np.append(np.flatnonzero(parts[1:] != parts[:-1]) + 1, slots.size) if slots.size else slots
    start = 0
    for end in ends.tolist():
        part = int(parts[start])
        number = part * config.MOST_INDEXES + index.place
        exists = session.exists(keys.FIELDS, number)
        block = session.edit(keys.FIELDS, number) if exists else session.create(keys.FIELDS, number)[1]
        inside = slots[start:end] - part * per_block
        data = payload(block)
        data[: 8 * per_block].view("<u8")[inside] = words[start:end]
        data[8 * per_block : 9 * per_block][inside] = tags[start:end]
        set_count(block, max(count_of(block), int(inside[-1]) + 1))
        start = end


# -- kept up


def keep(session: Session, slots: Numbers, packed: Packed, text: NDArray[np.bool_], before: int) -> None:
    """These slots have these records from now on; ``before`` so many slots there were."""
    fields = session.header.fields
    if not fields or not slots.size:
        return
    whole = {field for field, index in fields.items() if index.covered >= before}
    for low in range(0, slots.size, _KEPT_AT_ONCE):
        part = slice(low, low + _KEPT_AT_ONCE)
        begin, ends = int(packed.ends[low - 1]) if low else 0, packed.ends[part]
        texts = text[part].astype(np.uint8) if text[part].any() else None
        order = np.argsort(slots[part], kind="stable")
        found = values_of(packed.data[begin : int(ends[-1])], ends - begin, texts, list(fields))
        for (field, index), values in zip(fields.items(), found, strict=True):
            ascending = slots[part][order]
            count = ascending.size if field in whole else int(np.searchsorted(ascending, index.covered))
            mine, words = order[:count], values.words(key_of(session))
            write(session, index, ascending[:count], values.tags[mine], words[mine])
        session.stage()
    now = session.header.slots
    session.describe_fields(
        {field: replace(index, covered=now) if field in whole else index for field, index in fields.items()}
    )


def shrink(session: Session) -> None:
    """There are fewer slots than before."""
    slots, fields = session.header.slots, session.header.fields
    if not fields:
        return
    numbers = np.flatnonzero(session.present(keys.FIELDS))
    parts = -(-slots // session.layout.field_rows)
    session.free_many(keys.FIELDS, numbers[numbers // config.MOST_INDEXES >= parts])
    session.describe_fields(
        {field: replace(index, covered=min(index.covered, slots)) for field, index in fields.items()}
    )


# -- made and dropped


def create(session: Session, field: str, *, asked: bool) -> None:
    """There is to be an index of a field; it covers nothing yet."""
    header = session.header
    fields = dict(header.fields)
    if field in fields:
        fields[field] = replace(fields[field], asked=asked or fields[field].asked)
    else:
        free = set(range(config.MOST_INDEXES)) - {index.place for index in fields.values()}
        if not free:
            raise InvalidArgumentError(
                f"a collection has {config.MOST_INDEXES} indexes of fields at most, and this one has them: "
                f"{', '.join(sorted(fields))}. Drop one with drop_index() first"
            )
        fields[field] = FieldIndex(min(free), 0, asked)
    header.asked = {name: times for name, times in header.asked.items() if name != field}
    header.unwanted = tuple(name for name in header.unwanted if name != field)
    session.describe_fields(fields)


def drop(session: Session, field: str) -> bool:
    """There is to be no index of a field, nor to be one by itself. False if there was none."""
    fields = dict(session.header.fields)
    index = fields.pop(field, None)
    if index is None:
        return False
    numbers = np.flatnonzero(session.present(keys.FIELDS))
    session.free_many(keys.FIELDS, numbers[numbers % config.MOST_INDEXES == index.place])
    session.header.unwanted = (*session.header.unwanted, field)[-_MOST_NAMES:]
    session.describe_fields(fields)
    return True


def note_asked(session: Session, names: frozenset[str]) -> None:
    """These fields were read out of all records, to be filtered by. Those that were often are to have an index."""
    header = session.header
    for name in sorted(names):
        if name in header.fields or name in header.unwanted or not fits(name):
            continue
        times = header.asked.get(name, 0) + 1
        if times < config.INDEXED_AFTER:
            others = {other: count for other, count in header.asked.items() if other != name}
            header.asked = dict([*others.items(), (name, times)][-_MOST_NAMES:])
            session.changed = True
        elif len(header.fields) < config.INDEXED_BY_ITSELF:
            create(session, name, asked=False)


def fits(field: str) -> bool:
    """Whether the header can hold a name."""
    try:
        return len(field.encode()) <= config.MAX_FIELD_BYTES
    except UnicodeEncodeError:
        return False


def blocks_of(blocks: Blocks) -> Bytes:
    """1 for each number of a block that an index has."""
    wanted = np.zeros(blocks.header.counts[keys.FIELDS], dtype=np.uint8)
    for index in blocks.header.fields.values():
        wanted[index.blocks(blocks.layout)] = 1
    return wanted
