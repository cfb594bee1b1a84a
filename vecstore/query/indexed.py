"""A field's values out of its index: of the records, one is read for each distinct text, list or dict."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vecstore import config
from vecstore.query.picked import Picked, unpack
from vecstore.storage import fields, keys
from vecstore.storage.blocks import damaged
from vecstore.storage.fetch import fetch
from vecstore.storage.state import Numbers, State
from vecstore.storage.values import NUMBER, TEXT, read

# Where more than one in so many values is another, the records are as soon read themselves.
_DISTINCT = 3


def indexed(state: State, field: str, slots: Numbers) -> Picked | None:
    """The values in these live slots, ascending; None where the records tell them, or tell them sooner."""
    index = fields.complete(state, field)
    if index is None or slots.size < config.READ_INDEXED_FROM:
        return None
    tags, words = fields.read(state, index, slots)
    numbers = np.where(tags == NUMBER, words.view(np.float64), np.nan)
    which = np.full(slots.size, -1, dtype=np.int64)
    held = np.flatnonzero(tags >= TEXT)
    if not held.size:
        return Picked(tags, numbers, [], which)
    some, which[held] = distinct(words[held])
    if some.size > max(config.READ_INDEXED_FROM, slots.size // _DISTINCT):
        return None
    some = held[some]
    found = fetch(state, slots[some])
    [values] = read(found.packed, found.ends, found.text, [field])
    unpacked = unpack(values)
    wrong = (values.tags != tags[some]) | (values.words(fields.key_of(state)) != words[some])
    if unpacked is None or wrong.any():
        number = fields.number_of(state, index, int(slots[some[np.argmax(wrong)]]))
        raise damaged(keys.FIELDS, number, "it has other values than the records")
    return Picked(tags, numbers, [unpacked[place] for place in values.which.tolist()], which)


def distinct(words: NDArray[np.uint64]) -> tuple[Numbers, Numbers]:
    """(one place of each distinct word, which of them each word is).

    Hashes are spread, so 16 bits tell nearly all of some thousands apart, in a tenth of the time of sorting them all.

    >>> words = np.array([7, 9, 7, 7], dtype=np.uint64)
    >>> places, which = distinct(words)
    >>> words[places[which]].tolist()
    [7, 9, 7, 7]
    """
    which = np.full(words.size, -1, dtype=np.int64)
    places: list[Numbers] = []
    count, left = 0, np.arange(words.size, dtype=np.int64)
    for shift in (0, 16, 32, 48):
        if not left.size:
            break
        buckets = (words[left] >> np.uint64(shift) & np.uint64(0xFFFF)).astype(np.int64)
        holders = np.full(1 << 16, -1, dtype=np.int64)
        holders[buckets] = left
        found = holders[holders >= 0]
        numbers = np.zeros(1 << 16, dtype=np.int64)
        numbers[holders >= 0] = count + np.arange(found.size)
        same = words[holders[buckets]] == words[left]
        which[left[same]] = numbers[buckets[same]]
        places.append(found)
        count, left = count + found.size, left[~same]
    if left.size:
        _, firsts, inverse = np.unique(words[left], return_index=True, return_inverse=True)
        which[left] = count + inverse
        places.append(left[firsts])
    return np.concatenate(places) if places else left, which
