"""Searches among the records that a filter chose: what all of them read, and the scan of the codes of all that were chosen."""

# mypy: allow-untyped-defs, allow-untyped-calls
# What kernels take is said by their signatures for Numba, at the end of the file.

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import from_dtype, types

from ..reference_codes import BUNDLE
from .beam import given, kinds
from .compile import compiled, helper, reads, writes
from .memory import address_of, as_uint8, as_uint32, as_uint64, load, load_flag, popcount, prefetch, set_flag
from .pool import key_of, node_of, take
from .steps import DONE, compare, prepare_query, score_node

LOST = -2
"""How many answers a query has whose walk gave up."""

# How far searches go. Of all: how many of the best are answers, and how many are compared. Of walks: places in the pool; the
# slack that ends one where the `near` best of the chosen are the nearest of all, and where `spread` nodes are as near; after
# `look_after` hops one looks how many of the nearest were chosen: fewer than `least`, or more hops than `hops` in all, and it
# gives up. Of bundles: see there.
WAY = np.dtype(
    [
        ("near", "i8"),
        ("reranked", "i8"),
        ("room", "i8"),
        ("slack", "f8"),
        ("spread", "f8"),
        ("slack_spread", "f8"),
        ("look_after", "i8"),
        ("least", "i8"),
        ("hops", "i8"),
        ("deviations", "f8"),
        ("patience", "f8"),
    ]
)

# What a filter chose, as tables at addresses. A word says which of 64 nodes were, where `known` is 1; elsewhere the bits do,
# of which each of `slots` has one. The rest is of bundles, where there are some.
CHOSEN = np.dtype(
    [
        ("words", "i8"),
        ("known", "i8"),
        ("bits", "i8"),
        ("slots", "i8"),
        ("bundles", "i8"),
        ("middles", "i8"),
        ("spreads", "i8"),
        ("bales", "i8"),
        ("bale_middles", "i8"),
        ("bale_spreads", "i8"),
        ("tilt", "f8"),
        ("loose", "i8"),
        ("loose_count", "i8"),
    ]
)
_LINE = 64
# The codes of so many nodes are on their way to the cache while one is scored.
_ON_THEIR_WAY = 24


@helper
def _slot_is_chosen(frame, tables, node):
    slot = types.int64(load(as_uint32(frame.slots), node))
    return slot < tables.slots and (load(as_uint8(tables.bits), slot >> 3) >> (slot & 7)) & 1 != 0


@helper
def is_chosen(frame, tables, node):
    place = node // BUNDLE
    if load_flag(as_uint8(tables.known), place) != 0:
        return (load(as_uint64(tables.words), place) >> types.uint64(node % BUNDLE)) & types.uint64(1) != 0
    return _slot_is_chosen(frame, tables, node)


@helper
def word_of(frame, tables, place):
    """Which of 64 nodes were chosen, a bit each; from now on it is known."""
    words, known = as_uint64(tables.words), as_uint8(tables.known)
    if load_flag(known, place) != 0:
        return load(words, place)
    word, first = types.uint64(0), place * BUNDLE
    for i in range(min(BUNDLE, frame.nodes - first)):
        if _slot_is_chosen(frame, tables, first + i):
            word |= types.uint64(1) << types.uint64(i)
    words[place] = word
    set_flag(known, place)
    return word


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
def compare_best(tag, frame, way, weights, own, best, size, chosen, others, slots, distances, counters):
    count = min(size, way.reranked)
    for i in range(count):
        chosen[i] = load(as_uint32(frame.slots), node_of(best[i]))
    return compare(tag, frame, weights, own, chosen, count, others, slots, distances, counters)


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
        sizes[q] = compare_best(
            tag, frame, way, weights, own, best, size, chosen, others, slots[q], distances[q], counters
        )
        if sizes[q] == -1:
            return counters[2]
    return DONE


@functools.cache
def scan(dtype: str) -> Any:
    """As `kernel`, by the codes of all nodes that were chosen: `nodes: uint32[c]`, ascending, in place of the tables."""
    return kernel(dtype, _search_scanning, types.uint32)


def kernel(dtype: str, function: Any, chosen: Any = None) -> Any:
    """A kernel that searches among what was chosen.

    `(frame: FRAME[1], weights: uint64[w], codec, tables: CHOSEN[1], others: int64[m], queries (n, dim), ways: WAY[],
    slots: int64[n, k], distances: float64[n, k], sizes: int64[n], counters: int64[4]) -> DONE, DAMAGED or FOREIGN`.
    What is in the slots `others` is compared besides. Counters are `beam.search`'s.
    """
    i64 = types.int64
    tag, query, _ = kinds(dtype)
    ways = types.Array(from_dtype(WAY), 1, "C", readonly=True)
    tables = types.Array(from_dtype(CHOSEN) if chosen is None else chosen, 1, "C", readonly=True)
    answers = (writes(i64, 2), writes(types.float64, 2), writes(i64), writes(i64))
    search = compiled(function, *given(dtype)[:4], tables, reads(i64), reads(query, 2), ways, *answers)
    return functools.partial(search, tag)


def _nodes_of(slots, bits, nodes):
    count = 0
    for node in range(len(slots)):
        slot = types.int64(slots[node])
        if slot < 8 * len(bits):
            nodes[count] = node
            count += (bits[slot >> 3] >> (slot & 7)) & 1
    return count


@functools.cache
def nodes_of() -> Any:
    """`(slots: uint32[n], bits: uint8[], nodes: uint32[n + 1]) -> int`: the nodes whose slots have their bit set, in order."""
    return compiled(_nodes_of, reads(types.uint32), reads(types.uint8), writes(types.uint32))


def _count(bits):
    total = types.uint64(0)
    words = len(bits) // 8
    for i in range(words):
        total += popcount(load(as_uint64(address_of(bits)), i))
    for i in range(8 * words, len(bits)):
        total += popcount(types.uint64(bits[i]))
    return types.int64(total)


@functools.cache
def count() -> Any:
    """`(bits: uint8[]) -> int`: how many bits are set."""
    return compiled(_count, reads(types.uint8))


def _put(nodes, words):
    for node in nodes:
        words[node // BUNDLE] |= np.uint64(1) << np.uint64(node % BUNDLE)


@functools.cache
def put() -> Any:
    """`(nodes: uint32[c], words: uint64[])`: set the nodes' bits."""
    return compiled(_put, reads(types.uint32), writes(types.uint64))
