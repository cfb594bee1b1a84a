"""A collection's graph on the graphics card: carried there once that pays, and kept up to date from snapshot to snapshot.

What is there is made from the file and can be dropped at any time. Of what a commit changed, only that is copied again;
edges that came later are sorted anew, and a graph that has outgrown its place is carried as a whole.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vecstore.device import Device
from vecstore.errors import CorruptionError
from vecstore.index.afar import Afar
from vecstore.index.calibrate import Reach
from vecstore.index.walk import Besides, Effort, Here, Job, Walker
from vecstore.kernels import dispatch
from vecstore.resident import changed_words, words_of
from vecstore.storage import graph as stored
from vecstore.storage import keys
from vecstore.storage.state import State, graph_of

if TYPE_CHECKING:
    from vecstore.kernels.cuda.beam import Held
    from vecstore.kernels.cuda.card import Card, DeviceArray

Words = NDArray[np.uint32]

NAME = "graph"
"""What ``Device.kept`` has it under."""

# Fewer queries than this are never worth a way to the card and back.
FEWEST = 64
# Starting CUDA and compiling the kernels takes about so many seconds, and a second carries so many bytes, all checked. Once
# the CPU has been busy with batches as long as that, it is done: so waiting for it never more than doubles what they take.
_STARTING, _CARRIED_A_SECOND = 3.0, 1e9
# So many queries at a time, while the CPU does them, it is looked whether the card is worth it by now.
_PORTION = 4096
# What is timed to see from how many queries on the card is quicker: so many there, and so many here.
_TIMED_THERE, _TIMED_HERE = (32, 1024), 128
# So much of the card's budget is left to others, and so much longer arrays are than they need be once a graph has grown.
_LEFT, _ROOM = 0.25, 1.25

# From how many queries on the card is quicker, as far as this process has measured it: by `_kind`.
_LEAST: dict[tuple[object, ...], float] = {}


@dataclass
class _There:
    """What a card holds of one snapshot's graph."""

    stamp: tuple[bytes, int]
    transaction: int
    held: Held
    afar: Afar
    # The catalog's words of the blocks that were copied; and how many later edges each row had when it was written.
    words: dict[int, NDArray[np.uint64]]
    marks: Words
    edges: tuple[int, int]

    def release(self, card: Card) -> None:
        """Give its memory back."""
        self.afar.release()
        self.held.release()


class Carried:
    """One collection's graph on the card of its device. Threads may share it; they walk there one after the other."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._lock = threading.Lock()
        # Seconds that the CPU took for batches so far, and the last transaction whose graph the card had no room for.
        self._missed = 0.0
        self._refused = -1

    def of(self, state: State, queries: int) -> Way | None:
        """Where so many walks over this state's graph may be done; None where only the CPU is asked."""
        return Way(self, state) if queries >= FEWEST and self._device.possible else None

    # -- whether it pays

    def run(
        self, state: State, walker: Walker, job: Job, reach: Reach, here: Here, besides: Besides
    ) -> Effort:
        effort, done, count = Effort(0, 0, 0), 0, len(job.queries)
        if count < FEWEST:
            return here(job)
        while not self._worth(walker):
            start = time.perf_counter()
            effort += here(job.rows(slice(done, done + _PORTION)))
            self._missed += time.perf_counter() - start
            done += _PORTION
            if done >= count:
                return effort
        rest = job.rows(slice(done, count))

        def there(card: Card) -> Effort | None:
            kind = _kind(card, walker, besides)
            if reach.room > dispatch.cuda().beam.MOST_ROOM or len(rest.queries) < _LEAST.get(kind, 0):
                return None
            with self._lock:
                afar = self._afar(card, state, walker)
                if afar is None or not afar.takes(reach):
                    return None
                if kind not in _LEAST:
                    _LEAST[kind] = _measured(afar, walker, rest, reach, here, besides)
                    if math.isinf(_LEAST[kind]):
                        self._drop(card, NAME)
                if len(rest.queries) < _LEAST[kind]:
                    return None
                return afar.run(walker, rest, reach, besides)

        found = self._device.attempt(there, lambda: None)
        return effort + (here(rest) if found is None else found)

    def _worth(self, walker: Walker) -> bool:
        """Whether the CPU has been at it for as long as the card needs to begin; at once where the card was asked for."""
        if self._device.wanted == "cuda" or NAME in self._device.kept:
            return True
        nbytes = walker.resident.slots.size * (4 * walker.degree + walker.resident.codec.code_bytes)
        return self._missed > _STARTING + nbytes / _CARRIED_A_SECOND

    # -- what is there

    def _afar(self, card: Card, state: State, walker: Walker) -> Afar | None:
        """The state's graph on the card; None where there is no room for it, or a later state's is there."""
        graph, transaction = graph_of(state), state.meta.transaction
        there = self._device.kept.get(NAME)
        try:
            if (
                isinstance(there, _There)
                and there.held.card is card
                and there.stamp == (state.header.uuid, graph.stamp)
            ):
                if there.transaction > transaction:
                    return None
                if there.transaction == transaction or self._refresh(there, state, walker):
                    return there.afar
            grown = isinstance(there, _There)
            self._drop(card, NAME)
            del there
            carried = None
            if self._refused != transaction:
                carried = self._carry(card, state, walker, _ROOM if grown else 1.0)
        except CorruptionError:
            # A walk on the CPU tells of a damaged block if it comes to it, and others have their answers.
            self._drop(card, NAME)
            carried = None
        if carried is None:
            self._refused = transaction
            return None
        self._device.kept[NAME] = carried
        return carried.afar

    def _drop(self, card: Card, name: str) -> None:
        kept = self._device.kept.pop(name, None)
        if kept is not None:
            kept.release(card)

    def _carry(self, card: Card, state: State, walker: Walker, room: float) -> _There | None:
        beam, graph = dispatch.cuda().beam, graph_of(state)
        across, places = beam.across(graph.degree), math.ceil(room * graph.nodes)
        need = places * (4 * across + graph.code_bytes) + 12 * graph.nodes + 4 * graph.edges
        need += int(_LEFT * card.budget)
        if need > card.room():
            # Rows for exact scans make way: who has a graph seldom asks for those.
            for name in list(self._device.kept):
                self._drop(card, name)
        if need > card.room():
            return None
        codes = card.empty(places * (graph.code_bytes // 4), np.int32)
        rows = card.empty((places, across), np.uint32)
        marks = np.zeros(places, dtype=np.uint32)
        for first, count in stored.batches(graph.nodes, 4 * graph.degree + graph.code_bytes):
            _copy(card, state, codes, rows, marks, first, count)
        words = {kind: words_of(state, kind) for kind in (keys.GRAPH, keys.CODES)}
        held = beam.Held(
            card,
            walker.resident.codec.number,
            graph.nodes,
            graph.code_bytes,
            codes,
            rows,
            *_later(card, state, marks),
            card.put(walker.resident.entries),
        )
        stamp = state.header.uuid, graph.stamp
        edges = graph.edges_origin, graph.edges
        return _There(stamp, state.meta.transaction, held, Afar(held), words, marks, edges)

    def _refresh(self, there: _There, state: State, walker: Walker) -> bool:
        """Copy what changed; False where there is no place for it."""
        beam, graph, held = dispatch.cuda().beam, graph_of(state), there.held
        if graph.nodes > len(held.rows):
            return False
        card, transaction = held.card, there.transaction
        there.transaction = -1  # what fails half-way is carried anew
        changed = {kind: changed_words(there.words, state, kind) for kind in there.words}
        per_row, per_code = state.layout.graph_rows(graph.degree), state.layout.code_rows(graph.code_bytes)
        for number in changed[keys.GRAPH].tolist():
            first = number * per_row
            _copy_rows(card, state, held.rows, there.marks, first, min(per_row, graph.nodes - first))
        for number in changed[keys.CODES].tolist():
            first = number * per_code
            _copy_codes(card, state, held.codes, first, min(per_code, graph.nodes - first))
        edges = graph.edges_origin, graph.edges
        starts, later = held.starts, held.later
        if edges != there.edges or (graph.edges and changed[keys.GRAPH].size) or graph.nodes != held.nodes:
            need = 8 * graph.nodes + 4 * graph.edges
            card.release(starts, later)
            if need > card.room():
                return False
            starts, later = _later(card, state, there.marks)
        card.release(held.entries)
        there.held = beam.Held(
            card,
            held.kind,
            graph.nodes,
            held.code_bytes,
            held.codes,
            held.rows,
            starts,
            later,
            card.put(walker.resident.entries),
        )
        there.afar.renew(there.held)
        there.edges = edges
        assert transaction < state.meta.transaction
        there.transaction = state.meta.transaction
        return True


@dataclass(frozen=True)
class Way:
    """The way to the card for walks over one state's graph."""

    carried: Carried
    state: State

    def run(self, walker: Walker, job: Job, reach: Reach, here: Here, besides: Besides) -> Effort:
        return self.carried.run(self.state, walker, job, reach, here, besides)


def _kind(card: Card, walker: Walker, besides: Besides) -> tuple[object, ...]:
    """Of what graphs it is taken for granted that the same number of queries is worth the way."""
    resident, settings = walker.resident, walker.settings
    return (
        card.name,
        besides.threads,
        settings,
        resident.codec.number,
        resident.codec.code_bytes,
        walker.degree,
    )


def _measured(afar: Afar, walker: Walker, job: Job, reach: Reach, here: Here, besides: Besides) -> float:
    """From how many queries on the card is quicker: both are tried."""
    if _trusted():
        return FEWEST

    def seconds(count: int, run: Callable[[Job], object]) -> float:
        # Rows that are picked are copies, so what is filled in is nobody's.
        some = job.rows(np.arange(count) % len(job.queries))
        start = time.perf_counter()
        run(some)
        return time.perf_counter() - start

    def there(some: Job) -> Effort:
        return afar.run(walker, some, reach, besides)

    few, many = _TIMED_THERE
    seconds(few, there)  # compiles
    first, second = seconds(few, there), seconds(many, there)
    each = max(0.0, (second - first) / (many - few))
    return break_even(max(0.0, first - few * each), each, seconds(_TIMED_HERE, here) / _TIMED_HERE)


def _trusted() -> bool:
    """Whether the card is asked without being timed: the simulator is never quicker, and only there if it was asked for."""
    return bool(dispatch.cuda().card.simulated())


def break_even(fixed: float, there: float, here: float) -> float:
    """From how many queries on it is quicker there: what a batch takes, and a query there and here.

    >>> break_even(fixed=0.01, there=1e-6, here=1e-4), break_even(fixed=0.0, there=2e-4, here=1e-4)
    (102, inf)
    """
    return math.ceil(fixed / (here - there)) if here > there else math.inf


def _copy(
    card: Card,
    state: State,
    codes: DeviceArray,
    rows: DeviceArray,
    marks: Words,
    first: int,
    count: int,
) -> None:
    _copy_rows(card, state, rows, marks, first, count)
    _copy_codes(card, state, codes, first, count)


def _copy_rows(card: Card, state: State, rows: DeviceArray, marks: Words, first: int, count: int) -> None:
    """These nodes' rows, filled up; nothing stands behind the first that is no neighbour."""
    own, neighbors = stored.graph_rows(state, first, count)
    filled = np.full((count, rows.shape[1]), stored.NONE, dtype=np.uint32)
    filled[:, : neighbors.shape[1]] = neighbors
    empty = filled == stored.NONE
    if (empty[:, :-1] & ~empty[:, 1:]).any():
        filled[np.logical_or.accumulate(empty, axis=1)] = stored.NONE
    marks[first : first + count] = own
    card.copy(filled, rows[first : first + count])


def _copy_codes(card: Card, state: State, codes: DeviceArray, first: int, count: int) -> None:
    table = np.ascontiguousarray(stored.code_rows(state, first, count))
    words = table.shape[1] // 4
    card.copy(table.reshape(-1).view(np.int32), codes[first * words : (first + count) * words])


def _later(card: Card, state: State, marks: Words) -> tuple[Any, Any]:
    """The edges that came later, on the card."""
    graph = graph_of(state)
    starts, others = sorted_later(stored.read_edges(state), marks[: graph.nodes], graph.edges_origin)
    return card.put(starts), card.put(others)


def sorted_later(pairs: Words, marks: Words, origin: int) -> tuple[NDArray[np.int64], Words]:
    """(where each node's begin, where they lead): the edges that a node's row has not got yet, the newest first.

    A mark is the number of edges that had come when a row was written, so those are in it or given up.

    >>> pairs = np.array([[1, 7], [0, 5], [1, 6]], dtype=np.uint32)
    >>> starts, others = sorted_later(pairs, np.array([0, 0], dtype=np.uint32), 0)
    >>> starts.tolist(), others.tolist()
    ([0, 1, 3], [5, 6, 7])
    >>> sorted_later(pairs, np.array([0, 1], dtype=np.uint32), 0)[1].tolist()
    [5, 6]
    """
    since = np.maximum(marks.astype(np.int64) - origin, 0)
    known = pairs[:, 0] < marks.size
    places = np.flatnonzero(known)
    places = places[places >= since[pairs[places, 0]]]
    if not places.size:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.uint32)
    newest = places[::-1]
    order = newest[np.argsort(pairs[newest, 0], kind="stable")]
    starts = np.zeros(marks.size + 1, dtype=np.int64)
    np.cumsum(np.bincount(pairs[order, 0], minlength=marks.size), out=starts[1:])
    return starts, np.ascontiguousarray(pairs[order, 1])
