"""The collection's graph: walked over a snapshot's blocks, and built anew in one commit when it is due.

Between the index, which knows arrays, and the storage, which knows blocks. Records that came after the last
build are pending: they are compared one by one beside the walk, so every answer counts them.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from vecstore import config, linking
from vecstore.errors import CorruptionError
from vecstore.index import bits, build, calibrate, space
from vecstore.index.bits import Bits
from vecstore.index.calibrate import Calibration, Curve, Reach
from vecstore.index.codec import KINDS, Codec, room_for_codes
from vecstore.index.walk import DamageFound, Effort, Resident, Walker
from vecstore.query import exact
from vecstore.storage import graph as stored
from vecstore.storage import keys
from vecstore.storage.blocks import HEAD_BYTES, damaged
from vecstore.storage.header import GraphHeader
from vecstore.storage.session import Session
from vecstore.storage.slots import live_mask
from vecstore.storage.state import Blocks, Numbers, State
from vecstore.storage.vectors import read_rows

Found = exact.Found

_CODECS = {*KINDS, *bits.KINDS}
# How many rows of a graph that is no blocks yet are taken for one.
_ROWS_A_BLOCK = 32
_SEARCHED_AT_ONCE, _DRAWN, _FEWER_OF_MANY = 25, 4, 4


@dataclass(frozen=True)
class Ready:
    """A state's graph, ready to be walked."""

    walker: Walker
    # 1 for each slot whose record is live and linked.
    mask: NDArray[np.uint8]
    # 1 for each slot whose record is pending; None where none is.
    waiting: NDArray[np.uint8] | None
    # The share of nodes whose records are live.
    live: float
    # Which checks its tables note what they found in: a whole verification begins anew.
    checked: object


class Graph:
    """One collection's way to its graph. Threads may share it."""

    def __init__(self, threads: int, memory: int | None, codec: str | None = None) -> None:
        self._threads = threads
        self._codec = codec
        self._memory = memory
        self._resident: tuple[object, Resident] | None = None
        # So many records were too many for the memory when they were to be linked last.
        self._refused = -1
        self._warned = False

    @property
    def nbytes(self) -> int:
        """Memory that codes and their tables take."""
        return 0 if self._resident is None else self._resident[1].nbytes

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
            self._resident_of(blocks),
            graph,
            header.graph.degree,
            vectors,
            blocks.layout.rows,
        )
        mask = live_mask(blocks) & stored.linked_mask(blocks)
        pending = live_mask(blocks) > mask
        waiting = pending.astype(np.uint8) if pending.any() else None
        live = float(np.count_nonzero(mask) / header.graph.nodes)
        blocks.cache["graph"] = found = Ready(walker, mask, waiting, live, blocks.checked)
        return found

    @staticmethod
    def nearest(
        blocks: Blocks,
        ready: Ready,
        queries: NDArray[Any],
        k: int,
        reach: calibrate.Reach,
        threads: int,
    ) -> tuple[list[Found], Effort]:
        """The k nearest of each query, pending records included; and what it took."""
        try:
            slots, distances, sizes, effort = ready.walker.search(
                queries, k, reach, ready.mask, threads, exact.executor
            )
        except DamageFound as found:
            raise _explained(blocks, found) from None
        answers = [
            (row[:size], values[:size])
            for row, values, size in zip(slots, distances, sizes.tolist(), strict=True)
        ]
        # Where nearly all records near a query are gone, a walk says that it is lost, and a scan answers.
        for place in effort.lost.tolist():
            [answers[place]] = exact.nearest(blocks, queries[place : place + 1], k, ready.mask, threads)
        if ready.waiting is not None:
            others = exact.nearest(blocks, queries, k, ready.waiting, threads)
            answers = [_merged(mine, other, k) for mine, other in zip(answers, others, strict=True)]
        return answers, effort

    def _resident_of(self, blocks: State) -> Resident:
        graph = blocks.header.graph
        assert graph is not None
        stamp = blocks.header.uuid, graph.stamp
        if self._resident is None or self._resident[0] != stamp:
            self._resident = stamp, _read_resident(blocks)
        return self._resident[1]

    def recall(self, blocks: Blocks, ready: Ready, sample: int, k: int) -> float:
        """What a walk by default finds of the true neighbours that it can find."""
        if not ready.mask.any():
            return 1.0
        reach = ready.walker.reach
        measured = _Sample.of(blocks, ready.walker, ready.mask, sample, k, self._threads)
        return measured.recall(k, reach(k, None, None), reach(k + 1, None, None))

    def drift(self, blocks: Blocks) -> float | None:
        """How much more the codec loses of pending vectors than of those that it was trained for; 1.0 is no more.

        None where there is no codec, or nothing pending to compare.
        """
        if blocks.header.graph is None or not stored.pending_slots(blocks).size:
            return None
        ready = self.ready(blocks)
        if ready is None or ready.waiting is None or isinstance(ready.walker.resident.codec, Bits):
            return None
        resident = ready.walker.resident
        slots = np.flatnonzero(ready.waiting)
        slots = np.sort(np.random.default_rng(2).permutation(slots)[: config.DRIFT_SAMPLE])
        rows = space.prepare_rows(blocks.header.settings, read_rows(blocks, slots), resident.norm_limit)
        return linking.distortion(resident.codec, rows) / max(resident.distortion, 1e-12)

    # -- building

    def worn(self, blocks: Blocks) -> float:
        """The share of records that came after the last build, or half that of those gone since.

        All of them where a graph is wanted and there is none; none where a scan will do.
        """
        header = blocks.header
        large = header.records * header.settings.row_bytes >= config.GRAPH_FROM_BYTES
        if not large or header.records < config.GRAPH_FROM:
            return 0.0
        if header.graph is None:
            return 1.0
        pending = stored.pending_slots(blocks).size
        gone = header.graph.nodes - (header.records - pending)
        return float(max(pending, gone / 2) / header.records)

    def rebuild(self, session: Session, progress: build.Progress) -> None:
        """Build a graph of all live records in place of the one there is; the caller commits."""
        if self._memory is not None:
            if self._refused == session.header.records:
                return
            # What the new graph replaces makes room; a search meanwhile would read it again.
            self._resident = None
            for blocks in (session, session.base):
                blocks.cache.pop("graph", None)
        with linking.link(session, self._memory, self._threads, self._codec, progress) as linked:
            if linked is None:
                self._refused = session.header.records
                self._warn(session)
            else:
                linked.write(session, self._calibrate(session, linked))

    def _fits(self, graph: GraphHeader, blocks: Blocks) -> bool:
        """Whether the memory allows walking. Where it does not, one is told so, and searches scan."""
        if self._memory is None or linking.resident_bytes(graph.nodes, graph.code_bytes) <= self._memory:
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
        few = min(config.DEFAULT_K, count - 2)
        if few < 1:
            return calibrate.UNKNOWN
        most = config.MANY if count > 10 * config.MANY else few
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
            counting = np.flatnonzero(mask[slots])[:size]
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
        leave it out lacks the node that its neighbours are linked by, and finds too little. Real queries lie
        midway, within a point, on every set that was tried.
        """
        search, threads = self.walker.search, self.threads
        bounds = self.truth[:, k - 1]
        bounds = bounds + 1e-9 * np.abs(bounds) + self.rounding
        slots, distances, sizes, _ = search(
            self.queries, k, alone, self.mask, threads, exact.executor, self.nodes
        )
        low = _share(slots, distances, sizes, self.slots, bounds, k)
        slots, distances, sizes, _ = search(self.queries, k + 1, with_own, self.mask, threads, exact.executor)
        return (low + _share(slots, distances, sizes, self.slots, bounds, k)) / 2


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


def _read_codec(content: Any, settings: config.Settings) -> Codec | Bits:
    """A codec of the collection's own kind of numbers, or a ValueError."""
    if settings.dtype != "binary":
        return Codec.from_dict(content)
    bits = Bits.from_dict(content)
    if bits.kind != f"{settings.metric} bits":
        raise ValueError("codes of another metric")
    return bits


def _merged(mine: Found, other: Found, k: int) -> Found:
    slots, distances = np.concatenate((mine[0], other[0])), np.concatenate((mine[1], other[1]))
    order = np.lexsort((slots, distances))[:k]
    return slots[order], distances[order]


def _read_resident(blocks: State) -> Resident:
    """The graph's parameters and codes, every number of them checked."""
    graph = blocks.header.graph
    assert graph is not None
    try:
        content = msgpack.unpackb(stored.read_index(blocks))
        codec = _read_codec(content["codec"], blocks.header.settings)
        slots = stored.graph_slots(blocks)
        entries = np.frombuffer(content["entries"], dtype="<u4").astype(np.uint32)
        calibration = Calibration.from_dict(content["calibration"])
        limit, distortion = float(content["norm_limit"]), float(content["distortion"])
        if not entries.size or int(entries.max()) >= graph.nodes:
            raise ValueError("it names nodes that do not exist")
        if codec.code_bytes != graph.code_bytes or codec.width != space.width(blocks.header.settings):
            raise ValueError("its codes have another width")
    except (KeyError, TypeError, ValueError, msgpack.UnpackException) as error:
        raise damaged(keys.INDEX, graph.index_first, f"it cannot be read ({error})") from None
    codes = room_for_codes(graph.nodes, graph.code_bytes)
    for first, count in stored.batches(graph, graph.code_bytes):
        codes[first : first + count] = stored.code_rows(blocks, first, count)
    return Resident(codec, codes, slots, entries, calibration, limit, distortion)


def _explained(blocks: Blocks, found: DamageFound) -> CorruptionError:
    """What is wrong with the block that a walk gave up at."""
    kind = keys.GRAPH if found.graph else keys.VECTORS
    if not found.foreign:
        try:
            blocks.block(kind, found.number)
        except CorruptionError as error:
            return error
        return damaged(kind, found.number, "one of its pages is not what its sum says")
    return damaged(kind, found.number, "it names a node that does not exist")
