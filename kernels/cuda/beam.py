"""The walk of `cpu/beam` for many queries at once: a block of threads each, codes and edges held on the card.

A hop is five steps with a barrier after each: the threads read a row of edges and put what was not seen yet on a list;
score its codes, neighbouring threads the pieces of one code; keep what is near enough and not in the pool; sort that by
counting; and merge it into the other half of the pool. So a pool holds what the CPU's holds, hop after hop, except that a
row's nodes are let in by the bound from before the row: some that are too far to go on from may stand at its end.

Nothing that was read is believed: a neighbour's number is compared with the count of nodes before it becomes an address.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numba import cuda, float64, int32, int64, uint16
from numpy.typing import NDArray

from .. import reference_codes as layout
from .card import Card, DeviceArray, simulated
from .compile import device, kernel
from .score import PIECE, begin, line_words, of_bits, piece, squares, state_bytes, sums
from .words import load_four

NONE = 0xFFFFFFFF
LATER = 64
"""Of the edges that came later, a hop looks at this many."""
MOST_ROOM = 1024
"""The longest pool: each hop moves all of it, so that longer ones are quicker on the CPU."""
WIDTH_STEP = 8
"""Rows are filled up to whole sectors of 32 bytes, which is what the card reads."""

FARTHEST = 0x7FFFFFFFFFFFFFFF
_UNSEEN = -1
_SEEN_A_PLACE, _SEEN_LEAST, _SEEN_MOST = 32, 1 << 12, 1 << 20
# Threads of a block, and their registers: ten blocks share a multiprocessor of an H100 then, about as many as its shared
# memory has room for, and nothing is spilled. Threads that score one code. Shared memory that a block has unasked.
_THREADS, _REGISTERS = 4 if simulated() else 64, 96
_LANES = 8
_SHARED = 48 << 10
# Tables of product codes that are longer stay in the card's memory, which costs less than a block for each multiprocessor.
_SHARED_TABLE = 24 << 10
# Blocks for each multiprocessor where the table of what was seen lies in the card's memory.
_BLOCKS = 10
# In the tally: nodes on the list, nodes that are near enough, whether one is twice among these, a row that is wrong.
_LISTED, _NEAR, _TWICE, _WRONG, _TALLY = 0, 1, 2, 3, 4
# The bits of a thread's number: with these alone it cannot be negative, and indexes need no second look.
_LOW = 0x3FF
HOPS, SCORES, STATUS, NODE = range(4)


def seen_size(room: int) -> int:
    """As on the CPU, so that as much is scored."""
    size = _SEEN_LEAST
    while size < _SEEN_A_PLACE * room and size < _SEEN_MOST:
        size *= 2
    return size


@device
def _place_in(node, mask):
    return (node * 2654435761 >> 7) & mask


@device
def _not_above(pool, start, size, key):
    """How many keys of a sorted pool are not above one."""
    low, high = 0, size
    while low < high:
        middle = (low + high) >> 1
        if pool[start + middle] <= key:
            low = middle + 1
        else:
            high = middle
    return low


@device
def _bound(pool, start, size, room, near, slack, offset):
    """Keys above this cannot become part of the walk."""
    bound = int64(FARTHEST)
    if size == room:
        bound = pool[start + room - 1]
    if slack > 0.0 and size >= near:
        # Three operations a hop in float64, so that walks end where the CPU's end.
        reach = slack * float64((pool[start + near - 1] >> 32) + offset) - float64(offset)
        if reach < 2e9:
            bound = min(bound, ((int64(reach) + 1) << 32) - 1)
    return bound


@device
def _once(keys, first, places, start, count):
    """Leaves sorted keys, and their places, only once each; how many are left."""
    kept = 0
    for i in range(count):
        if kept == 0 or keys[first + i] != keys[first + kept - 1]:
            keys[first + kept] = keys[first + i]
            places[start + kept] = places[start + i]
            kept += 1
    return kept


class Plan(NamedTuple):
    """What a kernel is compiled for, and how a block's shared memory is laid out."""

    kind: int
    # Of a code; of a row; and neighbours that a hop may find.
    words: int
    across: int
    width: int
    # Threads for a code.
    lanes: int
    # Whether the table of what was seen, and that of a product code's query, are in shared memory or beside it.
    seen_here: bool
    table_here: bool

    def places(self) -> tuple[int, ...]:
        """Where the 32-bit words of tally, list, places, parts and state begin, and the 64-bit words of the pool."""
        tally = 4 * self.width
        listed = tally + _TALLY
        places = listed + self.width
        parts = places + 2 * self.width
        state = parts + sums(self.kind) * self.lanes * self.width
        state += -state % 4
        here = self.table_here or self.kind not in layout.PRODUCTS
        end = state + (state_bytes(self.kind, 4 * self.words) // 4 if here else 0)
        return tally, listed, places, parts, state, (end + 1) // 2

    def nbytes(self, room: int) -> int:
        """The shared memory of a block."""
        return 8 * (self.places()[-1] + 2 * room) + (4 * seen_size(room) if self.seen_here else 0)


@functools.cache
def walk(plan: Plan) -> Any:
    """The kernel for one kind of codes and graphs.

    `(codes: int32[], rows: uint32[n, across], starts: int64[nodes + 1] or [0], later: uint32[], entries: uint32[],
    states: int32[q, words], tables: uint16[q, 2 * words], offsets: int64[q], skips: int64[q], scratch: int32[blocks,
    seen or 1], nodes, room, near, mask, slack, pools: uint32[q, room], sizes: int32[q], counts: int32[q, 4])`. A pool has
    the nodes doubled, nearest first, and 1 more for those that the walk went on from. Counts are hops, scores, whether a
    row had a number that is no node's, and that row's node.
    """
    kind, words, across, width, lanes, seen_here, table_here = plan
    pieces, pairs, product = words // 4, sums(kind), kind in layout.PRODUCTS
    line, state_words = line_words(4 * words), state_bytes(kind, 4 * words) // 4
    # Where things lie in shared memory: in words of 64 bits the first two and the pool, of 32 bits all others.
    close, ordered, (tally, listed, places, parts, state, pool) = 0, width, plan.places()

    def walk_all(
        codes, rows, starts, later, entries, states, tables, offsets, skips, scratch, nodes, room, near, mask, slack,
        pools, sizes, counts,
    ):  # fmt: skip
        thread, threads = cuda.threadIdx.x & _LOW, cuda.blockDim.x & _LOW
        longs = cuda.shared.array(0, int64)
        shorts = cuda.shared.array(0, int32)
        halves = cuda.shared.array(0, uint16)
        table = halves[2 * state :]
        seen = shorts[2 * (pool + 2 * room) : 2 * (pool + 2 * room) + mask + 1]
        if not seen_here:
            seen = scratch[cuda.blockIdx.x]
        at_once, lane, mine = threads // lanes, thread % lanes, thread // lanes

        for query in range(cuda.blockIdx.x, len(offsets), cuda.gridDim.x):
            skip, offset = skips[query], offsets[query]
            for i in range(thread, mask + 1, threads):
                seen[i] = _UNSEEN
            if product and not table_here:
                table = tables[query]
            else:
                for i in range(thread, state_words, threads):
                    shorts[state + i] = begin(kind, states[query, i])
            for i in range(thread, _TALLY, threads):
                shorts[tally + i] = 0
            cuda.syncthreads()
            own = int64(0)
            for p in range(lane, pieces, lanes):
                own += squares(kind, shorts, state + 8 * p)
            half = size = at = hops = scores = entered = int64(0)
            bound = int64(FARTHEST)
            while True:
                entering = entered < len(entries)
                if entering:
                    # The first nodes of a walk are on no row: they are scored as if they were.
                    count = min(width, len(entries) - entered)
                    for i in range(thread, count, threads):
                        shorts[listed + i] = entries[entered + i]
                    entered += count
                    cuda.syncthreads()
                else:
                    while at < size and longs[pool + half + at] & 1:
                        at += 1
                    bound = _bound(longs, pool + half, size, room, near, slack, offset)
                    if at >= size or longs[pool + half + at] > bound:
                        break
                    node = (longs[pool + half + at] & NONE) >> 1
                    hops += 1
                    begins = fills = int64(0)
                    if len(starts) > 0:
                        begins = starts[node]
                        fills = min(starts[node + 1] - begins, LATER)
                    for edge in range(thread, across + fills, threads):
                        if edge < across:
                            other = int64(rows[node, edge])
                        else:
                            other = int64(later[begins + edge - across])
                        if other < nodes:
                            old = cuda.atomic.exch(seen, _place_in(other, mask), int32(other))
                            if old != other and other != skip:
                                shorts[listed + cuda.atomic.add(shorts, tally + _LISTED, 1)] = other
                        elif other != NONE:
                            shorts[tally + _WRONG] = 1
                    cuda.syncthreads()
                    count = int64(shorts[tally + _LISTED])
                    if shorts[tally + _WRONG] != 0:
                        break
                    if thread == 0:
                        longs[pool + half + at] |= 1
                scores += count

                if mine < at_once:
                    for i in range(mine, count, at_once):
                        first = int64(shorts[listed + i]) * words
                        total = own
                        for p in range(lane, pieces, lanes):
                            four = load_four(codes, first + 4 * p)
                            total += piece(kind, four, shorts, state, table, 4 * p, line)
                        if pairs == 2:
                            shorts[parts + (lanes + lane) * width + i] = total >> 32
                            total &= NONE
                        shorts[parts + lane * width + i] = total
                if thread == 0:
                    shorts[tally + _NEAR] = 0
                    shorts[tally + _TWICE] = 0
                cuda.syncthreads()

                for i in range(thread, count, threads):
                    score = either = int64(0)
                    for part in range(lanes):
                        score += shorts[parts + part * width + i]
                        if pairs == 2:
                            either += shorts[parts + (lanes + part) * width + i]
                    if pairs == 2:
                        score = of_bits(score, either)
                    other = int64(shorts[listed + i])
                    key = (score << 32) | (other << 1)
                    if key < bound and other != skip:
                        before = _not_above(longs, pool + half, size, key | 1)
                        if before < room and (before == 0 or longs[pool + half + before - 1] | 1 != key | 1):
                            place = cuda.atomic.add(shorts, tally + _NEAR, 1)
                            longs[close + place] = key
                            shorts[places + place] = before
                if thread == 0:
                    shorts[tally + _LISTED] = 0
                cuda.syncthreads()
                count = int64(shorts[tally + _NEAR])
                if count == 0:
                    continue

                for i in range(thread, count, threads):
                    key, rank = longs[close + i], 0
                    for j in range(count):
                        if longs[close + j] < key:
                            rank += 1
                        elif longs[close + j] == key and j < i:
                            rank += 1
                            shorts[tally + _TWICE] = 1
                    longs[ordered + rank] = key
                    shorts[places + width + rank] = shorts[places + i]
                cuda.syncthreads()
                if shorts[tally + _TWICE] != 0:
                    if thread == 0:
                        shorts[tally + _NEAR] = _once(longs, ordered, shorts, places + width, count)
                    cuda.syncthreads()
                    count = int64(shorts[tally + _NEAR])

                there = room - half
                for i in range(thread, size, threads):
                    key = longs[pool + half + i]
                    place = i + _not_above(longs, ordered, count, key)
                    if place < room:
                        longs[pool + there + place] = key
                for i in range(thread, count, threads):
                    key, place = longs[ordered + i], i + shorts[places + width + i]
                    if place < room:
                        longs[pool + there + place] = key
                        if entering:
                            other = (key & NONE) >> 1
                            seen[_place_in(other, mask)] = other
                at = min(at, int64(shorts[places + width]))
                cuda.syncthreads()
                half, size = there, min(size + count, room)

            for i in range(thread, size, threads):
                pools[query, i] = longs[pool + half + i] & NONE
            if thread == 0:
                sizes[query] = size
                counts[query, HOPS], counts[query, SCORES] = hops, scores
                counts[query, STATUS] = shorts[tally + _WRONG]
                counts[query, NODE] = (longs[pool + half + at] & NONE) >> 1 if at < size else 0
            cuda.syncthreads()

    return kernel(walk_all, _REGISTERS)


# --- what the host has of it -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """A graph on the card: codes word by word, rows filled up with NONE, and later edges by their node, newest first.

    The edges of node i that came later are `later[starts[i] : starts[i + 1]]`; where there are none at all, both are
    of length 0. Arrays may be longer than what they hold.
    """

    card: Card
    kind: int
    nodes: int
    code_bytes: int
    codes: DeviceArray
    rows: DeviceArray
    starts: DeviceArray
    later: DeviceArray
    entries: DeviceArray

    def release(self) -> None:
        """Give its memory back."""
        self.card.release(self.codes, self.rows, self.starts, self.later, self.entries)

    @property
    def across(self) -> int:
        return int(self.rows.shape[1])

    @property
    def width(self) -> int:
        """How many neighbours a hop may find. The same whether edges came later or not: kernels are compiled for it."""
        return self.across + LATER


def across(degree: int) -> int:
    """The numbers in a row as the card holds it."""
    return -(-degree // WIDTH_STEP) * WIDTH_STEP


class Found(NamedTuple):
    """What walks of so many queries found; valid until the berth is sent for others."""

    pools: NDArray[np.uint32]
    sizes: NDArray[np.int32]
    counts: NDArray[np.int32]


class Berth:
    """Room for some queries under way, on the host and on the card: fill in what they are, `send` them, and `fetch`.

    Two of them take turns, so that the host prepares queries and compares what was found while the card walks.
    """

    def __init__(self, held: Held, most: int, room: int, threads: int = _THREADS) -> None:
        card = held.card
        self.held, self.most, self.room, self._threads = held, most, room, threads
        n_bytes = state_bytes(held.kind, held.code_bytes)
        self.states = card.pinned((most, n_bytes), np.uint8)
        self.offsets = card.pinned(most, np.int64)
        self.skips = card.pinned(most, np.int64)
        self._found = Found(
            card.pinned((most, room), np.uint32),
            card.pinned(most, np.int32),
            card.pinned((most, 4), np.int32),
        )
        self._plan = _plan(held, room, threads)
        self._stream = card.stream()
        self._states = card.empty((most, n_bytes // 4), np.int32)
        self._offsets, self._skips = card.empty(most, np.int64), card.empty(most, np.int64)
        self._pools, self._sizes = card.empty((most, room), np.uint32), card.empty(most, np.int32)
        self._counts = card.empty((most, 4), np.int32)
        here = self._plan.seen_here
        self._blocks = most if here else max(1, min(most, _BLOCKS * card.multiprocessors))
        self._scratch = card.empty((1, 1) if here else (self._blocks, seen_size(room)), np.int32)
        self.asked = 0, 0, 0.0
        """What `send` was told last."""

    @staticmethod
    def nbytes(held: Held, most: int, room: int) -> int:
        """What one takes on the card."""
        each = state_bytes(held.kind, held.code_bytes) + 4 * room + 36
        here = _plan(held, room, _THREADS).seen_here
        blocks = 0 if here else min(most, _BLOCKS * held.card.multiprocessors)
        return most * each + 4 * blocks * seen_size(room) + 128

    def release(self) -> None:
        """Give its memory on the card back."""
        self.held.card.release(
            self._states, self._offsets, self._skips, self._pools, self._sizes, self._counts, self._scratch
        )

    def send(self, count: int, near: int, slack: float) -> None:
        """Let the first queries that were filled in walk. It is only begun when this returns."""
        card, held, stream = self.held.card, self.held, self._stream
        self.asked = count, near, slack
        with card.working():
            card.copy(self.states[:count].view(np.int32), self._states[:count], stream)
            card.copy(self.offsets[:count], self._offsets[:count], stream)
            card.copy(self.skips[:count], self._skips[:count], stream)
            launch = walk(self._plan)
            launch[min(count, self._blocks), self._threads, stream, self._plan.nbytes(self.room)](
                held.codes, held.rows, held.starts, held.later, held.entries,
                self._states, self._states.view(np.uint16), self._offsets[:count], self._skips[:count], self._scratch,
                held.nodes, self.room, near, seen_size(self.room) - 1, float(slack),
                self._pools, self._sizes, self._counts,
            )  # fmt: skip
            for there, here in zip((self._pools, self._sizes, self._counts), self._found, strict=True):
                card.get(there[:count], here[:count], stream)

    def fetch(self) -> Found:
        """What was found, once it is there."""
        with self.held.card.working():
            self._stream.synchronize()
        return Found._make(each[: self.asked[0]] for each in self._found)


def _plan(held: Held, room: int, threads: int) -> Plan:
    lanes = min(_LANES, held.code_bytes // PIECE, threads)
    table_here = held.kind not in layout.PRODUCTS or state_bytes(held.kind, held.code_bytes) <= _SHARED_TABLE
    plan = Plan(held.kind, held.code_bytes // 4, held.across, held.width, lanes, True, table_here)
    return plan if plan.nbytes(room) <= _SHARED else plan._replace(seen_here=False)
