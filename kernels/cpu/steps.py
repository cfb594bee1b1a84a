"""What every search of the graph reads, and the steps that all of them take: a code's score, a node's row, a comparison.

Nothing in the file is believed. A block is checked whole when this process first touches it, and a neighbour's number
before it becomes an address.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np
from numba import types

from .apart import METRICS, apart, enter
from .bits import hamming_count, jaccard_row
from .coder import prepare
from .codes import score
from .compile import helper
from .later import PLACES, ask_for_head, newest_line, number_at, older_line, other_at, since_of
from .memory import as_uint32, as_uint64, load, prefetch
from .pool import node_of
from .rows import ask_for_vector, read_vector, vector_at
from .verify import ensure_whole

_L2, _IP, _COSINE = METRICS["l2"], METRICS["ip"], METRICS["cosine"]
NONE = 0xFFFFFFFF
_LINE = 64
# Rows of this many nodes at the front of the pool are asked for before they are expanded.
AHEAD = 4
# A table of what was seen holds this many nodes for each place in the pool, and is small enough to clear.
_SEEN_A_PLACE = 32
_SEEN_LEAST, _SEEN_MOST = 1 << 12, 1 << 20
# Of the edges that came later, a hop looks at this many; a sweep folds them into the row long before there are more.
LATER = 64

# What a walk reads: addresses of tables, and sizes. Blocks of a kind lie at `addresses[b]` and were found
# whole if `seen[b]` is `generations[b]`; the first of the graph has the number `graph_first`. Of each block of
# vectors there are the sums of its pages, and the generations in which those were found right. Edges that came
# after the rows are in chains of lines, and this snapshot has `later_count` of them. While what is read comes from
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
        ("later_lines", "i8"),
        ("later_count", "i8"),
        ("later_origin", "i8"),
        ("cold", "i8"),
    ]
)
HEAD = 48
DONE, DAMAGED, FOREIGN = 0, 1, 2
"""How a search ends: well; at a damaged block; at a node number that is none. The place is in `counters`."""


# Packed bits are their own codes; Jaccard's distances are scored in steps this fine.
BITS, _BITS_JACCARD = 6, 7
_JACCARD_STEPS = np.float32(1 << 24)


@helper
def score_node(frame, node, state):
    code = frame.codes + node * frame.code_bytes
    if frame.kind >= BITS:
        return score_bits(frame.kind, code, state, frame.code_bytes)
    return score(frame.kind, code, state, frame.code_bytes)


@helper
def score_bits(kind, code, state, n_bytes):
    """As `codes.score`, of packed bits."""
    if kind == BITS:
        return types.int32(hamming_count(code, state, n_bytes))
    return types.int32(jaccard_row(code, state, n_bytes) * _JACCARD_STEPS)


@helper
def seen_size(room):
    size = _SEEN_LEAST
    while size < _SEEN_A_PLACE * room and size < _SEEN_MOST:
        size *= 2
    return size


@helper
def place_in(node, mask):
    return (node * 2654435761 >> 7) & mask


@helper
def row_of(frame, node, weights):
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
    return start + HEAD + (node - block * frame.graph_rows) * 4 * (frame.degree + 1)


@helper
def ask_for_row(frame, node):
    block = node // frame.graph_rows
    start = types.int64(load(as_uint64(frame.graph_addresses), block)) + HEAD
    start += (node - block * frame.graph_rows) * 4 * (frame.degree + 1)
    for offset in range(0, 4 * (frame.degree + 1), _LINE):
        prefetch(start + offset)
    ask_for_head(frame, node)


@helper
def ask_for_next(frame, pool, at, size):
    """Asks for the codes of the neighbours of the node that comes next, unless a nearer one turns up now."""
    while at < size and pool[at] & 1:
        at += 1
    if at == size:
        return
    node = node_of(pool[at])
    block = node // frame.graph_rows
    if load(as_uint64(frame.graph_seen), block) != load(as_uint64(frame.graph_generations), block):
        return
    row = types.int64(load(as_uint64(frame.graph_addresses), block)) + HEAD
    row += (node - block * frame.graph_rows) * 4 * (frame.degree + 1)
    newest_line(frame, node)
    for edge in range(frame.degree):
        other = types.int64(load(as_uint32(row), edge + 1))
        if other == NONE:
            return
        prefetch(frame.codes + other * frame.code_bytes)


@helper
def meet(frame, node, skip, seen, mask, fresh, count):
    """Notes a neighbour if it was not seen before, and asks for its code; returns how many there are now.

    Whether it is new is a coin that no processor foretells, so nothing here branches on it.
    """
    place = place_in(node, mask)
    fresh[count] = node
    count += types.int64(seen[place] != np.uint32(node)) & types.int64(node != skip)
    seen[place] = np.uint32(node)
    start = frame.codes + node * frame.code_bytes
    for line in range(0, frame.code_bytes, _LINE):
        prefetch(start + line)
    return count


@helper
def expand(frame, node, weights, skip, seen, mask, fresh, counters):
    """Fills in the neighbours that were not seen before: how many; -1 with the reason in `counters`."""
    row = row_of(frame, node, weights)
    if row == 0:
        counters[2], counters[3] = DAMAGED, frame.graph_first + node // frame.graph_rows
        return types.int64(-1)
    count = types.int64(0)
    line, since = newest_line(frame, node), since_of(frame, row)
    for edge in range(frame.degree):
        other = types.int64(load(as_uint32(row), edge + 1))
        if other >= frame.nodes:
            if other == NONE:
                break
            counters[2], counters[3] = FOREIGN, frame.graph_first + node // frame.graph_rows
            return types.int64(-1)
        count = meet(frame, other, skip, seen, mask, fresh, count)
    while line != 0 and count < len(fresh) - PLACES:
        for place in range(PLACES):
            if since <= number_at(line, place) < frame.later_count:
                count = meet(frame, other_at(line, place), skip, seen, mask, fresh, count)
        line = older_line(frame, line, since)
    return count


@helper
def scale_of(frame, query):
    """What a query is multiplied by before it is compared with codes."""
    if frame.metric == _L2:
        return 1.0
    norm = 0.0
    for j in range(frame.dim):
        norm += np.float64(query[j]) * np.float64(query[j])
    norm = np.sqrt(norm)
    long = frame.norm_limit if frame.metric == _IP else 1.0
    return long / norm if norm > 0.0 else 0.0


@helper
def own_query(frame, query, own):
    """A query as exact distances take it: they are those of a scan, which has queries of length one under cosine."""
    if frame.metric == _COSINE:
        scale = scale_of(frame, query)
        for j in range(frame.dim):
            own[j] = np.float32(scale * np.float64(query[j]))
    else:
        for j in range(len(query)):
            own[j] = query[j]


@helper
def prepare_query(frame, codec, query, vector, own, state):
    """Prepares a query for exact distances in `own`, and for scores in `state`; returns its scores' offset."""
    dim = frame.dim
    if frame.kind >= BITS:
        state[:] = np.uint8(0)
        for j in range((dim + 7) // 8):
            own[j] = query[j]
            state[j] = np.uint8(query[j])
        return types.int64(0)
    scale = scale_of(frame, query)
    for j in range(dim):
        vector[j] = np.float32(scale * np.float64(query[j]))
        own[j] = vector[j] if frame.metric == _COSINE else query[j]
    for j in range(dim, len(vector)):
        vector[j] = np.float32(0)
    return prepare(codec[0], codec[1], codec[2], codec[3], codec[4], vector, state)


@helper
def compare(tag, frame, weights, own, chosen, count, others, slots, distances, counters):
    """Fills in the answers, nearest first: the best of the slots chosen and the others. How many; -1 at damage."""
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
            return -1
        found = enter(slots, distances, found, slot, apart(tag, frame.metric, row, own, frame.dim))
    return found
