"""The graph in the file: a row and a code for each node, each slot's node, and the edges that came later.

A graph that was built is written as a whole, in one commit. It takes block numbers that no block has, so it can be
staged ahead of that commit while the old one is read; the next one takes the old one's numbers again. What changes
in it afterwards is written by ``growth``.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vecstore.storage import keys
from vecstore.storage.blocks import HEAD, HEAD_BYTES, MAGIC, Bytes, damaged, new_block, payload, set_count
from vecstore.storage.header import GraphHeader
from vecstore.storage.linked import linked_mask, set_exactly_linked
from vecstore.storage.session import Session
from vecstore.storage.state import Blocks, Numbers, gather, graph_of

Nodes = NDArray[np.uint32]
Row = TypeVar("Row", np.uint32, np.uint8)

# No neighbour: what a row is filled up with. As a slot: the node's record is gone for good.
NONE = 0xFFFFFFFF

# What is written ahead of the commit.
_STAGED = (keys.GRAPH, keys.CODES, keys.INDEX)

# Blocks are made this many bytes at a time.
_FILL_BYTES = 2 << 20


# -- writing


def write_graph(
    session: Session,
    *,
    slots: Nodes | Numbers,
    neighbors: Nodes | Iterable[Nodes],
    codes: Bytes | Iterable[Bytes],
    index: bytes,
    degree: int,
    code_bytes: int,
    codec: str,
    entries: int,
    seed: int,
    built: int | None = None,
    linked: NDArray[np.bool_] | None = None,
    marks: Nodes | None = None,
) -> GraphHeader:
    """Put this graph in the place of the one that is there.

    Node i is the record in ``slots[i]``, or nobody's where that is NONE. ``neighbors`` (n, degree) and
    ``codes`` (n, code_bytes) are arrays or come in chunks of any length, in the order of the nodes; an
    iterator may read through the session, and asks anew for each chunk where blocks lie. ``linked`` says
    which nodes stand for their slot's present vector; without it all do whose slot is live. ``index`` is a
    msgpack map of whatever the search needs besides, and must not speak of slots: a copy moves them.
    ``marks`` are those of rows that were read: see ``graph_rows``.
    """
    layout, nodes = session.layout, int(slots.size)
    owners = slots.astype(np.uint32)
    if not nodes or not index:
        raise ValueError("a graph has nodes and parameters")
    if not 1 <= degree <= 255 or code_bytes % 16 or not 16 <= code_bytes <= layout.data_payload:
        raise ValueError(f"rows of {degree} neighbours with codes of {code_bytes} bytes cannot be stored")
    if not 1 <= entries <= nodes:
        raise ValueError(f"{entries} entries of {nodes} nodes")
    drop_graph(session)
    graph = GraphHeader(
        nodes=nodes,
        degree=degree,
        code_bytes=code_bytes,
        codec=codec,
        entries=entries,
        index_bytes=len(index),
        built=session.header.records if built is None else built,
        slots=session.header.slots,
        seed=seed,
        stamp=secrets.randbits(64),
        named=1,
    )
    firsts = {
        kind: session.free_numbers(kind, count)
        for kind, (_, count) in graph.blocks(layout).items()
        if kind in _STAGED
    }
    graph = replace(
        graph,
        graph_first=firsts[keys.GRAPH],
        codes_first=firsts[keys.CODES],
        index_first=firsts[keys.INDEX],
    )
    _write_rows(session, graph, np.where(owners == NONE, owners, 0) if marks is None else marks, _chunks(neighbors))
    _write_codes(session, graph, _chunks(codes))
    write_index(session, graph, index)
    session.describe_graph(graph)
    stands = owners != NONE if linked is None else linked & (owners != NONE)
    set_exactly_linked(session, owners[stands])
    nodes_of = np.full(graph.slots, NONE, dtype=np.uint32)
    nodes_of[owners[stands]] = np.flatnonzero(stands)
    write_nodes(session, nodes_of, range(graph.blocks(layout)[keys.NODES][1]))
    return graph


def copy_graph(blocks: Blocks, session: Session, moved: NDArray[np.uint32]) -> None:
    """Write the graph of one file into another, in which slot s is ``moved[s]``, or NONE where it is gone.

    Nodes keep their numbers, those of records that are gone as well. A graph of none else is left out.
    """
    graph, linked = blocks.header.graph, linked_mask(blocks)
    if graph is None or not linked.any():
        return
    parts = list(batches(graph.nodes, 4 * graph.degree + graph.code_bytes))
    owners = graph_slots(blocks)
    known = owners < moved.size
    slots = np.full(graph.nodes, NONE, dtype=np.uint32)
    slots[known] = moved[owners[known]]
    copied = write_graph(
        session,
        slots=slots,
        neighbors=(graph_rows(blocks, *part)[1] for part in parts),
        codes=(code_rows(blocks, *part) for part in parts),
        index=read_index(blocks),
        degree=graph.degree,
        code_bytes=graph.code_bytes,
        codec=graph.codec,
        entries=graph.entries,
        seed=graph.seed,
        built=graph.built,
        marks=np.concatenate([graph_rows(blocks, *part)[0] for part in parts]),
    )
    later = read_edges(blocks)
    session.describe_graph(replace(
        copied,
        edges_first=session.free_numbers(keys.EDGES, -(-len(later) // session.layout.pairs)),
        edges_before=graph.edges_before,
        edges_origin=graph.edges_origin,
        swept=graph.swept,
        owed=graph.owed,
        appended=graph.appended,
        changes=graph.changes,
    ))
    add_edges(session, later)


def drop_graph(session: Session) -> None:
    """Leave the collection without a graph; all records are pending then."""
    for kind in keys.GRAPH_KINDS:
        session.free_all(kind)
    session.describe_graph(None)
    session.cache.pop("linked", None)


def _write_rows(session: Session, graph: GraphHeader, marks: Nodes, chunks: Iterator[Nodes]) -> None:
    per_block = session.layout.graph_rows(graph.degree)
    width = 4 * (1 + graph.degree)
    done = 0
    for part in _batches(session, keys.GRAPH, chunks, graph.nodes, graph.degree, per_block):
        rows = np.empty((len(part), 1 + graph.degree), dtype="<u4")
        rows[:, 0], rows[:, 1:] = marks[done : done + len(part)], part
        number = graph.graph_first + done // per_block
        _fill(session, keys.GRAPH, number, rows.view(np.uint8).reshape(len(part), width), per_block)
        done += len(part)


def _write_codes(session: Session, graph: GraphHeader, chunks: Iterator[Bytes]) -> None:
    per_block = session.layout.code_rows(graph.code_bytes)
    done = 0
    for part in _batches(session, keys.CODES, chunks, graph.nodes, graph.code_bytes, per_block):
        _fill(session, keys.CODES, graph.codes_first + done // per_block, part, per_block)
        done += len(part)


def write_nodes(session: Session, nodes_of: Nodes, numbers: Iterable[int]) -> None:
    """These blocks of the table that says which node each slot's is."""
    per_block, length = session.layout.slot_nodes, session.layout.length(keys.NODES)
    for number in numbers:
        block = session.put(new_block(keys.NODES, number, length), keys.NODES, number)
        part = nodes_of[number * per_block : (number + 1) * per_block]
        words = payload(block).view("<u4")[:per_block]
        words[: part.size], words[part.size :] = part, NONE
        set_count(block, per_block)


def write_index(session: Session, graph: GraphHeader, index: bytes) -> None:
    piece = session.layout.data_payload
    for place in range(graph.blocks(session.layout)[keys.INDEX][1]):
        number = graph.index_first + place
        block = new_block(keys.INDEX, number, session.layout.length(keys.INDEX))
        part = np.frombuffer(index, dtype=np.uint8)[place * piece : (place + 1) * piece]
        payload(block)[: part.size] = part
        set_count(block, part.size)
        session.put(block, keys.INDEX, number)
    session.stage()


def replace_index(session: Session, index: bytes) -> None:
    """Put other parameters in the place of the graph's, which were measured anew.

    In a graph of an older format they had the slots of all nodes behind them; a table takes these over.
    """
    old = graph_of(session)
    nodes_of = None if old.named else nodes_of_slots(session)
    graph = replace(old, index_bytes=len(index), changes=0, named=1)
    if nodes_of is not None:  # rows began with their slots, which are not to be taken for edges that had come
        graph = replace(graph, edges_origin=graph.slots)
    first, count = graph.blocks(session.layout)[keys.INDEX]
    for number in range(first + count, first + old.blocks(session.layout)[keys.INDEX][1]):
        session.free(keys.INDEX, number)
    session.describe_graph(graph)
    write_index(session, graph, index)
    if nodes_of is not None:
        write_nodes(session, nodes_of, range(graph.blocks(session.layout)[keys.NODES][1]))


def _chunks(rows: NDArray[Row] | Iterable[NDArray[Row]]) -> Iterator[NDArray[Row]]:
    return iter([rows] if isinstance(rows, np.ndarray) else rows)


def _batches(
    session: Session,
    kind: int,
    chunks: Iterator[NDArray[Row]],
    total: int,
    width: int,
    per_block: int,
) -> Iterator[NDArray[Row]]:
    """Rows as they came in chunks, in batches that fill blocks; only the last one may end within a block."""
    size = max(1, _FILL_BYTES // session.layout.length(kind)) * per_block
    held: list[NDArray[Row]] = []
    done = waiting = 0
    for chunk in chunks:
        if chunk.ndim != 2 or chunk.shape[1] != width:
            raise ValueError(f"rows of {width} numbers were announced, and {chunk.shape} came")
        while len(chunk):
            part, chunk = chunk[: size - waiting], chunk[size - waiting :]
            held.append(part)
            waiting += len(part)
            if waiting == size:
                yield held[0] if len(held) == 1 else np.concatenate(held)
                done, waiting, held = done + size, 0, []
    if waiting:
        yield np.concatenate(held)
    if done + waiting != total:
        raise ValueError(f"{total} rows were announced, and {done + waiting} came")


def _fill(session: Session, kind: int, number: int, rows: Bytes, per_block: int) -> None:
    """Many new blocks, numbered from this one, in a few large copies."""
    width, length = rows.shape[1], session.layout.length(kind)
    whole = len(rows) // per_block
    count = -(-len(rows) // per_block)
    blocks = np.zeros((count, length), dtype=np.uint8)
    inner = blocks[:, HEAD_BYTES : HEAD_BYTES + per_block * width]
    inner[:whole] = rows[: whole * per_block].reshape(whole, per_block * width)
    rest = rows[whole * per_block :]
    if len(rest):
        inner[whole, : rest.size] = rest.reshape(-1)
    heads = blocks[:, :HEAD_BYTES].view(HEAD)[:, 0]
    heads["magic"], heads["kind"], heads["length"] = MAGIC, kind, length
    heads["count"] = per_block
    heads["number"] = np.arange(number, number + count)
    if len(rest):
        heads["count"][whole] = len(rest)
    for place, block in enumerate(blocks):
        session.put(block, kind, number + place)
    session.stage()


# -- reading


def read_index(blocks: Blocks) -> bytes:
    """The graph's parameters, as they were given."""
    return _read_bytes(blocks, 0, graph_of(blocks).index_bytes).tobytes()


def nodes_of_slots(blocks: Blocks) -> Nodes:
    """The node of each slot; NONE for one that never had one. What is not linked may name one that it had before."""
    graph = graph_of(blocks)
    if not graph.named:
        found = np.full(graph.slots, NONE, dtype=np.uint32)
        owners = _read_bytes(blocks, graph.index_bytes, 4 * graph.nodes).view("<u4")
        known = np.flatnonzero(owners < graph.slots)
        found[owners[known]] = known
        return found
    count = graph.blocks(blocks.layout)[keys.NODES][1]
    return read_nodes(blocks, np.arange(count))[: graph.slots]


def read_nodes(blocks: Blocks, numbers: Numbers) -> Nodes:
    """What these blocks say, in a row; each number in it is a node's or NONE."""
    parts = [payload(blocks.block(keys.NODES, number)).view("<u4")[: blocks.layout.slot_nodes] for number in numbers.tolist()]
    found = np.concatenate(parts).astype(np.uint32) if parts else np.zeros(0, dtype=np.uint32)
    wrong = (found >= graph_of(blocks).nodes) & (found != NONE)
    if wrong.any():
        number = int(numbers[int(np.argmax(wrong)) // blocks.layout.slot_nodes])
        raise damaged(keys.NODES, number, "it names a node that does not exist")
    return found


def graph_slots(blocks: Blocks) -> Nodes:
    """The slot of each node; NONE where its record is gone."""
    return owners_of(nodes_of_slots(blocks), linked_mask(blocks), graph_of(blocks).nodes)


def owners_of(nodes_of: Nodes, linked: NDArray[np.uint8], nodes: int) -> Nodes:
    """The linked slot of each node."""
    slots = np.full(nodes, NONE, dtype=np.uint32)
    mine = np.flatnonzero((linked[: nodes_of.size] > 0) & (nodes_of != NONE))
    slots[nodes_of[mine]] = mine
    return slots


def _read_bytes(blocks: Blocks, start: int, length: int) -> Bytes:
    """A stretch of what the index blocks hold together."""
    first, piece = graph_of(blocks).index_first, blocks.layout.data_payload
    numbers = range(first + start // piece, first - (-(start + length) // piece))
    parts = [payload(blocks.block(keys.INDEX, number)) for number in numbers]
    found: Bytes = np.concatenate(parts)[start % piece : start % piece + length].copy()
    return found


def graph_rows(blocks: Blocks, first: int, count: int) -> tuple[Nodes, Nodes]:
    """(marks, neighbours (count, degree)) of these nodes.

    A mark tells how many edges of all that ever came later had come when the row was written; it is NONE once a
    sweep found the node dead.
    """
    graph = graph_of(blocks)
    per_block = blocks.layout.graph_rows(graph.degree)
    rows = _read(blocks, keys.GRAPH, graph.graph_first, 4 * (1 + graph.degree), per_block, first, count)
    words = rows.view("<u4")
    return words[:, 0].astype(np.uint32), words[:, 1:].astype(np.uint32)


def code_rows(blocks: Blocks, first: int, count: int) -> Bytes:
    """The codes of these nodes, (count, code_bytes)."""
    graph = graph_of(blocks)
    per_block = blocks.layout.code_rows(graph.code_bytes)
    return _read(blocks, keys.CODES, graph.codes_first, graph.code_bytes, per_block, first, count)


def batches(nodes: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    """(first, count): so many nodes, as many at a time as fit into a bounded memory."""
    size = max(1, _FILL_BYTES // row_bytes)
    for first in range(0, nodes, size):
        yield first, min(size, nodes - first)


def _read(blocks: Blocks, kind: int, block: int, width: int, per_block: int, first: int, count: int) -> Bytes:
    graph = graph_of(blocks)
    if not 0 <= first <= first + count <= graph.nodes:
        raise ValueError(f"nodes {first} to {first + count} of {graph.nodes}")
    numbers = np.arange(first // per_block, -(-(first + count) // per_block), dtype=np.int64) + block
    skip = first % per_block
    found = blocks.file_rows(kind, numbers)
    if found is not None:
        data, starts = found
        whole = gather(data, starts + HEAD_BYTES, per_block * width)
    else:
        parts = [payload(blocks.block(kind, number))[: per_block * width] for number in numbers.tolist()]
        whole = np.stack(parts) if parts else np.zeros((0, per_block * width), dtype=np.uint8)
    rows: Bytes = whole.reshape(-1, width)[skip : skip + count]
    return rows


# -- edges that came later


def read_edges(blocks: Blocks, first: int = 0) -> Nodes:
    """The pairs (node, other) from this one on, (n, 2), in the order they came."""
    graph, per_block = graph_of(blocks), blocks.layout.pairs
    start = first // per_block
    numbers = range(graph.edges_first + start, graph.edges_first + graph.blocks(blocks.layout)[keys.EDGES][1])
    parts = [payload(blocks.block(keys.EDGES, number)).view("<u4")[: 2 * per_block] for number in numbers]
    if not parts:
        return np.zeros((0, 2), dtype=np.uint32)
    found: Nodes = np.concatenate(parts).reshape(-1, 2)[first - start * per_block : graph.edges - start * per_block]
    return found.astype(np.uint32)


def add_edges(session: Session, pairs: Nodes) -> None:
    """Append pairs to those that there are."""
    graph, per_block = graph_of(session), session.layout.pairs
    done = 0
    while done < len(pairs):
        place, inside = divmod(graph.edges + done, per_block)
        number = graph.edges_first + place
        block = session.edit(keys.EDGES, number) if inside else session.create(keys.EDGES, number)[1]
        part = pairs[done : done + per_block - inside]
        payload(block).view("<u4")[2 * inside : 2 * (inside + len(part))] = part.reshape(-1)
        set_count(block, inside + len(part))
        done += len(part)
    session.describe_graph(replace(graph, edges=graph.edges + len(pairs)))
