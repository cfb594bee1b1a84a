"""The nodes of a snapshot's graph with who of them is alive, and a weaver that reads their rows and vectors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vecstore.index import build, space
from vecstore.index.build import NONE
from vecstore.index.knit import Nodes, Weaver
from vecstore.index.walk import Resident
from vecstore.query import exact
from vecstore.storage import growth
from vecstore.storage.state import Numbers, State, graph_of
from vecstore.storage.vectors import read_rows

# Vectors of nodes that are weighed against one another: so many bytes at once, which is soon read again and again.
_VECTOR_BYTES = 16 << 20


class Living:
    def __init__(self, base: State, resident: Resident, mask: NDArray[np.uint8], threads: int) -> None:
        """``mask`` has the slots of live, linked records."""
        self.base, self.resident, self.mask = base, resident, mask
        self.settings = base.header.settings
        self.slots = resident.slots
        known = np.flatnonzero(self.slots < mask.size)
        self.alive = np.zeros(self.slots.size, dtype=np.uint8)
        self.alive[known] = mask[self.slots[known]]
        graph = graph_of(base)
        self.weaver = Weaver(
            plan=replace(build.Plan(seed=graph.seed), degree=graph.degree),
            vectors_of=self._vectors_of,
            rows_of=lambda nodes: growth.rows_of(base, nodes),
            threads=threads,
            pool=exact.executor(threads),
            vectors_at_once=_VECTOR_BYTES // (4 * space.width(self.settings)),
        )

    def mended(self, nodes: Numbers) -> tuple[Nodes, Numbers]:
        """The rows of these nodes, led past dead ones and along later edges; and the places of those that changed."""
        rows = growth.rows_of(self.base, nodes)
        changed, neighbors = self.weaver.mend(nodes, rows, self.alive, self.resident.later)
        rows[changed, 1:] = neighbors
        return rows, changed

    def of_slots(self, slots: Numbers) -> Nodes:
        """The nodes of these slots, NONE for one without."""
        alive = np.flatnonzero(self.alive)
        nodes = np.full(self.base.header.slots, NONE, dtype=np.uint32)
        nodes[self.slots[alive]] = alive
        return nodes[slots]

    def _vectors_of(self, nodes: Numbers) -> build.Vectors:
        rows = read_rows(self.base, self.slots[nodes].astype(np.int64))
        return space.prepare_rows(self.settings, rows, self.resident.norm_limit)
