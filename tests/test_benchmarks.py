"""The everyday calls under pytest-benchmark. Untimed as tests; `pytest tests/test_benchmarks.py --benchmark-enable` times them."""

from __future__ import annotations

import importlib
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


BENCH = Path(__file__).parent.parent / "bench"


def a_run(*points: tuple[float, float], **last: Any) -> list[dict[str, Any]]:
    """What a peer's process leaves: recall and speed of each point."""
    taken = {"peak": 3_000_000, "now": 2_000_000}
    lines: list[dict[str, Any]] = [{"event": "start", "version": "1.2"}]
    lines.append({"event": "build", "seconds": 4, "disk": 0, "before": {"now": 1_000_000}, "after": taken})
    for recall, speed in points:
        one = {"qps": speed, "cores": 1.0}
        lines.append(
            {"event": "point", "recall": recall, "one": one, "distances": 1e6 / speed, "queries": 1000}
        )
    return [*lines, {"event": "done", "after": taken, **last}]


def test_speed_at_a_recall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCH)
    curves = importlib.import_module("curves")
    points = [(0.9, 1000.0), (0.98, 10.0), (0.93, 5.0)]  # the last is beaten in both
    assert curves.frontier(points) == [(0.9, 1000.0), (0.98, 10.0)]
    assert curves.at(points, 0.94) == pytest.approx(100)
    assert curves.at(points, 0.98) == 10
    assert curves.at(points, 0.5) == 1000  # no slower than that
    assert curves.at(points, 0.99) is None
    assert curves.at([], 0.9) is None


def test_table_of_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCH)
    curves = importlib.import_module("curves")
    failed = [{"event": "start", "version": "7"}, {"event": "failed", "error": "nothing came for 300 s"}]
    runs = {"slow": a_run((0.94, 400.0), (0.96, 100.0)), "fast": a_run((0.999, 5000.0)), "stuck": failed}
    lines = curves.table_of("sift", runs).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    assert [row[0] for row in rows[1:]] == ["---", "fast 1.2", "slow 1.2"]
    assert dict(zip(rows[0], rows[2], strict=True))["one by one, 0.99"] == "5,000"
    slow = dict(zip(rows[0], rows[3], strict=True))
    assert [slow["one by one, 0.95"], slow["one by one, 0.99"], slow["distances, 0.95"]] == [
        "200",
        "–",
        "5,000",
    ]
    assert [slow["build, s"], slow["peak, MB"], slow["of it beyond the data"]] == ["4.0", "3", "2"]
    assert lines[-1] == "- stuck 7: nothing came for 300 s"


def test_recall_forgives_ties(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCH)
    measure = importlib.import_module("measure")
    base = np.repeat(np.arange(12, dtype=np.float32), 2)[:, None]  # every row twice
    queries = np.zeros((1, 1), np.float32)
    limits = measure.squared(base, queries, np.array([[8]]))[:, 0]  # the tenth is at a distance of 4
    found = [[0, 1, 2, 3, 4, 5, 6, 7, 9, 8], [0, 0, 1, 2, 3, 4, 5, 6, 7, 10], [0, None, 99]]
    recalls = [measure.recall(base, queries, limits, measure.table([answer])) for answer in found]
    assert recalls == [1.0, 0.8, 0.1]


def test_pairs_are_measured_against_a_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCH)
    pairs = importlib.import_module("pairs")
    rows = np.random.default_rng(0).integers(0, 256, (400, 8)).astype(np.uint8)
    rows[200:300] = rows[:100]
    exact, wider = pairs.run(rows, [0.0, 90.0], 400)
    assert (exact["pairs"], exact["recall"], wider["recall"]) == (100, 1.0, 1.0)
    assert wider["pairs"] > 100
    assert min(exact["clock"], exact["processor"]) > 0
