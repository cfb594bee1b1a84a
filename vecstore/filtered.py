"""Searches with a filter: what it chose is found once for a snapshot, and then walked for or scanned."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore.graph import Ready, explained, merged
from vecstore.index import space
from vecstore.index.chosen import Chosen, Costs, Search, Trial
from vecstore.index.walk import Effort
from vecstore.query import exact
from vecstore.query.fields import Fields
from vecstore.query.found import Found
from vecstore.query.where import Where
from vecstore.storage.state import Blocks, Numbers, State
from vecstore.storage.vectors import read_rows

# A filter that is asked again of the same snapshot is not evaluated again, as long as so many bytes hold them all.
_KEPT_BYTES = 32 << 20
# Ways of asking that are kept ready for the next time.
_MOST_WAYS = 32
# So many stored vectors are searched for to see what searches take.
_MEASURED = 9


class Filtered:
    """Filters of one collection, and searches among what they choose. Threads may share it."""

    def __init__(self, fields: Fields, memory: int | None) -> None:
        self._fields = fields
        self._most = _KEPT_BYTES if memory is None else min(_KEPT_BYTES, memory // 16)
        self._lock = threading.Lock()
        self._costs: dict[int, Costs] = {}
        self._of: Ready | None = None
        # Oldest first, and the bytes of all of them.
        self._kept: dict[Where, Chosen] = {}
        self._bytes = 0

    def known(self, ready: Ready, where: Where) -> Chosen | None:
        """What a filter chose of this snapshot, if it was asked before."""
        return self._kept.get(where) if self._of is ready else None

    def chosen(self, state: State, ready: Ready, where: Where) -> Chosen:
        """What a filter chooses of a snapshot."""
        found = self.known(ready, where)
        if found is not None:
            return found
        matching = self.matching(state, where)
        found = _chosen(ready, matching.view(np.uint8))
        with self._lock:
            if self._of is not ready:
                self._of, self._kept, self._bytes = ready, {}, 0
            if where in self._kept:  # another thread was quicker
                return self._kept[where]
            self._bytes += found.nbytes
            while self._kept and self._bytes > self._most:
                self._bytes -= self._kept.pop(next(iter(self._kept))).nbytes
            self._kept[where] = found
        return found

    def matching(self, blocks: Blocks, where: Where) -> NDArray[np.bool_]:
        """Which slots match; dead ones may."""
        if where.everything:
            return np.ones(blocks.header.slots, dtype=bool)
        return self._fields.matching(blocks, where)

    def nearest(
        self,
        state: State,
        ready: Ready,
        chosen: Chosen,
        queries: NDArray[Any],
        k: int,
        recall: float | None,
        search_list: int | None,
        threads: int,
    ) -> tuple[list[Found], Effort]:
        """The k nearest of each query among the chosen, pending records included; and what it took."""
        with explained(state):
            search = self._search(state, ready, chosen, (k, recall, search_list))
            slots, distances, sizes, effort = search.many(queries, threads, exact.executor)
        found = [
            (row[:size], values[:size])
            for row, values, size in zip(slots, distances, sizes.tolist(), strict=True)
        ]
        if chosen.many is not None:
            others = exact.nearest(state, queries, k, chosen.many, threads)
            found = [merged(mine, other, k) for mine, other in zip(found, others, strict=True)]
        return found, effort

    def nearest_one(
        self,
        state: State,
        ready: Ready,
        where: Where,
        query: NDArray[Any],
        asked: tuple[int, float | None, int | None],
        threads: int,
    ) -> Found | None:
        """As ``nearest``, for one query; None where it is not known yet what the filter chooses."""
        chosen = self.known(ready, where)
        search = None if chosen is None else chosen.searches.get(asked)
        if chosen is None or search is None:
            return None
        with explained(state):
            slots, distances, sizes = search.one(query[None], threads, exact.executor)
        size = int(sizes[0])
        found = slots[0, :size], distances[0, :size]
        if chosen.many is None:
            return found
        [others] = exact.nearest(state, query[None], asked[0], chosen.many, threads)
        return merged(found, others, asked[0])

    def _search(
        self, state: State, ready: Ready, chosen: Chosen, asked: tuple[int, float | None, int | None]
    ) -> Search:
        search = chosen.searches.get(asked)
        if search is None:
            # What searches take here is measured when the first is asked for, so that all later ones are done alike.
            costs = self._costs.get(ready.stamp)
            if costs is None:
                everything = Chosen(ready.walker, ready.mask, ready.few[:0], None)
                costs = Trial(everything, *asked).measure(_some(state, ready))
                self._costs = {ready.stamp: costs}
            if len(chosen.searches) >= _MOST_WAYS:
                chosen.searches.clear()
            search = chosen.searches[asked] = Search(chosen, costs, *asked)
        return search


def _some(state: State, ready: Ready) -> NDArray[Any]:
    """Some stored vectors as queries."""
    slots = np.flatnonzero(ready.mask)
    drawn = np.sort(np.random.default_rng(3).choice(slots, min(_MEASURED, slots.size), replace=False))
    rows = space.as_queries(state.header.settings, read_rows(state, drawn))
    return np.require(rows, requirements=("C", "A"))


def _chosen(ready: Ready, matching: NDArray[np.uint8]) -> Chosen:
    size = ready.mask.size
    few: Numbers = ready.few[matching[ready.few] > 0]
    many = None if ready.many is None else ready.many & matching[:size]
    return Chosen(ready.walker, ready.mask & matching[:size], few, many)
