"""Many queries against pieces of a collection: what each query keeps lies on the card while pieces come and go.

Rows are taken in runs that grow. The first is as long as a list of hits, so nothing can be lost; after it each query
has a limit, and of the rows to come only those below it are written. Of n rows that came in any order unrelated to a
query, the next m hold pool * m / n hits on average, so runs may grow by what a list holds of that. Where rows do come
in order (a sorted file), lists fill up: the run is compared again in shorter ones, the pool being what it was.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import reference
from . import select, tile
from .card import Card, Stream
from .tile import Piece

LARGEST, SMALLEST = np.float32(1e37), np.float32(1e-30)
"""Squared norms outside of these are for float64, as in the CPU's kernels: float32 could not hold the products."""

# A run may grow to hold so many times as many rows as were seen; lists have room for twice the hits of that.
_MOST_GROWTH = 16


def most_pool() -> int:
    """The widest pool that a sort has room for beside as many hits."""
    return select.room() // 4


def bytes_a_query(row_bytes: int, pool: int) -> int:
    """What a query takes on the card."""
    return row_bytes + 8 * select.room() + 8 * pool + 16


def packed_words(rows: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Packed bits `(n, bytes)` as whole words, zeros added."""
    words = np.zeros((len(rows), 4 * -(-rows.shape[1] // 4)), dtype=np.uint8)
    words[:, : rows.shape[1]] = rows
    return words.view(np.uint32)


class Batch:
    """The pools of some prepared queries, which `add` brings up to date with rows in ascending order of slots."""

    def __init__(self, card: Card, metric: str, queries: NDArray[Any], pool: int, stream: Stream) -> None:
        self._card, self._metric, self.stream = card, metric, stream
        self.size = len(queries)
        count, hits = len(queries), select.room() - pool
        self._query_bits = None
        if metric in reference.BINARY_METRICS:
            words = packed_words(queries)
            bits = np.unpackbits(words.view(np.uint8), axis=1)
            self._query_bits = card.put(bits.sum(axis=1, dtype=np.int32))
            queries = words
        padded = np.zeros((tile.room_for_queries(count), queries.shape[1]), queries.dtype)
        padded[:count] = queries
        self._queries = card.put(padded)
        self._limits = card.put(np.full(count, np.inf, np.float32))
        self._pool = (
            card.put(np.full((count, pool), np.inf, np.float32)),
            card.put(np.full((count, pool), select.NONE, np.int32)),
        )
        self._none = np.zeros(count, np.int32)
        self._hits = (
            card.empty((count, hits), np.float32),
            card.empty((count, hits), np.int32),
            card.put(self._none),
        )
        self._counts = card.pinned(count, np.int32)
        self._room = hits
        self._growth = min(_MOST_GROWTH, max(1, hits // (2 * pool)))
        self._most = tile.most_rows(count)
        self._seen = 0
        self._run = hits

    def add(self, piece: Piece, first: int, last: int) -> None:
        """Takes in rows of a piece. All of it is done when this returns."""
        done = first
        while done < last:
            run = min(self._run, last - done, self._most)
            if self._score(piece, done, run):
                done += run
                self._seen += run
                self._run = max(self._room, min(self._growth * self._seen, 8 * run))
            else:
                self._run = max(self._room, run // 8)
        self.stream.synchronize()

    def _score(self, piece: Piece, first: int, count: int) -> bool:
        """Whether all hits of these rows found room; else nothing came of it."""
        tile.score(
            self._card, self._metric, piece, first, count, self._queries, self.size, self._query_bits, self._limits,
            self._hits, self.stream,
        )  # fmt: skip
        self._card.get(self._hits[2], self._counts, self.stream)
        self.stream.synchronize()
        most = int(self._counts.max(initial=0))
        if most > self._room:
            self._card.copy(self._none, self._hits[2], self.stream)
            return False
        if most:
            select.merge(self._card, self._pool, self._limits, self._hits, self.stream)
        return True

    def result(self) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        """(values, slots, sizes): each query's pool, ascending by value and slot, and how much of it there is."""
        values, slots = self._card.get(self._pool[0]), self._card.get(self._pool[1])
        return values, slots.astype(np.int64), np.count_nonzero(slots != select.NONE, axis=1).astype(np.int64)

    def close(self) -> None:
        """Give back what is on the card."""
        bits = self._query_bits
        self._card.release(bits, self._queries, self._limits, *self._pool, *self._hits)
