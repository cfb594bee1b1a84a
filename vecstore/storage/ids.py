"""From id to slot: an extendible hash table in blocks of one page.

The top bits of an id's hash choose a bucket through the directory; the bucket holds the hash's upper
half and the slot, sorted. A full bucket splits in two; the directory doubles when it must. Nothing
else moves, so that an insert touches one block.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vecstore.errors import StorageError
from vecstore.kernels import dispatch
from vecstore.storage import keys
from vecstore.storage.blocks import HEAD_BYTES, count_of, damaged, extra_of, head_of, payload, set_count
from vecstore.storage.session import Session
from vecstore.storage.state import Blocks, Numbers

Hashes = NDArray[np.uint64]

_SHORT = 64
_HASH_CHUNK = 1 << 16
_LOW = (1 << 32) - 1


@dataclass(frozen=True)
class Ids:
    """A batch of ids: as given, and as the tables want them."""

    values: list[str | int]
    text: NDArray[np.bool_]
    hashes: Hashes

    def __len__(self) -> int:
        return len(self.values)

    @property
    def marks(self) -> NDArray[np.int64]:
        """What the slot table keeps: an integer id itself, a text id's hash."""
        marks = self.hashes.astype(np.int64)
        whole = np.flatnonzero(~self.text)
        if whole.size == marks.size:
            return np.array(self.values, dtype=np.int64)
        for place in whole.tolist():
            marks[place] = self.values[place]
        return marks

    def may_repeat(self) -> bool:
        """False if no id can come twice: equal ids have equal hashes."""
        ordered = np.sort(self.hashes)
        return bool((ordered[1:] == ordered[:-1]).any())

    def take(self, places: Numbers) -> Ids:
        values = [self.values[place] for place in places.tolist()]
        return Ids(values, self.text[places], self.hashes[places])


def hash_ids(values: Sequence[str | int], seed: int) -> Ids:
    """Hash checked ids; keyed by the collection's seed.

    >>> bool(hash_ids(["a", 1], 7).hashes[0] == hash_ids(["a"], 7).hashes[0])
    True
    """
    ids = list(values)
    kinds = set(map(type, ids))
    text = np.full(len(ids), kinds == {str})
    if len(kinds) > 1:
        text[:] = [type(value) is str for value in ids]
    hashes = np.empty(len(ids), dtype=np.uint64)
    if text.all():
        _hash_texts(ids, hashes, seed)  # type: ignore[arg-type]
    elif not text.any():
        hashes[:] = _mix(np.array(ids, dtype=np.int64).view(np.uint64) ^ _key(seed, 1)[0])
    else:
        for is_text in (True, False):
            places = np.flatnonzero(text == is_text)
            part = hash_ids([ids[place] for place in places.tolist()], seed)
            hashes[places] = part.hashes
    return Ids(ids, text, hashes)


def _hash_texts(texts: list[str], hashes: Hashes, seed: int) -> None:
    """Sums of code points times secret weights, a column at a time; long ids go through BLAKE2."""
    weights = _key(seed, _SHORT + 2)
    for start in range(0, len(texts), _HASH_CHUNK):
        chunk = texts[start : start + _HASH_CHUNK]
        lengths = np.fromiter(map(len, chunk), dtype=np.int64, count=len(chunk))
        short = lengths <= _SHORT
        if not short.all():
            for place in np.flatnonzero(~short).tolist():
                digest = hashlib.blake2b(chunk[place].encode(), digest_size=8, key=seed.to_bytes(8, "little"))
                hashes[start + place] = int.from_bytes(digest.digest(), "little")
            chunk = [value if len(value) <= _SHORT else "" for value in chunk]
            lengths[~short] = 0
        sums = _weighed(chunk, lengths, weights) + lengths.astype(np.uint64) * weights[_SHORT]
        found = _mix(sums ^ weights[_SHORT + 1])
        hashes[start : start + len(chunk)][short] = found[short]


def _weighed(texts: list[str], lengths: Numbers, weights: Hashes) -> Hashes:
    kernels = dispatch.packing_kernels() if len(texts) > 100 else None
    whole = "".join(texts) if kernels is not None else ""
    if kernels is not None and whole.isascii():
        sums = np.empty(len(texts), dtype=np.uint64)
        points = np.frombuffer(whole.encode(), dtype=np.uint8)
        kernels.weigh_texts()(points, np.cumsum(lengths), weights, sums)
        return sums
    array = np.array(texts, dtype=np.str_)
    width = array.dtype.itemsize // 4
    weighed: Hashes = array.view(np.uint32).reshape(len(texts), width).astype(np.uint64) @ weights[:width]
    return weighed


@functools.lru_cache(16)
def _key(seed: int, length: int) -> Hashes:
    steps: Hashes = np.arange(1, length + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        steps *= np.uint64(0x9E3779B97F4A7C15)
        steps += np.uint64(seed)
    key = _mix(steps)
    key.flags.writeable = False
    return key


def _mix(x: Hashes) -> Hashes:
    """The finaliser of splitmix64: a bijection in which every bit depends on every bit."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: Hashes = x ^ (x >> np.uint64(31))
    return mixed


# -- reading


def lookup(blocks: Blocks, hashes: Hashes) -> tuple[Numbers, Numbers]:
    """Candidates, as (place in the batch, slot): all slots whose id's hash has the same upper half."""
    if blocks.header.counts[keys.IDS] == 0 or hashes.size == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    halves = (hashes >> np.uint64(32)).astype(np.uint32)
    buckets = directory(blocks)[_prefixes(halves, blocks.header.depth)].astype(np.int64)
    if hashes.size <= 8:
        return _lookup_few(blocks, halves, buckets)
    return _lookup_many(blocks, halves, buckets)


def _lookup_few(blocks: Blocks, halves: NDArray[np.uint32], buckets: Numbers) -> tuple[Numbers, Numbers]:
    places, slots = [], []
    for place, (half, bucket) in enumerate(zip(halves, buckets.tolist(), strict=True)):
        known, at = _entries(blocks.block(keys.IDS, bucket))
        low, high = np.searchsorted(known, half, side="left"), np.searchsorted(known, half, side="right")
        places += [place] * int(high - low)
        slots += at[low:high].tolist()
    return np.array(places, dtype=np.int64), np.array(slots, dtype=np.int64)


def _lookup_many(blocks: Blocks, halves: NDArray[np.uint32], buckets: Numbers) -> tuple[Numbers, Numbers]:
    """All binary searches at once, each step one gather over all buckets."""
    distinct, inverse = np.unique(buckets, return_inverse=True)
    rows = blocks.file_rows(keys.IDS, distinct)
    if rows is None:
        data = np.concatenate([blocks.block(keys.IDS, number) for number in distinct.tolist()])
        starts = np.arange(distinct.size) * blocks.layout.length(keys.IDS)
    else:
        data, starts = rows
    words = data[: data.size // 4 * 4].view("<u4")
    starts = starts // 4
    first = (starts + HEAD_BYTES // 4)[inverse]
    low = np.zeros(halves.size, dtype=np.int64)
    high = words[starts + 7].astype(np.int64)[inverse]
    counts = high.copy()
    if (counts > _capacity(blocks)).any():
        raise damaged(keys.IDS, int(buckets[np.argmax(counts)]), "it counts more entries than it can hold")
    for _ in range(int(counts.max()).bit_length()):
        middle = (low + high) >> 1
        below = words[first + np.minimum(middle, np.maximum(counts - 1, 0))] < halves
        open_ = low < high
        low = np.where(open_ & below, middle + 1, low)
        high = np.where(open_ & ~below, middle, high)
    capacity = _capacity(blocks)
    places, slots = [], []
    at = np.arange(halves.size)
    while at.size:
        at = at[low[at] < counts[at]]
        at = at[words[first[at] + low[at]] == halves[at]]
        places.append(at)
        slots.append(words[first[at] + capacity + low[at]].astype(np.int64))
        low[at] += 1
    return np.concatenate(places), np.concatenate(slots)


def directory(blocks: Blocks) -> NDArray[np.uint32]:
    """Bucket of each hash prefix."""
    known = blocks.cache.get("directory")
    if known is None:
        parts = [
            payload(blocks.block(keys.DIRECTORY, number)).view("<u4")
            for number in range(blocks.header.counts[keys.DIRECTORY])
        ]
        known = np.concatenate(parts)[: 1 << blocks.header.depth]
        if known.size != 1 << blocks.header.depth or (known >= blocks.header.counts[keys.IDS]).any():
            raise damaged(keys.DIRECTORY, 0, "it names buckets that do not exist")
        blocks.cache["directory"] = known
    assert isinstance(known, np.ndarray)
    return known


def _prefixes(halves: NDArray[np.uint32], depth: int) -> Numbers:
    return halves.astype(np.int64) >> (32 - depth)


def _capacity(blocks: Blocks) -> int:
    return blocks.layout.table_payload // 8


def _entries(block: NDArray[np.uint8]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """(upper halves, slots) of a bucket, sorted."""
    words = payload(block).view("<u4")
    capacity, count = words.size // 2, count_of(block)
    if count > capacity:
        raise damaged(keys.IDS, int(head_of(block)["number"]), "it counts more entries than it can hold")
    return words[:count], words[capacity : capacity + count]


# -- writing


def insert(session: Session, hashes: Hashes, slots: Numbers) -> None:
    """Add ids that are known to be absent."""
    if hashes.size == 0:
        return
    if session.header.counts[keys.IDS] == 0:
        session.create(keys.IDS)
        session.header.depth = 0
        _set_directory(session, np.zeros(1, dtype=np.uint32))
    halves = (hashes >> np.uint64(32)).astype(np.uint32)
    # One sort of words is far quicker than one of places.
    words = np.sort(hashes & ~np.uint64(_LOW) | np.arange(hashes.size, dtype=np.uint64))
    order = (words & np.uint64(_LOW)).astype(np.int64)
    halves, new_slots = halves[order], slots[order].astype(np.uint32)
    table = directory(session)
    buckets = table[_prefixes(halves, session.header.depth)]
    # A bucket covers one run of prefixes, so sorting by hash has grouped by bucket.
    starts = np.flatnonzero(np.r_[True, buckets[1:] != buckets[:-1]])
    splits: list[tuple[int, NDArray[np.uint32], NDArray[np.uint32]]] = []
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), halves.size], strict=True):
        number = int(buckets[start])
        block = session.edit(keys.IDS, number)
        known, at = _entries(block)
        merged = np.concatenate((known, halves[start:end]))
        merged_slots = np.concatenate((at, new_slots[start:end]))
        by_half = np.argsort(merged, kind="stable")
        merged, merged_slots = merged[by_half], merged_slots[by_half]
        if merged.size <= _capacity(session):
            _fill(block, merged, merged_slots, extra_of(block))
        else:
            splits.append((number, merged, merged_slots))
    if splits:
        _split(session, splits)


def remove(session: Session, hashes: Hashes, slots: Numbers) -> None:
    """Take ids out; their buckets stay, for the next ones."""
    halves = hashes >> np.uint64(32)
    words = halves << np.uint64(32) | slots.astype(np.uint64)
    buckets = directory(session)[_prefixes(halves.astype(np.uint32), session.header.depth)]
    order = np.argsort(buckets, kind="stable")
    buckets, words = buckets[order], words[order]
    starts = (
        np.flatnonzero(np.r_[True, buckets[1:] != buckets[:-1]]) if buckets.size else np.zeros(0, dtype=int)
    )
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), buckets.size], strict=False):
        block = session.edit(keys.IDS, int(buckets[start]))
        known, at = _entries(block)
        kept = ~np.isin(known.astype(np.uint64) << np.uint64(32) | at, words[start:end])
        _fill(block, known[kept], at[kept], extra_of(block))


def _fill(
    block: NDArray[np.uint8], halves: NDArray[np.uint32], slots: NDArray[np.uint32], depth: int
) -> None:
    words = payload(block).view("<u4")
    capacity = words.size // 2
    words[: halves.size] = halves
    words[halves.size : capacity] = 0
    words[capacity : capacity + slots.size] = slots
    words[capacity + slots.size :] = 0
    set_count(block, halves.size, depth)


def _split(session: Session, splits: list[tuple[int, NDArray[np.uint32], NDArray[np.uint32]]]) -> None:
    """Spread overfull buckets over as many new ones as they need, and double the directory where it must."""
    pieces: list[tuple[int, int, int]] = []  # (depth, prefix, bucket)
    for number, halves, slots in splits:
        depth = extra_of(session.block(keys.IDS, number))
        prefix = int(halves[0]) >> (32 - depth)
        found = _pieces(halves, depth, prefix, _capacity(session))
        for place, (piece_depth, piece_prefix, low, high) in enumerate(found):
            if place == 0:
                bucket, block = number, session.edit(keys.IDS, number)
            else:
                bucket, block = session.create(keys.IDS, session.header.counts[keys.IDS])
            _fill(block, halves[low:high], slots[low:high], piece_depth)
            pieces.append((piece_depth, piece_prefix, bucket))
    depth = max(session.header.depth, max(piece[0] for piece in pieces))
    table = np.repeat(directory(session), 1 << (depth - session.header.depth))
    for piece_depth, prefix, bucket in pieces:
        width = depth - piece_depth
        table[prefix << width : (prefix + 1) << width] = bucket
    session.header.depth = depth
    _set_directory(session, table)


def _pieces(
    halves: NDArray[np.uint32], depth: int, prefix: int, capacity: int
) -> list[tuple[int, int, int, int]]:
    """Halve a sorted run of hashes by its next bit until each piece fits: (depth, prefix, low, high)."""
    done: list[tuple[int, int, int, int]] = []
    waiting = [(depth, prefix, 0, halves.size)]
    while waiting:
        depth, prefix, low, high = waiting.pop()
        if high - low <= capacity:
            done.append((depth, prefix, low, high))
            continue
        if depth == 32:
            raise StorageError(
                "too many ids share one hash; export the collection and import it into a new one"
            )
        border = np.uint32(((prefix << 1) | 1) << (31 - depth))
        middle = low + int(halves[low:high].searchsorted(border))
        waiting.append((depth + 1, prefix << 1 | 1, middle, high))
        waiting.append((depth + 1, prefix << 1, low, middle))
    return done


def _set_directory(session: Session, table: NDArray[np.uint32]) -> None:
    """Write the parts of the directory that changed."""
    per_block = session.layout.table_payload // 4
    for number in range(-(-table.size // per_block)):
        part = table[number * per_block : (number + 1) * per_block]
        if number < session.header.counts[keys.DIRECTORY]:
            known = payload(session.block(keys.DIRECTORY, number)).view("<u4")
            if np.array_equal(known[: part.size], part):
                continue
            block = session.edit(keys.DIRECTORY, number)
        else:
            _, block = session.create(keys.DIRECTORY, number)
        payload(block).view("<u4")[: part.size] = part
        set_count(block, part.size)
    session.cache["directory"] = table
