"""Packed bits in a graph: targets are kept for queries from outside, and distances are those of a scan."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import vecstore
from vecstore import config
from vecstore.query import exact

DIM, QUERIES = 256, 400


@pytest.fixture(autouse=True)
def small_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "GRAPH_FROM", 400)
    monkeypatch.setattr(config, "GRAPH_FROM_BYTES", 0)


def signs(count: int, seed: int, metric: str) -> NDArray[np.uint8]:
    """On which side of 256 planes vectors of 24 numbers lie; of one that is far out most are on one side."""
    planes = np.random.default_rng(77).normal(size=(24, DIM))
    away = 3.0 if metric == "jaccard" else 0.0
    return np.packbits(np.random.default_rng(seed).normal(size=(count, 24)) @ planes > away, axis=1)


@pytest.fixture(params=["hamming", "jaccard"])
def signed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[vecstore.Collection]:
    metric = request.param
    with vecstore.open(tmp_path / "c.vec", dim=DIM, metric=metric, dtype="binary") as c:
        c.add(np.arange(6000), signs(6000, 1, metric))
        yield c


def share(collection: vecstore.Collection, queries: NDArray[Any], **asked: Any) -> float:
    farthest = collection.search(queries, k=10, exact=True).distances[:, -1:]
    return float(np.mean(collection.search(queries, k=10, **asked).distances <= farthest))


def test_queries_from_outside_find_what_was_asked_for(signed: vecstore.Collection) -> None:
    queries = signs(QUERIES, 2, signed.metric)
    told = signed.explain(queries[0])
    assert told["plan"] == "graph"
    # Not by going through everything.
    assert told["scores"] < 2000
    assert share(signed, queries) >= 0.95
    assert share(signed, queries, recall=0.99) >= 0.985


def test_a_walk_tells_the_distances_of_a_scan(signed: vecstore.Collection) -> None:
    queries = signs(QUERIES, 3, signed.metric)
    walked = signed.search(queries, k=10, search_list=1000)
    scanned = signed.search(queries, k=10, exact=True)
    one = [signed.search(query, k=10, search_list=1000) for query in queries[:20]]
    assert walked.distances.tolist() == scanned.distances.tolist()
    assert [hits.distances.tolist() for hits in one] == scanned.distances[:20].tolist()


@pytest.mark.parametrize("count", [1, 3, 4, 700])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_scan_finds_the_nearest_and_of_equals_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, threads: int
) -> None:
    monkeypatch.setattr(exact, "_is_small", lambda numbers: False)
    monkeypatch.setattr(exact, "_THREAD_BYTES", 1)
    random = np.random.default_rng(5)
    rows = random.integers(0, 256, (3000, 3), dtype=np.uint8)
    queries = random.integers(0, 256, (count, 3), dtype=np.uint8)
    ones = np.array([bin(byte).count("1") for byte in range(256)])
    with vecstore.open(tmp_path / "c.vec", dim=24, metric="hamming", dtype="binary") as c:
        c.add(np.arange(3000), rows)
        c.delete(list(range(0, 3000, 7)))
        left = np.flatnonzero(np.arange(3000) % 7)
        apart = ones[rows[left][None] ^ queries[:, None]].sum(axis=2)
        for k in (1, 10, 2500):
            found = c.search(queries, k=k, exact=True, threads=threads)
            order = np.argsort(apart, axis=1, kind="stable")[:, :k]
            assert np.array_equal(found.ids, left[order])
            assert np.array_equal(found.distances, np.take_along_axis(apart, order, axis=1))
            if count == 1:
                assert c.search(queries[0], k=k, exact=True, threads=threads).ids == left[order[0]].tolist()


def test_a_single_query_may_be_packed_or_not_and_is_looked_at(tmp_path: Path) -> None:
    rows = signs(2000, 1, "hamming")
    with vecstore.open(tmp_path / "c.vec", dim=DIM, metric="hamming", dtype="binary") as c:
        c.add(np.arange(2000), rows)
        for query in rows[:20]:
            packed = c.search(query, k=5)
            assert packed.ids == c.search(np.unpackbits(query), k=5).ids
            assert packed.ids == c.search(np.unpackbits(query).tolist(), k=5).ids
        for wrong in (rows[0][:-1], rows[0].astype(np.float32), rows[0].astype(np.int8)):
            with pytest.raises(vecstore.DimensionError, match="binary vectors must have shape"):
                c.search(wrong, k=5)
