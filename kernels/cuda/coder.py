"""Codes of vectors, as `cpu/coder` makes them: scalar codes are the same to the bit, since every step is rounded alike.

What a product code says is the nearest centroid, of distances that are summed in the same order; where two are equally
near but for rounding, a processor that rounds elsewhere may have chosen the other.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# What kernels take is said where they are launched.

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import cuda, float32, int32

from ..reference_codes import BITS, GROUP, HALVES, PRODUCT4, centroids, planes, span
from .card import DeviceArray, simulated
from .compile import kernel
from .gram import INFINITY

MOST_ROTATED = 11_264
"""Vectors of more numbers, filled up, do not fit into the shared memory that every card has."""
_ROUNDING = np.float32(12582912.0)
"""Added to a number below 2**22 it leaves no room for fractions: the number is rounded, half to even."""
_WIDEST = {16: 2, 256: 4}
"""Coordinates of a product code's part, at most."""
_ROWS_A_THREAD = 4
_MOST_ROWS = 65_535


@functools.cache
def scalar_kernel(kind: int) -> Any:
    PLANES, BITS_EACH = planes(kind), BITS[kind]
    MOST = np.float32((1 << BITS_EACH) - 1)

    def encode(vectors, mean, turns, part, low, factor, codes):
        work = cuda.shared.array(0, float32)
        row, thread, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
        rounds, size = turns.shape
        dim = mean.shape[0]
        for j in range(thread, size, threads):
            x = np.float32(0)
            if j < dim:
                x = vectors[row, j] - mean[j]
            work[j] = x
        for turn in range(rounds):
            cuda.syncthreads()
            for j in range(thread, size, threads):
                work[j] *= turns[turn, j]
            first = size - part if turn % 2 == 1 else 0
            step = 0
            while 1 << step < part:
                # Products are in memory before they are added up, so that they are rounded first.
                cuda.syncthreads()
                stride = 1 << step
                for pair in range(thread, part // 2, threads):
                    at = first + ((pair >> step) << (step + 1)) + (pair & (stride - 1))
                    a, b = work[at], work[at + stride]
                    work[at], work[at + stride] = a + b, a - b
                step += 1
            if part < size and turn == HALVES:
                cuda.syncthreads()
                half = size // 2
                for at in range(thread, half, threads):
                    a, b = work[at], work[at + half]
                    work[at], work[at + half] = a + b, a - b
        cuda.syncthreads()
        for at in range(thread, codes.shape[1], threads):
            start = at // GROUP * GROUP * PLANES + at % GROUP
            byte = 0
            for p in range(PLANES):
                value = (work[start + GROUP * p] - low) * factor
                # Written so that what is no number becomes the most.
                if not value < MOST:
                    value = MOST
                if not value > np.float32(0):
                    value = np.float32(0)
                byte |= int((value + _ROUNDING) - _ROUNDING) << (p * BITS_EACH)
            codes[row, at] = byte

    return kernel(encode)


def encode_scalar(
    kind: int,
    vectors: DeviceArray,
    mean: DeviceArray,
    turns: DeviceArray,
    low: float,
    step: float,
    codes: DeviceArray,
) -> None:
    """`vectors: float32[n, d], mean: float32[d], turns: float32[rounds, size], codes: uint8[n, bytes]`. A block each."""
    size = turns.shape[1]
    part = span(size)
    threads = min(8, part) if simulated() else max(32, min(256, part // 2))
    factor = np.float32(1) / np.float32(step)
    launched = scalar_kernel(kind)[vectors.shape[0], threads, 0, 4 * size]
    launched(vectors, mean, turns, part, np.float32(low), factor, codes)


@functools.cache
def product_kernel(kind: int) -> Any:
    CENTROIDS, DOUBLED, ROWS = centroids(kind), 2 if kind == PRODUCT4 else 1, _ROWS_A_THREAD
    WIDEST = _WIDEST[CENTROIDS]

    def encode(vectors, mean, books, codes):
        book = cuda.shared.array((WIDEST, CENTROIDS), float32)
        x = cuda.local.array((ROWS, WIDEST), float32)
        best = cuda.local.array(ROWS, float32)
        names = cuda.local.array(ROWS, int32)
        found = cuda.local.array(ROWS, int32)
        byte, thread, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
        top = cuda.blockIdx.y * threads * ROWS + thread
        size, parts = mean.shape[0], codes.shape[1] * DOUBLED
        for i in range(ROWS):
            found[i] = 0
        for half in range(DOUBLED):
            part = byte * DOUBLED + half
            first, last = part * size // parts, (part + 1) * size // parts
            cuda.syncthreads()
            for at in range(thread, WIDEST * CENTROIDS, threads):
                value = np.float32(0)
                if at < (last - first) * CENTROIDS:
                    value = books[first * CENTROIDS + at]
                book[at // CENTROIDS, at % CENTROIDS] = value
            cuda.syncthreads()
            for i in range(ROWS):
                row = top + i * threads
                best[i], names[i] = INFINITY, 0
                for j in range(WIDEST):
                    value = np.float32(0)
                    if row < vectors.shape[0] and first + j < last:
                        value = vectors[row, first + j] - mean[first + j]
                    x[i, j] = value
            for c in range(CENTROIDS):
                for i in range(ROWS):
                    total = np.float32(0)
                    for j in range(WIDEST):
                        difference = x[i, j] - book[j, c]
                        total += difference * difference
                    if total < best[i]:
                        best[i], names[i] = total, np.int32(c)
            for i in range(ROWS):
                found[i] |= names[i] << np.int32(4 * half)
        for i in range(ROWS):
            row = top + i * threads
            if row < vectors.shape[0]:
                codes[row, byte] = found[i]

    return kernel(encode)


def encode_product(
    kind: int, vectors: DeviceArray, mean: DeviceArray, books: DeviceArray, codes: DeviceArray
) -> None:
    """`vectors: float32[n, d], mean: float32[d], books: float32[centroids * d], codes: uint8[n, bytes]`.

    A block has one byte of some hundred codes to find, so that its book is read once for all of them.
    """
    threads = 4 if simulated() else 128
    blocks = -(-vectors.shape[0] // (threads * _ROWS_A_THREAD))
    product_kernel(kind)[(codes.shape[1], blocks), threads](vectors, mean, books, codes)


def most_rows() -> int:
    """Rows that one launch of `encode_product` may take: the grid ends there."""
    return _MOST_ROWS * _ROWS_A_THREAD * (4 if simulated() else 128)


@functools.cache
def sums_kernel(kind: int) -> Any:
    CENTROIDS, DOUBLED = centroids(kind), 2 if kind == PRODUCT4 else 1

    def sums(codes, rows, parts_of, totals, counts):
        at = cuda.grid(1)
        if at >= rows.shape[1] * CENTROIDS:
            return
        column, centroid = at // CENTROIDS, at % CENTROIDS
        part = parts_of[column]
        byte, shift = part // DOUBLED, part % DOUBLED * 4
        total, count = 0.0, 0
        for row in range(rows.shape[0]):
            if (codes[row, byte] >> shift) & (CENTROIDS - 1) == centroid:
                total += rows[row, column]
                count += 1
        totals[centroid, column] = total
        counts[centroid, column] = count

    return kernel(sums)


def sums(
    kind: int,
    codes: DeviceArray,
    rows: DeviceArray,
    parts_of: DeviceArray,
    totals: DeviceArray,
    counts: DeviceArray,
) -> None:
    """What the rows of each centroid come to in each coordinate, and how many they are.

    `codes: uint8[n, bytes], rows: float64[n, d], parts_of: int32[d], totals: float64[centroids, d], counts: int64[…]`.
    A thread adds up one of these in the order of the rows, so that sums are those of the CPU to the bit. A sample has
    some thousand rows: this is float64, and takes no time.
    """
    threads = 8 if simulated() else 256
    blocks = -(-rows.shape[1] * centroids(kind) // threads)
    sums_kernel(kind)[blocks, threads](codes, rows, parts_of, totals, counts)
