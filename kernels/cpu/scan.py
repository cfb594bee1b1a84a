"""One query against many blocks in one call: distances and selection block by block, while in the cache."""

# mypy: allow-untyped-defs, allow-untyped-calls
# What kernels take is said by their signatures for Numba, at the end of the file.

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import typeof, types

from . import bits, distance
from .compile import compiled, helper, reads, writes
from .memory import element_tag
from .select import any_within, limit, push_all

_L2, _IP, _COSINE, _HAMMING, _JACCARD = range(5)
_METRICS = {"l2": _L2, "ip": _IP, "cosine": _COSINE, "hamming": _HAMMING, "jaccard": _JACCARD}

_l2, _ip, _cosine = helper(distance.l2), helper(distance.ip), helper(distance.cosine)
_hamming, _jaccard = helper(bits.hamming), helper(bits.jaccard)


# How many bytes of distances are made before any is selected: memory idles while heaps are looked at.
_RUN_BYTES = 16 * 1024


@helper
def _blocks_a_run(per_block):
    return max(1, _RUN_BYTES // (4 * per_block))


@helper
def _select(out, mask, first_slots, start, stop, per_block, heap_dist, heap_slot, size):
    """Offers the distances of blocks start to stop, in `out`, to the heap."""
    bound = limit(heap_dist, heap_slot, size, -1)
    if not any_within(out, 0, (stop - start) * per_block, bound):
        return size
    for i in range(start, stop):
        dist = out[(i - start) * per_block : (i - start + 1) * per_block]
        alive = mask[i * per_block : (i + 1) * per_block]
        size = push_all(dist, alive, first_slots[i], heap_dist, heap_slot, size)
    return size


def _dense(
    tag, metric, addresses, first_slots, per_block, stride, dim, mask, query, heap_dist, heap_slot, size
):
    run = _blocks_a_run(per_block)
    buffer = np.empty(run * per_block, np.float32)
    return _dense_runs(
        tag, metric, addresses, first_slots, per_block, stride, dim, mask, query, heap_dist, heap_slot, size, run, buffer
    )  # fmt: skip


@helper
def _dense_runs(
    tag, metric, addresses, first_slots, per_block, stride, dim, mask, query, heap_dist, heap_slot, size, run, buffer
):  # fmt: skip
    for start in range(0, len(addresses), run):
        stop = min(start + run, len(addresses))
        for i in range(start, stop):
            block = addresses[i : i + 1]
            out = buffer[(i - start) * per_block : (i - start + 1) * per_block]
            if not mask[i * per_block : (i + 1) * per_block].any():
                out[:] = np.inf
            elif metric == _L2:
                _l2(tag, block, per_block, stride, dim, query, out)
            elif metric == _IP:
                _ip(tag, block, per_block, stride, dim, query, out)
            else:
                _cosine(tag, block, per_block, stride, dim, query, out)
        size = _select(buffer, mask, first_slots, start, stop, per_block, heap_dist, heap_slot, size)
    return size


def _bits(metric, addresses, first_slots, per_block, stride, dim, mask, query, heap_dist, heap_slot, size):
    run = _blocks_a_run(per_block)
    buffer = np.empty(run * per_block, np.float32)
    return _bits_runs(
        metric, addresses, first_slots, per_block, stride, dim, mask, query, heap_dist, heap_slot, size, run, buffer
    )  # fmt: skip


@helper
def _bits_runs(
    metric, addresses, first_slots, per_block, stride, dim, mask, query, heap_dist, heap_slot, size, run, buffer
):  # fmt: skip
    for start in range(0, len(addresses), run):
        stop = min(start + run, len(addresses))
        for i in range(start, stop):
            block = addresses[i : i + 1]
            out = buffer[(i - start) * per_block : (i - start + 1) * per_block]
            if not mask[i * per_block : (i + 1) * per_block].any():
                out[:] = np.inf
            elif metric == _HAMMING:
                _hamming(block, per_block, stride, dim, query, out)
            else:
                _jaccard(block, per_block, stride, dim, query, out)
        size = _select(buffer, mask, first_slots, start, stop, per_block, heap_dist, heap_slot, size)
    return size


@functools.cache
def _compiled(dtype: str) -> Any:
    i64, f32, u8 = types.int64, types.float32, types.uint8
    blocks = (reads(types.uint64), reads(i64), i64, i64, i64, reads(u8))
    heap = (writes(f32), writes(i64), i64)
    if dtype == "binary":
        return compiled(_bits, i64, *blocks, reads(u8), *heap)
    tag = element_tag(dtype)
    return functools.partial(compiled(_dense, typeof(tag), i64, *blocks, reads(f32), *heap), tag)


@functools.cache
def scan(metric: str, dtype: str) -> Any:
    """The kernel that adds blocks of vectors to the heap of one query.

    `(addresses: uint64[n], first_slots: int64[n], per_block, stride, dim, mask: uint8[n * per_block],
    prepared query, heap_dist: float32[k], heap_slot: int64[k], size) -> new size`. Distances are those of
    `distance.kernel`. Blocks that are masked out are not read.
    """
    return functools.partial(_compiled(dtype), _METRICS[metric])
