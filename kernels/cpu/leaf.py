"""Candidates for a graph's edges from one leaf: a few hundred vectors that lie near each other.

All distances within the leaf are made at once; then each member keeps, of its nearest, those that no kept
one is nearer to. So edges point into different directions, at no further cost in distances.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# What kernels take is said by their signatures for Numba, at the end of the file.

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import types

from .compile import compiled, helper, reads, writes
from .gram import norms_of, panels_of, table

_SAMPLE = 64
NONE = np.uint32(0xFFFFFFFF)


@helper
def _threshold(row, wanted, sample):
    """A distance that about `wanted` of a row's entries are within, from an even sample of them."""
    count = len(row)
    if count <= _SAMPLE:
        return np.float32(np.inf)
    for s in range(_SAMPLE):
        value = row[s * count // _SAMPLE]
        place = s
        while place > 0 and sample[place - 1] > value:
            sample[place] = sample[place - 1]
            place -= 1
        sample[place] = value
    return sample[min(_SAMPLE - 1, 1 + wanted * _SAMPLE // count)]


@helper
def _gather_near(row, own, limit, near):
    """The members within a limit, as many as there is room for."""
    count = 0
    for j in range(len(row)):
        near[count] = j
        count += row[j] <= limit and j != own
        if count == len(near):
            break
    return count


@helper
def _sort_by(row, near, count, keep):
    """The `keep` nearest of some members, nearest first; ties by number."""
    size = 0
    for a in range(count):
        j = near[a]
        distance = row[j]
        if size == keep and distance >= row[near[size - 1]]:
            continue
        place = size if size < keep else keep - 1
        while place > 0 and row[near[place - 1]] > distance:
            near[place] = near[place - 1]
            place -= 1
        near[place] = j
        size = min(size + 1, keep)
    return size


def _leaf(vectors, members, nearest, alpha, ids, distances):
    count, keep = len(members), ids.shape[1]
    own = np.empty((count, vectors.shape[1]), np.float32)
    for i in range(count):
        own[i] = vectors[members[i]]
    norms = norms_of(own)
    apart = np.empty((count, count), np.float32)
    table(own, norms, panels_of(own), norms, apart)
    near = np.empty(count + 1, np.int64)
    sample = np.empty(_SAMPLE, np.float32)
    kept = np.empty(keep, np.int64)
    for i in range(count):
        row = apart[i]
        found = _gather_near(row, i, _threshold(row, nearest, sample), near)
        if found < min(nearest // 2, count - 1):
            found = _gather_near(row, i, np.float32(np.inf), near)
        found = _sort_by(row, near, found, nearest)
        size = 0
        for a in range(found):
            j = near[a]
            bound = row[j]
            clear = True
            for b in range(size):
                if alpha * apart[kept[b], j] <= bound:
                    clear = False
                    break
            if clear:
                kept[size] = j
                ids[i, size] = members[j]
                distances[i, size] = bound
                size += 1
                if size == keep:
                    break
        for b in range(size, keep):
            ids[i, b] = NONE


@functools.cache
def leaf_edges() -> Any:
    """`(vectors: float32[n, d], members: int64[m], nearest, alpha, ids: uint32[m, k], distances: float32[m, k])`.

    For each member up to k others of the `nearest` nearest in the leaf, pruned; filled up with NONE.
    """
    f32 = types.float32
    return compiled(
        _leaf, reads(f32, 2), reads(types.int64), types.int64, f32, writes(types.uint32, 2), writes(f32, 2)
    )
