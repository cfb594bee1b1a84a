"""Building on the card: checked against a graph of the CPU's, timed whole and by step, and each kernel by itself."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from cuda_card import Bench
from numpy.typing import NDArray

from vecstore.index import build, on_card
from vecstore.index.steps import OnCpu

Vectors = NDArray[np.float32]
Graph = tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.uint32]]

K = 10
_SMALL = {
    "degree": 8,
    "fanout": 3,
    "leaf": 24,
    "largest_leaf": 40,
    "looked_at": 10,
    "kept": 5,
    "candidates": 12,
    "entries": 8,
}


def run(bench: Bench) -> None:
    base, queries = vectors(bench)
    plan = build.Plan(**_SMALL) if bench.simulate else build.Plan()
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        cpu = OnCpu(threads, pool)
        on_cpu, cpu_graph = timed(base, plan, threads, pool, cpu)
        card_steps = Stopwatch(on_card.OnCard(bench.card, cpu), bench.card.synchronize)
        # Once to have the kernels compiled.
        timed(base[: max(40, len(base) // 100)], plan, threads, pool, card_steps)
        card_steps.seconds.clear()
        whole, graph = timed(base, plan, threads, pool, card_steps)
        name = f"{len(base):,} × {base.shape[1]}"
        bench.line(f"build {name}: CPU, {threads} threads", f"{on_cpu:,.1f} s")
        bench.line(
            f"build {name}: card", f"{whole:,.2f} s; {on_cpu / whole:.1f}×", "≥ 10×", on_cpu >= 10 * whole
        )
        for step, seconds in card_steps.seconds.items():
            bench.line(f"build {name}: of it {step}", f"{seconds:,.2f} s")
        rest = whole - sum(card_steps.seconds.values())
        bench.line(f"build {name}: of it on the CPU all the same", f"{rest:,.2f} s")
        again = timed(base, plan, threads, pool, card_steps)[1]
        equal = all(np.array_equal(mine, its) for mine, its in zip(graph, again, strict=True))
        bench.line(f"build {name}: the same graph again", "yes" if equal else "NO", "yes", equal)
        if not equal:
            raise SystemExit(f"{name}: the card built two different graphs of one set")
        quality(bench, name, base, queries, cpu_graph, graph)
        kernels(bench, base, plan)


def vectors(bench: Bench) -> tuple[Vectors, Vectors]:
    """Descriptors, repeated where more are wanted than there are; random ones in the simulator."""
    if bench.simulate:
        # Threads of the simulator wait for one another all the time.
        sys.setswitchinterval(1e-5)
        random = np.random.default_rng(0)
        return random.random((min(bench.rows, 40), 6), np.float32), random.random((20, 6), np.float32)
    from peers import DATA, sift

    return sift(bench.rows, "float32"), np.load(DATA / "sift-400k.npz")["query"].astype(np.float32)


class Stopwatch:
    """Steps whose seconds are added up by name."""

    def __init__(self, steps: Any, rest: Callable[[], None]) -> None:
        self._steps, self._rest = steps, rest
        self.seconds: dict[str, float] = {}

    def __getattr__(self, name: str) -> Any:
        step = getattr(self._steps, name)

        def timed(*arguments: Any) -> Any:
            begun = time.perf_counter()
            found = step(*arguments)
            self._rest()
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun
            return found

        return timed


def timed(
    base: Vectors, plan: build.Plan, threads: int, pool: ThreadPoolExecutor, steps: Any
) -> tuple[float, Graph]:
    begun = time.perf_counter()
    graph = build.build(base, plan, threads, pool, lambda share: None, steps)
    return time.perf_counter() - begun, graph


# -- whether it is as good


def quality(bench: Bench, name: str, base: Vectors, queries: Vectors, cpu: Graph, card: Graph) -> None:
    """Recall at the same number of distances computed, by a plain walk over exact distances."""
    some = queries[: min(len(queries), 500)]
    truth = nearest(base, some)
    for most in (40, 80) if bench.simulate else (1000, 2000, 4000):
        mine, other = (recall(base, graph, some, truth, most) for graph in (card, cpu))
        bench.line(
            f"build {name}: recall after {most:,} distances",
            f"card {mine:.4f}, CPU {other:.4f}",
            "± 0.005",
            abs(mine - other) <= 0.005,
        )


def nearest(base: Vectors, queries: Vectors) -> NDArray[np.int64]:
    found = []
    norms = np.einsum("ij,ij->i", base, base)
    for query in queries:
        near = np.argpartition(norms - 2 * (base @ query), K)[: 4 * K]
        apart = np.square(base[near].astype(np.float64) - query).sum(axis=1)
        found.append(near[np.lexsort((near, apart))[:K]])
    return np.array(found)


def recall(base: Vectors, graph: Graph, queries: Vectors, truth: NDArray[np.int64], most: int) -> float:
    import heapq

    order, edges, entries = graph
    hits = 0
    for query, true in zip(queries, truth, strict=True):
        seen = set(entries.tolist())
        ahead = list(zip(apart(base, order, entries, query), entries.tolist(), strict=True))
        heapq.heapify(ahead)
        while ahead and len(seen) < most:
            row = edges[heapq.heappop(ahead)[1]]
            fresh = [node for node in row[row < len(base)].tolist() if node not in seen]
            seen.update(fresh)
            for each in zip(apart(base, order, np.array(fresh, dtype=np.int64), query), fresh, strict=True):
                heapq.heappush(ahead, each)
        hits += len({int(order[node]) for node in seen} & set(true.tolist()))
    return hits / truth.size


def apart(base: Vectors, order: NDArray[np.int64], nodes: NDArray[Any], query: Vectors) -> list[float]:
    found: list[float] = np.square(base[order[nodes]] - query).sum(axis=1).tolist()
    return found


# -- kernels


def kernels(bench: Bench, base: Vectors, plan: build.Plan) -> None:
    """The products of leaves, the edges within them, and pruning: bytes and operations counted by hand."""
    from vecstore.kernels import dispatch

    card, cuda = bench.card, dispatch.cuda()
    width = base.shape[1]
    size, leaves = (12, 2) if bench.simulate else (plan.leaf, 256)
    rows = card.put(base[: size * leaves])
    members = card.put(np.arange(size * leaves, dtype=np.uint32))
    each = np.arange(leaves, dtype=np.int64)
    sizes = card.put(np.full(leaves, size, dtype=np.int64))
    groups = cuda.gram.Groups(rows, members, card.put(each * size), sizes, size)
    starts, origins = card.put(each * size * size), card.put(each * size)
    table = card.empty(leaves * size * size, np.float32)
    entries, operations = float(leaves * size * size), 2.0 * width * leaves * size * size
    seconds = bench.median(lambda: cuda.gram.tables(groups, groups, starts, origins, table))
    bench.kernel(
        f"tables of {leaves} leaves of {size} × {width}",
        seconds,
        4 * entries + 4.0 * width * leaves * size,
        operations,
    )
    owners = card.put(np.repeat(each.astype(np.int32), size))
    places = card.put(np.arange(size * leaves, dtype=np.int64))
    ids = card.empty((size * leaves, plan.kept), np.uint32)
    distances = card.empty(ids.shape, np.float32)
    how = 0, 1, plan.looked_at, plan.kept, np.float32(plan.alpha)
    seconds = bench.median(
        lambda: cuda.leaf.edges(table, starts, groups, owners, places, *how, ids, distances)
    )
    bench.kernel(f"edges within these leaves, {plan.kept} of {plan.looked_at}", seconds, 4 * entries, entries)
    pruning(bench, card, cuda, rows, plan, size * leaves)


def pruning(bench: Bench, card: Any, cuda: Any, rows: Any, plan: build.Plan, count: int) -> None:
    room, width = plan.candidates, rows.shape[1]
    nodes = min(count, 8 if bench.simulate else 32_768)
    random = np.random.default_rng(0)
    near = np.minimum(count - 1, np.arange(nodes)[:, None] + random.integers(0, 4 * room, (nodes, room)))
    ids, each = card.put(near.astype(np.uint32)), np.arange(nodes, dtype=np.int64)
    distances = card.put(np.sort(random.random((nodes, room), np.float32), axis=1))
    counts, sizes = card.put(np.full(nodes, room, np.int32)), card.put(np.full(nodes, room, np.int64))
    groups = cuda.gram.Groups(rows, ids.reshape(nodes * room), card.put(each * room), sizes, room)
    starts, origins = card.put(each * room * room), card.put(each)
    table, edges = card.empty(nodes * room * room, np.float32), card.empty((nodes, plan.degree), np.uint32)
    entries = float(nodes * room * room)
    seconds = bench.median(lambda: cuda.gram.tables(groups, groups, starts, origins, table))
    moved = 4 * entries + 4.0 * width * nodes * room
    bench.kernel(f"tables of {nodes:,} nodes' {room} candidates", seconds, moved, 2.0 * width * entries)
    alpha = np.float32(plan.alpha)
    seconds = bench.median(lambda: cuda.prune.prune(table, ids, distances, counts, alpha, edges))
    bench.kernel(f"pruning of these to {plan.degree}", seconds, 4 * entries, entries)
