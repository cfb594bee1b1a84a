"""A graph as one snapshot has it, ready to be walked: tables of blocks, codes in memory, and what was calibrated."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vecstore.config import Settings
from vecstore.index.bits import Bits
from vecstore.index.bundles import Bundled
from vecstore.index.calibrate import Calibration, Reach, reach_of_list
from vecstore.index.codec import Codec
from vecstore.index.knit import NO_LATER, Later
from vecstore.index.single import Single
from vecstore.index.watch import Watch
from vecstore.kernels import dispatch, reference

Numbers = NDArray[np.int64]
Distances = NDArray[np.float64]

_NONE = np.zeros(0, dtype=np.int64)
_NO_SKIP = np.full(1, -1, dtype=np.int64)
# Fewer queries than this for a thread are not worth handing to one.
_QUERIES_A_THREAD = 8
# While what searches read comes from the disk, they look this often whether it still does.
_BETWEEN_LOOKS = 32
# A walk that found too few answers is done again with so many times the room, up to this: in a longer pool
# a place costs more than comparing a vector.
_WIDER, _MOST_ROOM = 8, 1 << 13


class Table(Protocol):
    """Blocks of one kind, as ``storage``'s lazy tables list them."""

    @property
    def kind(self) -> int: ...
    @property
    def first(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def base(self) -> int: ...
    @property
    def page_bytes(self) -> int: ...
    @property
    def addresses(self) -> NDArray[np.uint64]: ...
    @property
    def generations(self) -> NDArray[np.uint64]: ...
    @property
    def seen(self) -> NDArray[np.uint64]: ...


class Rows(Table, Protocol):
    """Blocks of vectors. Their pages have sums, by which a row is checked without the rest of its block."""

    @property
    def row_start(self) -> int: ...
    @property
    def sums(self) -> NDArray[np.uint32]: ...
    @property
    def pages_seen(self) -> NDArray[np.uint64]: ...


class DamageFound(Exception):  # noqa: N818 – the layer above makes a CorruptionError of it
    """A walk met a block that is not whole, or a number in it that means nothing: `number` of graph or vectors."""

    def __init__(self, *, graph: bool, number: int, foreign: bool) -> None:
        super().__init__(graph, number, foreign)
        self.graph, self.number, self.foreign = graph, number, foreign


def damage(status: int, number: int) -> DamageFound:
    """What a kernel says that it met: the number of a block of the graph, or -1 - that of a block of vectors."""
    foreign = status == dispatch.cpu().beam.FOREIGN
    return DamageFound(graph=number >= 0, number=number if number >= 0 else -1 - number, foreign=foreign)


@dataclass(frozen=True)
class Resident:
    """What of one snapshot's graph is kept in memory."""

    codec: Codec | Bits
    codes: NDArray[np.uint8]
    # The slot of each node.
    slots: NDArray[np.uint32]
    entries: NDArray[np.uint32]
    calibration: Calibration
    norm_limit: float
    # What the codec lost of the vectors that it was trained for.
    distortion: float = 0.0
    # Edges that came after the rows, of which this snapshot has so many.
    later: Later = NO_LATER
    edges: int = 0
    watch: Watch = field(default_factory=Watch, compare=False)
    # The node of each slot; for slots that newer snapshots changed, as they have it.
    nodes_of: NDArray[np.uint32] | None = None
    bundled: Bundled = field(default_factory=Bundled, compare=False)

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.slots.nbytes + self.entries.nbytes + self.later.nbytes + self.bundled.nbytes


@dataclass(frozen=True)
class Effort:
    """What a search took: hops and scores over all queries, and vectors compared exactly.

    Walks for the queries `lost` met next to nothing but nodes that are no answers: those are to be scanned for.
    """

    hops: int
    scores: int
    reranked: int
    lost: Numbers = field(default_factory=lambda: _NONE, compare=False)
    # Of a search with a filter: the way it took, how many of its walks gave up and were answered in another way, and the
    # seconds that each way was thought to take for one query.
    plan: str = "graph"
    given_up: int = 0
    predicted: dict[str, float] | None = None

    def __add__(self, other: Effort) -> Effort:
        return Effort(self.hops + other.hops, self.scores + other.scores, self.reranked + other.reranked)


class Job(NamedTuple):
    """Arrays with a row for each query: what a kernel takes, and what it fills."""

    queries: NDArray[Any]
    skips: Numbers
    slots: Numbers
    distances: Distances
    sizes: Numbers
    sures: Numbers

    def rows(self, chosen: slice | Numbers) -> Job:
        return Job._make(each[chosen] for each in self)


class Besides(NamedTuple):
    """What else a search brings, the same for all its queries."""

    mask: NDArray[np.uint8]
    others: Numbers
    threads: int
    executor: Callable[[int], Executor]


Here: TypeAlias = Callable[[Job], Effort]


class Elsewhere(Protocol):
    """Where walks for many queries may be done instead."""

    def run(self, walker: Walker, job: Job, reach: Reach, here: Here, besides: Besides) -> Effort:
        """Does a job, or has it done `here` or some of it."""
        ...


class Walker:
    """Walks one snapshot's graph. Threads may share it."""

    def __init__(
        self,
        settings: Settings,
        resident: Resident,
        graph: Table,
        degree: int,
        vectors: Rows,
        vector_rows: int,
    ) -> None:
        self.settings = settings
        self.resident = resident
        self.degree = degree
        self._held = graph, vectors
        kernels = dispatch.cpu()
        self.weights = reference.checksum_weights(max(graph.length, vectors.length) // 4)
        frame = np.zeros(1, dtype=kernels.beam.FRAME)
        numbers = {
            "metric": kernels.beam.METRICS[settings.metric],
            "dim": settings.dim,
            "row_bytes": settings.row_bytes,
            "nodes": resident.slots.size,
            "degree": degree,
            "kind": resident.codec.number,
            "codes": resident.codes.ctypes.data,
            "code_bytes": resident.codes.shape[1],
            "state_bytes": resident.codec.state_bytes,
            "norm_limit": resident.norm_limit,
            "slots": resident.slots.ctypes.data,
            "entries": resident.entries.ctypes.data,
            "entry_count": resident.entries.size,
            "base": graph.base,
            "page_bytes": graph.page_bytes,
            "graph_kind": graph.kind,
            "graph_first": graph.first,
            "graph_rows": (graph.length - 48) // (4 * (degree + 1)),
            "graph_length": graph.length,
            "graph_addresses": graph.addresses.ctypes.data,
            "graph_generations": graph.generations.ctypes.data,
            "graph_seen": graph.seen.ctypes.data,
            "vector_kind": vectors.kind,
            "vector_rows": vector_rows,
            "vector_start": vectors.row_start,
            "vector_pages": vectors.sums.shape[1],
            "vector_sums": vectors.sums.ctypes.data,
            "vector_pages_seen": vectors.pages_seen.ctypes.data,
            "vector_length": vectors.length,
            "vector_addresses": vectors.addresses.ctypes.data,
            "vector_generations": vectors.generations.ctypes.data,
            "vector_seen": vectors.seen.ctypes.data,
            "later_heads": resident.later.heads.ctypes.data,
            "later_lines": resident.later.lines.ctypes.data,
            "later_count": resident.edges,
            "later_origin": resident.later.origin,
        }
        for name, value in numbers.items():
            frame[name] = value
        self.frame = frame
        self._cold = frame["cold"]
        self.codec = resident.codec.parameters
        self.watch = resident.watch
        self._counted: tuple[NDArray[np.uint8], int] | None = None
        self._trusted: dict[Any, Any] = {}
        self._reaches: dict[tuple[int, float | None, int | None], Reach] = {}
        # What ``single`` made, or None where another way is taken; by what was asked for.
        self.singles: dict[tuple[int, float | None, int | None], Single | None] = {}

    @cached_property
    def _search(self) -> Any:
        return dispatch.cpu().beam.search(self.settings.dtype)

    def trusted(self, kernel: Any) -> Any:
        """A kernel that has what it reads of the graph already, and takes all else for what it was compiled for."""
        found = self._trusted.get(kernel)
        if found is None:
            trusting = dispatch.cpu().compile.trusting
            found = self._trusted[kernel] = trusting(kernel, self.frame, self.weights, self.codec)
        return found

    @cached_property
    def _is_query(self) -> Any:
        kernels = dispatch.cpu()
        return kernels.compile.trusting(kernels.beam.is_query(self.settings.dtype), self.frame)

    def takes(self, query: NDArray[Any]) -> bool:
        """Whether there are distances to a query, which is contiguous and aligned, of float32 or of packed bits."""
        found: bool = self._is_query(query)
        return found

    def single(
        self, k: int, reach: Reach, mask: NDArray[np.uint8], others: Numbers = _NONE
    ) -> Single | None:
        """What searches for one vector at a time as ``search`` would; None where no node may be an answer."""
        nodes, counting = self.resident.slots.size, self._counting(mask)
        if not counting:
            return None
        wanted = 0 if counting == nodes else min(k, counting)
        return Single(self, mask, others, k, self._spread(reach, counting), wanted)

    def _spread(self, reach: Reach, counting: int) -> Reach:
        """Nodes that are no answers any more take places among the best: so much the farther it is to go."""
        spread = self.resident.slots.size / counting
        room = min(math.ceil(reach.room * spread), max(reach.room, _MOST_ROOM))
        return replace(reach, room=room, near=math.ceil(reach.near * spread))

    def reach(self, k: int, recall: float | None, search_list: int | None) -> Reach:
        """How far to walk for a target of recall, or with a pool of a given size."""
        asked = k, recall, search_list
        found = self._reaches.get(asked)
        if found is None:
            if search_list is not None:
                found = reach_of_list(k, search_list)
            else:
                found = self.resident.calibration.reach(k, recall)
            self._reaches[asked] = found
        return found

    def search(
        self,
        queries: NDArray[Any],
        k: int,
        reach: Reach,
        mask: NDArray[np.uint8],
        threads: int,
        executor: Callable[[int], Executor],
        skips: Numbers | None = None,
        others: Numbers = _NONE,
        elsewhere: Elsewhere | None = None,
    ) -> tuple[Numbers, Distances, Numbers, Effort]:
        """(slots, distances, sizes) of the answers, each (queries, k), nearest first; and what it took.

        ``mask`` has a 1 for each slot that may be an answer; ``skips`` names a node for each query that its
        walk leaves out. Records in the slots ``others``, which have no nodes, are compared with every query.
        ``elsewhere`` may do the walks.
        """
        count = len(queries)
        job = Job(
            np.require(queries, requirements=("C", "A")),
            (_NO_SKIP if count == 1 else np.full(count, -1, dtype=np.int64)) if skips is None else skips,
            np.empty((count, k), dtype=np.int64),
            np.empty((count, k)),
            np.zeros(count, dtype=np.int64),
            np.zeros(count, dtype=np.int64),
        )
        besides = Besides(mask, others, threads, executor)
        nodes, counting = self.resident.slots.size, self._counting(mask)
        if counting == nodes:
            effort = self._run_all(job, reach, besides, elsewhere)
            return job.slots, job.distances, job.sizes, effort
        if not counting and not others.size:
            return job.slots, job.distances, job.sizes, Effort(0, 0, 0)
        most = max(reach.room, _MOST_ROOM)
        reach = self._spread(reach, max(counting, 1))
        effort = self._run_all(job, reach, besides, elsewhere)
        wanted = np.minimum(k, counting - (job.skips >= 0))
        lost = np.flatnonzero(job.sures < wanted)
        if lost.size and reach.room < most:
            # Where many went that lay together, a query from there meets them all, and has to go beyond.
            again = job.rows(lost)
            wider = replace(reach, room=min(reach.room * _WIDER, most), near=reach.near * _WIDER)
            effort += self._run_all(again, wider, besides, elsewhere)
            for mine, its in zip(job[2:], again[2:], strict=True):
                mine[lost] = its
            lost = lost[again.sures < wanted[lost]]
        effort = replace(effort, lost=lost)
        return job.slots, job.distances, job.sizes, effort

    def _counting(self, mask: NDArray[np.uint8]) -> int:
        """How many nodes may be answers; a snapshot's mask is counted once."""
        known = self._counted
        if known is None or known[0] is not mask:
            self._counted = known = mask, min(int(np.count_nonzero(mask)), self.resident.slots.size)
        return known[1]

    def _run_all(self, job: Job, reach: Reach, besides: Besides, elsewhere: Elsewhere | None) -> Effort:
        if elsewhere is None:
            return self._run_here(reach, besides, job)
        return elsewhere.run(self, job, reach, partial(self._run_here, reach, besides), besides)

    def _run_here(self, reach: Reach, besides: Besides, job: Job) -> Effort:
        mask, others, threads, executor = besides
        count = len(job.queries)
        threads = min(threads, count // _QUERIES_A_THREAD)
        if threads <= 1:
            return self._run(job, reach, mask, others)
        # More parts than threads, so that none waits long for the last.
        bounds = np.linspace(0, count, min(count, 4 * threads) + 1).astype(int).tolist()
        parts = [job.rows(slice(low, high)) for low, high in pairwise(bounds)]
        efforts = executor(threads).map(lambda part: self._run(part, reach, mask, others), parts)
        return sum(efforts, Effort(0, 0, 0))

    def _run(self, job: Job, reach: Reach, mask: NDArray[np.uint8], others: Numbers) -> Effort:
        counters, watch = np.zeros(4, dtype=np.int64), self.watch
        done, count = 0, len(job.queries)
        while done < count:
            cold = watch.cold
            few = slice(done, done + _BETWEEN_LOOKS if cold else count)
            part = job if count == 1 else job.rows(few)
            self._cold[0] = cold
            status = self._search(
                self.frame,
                self.weights,
                self.codec,
                mask,
                others,
                *part[:2],
                reach.near,
                reach.room,
                reach.slack,
                reach.reranked,
                *part[2:],
                counters,
            )
            watch.look()
            if status:
                raise damage(status, int(counters[3]))
            done = few.stop
        hops, scores, _, _ = counters.tolist()
        return Effort(hops, scores, len(job.queries) * reach.reranked)
