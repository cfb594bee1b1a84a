"""Distances and selections on the card, by the same arithmetic as the CPU's tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from vecstore.kernels import dispatch, reference
from vecstore.kernels.cuda import scan, select, tile
from vecstore.kernels.cuda.card import Card

PAIRS = [
    *((metric, dtype) for metric in reference.DENSE_METRICS for dtype in reference.DENSE_DTYPES),
    *((metric, "binary") for metric in reference.BINARY_METRICS),
]


def random_rows(dtype: str, n: int, dim: int, seed: int = 1) -> np.ndarray:
    """As they are stored: `(n, dim)`, or packed bits."""
    rng = np.random.default_rng(seed)
    if dtype == "binary":
        return np.packbits(rng.random((n, dim)) < 0.4, axis=1)
    if dtype in ("uint8", "int8"):
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max + 1, (n, dim)).astype(dtype)
    return rng.standard_normal((n, dim)).astype(dtype)


def random_queries(metric: str, dtype: str, n: int, dim: int) -> np.ndarray:
    raw = random_rows(dtype, n, dim, 2)
    return reference.prepare_query(metric, raw if dtype == "binary" else raw.astype(np.float64) + 0.25)


class Put:
    """Rows on the card, with their norms."""

    def __init__(self, card: Card, dtype: str, rows: np.ndarray, mask: np.ndarray) -> None:
        self.card = card
        words = scan.packed_words(rows) if dtype == "binary" else rows
        padded = np.zeros((tile.room_for(len(rows)), words.shape[1]), words.dtype)
        padded[: len(rows)] = words
        self.rows = card.put(padded)
        self.norms = card.empty(len(rows), np.int32 if dtype == "binary" else np.float32)
        self.mask = card.put(mask)
        dispatch.cuda().norms.norms(card, self.rows[: len(rows)], self.norms, card.stream())
        card.synchronize()

    def piece(self) -> tile.Piece:
        return tile.Piece(self.rows, self.norms, self.mask, 0)

    def release(self) -> None:
        self.card.release(self.rows, self.norms, self.mask)


@pytest.fixture
def put(card: Card) -> Iterator[Any]:
    made: list[Put] = []

    def make(*args: Any) -> Put:
        made.append(Put(card, *args))
        return made[-1]

    yield make
    for each in made:
        each.release()


def exact_values(metric: str, dtype: str, rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    """What a scan compares, in float64: `l2` without the query's own square."""
    stored = rows.view(np.uint8).reshape(len(rows), -1)
    exact = np.asarray(reference.distances(metric, dtype, stored, query))
    return exact - np.dot(query.astype(np.float64), query) if metric == "l2" else exact


def in_order(values: np.ndarray, mask: np.ndarray, k: int) -> list[int]:
    return sorted(np.flatnonzero(mask).tolist(), key=lambda j: (values[j], j))[:k]


@pytest.mark.parametrize("dtype", reference.DTYPES)
def test_norms(card: Card, put: Any, dtype: str) -> None:
    for dim in (1, 7, 40):
        rows = random_rows(dtype, 11, dim)
        there = put(dtype, rows, np.ones(11, np.uint8))
        if dtype == "binary":
            expected = np.unpackbits(rows, axis=1).sum(axis=1)
            np.testing.assert_array_equal(card.get(there.norms), expected)
        else:
            expected = (rows.astype(np.float64) ** 2).sum(axis=1)
            np.testing.assert_allclose(card.get(there.norms), expected, rtol=1e-5)


@pytest.mark.parametrize(("metric", "dtype"), PAIRS)
def test_a_batch_finds_the_nearest(card: Card, put: Any, metric: str, dtype: str) -> None:
    # More than a tile of queries, of rows and of depth, and whole tiles of none.
    n_queries, pool, dim = 9, 30, 300 if dtype == "binary" else 11
    rows = random_rows(dtype, 150, dim)
    if dtype != "binary":
        rows[50] = rows[51] = rows[7]
    mask = (np.random.default_rng(3).random(len(rows)) < 0.8).astype(np.uint8)
    queries = random_queries(metric, dtype, n_queries, dim)
    there = put(dtype, rows, mask)
    batch = scan.Batch(card, metric, queries, pool, card.stream())
    for low, high in ((0, 20), (20, 21), (21, 150)):
        batch.add(there.piece(), low, high)
    values, slots, sizes = batch.result()
    batch.close()
    largest = float((rows.astype(np.float64) ** 2).sum(axis=1).max()) if dtype != "binary" else 0.0
    for query, mine, found, size in zip(queries, values, slots, sizes, strict=True):
        assert size == pool
        assert mask[found].all()
        assert len(set(found.tolist())) == pool
        exact = exact_values(metric, dtype, rows, query)
        bound = reference.batch_error_bound(
            metric, dim, float(np.linalg.norm(query.astype(float))), largest**0.5
        )
        rounding = 2.0**-23 * np.abs(exact).max()
        assert np.abs(mine - exact[found]).max() <= bound + rounding
        assert (np.diff(mine) >= 0).all()
        if dtype == "binary":
            rounded = exact.astype(np.float32)
            assert found.tolist() == in_order(rounded, mask, pool)
            np.testing.assert_array_equal(mine, rounded[found])
        else:
            best = in_order(exact, mask, 5)
            if len(best) == 5 < pool and exact[best[-1]] < mine[-1] - bound:
                assert set(best) <= set(found.tolist())


def test_fewer_rows_than_the_pool_takes(card: Card, put: Any) -> None:
    rows = random_rows("float32", 9, 4)
    mask = np.array([1, 0, 1, 1, 0, 1, 0, 0, 1], np.uint8)
    queries = random_queries("l2", "float32", 3, 4)
    there = put("float32", rows, mask)
    batch = scan.Batch(card, "l2", queries, 20, card.stream())
    batch.add(there.piece(), 0, 9)
    values, slots, sizes = batch.result()
    batch.close()
    assert (sizes == 5).all()
    assert np.isinf(values[:, 5:]).all()
    for query, found in zip(queries, slots, strict=True):
        assert found[:5].tolist() == in_order(exact_values("l2", "float32", rows, query), mask, 5)


@pytest.mark.parametrize("descending", [True, False])
def test_rows_in_order_fill_lists_and_nothing_is_lost(
    card: Card, put: Any, descending: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row nearer than all before it: what a list holds is less than what comes."""
    n, pool = 4 * select.room(), 20
    rows = np.arange(n, dtype=np.float32)[:: -1 if descending else 1, None].copy()
    runs: list[tuple[int, bool]] = []
    scored = scan.Batch._score

    def spy(batch: scan.Batch, piece: tile.Piece, first: int, count: int) -> bool:
        runs.append((count, scored(batch, piece, first, count)))
        return runs[-1][1]

    monkeypatch.setattr(scan.Batch, "_score", spy)
    there = put("float32", rows, np.ones(n, np.uint8))
    batch = scan.Batch(card, "l2", np.zeros((2, 1), np.float32), pool, card.stream())
    batch.add(there.piece(), 0, n)
    values, slots, _ = batch.result()
    batch.close()
    nearest = np.arange(pool) if not descending else np.arange(n - 1, n - 1 - pool, -1)
    for query in range(2):
        assert slots[query].tolist() == nearest.tolist()
        np.testing.assert_array_equal(values[query], np.arange(pool, dtype=np.float32) ** 2)
    assert sum(count for count, done in runs if done) == n
    assert any(not done for _, done in runs) == descending


@pytest.mark.parametrize(("metric", "dtype"), [("l2", "uint8"), ("hamming", "binary")])
def test_ties_are_ordered_by_slot(card: Card, put: Any, metric: str, dtype: str) -> None:
    rows = np.repeat(random_rows(dtype, 3, 24), 60, axis=0)
    queries = random_queries(metric, dtype, 2, 24)
    mask = (np.random.default_rng(5).random(len(rows)) < 0.9).astype(np.uint8)
    there = put(dtype, rows, mask)
    batch = scan.Batch(card, metric, queries, 25, card.stream())
    batch.add(there.piece(), 0, len(rows))
    _, slots, _ = batch.result()
    batch.close()
    for query, found in zip(queries, slots, strict=True):
        assert found.tolist() == in_order(exact_values(metric, dtype, rows, query), mask, 25)


def test_nothing_comes_of_nothing(card: Card, put: Any) -> None:
    there = put("float32", random_rows("float32", 8, 4), np.zeros(8, np.uint8))
    batch = scan.Batch(card, "ip", random_queries("ip", "float32", 2, 4), 6, card.stream())
    batch.add(there.piece(), 0, 8)
    assert (batch.result()[2] == 0).all()
    batch.close()
