"""One query against blocks of vectors: one kernel for each metric and dtype, compiled on first demand.

Rows go four at a time, so that each load of the query serves four rows and their sums do not wait for one
another. Sums are float32. Where float32 cannot hold them (an overflow, or a norm so small that its square
vanishes) the row is computed again in float64, so no kernel returns NaN for finite vectors; an `l2` or
`ip` value beyond float32 is infinite.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# What kernels take is said by their signatures for Numba, at the end of the file.

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import typeof, types

from . import bits
from .compile import compiled, helper, reads, writes
from .memory import element, element_tag, pointer, prefetch

LARGEST = np.float32(1e37)
"""Squared norms up to this leave room for every partial sum of a product with another such vector."""
SMALLEST = np.float32(1e-30)
"""Squared norms below this have lost digits to underflow."""

# Processors read ahead by themselves, but not across the border of a page: asked for one page early, a row
# is there. Any address may be asked for, behind the last block too.
_AHEAD = 4096


@helper
def squared_norm(row, dim):
    total = np.float32(0)
    for j in range(dim):
        x = element(row, j)
        total += x * x
    return total


# --- a row in float64, for what float32 cannot hold ------------------------------------------------------


@helper
def l2_wide(row, query, dim):
    total = 0.0
    for j in range(dim):
        difference = np.float64(query[j]) - np.float64(element(row, j))
        total += difference * difference
    return np.float32(total)


@helper
def ip_wide(row, query, dim):
    total = 0.0
    for j in range(dim):
        total += np.float64(query[j]) * np.float64(element(row, j))
    return np.float32(-total)


@helper
def cosine_wide(row, query, dim):
    product = 0.0
    norm = 0.0
    for j in range(dim):
        x = np.float64(element(row, j))
        product += np.float64(query[j]) * x
        norm += x * x
    return np.float32(1.0 - product / np.sqrt(norm)) if norm > 0.0 else np.float32(1)


# --- four rows at a time ---------------------------------------------------------------------------------


@helper
def _four_rows(base, r, per_block, stride, like):
    # The last group repeats its last row rather than having code of its own.
    last = per_block - 1
    return (
        pointer(base + r * stride, like),
        pointer(base + min(r + 1, last) * stride, like),
        pointer(base + min(r + 2, last) * stride, like),
        pointer(base + min(r + 3, last) * stride, like),
    )


@helper
def _read_ahead(start, length):
    for offset in range(0, length, 64):
        prefetch(start + _AHEAD + offset)


@helper
def _store_four(out, start, r, per_block, values):
    last = per_block - 1
    out[start + r] = values[0]
    out[start + min(r + 1, last)] = values[1]
    out[start + min(r + 2, last)] = values[2]
    out[start + min(r + 3, last)] = values[3]


@helper
def _l2_value(total, row, query, dim):
    return total if total <= LARGEST else l2_wide(row, query, dim)


@helper
def _ip_value(total, row, query, dim):
    return -total if abs(total) <= LARGEST else ip_wide(row, query, dim)


@helper
def _cosine_of(product, norm):
    return np.float32(1) - product / np.sqrt(norm)


@helper
def _cosine_value(product, norm, row, query, dim):
    return _cosine_of(product, norm) if SMALLEST <= norm <= LARGEST else cosine_wide(row, query, dim)


def l2(like, addresses, per_block, stride, dim, query, out):
    for i in range(len(addresses)):
        base = types.int64(addresses[i])
        for r in range(0, per_block, 4):
            a, b, c, d = _four_rows(base, r, per_block, stride, like)
            _read_ahead(base + r * stride, 4 * stride)
            sa = sb = sc = sd = np.float32(0)
            for j in range(dim):
                q = query[j]
                xa, xb = q - element(a, j), q - element(b, j)
                xc, xd = q - element(c, j), q - element(d, j)
                sa += xa * xa
                sb += xb * xb
                sc += xc * xc
                sd += xd * xd
            values = (
                _l2_value(sa, a, query, dim),
                _l2_value(sb, b, query, dim),
                _l2_value(sc, c, query, dim),
                _l2_value(sd, d, query, dim),
            )
            _store_four(out, i * per_block, r, per_block, values)


def ip(like, addresses, per_block, stride, dim, query, out):
    for i in range(len(addresses)):
        base = types.int64(addresses[i])
        for r in range(0, per_block, 4):
            a, b, c, d = _four_rows(base, r, per_block, stride, like)
            _read_ahead(base + r * stride, 4 * stride)
            sa = sb = sc = sd = np.float32(0)
            for j in range(dim):
                q = query[j]
                sa += q * element(a, j)
                sb += q * element(b, j)
                sc += q * element(c, j)
                sd += q * element(d, j)
            values = (
                _ip_value(sa, a, query, dim),
                _ip_value(sb, b, query, dim),
                _ip_value(sc, c, query, dim),
                _ip_value(sd, d, query, dim),
            )
            _store_four(out, i * per_block, r, per_block, values)


def cosine(like, addresses, per_block, stride, dim, query, out):
    for i in range(len(addresses)):
        base = types.int64(addresses[i])
        for r in range(0, per_block, 4):
            a, b, c, d = _four_rows(base, r, per_block, stride, like)
            _read_ahead(base + r * stride, 4 * stride)
            sa = sb = sc = sd = np.float32(0)
            na = nb = nc = nd = np.float32(0)
            for j in range(dim):
                q = query[j]
                xa, xb, xc, xd = element(a, j), element(b, j), element(c, j), element(d, j)
                sa += q * xa
                sb += q * xb
                sc += q * xc
                sd += q * xd
                na += xa * xa
                nb += xb * xb
                nc += xc * xc
                nd += xd * xd
            if min(na, nb, nc, nd) >= SMALLEST and max(na, nb, nc, nd) <= LARGEST:
                values = _cosine_of(sa, na), _cosine_of(sb, nb), _cosine_of(sc, nc), _cosine_of(sd, nd)
            else:
                values = (
                    _cosine_value(sa, na, a, query, dim),
                    _cosine_value(sb, nb, b, query, dim),
                    _cosine_value(sc, nc, c, query, dim),
                    _cosine_value(sd, nd, d, query, dim),
                )
            _store_four(out, i * per_block, r, per_block, values)


# --- packed bits -----------------------------------------------------------------------------------------


# --- the kernels -----------------------------------------------------------------------------------------

_DENSE = {"l2": l2, "ip": ip, "cosine": cosine}
_BINARY = {"hamming": bits.hamming, "jaccard": bits.jaccard}


@functools.cache
def kernel(metric: str, dtype: str) -> Any:
    """`(addresses: uint64[n], per_block, stride, dim, query, out: float32[n * per_block]) -> None`.

    Block i holds `per_block` rows, `stride` bytes apart, the first at `addresses[i]`; `out` gets their
    internal distances in that order. The query is as `reference.prepare_query` makes it.
    """
    i64, out = types.int64, writes(types.float32)
    if dtype == "binary":
        bits = reads(types.uint8)
        return compiled(_BINARY[metric], reads(types.uint64), i64, i64, i64, bits, out)
    # The element type goes in as the type of an empty array: functions as arguments would end the caching.
    tag = element_tag(dtype)
    query = reads(types.float32)
    dispatcher = compiled(_DENSE[metric], typeof(tag), reads(types.uint64), i64, i64, i64, query, out)
    return functools.partial(dispatcher, tag)
