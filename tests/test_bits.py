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
