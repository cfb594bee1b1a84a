"""How a collection lies in a dense copy: near records beside each other, and a graph of live nodes alone.

A walk then reads rows, vectors and records that share their pages.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import msgpack
import numpy as np

from vecstore.index.build import NONE
from vecstore.index.knit import Nodes
from vecstore.living import Living
from vecstore.resident import without_codes
from vecstore.storage import graph as stored
from vecstore.storage import growth
from vecstore.storage.linked import linked_mask
from vecstore.storage.replace import Arranged
from vecstore.storage.session import Session
from vecstore.storage.slots import live_mask
from vecstore.storage.state import Numbers, State, graph_of

# A node is in its place where one of its nearest neighbours is at most so many nodes away.
_NEAREST, _AWAY = 8, 64


def arranged(base: State, threads: int) -> Arranged | None:
    """The copy's order, and what writes its graph; None where no node is alive."""
    linked = live_mask(base) & linked_mask(base)
    living = Living(base, without_codes(base), linked, threads)
    if not living.alive.any():
        return None
    order = _in_place(living)
    others = np.flatnonzero(live_mask(base) > linked)
    return Arranged(np.concatenate((living.slots[order].astype(np.int64), others)), _Copied(living, order).write)


def _in_place(living: Living) -> Nodes:
    """Live nodes in an order in which near ones follow one another, as they do where all were built together.

    Those that came later, into free nodes or behind the last, go where one of their neighbours is that does lie so.
    """
    count = living.alive.size
    settled = np.zeros(count, dtype=np.bool_)
    places = np.arange(count, dtype=np.float64)
    for part in _parts(living, count):
        nodes = np.arange(part.start, part.stop)
        near = _near(living, nodes)
        settled[part] = ((near >= 0) & (np.abs(near - nodes[:, None]) <= _AWAY)).any(axis=1)
    settled &= living.alive > 0
    lost = np.flatnonzero((living.alive > 0) & ~settled)
    for part in _parts(living, lost.size):
        near = _near(living, lost[part])
        hosted = (near >= 0) & settled[near]
        hosts = near[np.arange(len(near)), np.argmax(hosted, axis=1)]
        places[lost[part]] = np.where(hosted.any(axis=1), hosts + 0.5, lost[part])
    alive = np.flatnonzero(living.alive)
    return alive[np.argsort(places[alive], kind="stable")].astype(np.uint32)


def _near(living: Living, nodes: Numbers) -> Numbers:
    """The first live neighbours of these nodes; -1 for none."""
    near = growth.rows_of(living.base, nodes)[:, 1 : 1 + _NEAREST]
    used = (near != NONE) & (living.alive[np.where(near == NONE, 0, near)] > 0)
    return np.where(used, near.astype(np.int64), -1)


def _parts(living: Living, count: int) -> Iterator[slice]:
    for first, some in stored.batches(count, 4 * (1 + graph_of(living.base).degree)):
        yield slice(first, first + some)


@dataclass(frozen=True)
class _Copied:
    living: Living
    order: Nodes

    def write(self, session: Session) -> None:
        """Write the graph of the copy, whose first slots are those of its nodes."""
        living, order = self.living, self.order
        graph = graph_of(living.base)
        numbers = np.full(living.alive.size + 1, NONE, dtype=np.uint32)
        numbers[order] = np.arange(order.size)

        def renumbered(nodes: Nodes) -> Nodes:
            return numbers[np.minimum(nodes, living.alive.size)]

        entries = np.unique(renumbered(self._entries()))
        content = msgpack.unpackb(stored.read_index(living.base)) | {"entries": entries.astype("<u4").tobytes()}
        written = stored.write_graph(
            session,
            slots=np.arange(order.size, dtype=np.uint32),
            neighbors=(renumbered(living.mended(nodes)[0][:, 1:]) for nodes in self._nodes()),
            codes=(growth.codes_of(living.base, nodes) for nodes in self._nodes()),
            index=msgpack.packb(content),
            degree=graph.degree,
            code_bytes=graph.code_bytes,
            codec=graph.codec,
            entries=entries.size,
            seed=graph.seed,
            built=graph.built,
        )
        # What walks find in such a graph was not measured yet; unless it is the very one that was built.
        same = order.size == graph.nodes and not graph.edges_origin + graph.edges
        session.describe_graph(replace(written, changes=graph.changes if same else order.size))

    def _nodes(self) -> Iterator[Numbers]:
        for part in _parts(self.living, self.order.size):
            yield self.order[part].astype(np.int64)

    def _entries(self) -> Nodes:
        """Where walks begin: a dead node gives way to the first live one of those that it leads to."""
        living, entries = self.living, self.living.resident.entries
        rows = growth.rows_of(living.base, entries.astype(np.int64))
        rows[:, 0] = entries
        alive = (rows != NONE) & (living.alive[np.where(rows == NONE, 0, rows)] > 0)
        found: Nodes = rows[np.arange(len(rows)), np.argmax(alive, axis=1)][alive.any(axis=1)]
        return found if found.size else self.order[:1]
