"""Searches among chosen records: the codes of all that were chosen, or a walk that ends by what it finds of them.

Such a walk finds its way over nodes of any kind, and keeps those that were chosen apart. It ends where the next node
is farther than the slack allows beyond the `near`-th best of these. Among how many nodes they are spread, here and for
this query, decides what slack that is: so a filter that chose what is near costs no more than none. Where next to none of
those near were chosen, the walk gives up, and the codes are to be scanned.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# What kernels take is said by their signatures for Numba, at the end of the file.

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numba import from_dtype, types

from .ahead import ASKED, HASTY, STEADY, ask_ahead
from .beam import given, kinds
from .compile import compiled, helper, reads, writes
from .memory import address_of, as_uint32, load, prefetch
from .pool import FARTHEST, key_of, node_of, score_of, take
from .steps import (
    AHEAD,
    DONE,
    LATER,
    NONE,
    ask_for_next,
    ask_for_row,
    compare,
    expand,
    place_in,
    prepare_query,
    score_node,
    seen_size,
)

LOST = -2
"""How many answers a query has whose walk gave up."""

# How far walks go: places in the pool; the slack that ends it where the `near` best of the chosen are the nearest of all,
# and where `spread` nodes are as near. After so many hops, one looks how many of the `FRONT` nearest were chosen;
# fewer than `least`, or more hops than `hops` in all, and the walk gives up.
WAY = np.dtype(
    [
        ("near", "i8"),
        ("room", "i8"),
        ("reranked", "i8"),
        ("slack", "f8"),
        ("spread", "f8"),
        ("slack_spread", "f8"),
        ("look_after", "i8"),
        ("least", "i8"),
        ("hops", "i8"),
    ]
)
FRONT = 64
_LINE = 64
# The codes of so many nodes are on their way to the cache while one is scored.
_ON_THEIR_WAY = 24


@helper
def _scan(frame, nodes, state, best, room):
    """The nearest codes of these nodes, in order; how many."""
    size = 0
    for i in range(len(nodes)):
        if i + _ON_THEIR_WAY < len(nodes):
            start = frame.codes + types.int64(nodes[i + _ON_THEIR_WAY]) * frame.code_bytes
            for line in range(0, frame.code_bytes, _LINE):
                prefetch(start + line)
        node = types.int64(nodes[i])
        key = key_of(score_node(frame, node, state), node)
        if (size < room or key < best[size - 1]) and take(best, size, room, key) >= 0:
            size = min(size + 1, room)
    return size


@helper
def _is_chosen(frame, mask, node):
    slot = types.int64(load(as_uint32(frame.slots), node))
    return slot < len(mask) and mask[slot] != 0


@helper
def _nearer(pool, size, key):
    """How many keys of a pool are less."""
    low, high = 0, size
    while low < high:
        middle = (low + high) >> 1
        if pool[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low


@helper
def _bound(way, pool, size, best, found, offset):
    """Keys above this cannot lead to answers."""
    bound = pool[way.room - 1] if size == way.room else FARTHEST
    if found >= way.near:
        last = best[way.near - 1]
        slack = way.slack
        if way.spread > way.near:
            among = np.float64(max(_nearer(pool, size, last), way.near)) / np.float64(way.near)
            share = min(math.log(among) / math.log(way.spread / np.float64(way.near)), 1.0)
            slack += share * (way.slack_spread - slack)
        reach = slack * np.float64(score_of(last) + offset) - np.float64(offset)
        if reach < 2e9:
            bound = min(bound, ((types.int64(reach) + 1) << 32) - 1)
    return bound


@helper
def _few_near(frame, way, mask, pool, size):
    count = 0
    for i in range(min(size, FRONT)):
        count += _is_chosen(frame, mask, node_of(pool[i]))
    return count < way.least


@helper
def _walk(frame, way, weights, mask, state, offset, seen, asked, pool, fresh, best, counters):
    """Fills in the best of the chosen: how many; -1 at damage, with the reason in `counters`; or LOST."""
    seen[:] = np.uint32(NONE)
    if frame.cold != 0:
        asked[:] = -1
    places, room, kept = len(seen) - 1, way.room, len(best) - 1
    count = types.int64(frame.entry_count)
    for i in range(count):
        fresh[i] = load(as_uint32(frame.entries), i)
        seen[place_in(fresh[i], places)] = np.uint32(fresh[i])
    counters[1] += count
    size = found = hops = 0
    at, steady, bound = -1, HASTY, FARTHEST
    while True:
        first = size
        for i in range(count):
            key = key_of(score_node(frame, fresh[i], state), fresh[i])
            place = take(pool, size, room, key) if key < bound else types.int64(-1)
            if place < 0:
                continue
            size = min(size + 1, room)
            first = min(first, place)
            if place < at + AHEAD:
                ask_for_row(frame, fresh[i])
            if (found < kept or key < best[found - 1]) and _is_chosen(frame, mask, fresh[i]):
                take(best, found, kept, key)
                found = min(found + 1, kept)
                bound = _bound(way, pool, size, best, found, offset)
        steady = STEADY if first > at else HASTY
        at = min(at + 1, first)
        while at < size and pool[at] & 1:
            at += 1
        if at >= size or pool[at] > bound:
            break
        if hops == way.hops or (hops == way.look_after and _few_near(frame, way, mask, pool, size)):
            return types.int64(LOST)
        if frame.cold != 0:
            ask_ahead(frame, pool, at, size, bound, asked, steady)
        node = node_of(pool[at])
        pool[at] |= 1
        hops += 1
        counters[0] += 1
        count = expand(frame, node, weights, -1, seen, places, fresh, counters)
        if count < 0:
            return types.int64(-1)
        counters[1] += count
        ask_for_next(frame, pool, at + 1, size)
    # A pool that is full of nodes nearer than the answers says nothing of what else lies between.
    if found < way.near or (size == room and best[way.near - 1] > pool[room - 1]):
        return types.int64(LOST)
    return types.int64(found)


@helper
def _compare(tag, frame, way, weights, own, best, size, chosen, others, slots, distances, counters):
    count = min(size, way.reranked)
    for i in range(count):
        chosen[i] = load(as_uint32(frame.slots), node_of(best[i]))
    return compare(tag, frame, weights, own, chosen, count, others, slots, distances, counters)


def _search_walking(
    tag, frames, weights, codec, mask, others, queries, ways, slots, distances, sizes, counters
):
    frame, way = frames[0], ways[0]
    vector, own = np.empty(len(codec[2]), np.float32), np.empty(queries.shape[1], queries.dtype)
    state, asked = np.empty(frame.state_bytes, np.uint8), np.empty(ASKED, np.int64)
    seen, pool = np.empty(seen_size(way.room), np.uint32), np.empty(way.room + 1, np.int64)
    fresh = np.empty(max(frame.degree + LATER, frame.entry_count), np.int64)
    chosen = np.empty(way.reranked, np.int64)
    best = np.empty(max(way.near, way.reranked) + 1, np.int64)
    for q in range(len(queries)):
        offset = prepare_query(frame, codec, queries[q], vector, own, state)
        size = _walk(
            frame, way, weights, mask, address_of(state), offset, seen, asked, pool, fresh, best, counters
        )
        sizes[q] = size
        if size >= 0:
            sizes[q] = _compare(
                tag, frame, way, weights, own, best, size, chosen, others, slots[q], distances[q], counters
            )
        if sizes[q] == -1:
            return counters[2]
    return DONE


def _search_scanning(
    tag, frames, weights, codec, nodes, others, queries, ways, slots, distances, sizes, counters
):
    frame, way = frames[0], ways[0]
    vector, own = np.empty(len(codec[2]), np.float32), np.empty(queries.shape[1], queries.dtype)
    state = np.empty(frame.state_bytes, np.uint8)
    best, chosen = np.empty(way.reranked + 1, np.int64), np.empty(way.reranked, np.int64)
    for q in range(len(queries)):
        prepare_query(frame, codec, queries[q], vector, own, state)
        size = _scan(frame, nodes, address_of(state), best, way.reranked)
        counters[1] += len(nodes)
        sizes[q] = _compare(
            tag, frame, way, weights, own, best, size, chosen, others, slots[q], distances[q], counters
        )
        if sizes[q] == -1:
            return counters[2]
    return DONE


@functools.cache
def walk(dtype: str) -> Any:
    """The kernel that answers queries by walks that look for chosen records.

    `(frame: FRAME[1], weights: uint64[w], codec, mask: uint8[slots], others: int64[m], queries (n, dim), way: WAY[1],
    slots: int64[n, k], distances: float64[n, k], sizes: int64[n], counters: int64[4]) -> DONE, DAMAGED or FOREIGN`.
    The mask has a 1 for each slot that was chosen; what is in the slots `others` is compared besides. A walk that gave up
    leaves LOST for a size. Counters are `beam.search`'s.
    """
    return _kernel(dtype, _search_walking, types.uint8)


@functools.cache
def scan(dtype: str) -> Any:
    """As `walk`, by the codes of all nodes that were chosen: `nodes: uint32[c]`, ascending, in the mask's place."""
    return _kernel(dtype, _search_scanning, types.uint32)


def _kernel(dtype: str, function: Any, chosen: Any) -> Any:
    i64 = types.int64
    tag, query, _ = kinds(dtype)
    way = types.Array(from_dtype(WAY), 1, "C", readonly=True)
    answers = (writes(i64, 2), writes(types.float64, 2), writes(i64), writes(i64))
    kernel = compiled(function, *given(dtype)[:4], reads(chosen), reads(i64), reads(query, 2), way, *answers)
    return functools.partial(kernel, tag)


def _nodes_of(slots, mask, nodes):
    count = 0
    for node in range(len(slots)):
        slot = types.int64(slots[node])
        if slot < len(mask):
            nodes[count] = node
            count += mask[slot] != 0
    return count


@functools.cache
def nodes_of() -> Any:
    """`(slots: uint32[n], mask: uint8[], nodes: uint32[n + 1]) -> int`: the nodes whose slots have a 1, in order."""
    return compiled(_nodes_of, reads(types.uint32), reads(types.uint8), writes(types.uint32))
