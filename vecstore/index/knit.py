"""Changing a graph in place: rows for new nodes, and rows that are mended where neighbours came or went.

Nothing here knows where rows and vectors are kept: callers give the ones asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vecstore.index.build import NONE, Edges, Plan, Vectors, candidates
from vecstore.kernels import dispatch

Nodes = NDArray[np.uint32]
Numbers = NDArray[np.int64]
VectorsOf = Callable[[Numbers], Vectors]

# Where a mended row may lead before it is pruned: its own neighbours and so many more.
_MORE = 113
# A dead neighbour gives way to so many of those that it led to. With all of them a row fills up with what is nearest, and
# walks take a twentieth longer.
_HEIRS = 6
# So many of the nearest are weighed against one another. A new node may fill its row, and leads to more than the builder
# would let it: with less, walks take a seventh longer after some rounds of replacement. A mended row is left some room,
# since edges that come later are walked along with it.
_WEIGHED, _NEW_ALPHA, _MENDED = 96, 1.3, 40
# Nodes of one batch find so many of each other.
_AMONG_LOOKED_AT, _AMONG_KEPT = 32, 12


# A line of the cache has places for so many edges that came later. There is room for half as many lines again as nodes, which
# costs nothing before they are used, and then for half as many again.
_LINE_WORDS, _PLACES, _LEAST_LINES, _MORE_LINES = 16, 7, 64, 1.5


def bytes_of_later(edges: int, nodes: int) -> int:
    """What chains of so many edges may take, each node's last line not being full."""
    return 4 * _LINE_WORDS * (edges // _PLACES + min(edges, nodes)) + 4 * nodes if edges else 0


@dataclass(frozen=True)
class Later:
    """Edges that came after the rows, in chains of lines: see the kernels' ``later``. Arrays have room for more."""

    lines: Nodes
    heads: NDArray[np.int32]
    used: Numbers
    # How many came before the first of them. A row's mark says how many there had been when it was written.
    origin: int = 0

    @property
    def nbytes(self) -> int:
        return 4 * _LINE_WORDS * int(self.used[0]) + self.heads.nbytes

    @classmethod
    def of(cls, edges: int, nodes: int, origin: int) -> Later:
        """None yet, with room for about so many edges of so many nodes."""
        lines = max(_LEAST_LINES, 2 * edges // _PLACES, int(_MORE_LINES * nodes)) if nodes else 0
        return cls(_empty_lines(lines), np.full(nodes, -1, dtype=np.int32), np.zeros(1, dtype=np.int64), origin)

    def added(self, pairs: Nodes, at: int, nodes: int) -> Later | None:
        """With these edges behind the first `at`; None if one names a node which is none.

        Walks may go on meanwhile: what they know is changed in no way that they see.
        """
        later = self if nodes <= self.heads.size else self._with_heads(nodes + nodes // 4)
        append, done = dispatch.cpu().later.append(), 0
        while done < len(pairs):
            placed = append(pairs[done:], at + done, nodes, later.heads, later.lines, later.used)
            if placed < 0:
                return None
            done += placed
            if done < len(pairs):
                later = later._with_lines(max(_LEAST_LINES, int(_MORE_LINES * len(later.lines))))
        return later

    def _with_heads(self, nodes: int) -> Later:
        heads = np.full(nodes, -1, dtype=np.int32)
        heads[: self.heads.size] = self.heads
        return replace(self, heads=heads, used=self.used.copy())

    def _with_lines(self, count: int) -> Later:
        lines, used = _empty_lines(count), int(self.used[0])
        lines[:used] = self.lines[:used]
        return replace(self, lines=lines, heads=self.heads.copy(), used=self.used.copy())


def _empty_lines(count: int) -> Nodes:
    """Each begins where a line of the cache does. The system gives no memory to those that are never written to."""
    plain = np.zeros((count + 1) * _LINE_WORDS, dtype=np.uint32)
    start = -plain.ctypes.data % (4 * _LINE_WORDS) // 4
    return plain[start : start + count * _LINE_WORDS].reshape(count, _LINE_WORDS)


NO_LATER = Later.of(0, 0, 0)


@dataclass(frozen=True)
class Weaver:
    """What all changes of one graph need."""

    plan: Plan
    # Prepared vectors of nodes, and rows: a mark and neighbours.
    vectors_of: VectorsOf
    rows_of: Callable[[Numbers], Nodes]
    threads: int
    pool: Executor
    # How many vectors are in memory at once.
    vectors_at_once: int

    def among(self, own: Vectors) -> tuple[Numbers, Nodes]:
        """(order, places): an order for new nodes, and those in it that each found near among them, nearest first.

        They are compared with one another where they are few, and come together in leaves where they are many.
        """
        count = len(own)
        if count > self.plan.leaf * self.plan.fanout:
            return candidates(own, self.plan, self.threads, self.pool)
        order = np.arange(count, dtype=np.int64)
        places = np.full((count, min(_AMONG_KEPT, count - 1)), NONE, dtype=np.uint32)
        if count > 1:
            distances = np.empty(places.shape, dtype=np.float32)
            leaf_edges, alpha = dispatch.cpu().leaf.leaf_edges(), np.float32(self.plan.alpha)
            leaf_edges(own, order, _AMONG_LOOKED_AT, alpha, places, distances)
        return order, places

    def join(self, nodes: Numbers, own: Vectors, near: Nodes, among: Nodes) -> tuple[Edges, Nodes]:
        """(rows, pairs): the neighbours of new nodes, and the edges that lead back to them.

        ``own`` are their vectors; ``near`` (n, c) the nodes that a search found near each and ``among`` the places of
        new nodes, both filled up with NONE.
        """
        names = np.where(among == NONE, NONE, nodes[np.minimum(among, len(nodes) - 1)]).astype(np.uint32)
        found = np.concatenate((near, names), axis=1)

        def vectors_of(wanted: Numbers) -> Vectors:
            places = np.minimum(np.searchsorted(nodes, wanted), nodes.size - 1)
            mine = nodes[places] == wanted
            vectors = np.empty((wanted.size, own.shape[1]), dtype=np.float32)
            vectors[mine] = own[places[mine]]
            vectors[~mine] = self.vectors_of(wanted[~mine])
            return vectors

        rows = self._chosen(nodes.astype(np.uint32), found, vectors_of, self.plan.degree, _NEW_ALPHA)
        used = rows != NONE
        targets = np.repeat(nodes.astype(np.uint32), used.sum(axis=1))
        return rows, np.stack((rows[used], targets), axis=1)

    def mend(self, nodes: Numbers, rows: Nodes, alive: NDArray[np.uint8], later: Later) -> tuple[Numbers, Edges]:
        """(places, neighbours) of those of these nodes' rows that are to be written anew."""
        lost = rows[:, 1:][(rows[:, 1:] != NONE)]
        dead_ids = np.unique(lost[alive[lost] == 0])
        dead_rows = self.rows_of(dead_ids.astype(np.int64))
        found = np.empty((len(rows), self.plan.degree + _MORE), dtype=np.uint32)
        sizes = np.empty(len(rows), dtype=np.int32)
        dispatch.cpu().knit.mend()(
            rows,
            nodes,
            alive,
            later.lines,
            later.heads,
            later.origin,
            _HEIRS,
            dead_ids,
            dead_rows,
            found,
            sizes,
        )
        changed = np.flatnonzero(sizes >= 0)
        result: Edges = found[changed][:, : self.plan.degree]
        crowded = np.flatnonzero(sizes[changed] > self.plan.degree)
        if crowded.size:
            owners = nodes[changed[crowded]].astype(np.uint32)
            most = min(_MENDED, self.plan.degree)
            result[crowded] = self._chosen(
                owners, found[changed[crowded]], self.vectors_of, most, self.plan.alpha
            )
        return changed, result

    def _chosen(
        self, owners: Nodes, candidates: Nodes, vectors_of: VectorsOf, most: int, alpha: float
    ) -> Edges:
        """Each owner's edges among its candidates, as many as these at most."""
        named = 1 + np.count_nonzero(candidates != NONE, axis=1).cumsum() + np.arange(len(owners))
        edges = np.empty((len(owners), self.plan.degree), dtype=np.uint32)
        start = 0
        while start < len(owners):
            done = int(named[start - 1]) if start else 0
            end = max(start + 1, int(np.searchsorted(named, done + self.vectors_at_once, side="right")))
            part = slice(start, end)
            everything, places = _numbered(np.concatenate((owners[part, None], candidates[part]), axis=1))
            among = np.where(places < 0, NONE, places).astype(np.uint32)[:, 1:]
            kept = self._pruned(vectors_of(everything), places[:, 0], among, most, alpha)
            names = everything.astype(np.uint32)
            edges[part] = np.where(kept == NONE, NONE, names[np.minimum(kept, len(names) - 1)])
            start = end
        return edges

    def _pruned(self, table: Vectors, owners: Numbers, candidates: Nodes, most: int, alpha: float) -> Edges:
        """The same, of rows of a table."""
        count, room = len(owners), min(_WEIGHED, candidates.shape[1])
        ids = np.empty((count, room), dtype=np.uint32)
        distances = np.empty((count, room), dtype=np.float32)
        counts = np.zeros(count, dtype=np.int32)
        edges = np.full((count, self.plan.degree), NONE, dtype=np.uint32)
        fewer = np.empty((count, most), dtype=np.uint32)
        kernels = dispatch.cpu()
        owners, candidates = np.ascontiguousarray(owners), np.ascontiguousarray(candidates)
        weigh, prune_all, slack = kernels.knit.weigh(), kernels.prune.prune_all(), np.float32(alpha)

        def part(bounds: tuple[int, int]) -> None:
            weigh(table, owners, candidates, *bounds, ids, distances, counts)
            prune_all(table, ids, distances, counts, slack, *bounds, fewer)

        cuts = np.linspace(0, count, min(count, 4 * self.threads) + 1).astype(int).tolist()
        list(self.pool.map(part, pairwise(cuts)))
        edges[:, : fewer.shape[1]] = fewer
        return edges


def _numbered(nodes: Nodes) -> tuple[Numbers, Numbers]:
    """(distinct nodes ascending, the place of each in them), with -1 for NONE."""
    distinct, places = np.unique(nodes, return_inverse=True)
    places = places.reshape(nodes.shape).astype(np.int64)
    if distinct.size and distinct[-1] == NONE:
        places[places == distinct.size - 1] = -1
        distinct = distinct[:-1]
    return distinct.astype(np.int64), places
