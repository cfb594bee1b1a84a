"""Building a graph: leaves of near vectors, edges within each, and a pruning of what comes together.

Each vector joins the leaves of its nearest leaders, so that leaves overlap. In a leaf all distances are one
table, made at the speed of a matrix product; no vector is searched for. After Vamana's pruning, edges are
offered in both directions and pruned again. The same seed gives the same graph, whatever the threads.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore.kernels import dispatch

Vectors = NDArray[np.float32]
Numbers = NDArray[np.int64]
Edges = NDArray[np.uint32]
Progress = Callable[[float], None]

NONE = np.uint32(0xFFFFFFFF)

# Leaves are handed to threads in portions of this many: what they found waits until it is collected.
_PORTION = 64
# Above this many leaders a vector looks for its own among those of the nearest cells of leaders only.
_FLAT_LEADERS = 4096
_CELLS_LOOKED_AT = 8


@dataclass(frozen=True)
class Plan:
    """How a graph is built. Each number was measured on SIFT descriptors and on embeddings of sentences."""

    # 47 edges and the slot fill three cache lines, and 21 rows a page. With 31, recall 0.95 takes 1.2x as long.
    degree: int = 47
    # On squared distances. Below 1.15 graphs lose recall, above 1.4 they only gain edges.
    alpha: float = 1.2
    # Leaves a vector joins, and how many it finds there: more of either builds longer for little recall.
    fanout: int = 8
    leaf: int = 700
    largest_leaf: int = 2000
    # Of the nearest in a leaf, how many are looked at and how many are kept.
    looked_at: int = 32
    kept: int = 12
    # Candidates that a node collects over all its leaves.
    candidates: int = 64
    # Where walks begin. A walk scores all of these first: with 256 that takes a tenth of it, with 8 it is a hop or two longer.
    entries: int = 64
    seed: int = 0


def build(
    vectors: Vectors, plan: Plan, threads: int, pool: Executor, progress: Progress
) -> tuple[Numbers, Edges, Edges]:
    """(order, edges, entries): `order[node]` is the row of a node; edges and entries are in nodes."""
    count = len(vectors)
    random = np.random.default_rng(plan.seed)
    order, vectors, lists = _gathered(vectors, plan, random, threads, pool, progress)
    edges = np.empty((count, plan.degree), dtype=np.uint32)
    kernels = dispatch.cpu()
    # Asked for here and not by each thread: two of them would compile it twice.
    prune_all, turn_all_round = kernels.prune.prune_all(), kernels.prune.turn_round()
    parts = _ranges(count, 8 * threads)
    alpha = np.float32(plan.alpha)

    def prune(part: tuple[int, int]) -> None:
        prune_all(vectors, *lists.arrays, alpha, *part, edges)

    def turn_round(part: tuple[int, int]) -> None:
        turn_all_round(edges, vectors, *part, *lists.arrays)

    list(pool.map(prune, parts))
    progress(0.85)
    list(pool.map(turn_round, _ranges(count, threads)))
    list(pool.map(prune, parts))
    entries = np.sort(random.permutation(count)[: plan.entries]).astype(np.uint32)
    kernels.order.connect()(edges, entries)
    progress(1.0)
    return order, edges, entries


def candidates(vectors: Vectors, plan: Plan, threads: int, pool: Executor) -> tuple[Numbers, Edges]:
    """(order, places): an order in which neighbours follow one another, and those in it that each one found near.

    Nearest first, filled up with NONE: what ``build`` makes edges of, for a caller who knows of other candidates too.
    """
    random = np.random.default_rng(plan.seed)
    order, _, lists = _gathered(vectors, plan, random, threads, pool, lambda done: None)
    places, _, counts = lists.arrays
    places[np.arange(places.shape[1]) >= counts[:, None]] = NONE
    return order, places


class _Lists:
    """Candidates for each node's edges, nearest first."""

    def __init__(self, count: int, room: int) -> None:
        self.arrays = (
            np.empty((count, room), dtype=np.uint32),
            np.empty((count, room), dtype=np.float32),
            np.zeros(count, dtype=np.int32),
        )


def memory_a_vector(plan: Plan, width: int) -> int:
    """Bytes that building takes for each vector: itself twice, its candidates and its edges."""
    return 8 * width + 8 * plan.candidates + 4 * plan.degree + 8 * plan.fanout + 40


def _gathered(
    vectors: Vectors, plan: Plan, random: Any, threads: int, pool: Executor, progress: Progress
) -> tuple[Numbers, Vectors, _Lists]:
    """(order, vectors in that order, the candidates of each)."""
    leaders = _choose_leaders(vectors, plan, random)
    chosen = _assign(vectors, leaders, plan.fanout, threads, pool)
    progress(0.1)
    order = _node_order(vectors, leaders, chosen[:, 0].astype(np.int64), threads, pool)
    vectors, chosen = vectors[order], chosen[order]
    lists = _Lists(len(vectors), plan.candidates)
    _collect_leaves(vectors, chosen, plan, random, lists, threads, pool, progress)
    return order, vectors, lists


def _ranges(count: int, parts: int) -> list[tuple[int, int]]:
    bounds = np.linspace(0, count, max(1, min(parts, count)) + 1).astype(int).tolist()
    return list(pairwise(bounds))


def _choose_leaders(vectors: Vectors, plan: Plan, random: Any) -> Vectors:
    count = len(vectors)
    wanted = min(count, max(1, round(count * plan.fanout / plan.leaf)))
    leaders: Vectors = vectors[np.sort(random.permutation(count)[:wanted])]
    return leaders


def _assign(
    vectors: Vectors, leaders: Vectors, fanout: int, threads: int, pool: Executor
) -> NDArray[np.int32]:
    """The nearest leaders of each vector, nearest first."""
    chosen = np.empty((len(vectors), min(fanout, len(leaders))), dtype=np.int32)
    nearest = dispatch.cpu().gram.nearest()
    parts = _ranges(len(vectors), 8 * threads)
    list(pool.map(lambda part: nearest(vectors, leaders, *part, chosen), parts))
    return chosen


def _node_order(
    vectors: Vectors, leaders: Vectors, cells: Numbers, threads: int, pool: Executor
) -> Numbers:
    """Rows in an order in which neighbours follow one another: leaders in a chain, and each one's cell in a chain."""
    chain_cells = dispatch.cpu().order.chain_cells()
    chain = np.arange(len(leaders), dtype=np.int64)
    chain_cells(leaders, chain, np.array([0, chain.size]), 0, 1)
    rank = np.empty(chain.size, dtype=np.int64)
    rank[chain] = np.arange(chain.size)
    ranked = rank[cells]
    order = np.argsort(ranked, kind="stable")
    bounds = np.searchsorted(ranked[order], np.arange(chain.size + 1))
    parts = _ranges(chain.size, 8 * threads)
    list(pool.map(lambda part: chain_cells(vectors, order, bounds, *part), parts))
    return order


def _leaves(chosen: NDArray[np.int32], plan: Plan, random: Any) -> list[Numbers]:
    """The members of each leader's leaf, ascending; leaves that are too large are cut by lot."""
    flat = chosen.ravel()
    members = np.argsort(flat, kind="stable")
    bounds = np.searchsorted(flat[members], np.arange(int(flat.max()) + 2))
    members //= chosen.shape[1]
    leaves = []
    for low, high in pairwise(bounds.tolist()):
        leaf = members[low:high]
        cuts = -(-leaf.size // plan.largest_leaf)
        if cuts > 1:
            leaves += [np.sort(part) for part in np.array_split(random.permutation(leaf), cuts)]
        elif leaf.size > 1:
            leaves.append(leaf)
    return leaves


def _collect_leaves(
    vectors: Vectors,
    chosen: NDArray[np.int32],
    plan: Plan,
    random: Any,
    lists: _Lists,
    threads: int,
    pool: Executor,
    progress: Progress,
) -> None:
    leaf_edges, collect = dispatch.cpu().leaf.leaf_edges(), dispatch.cpu().prune.collect()
    leaves = _leaves(chosen, plan, random)
    alpha = np.float32(plan.alpha)

    def edges_of(leaf: Numbers) -> tuple[Edges, Vectors]:
        ids = np.empty((leaf.size, plan.kept), dtype=np.uint32)
        distances = np.empty((leaf.size, plan.kept), dtype=np.float32)
        leaf_edges(vectors, leaf, plan.looked_at, alpha, ids, distances)
        return ids, distances

    for start in range(0, len(leaves), _PORTION):
        portion = leaves[start : start + _PORTION]
        found = list(pool.map(edges_of, portion))

        # Each thread fills the lists of its own nodes, leaf by leaf, so the order is always the same.
        def fill(part: tuple[int, int]) -> None:
            for leaf, (ids, distances) in zip(portion, found, strict=True):  # noqa: B023
                collect(leaf, ids, distances, *part, *lists.arrays)

        list(pool.map(fill, _ranges(len(vectors), threads)))
        progress(0.15 + 0.6 * (start + len(portion)) / len(leaves))
