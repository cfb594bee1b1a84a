"""Codes of vectors, as NumPy does them: their layout, the rotation, whole numbers, and scores. The oracle.

A scalar code holds one whole number u of 8, 4, 2 or 1 bits for each coordinate of a rotated vector y:
u = round((y - low) / step), clipped. Bytes come in groups of 16. A byte has 8 / bits planes, the lowest bits
first: plane p of byte i in group g holds coordinate 16 * planes * g + 16 * p + i. Vectors are filled up with
zeros to whole groups before they are rotated. A query is whole numbers w in finer steps, and a score is a
squared distance in those steps, less what is the same for all codes of one query:

    8 bits:     w = round((y - low) / step)                         score = sum((u - w)**2)
    otherwise:  w = round(2 * weight * (y - low) / step)            score = sum(u * (weight * u - w))

A product code holds one byte for each part of a vector: the number of a centroid (or two of 4 bits, for two
smaller parts), and a score is a sum of numbers that the query's table has for them.

Scores are exact, and fit 32 bits: they are the same on every processor.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from .reference import Bytes, _splitmix64

Floats = NDArray[np.float32]

SCALAR8, SCALAR4, SCALAR2, SCALAR1, PRODUCT8, PRODUCT4 = range(6)
SCALARS = (SCALAR8, SCALAR4, SCALAR2, SCALAR1)
PRODUCTS = (PRODUCT8, PRODUCT4)

BITS = {SCALAR8: 8, SCALAR4: 4, SCALAR2: 2, SCALAR1: 1, PRODUCT8: 8, PRODUCT4: 4}
WEIGHTS = {SCALAR4: 4, SCALAR2: 12, SCALAR1: 24}
"""The query's steps are half a weight-th of a code's. For any u > 0, weight * u - w fits a signed byte."""
QUERY_RANGES = {SCALAR8: (-128, 383), SCALAR4: (-60, 127), SCALAR2: (-91, 139), SCALAR1: (-103, 151)}
GROUP = 16
LINE = 64
"""A plane of a prepared query is padded to whole lines, so that wide loads stay inside."""
BUNDLE, BALE = 64, 16
"""Nodes side by side that have a middle in a code of its own, and bundles side by side that have one."""
MOST_COORDINATES = {SCALAR8: 8192, SCALAR4: 1 << 17, SCALAR2: 1 << 17, SCALAR1: 1 << 17}
"""Up to here no sum leaves 32 bits: 383**2 * 8192 < 2**31, and 15 * 127 * 2**17 < 2**31 for all others."""


def planes(kind: int) -> int:
    return 8 // BITS[kind]


def code_bytes(kind: int, dim: int) -> int:
    """The bytes of a code; of a product code that has four coordinates a byte.

    >>> code_bytes(SCALAR4, 128), code_bytes(SCALAR4, 100), code_bytes(SCALAR1, 384)
    (64, 64, 48)
    """
    if kind in PRODUCTS:
        return -(-dim // (4 * GROUP)) * GROUP
    return -(-dim // (GROUP * planes(kind))) * GROUP


def coordinates(kind: int, n_bytes: int) -> int:
    """How many coordinates a scalar code has room for: what vectors are filled up to and rotated in."""
    return n_bytes * planes(kind)


def centroids(kind: int) -> int:
    """How many a product code's books hold for each part."""
    return 1 << BITS[kind]


def bounds(kind: int, n_bytes: int, dim: int) -> list[int]:
    """Where a product code's parts begin, and where the last one ends."""
    parts = n_bytes * planes(kind)
    return [part * dim // parts for part in range(parts + 1)]


def plane_bytes(n_bytes: int) -> int:
    return -(-n_bytes // LINE) * LINE


def table_bytes(kind: int, n_bytes: int) -> int:
    """The part of a prepared query that scores are computed from."""
    if kind in PRODUCTS:
        return n_bytes * 512
    return plane_bytes(n_bytes) * (2 if kind == SCALAR8 else planes(kind))


# --- the rotation ----------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def turns(size: int, seed: int) -> Floats:
    """The rotation's rounds `(rounds, size)`: signs, and the scale that makes a round orthonormal.

    A round multiplies by its row and transforms the first (in odd rounds the last) 2**k coordinates after
    Hadamard. Where that leaves some out there are more rounds, and after the second the two halves are
    added and subtracted, or what is in one half alone would reach the other only where they overlap.
    """
    part = span(size)
    rounds = 2 if part == size else 4
    mixed = _splitmix64(np.arange(rounds * size, dtype=np.uint64) ^ _splitmix64(np.array([seed], np.uint64)))
    table = np.where(mixed >> np.uint64(63), -1.0, 1.0).reshape(rounds, size)
    table[0::2, :part] /= np.sqrt(part)
    table[1::2, size - part :] /= np.sqrt(part)
    if part < size:
        table[HALVES] /= np.sqrt(2.0)
    result = table.astype(np.float32)
    result.flags.writeable = False
    return result


HALVES = 1
"""The round after which the halves are mixed."""


def span(size: int) -> int:
    """The largest power of two up to a size: what one Hadamard transform covers."""
    return 1 << (size.bit_length() - 1)


def _hadamard(rows: Floats) -> Floats:
    stride = 1
    while stride < rows.shape[1]:
        pairs = rows.reshape(len(rows), -1, 2, stride)
        rows = np.stack((pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]), axis=2)
        rows = rows.reshape(len(rows), -1)
        stride *= 2
    return rows


def _halves(rows: Floats) -> Floats:
    half = rows.shape[1] // 2
    return np.concatenate((rows[:, :half] + rows[:, half:], rows[:, :half] - rows[:, half:]), axis=1)


def _transform(rows: Floats, turn: int) -> Floats:
    part, size = span(rows.shape[1]), rows.shape[1]
    start = size - part if turn % 2 else 0
    result: Floats = rows.copy()
    result[:, start : start + part] = _hadamard(rows[:, start : start + part])
    return result


def rotate(rows: Floats, table: Floats) -> Floats:
    """Rotated rows; they have the table's width, a multiple of 16."""
    for turn, factors in enumerate(table):
        rows = _transform(rows * factors, turn)
        if turn == HALVES and span(rows.shape[1]) != rows.shape[1]:
            rows = _halves(rows)
    return rows


def rotate_back(rows: Floats, table: Floats) -> Floats:
    """What `rotate` was given, up to rounding."""
    for turn, factors in reversed(list(enumerate(table))):
        if turn == HALVES and span(rows.shape[1]) != rows.shape[1]:
            rows = _halves(rows)
        rows = _transform(rows, turn) * factors
    return rows


def centred(vectors: Floats, mean: Floats, size: int) -> Floats:
    """Vectors less a mean, filled up with zeros."""
    result = np.zeros((len(vectors), size), np.float32)
    np.subtract(vectors, mean, out=result[:, : vectors.shape[1]])
    return result


# --- scalar codes ----------------------------------------------------------------------------------------


def whole(values: Floats, low: float, factor: float, least: int, most: int) -> NDArray[np.int64]:
    """round((values - low) * factor), clipped; what is no number becomes the most."""
    scaled = (values - np.float32(low)) * np.float32(factor)
    scaled = np.where(scaled < most, scaled, np.float32(most))
    return np.asarray(np.rint(np.maximum(scaled, np.float32(least)))).astype(np.int64)


def pack(kind: int, numbers: NDArray[np.int64]) -> Bytes:
    """Codes `(n, code bytes)` of whole numbers `(n, coordinates)`."""
    groups = numbers.reshape(len(numbers), -1, planes(kind), GROUP)
    shifts = np.arange(planes(kind))[:, None] * BITS[kind]
    packed: Bytes = (groups << shifts).sum(axis=2).astype(np.uint8).reshape(len(numbers), -1)
    return packed


def unpack(kind: int, codes: Bytes) -> NDArray[np.int64]:
    """The whole numbers `(n, coordinates)` of codes."""
    groups = codes.astype(np.int64).reshape(len(codes), -1, 1, GROUP)
    shifts = np.arange(planes(kind))[:, None] * BITS[kind]
    return ((groups >> shifts) & ((1 << BITS[kind]) - 1)).reshape(len(codes), -1)


def query_numbers(kind: int, rotated: Floats, low: float, step: float) -> NDArray[np.int64]:
    """The w of rotated queries."""
    factor = np.float32(2 * WEIGHTS.get(kind, 0.5)) / np.float32(step)
    return whole(rotated, low, float(factor), *QUERY_RANGES[kind])


def scalar_scores(kind: int, codes: Bytes, w: NDArray[np.int64]) -> NDArray[np.int64]:
    u = unpack(kind, codes)
    if kind == SCALAR8:
        return np.asarray(((u - w) ** 2).sum(axis=1))
    return np.asarray((u * (WEIGHTS[kind] * u - w)).sum(axis=1))


def product_scores(codes: Bytes, table: NDArray[np.uint16]) -> NDArray[np.int64]:
    """The table is `(code bytes, 256)`."""
    return np.asarray(table[np.arange(codes.shape[1]), codes].sum(axis=1, dtype=np.int64))


def state_bytes(kind: int, n_bytes: int, size: int) -> int:
    """A prepared query, and behind it the room that preparing takes; `size` is the rotated vectors'."""
    room = 4 * size
    if kind in PRODUCTS:
        room += 4 * n_bytes * (32 if kind == PRODUCT4 else 256)
    return -(-(table_bytes(kind, n_bytes) + room) // LINE) * LINE
