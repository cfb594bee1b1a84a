"""The plain NumPy answer to every kernel: the oracle, and the way small jobs are done without Numba.

Inside, a distance is the cheapest monotone form: `l2` is squared, the others are as published. `finish`
makes the public distance of it. Everything is computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Bytes: TypeAlias = NDArray[np.uint8]
Doubles: TypeAlias = NDArray[np.float64]

DENSE_METRICS = ("l2", "ip", "cosine")
BINARY_METRICS = ("hamming", "jaccard")
DENSE_DTYPES = ("float32", "float16", "uint8", "int8")
DTYPES = (*DENSE_DTYPES, "binary")

HEADER_BYTES = 48
CHECKSUM_OFFSET = 40
# What LMDB puts before a block in its first page.
PAGE_HEAD_BYTES = 16

_PAIRWISE_CHUNK = 1 << 22


# --- checksums -------------------------------------------------------------------------------------------


def _splitmix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        z = x + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
        return mixed


def _make_weights(n: int) -> NDArray[np.uint64]:
    weights: NDArray[np.uint64] = _splitmix64(np.arange(1, n + 1, dtype=np.uint64)) | np.uint64(1)
    weights.flags.writeable = False
    return weights


_weights = _make_weights(0)


def checksum_weights(n: int) -> NDArray[np.uint64]:
    """The first `n` weights, read-only. All are odd, so that no change inside one word can cancel out."""
    global _weights
    table = _weights
    if len(table) < n:
        # Grown tables share their prefix: two threads that race here both leave a right table behind.
        table = _make_weights(max(n, 2 * len(table), 1024))
        _weights = table
    return table[:n]


def _multilinear(parts: tuple[Bytes, ...]) -> int:
    total = np.uint64(0)
    start = 0
    with np.errstate(over="ignore"):
        for part in parts:
            words = np.ascontiguousarray(part).view("<u4").astype(np.uint64)
            total += np.dot(words, checksum_weights(start + len(words))[start:])
            start += len(words)
    return int(total)


def checksum(words_u8: Bytes) -> int:
    """The multilinear checksum of some bytes, a multiple of four: the sum of w_i * x_i modulo 2**64."""
    if words_u8.nbytes % 4:
        raise ValueError(f"a checksum covers whole 4-byte words, got {words_u8.nbytes} bytes")
    return _multilinear((words_u8,))


def block_checksum(block: Bytes) -> int:
    """The checksum of a stored block, its own checksum field left out."""
    if block.nbytes % 4 or block.nbytes < HEADER_BYTES:
        raise ValueError(f"a block is a header and whole 4-byte words, got {block.nbytes} bytes")
    return _multilinear((block[:CHECKSUM_OFFSET], block[HEADER_BYTES:]))


def page_sums(blocks: Sequence[Bytes], page_bytes: int) -> NDArray[np.uint32]:
    """`(n, pages)`: a checksum of each page of these blocks, which are of one length, as their pages lie in a file.

    The first page counts from the block's header on: the bytes before that are LMDB's, and change when it
    moves a block. It is the upper half of the multilinear checksum of the page, which all bits reach.
    """
    words, weights = page_bytes // 4, checksum_weights(page_bytes // 4)
    sums = np.zeros((len(blocks), (blocks[0].nbytes + PAGE_HEAD_BYTES) // page_bytes if blocks else 1), dtype=np.uint32)
    whole = np.zeros(sums.shape[1] * page_bytes, dtype=np.uint8)
    with np.errstate(over="ignore"):
        for place, block in enumerate(blocks):
            whole[PAGE_HEAD_BYTES:] = block
            totals = whole.view("<u4").reshape(-1, words).astype(np.uint64) @ weights
            sums[place] = totals >> np.uint64(32)
    return sums


# --- vectors as stored -----------------------------------------------------------------------------------


def row_bytes(dtype: str, dim: int) -> int:
    """The bytes of one stored vector, without padding."""
    return (dim + 7) // 8 if dtype == "binary" else dim * np.dtype(dtype).itemsize


def widen(rows: Bytes, dtype: str, dim: int) -> NDArray[Any]:
    """Stored rows `(n, row_bytes or more)` as float32 `(n, dim)`; binary rows stay packed."""
    stored = np.ascontiguousarray(rows[:, : row_bytes(dtype, dim)])
    if dtype == "binary":
        return stored
    return stored.view(dtype).astype(np.float32, copy=False)


def prepare_query(metric: str, query: ArrayLike) -> NDArray[Any]:
    """Queries (one, or one a row) as the compiled kernels take them: float32, of length one under cosine."""
    if metric in BINARY_METRICS:
        return np.ascontiguousarray(query, dtype=np.uint8)
    wide = np.asarray(query, dtype=np.float64)
    if metric == "cosine":
        wide = _unit(wide)
    return np.ascontiguousarray(wide, dtype=np.float32)


def _unit(vectors: Doubles) -> Doubles:
    norm = np.sqrt(np.einsum("...i,...i->...", vectors, vectors))[..., None]
    result: Doubles = np.divide(vectors, norm, out=np.zeros_like(vectors), where=norm > 0)
    return result


# --- distances -------------------------------------------------------------------------------------------


def _l2(rows: NDArray[Any], query: NDArray[Any]) -> Doubles:
    difference = rows.astype(np.float64) - query.astype(np.float64)
    result: Doubles = np.einsum("ij,ij->i", difference, difference)
    return result


def _ip(rows: NDArray[Any], query: NDArray[Any]) -> Doubles:
    result: Doubles = -(rows.astype(np.float64) @ query.astype(np.float64))
    return result


def _cosine(rows: NDArray[Any], query: NDArray[Any]) -> Doubles:
    result: Doubles = 1.0 - _unit(rows.astype(np.float64)) @ _unit(query.astype(np.float64))
    return result


def _hamming(rows: NDArray[Any], query: NDArray[Any]) -> Doubles:
    return _bits(rows ^ query)


def _jaccard(rows: NDArray[Any], query: NDArray[Any]) -> Doubles:
    union = _bits(rows | query)
    overlap = np.divide(_bits(rows & query), union, out=np.ones_like(union), where=union > 0)
    return np.asarray(1.0 - overlap)


_BITS_OF_BYTE = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)


def _bits(packed: Bytes) -> Doubles:
    return np.asarray(_BITS_OF_BYTE[packed].sum(axis=1, dtype=np.int64), dtype=np.float64)


_METRICS: dict[str, Callable[[NDArray[Any], NDArray[Any]], Doubles]] = {
    "l2": _l2,
    "ip": _ip,
    "cosine": _cosine,
    "hamming": _hamming,
    "jaccard": _jaccard,
}


def distances(metric: str, dtype: str, rows: Bytes, query: ArrayLike) -> Doubles:
    """The internal distances of stored rows `(n, row_bytes or more)` to one query, raw or prepared.

    A zero vector has cosine distance 1; two empty bit sets have jaccard distance 0.
    """
    vector = np.asarray(query)
    dim = 8 * len(vector) if dtype == "binary" else len(vector)
    return _METRICS[metric](widen(rows, dtype, dim), vector)


def pairwise(metric: str, dtype: str, rows: Bytes, queries: ArrayLike) -> Doubles:
    """The internal distances `(number of queries, n)`; many rows are taken in parts to bound the memory."""
    table = np.asarray(queries)
    step = max(1, _PAIRWISE_CHUNK // max(1, table.shape[1]))
    result = np.empty((len(table), len(rows)))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        for i, query in enumerate(table):
            result[i, start : start + step] = distances(metric, dtype, part, query)
    return result


def finish(metric: str, values: ArrayLike) -> Doubles:
    """Public distances of internal ones."""
    wide = np.asarray(values, dtype=np.float64)
    if metric == "l2":
        return np.asarray(np.sqrt(np.maximum(wide, 0.0)))
    return np.asarray(np.maximum(wide, 0.0)) if metric == "cosine" else wide


def internal(metric: str, value: float) -> float:
    """The internal distance of a public one: what a search radius is compared with."""
    return value * value if metric == "l2" and value > 0 else value


# --- selection -------------------------------------------------------------------------------------------


def smallest(
    values: NDArray[np.floating[Any]],
    k: int,
    slots: NDArray[np.int64] | None = None,
    mask: NDArray[np.generic] | None = None,
) -> tuple[NDArray[np.floating[Any]], NDArray[np.int64]]:
    """The k smallest `(distances, slots)` among the masked-in, ordered by distance and then by slot."""
    names = np.arange(len(values), dtype=np.int64) if slots is None else slots
    if mask is not None:
        alive = np.flatnonzero(mask)
        values, names = values[alive], names[alive]
    if 0 < k < len(values):
        # Everything up to the k-th distance stays, ties included, so that slots can decide among them.
        near = np.flatnonzero(values <= np.partition(values, k - 1)[k - 1])
        values, names = values[near], names[near]
    order = np.lexsort((names, values))[:k]
    return values[order], names[order]


def fits_batch(queries: NDArray[Any]) -> NDArray[np.bool_]:
    """Which prepared queries `scan_batch` may take: products with longer ones could overflow float32."""
    wide = queries.astype(np.float64)
    return np.asarray(np.einsum("ij,ij->i", wide, wide) <= 1e37)


def batch_error_bound(metric: str, dim: int, query_norm: float, max_row_norm: float) -> float:
    """How far a value of `scan_batch` may lie from the exact one; norms are lengths, not squared.

    A float32 sum of n products is off by at most g(n) * sum|x_i q_i| <= g(n) |x| |q| in whatever order it
    is taken, with g(n) = n u / (1 - n u) and u = 2**-24. The squared norm of a row adds g(n) |x|^2, and
    the rounded norm, query and result a few u more. Values of packed bits are integers or rounded once.

    How to use it: a row outside the pool of k' candidates has a value no less than the pool's worst, w.
    If the k-th best exact value of the pool is < w - bound, no row outside can belong to the best k.
    For `l2` compare exact values without the query's own square: |x|^2 - 2 x.q.
    """
    unit = 2.0**-24
    if metric in BINARY_METRICS:
        return 0.0 if metric == "hamming" else unit
    terms = (dim + 16) * unit
    if terms > 0.01:
        return float("inf")
    # The largest norm was itself rounded, by half a per cent at most: hence the slack.
    relative = 1.01 * terms / (1.0 - terms)
    underflow = 4.0 * (dim + 16) * 2.0**-149
    if metric == "cosine":
        # Rows shorter than 1e-15 are computed in float64, so underflow is far below one unit here.
        return 2.0 * relative
    product = max_row_norm * query_norm
    if metric == "ip":
        return relative * product + underflow
    return relative * (max_row_norm * max_row_norm + 2.0 * product) + underflow
