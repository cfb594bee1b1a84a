"""Changes in the graph that is there: nodes that are added or used again, rows that are mended, edges that come later."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vecstore.storage import keys
from vecstore.storage.blocks import HEAD_BYTES, Bytes, count_of, damaged, payload, set_count
from vecstore.storage.graph import (
    NONE,
    Nodes,
    add_edges,
    read_edges,
    read_nodes,
    write_nodes,
)
from vecstore.storage.linked import SWEPT_A_CHANGE, linked_mask, set_linked
from vecstore.storage.session import Session
from vecstore.storage.state import Blocks, Numbers, State, gather, graph_of


def rows_of(state: State, nodes: Numbers) -> Nodes:
    """The rows of these nodes, (n, 1 + degree): a mark and neighbours, as ``graph_rows`` has them."""
    graph = graph_of(state)
    if not nodes.size:
        return np.zeros((0, 1 + graph.degree), dtype=np.uint32)
    per_block, width = state.layout.graph_rows(graph.degree), 4 * (1 + graph.degree)
    rows: Nodes = _gathered(state, keys.GRAPH, graph.graph_first, per_block, width, nodes).view("<u4").astype(np.uint32)
    foreign = ((rows[:, 1:] >= graph.nodes) & (rows[:, 1:] != NONE)).any(axis=1)
    if foreign.any():
        number = graph.graph_first + int(nodes[np.argmax(foreign)]) // per_block
        raise damaged(keys.GRAPH, number, "it names a node that does not exist")
    return rows


def codes_of(state: State, nodes: Numbers) -> Bytes:
    """The codes of these nodes, (n, code_bytes)."""
    graph = graph_of(state)
    per_block = state.layout.code_rows(graph.code_bytes)
    return _gathered(state, keys.CODES, graph.codes_first, per_block, graph.code_bytes, nodes)


def _gathered(state: State, kind: int, first: int, per_block: int, width: int, nodes: Numbers) -> Bytes:
    distinct, inverse = np.unique(nodes // per_block, return_inverse=True)
    data, starts = state.file_rows(kind, first + distinct)
    return gather(data, starts[inverse] + HEAD_BYTES + nodes % per_block * width, width)


def put_rows(session: Session, nodes: Numbers, neighbors: Nodes, dead: NDArray[np.bool_] | None = None) -> None:
    """Write the rows of these nodes, ascending; those behind the last make new blocks.

    They have all edges that came later up to now, and are marked where their nodes are dead.
    """
    graph = graph_of(session)
    rows = np.empty((nodes.size, 1 + graph.degree), dtype=np.uint32)
    rows[:, 0], rows[:, 1:] = graph.edges_origin + graph.edges, neighbors
    if dead is not None:
        rows[dead, 0] = NONE
    per_block = session.layout.graph_rows(graph.degree)
    _put(session, keys.GRAPH, graph.graph_first, per_block, nodes, rows.astype("<u4").view(np.uint8))


def add_nodes(
    session: Session, nodes: Numbers, slots: Numbers, neighbors: Nodes, codes: Bytes, later: Nodes
) -> None:
    """Link the records in these slots as these nodes, ascending: such as were found free, or that follow the last.

    ``later`` are edges to them, pairs of two nodes.
    """
    graph = graph_of(session)
    count = max(graph.nodes, int(nodes[-1]) + 1)
    session.describe_graph(
        replace(
            graph,
            nodes=count,
            slots=session.header.slots,
            appended=graph.appended + count - graph.nodes,
            changes=graph.changes + nodes.size,
        )
    )
    put_rows(session, nodes, neighbors)
    per_block = session.layout.code_rows(graph.code_bytes)
    _put(session, keys.CODES, graph.codes_first, per_block, nodes, codes)
    _name(session, slots, nodes.astype(np.uint32))
    set_linked(session, slots)
    add_edges(session, later)


def nodes_to_move(blocks: Blocks, slots: Numbers) -> Nodes:
    """The nodes of records that will go to other slots with their vectors; NONE for what has none."""
    graph = blocks.header.graph
    nodes = np.full(slots.size, NONE, dtype=np.uint32)
    if graph is not None and graph.named:
        linked = np.flatnonzero(linked_mask(blocks)[slots] > 0)
        nodes[linked] = _named(blocks, slots[linked])
    return nodes


def move_nodes(session: Session, nodes: Nodes, slots: Numbers) -> None:
    """These slots' records brought their nodes along."""
    mine = np.flatnonzero(nodes != NONE)
    if not mine.size:
        return
    graph = graph_of(session)
    # They were counted as gone, and are not.
    owed, changes = graph.owed - SWEPT_A_CHANGE * mine.size, graph.changes - mine.size
    session.describe_graph(
        replace(graph, slots=session.header.slots, owed=max(0, owed), changes=max(0, changes))
    )
    _name(session, slots[mine], nodes[mine])
    set_linked(session, slots[mine])


def _end_of_cycle(session: Session) -> None:
    """A sweep has met all rows: edges that were there when it began are in them, and are dropped."""
    graph = graph_of(session)
    rest = read_edges(session, graph.edges_before)
    first, count = graph.blocks(session.layout)[keys.EDGES]
    for number in range(first, first + count):
        session.free(keys.EDGES, number)
    blocks = -(-len(rest) // session.layout.pairs)
    session.describe_graph(
        replace(
            graph,
            edges_first=_gap(session, keys.EDGES, blocks),
            edges=0,
            edges_before=0,
            edges_origin=graph.edges_origin + graph.edges_before,
            swept=0,
        )
    )
    add_edges(session, rest)
    session.describe_graph(replace(graph_of(session), edges_before=len(rest)))


def swept_to(session: Session, node: int) -> None:
    """Note how far the sweep has come."""
    graph = graph_of(session)
    owed = max(0, graph.owed - (node - graph.swept))
    session.describe_graph(replace(graph, swept=node, owed=owed))
    if node >= graph.nodes:
        _end_of_cycle(session)


def _gap(session: Session, kind: int, amount: int) -> int:
    """The first of so many numbers in a row that no block has; nothing is staged under them."""
    present = np.flatnonzero(session.present(kind))
    starts = np.r_[0, present + 1]
    ends = np.r_[present, starts[-1] + amount]
    return int(starts[np.argmax(ends - starts >= amount)])


def _name(session: Session, slots: Numbers, nodes: Nodes) -> None:
    """Note which nodes these slots' are."""
    per_block = session.layout.slot_nodes
    ascending = np.argsort(slots, kind="stable")
    slots, nodes = slots[ascending], nodes[ascending]
    for number, part in _runs(slots // per_block):
        exists = session.exists(keys.NODES, number)
        named = np.full(per_block, NONE, dtype=np.uint32)
        if exists:
            known = payload(session.block(keys.NODES, number)).view("<u4")
            named[: min(known.size, per_block)] = known[:per_block]
        named[slots[part] - number * per_block] = nodes[part]
        block = session.edit(keys.NODES, number) if exists else session.create(keys.NODES, number)[1]
        payload(block).view("<u4")[:per_block] = named
        set_count(block, per_block)
    _fill_table(session)


def _fill_table(session: Session) -> None:
    """Every slot that the graph counts has its place in the table."""
    graph = graph_of(session)
    empty = np.full(0, NONE, dtype=np.uint32)
    for number in range(graph.blocks(session.layout)[keys.NODES][1]):
        if not session.exists(keys.NODES, number):
            write_nodes(session, empty, [number])


def _named(blocks: Blocks, slots: Numbers) -> Nodes:
    """The nodes of these slots."""
    per_block = blocks.layout.slot_nodes
    distinct, inverse = np.unique(slots // per_block, return_inverse=True)
    nodes: Nodes = read_nodes(blocks, distinct).reshape(distinct.size, per_block)[inverse, slots % per_block]
    return nodes


def _put(session: Session, kind: int, first: int, per_block: int, places: Numbers, rows: Bytes) -> None:
    """Put rows of one width into blocks, at these ascending places of all of them."""
    width = rows.shape[1]
    for number, part in _runs(places // per_block):
        inside = places[part] - number * per_block
        exists = session.exists(kind, first + number)
        block = session.edit(kind, first + number) if exists else session.create(kind, first + number)[1]
        table = payload(block)[: per_block * width].reshape(per_block, width)
        table[inside] = rows[part]
        set_count(block, max(count_of(block), int(inside[-1]) + 1))


def _runs(numbers: Numbers) -> Iterator[tuple[int, slice]]:
    """(number, its part) for each run of one number."""
    starts = (
        np.flatnonzero(np.r_[True, numbers[1:] != numbers[:-1]]) if numbers.size else np.zeros(0, np.int64)
    )
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), numbers.size], strict=True):
        yield int(numbers[start]), slice(start, end)
