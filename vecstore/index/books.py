"""The codebooks of product codes: k-means for each part of the vectors, all parts side by side."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vecstore.kernels import reference_codes as layout

Codes: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
Numbers: TypeAlias = NDArray[np.int64]
Sums: TypeAlias = Callable[[Floats], tuple[Doubles, Numbers]]
"""For codebooks: what the rows that each centroid is nearest to come to `(centroids, width)`, and how many they are
`(parts, centroids)`."""

# Enough for each of 256 centroids to stand for some forty vectors; more rounds gain next to nothing.
SAMPLE = 10_000
_ROUNDS = 8


def numbers_of(kind: int, codes: Codes) -> NDArray[np.int64]:
    """The centroids' numbers `(n, parts)` that codes hold."""
    if kind == layout.PRODUCT8:
        return codes.astype(np.int64)
    return np.stack((codes & 15, codes >> 4), axis=2).reshape(len(codes), -1).astype(np.int64)


def train_books(
    kind: int,
    code_bytes: int,
    sample: Floats,
    mean: Floats,
    seed: int,
    sums_of: Callable[[Floats, Doubles], Sums],
) -> Floats:
    """Codebooks for a sample less its mean; ``sums_of`` is given what is chosen of it, and the same less the mean."""
    rng = np.random.default_rng(seed)
    chosen = sample[np.sort(rng.permutation(len(sample))[:SAMPLE])]
    rows = chosen.astype(np.float64) - mean
    rows[~np.isfinite(rows)] = 0
    bounds = layout.bounds(kind, code_bytes, sample.shape[1])
    centroids = layout.centroids(kind)
    books = np.zeros((centroids, sample.shape[1]))
    for low, high in pairwise(bounds):
        books[:, low:high] = rows[_picks(rng, len(rows), centroids), low:high]
    sums = sums_of(chosen, rows)
    for _ in range(_ROUNDS):
        totals, counts = sums(flat(books, bounds))
        for (low, high), size in zip(pairwise(bounds), counts, strict=True):
            used = size > 0
            books[used, low:high] = totals[used, low:high] / size[used, None]
            # A centroid that nothing is near to starts again elsewhere.
            books[~used, low:high] = rows[rng.integers(0, len(rows), int((~used).sum())), low:high]
    return flat(books, bounds)


def sums_by(
    encode: Callable[[Floats, Floats], Codes], kind: int, bounds: list[int], chosen: Floats, rows: Doubles
) -> Sums:
    """Sums on the CPU; ``encode`` makes codes of (vectors, by codebooks)."""
    centroids = layout.centroids(kind)

    def sums(books: Floats) -> tuple[Doubles, Numbers]:
        numbers = numbers_of(kind, encode(chosen, books))
        totals = np.zeros((centroids, rows.shape[1]))
        for part, (low, high) in enumerate(pairwise(bounds)):
            for j in range(low, high):
                totals[:, j] = np.bincount(numbers[:, part], weights=rows[:, j], minlength=centroids)
        counts = [np.bincount(each, minlength=centroids) for each in numbers.T]
        return totals, np.array(counts)

    return sums


def _picks(rng: np.random.Generator, count: int, wanted: int) -> NDArray[np.int64]:
    return rng.permutation(count)[:wanted] if count >= wanted else rng.integers(0, count, wanted)


def flat(books: NDArray[np.float64], bounds: list[int]) -> Floats:
    """Codebooks as kernels take them: part after part, dimension by dimension."""
    parts = [books[:, low:high].T.reshape(-1) for low, high in pairwise(bounds)]
    return np.concatenate(parts).astype(np.float32)


def decode(kind: int, codes: Codes, books: Floats, width: int) -> Floats:
    """The vectors that codes stand for, less their mean."""
    bounds = layout.bounds(kind, codes.shape[1], width)
    numbers, centroids = numbers_of(kind, codes), layout.centroids(kind)
    result = np.empty((len(codes), width), dtype=np.float32)
    for part, (low, high) in enumerate(pairwise(bounds)):
        book = books[centroids * low : centroids * high].reshape(high - low, centroids)
        result[:, low:high] = book[:, numbers[:, part]].T
    return result
