"""The figures of the storage and of the exact search. `python bench/foundation.py [search|insert|get|start|open]`

Each line is a ratio of two medians taken in turn, in one run, on one thread.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from peers import in_turn, row, sift, sift_queries

import vecstore
from vecstore import config

ROWS = int(os.environ.get("ROWS", 1_000_000))
RUNS = int(os.environ.get("RUNS", 5))


def bench_search(folder: Path) -> None:
    import faiss

    faiss.omp_set_num_threads(1)
    default = faiss.cvar.distance_compute_blas_threshold
    queries = sift_queries(100)
    data = sift(ROWS, "float32")
    index = faiss.IndexFlatL2(data.shape[1])
    index.add(data)
    for dtype in ("float32", "uint8"):
        with vecstore.open(
            folder / f"{dtype}.vec", dim=128, metric="l2", dtype=dtype, durability="none"
        ) as ours:
            ours.add(np.arange(ROWS), data.astype(dtype))
            found, (_, truth) = ours.search(queries, k=10, exact=True, threads=1), index.search(queries, 10)
            assert np.mean([len(set(a) & set(b)) for a, b in zip(found.ids, truth, strict=True)]) > 9.9
            for count, target in ((1, "≥ 1.0×"), (100, "≥ 0.7×")):
                some = queries[:count]
                # faiss at its best: as it comes for one query, by matrix products for a hundred.
                faiss.cvar.distance_compute_blas_threshold = default if count == 1 else 20
                times = in_turn(
                    {
                        "ours": lambda ours=ours, some=some: ours.search(some, k=10, exact=True, threads=1),
                        "faiss": lambda some=some: index.search(some, 10),
                    },
                    RUNS * (4 if count == 1 else 1),
                )
                row(
                    f"exact, {count} of {dtype} {ROWS:,} × 128, faiss IndexFlatL2",
                    times["ours"],
                    times["faiss"],
                    target,
                )


def bench_insert(folder: Path) -> None:
    import sqlite_vec

    try:  # many Pythons come with an SQLite that takes no extensions
        import pysqlite3 as extensible
    except ImportError:
        extensible = sqlite3

    data = sift(ROWS, "float32")
    ids = [f"img-{number:07d}" for number in range(ROWS)]
    metadata = [{"n": number, "tag": "abc"[number % 3]} for number in range(ROWS)]

    def ours() -> None:
        path = folder / "insert.vec"
        path.unlink(missing_ok=True)
        with vecstore.open(path, dim=128, metric="l2") as collection:
            collection.add(ids, data, metadata)

    def plain() -> None:
        with open(folder / "plain", "wb") as file:
            file.write(data.data)
            file.flush()
            os.fsync(file.fileno())

    def peer() -> None:
        path = folder / "peer.db"
        path.unlink(missing_ok=True)
        db = extensible.connect(path)
        db.enable_load_extension(True)
        sqlite_vec.load(db)
        db.execute(
            "create virtual table v using vec0(id text primary key, embedding float[128], +n integer, +tag text)"
        )
        with db:
            rows = zip(ids, data, metadata, strict=True)
            db.executemany(
                "insert into v(id, embedding, n, tag) values (?, ?, ?, ?)",
                ((id_, vector.data, item["n"], item["tag"]) for id_, vector, item in rows),
            )
        db.close()

    times = in_turn({"ours": ours, "plain": plain}, RUNS)
    row(f"bulk add {ROWS:,} × 128, plain write and fsync", times["ours"], times["plain"], "≥ 0.3×")
    start = time.perf_counter()
    peer()
    row(f"bulk add {ROWS:,} × 128, sqlite-vec (one run)", times["ours"], time.perf_counter() - start, "≥ 5×")
    size = (folder / "insert.vec").stat().st_size
    print(
        f"| file size, {ROWS:,} × 128 float32, small metadata | {size:,} B | {data.nbytes:,} B | {size / data.nbytes:.3f}× | ≤ 1.15× |"
    )


def bench_get(folder: Path) -> None:
    count = min(ROWS, 200_000)
    data = sift(count, "float32")
    ids = [f"img-{number:07d}" for number in range(count)]
    db = sqlite3.connect(folder / "get.db")
    db.execute("create table r(id text primary key, vector blob, n integer, tag text) without rowid")
    with db:
        db.executemany(
            "insert into r values (?, ?, ?, ?)",
            ((i, v.tobytes(), n, "a") for n, (i, v) in enumerate(zip(ids, data, strict=True))),
        )
    rng = np.random.default_rng(1)
    wanted = [ids[place] for place in rng.integers(0, count, 1000).tolist()]
    with vecstore.open(folder / "get.vec", dim=128, metric="l2", durability="none") as ours:
        ours.add(ids, data, [{"n": n, "tag": "a"} for n in range(count)])

        def peer() -> None:
            for id_ in wanted:
                _, blob, n, tag = db.execute("select * from r where id = ?", (id_,)).fetchone()
                np.frombuffer(blob, dtype=np.float32), {"n": n, "tag": tag}

        times = in_turn({"ours": lambda: ours.get(wanted), "sqlite3": peer}, 10 * RUNS)
    row("get of 1,000 random ids, sqlite3", times["ours"], times["sqlite3"], "≥ 1×")
    db.close()


def bench_start(folder: Path) -> None:
    path = folder / "start.vec"
    with vecstore.open(path, dim=128, durability="none") as ours:
        ours.add(np.arange(10_000), np.random.default_rng(0).normal(size=(10_000, 128)))
    code = f"import vecstore; vecstore.open({str(path)!r}, mode='r').get(77)"
    times = in_turn(
        {
            "ours": lambda: subprocess.run([sys.executable, "-c", code], check=True),
            "lancedb": lambda: subprocess.run([sys.executable, "-c", "import lancedb"], check=True),
        },
        RUNS,
    )
    row(
        "a fresh process: import, open, get; import lancedb alone",
        times["ours"],
        times["lancedb"],
        "≤ 0.2× its time",
    )


def bench_open(folder: Path) -> None:
    """Opening a file of a gigabyte that is not in memory: how long, and how much of it is read."""
    path = folder / "large.vec"
    rows = 2 * ROWS
    with vecstore.open(path, dim=128, metric="l2", durability="none") as ours:
        for start in range(0, rows, 100_000):
            ours.add(
                np.arange(start, start + 100_000),
                np.random.default_rng(start).random((100_000, 128), dtype=np.float32),
            )
    os.sync()
    code = (
        "import os, sys, time, mmap, ctypes, vecstore, numpy\n"
        f"path = {str(path)!r}\n"
        "fd = os.open(path, os.O_RDONLY); os.fsync(fd); os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)\n"
        "start = time.perf_counter(); c = vecstore.open(path, mode='r'); r = c.get(777_777 % len(c)); t = time.perf_counter() - start\n"
        "size = os.fstat(fd).st_size; m = mmap.mmap(fd, size, access=mmap.ACCESS_READ)\n"
        "a = numpy.frombuffer(m, dtype=numpy.uint8); n = -(-size // mmap.PAGESIZE); v = (ctypes.c_ubyte * n)()\n"
        "ctypes.CDLL(None).mincore(ctypes.c_void_p(a.ctypes.data), ctypes.c_size_t(size), v)\n"
        "print(t, sum(x & 1 for x in v) / n, size)\n"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        ).stdout.split()
        for _ in range(RUNS)
    ]
    seconds, share = (float(np.median([float(run[place]) for run in found])) for place in (0, 1))
    what = f"open and get one record of a file of {int(found[0][2]):,} B, nothing of it in memory"
    print(f"| {what} | {seconds * 1e3:.1f} ms | – | {share:.2%} of it resident after | ≤ 20 ms, < 3% |")


def main() -> None:
    # These are figures of the file and of the scan; graph.py measures what a graph costs and gives.
    config.GRAPH_FROM = 1 << 62
    chosen = sys.argv[1:] or ["search", "insert", "get", "start", "open"]
    print(
        "| what | vecstore | peer | vecstore's speed / peer's | to reach |\n| --- | --- | --- | --- | --- |"
    )
    for name in chosen:
        with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as folder:
            globals()[f"bench_{name}"](Path(folder))


if __name__ == "__main__":
    main()
