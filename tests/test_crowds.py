"""All pairs within a distance where some records have hundreds of others around them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import vecstore
from vecstore import config, crowds

COUNT, CROWDED, DIM = 1_500, 400, 24
KINDS = {
    ("l2", "float32"): 1.2,
    ("l2", "uint8"): 36.0,
    ("cosine", "float16"): 0.02,
    ("ip", "float32"): -40.0,
    ("hamming", "binary"): 12.0,
    ("jaccard", "binary"): 0.1,
}


@pytest.fixture(autouse=True)
def small_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "GRAPH_FROM", 400)
    monkeypatch.setattr(config, "GRAPH_FROM_BYTES", 0)
    # So that there are several blocks of those with crowds.
    monkeypatch.setattr(crowds, "_BLOCK", 150)


def rows_of(metric: str, dtype: str) -> NDArray[Any]:
    """Records here and there, and three crowds."""
    random = np.random.default_rng(3)
    if dtype == "binary":
        rows = random.random((COUNT, 8 * DIM)) < 0.5
        for start in range(0, CROWDED, 140):
            rows[start : start + 140] = rows[start] ^ (random.random((140, 8 * DIM)) < 0.03)
        return rows[random.permutation(COUNT)]
    rows = 2 * random.normal(size=(COUNT, DIM))
    for start in range(0, CROWDED, 140):
        rows[start : start + 140] = rows[start] + 0.17 * random.normal(size=(140, DIM))
    rows = rows[random.permutation(COUNT)]
    return np.clip(np.round(30 * rows + 128), 0, 255).astype(np.uint8) if dtype == "uint8" else rows


@pytest.fixture(params=sorted(KINDS), ids="-".join)
def crowded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[vecstore.Collection, float]]:
    metric, dtype = request.param
    dim = 8 * DIM if dtype == "binary" else DIM
    with vecstore.open(tmp_path / "c.vec", dim=dim, metric=metric, dtype=dtype, threads=2) as c:
        c.add(np.arange(COUNT), rows_of(metric, dtype))
        yield c, KINDS[metric, dtype]


def exactly(collection: vecstore.Collection, radius: float) -> dict[tuple[Any, Any], float]:
    found = {}
    for record in collection.scan():
        hits = collection.search(id=record.id, radius=radius, exact=True)
        found |= {
            (min(record.id, hit.id), max(record.id, hit.id)): hit.distance  # type: ignore[type-var]
            for hit in hits
        }
    return found


@pytest.mark.parametrize("most", [crowds.MOST, 10])
def test_pairs_in_crowds_come_each_once(
    crowded: tuple[vecstore.Collection, float], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection, radius = crowded
    monkeypatch.setattr(crowds, "MOST", most)
    assert collection.explain(collection[0].vector)["plan"] == "graph"
    wanted = exactly(collection, radius)
    assert len(wanted) > 10_000
    pairs = list(collection.near_duplicates(radius))
    found = {(pair.first, pair.second): pair.distance for pair in pairs}
    assert len(found) == len(pairs)
    assert all(first < second for first, second in found)
    assert len(found.keys() & wanted.keys()) == len(found) >= 0.99 * len(wanted)
    for pair, distance in found.items():
        assert distance == pytest.approx(wanted[pair], rel=1e-6, abs=1e-6)


def test_a_filter_and_pending_records_count_in_crowds_too(tmp_path: Path) -> None:
    rows = rows_of("l2", "float32")
    with vecstore.open(tmp_path / "c.vec", dim=DIM, metric="l2") as c:
        c.add(np.arange(COUNT), rows, [{"n": n % 2} for n in range(COUNT)])
        c.add(np.arange(COUNT, COUNT + 20), rows[:20] + 1e-3, [{"n": 0}] * 20)
        c.delete(list(range(0, COUNT, 10)))
        for where in (None, {"n": 0}):
            found = {pair[:2] for pair in c.near_duplicates(1.2, where=where)}
            wanted = {pair[:2] for pair in c.near_duplicates(1.2, where=where, exact=True)}
            assert len(wanted) > 2_000
            assert found <= wanted
            assert len(found) >= 0.99 * len(wanted)


def test_vectors_too_long_for_squares_are_compared_too(tmp_path: Path) -> None:
    rows = rows_of("l2", "float32").astype(np.float64) * 1e18
    with vecstore.open(tmp_path / "c.vec", dim=DIM, metric="l2") as c:
        c.add(np.arange(COUNT), rows)
        with c._view() as blocks:
            slots = np.arange(200)
            found = [
                pair
                for first, second, _ in crowds.among(blocks, slots, 1.2e18, 2)
                for pair in zip(first, second, strict=True)
            ]
        apart = np.linalg.norm(
            rows[:200, None].astype(np.float32).astype(np.float64) - rows[None, :200].astype(np.float32),
            axis=2,
        )
        assert sorted(found) == [
            (a, b) for a in range(200) for b in range(a + 1, 200) if apart[a, b] <= 1.2e18
        ]
