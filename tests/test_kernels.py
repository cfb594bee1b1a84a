"""One suite for every backend: what a kernel answers, wherever it runs.

`test_kernels_targets.py` runs this file and the checksums' again for other processors.
"""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from vecstore.kernels import dispatch, reference
from vecstore.kernels.cuda import card as cards

PAIRS = [(m, d) for m in reference.DENSE_METRICS for d in reference.DENSE_DTYPES]
PAIRS += [(m, "binary") for m in reference.BINARY_METRICS]
DIMS = [1, 3, 17, 128, 769]


@dataclass
class Stored:
    """Rows as they lie in a file: blocks of `per_block`, the rows `stride` bytes apart, at any address."""

    buffer: np.ndarray
    dtype: str
    dim: int
    rows: np.ndarray
    addresses: np.ndarray
    per_block: int
    stride: int

    @property
    def first_slots(self) -> np.ndarray:
        return np.arange(len(self.addresses), dtype=np.int64) * self.per_block


def store(vectors: np.ndarray, dtype: str, dim: int, per_block: int, gap: int = 0, offset: int = 0) -> Stored:
    width = reference.row_bytes(dtype, dim)
    rows = np.ascontiguousarray(vectors).view(np.uint8).reshape(len(vectors), width)
    stride = width + gap
    block = per_block * stride + 37
    n_blocks = len(rows) // per_block
    assert n_blocks * per_block == len(rows)
    buffer = np.full(offset + n_blocks * block, 0xEE, np.uint8)
    starts = offset + block * np.arange(n_blocks)
    for i, row in enumerate(rows):
        at = starts[i // per_block] + i % per_block * stride
        buffer[at : at + width] = row
    addresses = (buffer.ctypes.data + starts).astype(np.uint64)
    return Stored(buffer, dtype, dim, rows, addresses, per_block, stride)


class Reference:
    name = "reference"
    dims = DIMS

    def distances(self, metric: str, stored: Stored, query: np.ndarray) -> np.ndarray:
        return reference.distances(metric, stored.dtype, stored.rows, query)

    def nearest(self, dist: np.ndarray, mask: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        return reference.smallest(dist, k, mask=mask)


class Compiled:
    name = "cpu"
    dims = DIMS

    def distances(self, metric: str, stored: Stored, query: np.ndarray) -> np.ndarray:
        out = np.full(len(stored.rows), np.nan, np.float32)
        kernel = dispatch.cpu().distance.kernel(metric, stored.dtype)
        prepared = reference.prepare_query(metric, query)
        prepared.flags.writeable = False
        kernel(stored.addresses, stored.per_block, stored.stride, stored.dim, prepared, out)
        return out

    def nearest(self, dist: np.ndarray, mask: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        select = dispatch.cpu().select
        values, slots = np.empty(k, np.float32), np.empty(k, np.int64)
        size = 0
        for start in range(0, len(dist), 700):
            part = slice(start, start + 700)
            size = select.push()(dist[part], mask[part], start, values, slots, size)
        select.sort()(values, slots, size)
        return values[:size], slots[:size]


class OnCard:
    """A card, or the simulator that stands in for one: values of tiles, and pools that hits are merged into.

    As its scans do, it leaves to the reference what float32 cannot hold.
    """

    name = "card"
    dims = [1, 3, 17] if cards.simulated() else DIMS

    def distances(self, metric: str, stored: Stored, query: np.ndarray) -> np.ndarray:
        if len(stored.rows) > 1000 and cards.simulated():
            pytest.skip("too much for the simulator")
        cuda, card, n = dispatch.cuda(), cards.find(), len(stored.rows)
        binary = stored.dtype == "binary"
        expected = np.asarray(reference.distances(metric, stored.dtype, stored.rows, query), np.float32)
        prepared = reference.prepare_query(metric, query)
        if not binary and not reference.fits_batch(prepared[None])[0]:
            return expected
        rows = stored.rows if binary else stored.rows.view(stored.dtype)
        words = cuda.scan.packed_words(rows) if binary else rows
        padded = np.zeros((cuda.tile.room_for(n), words.shape[1]), words.dtype)
        padded[:n] = words
        there, norms = card.put(padded), card.empty(n, np.int32 if binary else np.float32)
        stream = card.stream()
        cuda.norms.norms(card, there[:n], norms, stream)
        mask = np.ones(n, np.uint8)
        if not binary:
            known = card.get(norms)
            mask[(known > cuda.scan.LARGEST) | ((metric == "cosine") & (known < cuda.scan.SMALLEST))] = 0
        one = cuda.scan.packed_words(prepared[None]) if binary else prepared[None]
        queries = np.zeros((cuda.tile.room_for_queries(1), words.shape[1]), one.dtype)
        queries[:1] = one
        bits = card.put(np.array([np.unpackbits(prepared).sum()], np.int32)) if binary else None
        hits = card.empty((1, n), np.float32), card.empty((1, n), np.int32), card.put(np.zeros(1, np.int32))
        piece = cuda.tile.Piece(there, norms, card.put(mask), 0)
        limits = card.put(np.full(1, np.inf, np.float32))
        cuda.tile.score(card, metric, piece, 0, n, card.put(queries), 1, bits, limits, hits, stream)
        card.synchronize()
        values, slots, (count,) = (card.get(each).reshape(-1) for each in hits)
        assert sorted(slots[:count].tolist()) == np.flatnonzero(mask).tolist()
        own = float(np.dot(prepared.astype(np.float64), prepared)) if metric == "l2" else 0.0
        expected[slots[:count]] = values[:count] + own
        return expected

    def nearest(self, dist: np.ndarray, mask: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        cuda, card = dispatch.cuda(), cards.find()
        if k > cuda.scan.most_pool() or np.isinf(dist).any():
            pytest.skip("the CPU does this")
        room = cuda.select.room() - k
        pool = card.put(np.full((1, k), np.inf, np.float32)), card.put(np.full((1, k), cuda.select.NONE))
        limits, stream = card.put(np.full(1, np.inf, np.float32)), card.stream()
        alive = np.flatnonzero(mask)
        for start in range(0, alive.size, room):
            found = alive[start : start + room]
            hits = np.zeros((1, room), np.float32), np.zeros((1, room), np.int32), np.array([found.size], np.int32)
            hits[0][0, : found.size], hits[1][0, : found.size] = dist[found], found
            values, slots, counts = (card.put(each) for each in hits)
            cuda.select.merge(card, pool, limits, (values, slots, counts), stream)
        card.synchronize()
        values, slots = (card.get(each)[0] for each in pool)
        size = np.count_nonzero(slots != cuda.select.NONE)
        assert card.get(limits)[0] == values[-1]
        return values[:size], slots[:size].astype(np.int64)


BACKENDS: list[Any] = [Reference(), Compiled()]
if cards.simulated() or os.environ.get("VECSTORE_TEST_CUDA"):
    BACKENDS = [OnCard()]  # the others ran without


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
def backend(request: pytest.FixtureRequest) -> Any:
    return request.param


def random_vectors(dtype: str, n: int, dim: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype == "binary":
        return np.packbits(rng.integers(0, 2, (n, dim), dtype=np.uint8), axis=1)
    if dtype in ("uint8", "int8"):
        bounds = np.iinfo(dtype)
        return rng.integers(bounds.min, bounds.max + 1, (n, dim)).astype(dtype)
    return rng.standard_normal((n, dim)).astype(dtype)


def random_query(dtype: str, dim: int, seed: int = 1) -> np.ndarray:
    query: np.ndarray = random_vectors(dtype, 1, dim, seed)[0]
    return query if dtype == "binary" else np.asarray(query, np.float32)


def plain(metric: str, row: np.ndarray, query: np.ndarray) -> float:
    """A distance spelt out with Python's own numbers."""
    if metric in reference.BINARY_METRICS:
        x, q = (int.from_bytes(v.tobytes(), "big") for v in (row, query))
        if metric == "hamming":
            return (x ^ q).bit_count()
        return 1 - (x & q).bit_count() / (x | q).bit_count() if x | q else 0.0
    a, b = [float(v) for v in row], [float(v) for v in query]
    product = sum(x * y for x, y in zip(a, b, strict=True))
    if metric == "l2":
        return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
    if metric == "ip":
        return -product
    norm = sum(x * x for x in a) ** 0.5 * sum(y * y for y in b) ** 0.5
    return 1 - product / norm if norm else 1.0


def close(metric: str, got: np.ndarray, expected: Sequence[float] | np.ndarray) -> None:
    tolerance = 1e-5 * max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-6 if metric == "cosine" else tolerance)


# --- distances -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("metric", "dtype"), PAIRS)
def test_distances_agree_with_arithmetic(backend: Any, metric: str, dtype: str) -> None:
    for dim in backend.dims:
        query = random_query(dtype, dim)
        for per_block, n_blocks in ((1, 3), (4, 1), (5, 2)):
            vectors = random_vectors(dtype, per_block * n_blocks, dim)
            got = backend.distances(metric, store(vectors, dtype, dim, per_block), query)
            close(metric, got, [plain(metric, row, query) for row in vectors])


@pytest.mark.parametrize(("metric", "dtype"), PAIRS)
def test_rows_may_lie_at_any_address(backend: Any, metric: str, dtype: str) -> None:
    vectors = random_vectors(dtype, 14, 67)
    query = random_query(dtype, 67)
    aligned = backend.distances(metric, store(vectors, dtype, 67, 7), query)
    for gap, offset in ((1, 0), (3, 1), (8, 5)):
        moved = store(vectors, dtype, 67, 7, gap, offset)
        np.testing.assert_array_equal(backend.distances(metric, moved, query), aligned)


@pytest.mark.parametrize(("metric", "dtype"), PAIRS)
def test_zero_rows_and_zero_queries(backend: Any, metric: str, dtype: str) -> None:
    vectors = random_vectors(dtype, 6, 40)
    vectors[[0, 4]] = 0
    for query in (random_query(dtype, 40), np.zeros_like(random_query(dtype, 40))):
        got = backend.distances(metric, store(vectors, dtype, 40, 6), query)
        close(metric, got, [plain(metric, row, query) for row in vectors])
        if metric == "cosine":
            assert (got[[0, 4]] == 1).all()


def test_every_finite_half_is_read_exactly(backend: Any) -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    stored = store(halves[:, None], "float16", 1, len(halves))
    got = backend.distances("ip", stored, np.ones(1, np.float32))
    np.testing.assert_array_equal(got, -halves.astype(np.float64))


def test_subnormal_rows_keep_their_direction(backend: Any) -> None:
    rng = np.random.default_rng(2)
    vectors = (rng.standard_normal((8, 30)) * 1e-30).astype(np.float32)
    vectors[4:] *= np.float32(1e-9)
    query = rng.standard_normal(30).astype(np.float32)
    got = backend.distances("cosine", store(vectors, "float32", 30, 8), query)
    close("cosine", got, [plain("cosine", row, query) for row in vectors])
    small = backend.distances("l2", store(vectors, "float32", 30, 8), vectors[0])
    assert small[0] == 0
    assert (small.astype(np.float64) < 1e-55).all()


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("metric", reference.DENSE_METRICS)
def test_sums_beyond_float32_are_infinite_and_never_nan(backend: Any, metric: str) -> None:
    largest = np.finfo(np.float32).max
    rng = np.random.default_rng(3)
    vectors = np.where(rng.random((9, 50)) < 0.5, -largest, largest).astype(np.float32)
    vectors[5] = 0
    query = vectors[3].copy()
    expected = np.array([plain(metric, row, query) for row in vectors]).astype(np.float32)
    got = backend.distances(metric, store(vectors, "float32", 50, 9), query).astype(np.float32)
    assert not np.isnan(got).any()
    if metric == "cosine":
        close(metric, got, expected)
    else:
        np.testing.assert_array_equal(got, expected)


def test_finish_makes_public_distances() -> None:
    np.testing.assert_array_equal(reference.finish("l2", [9.0, -1e-9]), [3.0, 0.0])
    np.testing.assert_array_equal(reference.finish("cosine", [0.5, -1e-9]), [0.5, 0.0])
    np.testing.assert_array_equal(reference.finish("ip", [-2.0]), [-2.0])
    assert reference.internal("l2", 3.0) == 9.0
    assert reference.internal("ip", -3.0) == -3.0


@pytest.mark.parametrize(("metric", "dtype"), [("l2", "int8"), ("jaccard", "binary")])
def test_pairwise_is_distances_for_each_query(metric: str, dtype: str) -> None:
    rows = random_vectors(dtype, 20, 48).view(np.uint8).reshape(20, -1)
    queries = np.stack([random_query(dtype, 48, seed) for seed in range(3)])
    expected = [reference.distances(metric, dtype, rows, query) for query in queries]
    np.testing.assert_array_equal(reference.pairwise(metric, dtype, rows, queries), expected)


# --- selection -------------------------------------------------------------------------------------------


def in_order(dist: np.ndarray, mask: np.ndarray, k: int) -> list[int]:
    return sorted((j for j in range(len(dist)) if mask[j]), key=lambda j: (dist[j], j))[:k]


@pytest.mark.parametrize("k", [1, 2, 10, 999, 5000])
@pytest.mark.parametrize("kinds", [3, 1 << 20])
def test_the_nearest_are_ordered_by_distance_and_slot(backend: Any, k: int, kinds: int) -> None:
    rng = np.random.default_rng(4)
    dist = (rng.integers(0, kinds, 3001) - kinds // 2).astype(np.float32)
    mask = (rng.random(3001) < 0.7).astype(np.uint8)
    values, slots = backend.nearest(dist, mask, k)
    assert slots.tolist() == in_order(dist, mask, k)
    np.testing.assert_array_equal(values, dist[slots])


def test_infinite_distances_fill_up_the_nearest(backend: Any) -> None:
    dist = np.array([np.inf, 1, -np.inf, np.inf, 0, -0.0], np.float32)
    mask = np.ones(6, np.uint8)
    for k in range(1, 8):
        assert backend.nearest(dist, mask, k)[1].tolist() == [2, 4, 5, 1, 0, 3][:k]


def test_nothing_is_nearest_where_all_are_masked_out(backend: Any) -> None:
    values, slots = backend.nearest(np.zeros(300, np.float32), np.zeros(300, np.uint8), 5)
    assert len(values) == len(slots) == 0


def test_a_heap_takes_runs_in_any_order() -> None:
    select = dispatch.cpu().select
    dist = np.zeros(400, np.float32)
    values, slots, size = np.empty(5, np.float32), np.empty(5, np.int64), 0
    for start in (300, 100, 200, 0):
        size = select.push()(dist[:100], np.ones(100, np.uint8), start, values, slots, size)
    select.sort()(values, slots, size)
    assert slots.tolist() == [0, 1, 2, 3, 4]


def test_an_empty_heap_takes_nothing() -> None:
    none = np.empty(0, np.float32), np.empty(0, np.int64)
    assert dispatch.cpu().select.push()(np.zeros(9, np.float32), np.ones(9, np.uint8), 0, *none, 0) == 0


def test_within_lists_everything_up_to_the_limit() -> None:
    rng = np.random.default_rng(5)
    dist = rng.random(2000, np.float32)
    mask = (rng.random(2000) < 0.5).astype(np.uint8)
    slots, values = np.empty(2000, np.int64), np.empty(2000, np.float32)
    bound = float(np.sort(dist)[300])
    count = dispatch.cpu().select.within()(dist, mask, 1000, bound, slots, values)
    expected = np.flatnonzero((dist <= np.float32(bound)) & (mask != 0))
    np.testing.assert_array_equal(slots[:count], 1000 + expected)
    np.testing.assert_array_equal(values[:count], dist[expected])


@pytest.mark.parametrize(("metric", "dtype"), PAIRS)
def test_a_scan_is_distances_and_selection(metric: str, dtype: str) -> None:
    stored = store(random_vectors(dtype, 6000, 21), dtype, 21, 15, gap=2, offset=1)
    query = reference.prepare_query(metric, random_query(dtype, 21))
    mask = (np.random.default_rng(11).random(6000) < 0.5).astype(np.uint8)
    mask[30:45] = 0
    stored.addresses[2] = 0  # a block that is masked out is never read
    values, slots = np.empty(9, np.float32), np.empty(9, np.int64)
    size = dispatch.cpu().scan.scan(metric, dtype)(
        stored.addresses, stored.first_slots, 15, stored.stride, 21, mask, query, values, slots, 0
    )
    dispatch.cpu().select.sort()(values, slots, size)
    exact = reference.distances(metric, dtype, stored.rows, query)
    close(metric, values, exact[slots])
    close(metric, values, np.sort(exact[mask != 0])[:9])


# --- many queries at once --------------------------------------------------------------------------------


def scan(
    metric: str, stored: Stored, queries: np.ndarray, pool: int, mask: np.ndarray, blocks: Any = None
) -> tuple[np.ndarray, np.ndarray, float]:
    """The pool of each query, ascending, and the largest squared norm."""
    tile = dispatch.cpu().tile
    n = len(queries)
    values, slots = np.empty((n, pool), np.float32), np.empty((n, pool), np.int64)
    sizes = np.zeros(n, np.int64)
    order = np.arange(len(stored.addresses)) if blocks is None else np.asarray(blocks, np.int64)
    largest = tile.scan_batch(metric, stored.dtype)(
        stored.addresses[order],
        stored.first_slots[order],
        stored.per_block,
        stored.stride,
        stored.dim,
        np.ascontiguousarray(mask.reshape(-1, stored.per_block)[order]).ravel(),
        tile.pack_queries(stored.dtype, queries),
        values,
        slots,
        sizes,
    )
    assert (sizes == min(pool, np.count_nonzero(mask))).all()
    for i in range(n):
        dispatch.cpu().select.sort()(values[i], slots[i], sizes[i])
    return values[:, : sizes[0]], slots[:, : sizes[0]], float(largest)


def exact_values(metric: str, stored: Stored, query: np.ndarray) -> np.ndarray:
    """The float64 counterpart of what a scan compares: `l2` without the query's own square."""
    exact: np.ndarray = reference.distances(metric, stored.dtype, stored.rows, query)
    return np.asarray(exact - np.dot(query.astype(np.float64), query)) if metric == "l2" else exact


@pytest.mark.parametrize(("metric", "dtype"), PAIRS)
@pytest.mark.parametrize(("n_queries", "dim"), [(1, 3), (19, 17), (40, 130)])
def test_a_batch_finds_the_nearest(metric: str, dtype: str, n_queries: int, dim: int) -> None:
    k, pool = 10, 36
    rng = np.random.default_rng(6)
    stored = store(random_vectors(dtype, 900, dim), dtype, dim, 45, gap=1, offset=1)
    mask = (rng.random(900) < 0.8).astype(np.uint8)
    raw = np.stack([random_query(dtype, dim, seed) for seed in range(100, 100 + n_queries)])
    queries = reference.prepare_query(metric, raw)
    values, slots, largest = scan(metric, stored, queries, pool, mask)
    for query, pool_values, pool_slots in zip(queries, values, slots, strict=True):
        assert mask[pool_slots].all()
        exact = exact_values(metric, stored, query)
        norm = float(np.linalg.norm(query.astype(np.float64)))
        bound = reference.batch_error_bound(metric, dim, norm, largest**0.5)
        rounding = 2.0**-23 * np.abs(exact).max()
        assert np.abs(pool_values - exact[pool_slots]).max() <= bound + rounding
        best = in_order(exact, mask, k)
        if dtype == "binary" or exact[best[-1]] < pool_values[-1] - bound:
            # Proven complete: then the k best must be in the pool.
            assert set(best) <= set(pool_slots.tolist())


def test_the_bound_proves_ordinary_batches() -> None:
    stored = store(random_vectors("float32", 2000, 64), "float32", 64, 50)
    queries = reference.prepare_query("l2", random_vectors("float32", 5, 64, 7))
    values, _, largest = scan("l2", stored, queries, 36, np.ones(2000, np.uint8))
    for query, pool in zip(queries, values, strict=True):
        bound = reference.batch_error_bound("l2", 64, float(np.linalg.norm(query)), largest**0.5)
        assert np.sort(exact_values("l2", stored, query))[9] < pool[-1] - bound


@pytest.mark.parametrize("metric", reference.DENSE_METRICS)
@pytest.mark.filterwarnings("ignore:overflow")
def test_a_batch_copes_with_rows_that_float32_cannot_hold(metric: str) -> None:
    vectors = random_vectors("float32", 90, 20)
    vectors[[0, 40]] *= np.float32(1e38)
    vectors[[7, 89]] *= np.float32(1e-38)
    vectors[50] = 0
    stored = store(vectors, "float32", 20, 30)
    queries = reference.prepare_query(metric, random_vectors("float32", 3, 20, 8))
    values, slots, largest = scan(metric, stored, queries, 200, np.ones(90, np.uint8))
    assert largest > 1e37
    for query, pool_values, pool_slots in zip(queries, values, slots, strict=True):
        assert sorted(pool_slots.tolist()) == list(range(90))
        expected = exact_values(metric, stored, query)[pool_slots].astype(np.float32)
        np.testing.assert_allclose(pool_values, expected, rtol=1e-4, atol=1e-4)
    long = np.full((1, 20), 1e30, np.float32)
    assert reference.fits_batch(np.concatenate([queries, long])).tolist() == [True] * 3 + [False]


@pytest.mark.parametrize(("metric", "dtype"), [("l2", "uint8"), ("hamming", "binary")])
def test_a_batch_orders_ties_by_slot_in_any_order_of_blocks(metric: str, dtype: str) -> None:
    vectors = np.repeat(random_vectors(dtype, 4, 40), 120, axis=0)
    stored = store(vectors, dtype, 40, 60)
    queries = reference.prepare_query(metric, np.stack([random_query(dtype, 40)]))
    mask = np.ones(len(vectors), np.uint8)
    expected = in_order(exact_values(metric, stored, queries[0]), mask, 150)
    for blocks in (None, [3, 0, 7, 1, 2, 6, 5, 4]):
        assert scan(metric, stored, queries, 150, mask, blocks)[1][0].tolist() == expected


def test_a_batch_takes_nothing_from_nothing() -> None:
    stored = store(random_vectors("float32", 10, 8), "float32", 8, 10)
    queries = random_vectors("float32", 2, 8)
    assert scan("l2", stored, queries, 5, np.zeros(10, np.uint8))[0].shape == (2, 0)
    assert scan("l2", stored, queries, 5, np.zeros(0, np.uint8), [])[2] == 0


def test_batches_run_side_by_side() -> None:
    stored = store(random_vectors("float32", 3000, 40), "float32", 40, 50)
    queries = random_vectors("float32", 24, 40, 9)
    mask = np.ones(3000, np.uint8)
    alone = scan("l2", stored, queries, 20, mask)
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        for result in threads.map(lambda _: scan("l2", stored, queries, 20, mask), range(8)):
            for got, expected in zip(result, alone, strict=True):
                np.testing.assert_array_equal(got, expected)


# -- packed bits, eight rows at a time


@pytest.mark.parametrize("dim", [8, 64, 72, 128, 192, 256, 320, 512, 1024, 1536])
@pytest.mark.parametrize("count", [1, 7, 8, 9, 24, 61])
def test_hamming_by_eights(dim: int, count: int) -> None:
    random = np.random.default_rng(dim + count)
    rows = random.integers(0, 256, (count, dim // 8), dtype=np.uint8)
    queries = random.integers(0, 256, (5, dim // 8), dtype=np.uint8)
    queries[0], queries[1], rows[0] = 0, 255, 255
    wanted = np.unpackbits(queries[:, None] ^ rows[None], axis=2).sum(axis=2)
    kernel = dispatch.cpu().distance.kernel("hamming", "binary")
    address = np.array([rows.ctypes.data], dtype=np.uint64)
    for query, right in zip(queries, wanted, strict=True):
        out = np.full(count + 8, -1, np.float32)
        kernel(address, count, dim // 8, dim, query, out[:count])
        assert out[:count].tolist() == right.tolist()
        assert (out[count:] == -1).all()
    # Rows that lie apart are compared one by one.
    wide = np.zeros((count, dim // 8 + 3), np.uint8)
    wide[:, : dim // 8] = rows
    out = np.empty(count, np.float32)
    kernel(np.array([wide.ctypes.data], dtype=np.uint64), count, dim // 8 + 3, dim, queries[2], out)
    assert out.tolist() == wanted[2].tolist()
