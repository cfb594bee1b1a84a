"""Bundles: 64 nodes that lie side by side, a code in their middle, and searches that look into the most promising of them.

Nodes that lie side by side are near each other, as the build laid them. So a filter's answers that are few, or far
from the query, are found as in an inverted file: the middles tell which bundles are worth a look, and of these the codes of
all that were chosen are scanned, until it is unlikely that what is left holds answers. Where nearly all that is near the query
was chosen, a walk from there is sooner done.

How far a bundle's nodes are from a query is taken to be spread about `d + r`, where `d` is the squared distance of the middle
and `r` the mean of those between the nodes and it; `2 * tilt * sqrt(d * r)` is the standard deviation.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# What kernels take is said by their signatures for Numba, at the end of the file.

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import types

from ..reference_codes import BALE, BUNDLE
from .ahead import ASKED
from .among import walk
from .chosen import LOST, compare_best, kernel, word_of
from .codes import score
from .compile import compiled, helper, reads, writes
from .memory import (
    address_of,
    as_float32,
    as_int32,
    as_uint8,
    as_uint64,
    load,
    load_flag,
    lowest_bit,
    popcount,
    prefetch,
)
from .pool import FARTHEST, key_of, score_of, take
from .steps import BITS, DONE, LATER, prepare_query, score_bits, seen_size

_LINE = 64
# Bundles are taken in the order of what so many standard deviations below their mean is.
_ORDER = 2.0
# The nearer half of the bales comes first. What is nearer than their limit by so many of its deviations is seldom in the rest.
_SURER = 1.0
_BUCKETS = 256
# No search ends before so many codes for each answer.
_EAGER = 8
# Among the nearest bundles so large a share is enough for a walk, which begins at so many nodes of each of some.
_FRONT, _FULL = 16, 0.4
_BEGUN_IN, _BEGUN_AT = 8, 8
# These lie in so many bales.
_NEAREST = 8
# The codes of a bundle are asked for while one that comes so many before it is scanned.
_AHEAD = 2


@helper
def _middle_far(frame, middles, spreads, tilt, state, offset, b):
    """What few of the nodes round a middle are nearer than, and the deviation."""
    code = middles + b * frame.code_bytes
    if frame.kind < BITS:
        far = score(frame.kind, code, state, frame.code_bytes)
    else:
        far = score_bits(frame.kind, code, state, frame.code_bytes)
    middle, spread = np.float32(max(types.int64(far) + offset, 0)), load(as_float32(spreads), b)
    deviation = np.float32(2.0 * tilt) * np.sqrt(middle * spread)
    return middle + spread - np.float32(_ORDER) * deviation, deviation


@helper
def _appraise_bales(frame, tables, state, offset, far):
    """Appraises the bales; returns a limit that about half of them are below, and what few of the rest's nodes are nearer than."""
    total, squares, count = np.float32(0), np.float32(0), tables.bales
    for bale in range(count):
        far[bale], _ = _middle_far(
            frame, tables.bale_middles, tables.bale_spreads, tables.tilt, state, offset, bale
        )
        total += far[bale]
        squares += far[bale] * far[bale]
    mean = total / np.float32(count)
    spread = max(squares / np.float32(count) - mean * mean, np.float32(0))
    return mean, mean - np.float32(_SURER) * np.sqrt(spread)


@helper
def _add(frame, tables, state, offset, bale, chosen, nearest, deviations, some, count):
    """Appraises and adds the bundles of a bale, but for loose ones, or only those with chosen nodes; how many there are then."""
    for b in range(bale * BALE, min((bale + 1) * BALE, tables.bundles)):
        if load(as_float32(tables.spreads), b) < 0 or (chosen and word_of(frame, tables, b) == 0):
            continue
        nearest[b], deviations[b] = _middle_far(
            frame, tables.middles, tables.spreads, tables.tilt, state, offset, b
        )
        some[count] = b
        count += 1
    return count


@helper
def _appraise(frame, tables, state, offset, far, limit, beyond, nearest, deviations, some, count):
    """Adds the bundles whose bales are up to a limit, or beyond it; how many there are then.

    Beyond it those without chosen nodes are left out. Before, they are not, since it would take longer to find out which they are.
    """
    for bale in range(tables.bales):
        if (far[bale] > limit) == beyond:
            count = _add(frame, tables, state, offset, bale, beyond, nearest, deviations, some, count)
    return count


@helper
def _put_in_order(nearest, some, count, order, places):
    """Fills in some bundles again, the nearest first as far as buckets tell."""
    least, most = np.float32(np.inf), np.float32(-np.inf)
    for i in range(count):
        value = nearest[some[i]]
        least, most = min(least, value), max(most, value)
    scale = np.float32(_BUCKETS - 1) / max(most - least, np.float32(1e-30))
    places[:] = 0
    for i in range(count):
        places[types.int64((nearest[some[i]] - least) * scale) + 1] += 1
    for bucket in range(_BUCKETS):
        places[bucket + 1] += places[bucket]
    for i in range(count):
        bucket = types.int64((nearest[some[i]] - least) * scale)
        order[places[bucket]] = some[i]
        places[bucket] += 1


@helper
def _appraise_nearest(frame, tables, state, offset, far, nearest, deviations, some):
    """Adds the bundles of the nearest bales alone, but for loose ones; how many."""
    count, last = 0, np.float32(-np.inf)
    for _ in range(_NEAREST):
        bale, least = types.int64(-1), np.float32(np.inf)
        for other in range(tables.bales):
            if last < far[other] < least:
                bale, least = types.int64(other), far[other]
        if bale < 0:
            break
        count = _add(frame, tables, state, offset, bale, False, nearest, deviations, some, count)
        last = least
    return count


@helper
def _begin(frame, tables, order, count, fresh):
    """Fills in where a walk may begin: how many nodes; 0 where too few of those near were chosen."""
    chosen = types.int64(0)
    for i in range(min(count, _FRONT)):
        chosen += types.int64(popcount(word_of(frame, tables, types.int64(order[i]))))
    if count < _FRONT or chosen < _FULL * _FRONT * BUNDLE:
        return 0
    size = 0
    for i in range(_BEGUN_IN):
        b = types.int64(order[i])
        word = word_of(frame, tables, b)
        for _ in range(_BEGUN_AT):
            if word != 0:
                fresh[size] = b * BUNDLE + lowest_bit(types.int64(word))
                word &= word - types.uint64(1)
                size += 1
    return size


@helper
def _ask_for(frame, tables, b):
    """Sends for the codes of a bundle's chosen nodes."""
    word = load(as_uint64(tables.words), b) if load_flag(as_uint8(tables.known), b) != 0 else types.uint64(0)
    while word != 0:
        start = frame.codes + (b * BUNDLE + lowest_bit(types.int64(word))) * frame.code_bytes
        for line in range(0, frame.code_bytes, _LINE):
            prefetch(start + line)
        word &= word - types.uint64(1)


@helper
def _scan(frame, tables, way, state, offset, nearest, deviations, order, count, limit, best, room, so_far):
    """Looks into bundles in their order: (answers, codes, codes up to the newest answer, how many bundles or -1 at the end).

    It stops where what was found is as far as the limit, since those that are not in order yet may be as near.
    """
    size, scored, last, _ = so_far
    kind, n_bytes, codes, near = frame.kind, frame.code_bytes, frame.codes, way.near
    further = np.float32(way.deviations - _ORDER)
    for i in range(count):
        b = types.int64(order[i])
        if i + _AHEAD < count:
            _ask_for(frame, tables, types.int64(order[i + _AHEAD]))
        before = best[near - 1] if size >= near else FARTHEST
        if before < FARTHEST and scored > _EAGER * near:
            farthest = np.float32(score_of(before) + offset)
            if farthest > limit:
                return size, scored, last, i
            if scored > (1.0 + way.patience) * last and nearest[b] - further * deviations[b] > farthest:
                return size, scored, last, -1
        word = word_of(frame, tables, b)
        scored += types.int64(popcount(word))
        while word != 0:
            node = b * BUNDLE + lowest_bit(types.int64(word))
            word &= word - types.uint64(1)
            code = codes + node * n_bytes
            far = score(kind, code, state, n_bytes) if kind < BITS else score_bits(kind, code, state, n_bytes)
            key = key_of(far, node)
            if (size < room or key < best[size - 1]) and take(best, size, room, key) >= 0:
                size = min(size + 1, room)
        if size < near or best[near - 1] < before:
            last = scored
    return size, scored, last, count


@helper
def _look(
    frame, tables, way, state, offset, limit, sure, far, nearest, deviations, some, order, count, places, best, room, counters
):  # fmt: skip
    """The nearest codes of what was chosen, as far as the bundles that are looked into have them; how many."""
    every = np.float32(np.inf)
    for i in range(tables.loose_count):
        some[i] = load(as_int32(tables.loose), i)
        nearest[some[i]] = -every
    so_far = _scan(
        frame, tables, way, state, offset, nearest, deviations, some, tables.loose_count, every, best, room,
        (0, 0, 0, 0),
    )  # fmt: skip
    so_far = _scan(
        frame, tables, way, state, offset, nearest, deviations, order, count, sure, best, room, so_far
    )
    if so_far[3] >= 0:
        left = types.int64(0)
        for i in range(so_far[3], count):
            some[left] = order[i]
            left += word_of(frame, tables, types.int64(order[i])) != 0
        before = left
        left = _appraise(frame, tables, state, offset, far, limit, True, nearest, deviations, some, left)
        counters[1] += left - before
        _put_in_order(nearest, some, left, order, places)
        so_far = _scan(
            frame, tables, way, state, offset, nearest, deviations, order, left, every, best, room, so_far
        )
    counters[1] += so_far[1]
    return types.int64(so_far[0])


def _search(tag, frames, weights, codec, tables_of, others, queries, ways, slots, distances, sizes, counters):
    frame, way, local, tables = frames[0], ways[0], ways[1], tables_of[0]
    vector, own = np.empty(len(codec[2]), np.float32), np.empty(queries.shape[1], queries.dtype)
    memory, asked = np.empty(frame.state_bytes, np.uint8), np.empty(ASKED, np.int64)
    nearest, deviations = np.empty(tables.bundles, np.float32), np.empty(tables.bundles, np.float32)
    some, order = np.empty(tables.bundles, np.int32), np.empty(tables.bundles, np.int32)
    far = np.empty(tables.bales, np.float32)
    places = np.empty(_BUCKETS + 1, np.int32)
    seen, pool = np.empty(seen_size(local.room), np.uint32), np.empty(local.room + 1, np.int64)
    fresh = np.empty(max(frame.degree + LATER, _BEGUN_IN * _BEGUN_AT), np.int64)
    room = max(way.near, way.reranked)
    best, chosen = np.empty(room + 1, np.int64), np.empty(way.reranked, np.int64)
    state = address_of(memory)
    for q in range(len(queries)):
        offset = prepare_query(frame, codec, queries[q], vector, own, memory)
        limit, sure = _appraise_bales(frame, tables, state, offset, far)
        count = _appraise_nearest(frame, tables, state, offset, far, nearest, deviations, some)
        _put_in_order(nearest, some, count, order, places)
        counters[1] += tables.bales + count
        size, begun = types.int64(LOST), _begin(frame, tables, order, count, fresh)
        if begun > 0:
            size = walk(
                frame, local, weights, tables, state, offset, seen, asked, pool, fresh, begun, best, counters
            )
        if size == LOST:
            count = _appraise(frame, tables, state, offset, far, limit, False, nearest, deviations, some, 0)
            _put_in_order(nearest, some, count, order, places)
            counters[1] += count
            size = _look(
                frame, tables, way, state, offset, limit, sure, far, nearest, deviations, some, order, count, places,
                best, room, counters,
            )  # fmt: skip
        if size >= 0:
            size = compare_best(
                tag, frame, way, weights, own, best, size, chosen, others, slots[q], distances[q], counters
            )
        sizes[q] = size
        if size == -1:
            return counters[2]
    return DONE


@functools.cache
def search(dtype: str) -> Any:
    """The kernel that looks into bundles: see `chosen.kernel`. The second of `ways` is that of a walk."""
    return kernel(dtype, _search)


# --- making them -----------------------------------------------------------------------------------------


def _make(width, weight, codes, own, size, first, last, middles, spreads):
    n_bytes, mask = codes.shape[1], (1 << width) - 1
    planes = 8 // width
    sums = np.empty(planes * n_bytes, np.int32)
    for b in range(first, last):
        sums[:] = 0
        squares = 0
        low = b * size
        count = min(size, len(codes) - low)
        for node in range(low, low + count):
            for plane in range(planes):
                for i in range(n_bytes):
                    number = types.int32(codes[node, i] >> (plane * width)) & mask
                    sums[plane * n_bytes + i] += number
                    squares += number * number
        middles[b] = 0
        spread = np.float64(squares)
        for plane in range(planes):
            for i in range(n_bytes):
                total = types.int64(sums[plane * n_bytes + i])
                number = (2 * total + count) // (2 * count)
                spread += np.float64(number * (count * number - 2 * total))
                middles[b, i] |= np.uint8(number << (plane * width))
        spread *= weight
        for node in range(low, min(low + count, len(own))):
            spread += np.float64(own[node])
        spreads[b] = np.float32(spread / count)


@functools.cache
def make() -> Any:
    """`(width, weight, codes: uint8[n, bytes], own: float32[n], size, first, last, middles: uint8[b, bytes], spreads: float32[b])`.

    Fills in from `first` to `last` the middles of so many codes each: a code whose numbers of `width` bits are the means of
    theirs, and their mean squared distance to it, in units of scores: the weight is the codec's. Where codes are middles
    themselves, they have `own` spreads, which are added.
    """
    u8, i64 = types.uint8, types.int64
    return compiled(
        _make,
        i64,
        i64,
        reads(u8, 2),
        reads(types.float32),
        i64,
        i64,
        i64,
        writes(u8, 2),
        writes(types.float32),
    )
