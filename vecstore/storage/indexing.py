"""What reads records for the indexes of fields: the making of one, a bounded slice a commit, and the check of all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from vecstore.storage import fields, keys
from vecstore.storage.blocks import damaged
from vecstore.storage.fetch import Fetched, fetch
from vecstore.storage.session import Session
from vecstore.storage.slots import live_mask
from vecstore.storage.state import Blocks, Numbers, State
from vecstore.storage.store import batches, live_slots
from vecstore.storage.values import ABSENT, FALSE, LARGE, NULL, NUMBER, OTHER, TEXT, TRUE, Values, read

# Records are read some at a time, so that they take about this much memory.
_PORTION_BYTES, _MOST, _LEAST = 8 << 20, 50_000, 500

_KINDS = {
    ABSENT: "nothing", NULL: "null", FALSE: "false", TRUE: "true", TEXT: "a text", OTHER: "a list or dict",
    LARGE: "a large number",
}  # fmt: skip


def make(session: Session, most: int) -> bool:
    """Take so many slots more into the indexes that cover the fewest; the caller commits. False if all are complete.

    Nothing was changed in this session before.
    """
    header = session.header
    lacking = [index.covered for index in header.fields.values() if index.covered < header.slots]
    if not lacking:
        return False
    first = min(lacking)
    last = min(first + most, header.slots)
    mine = {field: index for field, index in header.fields.items() if index.covered == first}
    live = live_mask(session)
    for low in range(first, last, _portion(session)):
        slots = np.arange(low, min(low + _portion(session), last), dtype=np.int64)
        alive = np.flatnonzero(live[slots])
        for index, values in zip(mine.values(), _values(session.base, slots[alive], list(mine)), strict=True):
            tags, words = np.zeros(slots.size, dtype=np.uint8), np.zeros(slots.size, dtype=np.uint64)
            tags[alive], words[alive] = values.tags, values.words(fields.key_of(session))
            fields.write(session, index, slots, tags, words)
    covering = {field: replace(index, covered=last) for field, index in mine.items()}
    session.describe_fields(header.fields | covering)
    return True


def _values(state: Blocks, slots: Numbers, names: list[str]) -> Iterator[Values]:
    found: Fetched = fetch(state, slots)
    return read(found.packed, found.ends, found.text, names)


def _portion(blocks: Blocks) -> int:
    kinds = (keys.RECORDS, keys.LONG)
    size = sum(int(blocks.present(kind).sum()) * blocks.layout.length(kind) for kind in kinds)
    return int(np.clip(_PORTION_BYTES * blocks.header.records // max(size, 1), _LEAST, _MOST))


def problems(state: State) -> Iterator[str]:
    """Blocks that are missing or nobody's, and each row that is not what its record says."""
    present, wanted = state.present(keys.FIELDS), fields.blocks_of(state) > 0
    for number in np.flatnonzero(present & ~wanted)[:10].tolist():
        yield f"block fields {number} is no part of an index"
    missing = np.flatnonzero(wanted & ~present)
    for number in missing[:10].tolist():
        yield str(damaged(keys.FIELDS, number, "it is missing"))
    indexes = state.header.fields
    if missing.size or not indexes:
        return
    for slots in batches(live_slots(state), _portion(state)):
        for field, values in zip(indexes, _values(state, slots, list(indexes)), strict=True):
            yield from _differences(state, field, values, slots)


def _differences(state: State, field: str, values: Values, slots: Numbers) -> Iterator[str]:
    index = state.header.fields[field]
    count = int(np.searchsorted(slots, index.covered))
    tags, words = fields.read(state, index, slots[:count])
    right_tags, right_words = values.tags[:count], values.words(fields.key_of(state))[:count]
    for place in np.flatnonzero((tags != right_tags) | (words != right_words)).tolist():
        slot = int(slots[place])
        told = _shown(int(tags[place]), words[place : place + 1])
        right = _shown(int(right_tags[place]), right_words[place : place + 1])
        other = "another" if told == right else right
        number = fields.number_of(state, index, slot)
        yield (
            f"block fields {number} is wrong: for slot {slot} the index of {field!r} has {told}, and the record {other}; "
            f"drop_index({field!r}) and create_index({field!r}) make it anew"
        )


def _shown(tag: int, word: fields.Words) -> str:
    return f"{word.view(np.float64)[0]!s}" if tag == NUMBER else _KINDS[tag]
