"""Columns of metadata fields, made when a filter first names a field and kept up with the commits."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vecstore import config
from vecstore.kernels import dispatch
from vecstore.query.columns import Column
from vecstore.query.indexed import indexed
from vecstore.query.matching import Matching
from vecstore.query.picked import pick
from vecstore.query.where import Where
from vecstore.storage import keys
from vecstore.storage.fetch import fetch
from vecstore.storage.slots import ENTRY, live_mask, read_slots
from vecstore.storage.state import Blocks, Numbers, State
from vecstore.storage.store import batches, live_slots, read_stored
from vecstore.storage.values import extract

_BATCH = 20_000
# From so many records on, kernels that find a field in packed ones are worth importing.
_PICKED_FROM = 20_000


@dataclass
class _Kept:
    column: Column
    words: NDArray[np.uint64]
    # Which slots the column has read since their words: one that was dead then may be live in an older state.
    known: NDArray[np.bool_]
    # The commit that it was last compared with.
    transaction: int = -1


class Fields:
    """The columns of one collection. A slot table's block that was written since tells which slots to read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}
        self._of: object = None
        self._asked: set[str] = set()

    @property
    def nbytes(self) -> int:
        return sum(kept.column.nbytes for kept in list(self._kept.values()))

    @property
    def names(self) -> list[str]:
        return sorted(self._kept)

    @property
    def asked(self) -> frozenset[str]:
        """Fields that were read out of all records of a large collection, and that an index would have told sooner."""
        return frozenset(self._asked)

    def noted(self, names: frozenset[str]) -> None:
        """That these were is in the file now."""
        self._asked -= names

    def matching(self, blocks: Blocks, where: Where) -> NDArray[np.bool_]:
        """Which slots match; dead ones may."""
        return self.choose(blocks, where).mask()

    def choose(self, blocks: Blocks, where: Where) -> Matching:
        """As ``matching``, in the form that costs least."""
        size = blocks.header.slots
        if not isinstance(blocks, State):
            return Matching.of(_evaluate(blocks, where))
        with self._lock:
            if self._of is not blocks.checked:  # the file was replaced, and its block numbers mean others
                self._kept, self._of = {}, blocks.checked
            return self._chosen(self._refreshed(blocks, where.fields), where, size)

    def at_hand(self, state: State, where: Where) -> Matching | None:
        """As ``choose``, where nothing is to be read for it; else None."""
        newest = state.meta.transaction
        with self._lock:
            kept = {field: self._kept.get(field) for field in where.fields}
            if self._of is not state.checked or any(each is None or each.transaction != newest for each in kept.values()):
                return None
            columns = {field: each.column for field, each in kept.items() if each is not None}
            return self._chosen(columns, where, state.header.slots)

    @staticmethod
    def _chosen(columns: dict[str, Column], where: Where, size: int) -> Matching:
        longest = max([size, *(column.size for column in columns.values())])
        for column in columns.values():
            column.resize(longest)
        return where.choose(columns, longest).first(size)

    def _refreshed(self, state: State, fields: frozenset[str]) -> dict[str, Column]:
        newest = state.meta.transaction
        if all(field in self._kept and self._kept[field].transaction == newest for field in fields):
            return {field: self._kept[field].column for field in fields}
        count = state.header.counts[keys.SLOTS]
        words = state.entries(keys.SLOTS, 0, count).copy()
        per_block = state.layout.table_payload // ENTRY.itemsize
        size = state.header.slots
        live = live_mask(state)
        stale: dict[str, Numbers] = {}
        for field in fields:
            kept = self._kept.get(field)
            if kept is None:
                kept = self._kept[field] = _Kept(
                    Column(size), np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=bool)
                )
            if kept.column.size < size:
                kept.column.resize(size)
            common = min(words.size, kept.words.size)
            changed = np.ones(words.size, dtype=bool)
            changed[:common] = words[:common] != kept.words[:common]
            known = np.zeros(words.size * per_block, dtype=bool)
            both = min(known.size, kept.known.size)
            known[:both] = kept.known[:both]
            known.reshape(-1, per_block)[changed] = False
            stale[field] = np.flatnonzero((live > 0) & ~known[:size])
            known[stale[field]] = True
            # Until the column holds them, nobody may believe that it does.
            kept.words, kept.known, kept.transaction = np.zeros(0, dtype=np.uint64), known, -1
        wanted: dict[str, NDArray[np.bool_]] = {}
        for field, slots in stale.items():
            picked = indexed(state, field, slots)
            if picked is not None:
                self._kept[field].column.put_picked(slots, picked)
            else:
                wanted[field] = np.zeros(size, dtype=np.bool_)
                wanted[field][slots] = True
        everything = np.flatnonzero(np.any(list(wanted.values()), axis=0)) if wanted else np.zeros(0, np.int64)
        for slots in batches(everything, _BATCH):
            self._read(state, slots, {field: flags[slots] for field, flags in wanted.items()})
        for field in fields:
            self._kept[field].words, self._kept[field].transaction = words, newest
        self._asked |= {field for field in wanted if _worth_an_index(self._kept[field].column, stale[field].size)}
        return {field: self._kept[field].column for field in fields}

    def _read(self, state: State, slots: Numbers, wanted: dict[str, NDArray[np.bool_]]) -> None:
        """Read these slots' records into the columns that want them."""
        left = list(wanted)
        if slots.size >= _PICKED_FROM or dispatch.fetch_kernels() is not None:
            fetched = fetch(state, slots)
            for field in list(left):
                here, picked = np.flatnonzero(wanted[field]), pick(fetched, field)
                if picked is not None:
                    self._kept[field].column.put_picked(slots[here], picked.take(here))
                    left.remove(field)
        if left:
            metadata = [stored.metadata for stored in read_stored(state, read_slots(state, slots))]
            for field in left:
                here = np.flatnonzero(wanted[field])
                values = [extract(metadata[place], field) for place in here.tolist()]
                self._kept[field].column.put(slots[here], values)


def _worth_an_index(column: Column, count: int) -> bool:
    """Whether a field that so many records were read for would have been told sooner by an index."""
    return count >= config.INDEXED_FROM and 4 * column.distinct <= count and bool(column.exists().any())


def _evaluate(blocks: Blocks, where: Where) -> NDArray[np.bool_]:
    """Record by record: inside a transaction, where columns would have to follow what may be rolled back."""
    matching = np.zeros(blocks.header.slots, dtype=bool)
    for slots in batches(live_slots(blocks), _BATCH):
        found = read_stored(blocks, read_slots(blocks, slots))
        matching[slots] = [where.matches(stored.metadata) for stored in found]
    return matching
