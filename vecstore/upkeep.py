"""The upkeep of a graph that is there, a bounded slice a commit: pending records are linked, and rows are swept.

The sweep goes round over all rows. It writes into a row the edges that came later, leads it past nodes whose records
are gone, and marks those nodes; one that it finds marked a round later leads nowhere any more, and is used again.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vecstore import config
from vecstore.index import space
from vecstore.index.calibrate import reach_of_list
from vecstore.index.knit import NONE, Nodes
from vecstore.index.walk import Walker
from vecstore.living import Living
from vecstore.query import exact
from vecstore.storage import growth
from vecstore.storage.linked import owe, pending_slots
from vecstore.storage.session import Session
from vecstore.storage.state import Numbers, graph_of
from vecstore.storage.vectors import read_rows

# A new node is searched for with a pool of this size, and so many of the nearest may become its neighbours.
_POOL, _CANDIDATES = 160, 96


def tend(session: Session, walker: Walker, mask: NDArray[np.uint8], threads: int) -> bool:
    """Do one slice; the caller commits. The walker is that of the session's base, whose linked records the mask has."""
    pending = pending_slots(session)[: config.LINKED_AT_ONCE]
    owe(session, pending.size)
    # What is read was there before: nothing that this session writes is read by it again.
    living = Living(session.base, walker.resident, mask, threads)
    owed = min(graph_of(session).owed, config.SWEPT_AT_ONCE)
    free = _sweep(session, living, owed) if owed else np.zeros(0, dtype=np.int64)
    if pending.size:
        rows = read_rows(session.base, pending)
        _link(session, living, pending, rows, _near(walker, living, rows, mask, threads), free)
    return bool(owed or pending.size)


def _sweep(session: Session, living: Living, count: int) -> Numbers:
    """Go over about so many rows; gives nodes that can be used again, ascending."""
    graph = graph_of(session)
    per_block = session.layout.graph_rows(graph.degree)
    last = min(graph.nodes, graph.swept + -(-count // per_block) * per_block)
    nodes = np.arange(graph.swept, last, dtype=np.int64)
    rows, changed = living.mended(nodes)
    dead, marked = living.alive[nodes] == 0, rows[:, 0] == NONE
    rewritten = np.union1d(changed, np.flatnonzero(dead & ~marked))
    if rewritten.size:
        growth.put_rows(session, nodes[rewritten], rows[rewritten, 1:], dead[rewritten])
    growth.swept_to(session, last)
    free: Numbers = nodes[dead & marked]
    return free


def _link(
    session: Session, living: Living, slots: Numbers, rows: NDArray[np.uint8], near: Nodes, free: Numbers
) -> None:
    """Give the records in these slots nodes: free ones, and others behind the last."""
    last = graph_of(session).nodes
    fresh = np.arange(last, last + max(0, slots.size - free.size))
    nodes = np.concatenate((free[: slots.size], fresh))
    own = space.prepare_rows(living.settings, rows, living.resident.norm_limit)
    neighbors, later = living.weaver.join(nodes, own, near)
    growth.add_nodes(session, nodes, slots, neighbors, living.resident.codec.encode(own), later)


def _near(
    walker: Walker, living: Living, rows: NDArray[np.uint8], mask: NDArray[np.uint8], threads: int
) -> Nodes:
    """The nodes near each of these rows, nearest first."""
    queries = space.as_queries(living.settings, rows)
    reach = reach_of_list(_CANDIDATES, _POOL)
    slots, _, sizes, _ = walker.search(queries, _CANDIDATES, reach, mask, threads, exact.executor)
    found = np.full(slots.shape, NONE, dtype=np.uint32)
    given = np.arange(_CANDIDATES) < sizes[:, None]
    found[given] = living.of_slots(slots[given])
    return found
