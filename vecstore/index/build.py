"""Building a graph: leaves of near vectors, edges within each, and a pruning of what comes together.

Each vector joins the leaves of its nearest leaders, so that leaves overlap. In a leaf all distances are one
table, made at the speed of a matrix product; no vector is searched for. After Vamana's pruning, edges are
offered in both directions and pruned again. The same seed gives the same graph, whatever the threads.
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore.index.steps import Edges, Leaves, Lists, Numbers, OnCpu, Progress, Steps, Vectors, ranges
from vecstore.kernels import dispatch

__all__ = [
    "NONE",
    "Edges",
    "Numbers",
    "Plan",
    "Progress",
    "Vectors",
    "arranged",
    "build",
    "candidates",
    "memory_a_vector",
]

NONE = np.uint32(0xFFFFFFFF)

# Numbers below this are sorted in time that grows with how many they are, and no quicker.
_SHORT = 1 << 16


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
    vectors: Vectors,
    plan: Plan,
    threads: int,
    pool: Executor,
    progress: Progress,
    steps: Steps | None = None,
) -> tuple[Numbers, Edges, Edges]:
    """(order, edges, entries): `order[node]` is the row of a node; edges and entries are in nodes.

    ``steps`` are done by the threads unless something else is to do them.
    """
    steps = OnCpu(threads, pool) if steps is None else steps
    count = len(vectors)
    random = np.random.default_rng(plan.seed)
    order, vectors, lists = _gathered(vectors, plan, random, threads, pool, progress, steps)
    edges = np.empty((count, plan.degree), dtype=np.uint32)
    steps.prune(vectors, lists, plan.alpha, edges)
    progress(0.85)
    steps.turn_round(edges, vectors, lists)
    steps.prune(vectors, lists, plan.alpha, edges)
    entries = np.sort(random.permutation(count)[: plan.entries]).astype(np.uint32)
    dispatch.cpu().order.connect()(edges, entries)
    progress(1.0)
    return order, edges, entries


def candidates(vectors: Vectors, plan: Plan, threads: int, pool: Executor) -> tuple[Numbers, Edges]:
    """(order, places): an order in which neighbours follow one another, and those in it that each one found near.

    Nearest first, filled up with NONE: what ``build`` makes edges of, for a caller who knows of other candidates too.
    """
    random, steps = np.random.default_rng(plan.seed), OnCpu(threads, pool)
    order, _, lists = _gathered(vectors, plan, random, threads, pool, lambda done: None, steps)
    places = lists.ids
    places[np.arange(places.shape[1]) >= lists.counts[:, None]] = NONE
    return order, places


def arranged(vectors: Vectors, order: Numbers, threads: int, pool: Executor) -> Vectors:
    """A copy in this order."""
    result = np.empty_like(vectors)

    def part(bounds: tuple[int, int]) -> None:
        # Every number of an order is a row's: a mode that looks for others would copy once more.
        np.take(vectors, order[slice(*bounds)], axis=0, out=result[slice(*bounds)], mode="clip")

    list(pool.map(part, ranges(len(order), threads)))
    return result


def memory_a_vector(plan: Plan, width: int) -> int:
    """Bytes that building takes for each vector: itself twice, its candidates and its edges."""
    return 8 * width + 8 * plan.candidates + 4 * plan.degree + 8 * plan.fanout + 40


def _gathered(
    vectors: Vectors,
    plan: Plan,
    random: Any,
    threads: int,
    pool: Executor,
    progress: Progress,
    steps: Steps,
) -> tuple[Numbers, Vectors, Lists]:
    """(order, vectors in that order, the candidates of each)."""
    leaders = _choose_leaders(vectors, plan, random)
    chosen = steps.nearest(vectors, leaders, min(plan.fanout, len(leaders)))
    progress(0.1)
    order = _node_order(vectors, steps.chain(leaders), chosen[:, 0], threads, pool)
    vectors, chosen = arranged(vectors, order, threads, pool), chosen[order]
    lists = Lists(len(vectors), plan.candidates)
    # Leaves are many numbers, which nobody holds once they were gone through.
    steps.collect(
        vectors, _leaves(chosen, plan, random), plan, lists, lambda share: progress(0.15 + 0.6 * share)
    )
    return order, vectors, lists


def _choose_leaders(vectors: Vectors, plan: Plan, random: Any) -> Vectors:
    count = len(vectors)
    wanted = min(count, max(1, round(count * plan.fanout / plan.leaf)))
    leaders: Vectors = vectors[np.sort(random.permutation(count)[:wanted])]
    return leaders


def _node_order(
    vectors: Vectors, chain: Numbers, cells: NDArray[np.int32], threads: int, pool: Executor
) -> Numbers:
    """Rows in an order in which neighbours follow one another: leaders in a chain, and each one's cell in a chain."""
    chain_cells = dispatch.cpu().order.chain_cells()
    rank = np.empty(chain.size, dtype=np.int64)
    rank[chain] = np.arange(chain.size)
    order, bounds = _sorted(rank[cells], chain.size)
    parts = ranges(chain.size, 8 * threads)
    list(pool.map(lambda part: chain_cells(vectors, order, bounds, *part), parts))
    return order


def _sorted(numbers: NDArray[Any], kinds: int) -> tuple[Numbers, Numbers]:
    """(order, bounds): where each number of those below `kinds` stands, in their order; and where the next begins."""
    short = numbers.astype(np.uint16) if kinds <= _SHORT else numbers
    order = np.argsort(short, kind="stable")
    bounds = np.zeros(kinds + 1, dtype=np.int64)
    np.cumsum(np.bincount(numbers, minlength=kinds), out=bounds[1:])
    return order, bounds


def _leaves(chosen: NDArray[np.int32], plan: Plan, random: Any) -> Leaves:
    """A leaf for each leader; leaves that are too large are cut by lot."""
    flat = chosen.ravel()
    places, bounds = _sorted(flat, int(flat.max()) + 1)
    ends = [0]
    for low, high in pairwise(bounds.tolist()):
        cuts = -(-(high - low) // plan.largest_leaf)
        if cuts > 1:
            parts = [np.sort(part) for part in np.array_split(random.permutation(places[low:high]), cuts)]
            places[low:high] = np.concatenate(parts)
            ends += (low + np.cumsum([part.size for part in parts])).tolist()
        elif cuts:
            ends.append(high)
    return Leaves(places, np.array(ends, dtype=np.int64), chosen.shape[1])
