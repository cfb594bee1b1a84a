"""The building of a graph of all live records: at once, or in shards where a budget of memory wants that.

The budget is for what this process holds itself: pages of files that the system keeps for it come on top.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass

import msgpack
import numpy as np
from numpy.typing import NDArray

from vecstore import config
from vecstore.device import Device
from vecstore.index import build, calibrate, division, scratch, shards, space
from vecstore.index.bits import Bits
from vecstore.index.calibrate import Calibration
from vecstore.index.choice import choose
from vecstore.index.codec import Codec
from vecstore.index.knit import bytes_of_later
from vecstore.index.on_card import steps_for
from vecstore.index.steps import Steps
from vecstore.index.walk import Resident
from vecstore.query import exact
from vecstore.storage import graph as stored
from vecstore.storage.environment import translated
from vecstore.storage.platform import give_back_memory
from vecstore.storage.session import Session
from vecstore.storage.store import live_slots
from vecstore.storage.vectors import read_rows

# Codes where those that would be chosen don't fit.
_SHORTER = "scalar4"

Words = NDArray[np.uint32]
Bytes = NDArray[np.uint8]

# What building at once takes besides, distances within leaves and rows in portions; or the share of a small memory
# that may be left to them.
_BESIDES, _BESIDES_SHARE = 64 << 20, 4


@dataclass(frozen=True)
class Linked:
    """A graph that was built and is in no file of ours yet."""

    plan: build.Plan
    # Not calibrated.
    resident: Resident
    # Slots and edges, as in the file's rows.
    table: Words
    # Whether the table and the codes are mapped from files, not in memory.
    in_files: bool
    edges: build.Edges | Iterable[build.Edges]
    codes: Bytes | Iterable[Bytes]

    def write(self, session: Session, calibration: Calibration) -> None:
        """Put it in the place of the collection's graph; the caller commits."""
        if self.in_files:
            give_back_memory()
        resident = self.resident
        content = {
            "codec": resident.codec.to_dict(),
            "entries": resident.entries.tobytes(),
            "calibration": calibration.to_dict(),
            "norm_limit": resident.norm_limit,
            "distortion": resident.distortion,
        }
        stored.write_graph(
            session,
            slots=resident.slots,
            neighbors=self.edges,
            codes=self.codes,
            index=msgpack.packb(content),
            degree=self.plan.degree,
            code_bytes=resident.codec.code_bytes,
            codec=resident.codec.kind,
            entries=resident.entries.size,
            seed=self.plan.seed,
        )


def resident_bytes(nodes: int, code_bytes: int, edges: int = 0) -> int:
    """What walks keep in memory of a graph: a code, a slot and the way back from it for each node; edges in chains."""
    return nodes * (code_bytes + 8) + bytes_of_later(edges, nodes)


@contextlib.contextmanager
def link(
    session: Session,
    memory: int | None,
    threads: int,
    codec: str | None,
    progress: build.Progress,
    device: Device | None = None,
) -> Iterator[Linked | None]:
    """The graph of all live records; None where the memory is too little for one. Its files are gone at the end.

    ``codec`` is a kind of code; None for the one that a sample shows to be enough. Without a device the CPU does it.
    """
    work = _Work(session, threads, codec, progress, device)
    if memory is None or work.bytes_at_once <= memory - min(_BESIDES, memory // _BESIDES_SHARE):
        yield work.at_once()
        return
    limits = division.Limits.of(memory, work.count, work.width, work.plan, threads)
    if limits is None:
        yield None
        return
    give_back_memory()
    with contextlib.ExitStack() as files:
        yield work.in_shards(limits, memory, files)


class _Work:
    def __init__(
        self,
        session: Session,
        threads: int,
        codec: str | None,
        progress: build.Progress,
        device: Device | None,
    ) -> None:
        self.session, self.threads, self.progress = session, threads, progress
        self.device = device
        self.kind = codec
        self.settings = session.header.settings
        self.width = space.width(self.settings)
        self.plan = build.Plan(seed=session.header.seed & 0xFFFFFFFF)
        self.slots: Words = live_slots(session).astype(np.uint32)
        self.norm_limit = 0.0
        if self.settings.metric == "ip":  # only inner products want to know
            parts = (self._rows(low, high) for low, high in self._portions())
            self.norm_limit = max((space.longest(self.settings, rows) for rows in parts), default=0.0)

    @property
    def count(self) -> int:
        return self.slots.size

    @property
    def bytes_at_once(self) -> int:
        return self.count * build.memory_a_vector(self.plan, self.width)

    def at_once(self) -> Linked:
        vectors = np.empty((self.count, self.width), dtype=np.float32)
        for low, high in self._portions():
            vectors[low:high] = self._prepare(self._rows(low, high))
        pool = exact.executor(self.threads)
        steps = self._steps(self.threads, pool)
        order, edges, entries = build.build(vectors, self.plan, self.threads, pool, self.progress, steps)
        vectors = build.arranged(vectors, order, self.threads, pool)
        sample = np.sort(np.random.default_rng(self.plan.seed).permutation(self.count)[: config.SAMPLE])
        codec, lost = self._codec(vectors[sample], steps)
        codes = steps.encode(codec, vectors)
        table = np.empty((self.count, 1 + edges.shape[1]), dtype=np.uint32)
        table[:, 0], table[:, 1:] = self.slots[order], edges
        resident = self._resident(codec, codes, table[:, 0].copy(), entries, lost)
        return Linked(self.plan, resident, table, False, table[:, 1:], codes)

    def in_shards(self, limits: division.Limits, memory: int, files: contextlib.ExitStack) -> Linked | None:
        """The slots are in the order of the nodes after this."""
        wanted = min(config.SAMPLE, division.Limits.sample(memory, self.width))
        picked = np.sort(np.random.default_rng(self.plan.seed).permutation(self.count)[:wanted])
        sample = np.empty((picked.size, self.width), dtype=np.float32)
        for low, high in self._portions(picked.size):
            rows = read_rows(self.session, self.slots[picked[low:high]].astype(np.int64))
            sample[low:high] = self._prepare(rows)
        pool = exact.executor(limits.threads)
        steps = self._steps(limits.threads, pool)
        codec, lost = self._codec(sample, steps)
        if resident_bytes(self.count, codec.code_bytes) > memory and self.kind is None:
            self.kind = _SHORTER
            codec, lost = self._codec(sample, steps)
        if resident_bytes(self.count, codec.code_bytes) > memory:
            return None
        leaders = division.choose_leaders(sample, self.count, limits, pool)
        del sample
        path = self.session.path
        folder = os.path.dirname(os.path.abspath(path))
        with translated(path, "building the graph"):
            source = division.Source(
                self.slots, self.width, self.settings.row_bytes, self._rows, self._prepare
            )
            graph = files.enter_context(
                shards.link(source, leaders, limits, pool, folder, self.progress, steps)
            )
            self.slots = graph.labels()
            del source
            codes = files.enter_context(scratch.Rows(folder, codec.code_bytes))
            done = 0
            for vectors in graph.vectors():
                part = steps.encode(codec, vectors)
                codes.write(done, part)
                done += len(part)
            mapped = codes.mapped(done, at_random=False)
            resident = self._resident(codec, mapped, self.slots, graph.entries, lost)
        # What shards were built in is free, and codes that are read after this need not come on top of it.
        give_back_memory()
        return Linked(self.plan, resident, graph.table(), True, graph.edges(), codes.windows(done))

    def _rows(self, low: int, high: int) -> Bytes:
        return read_rows(self.session, self.slots[low:high].astype(np.int64))

    def _prepare(self, rows: Bytes) -> build.Vectors:
        return space.prepare_rows(self.settings, rows, self.norm_limit)

    def _portions(self, count: int | None = None) -> Iterator[tuple[int, int]]:
        # Preparing takes float64 for a while.
        return scratch.portions(0, self.count if count is None else count, 16 * self.width)

    def _steps(self, threads: int, pool: Executor) -> Steps:
        return steps_for(self.device, self.count, self.width, threads, pool)

    def _codec(self, sample: build.Vectors, steps: Steps) -> tuple[Codec | Bits, float]:
        """A codec for vectors like these, and what it loses of them."""
        if self.settings.dtype == "binary":
            return Bits(f"{self.settings.metric} bits", self.settings.dim), 0.0
        kind = self.kind or self._chosen(sample)
        codec = steps.train(sample, kind, self.plan.seed)
        return codec, distortion(codec, sample)

    def _chosen(self, sample: build.Vectors) -> str:
        """The kind of code that tells these vectors' neighbours from others."""
        mixed = np.random.default_rng(self.plan.seed).permutation(len(sample))[: config.CHOICE_SAMPLE]
        asked = min(config.CHOICE_QUERIES, mixed.size // 2)
        if asked == 0:
            return "scalar8"
        return choose(sample[np.sort(mixed[asked:])], sample[np.sort(mixed[:asked])], self.plan.seed)

    def _resident(
        self, codec: Codec | Bits, codes: Bytes, slots: Words, entries: build.Edges, lost: float
    ) -> Resident:
        return Resident(codec, codes, slots, entries, calibrate.UNKNOWN, self.norm_limit, lost)


def distortion(codec: Codec | Bits, vectors: build.Vectors) -> float:
    """What the codec loses of some vectors, as a share of their variance; nothing of bits."""
    if isinstance(codec, Bits):
        return 0.0
    some = np.random.default_rng(2).permutation(len(vectors))[: config.DRIFT_SAMPLE]
    return codec.distortion(vectors[np.sort(some)])
