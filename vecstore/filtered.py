"""Searches with a filter: what it chose is found once for a snapshot, and then walked for or scanned."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore.config import DEFAULT_K
from vecstore.graph import Ready, explained, merged
from vecstore.index import space
from vecstore.index.chosen import Chosen
from vecstore.index.walk import Effort
from vecstore.index.ways import Costs, Search, Trial
from vecstore.query import exact
from vecstore.query.fields import Fields
from vecstore.query.found import Found
from vecstore.query.matching import Matching
from vecstore.query.where import Where
from vecstore.storage.state import Blocks, Numbers, State
from vecstore.storage.vectors import read_rows

# A filter that is asked again of the same snapshot is not evaluated again, as long as so many bytes hold them all.
_KEPT_BYTES = 32 << 20
# Ways of asking that are kept ready for the next time.
_MOST_WAYS = 32
# So many stored vectors are searched for to see what searches take.
_MEASURED = 60


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
        return self._keep(ready, where, self._choose(state, where)) if found is None else found

    def _keep(self, ready: Ready, where: Where, matching: Matching) -> Chosen:
        found = _chosen(ready, matching)
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
        return self._choose(blocks, where).mask()

    def _choose(self, blocks: Blocks, where: Where) -> Matching:
        if where.everything:
            return Matching.of(np.ones(blocks.header.slots, dtype=bool))
        return self._fields.choose(blocks, where)

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
        """As ``nearest``, for one query; None where ``nearest`` must be asked, since something is to be read or measured first."""
        chosen = self.known(ready, where)
        if chosen is None:
            matching = None if where.everything else self._fields.at_hand(state, where)
            chosen = None if matching is None else self._keep(ready, where, matching)
        search: Search | None = None
        if chosen is not None:
            search = chosen.searches.get(asked)
            if search is None and ready.stamp in self._costs:
                search = self._search(state, ready, chosen, asked)
        found = None if search is None else search.one(query, threads)
        if chosen is None or found is None or chosen.many is None:
            return found
        [others] = exact.nearest(state, query[None], asked[0], chosen.many, threads)
        return merged(found, others, asked[0])

    def _search(
        self, state: State, ready: Ready, chosen: Chosen, asked: tuple[int, float | None, int | None]
    ) -> Search:
        search: Search | None = chosen.searches.get(asked)
        if search is None:
            # What searches take here is measured when the first is asked for, so that all later ones are done alike.
            costs = self._costs.get(ready.stamp)
            if costs is None:
                everything = Chosen(ready.walker, ready.bits, None, ready.few[:0], None)
                costs = Trial(everything, DEFAULT_K).measure(_some(state, ready))
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


def _chosen(ready: Ready, matching: Matching) -> Chosen:
    matching = matching.first(ready.mask.size)
    resident, slots = ready.walker.resident, matching.slots
    if slots is None or resident.nodes_of is None:
        return _chosen_by_mask(ready, matching.mask().view(np.uint8))
    few: Numbers = ready.few[np.isin(ready.few, slots)] if ready.few.size else ready.few
    many = None
    if ready.many is not None:
        many = np.zeros_like(ready.many)
        many[slots] = ready.many[slots]
    return Chosen(ready.walker, None, slots[ready.mask[slots] > 0], few, many)


def _chosen_by_mask(ready: Ready, matching: NDArray[np.uint8]) -> Chosen:
    few: Numbers = ready.few[matching[ready.few] > 0]
    many = None if ready.many is None else ready.many & matching
    bits = np.packbits(matching, bitorder="little") & ready.bits
    return Chosen(ready.walker, bits, None, few, many)
