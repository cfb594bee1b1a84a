"""The everyday calls under pytest-benchmark. Untimed as tests; `pytest tests/test_benchmarks.py --benchmark-enable` times them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore

ROWS, DIM = 20_000, 128
IDS = [f"img-{number:07d}" for number in range(ROWS)]
METADATA = [{"n": number, "tag": "abc"[number % 3]} for number in range(ROWS)]


@pytest.fixture(scope="module")
def data() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (ROWS, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def collection(data: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Iterator[vecstore.Collection]:
    with vecstore.open(tmp_path_factory.mktemp("bench") / "b.vec", dim=DIM, metric="l2") as opened:
        opened.add(IDS, data, METADATA)
        yield opened


@pytest.mark.parametrize("queries", [1, 100])
def test_exact_search(benchmark: Any, collection: vecstore.Collection, data: np.ndarray, queries: int) -> None:
    found = benchmark(collection.search, data[:queries], k=10, threads=1)
    assert found.ids[:, 0].tolist() == IDS[:queries]


def test_filtered_search(benchmark: Any, collection: vecstore.Collection, data: np.ndarray) -> None:
    found = benchmark(collection.search, data[0], k=10, where={"n": {"$lt": 2000}, "tag": "a"})
    assert len(found) == 10
    assert all(hit.metadata["n"] < 2000 for hit in found)


def test_get(benchmark: Any, collection: vecstore.Collection) -> None:
    wanted = IDS[::20]
    records = benchmark(collection.get, wanted)
    assert [record.id for record in records] == wanted


def test_get_by_sqlite(benchmark: Any, data: np.ndarray, tmp_path: Path) -> None:
    """The peer of ``test_get``."""
    db = sqlite3.connect(tmp_path / "peer.db")
    db.execute("create table r(id text primary key, vector blob, n integer) without rowid")
    with db:
        rows = ((id_, vector.tobytes(), n) for n, (id_, vector) in enumerate(zip(IDS, data, strict=True)))
        db.executemany("insert into r values (?, ?, ?)", rows)

    def get() -> list[Any]:
        found = [db.execute("select * from r where id = ?", (id_,)).fetchone() for id_ in IDS[::20]]
        return [(id_, np.frombuffer(blob, dtype=np.float32), {"n": n}) for id_, blob, n in found]

    assert len(benchmark(get)) == ROWS // 20
    db.close()


def test_bulk_add(benchmark: Any, data: np.ndarray, tmp_path: Path) -> None:
    numbers = iter(range(1_000_000))

    def add() -> None:
        with vecstore.open(tmp_path / f"{next(numbers)}.vec", dim=DIM, metric="l2") as fresh:
            fresh.add(IDS, data, METADATA)
            assert len(fresh) == ROWS

    benchmark.pedantic(add, rounds=3)
