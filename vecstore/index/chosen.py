"""Searches among the records that a filter chose: by a walk or by all of their codes, whichever takes less time here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore.config import MOST_WALKED
from vecstore.index.walk import Distances, Effort, Numbers, Walker, damage
from vecstore.kernels import dispatch

_NONE = np.zeros(0, dtype=np.int64)
# Walks that look for a share s of the nodes take about s to this power as many hops, on every set that was tried.
_GROWTH = -0.75
# A pool has so much more room than a walk for as many answers as have k of the chosen among them, up to this.
_ROOM, _MOST_ROOM = 1.25, 1 << 13
# When a walk has come near its query, so much less of what it meets than of all was chosen, and it gives up.
_LOOK_AFTER, _RARER = 40, 5
# Codes that are scanned tell about k of the chosen apart from the rest, among so many that are compared.
_COMPARED, _COMPARED_BESIDES = 2, 10
_CODES_TIMED, _APART = 4_096, 10
_PARTS_A_THREAD = 4
# Where fewer than one of so many nodes was chosen, they are looked up by their slots.
_FEW = 16
# One query's codes are scanned by several threads from so many on.
_CODES_A_THREAD = 50_000


@dataclass(frozen=True)
class Chosen:
    """Records that a filter chose, as one snapshot's graph knows them."""

    walker: Walker
    # 1 for each slot whose record is live, linked and chosen.
    mask: NDArray[np.uint8]
    # Slots of pending records that were chosen, where these are few; else a 1 for each of them.
    few: Numbers
    many: NDArray[np.uint8] | None
    # What looks among them, by what was asked for.
    searches: dict[tuple[int, float | None, int | None], Search] = field(default_factory=dict, compare=False)

    @cached_property
    def count(self) -> int:
        """How many nodes were chosen."""
        return int(np.count_nonzero(self.mask.view(np.bool_)))

    @cached_property
    def nodes(self) -> NDArray[np.uint32]:
        """The nodes that were chosen, in order."""
        resident = self.walker.resident
        if self.count * _FEW < resident.slots.size and resident.nodes_of is not None:
            slots = np.flatnonzero(self.mask.view(np.bool_))
            nodes = np.sort(resident.nodes_of[slots])
            # A newer snapshot may have moved a record meanwhile.
            if (nodes < resident.slots.size).all() and (self.mask[resident.slots[nodes]] > 0).all():
                return nodes
        every: NDArray[np.uint32] = np.empty(resident.slots.size + 1, dtype=np.uint32)
        count = dispatch.cpu().chosen.nodes_of()(resident.slots, self.mask, every)
        found: NDArray[np.uint32] = every[: int(count)].copy()
        return found

    @property
    def share(self) -> float:
        """Of all nodes."""
        return max(self.count, 1) / self.walker.resident.slots.size

    @property
    def nbytes(self) -> int:
        return (
            self.mask.nbytes
            + 4 * self.count
            + self.few.nbytes
            + (0 if self.many is None else self.many.nbytes)
        )


@dataclass(frozen=True)
class Costs:
    """What searches take on this machine, of this collection: seconds of a walk, its hops, and seconds of a code."""

    walk: float
    hops: float
    code: float

    def predict(self, chosen: Chosen) -> tuple[float, float]:
        """Seconds of a walk that looks for the chosen, and of scanning their codes."""
        return self.walk * chosen.share**_GROWTH, self.code * chosen.count


_Answers = tuple[Numbers, Distances, Numbers]


class _Look:
    """The kernels, and how far they are to look for k answers among the chosen."""

    def __init__(self, chosen: Chosen, k: int, recall: float | None, search_list: int | None) -> None:
        self._chosen, self._k = chosen, k
        self._kernels = dispatch.cpu().chosen
        self._way = self._reach(recall, search_list)
        self._way["hops"] = chosen.count

    def _reach(self, recall: float | None, search_list: int | None) -> NDArray[np.void]:
        """How far walks go, and how many answers are compared."""
        walker, k, share = self._chosen.walker, self._k, self._chosen.share
        way, reach = np.zeros(1, dtype=self._kernels.WAY), walker.reach(k, recall, search_list)
        way["reranked"] = max(reach.reranked, _COMPARED * k + _COMPARED_BESIDES)
        way["look_after"], way["least"] = _LOOK_AFTER, int(share * self._kernels.FRONT / _RARER)
        if search_list is None:
            # Among so many nodes there are k of the chosen.
            around = walker.reach(min(math.ceil(k / share), MOST_WALKED), recall, None)
            spread = max(k, walker.resident.calibration.most)
            way["near"], way["slack"], way["spread"] = reach.near, reach.slack, spread
            way["slack_spread"] = walker.reach(spread, recall, None).slack
            room = _ROOM * max(around.room, reach.room)
        else:
            way["near"], way["slack"] = reach.room, 1.0
            room = 2.0 * reach.room / share
        way["room"] = min(math.ceil(room), _MOST_ROOM)
        return way

    def _run(
        self, kind: str, among: NDArray[Any], few: Numbers, queries: NDArray[Any], counters: Numbers
    ) -> _Answers:
        walker, k = self._chosen.walker, self._k
        kernel = (self._kernels.walk if kind == "walk" else self._kernels.scan)(walker.settings.dtype)
        slots, distances = np.empty((len(queries), k), dtype=np.int64), np.empty((len(queries), k))
        sizes = np.empty(len(queries), dtype=np.int64)
        walker.frame["cold"][0] = walker.watch.cold
        status = kernel(
            walker.frame,
            walker.weights,
            walker.codec,
            among,
            few,
            queries,
            self._way,
            slots,
            distances,
            sizes,
            counters,
        )
        walker.watch.look()
        if status:
            raise damage(status, int(counters[3]))
        return slots, distances, sizes


class Trial(_Look):
    """Walks and scans to see what they take; they may be as long as they are."""

    def measure(self, queries: NDArray[Any]) -> Costs:
        """Walk and scan for each of a few queries, and see what it takes.

        Each reads other codes than the one before, as searches do: those that are in the cache already cost a third.
        They lie as far apart as where either way takes about as long.
        """
        nodes, walks, scans, hops = self._chosen.nodes, [], [], []
        for place in range(len(queries)):
            first = place * max(0, nodes.size - _CODES_TIMED * _APART) // len(queries)
            query, sample = (
                queries[place : place + 1],
                nodes[first : first + _CODES_TIMED * _APART : _APART].copy(),
            )
            walk, counted = self._timed("walk", self._chosen.mask, query)
            none, _ = self._timed("scan", sample[:1], query)
            scan, _ = self._timed("scan", sample, query)
            walks.append(walk)
            hops.append(counted)
            scans.append(max(scan - none, 1e-9) / max(sample.size, 1))
        return Costs(float(np.median(walks)), float(np.median(hops)), float(np.median(scans)))

    def _timed(self, kind: str, among: NDArray[Any], query: NDArray[Any]) -> tuple[float, int]:
        counters = np.zeros(4, dtype=np.int64)
        start = time.perf_counter()
        self._run(kind, among, _NONE, query, counters)
        return time.perf_counter() - start, int(counters[0])


class Search(_Look):
    """Looks for k answers among the chosen, with a target of recall or in a list of a given size. Threads may share it."""

    def __init__(
        self, chosen: Chosen, costs: Costs, k: int, recall: float | None, search_list: int | None
    ) -> None:
        super().__init__(chosen, k, recall, search_list)
        self._predicted = costs.predict(chosen)
        # A walk that turns out to be longer than scanning would be is given up.
        self._way["hops"] = max(_LOOK_AFTER, math.ceil(costs.hops * self._predicted[1] / costs.walk))
        self._walks = self._predicted[0] < self._predicted[1] and chosen.count >= int(self._way["near"][0])

    def one(self, query: NDArray[Any], threads: int, executor: Callable[[int], Executor]) -> _Answers:
        """As ``many``, for a single query; what it took is not told."""
        return self._answers(query, np.zeros(4, dtype=np.int64), threads, executor)[0]

    def many(
        self, queries: NDArray[Any], threads: int, executor: Callable[[int], Executor]
    ) -> tuple[Numbers, Distances, Numbers, Effort]:
        """(slots, distances, sizes) of the answers, each (queries, k), nearest first; and what it took."""
        counters = np.zeros(4, dtype=np.int64)
        answers, scanned = self._answers(queries, counters, threads, executor)
        hops, scores, _, _ = counters.tolist()
        compared = len(queries) * (int(self._way["reranked"][0]) + self._chosen.few.size)
        return *answers, Effort(hops, scores, compared, scanned=scanned, predicted=self._predicted)

    def _answers(
        self, queries: NDArray[Any], counters: Numbers, threads: int, executor: Callable[[int], Executor]
    ) -> tuple[_Answers, int]:
        queries, chosen = np.require(queries, requirements=("C", "A")), self._chosen
        if not self._walks:
            return self._scan(queries, counters, threads, executor), len(queries)
        found = self._spread("walk", chosen.mask, queries, counters, threads, executor)
        lost = np.flatnonzero(found[2] == self._kernels.LOST)
        if lost.size:
            again = self._scan(queries[lost], counters, threads, executor)
            for mine, its in zip(found, again, strict=True):
                mine[lost] = its
        return found, int(lost.size)

    def _scan(
        self, queries: NDArray[Any], counters: Numbers, threads: int, executor: Callable[[int], Executor]
    ) -> _Answers:
        nodes, few, k = self._chosen.nodes, self._chosen.few, self._k
        parts = min(threads, nodes.size // _CODES_A_THREAD)
        if len(queries) > 1 or parts <= 1:
            return self._spread("scan", nodes, queries, counters, threads, executor)
        bounds = np.linspace(0, nodes.size, parts + 1).astype(int).tolist()
        counted = [np.zeros(4, dtype=np.int64) for _ in range(parts)]

        def run(cut: tuple[int, int], count: Numbers) -> _Answers:
            low, high = cut
            return self._run("scan", nodes[low:high], few if low == 0 else _NONE, queries, count)

        found = list(executor(parts).map(run, pairwise(bounds), counted))
        counters += sum(counted)
        slots = np.concatenate([each[0][0, : each[2][0]] for each in found])
        distances = np.concatenate([each[1][0, : each[2][0]] for each in found])
        order = np.lexsort((slots, distances))[:k]
        return _padded(slots[order], k), _padded(distances[order], k), np.array([order.size])

    def _spread(
        self,
        kind: str,
        among: NDArray[Any],
        queries: NDArray[Any],
        counters: Numbers,
        threads: int,
        executor: Callable[[int], Executor],
    ) -> _Answers:
        """Run for all queries, in more parts than there are threads."""
        few, parts = self._chosen.few, min(threads, len(queries))
        if parts <= 1:
            return self._run(kind, among, few, queries, counters)
        cuts = np.array_split(queries, min(len(queries), _PARTS_A_THREAD * parts))
        counted = [np.zeros(4, dtype=np.int64) for _ in cuts]
        found = list(
            executor(parts).map(lambda cut, count: self._run(kind, among, few, cut, count), cuts, counted)
        )
        counters += sum(counted)
        slots, distances, sizes = (np.concatenate(each) for each in zip(*found, strict=True))
        return slots, distances, sizes


def _padded(row: NDArray[Any], k: int) -> NDArray[Any]:
    padded = np.zeros((1, k), dtype=row.dtype)
    padded[0, : row.size] = row
    return padded
