"""How a search is answered: by a walk of the graph, or by a scan of what it may name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vecstore.config import LEAST_LIVE, MOST_WALKED
from vecstore.device import Device
from vecstore.filtered import Filtered
from vecstore.graph import Graph, Ready, merged
from vecstore.index.single import Single
from vecstore.index.walk import Effort
from vecstore.query import exact
from vecstore.query.found import Found
from vecstore.query.where import Where
from vecstore.storage.state import Blocks, Numbers, State

# Ways of asking that are kept ready for the next time.
_MOST_WAYS = 32


class Asked(NamedTuple):
    """What a search wants, besides its queries."""

    k: int | None
    radius: float | None = None
    where: Where | None = None
    recall: float | None = None
    search_list: int | None = None
    exact: bool = False
    threads: int = 1


class Planner:
    """Chooses between walking and scanning, for one collection."""

    def __init__(self, graph: Graph, filtered: Filtered, device: Device) -> None:
        self._graph = graph
        self._filtered = filtered
        self.device = device

    def _ready(self, blocks: Blocks, asked: Asked) -> Ready | None:
        """The graph to walk for this search; None where it is scanned.

        A scan is exact, and so are answers within a radius. A walk for a good part of all records would be none,
        and one that misses its target is no answer; where most nodes are of records that are gone, the few that are
        left are soon compared.
        """
        if asked.exact or asked.k is None or asked.radius is not None:
            return None
        if asked.k > min(MOST_WALKED, blocks.header.records // 10):
            return None
        ready = self._graph.ready(blocks)
        if ready is None or asked.search_list is not None:
            return ready
        if ready.live < LEAST_LIVE:
            return None
        return ready if ready.walker.resident.calibration.reaches(asked.recall) else None

    def walks(self, blocks: Blocks, asked: Asked) -> bool:
        """Whether a walk would answer this."""
        return self._ready(blocks, asked) is not None

    @staticmethod
    def cold(blocks: Blocks) -> bool:
        """Whether walks read from the disk just now."""
        ready = blocks.cache.get("graph")
        return isinstance(ready, Ready) and ready.walker.watch.cold

    def answer_one(self, state: State, query: NDArray[Any], asked: Asked) -> Found | None:
        """As ``answer``, for a single vector; None where ``answer`` must be asked.

        The query is contiguous and aligned, of float32 or of packed bits.
        """
        ready = state.cache.get("graph")
        if not isinstance(ready, Ready) or ready.checked is not state.checked:
            return None
        assert asked.k is not None
        way = asked.k, asked.recall, asked.search_list
        if asked.where is not None:
            if not ready.walker.takes(query):
                return None
            return self._filtered.nearest_one(state, ready, asked.where, query, way, asked.threads)
        singles = ready.walker.singles
        if way not in singles:
            if len(singles) >= _MOST_WAYS:
                singles.clear()
            singles[way] = self._single(state, asked)
        single = singles.get(way)
        answer = None if single is None else single.search(query)
        if answer is None or ready.many is None:
            return answer
        [others] = exact.nearest(state, query[None], asked.k, ready.many, 1)
        return merged(answer, others, asked.k)

    def _single(self, state: State, asked: Asked) -> Single | None:
        """What walks for one vector at a time; None where it is scanned."""
        ready = self._ready(state, asked)
        if ready is None:
            return None
        assert asked.k is not None
        reach = ready.walker.reach(asked.k, asked.recall, asked.search_list)
        return ready.walker.single(asked.k, reach, ready.mask, ready.few)

    def answer(
        self, blocks: Blocks, queries: NDArray[Any], own: Numbers | None, asked: Asked
    ) -> tuple[Sequence[Found], Effort | None]:
        """The answers, without each query's own slot; and what a walk took."""
        ready = self._ready(blocks, asked)
        k, effort = asked.k, None
        found: Sequence[Found]
        if ready is not None and asked.where is not None:
            assert k is not None
            assert isinstance(blocks, State)
            chosen = self._filtered.chosen(blocks, ready, asked.where)
            wanted = k + (own is not None)
            found, effort = self._filtered.nearest(
                blocks, ready, chosen, queries, wanted, asked.recall, asked.search_list, asked.threads
            )
        elif ready is not None:
            assert k is not None
            wanted = k + (own is not None)
            reach = ready.walker.reach(wanted, asked.recall, asked.search_list)
            found, effort = self._graph.nearest(blocks, ready, queries, wanted, reach, asked.threads)
        elif asked.radius is not None:
            mask = self.candidates(blocks, asked)
            found = exact.within(blocks, queries, asked.radius, mask, asked.threads)
        else:
            assert k is not None
            mask = self.candidates(blocks, asked)
            found = exact.nearest(blocks, queries, k + (own is not None), mask, asked.threads, self.device)
        if own is not None:
            found = [(s[s != mine], d[s != mine]) for (s, d), mine in zip(found, own.tolist(), strict=True)]
        if k is None or (own is None and asked.radius is None):
            return found, effort
        return [(slots[:k], distances[:k]) for slots, distances in found], effort

    def recall(self, blocks: Blocks, sample: int, k: int) -> float | None:
        """The share of true neighbours that a search by default finds; None where it scans, and finds all."""
        ready = self._ready(blocks, Asked(k))
        return None if ready is None else self._graph.recall(blocks, ready, sample, k)

    def candidates(self, blocks: Blocks, asked: Asked) -> NDArray[np.uint8]:
        """1 for each slot that a scan compares."""
        return exact.candidates(blocks, None if asked.where is None else self.matching(blocks, asked.where))

    def matching(self, blocks: Blocks, where: Where) -> NDArray[np.bool_]:
        """Which slots match; dead ones may."""
        return self._filtered.matching(blocks, where)
