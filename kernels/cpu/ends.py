"""The two ends of walks that are done elsewhere: queries are prepared here, and what was found is compared here.

Both are as in `beam`, so that a query has one answer wherever its walk was.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# What kernels take is said by their signatures for Numba, at the end of the file.

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import from_dtype, types

from .beam import choose, given, kinds
from .coder import PARAMETERS
from .compile import compiled, reads, writes
from .steps import DONE, FRAME, compare, own_query, prepare_query


def _prepare(frames, codec, queries, states, offsets):
    frame = frames[0]
    vector, own = np.empty(len(codec[2]), np.float32), np.empty(queries.shape[1], queries.dtype)
    state = np.empty(frame.state_bytes, np.uint8)
    used = states.shape[1]
    for q in range(len(queries)):
        offsets[q] = prepare_query(frame, codec, queries[q], vector, own, state)
        states[q] = state[:used]


def _finish(
    tag, frames, weights, codec, mask, others, queries, pools, found, reranked, slots, distances, sizes, sures, counters
):  # fmt: skip
    frame = frames[0]
    own, chosen = np.empty(queries.shape[1], queries.dtype), np.empty(reranked, np.int64)
    for q in range(len(queries)):
        own_query(frame, queries[q], own)
        count, sures[q] = choose(frame, mask, pools[q], found[q], reranked, chosen)
        sizes[q] = compare(tag, frame, weights, own, chosen, count, others, slots[q], distances[q], counters)
        if sizes[q] < 0:
            return counters[2]
    return DONE


@functools.cache
def prepare(dtype: str) -> Any:
    """`(frame: FRAME[1], codec, queries (n, dim), states: uint8[n, used], offsets: int64[n])`.

    Of each state only as much is kept as scores are computed from: the first `used` bytes.
    """
    frame = types.Array(from_dtype(FRAME), 1, "C", readonly=True)
    states, offsets = writes(types.uint8, 2), writes(types.int64)
    return compiled(_prepare, frame, PARAMETERS, reads(kinds(dtype)[1], 2), states, offsets)


@functools.cache
def finish(dtype: str) -> Any:
    """`(frame, weights, codec, mask, others, queries (n, dim), pools: uint32[n, room], found: int32[n], reranked, slots:
    int64[n, k], distances: float64[n, k], sizes: int64[n], sures: int64[n], counters: int64[4]) -> DONE or DAMAGED`.

    Pools are the lower halves of `beam.search`'s keys, of which `found` came. All else is as there.
    """
    i64 = types.int64
    answers = (writes(i64, 2), writes(types.float64, 2), writes(i64), writes(i64), writes(i64))
    tag, query, _ = kinds(dtype)
    pools = reads(types.uint32, 2), reads(types.int32)
    kernel = compiled(_finish, *given(dtype), reads(query, 2), *pools, i64, *answers)
    return functools.partial(kernel, tag)
