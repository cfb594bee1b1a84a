"""The graph in the file: a row and a code for each node, and one bit a slot that says what is linked.

It is replaced as a whole, in one commit. The new one takes block numbers that no block has, so it can be
staged ahead of that commit while the old one is read; the next one takes the old one's numbers again.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vecstore.storage import keys
from vecstore.storage.blocks import HEAD, HEAD_BYTES, MAGIC, Bytes, new_block, payload, set_count
from vecstore.storage.header import GraphHeader
from vecstore.storage.session import Session
from vecstore.storage.slots import live_mask
from vecstore.storage.state import Blocks, Numbers, gather

Nodes = NDArray[np.uint32]
Row = TypeVar("Row", np.uint32, np.uint8)

# No neighbour: what a row is filled up with. As a slot: the node's record is gone for good.
NONE = 0xFFFFFFFF

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
) -> GraphHeader:
    """Put this graph in the place of the one that is there.

    Node i is the record in ``slots[i]``, or nobody's where that is NONE. ``neighbors`` (n, degree) and
    ``codes`` (n, code_bytes) are arrays or come in chunks of any length, in the order of the nodes; an
    iterator may read through the session, and asks anew for each chunk where blocks lie. ``linked`` says
    which nodes stand for their slot's present vector; without it all do whose slot is live. ``index`` is a
    msgpack map of whatever the search needs besides, and must not speak of slots: a copy moves them.
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
    )
    firsts = {
        kind: session.free_numbers(kind, count)
        for kind, (_, count) in graph.blocks(layout).items()
        if kind != keys.LINKED
    }
    graph = replace(
        graph,
        graph_first=firsts[keys.GRAPH],
        codes_first=firsts[keys.CODES],
        index_first=firsts[keys.INDEX],
    )
    _write_rows(session, graph, owners, _chunks(neighbors))
    _write_codes(session, graph, _chunks(codes))
    _write_index(session, graph, index + owners.astype("<u4").tobytes())
    session.header.graph = graph
    _link(session, owners if linked is None else owners[linked])
    return graph


def copy_graph(blocks: Blocks, session: Session, moved: NDArray[np.uint32]) -> None:
    """Write the graph of one file into another, in which slot s is ``moved[s]``, or NONE where it is gone.

    Nodes keep their numbers, those of records that are gone as well. A graph of none else is left out.
    """
    graph, linked = blocks.header.graph, linked_mask(blocks)
    if graph is None or not linked.any():
        return
    parts = list(batches(graph, 4 * graph.degree + graph.code_bytes))
    owners = graph_slots(blocks)
    known = owners < moved.size
    slots = np.full(graph.nodes, NONE, dtype=np.uint32)
    slots[known] = moved[owners[known]]
    stands = np.zeros(graph.nodes, dtype=bool)
    stands[known] = linked[owners[known]] > 0
    write_graph(
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
        linked=stands,
    )


def drop_graph(session: Session) -> None:
    """Leave the collection without a graph; all records are pending then."""
    for kind in keys.GRAPH_KINDS:
        session.free_all(kind)
    session.header.graph = None
    session.cache.pop("linked", None)


def _write_rows(session: Session, graph: GraphHeader, slots: Nodes, chunks: Iterator[Nodes]) -> None:
    per_block = session.layout.graph_rows(graph.degree)
    width = 4 * (1 + graph.degree)
    done = 0
    for part in _batches(session, keys.GRAPH, chunks, graph.nodes, graph.degree, per_block):
        rows = np.empty((len(part), 1 + graph.degree), dtype="<u4")
        rows[:, 0], rows[:, 1:] = slots[done : done + len(part)], part
        number = graph.graph_first + done // per_block
        _fill(session, keys.GRAPH, number, rows.view(np.uint8).reshape(len(part), width), per_block)
        done += len(part)


def _write_codes(session: Session, graph: GraphHeader, chunks: Iterator[Bytes]) -> None:
    per_block = session.layout.code_rows(graph.code_bytes)
    done = 0
    for part in _batches(session, keys.CODES, chunks, graph.nodes, graph.code_bytes, per_block):
        _fill(session, keys.CODES, graph.codes_first + done // per_block, part, per_block)
        done += len(part)


def _write_index(session: Session, graph: GraphHeader, index: bytes) -> None:
    piece = session.layout.data_payload
    for place in range(graph.blocks(session.layout)[keys.INDEX][1]):
        number = graph.index_first + place
        block = new_block(keys.INDEX, number, session.layout.length(keys.INDEX))
        part = np.frombuffer(index, dtype=np.uint8)[place * piece : (place + 1) * piece]
        payload(block)[: part.size] = part
        set_count(block, part.size)
        session.put(block, keys.INDEX, number)
    session.stage()


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
    """The graph's parameters, as they were given. They name no slots: a copy of the file has other ones."""
    return _read_bytes(blocks, 0, _graph_of(blocks).index_bytes).tobytes()


def graph_slots(blocks: Blocks) -> Nodes:
    """The slot of each node, which its row has too: here all are together."""
    graph = _graph_of(blocks)
    return _read_bytes(blocks, graph.index_bytes, 4 * graph.nodes).view("<u4").astype(np.uint32)


def _read_bytes(blocks: Blocks, start: int, length: int) -> Bytes:
    """A stretch of what the index blocks hold together."""
    first, piece = _graph_of(blocks).index_first, blocks.layout.data_payload
    numbers = range(first + start // piece, first - (-(start + length) // piece))
    parts = [payload(blocks.block(keys.INDEX, number)) for number in numbers]
    found: Bytes = np.concatenate(parts)[start % piece : start % piece + length].copy()
    return found


def graph_rows(blocks: Blocks, first: int, count: int) -> tuple[Nodes, Nodes]:
    """(slots, neighbours (count, degree)) of these nodes."""
    graph = _graph_of(blocks)
    per_block = blocks.layout.graph_rows(graph.degree)
    rows = _read(blocks, keys.GRAPH, graph.graph_first, 4 * (1 + graph.degree), per_block, first, count)
    words = rows.view("<u4")
    return words[:, 0].astype(np.uint32), words[:, 1:].astype(np.uint32)


def code_rows(blocks: Blocks, first: int, count: int) -> Bytes:
    """The codes of these nodes, (count, code_bytes)."""
    graph = _graph_of(blocks)
    per_block = blocks.layout.code_rows(graph.code_bytes)
    return _read(blocks, keys.CODES, graph.codes_first, graph.code_bytes, per_block, first, count)


def batches(graph: GraphHeader, row_bytes: int) -> Iterator[tuple[int, int]]:
    """(first, count): all nodes, as many at a time as fit into a bounded memory."""
    size = max(1, _FILL_BYTES // row_bytes)
    for first in range(0, graph.nodes, size):
        yield first, min(size, graph.nodes - first)


def _graph_of(blocks: Blocks) -> GraphHeader:
    graph = blocks.header.graph
    if graph is None:
        raise ValueError("the collection has no graph")
    return graph


def _read(blocks: Blocks, kind: int, block: int, width: int, per_block: int, first: int, count: int) -> Bytes:
    graph = _graph_of(blocks)
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


# -- what is linked


def linked_mask(blocks: Blocks) -> NDArray[np.uint8]:
    """1 for each slot whose record is in the graph under its present vector. Not to be written to."""
    size = blocks.header.slots
    known = blocks.cache.get("linked")
    if known is None:
        known = _read_linked(blocks)
    assert isinstance(known, np.ndarray)
    if known.size < size:  # slots that came behind those that the build knew
        grown = np.zeros(size, dtype=np.uint8)
        grown[: known.size] = known
        known = grown
    elif known.size > size:
        known = known[:size]
    blocks.cache["linked"] = known
    return known


def _read_linked(blocks: Blocks) -> NDArray[np.uint8]:
    graph = blocks.header.graph
    if graph is None:
        return np.zeros(blocks.header.slots, dtype=np.uint8)
    count = graph.blocks(blocks.layout)[keys.LINKED][1]
    bits = np.concatenate([payload(blocks.block(keys.LINKED, number)) for number in range(count)])
    return np.unpackbits(bits, count=graph.slots, bitorder="little")


def pending_slots(blocks: Blocks) -> Numbers:
    """Live slots whose records are not in the graph. Not to be written to."""
    live, linked = live_mask(blocks), linked_mask(blocks)
    known = blocks.cache.get("pending of")
    if not isinstance(known, tuple) or known[0] is not live or known[1] is not linked:
        blocks.cache["pending"] = np.flatnonzero(live > linked).astype(np.int64)
        blocks.cache["pending of"] = live, linked
    pending = blocks.cache["pending"]
    assert isinstance(pending, np.ndarray)
    return pending


def clear_linked(session: Session, slots: Numbers) -> None:
    """These slots' records are gone, or will have other vectors."""
    if session.header.graph is None:
        return
    mask = linked_mask(session)
    changed = slots[mask[slots] > 0]
    if changed.size:
        mask = mask.copy()
        mask[changed] = 0
        _write_linked(session, mask, np.unique(changed // (session.layout.table_payload * 8)))


def _link(session: Session, slots: Nodes) -> None:
    """Set the bits of exactly these slots, as far as they are live."""
    mask = np.zeros(session.header.slots, dtype=np.uint8)
    mask[slots[slots != NONE]] = 1
    mask &= live_mask(session)
    _write_linked(session, mask, np.arange(_graph_of(session).blocks(session.layout)[keys.LINKED][1]))


def _write_linked(session: Session, mask: NDArray[np.uint8], numbers: Numbers) -> None:
    """Write these blocks of the mask anew."""
    session.cache["linked"] = mask
    per_block = session.layout.table_payload * 8
    length = session.layout.length(keys.LINKED)
    for number in numbers.tolist():
        block = session.put(new_block(keys.LINKED, number, length), keys.LINKED, number)
        bits = np.packbits(mask[number * per_block : (number + 1) * per_block], bitorder="little")
        payload(block)[: bits.size] = bits
        set_count(block, bits.size)
