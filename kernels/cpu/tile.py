"""Many queries at once: rows are read once, widened into tiles, and multiplied by panels of queries.

A call holds no state outside its arguments and its own scratch, so threads may run it side by side, each
on blocks and heaps of its own. `microkernel` does the products; here is what feeds it and what becomes of
its hits.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# What kernels take is said by their signatures for Numba, at the end of the file.

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import typeof, types
from numpy.typing import NDArray

from ..dispatch import cpu_target
from .bits import hamming_rows, jaccard_row
from .compile import compiled, helper, maker, reads, writes
from .distance import LARGEST, SMALLEST, squared_norm
from .memory import address_of, as_float32, element, element_tag, lowest_bit, pointer, prefetch
from .microkernel import DEPTH, score_tile, widen_block
from .select import limit, offer, push_all

_L2, _IP, _COSINE, _HAMMING, _JACCARD = range(5)
_METRICS = {"l2": _L2, "ip": _IP, "cosine": _COSINE, "hamming": _HAMMING, "jaccard": _JACCARD}

_ROWS = cpu_target().tile_rows
_LANES = cpu_target().lanes
# A tile of rows stays in the second-level cache while all panels go over it.
_TILE_FLOATS = 24 * 1024
_MAX_GROUPS = 16
_LINE = 64


# --- gathering -------------------------------------------------------------------------------------------


@maker
def _aligned(n):
    raw = np.zeros(n + _LINE // 4, np.float32)
    skip = -address_of(raw) % _LINE // 4
    return raw[skip : skip + n]


@helper
def _list_rows(addresses, first_slots, per_block, stride, mask, place, where, slots):
    """Lists the masked-in rows from `place` on, as many as fit; returns the place after them and how many."""
    total = len(addresses) * per_block
    count = 0
    block = place // per_block
    r = place - block * per_block
    while place < total and count < len(where):
        if mask[place] != 0:
            where[count] = types.int64(addresses[block]) + r * stride
            slots[count] = first_slots[block] + r
            count += 1
        place += 1
        r += 1
        if r == per_block:
            r = 0
            block += 1
    return place, count


@helper
def _widen_row(row, dim, tile, start):
    """A stored row as float32 into its place in a tile, with zeros up to a whole block of dimensions."""
    target = address_of(tile) + 4 * start
    step = 4 * _ROWS * DEPTH
    whole = dim // DEPTH
    for block in range(whole):
        widen_block(row, block * DEPTH, as_float32(target + block * step))
    if whole * DEPTH < dim:
        for j in range(DEPTH):
            at = whole * DEPTH + j
            tile[start + whole * _ROWS * DEPTH + j] = element(row, at) if at < dim else np.float32(0)


@helper
def _terms(metric, norm):
    """(base, scale): the value of a row is base + scale * product."""
    if metric == _L2:
        return norm, np.float32(-2)
    if metric == _IP:
        return np.float32(0), np.float32(-1)
    return np.float32(1), np.float32(-1) / np.sqrt(norm)


@helper
def _fits(metric, norm):
    return norm <= LARGEST and (metric != _COSINE or norm >= SMALLEST)


@helper
def _wide_value(metric, row, dim, panel, lane):
    """The value of a row that does not fit float32 sums, with one query."""
    product = 0.0
    norm = 0.0
    for j in range(dim):
        x = np.float64(element(row, j))
        product += x * np.float64(panel[j, lane])
        norm += x * x
    if metric == _L2:
        return np.float32(norm - 2.0 * product)
    if metric == _IP:
        return np.float32(-product)
    return np.float32(1.0 - product / np.sqrt(norm)) if norm > 0.0 else np.float32(1)


# --- scoring ---------------------------------------------------------------------------------------------


@helper
def _enter(heap_dist, heap_slot, sizes, limits, query, value, slot, lowest):
    size = offer(heap_dist[query], heap_slot[query], sizes[query], value, slot)
    sizes[query] = size
    limits[query] = limit(heap_dist[query], heap_slot[query], size, lowest)


@helper
def _collect(hits, out, slots, first, lane, heap_dist, heap_slot, sizes, limits, lowest):
    """Offers the values of the rows with hits to the heaps of one panel, whose first query is `lane`."""
    lanes = min(_LANES, len(heap_dist) - lane)
    while hits != 0:
        r = lowest_bit(hits)
        hits &= hits - 1
        for at in range(lanes):
            value = out[r * _LANES + at]
            if value <= limits[lane + at]:
                _enter(heap_dist, heap_slot, sizes, limits, lane + at, value, slots[first + r], lowest)


@helper
def _prefetch_share(where, count, stride, step, steps):
    """One of `steps` equal shares of the next tile's cache lines, while this tile is computed."""
    for i in range(count * step // steps, count * (step + 1) // steps):
        for offset in range(0, stride, _LINE):
            prefetch(where[i] + offset)


@helper
def _score(tile, size, panel, base, scale, limits, group, lane, out):
    first = group * _ROWS
    hits = score_tile(
        as_float32(address_of(tile) + 4 * first * len(panel)),
        as_float32(address_of(panel)),
        len(panel) // DEPTH,
        as_float32(address_of(base) + 4 * first),
        as_float32(address_of(scale) + 4 * first),
        as_float32(address_of(limits) + 4 * lane),
        as_float32(address_of(out)),
    )
    # The last group may be short; what lies behind its rows is left over.
    return hits & ((1 << min(_ROWS, size - first)) - 1)


@helper
def _fill_tile(
    tag, metric, where, listed, count, dim, panels, tile, base, scale, slots,
    heap_dist, heap_slot, sizes, limits, lowest,
):  # fmt: skip
    """Widens the listed rows into the tile; returns how many it holds and their largest squared norm."""
    depth = panels.shape[1]
    size = 0
    largest = np.float32(0)
    for i in range(count):
        row = pointer(where[i], tag)
        norm = squared_norm(row, dim)
        largest = max(largest, norm)
        if _fits(metric, norm):
            base[size], scale[size] = _terms(metric, norm)
            slots[size] = listed[i]
            group = size // _ROWS
            _widen_row(row, dim, tile, group * _ROWS * depth + (size - group * _ROWS) * DEPTH)
            size += 1
            continue
        for query in range(len(heap_dist)):
            value = _wide_value(metric, row, dim, panels[query // _LANES], query % _LANES)
            _enter(heap_dist, heap_slot, sizes, limits, query, value, listed[i], lowest)
    return size, largest


def _scan(
    tag, metric, addresses, first_slots, per_block, stride, dim, mask, panels, heap_dist, heap_slot, sizes
):
    n_panels, depth = panels.shape[0], panels.shape[1]
    capacity = _ROWS * max(1, min(_MAX_GROUPS, _TILE_FLOATS // (_ROWS * depth)))
    tile, base, scale = _aligned(capacity * depth), _aligned(capacity), _aligned(capacity)
    out, limits = _aligned(_ROWS * _LANES), _aligned(n_panels * _LANES)
    limits[:] = -np.inf
    slots = np.empty(capacity, np.int64)
    where, listed = np.empty(capacity, np.int64), np.empty(capacity, np.int64)
    ascending = (first_slots[1:] > first_slots[:-1]).all()
    lowest = first_slots.min() if len(first_slots) > 0 else 0
    largest = np.float32(0)
    place, count = _list_rows(addresses, first_slots, per_block, stride, mask, 0, where, listed)
    while count > 0:
        if ascending:
            lowest = listed[0]
        for query in range(len(heap_dist)):
            limits[query] = limit(heap_dist[query], heap_slot[query], sizes[query], lowest)
        size, norm = _fill_tile(
            tag, metric, where, listed, count, dim, panels, tile, base, scale, slots,
            heap_dist, heap_slot, sizes, limits, lowest,
        )  # fmt: skip
        largest = max(largest, norm)
        place, count = _list_rows(addresses, first_slots, per_block, stride, mask, place, where, listed)
        groups = (size + _ROWS - 1) // _ROWS
        for p in range(n_panels):
            lane = p * _LANES
            for group in range(groups):
                _prefetch_share(where, count, stride, p * groups + group, n_panels * groups)
                hits = _score(tile, size, panels[p], base, scale, limits, group, lane, out)
                if hits != 0:
                    first = group * _ROWS
                    _collect(hits, out, slots, first, lane, heap_dist, heap_slot, sizes, limits, lowest)
    return largest


# --- packed bits -----------------------------------------------------------------------------------------


def _scan_bits(
    metric, addresses, first_slots, per_block, stride, dim, mask, queries, heap_dist, heap_slot, sizes
):
    # A block is read once from memory; for all queries but the first it lies in the cache.
    n_bytes = (dim + 7) // 8
    out = np.empty(per_block, np.float32)
    for i in range(len(addresses)):
        alive = mask[i * per_block : (i + 1) * per_block]
        if not alive.any():
            continue
        first = types.int64(addresses[i])
        for q in range(len(queries)):
            query = address_of(queries[q])
            if metric == _HAMMING:
                hamming_rows(first, per_block, stride, query, n_bytes, out)
            else:
                for r in range(per_block):
                    out[r] = jaccard_row(first + r * stride, query, n_bytes)
            sizes[q] = push_all(out, alive, first_slots[i], heap_dist[q], heap_slot[q], sizes[q])
    return np.float32(0)


# --- the kernels -----------------------------------------------------------------------------------------


def pack_queries(dtype: str, queries: NDArray[Any]) -> NDArray[Any]:
    """Prepared queries `(n, dim)` as `scan_batch` takes them: `[panel][dimension][lane]`, zeros added."""
    if dtype == "binary":
        return np.ascontiguousarray(queries, dtype=np.uint8)
    n, dim = queries.shape
    shape = (max(1, -(-n // _LANES)), -(-dim // DEPTH) * DEPTH, _LANES)
    raw = np.zeros(int(np.prod(shape)) + _LINE // 4, np.float32)
    skip = -raw.ctypes.data % _LINE // 4
    panels = raw[skip : skip + int(np.prod(shape))].reshape(shape)
    for i, query in enumerate(queries):
        panels[i // _LANES, :dim, i % _LANES] = query
    return panels


@functools.cache
def _dense(dtype: str) -> tuple[Any, Any]:
    i64, f32 = types.int64, types.float32
    tag = element_tag(dtype)
    blocks = (reads(types.uint64), reads(i64), i64, i64, i64, reads(types.uint8))
    heaps = (writes(f32, 2), writes(i64, 2), writes(i64))
    return compiled(_scan, typeof(tag), i64, *blocks, reads(f32, 3), *heaps), tag


@functools.cache
def _binary() -> Any:
    i64, f32 = types.int64, types.float32
    blocks = (reads(types.uint64), reads(i64), i64, i64, i64, reads(types.uint8))
    heaps = (writes(f32, 2), writes(i64, 2), writes(i64))
    return compiled(_scan_bits, i64, *blocks, reads(types.uint8, 2), *heaps)


@functools.cache
def scan_batch(metric: str, dtype: str) -> Any:
    """The kernel that adds blocks of vectors to the heaps of many queries.

    `(addresses: uint64[n], first_slots: int64[n], per_block, stride, dim, mask: uint8[n * per_block],
    packed queries, heap_dist: float32[queries, k], heap_slot: int64[queries, k], sizes: int64[queries])`
    returns the largest squared norm of a row, which `reference.batch_error_bound` wants the root of.

    Values are those of `distance.kernel`, except that `l2` leaves out the square of the query. Queries are
    prepared, satisfy `reference.fits_batch`, and are packed by `pack_queries`. Slots should ascend.
    For packed bits the values are exact, and the result is 0.
    """
    if dtype == "binary":
        return functools.partial(_binary(), _METRICS[metric])
    kernel, tag = _dense(dtype)
    return functools.partial(kernel, tag, _METRICS[metric])
