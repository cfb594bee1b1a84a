"""All pairs within a distance between two sets of vectors: tables by register tiles, and what is near compared exactly."""

# mypy: allow-untyped-defs, allow-untyped-calls
# What kernels take is said by their signatures for Numba, at the end of the file.

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import typeof, types

from .apart import METRICS, apart
from .compile import compiled, helper, reads, writes
from .gram import norms_of, panels_of, table
from .memory import address_of, element_tag

# A table of so many rows and columns stays in the cache.
_ROWS, _COLUMNS = 48, 512


@helper
def _keep(tag, metric, dim, row, start, own, first, stored, behind, limit, radius, i, j, distances, count):
    """Notes what of one row of a table is near, as far as there is room; how many there are by now."""
    hits = np.int32(0)
    for at in range(len(row)):
        hits += np.int32(not row[at] > limit)
    if hits == 0:
        return count
    for at in range(len(row)):
        other = start + at
        if row[at] > limit or other < behind:
            continue
        distance = apart(tag, metric, address_of(stored) + other * stored.shape[1], own, dim)
        if distance <= radius:
            if count < len(i):
                i[count], j[count], distances[count] = first, other, distance
            count += 1
    return count


def _join(
    tag, metric, dim, rows, own, first, last, columns, stored, same, limit, radius, i, j, distances
):  # fmt: skip
    count = types.int64(0)
    row_norms = norms_of(rows)
    values = np.empty((_ROWS, _COLUMNS), np.float32)
    for start in range(0, len(columns), _COLUMNS):
        stop = min(start + _COLUMNS, len(columns))
        if same and stop <= first:
            continue
        panels, norms = panels_of(columns[start:stop]), norms_of(columns[start:stop])
        for low in range(first, last, _ROWS):
            high = min(low + _ROWS, last)
            if same and stop <= low + 1:
                continue
            table(rows[low:high], row_norms[low:high], panels, norms, values)
            for place in range(low, high):
                behind = place + 1 if same else 0
                count = _keep(
                    tag, metric, dim, values[place - low, : stop - start], start, own[place], place, stored, behind, limit,
                    radius, i, j, distances, count,
                )  # fmt: skip
    return count


@functools.cache
def join(metric: str, dtype: str) -> Any:
    """`(dim, rows: float32[n, d], own (n, dim), first, last, columns: float32[m, d], stored: uint8[m, w], same, limit: float32,
    radius, i: int64[p], j: int64[p], distances: float64[p]) -> count`.

    Pairs of rows from `first` to `last` with columns whose public distance is within the radius. The squared distances
    of rows and columns choose: those beyond the limit are not looked at. `own` are the rows as queries, prepared, and `stored`
    the columns as the file has them. With `same` both are one set, and each pair comes once. Where more are found than there is
    room for, only the count is right.
    """
    i64, f32 = types.int64, types.float32
    tag = np.empty(0, np.uint8) if dtype == "binary" else element_tag(dtype)
    own = types.uint8 if dtype == "binary" else f32
    rows, columns = (reads(f32, 2), reads(own, 2), i64, i64), (reads(f32, 2), reads(types.uint8, 2))
    found = writes(i64), writes(i64), writes(types.float64)
    kernel = compiled(_join, typeof(tag), i64, i64, *rows, *columns, types.boolean, f32, types.float64, *found)
    return functools.partial(kernel, tag, METRICS[metric])
