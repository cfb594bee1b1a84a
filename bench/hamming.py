"""Bits under Hamming: vecstore's graph against faiss's IndexBinaryHNSW, its scan against IndexBinaryFlat.

    python bench/hamming.py [graph] [scan] [--rows N] [--queries N]

SIFT descriptors of photographs, centred, turned into 256 numbers by a fixed rotation, of which the signs are kept:
400,000 × 256 bits. Both sides in one process and in turn, medians of seven rounds. Recall@10 counts ties as right; speeds
are read off at 0.95 between the two knobs around it. faiss keeps its graphs in BENCH_RESULTS, if that is set.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from contenders import K, Peer, ladder
from curves import at
from measure import pin, table
from numpy.typing import NDArray
from peers import DATA, in_turn, sift

BITS, TARGET, ROUNDS = 256, 0.95, 7
WIDTHS = (10, 14, 20, 28, 40, 56, 80, 112, 160, 240, 400, 800, 1_600)
Bits = NDArray[np.uint8]


def signs(vectors: NDArray[np.float32], centre: NDArray[np.float32]) -> Bits:
    """Packed bits: on which side of each of 256 planes through the centre a vector lies."""
    dim = vectors.shape[1]
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(BITS, BITS)))[0][:dim].astype(np.float32)
    return np.packbits((vectors - centre) @ turn > 0, axis=1)


def load(rows: int, count: int) -> tuple[Bits, Bits]:
    vectors = sift(rows, "float32")
    queries = np.load(DATA / "sift-400k.npz")["query"][:count].astype(np.float32)
    centre = vectors.mean(axis=0)
    return signs(vectors, centre), signs(queries, centre)


def distances(base: Bits, queries: Bits, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bits that differ, by a table; many where an id is none."""
    ones = np.array([bin(byte).count("1") for byte in range(256)], np.int64)
    found = ones[base[np.maximum(ids, 0)] ^ queries[:, None]].sum(axis=2)
    return np.where(ids >= 0, found, BITS + 1)


def recall(base: Bits, queries: Bits, farthest: NDArray[np.int64], ids: NDArray[np.int64]) -> float:
    """How many of the k lie no farther than the true k-th; an id counts once."""
    near = distances(base, queries, ids) <= farthest[:, None]
    firsts = np.zeros(ids.shape, bool)
    for row, mine in enumerate(ids):
        firsts[row, np.unique(mine, return_index=True)[1]] = True
    return float((near & firsts).mean())


class Vecstore(Peer):
    package = "vecstore-db"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.ladders = [
            ladder("recall", (0.8, 0.9, 0.93, 0.95, 0.96, 0.97, 0.98, 0.99)),
            ladder("search_list", WIDTHS),
        ]
        self.knob: dict[str, Any] = {}

    def build(self, base: Any) -> None:
        import vecstore

        path = self.folder / "bits.vec"
        self.store = vecstore.open(path, dim=BITS, metric="hamming", dtype="binary", threads=2)
        self.store.add(np.arange(len(base)), base)

    def set(self, **knob: Any) -> None:
        self.knob = knob

    def one(self, query: Any) -> Any:
        return self.store.search(query, k=K, threads=1, **self.knob).ids

    def many(self, queries: Any, threads: int) -> Any:
        return self.store.search(queries, k=K, threads=threads, **self.knob).ids

    def close(self) -> None:
        self.store.close()


class Faiss(Peer):
    package = "faiss-cpu"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.m = options.get("m")
        self.ladders = [ladder("efSearch", WIDTHS)]

    def build(self, base: Any) -> None:
        import faiss

        self.faiss = faiss
        faiss.omp_set_num_threads(2)
        if self.m is None:
            self.index = faiss.IndexBinaryFlat(BITS)
            self.index.add(base)
            return
        path = self.folder / f"hamming-hnsw-{self.m}-{len(base)}.faiss"
        if path.exists():
            self.index = faiss.read_index_binary(str(path))
            return
        self.index = faiss.IndexBinaryHNSW(BITS, self.m)
        self.index.hnsw.efConstruction = 200
        self.index.add(base)
        faiss.write_index_binary(self.index, str(path))

    def set(self, **knob: Any) -> None:
        if knob:
            self.index.hnsw.efSearch = knob["efSearch"]

    def use(self, threads: int) -> None:
        self.faiss.omp_set_num_threads(threads)

    def one(self, query: Any) -> Any:
        return self.index.search(query[None], K)[1][0]

    def many(self, queries: Any, threads: int) -> Any:
        return self.index.search(queries, K)[1]


def around(peer: Peer, base: Bits, queries: Bits, farthest: NDArray[np.int64]) -> list[tuple[Any, float]]:
    """The knobs just below the target and just above it, of the ladder that is quicker there."""
    best: list[tuple[Any, float]] = []
    quickest = float("inf")
    for knobs in peer.ladders:
        below = None
        for knob in knobs:
            peer.set(**knob)
            start = time.perf_counter()
            answers = [peer.ids(peer.one(query)) for query in queries]
            seconds = time.perf_counter() - start
            reached = recall(base, queries, farthest, table(answers))
            if reached >= TARGET:
                if seconds < quickest:
                    best = [point for point in (below, (knob, reached)) if point is not None]
                    quickest = seconds
                break
            below = knob, reached
    return best


def speeds(
    peer: Peer, points: list[tuple[Any, float]], ways: dict[str, Callable[[Peer], Any]], count: int
) -> Any:
    """One round: queries a second of every way at every knob."""
    found = {}
    for place, (knob, _) in enumerate(points):
        peer.set(**knob)
        for way, call in ways.items():
            start = time.perf_counter()
            call(peer)
            found[way, place] = count / (time.perf_counter() - start)
    return found


def graph(ours: Peer, base: Bits, queries: Bits, farthest: NDArray[np.int64], folder: Path) -> None:
    print("\n| graph, recall@10 0.95 | how | vecstore, queries/s | faiss | ratio | to reach |")
    print("| --- | --- | --- | --- | --- | --- |")
    ways: dict[str, Callable[[Peer], Any]] = {
        "one by one": lambda peer: [peer.one(query) for query in queries],
        f"batch of {len(queries):,}, one thread": lambda peer: peer.many(queries, 1),
    }
    pin(1)
    mine = around(ours, base, queries, farthest)
    for m in (16, 32):
        theirs = Faiss(len(base), BITS, "hamming", folder, m=m)
        pin(2)
        seconds, _ = clock(lambda peer=theirs: peer.build(base))
        print(f"| IndexBinaryHNSW, M {m} | build or load, two threads | | {seconds:,.1f} s | | |")
        pin(1)
        theirs.use(1)
        sides = {"ours": (ours, mine), "theirs": (theirs, around(theirs, base, queries, farthest))}
        rounds = [
            {side: speeds(peer, points, ways, len(queries)) for side, (peer, points) in sides.items()}
            for _ in range(ROUNDS + 1)
        ][1:]
        for way in ways:
            level = {}
            for side, (_, points) in sides.items():
                taken = [
                    statistics.median(each[side][way, place] for each in rounds)
                    for place in range(len(points))
                ]
                level[side] = at(
                    [(reached, speed) for (_, reached), speed in zip(points, taken, strict=True)], TARGET
                )
            both = level["ours"] and level["theirs"]
            ratio = f"{level['ours'] / level['theirs']:.2f}×" if both else "–"
            cells = [f"{speed:,.0f}" if speed else "not reached" for speed in level.values()]
            print(f"| IndexBinaryHNSW, M {m} | {way} | {' | '.join(cells)} | {ratio} | ≥ 2× |", flush=True)
        knobs = {
            side: [(knob, round(reached, 4)) for knob, reached in points]
            for side, (_, points) in sides.items()
        }
        print(f"| | knobs and recalls | {knobs['ours']} | {knobs['theirs']} | | |", flush=True)


def scan(ours: Any, base: Bits, queries: Bits, folder: Path) -> None:
    print("\n| exact scan | vecstore | faiss IndexBinaryFlat | ratio | to reach |")
    print("| --- | --- | --- | --- | --- |")
    theirs = Faiss(len(base), BITS, "hamming", folder)
    theirs.build(base)
    for count in (1, 100, len(queries)):
        for threads in (1, 2):
            some = queries[:count]
            pin(threads)
            theirs.use(threads)
            times = in_turn(
                {
                    "ours": lambda s=some, t=threads: ours.store.search(s, k=K, exact=True, threads=t),
                    "theirs": lambda s=some: theirs.many(s, 0),
                },
                ROUNDS * (3 if count == 1 else 1),
            )
            cells = [f"{seconds * 1e3:,.2f} ms" for seconds in times.values()]
            label = f"{count:,} at once, {threads} thread{'s' * (threads > 1)}"
            print(
                f"| {label} | {' | '.join(cells)} | {times['theirs'] / times['ours']:.2f}× | ≥ 1× |",
                flush=True,
            )


def clock(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    answer = call()
    return time.perf_counter() - start, answer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", default=["graph", "scan"], metavar="graph|scan")
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--queries", type=int, default=1_000)
    arguments = parser.parse_args()
    base, queries = load(arguments.rows, arguments.queries)
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as place:
        pin(2)
        ours = Vecstore(len(base), BITS, "hamming", Path(place))
        seconds, _ = clock(lambda: ours.build(base))
        nodes = ours.store.stats().get("nodes")
        size = f"{len(base):,} × {BITS} bits, vecstore built in {seconds:,.1f} s, {nodes or 'no'} nodes in its graph"
        truth = ours.store.search(queries, k=K, exact=True)
        flat = Faiss(len(base), BITS, "hamming", Path(place))
        flat.build(base)
        true = distances(base, queries, np.asarray(flat.many(queries, 0), np.int64)).max(axis=1)
        assert (np.asarray(truth.distances)[:, -1] == true).all(), "the two exact scans must agree"
        print(size)
        kept = Path(os.environ.get("BENCH_RESULTS", place))
        kept.mkdir(parents=True, exist_ok=True)
        if "graph" in arguments.what:
            graph(ours, base, queries, true, kept)
        if "scan" in arguments.what:
            scan(ours, base, queries, Path(place))
        ours.close()


if __name__ == "__main__":
    main()
