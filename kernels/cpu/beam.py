"""The walk over the graph: from the entries to the nearest codes, then exact distances of the best.

A walk expands the nearest node that it has not yet expanded: it scores those neighbours' codes that it has
not seen, and keeps the best in a sorted pool. It ends when the pool is expanded, or when the next node is
farther than `slack` times the `near`-th best. Then the vectors of the best are read, all asked for together.

Nothing in the file is believed. A block is checked whole when this process first touches it, and a
neighbour's number before it becomes an address; a walk that finds either wrong stops and says where.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# What kernels take is said by their signatures for Numba, at the end of the file.

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import from_dtype, typeof, types

from .ahead import ASKED, HASTY, STEADY, ask_ahead
from .apart import METRICS, apart, enter
from .coder import PARAMETERS, prepare
from .codes import score
from .compile import compiled, helper, reads, writes
from .distance import hamming_row, jaccard_row
from .later import ask_for_later, first_later, next_later, other_of, since_of
from .memory import address_of, as_uint32, as_uint64, element_tag, load, prefetch
from .pool import FARTHEST, key_of, node_of, score_of, take
from .rows import ask_for_vector, read_vector, vector_at
from .verify import ensure_whole

_L2, _IP, _COSINE = METRICS["l2"], METRICS["ip"], METRICS["cosine"]
_NONE = 0xFFFFFFFF
_LINE = 64
# Rows of this many nodes at the front of the pool are asked for before they are expanded.
_AHEAD = 4
# A table of what was seen holds this many nodes for each place in the pool, and is small enough to clear.
_SEEN_A_PLACE = 32
_SEEN_LEAST, _SEEN_MOST = 1 << 12, 1 << 20
# Of the edges that came later, a hop looks at this many; a sweep folds them into the row long before there are more.
_LATER = 64

# What a walk reads: addresses of tables, and sizes. Blocks of a kind lie at `addresses[b]` and were found
# whole if `seen[b]` is `generations[b]`; the first of the graph has the number `graph_first`. Of each block of
# vectors there are the sums of its pages, and the generations in which those were found right. Edges that came
# after the rows are in chains of links, of which this snapshot has `later_count`. While what is read comes from
# the disk, `cold` is 1, and it is asked for ahead of need.
FRAME = np.dtype(
    [
        ("metric", "i8"),
        ("dim", "i8"),
        ("row_bytes", "i8"),
        ("nodes", "i8"),
        ("degree", "i8"),
        ("kind", "i8"),
        ("codes", "i8"),
        ("code_bytes", "i8"),
        ("state_bytes", "i8"),
        ("norm_limit", "f8"),
        ("slots", "i8"),
        ("entries", "i8"),
        ("entry_count", "i8"),
        ("base", "i8"),
        ("page_bytes", "i8"),
        ("graph_kind", "i8"),
        ("graph_first", "i8"),
        ("graph_rows", "i8"),
        ("graph_length", "i8"),
        ("graph_addresses", "i8"),
        ("graph_generations", "i8"),
        ("graph_seen", "i8"),
        ("vector_kind", "i8"),
        ("vector_rows", "i8"),
        ("vector_start", "i8"),
        ("vector_pages", "i8"),
        ("vector_sums", "i8"),
        ("vector_pages_seen", "i8"),
        ("vector_length", "i8"),
        ("vector_addresses", "i8"),
        ("vector_generations", "i8"),
        ("vector_seen", "i8"),
        ("later_heads", "i8"),
        ("later_links", "i8"),
        ("later_count", "i8"),
        ("later_origin", "i8"),
        ("cold", "i8"),
    ]
)
_HEAD = 48
DONE, DAMAGED, FOREIGN = 0, 1, 2
"""How a search ends: well; at a damaged block; at a node number that is none. The place is in `counters`."""


# Packed bits are their own codes; Jaccard's distances are scored in steps this fine.
_BITS_HAMMING, _BITS_JACCARD = 6, 7
_JACCARD_STEPS = np.float32(1 << 24)


@helper
def _score(frame, node, state):
    code = frame.codes + node * frame.code_bytes
    if frame.kind == _BITS_HAMMING:
        return types.int32(hamming_row(code, state, frame.code_bytes))
    if frame.kind == _BITS_JACCARD:
        return types.int32(jaccard_row(code, state, frame.code_bytes) * _JACCARD_STEPS)
    return score(frame.kind, code, state, frame.code_bytes)


@helper
def _seen_size(room):
    size = _SEEN_LEAST
    while size < _SEEN_A_PLACE * room and size < _SEEN_MOST:
        size *= 2
    return size


@helper
def _place(node, mask):
    return (node * 2654435761 >> 7) & mask


@helper
def _row_of(frame, node, weights):
    """The address of a node's row of edges; 0 where its block is damaged."""
    block = node // frame.graph_rows
    start = types.int64(load(as_uint64(frame.graph_addresses), block))
    generation = load(as_uint64(frame.graph_generations), block)
    seen = as_uint64(frame.graph_seen)
    if load(seen, block) != generation:
        number = frame.graph_first + block
        length, kind = frame.graph_length, frame.graph_kind
        if not ensure_whole(start, length, kind, number, generation, frame.base, frame.page_bytes, weights):
            return types.int64(0)
        seen[block] = generation
    return start + _HEAD + (node - block * frame.graph_rows) * 4 * (frame.degree + 1)


@helper
def _ask_for_row(frame, node):
    block = node // frame.graph_rows
    start = types.int64(load(as_uint64(frame.graph_addresses), block)) + _HEAD
    start += (node - block * frame.graph_rows) * 4 * (frame.degree + 1)
    for offset in range(0, 4 * (frame.degree + 1), _LINE):
        prefetch(start + offset)
    ask_for_later(frame, node)


@helper
def _ask_for_next(frame, pool, at, size):
    """Asks for the codes of the neighbours of the node that comes next, unless a nearer one turns up now."""
    while at < size and pool[at] & 1:
        at += 1
    if at == size:
        return
    node = node_of(pool[at])
    block = node // frame.graph_rows
    if load(as_uint64(frame.graph_seen), block) != load(as_uint64(frame.graph_generations), block):
        return
    row = types.int64(load(as_uint64(frame.graph_addresses), block)) + _HEAD
    row += (node - block * frame.graph_rows) * 4 * (frame.degree + 1)
    for edge in range(frame.degree):
        other = types.int64(load(as_uint32(row), edge + 1))
        if other == _NONE:
            return
        prefetch(frame.codes + other * frame.code_bytes)


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
        value = _score(frame, node, state)
        key = key_of(value, node)
        if (size < room or key < pool[size - 1]) and take(pool, size, room, key) >= 0:
            size = min(size + 1, room)
            seen[_place(node, mask)] = np.uint32(node)
    counters[1] += frame.entry_count
    return size


@helper
def _meet(frame, node, skip, seen, mask, fresh, count):
    """Notes a neighbour if it was not seen before, and asks for its code; returns how many there are now.

    Whether it is new is a coin that no processor foretells, so nothing here branches on it.
    """
    place = _place(node, mask)
    fresh[count] = node
    count += types.int64(seen[place] != np.uint32(node)) & types.int64(node != skip)
    seen[place] = np.uint32(node)
    start = frame.codes + node * frame.code_bytes
    for line in range(0, frame.code_bytes, _LINE):
        prefetch(start + line)
    return count


@helper
def _walk(frame, weights, state, skip, near, room, slack, offset, seen, asked, pool, fresh, counters):
    """Fills the pool; returns its size, or -1 with the reason in `counters`."""
    seen[:] = np.uint32(_NONE)
    if frame.cold != 0:
        asked[:] = -1
    mask = len(seen) - 1
    size = _score_entries(frame, state, skip, seen, pool, room, counters)
    bound = _bound(pool, size, room, near, slack, offset)
    at, steady = 0, HASTY
    for ahead in range(min(size, _AHEAD)):
        _ask_for_row(frame, node_of(pool[ahead]))
    while at < size and pool[at] <= bound:
        if frame.cold != 0:
            ask_ahead(frame, pool, at, size, bound, asked, steady)
        node = node_of(pool[at])
        pool[at] |= 1
        counters[0] += 1
        row = _row_of(frame, node, weights)
        if row == 0:
            counters[2], counters[3] = DAMAGED, frame.graph_first + node // frame.graph_rows
            return -1
        count = 0
        link, since = first_later(frame, node), since_of(frame, row)
        for edge in range(frame.degree):
            other = types.int64(load(as_uint32(row), edge + 1))
            if other >= frame.nodes:
                if other == _NONE:
                    break
                counters[2], counters[3] = FOREIGN, frame.graph_first + node // frame.graph_rows
                return -1
            count = _meet(frame, other, skip, seen, mask, fresh, count)
        while link >= since and count < len(fresh) - 1:
            count = _meet(frame, other_of(frame, link), skip, seen, mask, fresh, count)
            link = next_later(frame, link)
        counters[1] += count
        _ask_for_next(frame, pool, at + 1, size)
        first = size
        for i in range(count):
            other = fresh[i]
            value = _score(frame, other, state)
            key = key_of(value, other)
            if key < bound:
                place = take(pool, size, room, key)
                if place >= 0:
                    size = min(size + 1, room)
                    first = min(first, place)
                    if place < at + _AHEAD:
                        _ask_for_row(frame, other)
                    if place < near or size == room:
                        bound = _bound(pool, size, room, near, slack, offset)
        steady = STEADY if first > at else HASTY
        at = min(at + 1, first)
        while at < size and pool[at] & 1:
            at += 1
    return size


# --- a query ---------------------------------------------------------------------------------------------


@helper
def _choose(frame, mask, pool, size, wanted, chosen):
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
def _prepare(frame, codec, query, vector, own, state):
    """Prepares a query for exact distances in `own`, and for scores in `state`; returns its scores' offset."""
    dim = frame.dim
    if frame.kind >= _BITS_HAMMING:
        state[:] = np.uint8(0)
        for j in range((dim + 7) // 8):
            own[j] = query[j]
            state[j] = np.uint8(query[j])
        return types.int64(0)
    scale = 1.0
    if frame.metric != _L2:
        norm = 0.0
        for j in range(dim):
            norm += np.float64(query[j]) * np.float64(query[j])
        norm = np.sqrt(norm)
        long = frame.norm_limit if frame.metric == _IP else 1.0
        scale = long / norm if norm > 0.0 else 0.0
    for j in range(dim):
        vector[j] = np.float32(scale * np.float64(query[j]))
        # Exact distances are those of a scan, which takes queries of length one under cosine.
        own[j] = vector[j] if frame.metric == _COSINE else query[j]
    for j in range(dim, len(vector)):
        vector[j] = np.float32(0)
    return prepare(codec[0], codec[1], codec[2], codec[3], codec[4], vector, state)


@helper
def _answer(
    tag, frame, weights, codec, mask, others, query, skip, near, room, slack, reranked, scratch, slots, distances, counters
):
    """Fills in the answers to one query: how many, and how many candidates were sure; -1 where it met damage.

    Records that no node is of are compared with it as well.
    """
    vector, own, state, seen, asked, pool, fresh, chosen = scratch
    offset = _prepare(frame, codec, query, vector, own, state)
    size = _walk(frame, weights, address_of(state), skip, near, room, slack, offset, seen, asked, pool, fresh, counters)
    if size < 0:
        return -1, 0
    count, sure = _choose(frame, mask, pool, size, reranked, chosen)
    for i in range(count):
        if frame.cold != 0:
            read_vector(frame, chosen[i])
        else:
            ask_for_vector(frame, chosen[i])
    found = 0
    for i in range(count + len(others)):
        slot = chosen[i] if i < count else others[i - count]
        row = vector_at(frame, slot, weights)
        if row == 0:
            counters[2], counters[3] = DAMAGED, -1 - slot // frame.vector_rows
            return -1, 0
        found = enter(slots, distances, found, slot, apart(tag, frame.metric, row, own, frame.dim))
    return found, sure


def _search(
    tag, frames, weights, codec, mask, others, queries, skips, near, room, slack, reranked, slots, distances, sizes, sures, counters
):  # fmt: skip
    frame = frames[0]
    scratch = (
        np.empty(len(codec[2]), np.float32),
        np.empty(queries.shape[1], queries.dtype),
        np.empty(frame.state_bytes, np.uint8),
        np.empty(_seen_size(room), np.uint32),
        np.empty(ASKED, np.int64),
        np.empty(room + 1, np.int64),
        np.empty(frame.degree + _LATER, np.int64),
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
    tag, frames, weights, codec, mask, others, query, near, room, slack, reranked, wanted, scratch, slots, distances, counters
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
    if frame.kind >= _BITS_HAMMING:
        return len(query) == (frame.dim + 7) // 8
    square = 0.0
    for j in range(len(query)):
        square += np.float64(query[j]) * np.float64(query[j])
    # No sum of squares of float32s is too large for a float64, so one that is not finite had such a number.
    return len(query) == frame.dim and square < np.inf and (square > 0.0 or frame.metric != _COSINE)


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
    tag, query, _ = _kinds(dtype)
    kernel = compiled(_search, *_given(dtype), reads(query, 2), reads(i64), *_REACH, *answers)
    return functools.partial(kernel, tag)


@functools.cache
def search_one(dtype: str) -> Any:
    """As `search`, for a single query with little around it: `(frame, weights, codec, mask, others, query (dim), near, room,
    slack, reranked, wanted, scratch, slots: int64[k], distances: float64[k], counters: int64[4]) -> found`.

    -1 where `search` must be asked: fewer than `wanted` are sure, something is damaged, or no walk has an answer
    to such a query.
    """
    i64 = types.int64
    tag, query, scratch = _kinds(dtype)
    answers = (scratch, writes(i64), writes(types.float64), writes(i64))
    kernel = compiled(_search_one, *_given(dtype), reads(query), *_REACH, i64, *answers)
    return functools.partial(kernel, tag)


def scratch(frame: Any, width: int, query: Any, room: int, reranked: int) -> tuple[Any, ...]:
    """What `search_one` works in, for a codec of vectors so wide and queries of the length and type of this one."""
    return (
        np.empty(width, np.float32),
        np.empty_like(query),
        np.empty(int(frame["state_bytes"][0]), np.uint8),
        np.empty(_seen_size.py_func(room), np.uint32),
        np.empty(ASKED, np.int64),
        np.empty(room + 1, np.int64),
        np.empty(int(frame["degree"][0]) + _LATER, np.int64),
        np.empty(reranked, np.int64),
    )


_REACH = (types.int64, types.int64, types.float64, types.int64)


def _kinds(dtype: str) -> tuple[Any, Any, Any]:
    """What tells a kernel the type of stored numbers; that of a query's; and the type of its scratch."""
    tag = np.empty(0, np.uint8) if dtype == "binary" else element_tag(dtype)
    query = types.uint8 if dtype == "binary" else types.float32
    elements = (types.float32, query, types.uint8, types.uint32, *[types.int64] * 4)
    return tag, query, types.Tuple([writes(element) for element in elements])


def _given(dtype: str) -> tuple[Any, ...]:
    frame = types.Array(from_dtype(FRAME), 1, "C", readonly=True)
    return typeof(_kinds(dtype)[0]), frame, reads(types.uint64), PARAMETERS, reads(types.uint8), reads(types.int64)
