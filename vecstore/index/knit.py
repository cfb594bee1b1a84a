"""Changing a graph in place: rows for new nodes, and rows that are mended where neighbours came or went.

Nothing here knows where rows and vectors are kept: callers give the ones asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vecstore.index.build import Edges, Plan, Vectors
from vecstore.kernels import dispatch

Nodes = NDArray[np.uint32]
Numbers = NDArray[np.int64]
VectorsOf = Callable[[Numbers], Vectors]

NONE = np.uint32(0xFFFFFFFF)

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


@dataclass(frozen=True)
class Later:
    """Edges that came after the rows, as links of each node's chain: the next older one, and where this one leads."""

    links: Nodes
    heads: NDArray[np.int32]
    # How many came before the first of them. A row's mark says how many there had been when it was written.
    origin: int = 0

    @property
    def nbytes(self) -> int:
        return self.links.nbytes + self.heads.nbytes

    @classmethod
    def of(cls, edges: int, nodes: int, origin: int) -> Later:
        """Room for so many edges of so many nodes."""
        return cls(
            np.zeros((edges, 2), dtype=np.uint32),
            np.full(nodes, -1, dtype=np.int32),
            origin,
        )

    def grown(self, used: int, edges: int, nodes: int) -> Later:
        """A copy of the first edges that has room for more of them, and of nodes."""
        copy = Later.of(edges, nodes, self.origin)
        copy.links[:used] = self.links[:used]
        copy.heads[: self.heads.size] = self.heads
        return copy

    def add(self, pairs: Nodes, at: int, nodes: int) -> bool:
        """Append pairs behind the first `at`; False if one names a node which is none. Walks may go on meanwhile."""
        self.links[at : at + len(pairs)] = pairs
        return bool(dispatch.cpu().later.chain()(self.links, at, at + len(pairs), nodes, self.heads) < 0)


NO_LATER = Later(np.zeros((0, 2), np.uint32), np.zeros(0, np.int32))


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

    def join(self, nodes: Numbers, own: Vectors, near: Nodes) -> tuple[Edges, Nodes]:
        """(rows, pairs): the neighbours of new nodes, and the edges that lead back to them.

        ``own`` are their vectors; ``near`` (n, c) the nodes that a search found near each, filled up with NONE.
        """
        candidates = near
        if len(nodes) > 1:
            among = self._among(own)
            names = np.where(among == NONE, NONE, nodes[np.minimum(among, len(nodes) - 1)]).astype(np.uint32)
            candidates = np.concatenate((near, names), axis=1)

        def vectors_of(wanted: Numbers) -> Vectors:
            mine = np.isin(wanted, nodes)
            vectors = np.empty((wanted.size, own.shape[1]), dtype=np.float32)
            vectors[mine] = own[np.searchsorted(nodes, wanted[mine])]
            vectors[~mine] = self.vectors_of(wanted[~mine])
            return vectors

        rows = self._chosen(nodes.astype(np.uint32), candidates, vectors_of, self.plan.degree, _NEW_ALPHA)
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
            later.links,
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

    def _among(self, own: Vectors) -> Nodes:
        """Those that each new node finds near among the new ones."""
        ids = np.empty((len(own), min(_AMONG_KEPT, len(own) - 1)), dtype=np.uint32)
        distances = np.empty(ids.shape, dtype=np.float32)
        alpha = np.float32(self.plan.alpha)
        members = np.arange(len(own), dtype=np.int64)
        dispatch.cpu().leaf.leaf_edges()(own, members, _AMONG_LOOKED_AT, alpha, ids, distances)
        return ids

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
