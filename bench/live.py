"""What it costs a collection to change: inserts, single adds, replacement, readers beside a writer; against peers.

    python bench/live.py [ingest bulk single churn window order readers refresh] [--peers hnswlib,lancedb,zvec]

SIFT descriptors under l2. Everything is durable; two threads write. Peers keep theirs as their documentation says:
hnswlib in memory alone, LanceDB and zvec with `optimize` at the end, so that all can be searched as quickly.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import lmdb
import numpy as np
from measure import disk
from peers import DATA

import vecstore

BASE, ADDED, BATCH = 300_000, 100_000, 1_000
K = 10


def load() -> tuple[Any, Any]:
    found = np.load(DATA / "sift-400k.npz")
    return found["base"].astype(np.float32), found["query"].astype(np.float32)


def written(folder: Path) -> int:
    """Bytes that were written to the folder's disk so far, by anybody.

    What the system says of a process counts whole runs of pages where one of them was written.
    """
    os.sync()
    device = os.stat(folder).st_dev
    for line in Path("/proc/diskstats").read_text().splitlines():
        parts = line.split()
        if (int(parts[0]), int(parts[1])) == (os.major(device), os.minor(device)):
            return 512 * int(parts[9])
    return 0


def reached(store: Any, queries: Any, **asked: Any) -> float:
    truth = store.search(queries, k=K, exact=True).distances[:, -1:]
    return float(np.mean(store.search(queries, k=K, **asked).distances <= truth * (1 + 1e-6)))


class Effort(NamedTuple):
    """What was measured with longer and longer pools."""

    recalls: list[float]
    scored: list[float]
    speeds: list[float]

    def distances(self, recall: float = 0.95) -> float:
        """Distances computed a query at a recall, between the two pools next to it."""
        return float(np.interp(recall, self.recalls, self.scored))

    def speed(self, recall: float = 0.95) -> float:
        """Queries a second, likewise."""
        return 1 / float(np.interp(recall, self.recalls, [1 / speed for speed in self.speeds]))

    def recall(self, distances: float) -> float:
        """The recall with so many distances computed."""
        return float(np.interp(distances, self.scored, self.recalls))


def effort(store: Any, queries: Any, recall: float = 0.95) -> Effort:
    """What a recall takes, measured until a little more is reached."""
    truth = store.search(queries, k=K, exact=True).distances[:, -1:] * (1 + 1e-6)
    found = Effort([], [], [])
    for width in (12, 14, 16, 18, 20, 22, 24, 27, 30, 34, 38, 43, 48, 55, 64, 80, 100):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            answer = store.search(queries, k=K, search_list=width, threads=1)
            times.append(time.perf_counter() - start)
        found.recalls.append(float(np.mean(answer.distances <= truth)))
        found.speeds.append(len(queries) / min(times))
        asked = (store.explain(query, k=K, search_list=width)["distances"] for query in queries[:200])
        found.scored.append(float(np.mean(list(asked))))
        if found.recalls[-1] > recall + 0.01:
            break
    return found


def warm(folder: Path) -> None:
    """What is compiled once after the installation is no part of what is measured."""
    base, queries = load()
    with vecstore.open(folder / "warm.vec", dim=base.shape[1], metric="l2", threads=2) as store:
        store.add(np.arange(30_000), base[:30_000])
        for first in range(30_000, 40_000, BATCH):
            store.add(np.arange(first, first + BATCH), base[first : first + BATCH])
            store.delete(np.arange(first - 30_000, first - 29_000))
        store.optimize()
        reached(store, queries[:100])
        for _ in range(3):
            store.search(queries[0], k=K)
        store.explain(queries[0], k=K, search_list=20)


# -- inserts


def ingest(folder: Path, peers: list[str]) -> None:
    base, queries = load()
    print(
        "| store | inserts a second | of it optimize, s | bytes written a record / the record's | recall@10 after |"
    )
    print("| --- | --- | --- | --- | --- |")
    for name in ["vecstore", *peers]:
        seconds, after, amount, recall = INGEST[name](folder / name, base, queries)
        share = "–" if amount is None else f"{amount / ADDED / (4 * base.shape[1]):.1f}×"
        print(f"| {name} | {ADDED / seconds:,.0f} | {after:.1f} | {share} | {recall:.3f} |", flush=True)


def bulk(folder: Path, peers: list[str]) -> None:
    """One large add into a collection that has a graph: stitched in, and built anew with the rest."""
    base, queries = load()
    print("| added at once | by | records/s | distances at recall 0.95 | recall by default |")
    print("| --- | --- | --- | --- | --- |")
    for added in (20_000, 50_000, 100_000, 150_000):
        for way, worn in (("stitching", 1.0), ("building anew", 0.0)):
            path = folder / f"bulk-{added}-{way.split()[0]}.vec"
            with vecstore.open(path, dim=base.shape[1], metric="l2", threads=2) as store:
                store.add(np.arange(len(base) - added), base[added:])
                vecstore.config.WORN_SHARE = worn
                start = time.perf_counter()
                store.add(np.arange(len(base) - added, len(base)), base[:added])
                seconds = time.perf_counter() - start
                recall, scored = reached(store, queries), effort(store, queries).distances()
                print(
                    f"| {added:,} | {way} | {added / seconds:,.0f} | {scored:,.0f} | {recall:.3f} |",
                    flush=True,
                )
            path.unlink()


def _batches() -> range:
    return range(BASE, BASE + ADDED, BATCH)


def _ours(folder: Path, base: Any, queries: Any) -> tuple[float, float, int | None, float]:
    folder.mkdir()
    with vecstore.open(folder / "v.vec", dim=base.shape[1], metric="l2", threads=2) as store:
        store.add(np.arange(BASE), base[:BASE])
        start, before = time.perf_counter(), written(folder)
        for first in _batches():
            store.add(np.arange(first, first + BATCH), base[first : first + BATCH])
        seconds, amount = time.perf_counter() - start, written(folder) - before
        return seconds, 0.0, amount, reached(store, queries)


def _hnswlib(folder: Path, base: Any, queries: Any) -> tuple[float, float, int | None, float]:
    import hnswlib

    index = hnswlib.Index("l2", base.shape[1])
    index.init_index(BASE + ADDED, ef_construction=200, M=16)
    index.set_num_threads(2)
    index.add_items(base[:BASE], np.arange(BASE))
    start = time.perf_counter()
    for first in _batches():
        index.add_items(base[first : first + BATCH], np.arange(first, first + BATCH))
    seconds = time.perf_counter() - start
    index.set_ef(40)
    ids = index.knn_query(queries, K)[0]
    truth = np.load(DATA / "sift-400k.npz")["neighbors"][:, :K]
    return (
        seconds,
        0.0,
        None,
        float(np.mean([len(set(a) & set(b)) / K for a, b in zip(ids, truth, strict=True)])),
    )


def _lancedb(folder: Path, base: Any, queries: Any) -> tuple[float, float, int | None, float]:
    import lancedb
    import pyarrow as pa
    from lancedb.index import HnswSq

    def rows(low: int, high: int) -> Any:
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(base[low:high].reshape(-1)), base.shape[1])
        return pa.table({"id": pa.array(np.arange(low, high)), "vector": vectors})

    table = lancedb.connect(folder).create_table("live", rows(0, BASE))
    table.create_index(
        "vector", config=HnswSq(distance_type="l2", num_partitions=1, m=20, ef_construction=300)
    )
    start, before = time.perf_counter(), written(folder)
    for first in _batches():
        table.add(rows(first, first + BATCH))
    middle = time.perf_counter()
    table.optimize()
    end = time.perf_counter()
    found = [
        table.search(q).distance_type("l2").limit(K).ef(60).to_arrow()["id"].to_numpy() for q in queries[:200]
    ]
    truth = np.load(DATA / "sift-400k.npz")["neighbors"][:200, :K]
    recall = float(np.mean([len(set(a) & set(b)) / K for a, b in zip(found, truth, strict=True)]))
    return end - start, end - middle, written(folder) - before, recall


def _zvec(folder: Path, base: Any, queries: Any) -> tuple[float, float, int | None, float]:
    import zvec
    from zvec import DataType, MetricType

    zvec.init(log_level=zvec.LogLevel.ERROR, query_threads=2, optimize_threads=2)
    folder.mkdir()
    param = zvec.HnswIndexParam(
        m=32, ef_construction=200, metric_type=MetricType.L2, use_contiguous_memory=True
    )
    field = zvec.VectorSchema("v", DataType.VECTOR_FP32, base.shape[1], index_param=param)
    store = zvec.create_and_open(str(folder / "zvec"), zvec.CollectionSchema(name="live", vectors=[field]))

    def insert(low: int, high: int) -> None:
        for first in range(low, high, BATCH):
            rows = enumerate(base[first : min(first + BATCH, high)], first)
            for status in store.insert(
                [zvec.Doc(id=str(row), vectors={"v": vector}) for row, vector in rows]
            ):
                assert status.ok(), status

    insert(0, BASE)
    store.optimize(zvec.OptimizeOption(concurrency=2))
    start, before = time.perf_counter(), written(folder)
    insert(BASE, BASE + ADDED)
    middle = time.perf_counter()
    store.optimize(zvec.OptimizeOption(concurrency=2))
    end = time.perf_counter()
    how = zvec.HnswQueryParam(ef=60)
    truth = np.load(DATA / "sift-400k.npz")["neighbors"][:200, :K]
    hits = [
        {int(doc.id) for doc in store.query(zvec.Query("v", vector=query, param=how), topk=K)}
        for query in queries[:200]
    ]
    recall = float(
        np.mean([len(mine & set(its.tolist())) / K for mine, its in zip(hits, truth, strict=True)])
    )
    store.close()
    return end - start, end - middle, written(folder) - before, recall


INGEST: dict[str, Callable[..., tuple[float, float, int | None, float]]] = {
    "vecstore": _ours, "hnswlib": _hnswlib, "lancedb": _lancedb, "zvec": _zvec,
}  # fmt: skip


def single(folder: Path, peers: list[str]) -> None:
    """One durable add, against a bare commit of LMDB that writes as many bytes in one value."""
    base, _ = load()
    with vecstore.open(folder / "single.vec", dim=base.shape[1], metric="l2") as store:
        store.add(np.arange(100_000), base[:100_000])
        ours, before = [], written(folder)
        for row in range(100_000, 100_600):
            start = time.perf_counter()
            store.add(row, base[row], {"n": row})
            ours.append(time.perf_counter() - start)
        amount = (written(folder) - before) // len(ours)
    environment = lmdb.open(str(folder / "bare"), subdir=False, map_size=1 << 30, lib_version=0)
    theirs, value = [], os.urandom(max(1, amount - 12_288))
    for row in range(600):
        start = time.perf_counter()
        with environment.begin(write=True) as transaction:
            transaction.put(b"%d" % (row % 8), value)
        theirs.append(time.perf_counter() - start)
    environment.close()
    print(
        f"single add: {np.median(ours) * 1e3:.2f} ms (p99 {np.quantile(ours, 0.99) * 1e3:.2f}), {amount:,} B written; a bare "
        f"commit of as many {np.median(theirs) * 1e3:.2f} ms: {np.median(ours) / np.median(theirs):.2f}×"
    )


# -- replacement


def _table(store: Any, queries: Any, label: str, fresh: Fresh) -> None:
    found = effort(store, queries)
    scored, speed = found.distances(), found.speed()
    size = Path(store.path).stat().st_blocks * 512
    print(
        f"| {label} | {reached(store, queries):.3f} | {scored:,.0f} ({scored / fresh.scored:.2f}×) | "
        f"{found.recall(fresh.scored):.3f} | {speed:,.0f} ({speed / fresh.speed:.2f}×) | {size / fresh.size:.2f}× | "
        f"{store.stats()['codec_drift']} |",
        flush=True,
    )


class Fresh(NamedTuple):
    """What a graph that was built at once takes for recall 0.95."""

    scored: float
    speed: float
    size: int


def _fresh(path: Path, rows: Any, queries: Any, label: str) -> Fresh:
    print(
        "| state | recall by default | distances at recall 0.95 | recall at the first's | queries/s | file | drift |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with vecstore.open(path, dim=rows.shape[1], metric="l2", threads=2) as store:
        store.add(np.arange(len(rows)), rows)
        took = effort(store, queries)
        found = Fresh(took.distances(), took.speed(), path.stat().st_blocks * 512)
        _table(store, queries, label, found)
    return found


def churn(folder: Path, peers: list[str]) -> None:
    """Half of the collection is replaced at random, ten times over."""
    base, queries = load()
    base, random = base[:200_000], np.random.default_rng(1)
    fresh = _fresh(folder / "fresh.vec", base, queries, "fresh build")
    with vecstore.open(folder / "churn.vec", dim=base.shape[1], metric="l2", threads=2) as store:
        store.add(np.arange(len(base)), base)
        for turn in range(10):
            start = time.perf_counter()
            for part in np.array_split(random.permutation(len(base))[: len(base) // 2], 100):
                store.delete(part)
                store.add(part, base[part])
            _table(store, queries, f"round {turn + 1}, {time.perf_counter() - start:.0f} s", fresh)
        store.compact()
        _table(store, queries, "compacted", fresh)


def window(folder: Path, peers: list[str]) -> None:
    """The newest 200,000 of 400,000."""
    base, queries = load()
    fresh = _fresh(folder / "fresh.vec", base[200_000:], queries, "fresh build")
    with vecstore.open(folder / "window.vec", dim=base.shape[1], metric="l2", threads=2) as store:
        store.add(np.arange(200_000), base[:200_000])
        for first in range(200_000, 400_000, BATCH):
            store.add(np.arange(first, first + BATCH), base[first : first + BATCH])
            store.delete(np.arange(first - 200_000, first - 200_000 + BATCH))
        _table(store, queries, "window", fresh)


def order(folder: Path, peers: list[str]) -> None:
    """Sorted by cluster; one cluster deleted whole; another kind of vector added."""
    base, queries = load()
    base, random = base[:200_000], np.random.default_rng(1)
    fresh = _fresh(folder / "fresh.vec", base, queries, "fresh build")
    centres = base[random.permutation(len(base))[:50]]
    cluster = np.argmin((centres**2).sum(1) - 2 * base @ centres.T, axis=1)
    rows = np.argsort(cluster, kind="stable")
    with vecstore.open(folder / "order.vec", dim=base.shape[1], metric="l2", threads=2) as store:
        for first in range(0, len(rows), BATCH):
            part = rows[first : first + BATCH]
            store.add(part, base[part])
        _table(store, queries, "sorted by cluster", fresh)
        largest = np.argmax(np.bincount(cluster))
        store.delete(np.flatnonzero(cluster == largest))
        _table(store, queries, "a cluster deleted", fresh)
    text = np.load(DATA / "text-384.npz")
    turn = np.linalg.qr(random.normal(size=(384, 384)))[0]
    old, new = (text[name].astype(np.float32) for name in ("base", "query"))
    with vecstore.open(folder / "shift.vec", dim=384, metric="cosine", threads=2) as store:
        store.add(np.arange(40_000), old[:40_000])
        shifted = (old[40_000:] @ turn).astype(np.float32)
        for first in range(0, len(shifted), BATCH):
            part = shifted[first : first + BATCH]
            store.add(np.arange(40_000 + first, 40_000 + first + len(part)), part)
        asked = np.concatenate((new[:300], (new[300:600] @ turn).astype(np.float32)))
        print(f"shifted: recall {reached(store, asked):.3f}, drift {store.stats()['codec_drift']}")


# -- readers


def _read(path: str, seconds: float, queue: Any) -> None:
    _, queries = load()
    times = []
    with vecstore.open(path, mode="r", threads=1) as store:
        store.search(queries[0], k=K)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            start = time.perf_counter()
            _ = store.search(queries[len(times) % len(queries)], k=K).ids
            times.append(time.perf_counter() - start)
    queue.put(times)


def readers(folder: Path, peers: list[str]) -> None:
    """A reader's latency, alone and beside a writer that never rests."""
    base, _ = load()
    path = folder / "readers.vec"
    context = multiprocessing.get_context("spawn")
    with vecstore.open(path, dim=base.shape[1], metric="l2", threads=1) as store:
        store.add(np.arange(BASE), base[:BASE])
        results = []
        for busy in (False, True):
            queue = context.Queue()
            reader = context.Process(target=_read, args=(str(path), 20.0, queue))
            reader.start()
            first = BASE
            while busy and queue.empty() and first < len(base):
                store.add(np.arange(first, first + BATCH), base[first : first + BATCH])
                first += BATCH
            times = np.array(queue.get())
            reader.join()
            results.append(np.quantile(times, (0.5, 0.99)) * 1e6)
    (idle, idle99), (busy50, busy99) = results
    print(
        f"reader: p50 {idle:.0f} µs, p99 {idle99:.0f} µs alone; p50 {busy50:.0f}, p99 {busy99:.0f} beside a writer: "
        f"p99 {busy99 / idle99:.1f}×"
    )


def refresh(folder: Path, peers: list[str]) -> None:
    """The first search after a commit of 1,000 records into 400,000."""
    base, _ = load()
    path = folder / "refresh.vec"
    with vecstore.open(path, dim=base.shape[1], metric="l2", threads=2) as writer:
        writer.add(np.arange(len(base)), base)
        context = multiprocessing.get_context("spawn")
        asked, told = context.Queue(), context.Queue()
        reader = context.Process(target=_follow, args=(str(path), asked, told))
        reader.start()
        told.get()
        times = []
        for turn in range(20):
            writer.add(
                np.arange(len(base) + turn * BATCH, len(base) + (turn + 1) * BATCH), base[:BATCH] + turn
            )
            asked.put(True)
            times.append(told.get())
        asked.put(False)
        reader.join()
    print(
        f"refresh: {np.median(times) * 1e3:.1f} ms, at most {np.max(times) * 1e3:.1f}, 0.05 of it the search itself"
    )


def _follow(path: str, asked: Any, told: Any) -> None:
    _, queries = load()
    with vecstore.open(path, mode="r", threads=1) as store:
        store.search(queries[0], k=K)
        told.put(0.0)
        while asked.get():
            start = time.perf_counter()
            store.search(queries[0], k=K)
            told.put(time.perf_counter() - start)


WHAT = {each.__name__: each for each in (ingest, bulk, single, churn, window, order, readers, refresh)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", default=list(WHAT), metavar="WHAT", help=f"of {' '.join(WHAT)}")
    parser.add_argument("--peers", default="hnswlib,lancedb,zvec")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as folder:
        warm(Path(folder))
    for name in options.what:
        with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as folder:
            print(f"\n### {name}\n", flush=True)
            WHAT[name](Path(folder), [peer for peer in options.peers.split(",") if peer])
            print(f"({disk(Path(folder)) / 1e6:,.0f} MB on disk)")


if __name__ == "__main__":
    main()
