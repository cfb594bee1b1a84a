"""The upkeep of a graph that is there, a bounded slice a commit: pending records are linked, and rows are swept.

The sweep goes round over all rows. It writes into a row the edges that came later, leads it past nodes whose records
are gone, and marks those nodes; one that it finds marked a round later leads nowhere any more, and is used again.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vecstore import config
from vecstore.index import build, space
from vecstore.index.build import NONE
from vecstore.index.calibrate import reach_of_list
from vecstore.index.knit import Nodes
from vecstore.index.walk import Walker
from vecstore.living import Living
from vecstore.query import exact
from vecstore.storage import growth
from vecstore.storage.linked import SWEPT_A_CHANGE, owe, pending_slots
from vecstore.storage.session import Session
from vecstore.storage.state import Numbers, graph_of
from vecstore.storage.vectors import read_rows

# A new node is searched for with a pool of this size, and so many of the nearest may become its neighbours. Nodes that come
# together by the ten thousand find most of theirs among themselves, as the builder's do.
_POOL, _CANDIDATES = 160, 96
_POOL_OF_MANY, _CANDIDATES_OF_MANY = 64, 48
# What linking many at once takes for each, beside what building does: candidates, twice.
_BESIDES = 2 * 4 * (_CANDIDATES_OF_MANY + build.Plan().candidates)
_MEMORY_SHARE = 4


def tend(session: Session, walker: Walker, mask: NDArray[np.uint8], threads: int, memory: int | None) -> bool:
    """Do one slice; the caller commits. The walker is that of the session's base, whose linked records the mask has."""
    pending = _slice(session, memory)
    # Once round is enough for all edges of one slice.
    owe(session, min(pending.size, -(-graph_of(session).nodes // SWEPT_A_CHANGE)))
    # What is read was there before: nothing that this session writes is read by it again.
    living = Living(session.base, walker.resident, mask, threads)
    owed = min(graph_of(session).owed, config.SWEPT_AT_ONCE)
    free = _sweep(session, living, owed) if owed else np.zeros(0, dtype=np.int64)
    if pending.size:
        _link(session, walker, living, pending, free)
    return bool(owed or pending.size)


def _slice(session: Session, memory: int | None) -> Numbers:
    """Pending records to be linked now: many at once cost less each."""
    pending = pending_slots(session)
    many = config.LINKED_MANY
    if memory is not None:
        a_record = build.memory_a_vector(build.Plan(), space.width(session.header.settings)) + _BESIDES
        many = min(many, memory // _MEMORY_SHARE // a_record)
    return pending[: many if min(pending.size, many) >= config.MANY_FROM else config.LINKED_AT_ONCE]


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


def _link(session: Session, walker: Walker, living: Living, slots: Numbers, free: Numbers) -> None:
    """Give the records in these slots nodes: free ones, and others behind the last. Neighbours get nodes that lie together."""
    rows = read_rows(session.base, slots)
    own = space.prepare_rows(living.settings, rows, living.resident.norm_limit)
    order, among = living.weaver.among(own)
    slots, rows, own = slots[order], rows[order], own[order]
    near = _near(walker, living, rows)
    last = graph_of(session).nodes
    fresh = np.arange(last, last + max(0, slots.size - free.size))
    nodes = np.concatenate((free[: slots.size], fresh))
    neighbors, later = living.weaver.join(nodes, own, near, among)
    growth.add_nodes(session, nodes, slots, neighbors, living.resident.codec.encode(own), later)


def _near(walker: Walker, living: Living, rows: NDArray[np.uint8]) -> Nodes:
    """The nodes near each of these rows, nearest first."""
    many = len(rows) > config.LINKED_AT_ONCE
    pool, candidates = (_POOL_OF_MANY, _CANDIDATES_OF_MANY) if many else (_POOL, _CANDIDATES)
    queries = space.as_queries(living.settings, rows)
    reach, threads = reach_of_list(candidates, pool), living.weaver.threads
    slots, _, sizes, _ = walker.search(queries, candidates, reach, living.mask, threads, exact.executor)
    found = np.full(slots.shape, NONE, dtype=np.uint32)
    given = np.arange(candidates) < sizes[:, None]
    found[given] = living.of_slots(slots[given])
    return found
