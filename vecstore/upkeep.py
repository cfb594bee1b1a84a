"""The upkeep of a graph that is there, a bounded slice a commit: pending records are linked, and rows are swept.

The sweep goes round over all rows. It writes into a row the edges that came later, leads it past nodes whose records
are gone, and marks those nodes; one that it finds marked a round later leads nowhere any more, and is used again.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vecstore import config
from vecstore.index import build, space
from vecstore.index.calibrate import reach_of_list
from vecstore.index.knit import NONE, Nodes, Weaver
from vecstore.index.walk import Walker
from vecstore.query import exact
from vecstore.storage import growth
from vecstore.storage.header import GraphHeader
from vecstore.storage.linked import owe, pending_slots
from vecstore.storage.session import Session
from vecstore.storage.state import Numbers
from vecstore.storage.vectors import read_rows

# A new node is searched for with a pool of this size, and so many of the nearest may become its neighbours.
_POOL, _CANDIDATES = 160, 96
# Vectors of nodes that are weighed against one another: so many bytes at once, which is soon read again and again.
_VECTOR_BYTES = 16 << 20


def tend(session: Session, walker: Walker, mask: NDArray[np.uint8], threads: int) -> bool:
    """Do one slice; the caller commits. The walker is that of the session's base, whose linked records the mask has."""
    pending = pending_slots(session)[: config.LINKED_AT_ONCE]
    owe(session, pending.size)
    work = _Work(session, walker, mask, threads)
    owed = min(work.graph.owed, config.SWEPT_AT_ONCE)
    free = work.sweep(owed) if owed else np.zeros(0, dtype=np.int64)
    if pending.size:
        work.link(pending, free)
    return bool(owed or pending.size)


class _Work:
    def __init__(self, session: Session, walker: Walker, mask: NDArray[np.uint8], threads: int) -> None:
        # What is read was there before: nothing that this session writes is read by it again.
        self.base = session.base
        self.session, self.walker, self.mask, self.threads = session, walker, mask, threads
        self.settings = session.header.settings
        resident = walker.resident
        self.slots = resident.slots.astype(np.int64)
        known = np.flatnonzero(self.slots < mask.size)
        self.alive = np.zeros(self.slots.size, dtype=np.uint8)
        self.alive[known] = mask[self.slots[known]]
        self.weaver = Weaver(
            plan=replace(build.Plan(seed=self.graph.seed), degree=self.graph.degree),
            vectors_of=self._vectors_of,
            rows_of=lambda nodes: growth.rows_of(self.base, nodes),
            threads=threads,
            pool=exact.executor(threads),
            vectors_at_once=_VECTOR_BYTES // (4 * space.width(self.settings)),
        )

    @property
    def graph(self) -> GraphHeader:
        graph = self.session.header.graph
        assert graph is not None
        return graph

    def sweep(self, count: int) -> Numbers:
        """Go over about so many rows; gives nodes that can be used again, ascending."""
        per_block = self.session.layout.graph_rows(self.graph.degree)
        first = self.graph.swept
        last = min(self.graph.nodes, first + -(-count // per_block) * per_block)
        nodes = np.arange(first, last, dtype=np.int64)
        rows = growth.rows_of(self.base, nodes)
        resident = self.walker.resident
        changed, neighbors = self.weaver.mend(first, rows, self.alive, resident.later)
        dead, marked = self.alive[first:last] == 0, rows[:, 0] == NONE
        rows[changed - first, 1:] = neighbors
        rewritten = np.union1d(changed, nodes[dead & ~marked])
        if rewritten.size:
            places = rewritten - first
            growth.put_rows(self.session, rewritten, rows[places, 1:], dead[places])
        growth.swept_to(self.session, last)
        free: Numbers = nodes[dead & marked]
        return free

    def link(self, slots: Numbers, free: Numbers) -> None:
        """Give these records nodes: free ones, and others behind the last."""
        rows = read_rows(self.base, slots)
        near = self._search(rows)
        resident = self.walker.resident
        own = space.prepare_rows(self.settings, rows, resident.norm_limit)
        fresh = np.arange(self.graph.nodes, self.graph.nodes + max(0, slots.size - free.size))
        nodes = np.concatenate((free[: slots.size], fresh))
        neighbors, later = self.weaver.join(nodes, own, near)
        codes = resident.codec.encode(own)
        growth.add_nodes(self.session, nodes, slots, neighbors, codes, later)

    def _search(self, rows: NDArray[np.uint8]) -> Nodes:
        """The nodes near each of these rows, nearest first."""
        queries = space.as_queries(self.settings, rows)
        reach = reach_of_list(_CANDIDATES, _POOL)
        slots, _, sizes, _ = self.walker.search(
            queries, _CANDIDATES, reach, self.mask, self.threads, exact.executor
        )
        found = np.full(slots.shape, NONE, dtype=np.uint32)
        given = np.arange(_CANDIDATES) < sizes[:, None]
        found[given] = self._nodes_of(slots[given])
        return found

    def _nodes_of(self, slots: Numbers) -> Nodes:
        nodes = np.full(self.mask.size, NONE, dtype=np.uint32)
        alive = np.flatnonzero(self.alive)
        nodes[self.slots[alive]] = alive
        return nodes[slots]

    def _vectors_of(self, nodes: Numbers) -> build.Vectors:
        rows = read_rows(self.base, self.slots[nodes])
        return space.prepare_rows(self.settings, rows, self.walker.resident.norm_limit)
