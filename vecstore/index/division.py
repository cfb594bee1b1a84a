"""Which vectors are linked together where memory is short: shards that overlap, alike in size.

Each vector is a member of the two shards whose leaders are nearest. Vectors are sorted into *places*: by nearest
shard, then by second nearest. So a shard's members are one run of places for its own, and one from each other
shard, and are read without a search.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vecstore.index import build
from vecstore.index.build import Numbers, Plan, Vectors
from vecstore.index.scratch import Rows, portions
from vecstore.kernels import dispatch

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint32]

_SHARDS_A_VECTOR = 2
# With two shards everybody would be in both.
_FEWEST = 3
# Shards are planned to be this full: a sample tells their sizes to a few per cent.
_PLANNED = 0.92
# Rounds in which leaders find the middles of their cells; then rounds in which cells become alike in size, by steps
# that are a share of what lies between a vector's nearest leader and its third. Measured: 1% apart in the end.
_ROUNDS = 8
_BALANCINGS, _STEP, _STEP_SHRINKS = 20, 0.5, 0.95
# A vector that finds its nearest shards full looks at so many.
_CHOICES = 8
# Of the memory there is, what tables of distances within leaves may take, and how many threads make one each at least.
_LEAF_SHARE, _LEAVES_AT_ONCE = 8, 2
# Bytes a record whatever shard is built: its label, the row in its place, the node of its place, and what the caller
# knows of it. What portions and small tables take, or the share of a small memory that may be left to them. And the
# system's part of what was given back.
_HELD_A_ROW, _HELD, _HELD_SHARE, _WASTED = 16, 16 << 20, 4, 1.06
_SAMPLE_SHARE, _SORT_SHARE = 8, 16
# A shard of fewer leaves, or smaller ones, is no graph.
_LEAST_LEAF, _LEAST_LEAVES = 32, 3


@dataclass(frozen=True)
class Source:
    """The vectors to be linked, by row: as they are stored, and how they become vectors."""

    # What the row's node is called: the first word of its row of edges.
    labels: Words
    width: int
    row_bytes: int
    read: Callable[[int, int], Bytes]
    prepare: Callable[[Bytes], Vectors]

    @property
    def count(self) -> int:
        return self.labels.size

    def portions(self) -> Iterator[tuple[int, int]]:
        # Preparing takes float64 for a while.
        return portions(0, self.count, self.row_bytes + 16 * self.width)


@dataclass(frozen=True)
class Limits:
    """What fits into the memory there is."""

    # Members of a shard.
    room: int
    plan: Plan
    threads: int
    # Bytes of vectors that are sorted at a time: runs of those that belong together are as long as this is large.
    sorted_bytes: int

    @classmethod
    def of(cls, memory: int, count: int, width: int, plan: Plan, threads: int) -> Limits | None:
        """None where so little fits that no graph would come of it.

        They depend on the threads in nothing that the graph depends on.
        """
        for_leaf = memory // _LEAF_SHARE // _LEAVES_AT_ONCE
        largest = int(math.sqrt((3 * width) ** 2 / 4 + for_leaf / 4) - 3 * width / 2)
        if largest < plan.largest_leaf:
            plan = replace(plan, largest_leaf=largest, leaf=min(plan.leaf, largest * 2 // 3))
        left = memory - min(_HELD, memory // _HELD_SHARE) - _HELD_A_ROW * count - memory // _LEAF_SHARE
        room = int(left / _WASTED / build.memory_a_vector(plan, width))
        if plan.leaf < _LEAST_LEAF or room < _LEAST_LEAVES * plan.leaf:
            return None
        threads = max(1, min(threads, memory // _LEAF_SHARE // leaf_bytes(plan, width)))
        return cls(room, plan, threads, memory // _SORT_SHARE)

    @staticmethod
    def sample(memory: int, width: int) -> int:
        """How many vectors a sample may have: shards are chosen by it while little else is held."""
        return memory // _SAMPLE_SHARE // (4 * width)


def leaf_bytes(plan: Plan, width: int) -> int:
    """What a thread takes for the largest leaf: all distances, and the vectors in two forms."""
    return plan.largest_leaf * (4 * plan.largest_leaf + 12 * width)


def _nearest(
    vectors: Vectors, leaders: Vectors, wanted: int, threads: int, pool: Executor
) -> NDArray[np.int32]:
    """The nearest leaders of each vector, nearest first."""
    chosen = np.empty((len(vectors), min(wanted, len(leaders))), dtype=np.int32)
    nearest = dispatch.cpu().gram.nearest()
    bounds = np.linspace(0, len(vectors), 4 * threads + 1).astype(int).tolist()
    list(pool.map(lambda part: nearest(vectors, leaders, *part, chosen), pairwise(bounds)))
    return chosen


def _means(vectors: Vectors, cells: NDArray[np.int32], leaders: Vectors) -> Vectors:
    """The middle of each leader's cell; a leader without one stays where it is."""
    order = np.argsort(cells, kind="stable")
    sizes = np.bincount(cells, minlength=len(leaders))
    used = np.flatnonzero(sizes)
    starts = (np.cumsum(sizes) - sizes)[used]
    middles: Vectors = leaders.copy()
    middles[used] = np.add.reduceat(vectors[order], starts, axis=0) / sizes[used, None]
    return middles


def choose_leaders(sample: Vectors, count: int, limits: Limits, pool: Executor) -> Vectors:
    """Leaders whose shards come out alike in size, in an order in which near ones follow one another.

    They have one coordinate more than vectors, where a vector has nought. A leader of a large cell is moved away
    along it, which moves all its borders inwards at once.
    """
    threads = limits.threads
    wanted = max(_FEWEST, math.ceil(_SHARDS_A_VECTOR * count / (_PLANNED * limits.room)))
    if len(sample) < wanted:
        raise ValueError(f"{len(sample)} vectors are too few to choose {wanted} leaders from")
    chosen = np.random.default_rng(limits.plan.seed).permutation(len(sample))[:wanted]
    leaders = sample[np.sort(chosen)]
    for _ in range(_ROUNDS):
        leaders = _means(sample, _nearest(sample, leaders, 1, threads, pool)[:, 0], leaders)
    chain = np.arange(wanted, dtype=np.int64)
    dispatch.cpu().order.chain_cells()(leaders, chain, np.array([0, wanted]), 0, 1)
    leaders = leaders[chain]
    near = _nearest(sample, leaders, _FEWEST, threads, pool)
    # Vectors of which no square fits are left as they fall.
    with np.errstate(over="ignore", invalid="ignore"):
        gaps = _apart(sample, leaders[near[:, -1]]) - _apart(sample, leaders[near[:, 0]])
        step = _STEP * float(np.nan_to_num(np.mean(gaps), posinf=0.0))
    raised, away = _raised(sample), np.zeros(wanted)
    for _ in range(_BALANCINGS):
        lifted = np.concatenate((leaders, np.sqrt(away - away.min())[:, None]), axis=1, dtype=np.float32)
        found = _nearest(raised, lifted, _SHARDS_A_VECTOR, threads, pool)
        sizes = np.bincount(found.ravel(), minlength=wanted)
        away += step * np.clip(np.log(np.maximum(sizes, 1) / sizes.mean()), -1, 1)
        step *= _STEP_SHRINKS
    return lifted


def _apart(some: Vectors, others: Vectors) -> NDArray[np.float32]:
    difference = some - others
    squares: NDArray[np.float32] = np.einsum("ij,ij->i", difference, difference)
    return squares


def _raised(vectors: Vectors) -> Vectors:
    """The vectors with one more coordinate, nought."""
    raised = np.zeros((len(vectors), vectors.shape[1] + 1), dtype=np.float32)
    raised[:, :-1] = vectors
    return raised


def assign(source: Source, leaders: Vectors, limits: Limits, pool: Executor) -> NDArray[np.uint16]:
    """The two shards of each row, the nearest first; no shard gets more members than it has room for."""
    chosen = np.empty((source.count, _SHARDS_A_VECTOR), dtype=np.uint16)
    sizes = np.zeros(len(leaders), dtype=np.int64)
    for low, high in source.portions():
        vectors = _raised(source.prepare(source.read(low, high)))
        near = _nearest(vectors, leaders, _CHOICES, limits.threads, pool)
        chosen[low:high] = _with_room(near, sizes, limits.room)
    return chosen


def _with_room(near: NDArray[np.int32], sizes: Numbers, room: int) -> NDArray[np.int32]:
    """The first two choices of each row that have room; ``sizes`` grow by what was given away."""
    taken: NDArray[np.int32] = near[:, :_SHARDS_A_VECTOR].copy()
    sizes += np.bincount(taken.ravel(), minlength=sizes.size)
    for shard in np.flatnonzero(sizes > room).tolist():
        rows, columns = np.nonzero(taken == shard)
        # Rows move to where there is room already, so no shard that was looked at fills again.
        for row, column in zip(rows[::-1].tolist(), columns[::-1].tolist(), strict=True):
            if sizes[shard] <= room:
                break
            other = _next(near[row], taken[row], sizes, room)
            if other >= 0:
                taken[row, column] = other
                sizes[other] += 1
                sizes[shard] -= 1
    return taken


def _next(near: NDArray[np.int32], taken: NDArray[np.int32], sizes: Numbers, room: int) -> int:
    """The nearest shard with room that a row has not taken yet, or else the emptiest; -1 if there is none."""
    free = sizes < room
    free[taken] = False
    for other in near.tolist():
        if free[other]:
            return int(other)
    return int(np.argmin(np.where(free, sizes, room))) if free.any() else -1


class Places:
    """Where rows lie once they are sorted, and which node each place becomes."""

    def __init__(self, rows: Words, starts: Numbers, shards: int) -> None:
        # The row in each place; and where the members begin that shard p has in common with s, at p * shards + s.
        self.rows, self._starts, self.shards = rows, starts, shards
        self.nodes: Words = np.empty(rows.size, dtype=np.uint32)

    @classmethod
    def of(cls, chosen: NDArray[np.uint16], shards: int) -> Places:
        pairs = chosen[:, 0].astype(np.uint32) * np.uint32(shards) + chosen[:, 1]
        rows = np.argsort(pairs, kind="stable").astype(np.uint32)
        sizes = np.bincount(pairs, minlength=shards * shards)
        return cls(rows, np.r_[0, np.cumsum(sizes)], shards)

    def own(self, shard: int) -> tuple[int, int]:
        """The places of those whose nearest shard this is; they become the nodes of the same numbers."""
        return int(self._starts[shard * self.shards]), int(self._starts[(shard + 1) * self.shards])

    def guests(self, shard: int) -> list[tuple[int, int]]:
        """The places of those whose second shard this is, a run from each shard that has such."""
        runs = [self._starts[(p * self.shards + shard) :][:2].tolist() for p in range(self.shards)]
        return [(low, high) for low, high in runs if high > low]

    def forget_rows(self) -> None:
        """Nobody asks for them once all shards are linked, and they take memory."""
        self.rows = self.rows[:0].copy()


def sort_vectors(source: Source, places: Places, vectors: Rows, limits: Limits) -> None:
    """Every stored vector to its place."""
    place_of = np.empty(source.count, dtype=np.uint32)
    place_of[places.rows] = np.arange(source.count, dtype=np.uint32)
    for low, high in portions(0, source.count, source.row_bytes, limits.sorted_bytes):
        mine = place_of[low:high].astype(np.int64)
        order = np.argsort(mine)
        mine, stored = mine[order], source.read(low, high)[order]
        cuts = np.flatnonzero(np.diff(mine) != 1) + 1
        for first, last in pairwise([0, *cuts.tolist(), high - low]):
            vectors.write(int(mine[first]), stored[first:last])
