"""Walks among chosen records, that end by what they find of them.

Such a walk finds its way over nodes of any kind, and keeps those that were chosen apart. It ends where the next node
is farther than the slack allows beyond the `near`-th best of these. Among how many nodes they are spread, here and for
this query, decides what slack that is: so a filter that chose what is near costs no more than none. Where next to none of
those near were chosen, the walk gives up.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# What kernels take is said by their signatures for Numba, at the end of the file.

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numba import types

from .ahead import ASKED, HASTY, STEADY, ask_ahead
from .chosen import LOST, compare_best, is_chosen, kernel
from .compile import helper
from .memory import address_of, as_uint32, load
from .pool import FARTHEST, key_of, node_of, score_of, take
from .steps import (
    AHEAD,
    DONE,
    LATER,
    NONE,
    ask_for_next,
    ask_for_row,
    expand,
    place_in,
    prepare_query,
    score_node,
    seen_size,
)

FRONT = 64


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
def _few_near(frame, way, tables, pool, size):
    count = 0
    for i in range(min(size, FRONT)):
        count += is_chosen(frame, tables, node_of(pool[i]))
    return count < way.least


@helper
def walk(frame, way, weights, tables, state, offset, seen, asked, pool, fresh, count, best, counters):
    """Fills in the best of the chosen: how many; -1 at damage, with the reason in `counters`; or LOST.

    It begins at so many nodes in `fresh`.
    """
    seen[:] = np.uint32(NONE)
    if frame.cold != 0:
        asked[:] = -1
    places, room, kept = len(seen) - 1, way.room, len(best) - 1
    for i in range(count):
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
            if (found < kept or key < best[found - 1]) and is_chosen(frame, tables, fresh[i]):
                take(best, found, kept, key)
                found = min(found + 1, kept)
                bound = _bound(way, pool, size, best, found, offset)
        steady = STEADY if first > at else HASTY
        at = min(at + 1, first)
        while at < size and pool[at] & 1:
            at += 1
        if at >= size or pool[at] > bound:
            break
        if hops == way.hops or (hops == way.look_after and _few_near(frame, way, tables, pool, size)):
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


def _search_walking(
    tag, frames, weights, codec, tables, others, queries, ways, slots, distances, sizes, counters
):
    frame, way, chosen_of = frames[0], ways[0], tables[0]
    vector, own = np.empty(len(codec[2]), np.float32), np.empty(queries.shape[1], queries.dtype)
    state, asked = np.empty(frame.state_bytes, np.uint8), np.empty(ASKED, np.int64)
    seen, pool = np.empty(seen_size(way.room), np.uint32), np.empty(way.room + 1, np.int64)
    fresh = np.empty(max(frame.degree + LATER, frame.entry_count), np.int64)
    chosen = np.empty(way.reranked, np.int64)
    best = np.empty(max(way.near, way.reranked) + 1, np.int64)
    for q in range(len(queries)):
        offset = prepare_query(frame, codec, queries[q], vector, own, state)
        for i in range(frame.entry_count):
            fresh[i] = load(as_uint32(frame.entries), i)
        size = walk(
            frame, way, weights, chosen_of, address_of(state), offset, seen, asked, pool, fresh, frame.entry_count,
            best, counters,
        )  # fmt: skip
        sizes[q] = size
        if size >= 0:
            sizes[q] = compare_best(
                tag, frame, way, weights, own, best, size, chosen, others, slots[q], distances[q], counters
            )
        if sizes[q] == -1:
            return counters[2]
    return DONE


@functools.cache
def search(dtype: str) -> Any:
    """The kernel that answers queries by walks that look for chosen records: see `chosen.kernel`.

    A walk that gave up leaves LOST for a size.
    """
    return kernel(dtype, _search_walking)
