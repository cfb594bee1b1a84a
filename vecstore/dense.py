"""How a collection lies in a dense copy: near records beside each other, and a graph of live nodes alone.

A walk then reads rows, vectors and records that share their pages.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import msgpack
import numpy as np
from numpy.typing import NDArray

from vecstore.index.knit import NONE, Nodes
from vecstore.index.walk import Resident
from vecstore.living import Living
from vecstore.storage import graph as stored
from vecstore.storage import growth
from vecstore.storage.replace import Arranged
from vecstore.storage.session import Session
from vecstore.storage.slots import live_mask
from vecstore.storage.state import Numbers, State, graph_of

# A node is in its place where one of its nearest neighbours is at most so many nodes away.
_NEAREST, _AWAY = 8, 64


def arranged(base: State, resident: Resident, mask: NDArray[np.uint8], threads: int) -> Arranged | None:
    """The copy's order, and what writes its graph; None where no node is alive. ``mask`` has live, linked slots."""
    living = Living(base, resident, mask, threads)
    if not living.alive.any():
        return None
    order = _in_place(living)
    others = np.flatnonzero(live_mask(base) > mask)
    return Arranged(np.concatenate((living.slots[order], others)), _Copied(living, order).write)


def _in_place(living: Living) -> Numbers:
    """Live nodes in an order in which near ones follow one another, as they do where all were built together.

    Those that came later, into free nodes or behind the last, go where one of their neighbours is that does lie so.
    """
    nodes = np.flatnonzero(living.alive)
    places = np.full(living.alive.size, -1.0)
    near = np.empty((nodes.size, _NEAREST), dtype=np.int64)
    for part in _parts(living, nodes.size):
        rows = growth.rows_of(living.base, nodes[part])[:, 1 : 1 + _NEAREST].astype(np.int64)
        near[part, : rows.shape[1]], near[part, rows.shape[1] :] = rows, NONE
    known = (near != NONE) & (living.alive[np.where(near == NONE, 0, near)] > 0)
    settled = (known & (np.abs(near - nodes[:, None]) <= _AWAY)).any(axis=1)
    places[nodes[settled]] = nodes[settled]
    lost = nodes[~settled]
    hosts = np.where(known[~settled], near[~settled], 0)
    hosted = known[~settled] & (places[hosts] >= 0)
    host = hosts[np.arange(lost.size), np.argmax(hosted, axis=1)]
    places[lost] = np.where(hosted.any(axis=1), places[host] + 0.5, lost)
    order: Numbers = nodes[np.argsort(places[nodes], kind="stable")]
    return order


def _parts(living: Living, count: int) -> Iterator[slice]:
    for first, some in stored.batches(count, 4 * (1 + graph_of(living.base).degree)):
        yield slice(first, first + some)


@dataclass(frozen=True)
class _Copied:
    living: Living
    order: Numbers

    def write(self, session: Session) -> None:
        """Write the graph of the copy, whose first slots are those of its nodes."""
        living, order = self.living, self.order
        graph, resident = graph_of(living.base), living.resident
        numbers = np.full(living.alive.size + 1, NONE, dtype=np.uint32)
        numbers[order] = np.arange(order.size)

        def renumbered(nodes: Nodes) -> Nodes:
            return numbers[np.minimum(nodes, living.alive.size)]

        entries = np.unique(renumbered(self._entries()))
        content = msgpack.unpackb(stored.read_index(living.base)) | {"entries": entries.astype("<u4").tobytes()}
        written = stored.write_graph(
            session,
            slots=np.arange(order.size),
            neighbors=(renumbered(living.mended(order[part])[0][:, 1:]) for part in _parts(living, order.size)),
            codes=(resident.codes[order[part]] for part in _parts(living, order.size)),
            index=msgpack.packb(content),
            degree=graph.degree,
            code_bytes=graph.code_bytes,
            codec=graph.codec,
            entries=entries.size,
            seed=graph.seed,
            built=graph.built,
        )
        session.describe_graph(replace(written, changes=graph.changes))

    def _entries(self) -> Nodes:
        """Where walks begin: a dead node gives way to the first live one of those that it leads to."""
        living, entries = self.living, self.living.resident.entries
        rows = growth.rows_of(living.base, entries.astype(np.int64))
        rows[:, 0] = entries
        alive = (rows != NONE) & (living.alive[np.where(rows == NONE, 0, rows)] > 0)
        found: Nodes = rows[np.arange(len(rows)), np.argmax(alive, axis=1)][alive.any(axis=1)]
        return found if found.size else self.order[:1].astype(np.uint32)
