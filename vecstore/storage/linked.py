"""One bit a slot: whether its record is in the graph under its present vector. What is live and not linked is pending."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vecstore.storage import keys
from vecstore.storage.blocks import new_block, payload, set_count
from vecstore.storage.session import Session
from vecstore.storage.slots import live_mask
from vecstore.storage.state import Blocks, Numbers, graph_of

# Rows that the sweep meets for each record that is linked or gone: all of them once while a tenth changes.
SWEPT_A_CHANGE = 10


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


def owe(session: Session, changes: int) -> None:
    """The sweep has this many more changes to make up for; twice round is enough for any number."""
    graph = graph_of(session)
    session.describe_graph(replace(graph, owed=min(graph.owed + SWEPT_A_CHANGE * changes, 2 * graph.nodes)))


def clear_linked(session: Session, slots: Numbers) -> None:
    """These slots' records are gone, or will have other vectors."""
    if session.header.graph is None:
        return
    mask = linked_mask(session)
    changed = slots[mask[slots] > 0]
    if changed.size:
        graph = session.header.graph
        session.describe_graph(replace(graph, changes=graph.changes + changed.size))
        owe(session, changed.size)
        mask = mask.copy()
        mask[changed] = 0
        _write_linked(session, mask, np.unique(changed // (session.layout.table_payload * 8)))


def set_linked(session: Session, slots: Numbers) -> None:
    """These slots' records have nodes now; the graph's header counts them already."""
    mask = linked_mask(session).copy()
    mask[slots] = 1
    numbers = set(np.unique(slots // (session.layout.table_payload * 8)).tolist())
    there = range(graph_of(session).blocks(session.layout)[keys.LINKED][1])
    numbers.update(number for number in there if not session.exists(keys.LINKED, number))
    _write_linked(session, mask, np.array(sorted(numbers), dtype=np.int64))


def set_exactly_linked(session: Session, slots: NDArray[np.uint32]) -> None:
    """Set the bits of exactly these slots, as far as they are live."""
    mask = np.zeros(session.header.slots, dtype=np.uint8)
    mask[slots] = 1
    mask &= live_mask(session)
    _write_linked(session, mask, np.arange(graph_of(session).blocks(session.layout)[keys.LINKED][1]))


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
