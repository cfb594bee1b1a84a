"""What filters cost beside the search: the first of a process, evaluating one, and inserting records that have fields."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from measure import pin
from numpy.typing import NDArray
from peers import in_turn, sift

import vecstore
from vecstore.query.where import parse

ROWS, SHARES, RUNS = 400_000, (0.5, 0.1, 0.01, 0.001), 21
FIRSTS = 5
CLUSTERS, SOME = 1_000, 10
BASE, ADDED, BATCH = 100_000, 50_000, 1_000


def folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER"))


# -- evaluating


def chosen(store: Any, where: dict[str, Any]) -> NDArray[np.bool_]:
    """Which records match, without a search: what every search with a new filter begins with."""
    with store._view() as blocks:
        mask: NDArray[np.bool_] = store._planner.matching(blocks, parse(where))
    return mask


def first_filters(path: Path) -> float:
    """Seconds of the first filters of a process on both fields, as it comes: with what it must import for them."""
    code = (
        "import sys, time, vecstore\n"
        "from vecstore.query.where import parse\n"
        "store = vecstore.open(sys.argv[1], mode='r')\n"
        "start = time.perf_counter()\n"
        "for where in ({'r': {'$lt': 0.5}}, {'cluster': 1}):\n"
        "    with store._view() as blocks: store._planner.matching(blocks, parse(where))\n"
        "print(time.perf_counter() - start)\n"
    )
    return float(
        subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
        ).stdout
    )


def again(path: Path) -> float:
    """The same in a process that has its kernels already."""
    with vecstore.open(path, mode="r") as store:
        start = time.perf_counter()
        chosen(store, {"r": {"$lt": 0.5}}), chosen(store, {"cluster": 1})
        return time.perf_counter() - start


def evaluate(rows: int | None) -> None:
    """Each call asks a limit that was not asked before. SQLite's answer is a list of ids in order of its index."""
    rows = rows or ROWS
    random = np.random.default_rng(5)
    r, cluster = random.random(rows), random.integers(0, CLUSTERS, rows)
    pin(1)
    with folder() as place:
        with vecstore.open(Path(place) / "fields.vec", dim=2, metric="l2", durability="none") as store:
            fields = [{"r": a, "cluster": b} for a, b in zip(r.tolist(), cluster.tolist(), strict=True)]
            vectors = random.random((rows, 2), dtype=np.float32)
            store.extend([(np.arange(rows), vectors, fields)])
        path = Path(place) / "fields.vec"
        plain = first_filters(path), min(again(path) for _ in range(FIRSTS))
        with vecstore.open(path, durability="none") as store:
            start = time.perf_counter()
            for field in ("r", "cluster"):
                store.create_index(field)
            making, size = (
                time.perf_counter() - start,
                sum(index["bytes"] for index in store.indexes().values()),
            )
        indexed = first_filters(path), min(again(path) for _ in range(FIRSTS))
        store = vecstore.open(path, mode="r")
        db = sqlite3.connect(Path(place) / "fields.db")
        db.execute("pragma cache_size = -500000")
        db.execute("create table t(id integer primary key, r real, cluster integer)")
        with db:
            db.executemany(
                "insert into t values (?, ?, ?)", zip(range(rows), r.tolist(), cluster.tolist(), strict=True)
            )
            db.execute("create index of_r on t(r)")
            db.execute("create index of_cluster on t(cluster)")
        print(
            f"{rows:,} records; making the indexes of both fields took {making:.2f} s, and {size / 1e6:.1f} MB\n"
        )
        print("| first filters on both fields | out of the records | out of indexes |")
        print("| --- | --- | --- |")
        print(f"| of a new process | {plain[0] * 1e3:,.1f} ms | {indexed[0] * 1e3:,.1f} ms |")
        print(f"| with kernels loaded | {plain[1] * 1e3:,.1f} ms | {indexed[1] * 1e3:,.1f} ms |\n")
        print(
            "| filter | match | vecstore | SQLite, a list | SQLite, np.fromiter | time / SQLite's | to reach |"
        )
        print("| --- | --- | --- | --- | --- | --- | --- |")
        counter = iter(range(1 << 30))
        for share in SHARES:
            _compare(store, db, f"r < {share:g}", lambda s=share: _below(s, next(counter)), r)
        _compare(store, db, f"cluster in {SOME} of {CLUSTERS:,}", lambda: _among(next(counter)), r)
        store.close()
        db.close()


def _below(share: float, number: int) -> tuple[dict[str, Any], str]:
    limit = share * (1 + number * 1e-9)
    return {"r": {"$lt": limit}}, f"select id from t where r < {limit!r}"


def _among(number: int) -> tuple[dict[str, Any], str]:
    some = [(number * 7 + step * 97) % CLUSTERS for step in range(SOME)]
    return {"cluster": {"$in": some}}, f"select id from t where cluster in ({', '.join(map(str, some))})"


def _compare(store: Any, db: Any, label: str, make: Any, r: NDArray[np.float64]) -> None:
    where, text = make()
    listed = sorted(row for (row,) in db.execute(text))
    found = np.flatnonzero(chosen(store, where))
    assert found.tolist() == listed, "both sides must name the same records"
    times = in_turn(
        {
            "ours": lambda: chosen(store, make()[0]),
            "list": lambda: db.execute(make()[1]).fetchall(),
            "array": lambda: np.fromiter((row for (row,) in db.execute(make()[1])), np.int64),
        },
        RUNS,
    )
    ours, theirs = times["ours"], min(times["list"], times["array"])
    goal = "≤ 1 ms, ≤ 0.3×" if "0.01" in label and len(r) == ROWS else ""
    cells = [label, f"{len(listed):,}", *(f"{seconds * 1e3:,.3f} ms" for seconds in times.values())]
    print(f"| {' | '.join([*cells, f'{ours / theirs:.2f}×', goal])} |", flush=True)


# -- inserting


def fields_of(row: int) -> dict[str, Any]:
    """Ten fields, of the kinds that photographs have."""
    return {
        "n": row,
        "r": (row * 0.6180339887) % 1,
        "year": 2000 + row % 25,
        "taken": f"20{row % 25:02d}-{1 + row % 12:02d}-{1 + row % 28:02d}",
        "camera": f"camera {row % 40}",
        "iso": 100 << row % 7,
        "public": row % 3 == 0,
        "album": f"album {row % 500}",
        "rating": row % 6,
        "place": {"lat": -60 + row % 120, "lon": -180 + row % 360},
    }


# One filter on all ten.
EVERYTHING = {
    "n": {"$gte": 0}, "r": {"$lt": 0.5}, "year": {"$gt": 2001}, "taken": {"$lt": "2030-01-01"}, "camera": {"$prefix": "cam"},
    "iso": {"$gte": 100}, "public": {"$exists": True}, "album": {"$ne": "album 1"}, "rating": {"$in": [1, 2, 3, 4]},
    "place.lat": {"$lt": 90},
}  # fmt: skip


TEN = ("n", "r", "year", "taken", "camera", "iso", "public", "album", "rating", "place.lat")


def inserts(rows: int | None) -> None:
    """Into as many as are there, batch by batch, the four sides in turn.

    What keeping the fields up takes is the time of a filter after a batch less that of the same filter once more.
    """
    added = ADDED if rows is None else max(2 * BATCH, rows // 3)
    first = BASE if rows is None else rows - added
    vectors = sift(first + added, "float32")
    sides = {
        "no metadata": False,
        "ten fields, no filter asked": True,
        "ten fields, filtered every batch": True,
        "ten fields, ten indexes in the file": True,
    }
    with folder() as place:
        stores = {}
        for side, fields in sides.items():
            stores[side] = vecstore.open(Path(place) / f"{len(stores)}.vec", dim=128, metric="l2", threads=2)
            stores[side].add(
                np.arange(first),
                vectors[:first],
                [fields_of(row) for row in range(first)] if fields else None,
            )
        last = stores["ten fields, filtered every batch"]
        last.search(vectors[0], k=10, where=EVERYTHING)
        for field in TEN:
            stores["ten fields, ten indexes in the file"].create_index(field)
        adding, keeping, asking = dict.fromkeys(sides, 0.0), 0.0, 0.0
        for low in range(first, first + added, BATCH):
            ids = np.arange(low, min(low + BATCH, first + added))
            some = [fields_of(row) for row in ids.tolist()]
            for side, fields in sides.items():
                start = time.perf_counter()
                stores[side].add(ids, vectors[ids], some if fields else None)
                adding[side] += time.perf_counter() - start
            taken = []
            for _ in range(2):
                start = time.perf_counter()
                chosen(last, EVERYTHING)
                taken.append(time.perf_counter() - start)
            keeping, asking = keeping + max(taken[0] - taken[1], 0.0), asking + taken[1]
        for store in stores.values():
            store.close()
    print(f"{added:,} records into {first:,}, batches of {BATCH:,}, durable, two threads\n")
    print("| side | adds, s | columns kept up, s | records/s | rate / without filters | to reach |")
    print("| --- | --- | --- | --- | --- | --- |")
    plain = added / adding["ten fields, no filter asked"]
    for side, seconds in adding.items():
        extra = keeping if "filtered" in side else 0.0
        rate = added / (seconds + extra)
        goal = "≥ 0.7×" if "filtered" in side or "indexes" in side else ""
        print(f"| {side} | {seconds:.2f} | {extra:.2f} | {rate:,.0f} | {rate / plain:.2f}× | {goal} |")
    print(f"\nthe filter on ten fields itself, with nothing new: {asking / -(-added // BATCH) * 1e3:.2f} ms")
