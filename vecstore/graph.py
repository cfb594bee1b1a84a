"""The collection's graph: walked over a snapshot's blocks, tended in slices, and built anew when too little of it is left.

Between the index, which knows arrays, and the storage, which knows blocks. Records that are not linked yet are
pending: they are compared one by one beside the walk, so every answer counts them.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from vecstore import config, dense, linking, upkeep
from vecstore.carried import Carried
from vecstore.device import Device
from vecstore.errors import CorruptionError
from vecstore.index import bits, build, calibrate, space
from vecstore.index.calibrate import Calibration, Curve, Reach
from vecstore.index.codec import KINDS, room_for_codes
from vecstore.index.walk import DamageFound, Effort, Resident, Walker
from vecstore.query import exact
from vecstore.query.found import Found, Rows
from vecstore.resident import Keeper, parameters
from vecstore.storage import graph as stored
from vecstore.storage import keys
from vecstore.storage.blocks import HEAD_BYTES, damaged
from vecstore.storage.header import GraphHeader
from vecstore.storage.linked import linked_mask, pending_slots
from vecstore.storage.replace import Arranged
from vecstore.storage.session import Session
from vecstore.storage.slots import live_mask
from vecstore.storage.state import Blocks, Numbers, State
from vecstore.storage.vectors import read_rows

_CODECS = {*KINDS, *bits.KINDS}
# How many rows of a graph that is no blocks yet are taken for one.
_ROWS_A_BLOCK = 32
# Where links came one by one, what is stored is found more easily than what is not: of queries from outside, so many more of
# the neighbours were missed after some rounds of replacement.
_DOUBT = 0.15
# So many numbers of pending records are compared within a walk, as long as one of some collections takes.
_NUMBERS_IN_WALKS = 1 << 18
# Rows count the edges that came later in 32 bits.
_MOST_EDGES = 0xF0000000
_SEARCHED_AT_ONCE, _DRAWN, _FEWER_OF_MANY = 25, 4, 4


@dataclass(frozen=True)
class Ready:
    """A state's graph, ready to be walked."""

    walker: Walker
    # 1 for each slot whose record is live and linked.
    mask: NDArray[np.uint8]
    # Slots whose records are pending, where these are so few that walks compare them all.
    few: Numbers
    # 1 for each of them where they are more; else None.
    many: NDArray[np.uint8] | None
    # The share of nodes whose records are live.
    live: float
    # Which checks its tables note what they found in: a whole verification begins anew.
    checked: object
    # The same for all states of a graph until it is built anew.
    stamp: int

    @cached_property
    def bits(self) -> NDArray[np.uint8]:
        """The mask, a bit each, the lowest first."""
        return np.packbits(self.mask, bitorder="little")


class Graph:
    """One collection's way to its graph. Threads may share it."""

    def __init__(
        self, threads: int, memory: int | None, codec: str | None = None, device: Device | None = None
    ) -> None:
        self._threads = threads
        self._device = Device("cpu") if device is None else device
        self._codec = codec
        self._memory = memory
        self._keeper = Keeper()
        self._carried = Carried(self._device)
        # So many records were too many for the memory when they were to be linked last.
        self._refused = -1
        self._warned = False

    @property
    def nbytes(self) -> int:
        """Memory that codes and their tables take."""
        return self._keeper.nbytes

    # -- walking

    def ready(self, blocks: Blocks) -> Ready | None:
        """What walks this state's graph; None where there is none, and inside of a transaction."""
        header = blocks.header
        # A later release may write codes that this one cannot read, and a scan needs none.
        if header.graph is None or header.graph.codec not in _CODECS or not isinstance(blocks, State):
            return None
        if not self._fits(header.graph, blocks):
            return None
        known = blocks.cache.get("graph")
        if isinstance(known, Ready) and known.checked is blocks.checked:
            return known
        first, count = header.graph.blocks(blocks.layout)[keys.GRAPH]
        graph = blocks.lazy(keys.GRAPH, first, count)
        vectors = blocks.lazy(keys.VECTORS, 0, header.counts[keys.VECTORS], gaps=True)
        walker = Walker(
            header.settings,
            self._keeper.of(blocks),
            graph,
            header.graph.degree,
            vectors,
            blocks.layout.rows,
        )
        mask = live_mask(blocks) & linked_mask(blocks)
        few, many = pending_slots(blocks), None
        if few.size * header.settings.dim > _NUMBERS_IN_WALKS:
            few, many = few[:0], (live_mask(blocks) > mask).astype(np.uint8)
        live = float(np.count_nonzero(mask) / header.graph.nodes)
        blocks.cache["graph"] = found = Ready(walker, mask, few, many, live, blocks.checked, header.graph.stamp)
        return found

    def nearest(
        self,
        blocks: Blocks,
        ready: Ready,
        queries: NDArray[Any],
        k: int,
        reach: calibrate.Reach,
        threads: int,
    ) -> tuple[Sequence[Found], Effort]:
        """The k nearest of each query, pending records included; and what it took."""
        elsewhere = self._carried.of(blocks, len(queries)) if isinstance(blocks, State) else None
        with explained(blocks):
            slots, distances, sizes, effort = ready.walker.search(
                queries, k, reach, ready.mask, threads, exact.executor, others=ready.few, elsewhere=elsewhere
            )
        found = Rows(slots, distances, sizes)
        if not effort.lost.size and ready.many is None:
            return found, effort
        answers = list(found)
        # Where nearly all records near a query are gone, a walk says that it is lost, and a scan answers.
        for place in effort.lost.tolist():
            mask = live_mask(blocks) if ready.many is None else ready.mask
            [answers[place]] = exact.nearest(blocks, queries[place : place + 1], k, mask, threads)
        if ready.many is not None:
            others = exact.nearest(blocks, queries, k, ready.many, threads)
            answers = [merged(mine, other, k) for mine, other in zip(answers, others, strict=True)]
        return answers, effort

    def recall(self, blocks: Blocks, ready: Ready, sample: int, k: int) -> float:
        """What a walk by default finds of the true neighbours that it can find."""
        if not ready.mask.any():
            return 1.0
        reach = ready.walker.reach
        measured = _Sample.of(blocks, ready.walker, ready.mask, sample, k, self._threads)
        with explained(blocks):
            return measured.recall(k, reach(k, None, None), reach(k + 1, None, None))

    def drift(self, blocks: Blocks) -> float | None:
        """How much more the codec loses of today's vectors than of those that it was trained for; 1.0 is no more.

        None where there is no codec, or one that loses nothing.
        """
        graph = blocks.header.graph
        if graph is None or graph.codec not in KINDS:
            return None
        resident = parameters(blocks)
        slots = np.flatnonzero(live_mask(blocks))
        if not slots.size:
            return None
        slots = np.sort(
            np.random.default_rng(2).choice(slots, min(config.DRIFT_SAMPLE, slots.size), replace=False)
        )
        rows = space.prepare_rows(blocks.header.settings, read_rows(blocks, slots), resident.norm_limit)
        return linking.distortion(resident.codec, rows) / max(resident.distortion, 1e-12)

    # -- tending and building

    def arranged(self, state: State) -> Arranged | None:
        """How the collection should lie in a dense copy; None: as it does."""
        graph = state.header.graph
        return None if graph is None or graph.codec not in _CODECS else dense.arranged(state, self._threads)

    def due(self, blocks: Blocks) -> bool:
        """Whether there is enough to build, to link or to sweep for a commit of its own."""
        graph = blocks.header.graph
        if self._worn(blocks):
            return True
        if graph is None or graph.codec not in _CODECS:
            return False
        return _behind(blocks, graph) or _uncalibrated(graph)

    def tend(self, session: Session, progress: build.Progress, *, all_of_it: bool = False) -> bool:
        """Do a slice of what is due, or with ``all_of_it`` of what may be done; the caller commits. False if there is none."""
        if self._worn(session) and self._rebuild(session, progress):
            return True
        graph = session.header.graph
        if graph is None or not (all_of_it or self.due(session)):
            return False
        ready = self.ready(session.base)
        if ready is None:
            return False
        with explained(session.base):
            # What is linked and swept later on would not be as it was measured.
            if graph.named and (_behind(session, graph) or not _uncalibrated(graph)):
                return upkeep.tend(session, ready.walker, ready.mask, self._threads, self._memory)
            calibration = self._calibration(session.base, ready.walker, ready.mask)
        # Codes that were made for other vectors may tell too little apart.
        if calibration.reaches(None) or not self._rebuild(session, progress):
            content = msgpack.unpackb(stored.read_index(session)) | {"calibration": calibration.to_dict()}
            stored.replace_index(session, msgpack.packb(content))
        return True

    def _worn(self, blocks: Blocks) -> bool:
        """Whether a graph is wanted, and there is none, or too little of the collection is in the one that there is."""
        header = blocks.header
        row_bytes = header.settings.row_bytes * (config.BITS_BYTE if header.settings.dtype == "binary" else 1)
        large = header.records * row_bytes >= config.GRAPH_FROM_BYTES
        if not large or header.records < config.GRAPH_FROM:
            return False
        if header.graph is None:
            return True
        if header.graph.edges_origin + header.graph.edges > _MOST_EDGES:
            return True
        pending = pending_slots(blocks).size
        gone = header.graph.nodes - (header.records - pending)
        return pending > config.WORN_SHARE * header.records or gone > config.GONE_SHARE * header.graph.nodes

    def _rebuild(self, session: Session, progress: build.Progress) -> bool:
        """Build a graph of all live records in place of the one there is; False if the memory is too little for that."""
        if self._memory is not None:
            if self._refused == session.header.records:
                return False
            # What the new graph replaces makes room; a search meanwhile would read it again.
            self._keeper.forget()
            for blocks in (session, session.base):
                blocks.cache.pop("graph", None)
        with linking.link(session, self._memory, self._threads, self._codec, progress, self._device) as linked:
            if linked is None:
                self._refused = session.header.records
                self._warn(session)
                return False
            linked.write(session, self._calibrate(session, linked))
            return True

    def _fits(self, graph: GraphHeader, blocks: Blocks) -> bool:
        """Whether the memory allows walking. Where it does not, one is told so, and searches scan."""
        if self._memory is None or linking.resident_bytes(graph.nodes, graph.code_bytes, graph.edges) <= self._memory:
            return True
        self._warn(blocks)
        return False

    def _warn(self, blocks: Blocks) -> None:
        if self._warned or self._memory is None:
            return
        self._warned = True
        warnings.warn(
            f"memory={self._memory / 1e6:,.0f} MB is too little for a graph of {blocks.header.records:,} records, so "
            "searches compare them all; open the collection with more memory, or with no budget",
            RuntimeWarning,
            stacklevel=3,
        )

    def _calibrate(self, session: Session, linked: linking.Linked) -> Calibration:
        """Search the new graph for a sample of its own vectors, with more and more slack."""
        base, count = session.base, linked.resident.slots.size
        few, most = _depths(count)
        if few < 1:
            return calibrate.UNKNOWN
        vectors = base.lazy(keys.VECTORS, 0, base.header.counts[keys.VECTORS], gaps=True)
        rows = _InMemory.of(linked.table)

        def walker(resident: Resident) -> Walker:
            return Walker(base.header.settings, resident, rows, linked.plan.degree, vectors, base.layout.rows)

        mask = live_mask(base)
        sample = _Sample.of(base, walker(linked.resident), mask, config.HELD_OUT, most, self._threads)
        if not linked.in_files:
            return sample.calibrate(few)
        codes = room_for_codes(*linked.resident.codes.shape)
        codes[:] = linked.resident.codes
        in_memory = replace(linked.resident, codes=codes)
        sample = replace(sample, walker=walker(in_memory))
        # So few at a time that what they touch is still in memory when they are searched for with more slack.
        return Calibration.mean([part.calibrate(few) for part in sample.parts(_SEARCHED_AT_ONCE)])

    def _calibration(self, base: State, walker: Walker, mask: NDArray[np.uint8]) -> Calibration:
        """The same of a graph that has been in the file for a while."""
        few, most = _depths(int(np.count_nonzero(mask)))
        if few < 1:
            return calibrate.UNKNOWN
        measured = _Sample.of(base, walker, mask, config.HELD_OUT, most, self._threads).calibrate(few)
        return Calibration(tuple(curve.doubted(_DOUBT) for curve in measured.curves))


def _behind(blocks: Blocks, graph: GraphHeader) -> bool:
    """Whether there is enough to link or to sweep."""
    return pending_slots(blocks).size >= config.LINKED_FROM or graph.owed >= config.SWEPT_FROM


def _uncalibrated(graph: GraphHeader) -> bool:
    """Whether so much has changed that it is to be measured anew how far walks must go."""
    return not graph.named or graph.changes > config.RECALIBRATED_SHARE * graph.nodes


def _depths(count: int) -> tuple[int, int]:
    """With how many answers walks are measured among so many records: few, and many."""
    few = min(config.DEFAULT_K, count - 2)
    return few, config.MANY if count > 10 * config.MANY else few


@dataclass(frozen=True)
class _Sample:
    """Stored vectors to search for, and their true neighbours."""

    walker: Walker
    mask: NDArray[np.uint8]
    threads: int
    nodes: Numbers
    slots: Numbers
    queries: NDArray[Any]
    # The distances of its nearest neighbours, itself not counted.
    truth: NDArray[np.float64]
    # Distances under cosine are rounded near one, whatever is left of them.
    rounding: float

    @classmethod
    def of(
        cls, blocks: Blocks, walker: Walker, mask: NDArray[np.uint8], size: int, k: int, threads: int
    ) -> _Sample:
        count, settings = walker.resident.slots.size, blocks.header.settings
        # A few more than asked for: some may not count. So few of many are drawn without a list of all.
        for drawn in (min(_DRAWN * size, count), count):
            nodes = np.random.default_rng(1).choice(count, drawn, replace=False)
            slots = walker.resident.slots[nodes].astype(np.int64)
            counting = np.flatnonzero((slots < mask.size) & (mask[np.minimum(slots, mask.size - 1)] > 0))[
                :size
            ]
            if counting.size == size:
                break
        nodes, slots = nodes[counting], slots[counting]
        queries = space.as_queries(settings, read_rows(blocks, slots))
        truth = np.full((slots.size, k), np.inf)
        found = exact.nearest(blocks, queries, k + 1, mask, threads)
        for row, (own, distances), slot in zip(truth, found, slots.tolist(), strict=True):
            others = distances[own != slot][:k]
            row[: others.size] = others
        rounding = 1e-12 if settings.metric == "cosine" else 0.0
        return cls(walker, mask, threads, nodes, slots, queries, truth, rounding)

    def parts(self, size: int) -> list[_Sample]:
        """So many at a time; all parts are of one size, so a few may be left out."""
        starts = range(0, self.nodes.size - size + 1, size)
        return [self._part(slice(start, start + size)) for start in starts] or [self]

    def _part(self, cut: slice) -> _Sample:
        return replace(
            self,
            nodes=self.nodes[cut],
            slots=self.slots[cut],
            queries=self.queries[cut],
            truth=self.truth[cut],
        )

    def calibrate(self, few: int) -> Calibration:
        """Measure walks for few answers; and for as many as the truth is known of, where these are more.

        The more answers, the more a query tells about the mean, and the longer it takes.
        """
        curves = [self._curve(few)]
        if self.truth.shape[1] > few:
            part = self._part(slice(max(1, self.nodes.size // _FEWER_OF_MANY)))
            curves.append(part._curve(self.truth.shape[1]))
        return Calibration(tuple(curves))

    def _curve(self, k: int) -> Curve:
        reach = calibrate.reach_of_slack
        return calibrate.measured(lambda slack: self.recall(k, reach(k, slack), reach(k + 1, slack)), k)

    def recall(self, k: int, alone: Reach, with_own: Reach) -> float:
        """What a query from outside would find of its k neighbours.

        A walk that finds the vector itself has its best edges from there, and finds too much; one that must
        leave it out lacks the node that its neighbours are linked by, and finds too little. Among numbers real
        queries lie midway, within a point, on every set that was tried. Among bits they do little better than
        a walk that leaves itself out, or no better.
        """
        low = self._found(k, alone, self.nodes)
        if self.walker.settings.dtype == "binary":
            return low
        return (low + self._found(k, with_own, None)) / 2

    def _found(self, k: int, reach: Reach, skips: Numbers | None) -> float:
        wanted = k if skips is not None else k + 1
        bounds = self.truth[:, k - 1]
        bounds = bounds + 1e-9 * np.abs(bounds) + self.rounding
        slots, distances, sizes, _ = self.walker.search(
            self.queries, wanted, reach, self.mask, self.threads, exact.executor, skips
        )
        return _share(slots, distances, sizes, self.slots, bounds, k)


def _share(
    slots: Numbers,
    distances: NDArray[np.float64],
    sizes: Numbers,
    own: Numbers,
    bounds: NDArray[np.float64],
    k: int,
) -> float:
    """Of the k true neighbours, how many were found: all but oneself that is within the bound."""
    given = np.arange(slots.shape[1])[None] < sizes[:, None]
    within = given & (slots != own[:, None]) & (distances <= bounds[:, None])
    return float(np.minimum(within.sum(axis=1), k).mean() / k)


@dataclass(frozen=True)
class _InMemory:
    """A graph's rows before they are blocks, as small blocks that need no checking."""

    rows: NDArray[np.uint32]
    length: int
    addresses: NDArray[np.uint64]
    generations: NDArray[np.uint64]
    seen: NDArray[np.uint64]
    kind: int = keys.GRAPH
    first: int = 0
    base: int = 0
    page_bytes: int = 1

    @classmethod
    def of(cls, rows: NDArray[np.uint32]) -> _InMemory:
        block_bytes = _ROWS_A_BLOCK * 4 * rows.shape[1]
        places = np.arange(-(-len(rows) // _ROWS_A_BLOCK), dtype=np.uint64) * np.uint64(block_bytes)
        ones = np.ones(places.size, dtype=np.uint64)
        return cls(
            rows, HEAD_BYTES + block_bytes, places + np.uint64(rows.ctypes.data - HEAD_BYTES), ones, ones
        )


def merged(mine: Found, other: Found, k: int) -> Found:
    """The k nearest of two answers."""
    slots, distances = np.concatenate((mine[0], other[0])), np.concatenate((mine[1], other[1]))
    order = np.lexsort((slots, distances))[:k]
    return slots[order], distances[order]


@contextlib.contextmanager
def explained(blocks: Blocks) -> Iterator[None]:
    """Walks in here that give up at a damaged block end in an error that names it."""
    try:
        yield
    except DamageFound as found:
        raise _damage(blocks, found) from None


def _damage(blocks: Blocks, found: DamageFound) -> CorruptionError:
    """What is wrong with the block that a walk gave up at."""
    kind = keys.GRAPH if found.graph else keys.VECTORS
    if not found.foreign:
        try:
            blocks.block(kind, found.number)
        except CorruptionError as error:
            return error
        return damaged(kind, found.number, "one of its pages is not what its sum says")
    return damaged(kind, found.number, "it names a node that does not exist")
