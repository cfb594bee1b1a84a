"""The walk over the graph: from the entries to the nearest codes, then exact distances of the best.

A walk expands the nearest node that it has not yet expanded: it scores those neighbours' codes that it has
not seen, and keeps the best in a sorted pool. It ends when the pool is expanded, or when the next node is
farther than `slack` times the `near`-th best. Then the vectors of the best are read, all asked for together.

A walk that finds a block or a number that is wrong stops and says where.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# What kernels take is said by their signatures for Numba, at the end of the file.

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import from_dtype, typeof, types

from .ahead import ASKED, HASTY, STEADY, ask_ahead
from .apart import METRICS
from .coder import PARAMETERS
from .compile import compiled, helper, reads, writes
from .memory import address_of, as_uint32, element_tag, load
from .pool import FARTHEST, key_of, node_of, score_of, take
from .steps import (
    AHEAD,
    BITS,
    DAMAGED,
    DONE,
    FOREIGN,
    FRAME,
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

__all__ = ["DAMAGED", "DONE", "FOREIGN", "FRAME", "METRICS", "scratch", "search", "search_one"]

_COSINE = METRICS["cosine"]


@helper
def _bound(pool, size, room, near, slack, offset):
    """Keys above this cannot become part of the walk."""
    bound = pool[room - 1] if size == room else FARTHEST
    if slack > 0.0 and size >= near:
        reach = slack * np.float64(score_of(pool[near - 1]) + offset) - np.float64(offset)
        if reach < 2e9:
            bound = min(bound, ((types.int64(reach) + 1) << 32) - 1)
    return bound


@helper
def _score_entries(frame, state, skip, seen, pool, room, counters):
    size = 0
    mask = len(seen) - 1
    for i in range(frame.entry_count):
        node = types.int64(load(as_uint32(frame.entries), i))
        if node == skip:
            continue
        value = score_node(frame, node, state)
        key = key_of(value, node)
        if (size < room or key < pool[size - 1]) and take(pool, size, room, key) >= 0:
            size = min(size + 1, room)
            seen[place_in(node, mask)] = np.uint32(node)
    counters[1] += frame.entry_count
    return size


@helper
def _walk(frame, weights, state, skip, near, room, slack, offset, seen, asked, pool, fresh, counters):
    """Fills the pool; returns its size, or -1 with the reason in `counters`."""
    seen[:] = np.uint32(NONE)
    if frame.cold != 0:
        asked[:] = -1
    mask = len(seen) - 1
    size = _score_entries(frame, state, skip, seen, pool, room, counters)
    bound = _bound(pool, size, room, near, slack, offset)
    at, steady = 0, HASTY
    for ahead in range(min(size, AHEAD)):
        ask_for_row(frame, node_of(pool[ahead]))
    while at < size and pool[at] <= bound:
        if frame.cold != 0:
            ask_ahead(frame, pool, at, size, bound, asked, steady)
        node = node_of(pool[at])
        pool[at] |= 1
        counters[0] += 1
        count = expand(frame, node, weights, skip, seen, mask, fresh, counters)
        if count < 0:
            return -1
        counters[1] += count
        ask_for_next(frame, pool, at + 1, size)
        first = size
        for i in range(count):
            other = fresh[i]
            value = score_node(frame, other, state)
            key = key_of(value, other)
            if key < bound:
                place = take(pool, size, room, key)
                if place >= 0:
                    size = min(size + 1, room)
                    first = min(first, place)
                    if place < at + AHEAD:
                        ask_for_row(frame, other)
                    if place < near or size == room:
                        bound = _bound(pool, size, room, near, slack, offset)
        steady = STEADY if first > at else HASTY
        at = min(at + 1, first)
        while at < size and pool[at] & 1:
            at += 1
    return size


# --- a query ---------------------------------------------------------------------------------------------


@helper
def choose(frame, mask, pool, size, wanted, chosen):
    """The slots of the best nodes whose records count, nearest code first; and how many of them are sure.

    A walk has looked round everything that is nearer than the first node that it did not go on from. Behind
    that there may be nodes which it has met by chance.
    """
    count = sure = 0
    covered = True
    for at in range(size):
        covered = covered and pool[at] & 1 != 0
        slot = types.int64(load(as_uint32(frame.slots), node_of(pool[at])))
        if slot < len(mask) and mask[slot] != 0:
            chosen[count] = slot
            count += 1
            sure += covered
            if count == wanted:
                break
    return count, sure


@helper
def _answer(
    tag, frame, weights, codec, mask, others, query, skip, near, room, slack, reranked, scratch, slots, distances, counters
):
    """Fills in the answers to one query: how many, and how many candidates were sure; -1 where it met damage.

    Records that no node is of are compared with it as well.
    """
    vector, own, state, seen, asked, pool, fresh, chosen = scratch
    offset = prepare_query(frame, codec, query, vector, own, state)
    size = _walk(frame, weights, address_of(state), skip, near, room, slack, offset, seen, asked, pool, fresh, counters)
    if size < 0:
        return -1, 0
    count, sure = choose(frame, mask, pool, size, reranked, chosen)
    return compare(tag, frame, weights, own, chosen, count, others, slots, distances, counters), sure


def _search(
    tag, frames, weights, codec, mask, others, queries, skips, near, room, slack, reranked, slots, distances, sizes, sures, counters
):  # fmt: skip
    frame = frames[0]
    scratch = (
        np.empty(len(codec[2]), np.float32),
        np.empty(queries.shape[1], queries.dtype),
        np.empty(frame.state_bytes, np.uint8),
        np.empty(seen_size(room), np.uint32),
        np.empty(ASKED, np.int64),
        np.empty(room + 1, np.int64),
        np.empty(frame.degree + LATER, np.int64),
        np.empty(reranked, np.int64),
    )
    for q in range(len(queries)):
        sizes[q], sures[q] = _answer(
            tag, frame, weights, codec, mask, others, queries[q], skips[q], near, room, slack, reranked, scratch, slots[q],
            distances[q], counters,
        )  # fmt: skip
        if sizes[q] < 0:
            return counters[2]
    return DONE


def _search_one(
    tag, frames, weights, codec, mask, others, near, room, slack, reranked, wanted, query, scratch, slots, distances, counters
):
    frame = frames[0]
    if not _fit(frame, query):
        return -1
    found, sure = _answer(
        tag, frame, weights, codec, mask, others, query, -1, near, room, slack, reranked, scratch, slots, distances, counters
    )
    return found if sure >= wanted else -1


@helper
def _fit(frame, query):
    """Whether a query has the right length and is one that has distances."""
    if frame.kind >= BITS:
        return len(query) == (frame.dim + 7) // 8
    square = 0.0
    for j in range(len(query)):
        square += np.float64(query[j]) * np.float64(query[j])
    # No sum of squares of float32s is too large for a float64, so one that is not finite had such a number.
    return len(query) == frame.dim and square < np.inf and (square > 0.0 or frame.metric != _COSINE)


def _is_query(frames, query):
    return _fit(frames[0], query)


@functools.cache
def is_query(dtype: str) -> Any:
    """`(frame: FRAME[1], query (dim)) -> bool`: whether the kernels of searches have distances for this one."""
    frame = types.Array(from_dtype(FRAME), 1, "C", readonly=True)
    return compiled(_is_query, frame, reads(kinds(dtype)[1]))


@functools.cache
def search(dtype: str) -> Any:
    """The kernel that answers queries from the graph.

    `(frame: FRAME[1], weights: uint64[w], codec, mask: uint8[slots], others: int64[m], queries (n, dim), skips: int64[n],
    near, room, slack, reranked, slots: int64[n, k], distances: float64[n, k], sizes: int64[n], sures: int64[n],
    counters: int64[4]) -> DONE, DAMAGED or FOREIGN`. The codec is its parameters, as `coder` takes them. The
    pool has `room` places; it is expanded wholly with a slack of 0, and else as far as that allows beyond the
    best `near`. A query's walk leaves out the node `skip` (-1: none). What is in the slots `others` is compared
    besides. Where fewer answers than asked for are sure, nearer ones may have been missed. Counters: hops, scores;
    then what was wrong, and in which block: of the graph, or -1 - block of vectors.
    """
    i64 = types.int64
    answers = (writes(i64, 2), writes(types.float64, 2), writes(i64), writes(i64), writes(i64))
    tag, query, _ = kinds(dtype)
    kernel = compiled(_search, *given(dtype), reads(query, 2), reads(i64), *_REACH, *answers)
    return functools.partial(kernel, tag)


@functools.cache
def search_one(dtype: str) -> Any:
    """As `search`, for a single query with little around it: `(frame, weights, codec, mask, others, near, room, slack,
    reranked, wanted, query (dim), scratch, slots: int64[k], distances: float64[k], counters: int64[4]) -> found`.

    -1 where `search` must be asked: fewer than `wanted` are sure, something is damaged, or no walk has an answer
    to such a query.
    """
    i64 = types.int64
    tag, query, scratch = kinds(dtype)
    answers = (scratch, writes(i64), writes(types.float64), writes(i64))
    kernel = compiled(_search_one, *given(dtype), *_REACH, i64, reads(query), *answers)
    return functools.partial(kernel, tag)


def scratch(frame: Any, width: int, query: Any, room: int, reranked: int) -> tuple[Any, ...]:
    """What `search_one` works in, for a codec of vectors so wide and queries of the length and type of this one."""
    return (
        np.empty(width, np.float32),
        np.empty_like(query),
        np.empty(int(frame["state_bytes"][0]), np.uint8),
        np.empty(seen_size.py_func(room), np.uint32),
        np.empty(ASKED, np.int64),
        np.empty(room + 1, np.int64),
        np.empty(int(frame["degree"][0]) + LATER, np.int64),
        np.empty(reranked, np.int64),
    )


_REACH = (types.int64, types.int64, types.float64, types.int64)


def kinds(dtype: str) -> tuple[Any, Any, Any]:
    """What tells a kernel the type of stored numbers; that of a query's; and the type of its scratch."""
    tag = np.empty(0, np.uint8) if dtype == "binary" else element_tag(dtype)
    query = types.uint8 if dtype == "binary" else types.float32
    elements = (types.float32, query, types.uint8, types.uint32, *[types.int64] * 4)
    return tag, query, types.Tuple([writes(element) for element in elements])


def given(dtype: str) -> tuple[Any, ...]:
    frame = types.Array(from_dtype(FRAME), 1, "C", readonly=True)
    return typeof(kinds(dtype)[0]), frame, reads(types.uint64), PARAMETERS, reads(types.uint8), reads(types.int64)
