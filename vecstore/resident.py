"""What of the graph is kept in memory, from snapshot to snapshot: of what a commit changed, only that is read again."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from vecstore import config
from vecstore.index import space
from vecstore.index.bits import Bits
from vecstore.index.calibrate import Calibration
from vecstore.index.codec import Codec, room_for_codes
from vecstore.index.knit import Later
from vecstore.index.walk import Resident
from vecstore.storage import graph as stored
from vecstore.storage import keys
from vecstore.storage.blocks import damaged
from vecstore.storage.graph import NONE, Nodes
from vecstore.storage.header import GraphHeader
from vecstore.storage.linked import linked_mask
from vecstore.storage.state import Blocks, Numbers, State, graph_of

Words = NDArray[np.uint64]

# Room that is made beyond what is needed, so that the next commits find it.
_ROOM = 1.25


@dataclass
class _Kept:
    """The newest that was read. Arrays have room for more nodes, slots and edges than there are."""

    stamp: tuple[bytes, int]
    transaction: int
    graph: GraphHeader
    # The catalog's words of the blocks that were read.
    words: dict[int, Words]
    codes: NDArray[np.uint8]
    # The slot of each node, and the node of each slot.
    slots: Nodes
    nodes_of: Nodes
    later: Later
    resident: Resident


class Keeper:
    """Keeps the newest snapshot's part. Threads may share it."""

    def __init__(self) -> None:
        self._kept: _Kept | None = None
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        kept = self._kept
        return 0 if kept is None else kept.resident.nbytes + kept.nodes_of.nbytes

    def forget(self) -> None:
        self._kept = None

    def of(self, blocks: State) -> Resident:
        """What this state's walks need."""
        graph = graph_of(blocks)
        stamp = blocks.header.uuid, graph.stamp
        with self._lock:
            kept = self._kept
            if kept is None or kept.stamp != stamp:
                kept = self._kept = _read(blocks, stamp)
            elif kept.transaction > blocks.meta.transaction:
                return _read(blocks, stamp).resident  # a thread that is behind the others
            elif kept.transaction < blocks.meta.transaction:
                self._kept = None  # what fails half-way is read anew
                _refresh(kept, blocks)
                self._kept = kept
            return kept.resident


def without_codes(blocks: State) -> Resident:
    """What is known of a graph's nodes, for those who do not search."""
    graph = graph_of(blocks)
    slots, later = stored.graph_slots(blocks), _chained(stored.read_edges(blocks), blocks)
    return replace(parameters(blocks), slots=slots, later=later, edges=graph.edges)


def _read(blocks: State, stamp: tuple[bytes, int]) -> _Kept:
    """The graph's parameters and codes, every number of them checked."""
    graph = graph_of(blocks)
    first = parameters(blocks)
    codes = room_for_codes(graph.nodes, graph.code_bytes)
    for low, count in stored.batches(graph.nodes, graph.code_bytes):
        codes[low : low + count] = stored.code_rows(blocks, low, count)
    nodes_of = stored.nodes_of_slots(blocks)
    slots = stored.owners_of(nodes_of, linked_mask(blocks), graph.nodes)
    later = _chained(stored.read_edges(blocks), blocks)
    words = {kind: words_of(blocks, kind) for kind in (keys.CODES, keys.NODES, keys.INDEX)}
    resident = replace(first, codes=codes, slots=slots, later=later, edges=graph.edges, nodes_of=nodes_of)
    return _Kept(stamp, blocks.meta.transaction, graph, words, codes, slots, nodes_of, later, resident)


def _refresh(kept: _Kept, blocks: State) -> None:
    graph, before = graph_of(blocks), kept.graph
    changed = {kind: changed_words(kept.words, blocks, kind) for kind in kept.words}
    resident = parameters(blocks, kept.resident) if changed[keys.INDEX].size else kept.resident
    if graph.nodes > len(kept.codes):
        codes = room_for_codes(int(_ROOM * graph.nodes), graph.code_bytes)
        codes[: before.nodes] = kept.codes[: before.nodes]
        kept.codes = codes
        kept.slots = _grown(kept.slots, before.nodes, graph.nodes, NONE)
    if graph.slots > kept.nodes_of.size:
        kept.nodes_of = _grown(kept.nodes_of, before.slots, graph.slots, NONE)
    per_block = blocks.layout.code_rows(graph.code_bytes)
    for number in changed[keys.CODES].tolist():
        first = number * per_block
        count = min(per_block, graph.nodes - first)
        kept.codes[first : first + count] = stored.code_rows(blocks, first, count)
        resident.bundled.changed(first, count)
    _rename(kept, blocks, changed[keys.NODES])
    if graph.edges_origin != before.edges_origin:
        kept.later = _chained(stored.read_edges(blocks), blocks)
    else:
        kept.later = _added(kept.later, stored.read_edges(blocks, before.edges), before.edges, blocks)
    kept.graph, kept.transaction = graph, blocks.meta.transaction
    kept.resident = replace(
        resident,
        codes=kept.codes[: graph.nodes],
        slots=kept.slots[: graph.nodes],
        later=kept.later,
        edges=graph.edges,
        nodes_of=kept.nodes_of,
    )


def _rename(kept: _Kept, blocks: State, changed: Numbers) -> None:
    """Take over what changed blocks say of the nodes of their slots."""
    if not changed.size:
        return
    # Walks of older snapshots go on with theirs: a record that was moved lies elsewhere in them.
    kept.slots = kept.slots.copy()
    per_block = blocks.layout.slot_nodes
    slots = (changed[:, None] * per_block + np.arange(per_block)).ravel()
    known = slots < graph_of(blocks).slots
    slots, nodes = slots[known], stored.read_nodes(blocks, changed)[known]
    old = kept.nodes_of[slots]
    left = slots[(old != nodes) & (old != NONE)]
    former = kept.nodes_of[left]
    kept.slots[former[kept.slots[former] == left]] = NONE
    kept.nodes_of[slots] = nodes
    linked = (linked_mask(blocks)[slots] > 0) & (nodes != NONE)
    kept.slots[nodes[linked]] = slots[linked]


def _chained(pairs: Nodes, blocks: State) -> Later:
    graph = graph_of(blocks)
    return _added(Later.of(len(pairs), graph.nodes if len(pairs) else 0, graph.edges_origin), pairs, 0, blocks)


def _added(later: Later, pairs: Nodes, at: int, blocks: State) -> Later:
    graph = graph_of(blocks)
    more = later.added(pairs, at, graph.nodes) if graph.edges else later
    if more is None:
        raise damaged(keys.EDGES, graph.edges_first, "it names a node that does not exist")
    return more


def _grown(array: NDArray[Any], used: int, wanted: int, fill: int) -> NDArray[Any]:
    if wanted <= len(array):
        return array
    grown = np.full((int(_ROOM * wanted), *array.shape[1:]), fill, dtype=array.dtype)
    grown[:used] = array[:used]
    return grown


def words_of(blocks: State, kind: int) -> Words:
    """The catalog's words of a graph's blocks of one kind."""
    first, count = graph_of(blocks).blocks(blocks.layout)[kind]
    words: Words = blocks.entries(kind, first, first + count).copy()
    return words


def changed_words(known: dict[int, Words], blocks: State, kind: int) -> Numbers:
    """Which of a kind's blocks, counted from the graph's first, are not those that were read. These are known then."""
    words = words_of(blocks, kind)
    old = known[kind][: words.size]
    known[kind] = words
    changed: Numbers = np.r_[np.flatnonzero(words[: old.size] != old), np.arange(old.size, words.size)]
    return changed


def parameters(blocks: Blocks, before: Resident | None = None) -> Resident:
    """What the index block says; codes, slots and later edges are left out. What goes on from an older one is its."""
    graph = graph_of(blocks)
    try:
        content = msgpack.unpackb(stored.read_index(blocks))
        codec = _read_codec(content["codec"], blocks.header.settings)
        entries = np.frombuffer(content["entries"], dtype="<u4").astype(np.uint32)
        calibration = Calibration.from_dict(content["calibration"])
        limit, distortion = float(content["norm_limit"]), float(content["distortion"])
        if not entries.size or int(entries.max()) >= graph.nodes:
            raise ValueError("it names nodes that do not exist")
        if codec.code_bytes != graph.code_bytes or codec.width != space.width(blocks.header.settings):
            raise ValueError("its codes have another width")
    except (KeyError, TypeError, ValueError, AttributeError, msgpack.UnpackException) as error:
        raise damaged(keys.INDEX, graph.index_first, f"it cannot be read ({error})") from None
    none = np.zeros((0, codec.code_bytes), np.uint8), np.zeros(0, np.uint32)
    resident = Resident(codec, *none, entries, calibration, limit, distortion)
    return resident if before is None else replace(resident, watch=before.watch, bundled=before.bundled)


def _read_codec(content: Any, settings: config.Settings) -> Codec | Bits:
    """A codec of the collection's own kind of numbers, or a ValueError."""
    if settings.dtype != "binary":
        return Codec.from_dict(content)
    bits = Bits.from_dict(content)
    if bits.kind != f"{settings.metric} bits":
        raise ValueError("codes of another metric")
    return bits
