"""All squared distances between two sets of vectors, as a table: register tiles, as in the batch scan."""

# mypy: allow-untyped-defs, allow-untyped-calls
# What kernels take is said by their signatures for Numba, at the end of the file.

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import types

from ..dispatch import cpu_target
from .compile import compiled, helper, maker, reads, writes
from .memory import address_of, as_float32
from .microkernel import DEPTH, score_tile

_ROWS = cpu_target().tile_rows
_LANES = cpu_target().lanes
_LINE = 64


@maker
def _aligned(n):
    raw = np.zeros(n + _LINE // 4, np.float32)
    skip = -address_of(raw) % _LINE // 4
    return raw[skip : skip + n]


@helper
def padded(dim):
    return (dim + DEPTH - 1) // DEPTH * DEPTH


@maker
def panels_of(columns):
    """Vectors as the tile wants its columns: `[panel][dimension][lane]`, zeros added."""
    count, dim = columns.shape
    depth = padded(dim)
    n_panels = (count + _LANES - 1) // _LANES
    flat = _aligned(n_panels * depth * _LANES)
    panels = flat.reshape((n_panels, depth, _LANES))
    for i in range(count):
        panel = panels[i // _LANES]
        for j in range(dim):
            panel[j, i % _LANES] = columns[i, j]
    return panels


@maker
def norms_of(vectors):
    norms = np.empty(len(vectors), np.float32)
    for i in range(len(vectors)):
        total = np.float32(0)
        for j in range(vectors.shape[1]):
            total += vectors[i, j] * vectors[i, j]
        norms[i] = total
    return norms


@maker
def table(rows, row_norms, panels, column_norms, out):
    """out[i, j] = |rows[i] - columns[j]|**2, not below zero."""
    dim = rows.shape[1]
    depth = panels.shape[1]
    tile, base, scale = _aligned(_ROWS * depth), _aligned(_ROWS), _aligned(_ROWS)
    values, limits = _aligned(_ROWS * _LANES), _aligned(_LANES)
    scale[:] = np.float32(-2)
    count, columns = len(rows), len(column_norms)
    for first in range(0, count, _ROWS):
        here = min(_ROWS, count - first)
        for r in range(here):
            row = rows[first + r]
            base[r] = row_norms[first + r]
            for j in range(dim):
                tile[(j // DEPTH) * _ROWS * DEPTH + r * DEPTH + j % DEPTH] = row[j]
        for p in range(len(panels)):
            score_tile(
                as_float32(address_of(tile)),
                as_float32(address_of(panels[p])),
                depth // DEPTH,
                as_float32(address_of(base)),
                as_float32(address_of(scale)),
                as_float32(address_of(limits)),
                as_float32(address_of(values)),
            )
            start = p * _LANES
            lanes = min(_LANES, columns - start)
            for r in range(here):
                target = out[first + r]
                for at in range(lanes):
                    target[start + at] = max(values[r * _LANES + at] + column_norms[start + at], np.float32(0))


def _nearest(rows, columns, first, last, chosen):
    """The nearest columns of rows first to last, nearest first; ties by number."""
    fanout = chosen.shape[1]
    panels, column_norms = panels_of(columns), norms_of(columns)
    step = 4 * _ROWS
    distances = np.empty((step, len(columns)), np.float32)
    best = np.empty(fanout, np.float32)
    for start in range(first, last, step):
        stop = min(start + step, last)
        part = rows[start:stop]
        table(part, norms_of(part), panels, column_norms, distances)
        for i in range(stop - start):
            size = 0
            mine = chosen[start + i]
            for j in range(len(columns)):
                distance = distances[i, j]
                if size == fanout and distance >= best[fanout - 1]:
                    continue
                place = size if size < fanout else fanout - 1
                while place > 0 and best[place - 1] > distance:
                    best[place], mine[place] = best[place - 1], mine[place - 1]
                    place -= 1
                best[place], mine[place] = distance, j
                size = min(size + 1, fanout)


@functools.cache
def nearest() -> Any:
    """`(rows: float32[n, d], columns: float32[k, d], first, last, chosen: int32[n, f])`.

    Writes the f nearest columns of each row from `first` to `last`; k is at least f.
    """
    f32, i64 = types.float32, types.int64
    return compiled(_nearest, reads(f32, 2), reads(f32, 2), i64, i64, writes(types.int32, 2))
