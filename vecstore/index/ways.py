"""Searches among the records that a filter chose, by the way that takes least time here: a walk, a look into the
bundles of nodes that promise most, or a scan of all of their codes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore.config import MOST_WALKED
from vecstore.index.calibrate import DEFAULT_RECALL
from vecstore.index.chosen import Chosen
from vecstore.index.single import Lost, SingleAmong
from vecstore.index.walk import Distances, Effort, Numbers, damage
from vecstore.kernels import dispatch

WALK, BUNDLES, CODES = "graph", "bundles", "codes"
"""The ways to search, as plans name them."""

_NONE = np.zeros(0, dtype=np.int64)
# Walks that look for a share s of the nodes take about s to this power as many hops, on every set that was tried.
_GROWTH = -0.75
# A pool has so much more room than a walk for as many answers as have k of the chosen among them, up to this.
_ROOM, _MOST_ROOM = 1.25, 1 << 13
# When a walk has come near its query, so much less of what it meets than of all was chosen, and it gives up.
_LOOK_AFTER, _RARER = 40, 5
# Of what is near a query so large a share was chosen where the search of its bundles turns into a walk.
_LOCAL_SHARE = 0.5
# Codes that are scanned tell about k of the chosen apart from the rest, among so many that are compared.
_COMPARED, _COMPARED_BESIDES = 2, 10
_TIMED, _CODES_TIMED, _APART = 15, 4_096, 10
_SHARES_TIMED = (0.004, 0.02, 0.1, 0.5)
_PARTS_A_THREAD = 4
# One query's codes are scanned by several threads from so many on.
_CODES_A_THREAD = 50_000
# How many codes in vain for each that was scanned before end a look into bundles, at the default recall; and how many more,
# and deviations more, for each time that half as many answers may be missed.
_PATIENCE, _PATIENCE_A_HALF, _DEVIATIONS_A_HALF = 1.0, 0.75, 1.0
# How many deviations it takes is seen where so many nodes were chosen.
_TRIED_SHARE, _TRIED_AMONG, _TRIED = 0.1, 40_000, (3.0, 4.0, 5.0, 6.0, 8.0, 12.0)
_WANTED = DEFAULT_RECALL + 0.15 * (1.0 - DEFAULT_RECALL)


@dataclass(frozen=True)
class Costs:
    """What searches take on this machine, of this collection: seconds of a walk, its hops, and seconds of a code.

    And of a look into bundles where so large a share was chosen: (share, seconds), the smallest share first; and how many
    deviations it takes at the default recall.
    """

    walk: float
    hops: float
    code: float
    bundles: tuple[tuple[float, float], ...] = ()
    deviations: float = 4.0

    def predict(self, chosen: Chosen) -> dict[str, float]:
        """Seconds of each way that there is."""
        found = {WALK: self.walk * chosen.share**_GROWTH, CODES: self.code * chosen.count}
        if self.bundles:
            found[BUNDLES] = _between(self.bundles, chosen.share)
        return found


def _between(known: Sequence[tuple[float, float]], share: float) -> float:
    """What takes so long at some shares, at another."""
    for (low, quick), (high, slow) in pairwise(known):
        if share <= high:
            part = min(max(math.log(share / low) / math.log(high / low), 0.0), 1.0)
            return float(quick * (slow / quick) ** part)
    return known[-1][1]


def _rounded(number: float) -> int:
    """Up to one of few numbers: how far walks for them go is worked out once for each.

    >>> [_rounded(number) for number in (10.0, 18.2, 1000.0)]
    [10, 20, 1024]
    """
    step = 1 << max(math.ceil(number).bit_length() - 3, 0)
    return math.ceil(number / step) * step


_Answers = tuple[Numbers, Distances, Numbers]


class _Look:
    """The kernels, and how far they are to look for k answers among the chosen."""

    def __init__(self, chosen: Chosen, k: int, recall: float | None, search_list: int | None) -> None:
        self._chosen, self._k, self._recall, self._search_list = chosen, k, recall, search_list
        self._kernels = dispatch.cpu()
        self._reach = chosen.walker.reach(k, recall, search_list)
        # The second is for walks near a query.
        self._ways = np.zeros(2, dtype=self._kernels.chosen.WAY)
        self._ways["near"] = self._reach.room if search_list is not None else self._reach.near
        self._ways["reranked"] = max(self._reach.reranked, _COMPARED * k + _COMPARED_BESIDES)

    def _walk_to(self, hops: int) -> None:
        """How far walks go."""
        for way, share in zip(self._ways, (self._chosen.share, _LOCAL_SHARE), strict=True):
            walker, k, room = self._chosen.walker, self._k, 2.0 * self._reach.room / share
            way["look_after"], way["least"] = _LOOK_AFTER, int(share * self._kernels.among.FRONT / _RARER)
            way["hops"], way["slack"] = hops, 1.0
            if self._search_list is None:
                # Among so many nodes there are k of the chosen.
                around = walker.reach(min(_rounded(k / share), MOST_WALKED), self._recall, None)
                spread = max(k, walker.resident.calibration.most)
                way["slack"], way["spread"] = self._reach.slack, spread
                way["slack_spread"] = walker.reach(spread, self._recall, None).slack
                room = _ROOM * max(around.room, self._reach.room)
            way["room"] = min(math.ceil(room), _MOST_ROOM)

    def _look_for(self, deviations: float) -> None:
        """How far looks into bundles go."""
        halves = 0.0
        if self._search_list is None and self._recall is not None:
            halves = math.log2((1.0 - DEFAULT_RECALL) / max(1.0 - self._recall, 1e-6))
        self._ways["deviations"] = max(deviations + _DEVIATIONS_A_HALF * halves, 0.0)
        self._ways["patience"] = max(_PATIENCE + _PATIENCE_A_HALF * halves, 0.0)

    def _kernel(self, way: str) -> Any:
        kernels = self._kernels
        made = {WALK: kernels.among.search, BUNDLES: kernels.bundles.search, CODES: kernels.chosen.scan}[way]
        return made(self._chosen.walker.settings.dtype)

    def _run(
        self, kind: str, among: NDArray[Any], few: Numbers, queries: NDArray[Any], counters: Numbers
    ) -> _Answers:
        walker, k, kernel = self._chosen.walker, self._k, self._kernel(kind)
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
            self._ways,
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
    """Searches of all ways to see what they take; they may be as long as they are."""

    def __init__(self, everything: Chosen, k: int, deviations: float = _TRIED[-1]) -> None:
        super().__init__(everything, k, None, None)
        self._walk_to(everything.count)
        self._look_for(deviations)

    def measure(self, queries: NDArray[Any]) -> Costs:
        """Search for each of a few queries, and see what it takes.

        Each scans other codes than the one before, as searches do: those that are in the cache already cost a third.
        They lie as far apart as where either way takes about as long.
        """
        nodes, walks, scans, hops = self._chosen.nodes, [], [], []
        for place in range(min(len(queries), _TIMED)):
            first = place * max(0, nodes.size - _CODES_TIMED * _APART) // _TIMED
            query, sample = (
                queries[place : place + 1],
                nodes[first : first + _CODES_TIMED * _APART : _APART].copy(),
            )
            walk, counted = self._timed(WALK, self._chosen.tables, query)
            none, _ = self._timed(CODES, sample[:1], query)
            scan, _ = self._timed(CODES, sample, query)
            walks.append(walk)
            hops.append(counted)
            scans.append(max(scan - none, 1e-9) / max(sample.size, 1))
        costs = Costs(float(np.median(walks)), float(np.median(hops)), float(np.quantile(scans, 0.25)))
        if self._chosen.bundles is None:
            return costs
        deviations = self._deviations(queries)
        trial = Trial(self._chosen, self._k, deviations)
        return replace(costs, bundles=trial._bundles(queries), deviations=deviations)

    def _some(self, share: float) -> Chosen:
        """A share of what was chosen, at random."""
        chosen, drawn = self._chosen, np.random.default_rng(6).random(self._chosen.nodes.size)
        slots = chosen.walker.resident.slots[chosen.nodes[drawn < share]]
        return Chosen.among(chosen.walker, slots.view(np.int32))

    def _deviations(self, queries: NDArray[Any]) -> float:
        """The least that find enough where some were chosen at random."""
        some = self._some(min(_TRIED_SHARE, _TRIED_AMONG / max(self._chosen.count, 1)))
        counters, before = np.zeros(4, dtype=np.int64), (0.0, 0.0)
        truth, _, _ = self._run(CODES, some.nodes, _NONE, queries, counters)
        for deviations in _TRIED:
            trial = Trial(self._chosen, self._k, deviations)
            slots, _, sizes = trial._run(BUNDLES, some.tables, _NONE, queries, counters)
            found = np.mean(
                [
                    np.isin(true, mine[:size]).mean()
                    for true, mine, size in zip(truth, slots, sizes, strict=True)
                ]
            )
            if found >= _WANTED:
                tried, had = before
                if not tried:
                    return deviations
                return tried + (deviations - tried) * (_WANTED - had) / max(float(found) - had, 1e-9)
            before = deviations, float(found)
        return _TRIED[-1]

    def _bundles(self, queries: NDArray[Any]) -> tuple[tuple[float, float], ...]:
        """What a look into bundles takes where shares were chosen at random."""
        found = []
        for share in _SHARES_TIMED:
            some = self._some(share)  # its tables are addresses, so it is to stay
            taken = [self._timed(BUNDLES, some.tables, query[None])[0] for query in queries[:_TIMED]]
            found.append((share, float(np.median(taken))))
        return tuple(found)

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
        self._singles: dict[str, SingleAmong] = {}
        self._predicted = costs.predict(chosen)
        ways = [way for way in self._predicted if way != WALK or chosen.count >= int(self._ways[0]["near"])]
        self._plan = min(ways, key=self._predicted.__getitem__)
        # What is left to a walk that gives up.
        self._else = BUNDLES if costs.bundles else CODES
        if self._plan != CODES:
            # A walk that turns out to be longer than scanning would be is given up.
            self._walk_to(max(_LOOK_AFTER, math.ceil(costs.hops * self._predicted[CODES] / costs.walk)))
            self._look_for(costs.deviations)

    def one(self, query: NDArray[Any], threads: int) -> tuple[Numbers, Distances] | None:
        """(slots, distances) for a query that the walker takes, nearest first; None where ``many`` must be asked."""
        try:
            return self._alone(self._plan, query, threads)
        except Lost:
            return self._alone(self._else, query, threads)

    def _alone(self, way: str, query: NDArray[Any], threads: int) -> tuple[Numbers, Distances] | None:
        if way == CODES and threads > 1 and self._chosen.count >= 2 * _CODES_A_THREAD:
            return None  # several threads scan them
        single = self._singles.get(way)
        if single is None:
            chosen, k = self._chosen, self._k
            among = chosen.nodes if way == CODES else chosen.tables
            single = SingleAmong(chosen.walker, self._kernel(way), among, chosen.few, k, self._ways)
            self._singles[way] = single
        return single.search(query)

    def many(
        self, queries: NDArray[Any], threads: int, executor: Callable[[int], Executor]
    ) -> tuple[Numbers, Distances, Numbers, Effort]:
        """(slots, distances, sizes) of the answers, each (queries, k), nearest first; and what it took."""
        counters = np.zeros(4, dtype=np.int64)
        answers, lost = self._answers(queries, counters, threads, executor)
        hops, scores, _, _ = counters.tolist()
        compared = len(queries) * (int(self._ways[0]["reranked"]) + self._chosen.few.size)
        return *answers, Effort(
            hops, scores, compared, plan=self._plan, given_up=lost, predicted=self._predicted
        )

    def _answers(
        self, queries: NDArray[Any], counters: Numbers, threads: int, executor: Callable[[int], Executor]
    ) -> tuple[_Answers, int]:
        queries, chosen = np.require(queries, requirements=("C", "A")), self._chosen
        if self._plan != WALK:
            return self._look(self._plan, queries, counters, threads, executor), 0
        found = self._spread(WALK, chosen.tables, queries, counters, threads, executor)
        lost = np.flatnonzero(found[2] == self._kernels.chosen.LOST)
        if lost.size:
            again = self._look(self._else, queries[lost], counters, threads, executor)
            for mine, its in zip(found, again, strict=True):
                mine[lost] = its
        return found, int(lost.size)

    def _look(
        self,
        way: str,
        queries: NDArray[Any],
        counters: Numbers,
        threads: int,
        executor: Callable[[int], Executor],
    ) -> _Answers:
        if way == BUNDLES:
            return self._spread(BUNDLES, self._chosen.tables, queries, counters, threads, executor)
        return self._scan(queries, counters, threads, executor)

    def _scan(
        self, queries: NDArray[Any], counters: Numbers, threads: int, executor: Callable[[int], Executor]
    ) -> _Answers:
        nodes, few, k = self._chosen.nodes, self._chosen.few, self._k
        parts = min(threads, nodes.size // _CODES_A_THREAD)
        if len(queries) > 1 or parts <= 1:
            return self._spread(CODES, nodes, queries, counters, threads, executor)
        bounds = np.linspace(0, nodes.size, parts + 1).astype(int).tolist()
        counted = [np.zeros(4, dtype=np.int64) for _ in range(parts)]

        def run(cut: tuple[int, int], count: Numbers) -> _Answers:
            low, high = cut
            return self._run(CODES, nodes[low:high], few if low == 0 else _NONE, queries, count)

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
