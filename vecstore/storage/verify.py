"""Checks everything in a state: every block, and that the tables agree with each other."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import msgpack
import numpy as np

from vecstore.errors import CorruptionError
from vecstore.storage import indexing, keys
from vecstore.storage.blocks import damaged, payload
from vecstore.storage.graph import (
    NONE,
    Nodes,
    graph_rows,
    nodes_of_slots,
    read_edges,
    read_index,
)
from vecstore.storage.graph import batches as node_batches
from vecstore.storage.header import GraphHeader
from vecstore.storage.ids import lookup
from vecstore.storage.linked import linked_mask
from vecstore.storage.slots import live_mask, read_slots
from vecstore.storage.state import Checked, State
from vecstore.storage.store import batches, hashes_of, live_slots, read_stored
from vecstore.storage.sums import wrong_sums
from vecstore.types import VerifyReport

_BATCH = 10_000
_MOST_PROBLEMS = 100


def verify(state: State) -> VerifyReport:
    """Read the whole file, believing nothing that was checked before."""
    state.checked = Checked()
    problems: list[str] = []
    blocks = 0
    for kind in keys.KINDS:
        try:
            numbers = np.flatnonzero(state.present(kind)).tolist()
        except CorruptionError as error:
            problems.append(str(error))
            continue
        for number in numbers:
            blocks += 1
            try:
                state.block(kind, number)
            except CorruptionError as error:
                problems.append(str(error))
    problems += _unlisted(state)
    records = 0
    if not problems:
        for problem, count in itertools.chain(
            _disagreements(state), _sum_problems(state), _graph_problems(state), _index_problems(state)
        ):
            records += count
            if problem is not None:
                problems.append(problem)
            if len(problems) >= _MOST_PROBLEMS:
                break
    return VerifyReport(blocks=blocks, records=records, problems=tuple(problems[:_MOST_PROBLEMS]))


def _unlisted(state: State) -> Iterator[str]:
    """Blocks that are in the file and in no catalog: space lost, unless a staged write left them."""
    if state.header.staged:
        return
    try:
        present = {kind: state.present(kind) for kind in keys.KINDS}
        for leaf in state.pages.leaves():
            for order in leaf.keys.tolist():
                kind, number = order >> 32, order & keys.MAX_NUMBER
                if kind in (keys.HEADER, keys.CATALOG):
                    continue
                if kind not in present or number >= present[kind].size or not present[kind][number]:
                    yield f"block {keys.NAMES.get(kind, kind)} {number} is in the file, and nothing names it"
    except CorruptionError as error:
        yield str(error)


def _disagreements(state: State) -> Iterator[tuple[str | None, int]]:
    """(problem, records looked at): every live slot has its record, its row and its id."""
    try:
        live_mask(state)
        present = state.present(keys.VECTORS)
        entries_of_ids = sum(
            int.from_bytes(state.block(keys.IDS, number)[28:32].tobytes(), "little")
            for number in np.flatnonzero(state.present(keys.IDS)).tolist()
        )
        if entries_of_ids != state.header.records:
            yield f"the table of ids has {entries_of_ids} entries for {state.header.records} records", 0
        for slots in batches(live_slots(state), _BATCH):
            entries = read_slots(state, slots)
            read_stored(state, entries)
            if not present[slots // state.layout.rows].all():
                yield "a live slot lies in a block of vectors that is missing", 0
            places, found = lookup(state, hashes_of(state, entries))
            reached = np.zeros(slots.size, dtype=bool)
            reached[places[found == slots[places]]] = True
            for slot in slots[~reached].tolist()[:10]:
                yield f"the record in slot {slot} cannot be found by its id", 0
            yield None, slots.size
    except CorruptionError as error:
        yield str(error), 0


def _sum_problems(state: State) -> Iterator[tuple[str | None, int]]:
    try:
        for number, problem in wrong_sums(state):
            yield f"block vectors {number} {problem}", 0
    except CorruptionError as error:
        yield str(error), 0


def _index_problems(state: State) -> Iterator[tuple[str | None, int]]:
    try:
        for problem in indexing.problems(state):
            yield problem, 0
    except CorruptionError as error:
        yield str(error), 0


def _graph_problems(state: State) -> Iterator[tuple[str | None, int]]:
    """The graph's blocks are all there, and no others; its rows name nodes and slots that there are."""
    graph = state.header.graph
    try:
        whole = True
        for kind in keys.GRAPH_KINDS:
            first, count = (0, 0) if graph is None else graph.blocks(state.layout)[kind]
            wanted = np.zeros(state.header.counts[kind], dtype=bool)
            wanted[first : first + count] = True
            present = state.present(kind)
            for number in np.flatnonzero(present & ~wanted)[:10].tolist():
                yield f"block {keys.NAMES[kind]} {number} is no part of the graph", 0
            for number in np.flatnonzero(wanted & ~present)[:10].tolist():
                whole = False
                yield str(damaged(kind, number, "it is missing")), 0
        if graph is None or not whole:
            return
        if not _is_map(read_index(state)):
            yield str(damaged(keys.INDEX, graph.index_first, "its parameters cannot be read")), 0
        for first, count in node_batches(graph.nodes, 4 * graph.degree):
            for node, problem in _row_problems(graph, first, graph_rows(state, first, count)[1]):
                block = graph.graph_first + node // state.layout.graph_rows(graph.degree)
                yield f"block graph {block} is wrong: node {node} {problem}", 0
        later = read_edges(state)
        wrong = (later >= graph.nodes).any(axis=1) | (later[:, 0] == later[:, 1])
        for place in np.flatnonzero(wrong)[:10].tolist():
            block = graph.edges_first + place // state.layout.pairs
            yield f"block edges {block} is wrong: it has an edge from {later[place, 0]} to {later[place, 1]}", 0
        yield from ((problem, 0) for problem in _link_problems(state, graph))
    except CorruptionError as error:
        yield str(error), 0


def _is_map(packed: bytes) -> bool:
    try:
        return isinstance(msgpack.unpackb(packed), dict)
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException):
        return False


def _row_problems(graph: GraphHeader, first: int, neighbors: Nodes) -> Iterator[tuple[int, str]]:
    """(node, problem) in these rows, one of each sort."""
    nodes = np.arange(first, first + len(neighbors))
    used = neighbors != NONE
    wrong = {
        "has a neighbour that does not exist": (used & (neighbors >= graph.nodes)).any(axis=1),
        "is its own neighbour": (neighbors == nodes[:, None]).any(axis=1),
        "has a neighbour behind the end of its row": (used[:, 1:] & ~used[:, :-1]).any(axis=1),
    }
    for problem, rows in wrong.items():
        if rows.any():
            yield int(nodes[np.argmax(rows)]), problem


def _link_problems(state: State, graph: GraphHeader) -> Iterator[str]:
    linked, nodes_of = linked_mask(state), nodes_of_slots(state)
    nodes = np.full(linked.size, NONE, dtype=np.uint32)
    nodes[: nodes_of.size] = nodes_of
    mine = np.flatnonzero(linked)
    _, firsts = np.unique(nodes[mine], return_index=True)
    again = np.ones(mine.size, dtype=bool)
    again[firsts] = False
    for slots, problem in (
        (mine[nodes[mine] == NONE], "is linked, and no node is its"),
        (mine[again & (nodes[mine] != NONE)], "has the node of another slot"),
        (np.flatnonzero(linked > live_mask(state)), "is linked, and not live"),
    ):
        if slots.size:
            number = int(slots[0]) // (state.layout.table_payload * 8)
            yield f"block linked {number} is wrong: slot {int(slots[0])} {problem}"
    last = graph.blocks(state.layout)[keys.LINKED][1] - 1
    bits = np.unpackbits(payload(state.block(keys.LINKED, last)), bitorder="little")
    if bits[graph.slots - last * state.layout.table_payload * 8 :].any():
        yield f"block linked {last} is wrong: it links slots behind those that there were"
