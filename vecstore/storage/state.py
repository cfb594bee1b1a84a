"""One committed state of the file, read in place: block numbers to addresses, each block checked once."""

from __future__ import annotations

from collections import defaultdict
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vecstore.kernels import dispatch
from vecstore.storage import keys
from vecstore.storage.blocks import (
    HEAD,
    HEAD_BYTES,
    MAGIC,
    PAGE_HEAD_BYTES,
    Bytes,
    Layout,
    check,
    damaged,
    payload,
)
from vecstore.storage.header import GraphHeader, Header, check_fields, check_graph
from vecstore.storage.lazy import NO_GENERATION, LazyTable
from vecstore.storage.pages import Meta, PageMap
from vecstore.storage.platform import Mapping

Numbers = NDArray[np.int64]

# An entry of the slot table, which ``slots`` reads and writes.
SLOT_BYTES = 16

# So few blocks that were written since are looked up one by one: they lie together in the tree.
_FEW_PLACES = 2000
# Below this many blocks, NumPy checks them sooner than Numba is imported; and below this, sooner than an imported kernel is called.
_FEW, _FEW_FOR_KERNELS = 4096, 8
# Blocks are read ahead and checked in portions of this many bytes, small enough to stay in the cache.
_WINDOW = 32 << 20


class Blocks(Protocol):
    """What the tables need of a state: a snapshot gives it, and so does an open write."""

    @property
    def header(self) -> Header: ...
    @property
    def layout(self) -> Layout: ...
    @property
    def cache(self) -> dict[str, object]: ...

    def block(self, kind: int, number: int) -> Bytes:
        """A block's bytes, checked."""
        ...

    def addresses(self, kind: int, numbers: Numbers) -> NDArray[np.uint64]:
        """Where these blocks begin in memory, to be read in this order; all of them checked."""
        ...

    def present(self, kind: int) -> NDArray[np.bool_]:
        """Which block numbers of a kind exist."""
        ...

    def file_rows(self, kind: int, numbers: Numbers) -> tuple[Bytes, Numbers] | None:
        """(bytes, offset of each block in them), all checked; None where they don't lie in one piece."""
        ...


def graph_of(blocks: Blocks) -> GraphHeader:
    """The graph's part of the header, where there is one."""
    graph = blocks.header.graph
    if graph is None:
        raise ValueError("the collection has no graph")
    return graph


class Checked:
    """Which generation of each block this process has found whole; shared by all states of a file."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, bool], NDArray[np.uint64]] = defaultdict(lambda: np.zeros(0, dtype=np.uint64))

    def seen(self, kind: int, size: int, *, pages: bool = False) -> NDArray[np.uint64]:
        """By block number; or by page, for those that were checked without the rest of their blocks."""
        known = self._seen[kind, pages]
        if known.size < size:
            grown = np.zeros(max(size, 2 * known.size), dtype=np.uint64)
            grown[: known.size] = known
            self._seen[kind, pages] = known = grown
        return known


class State:
    """A committed state. Valid while the snapshot that led to it lives; holds the mapping alive."""

    def __init__(
        self,
        header: Header,
        layout: Layout,
        meta: Meta,
        pages: PageMap,
        mapping: Mapping,
        scanned: Mapping,
        checked: Checked,
        older: State | None = None,
    ) -> None:
        self.header = header
        self.layout = layout
        self.meta = meta
        self.pages = pages
        self.cache: dict[str, object] = {}
        self._mapping = mapping
        self._scanned = scanned
        self.checked = checked
        self._entries = {kind: np.zeros(header.counts[kind], dtype=np.uint64) for kind in keys.KINDS}
        self._loaded = {kind: np.zeros(len(header.catalog[kind]), dtype=bool) for kind in keys.KINDS}
        self._places = {kind: np.zeros(header.counts[kind], dtype=np.int64) for kind in keys.KINDS}
        per_part = layout.table_payload // 8
        for kind in keys.KINDS:
            if len(header.catalog[kind]) != -(-header.counts[kind] // per_part):
                raise damaged(keys.HEADER, 0, f"its catalog of {keys.NAMES[kind]} blocks has a wrong length")
        room = {
            keys.VECTORS: layout.rows,
            keys.SLOTS: layout.table_payload // SLOT_BYTES,
            keys.LIVE: layout.table_payload * 8,
        }
        for kind, per_block in room.items():
            if header.slots > header.counts[kind] * per_block:
                raise damaged(keys.HEADER, 0, f"it counts more slots than its {keys.NAMES[kind]} blocks hold")
        check_graph(header, layout)
        check_fields(header, layout)
        self._lazy: dict[tuple[int, int, int], tuple[Checked, LazyTable]] = {}
        self._inherited: dict[tuple[int, int], LazyTable] = {}
        if older is not None:
            self._inherit(older)

    def _inherit(self, older: State) -> None:
        """Take over what an older state of the same file knows, as far as it is so still."""
        for kind in keys.KINDS:
            mine, its = self.header.catalog[kind], older.header.catalog[kind]
            both = min(len(mine), len(its))
            same = np.array(mine[:both], dtype=np.int64) == np.array(its[:both], dtype=np.int64)
            known = same & older._loaded[kind][:both]
            # The last part may have fewer blocks in one of them, under the same generation of none.
            size = min(self._entries[kind].size, older._entries[kind].size)
            self._entries[kind][:size] = older._entries[kind][:size]
            self._loaded[kind][:both] = known
        for (kind, first, _), (_, table) in list(older._lazy.items()):  # other threads may be adding to it
            self._inherited[kind, first] = table

    def block(self, kind: int, number: int) -> Bytes:
        generation = int(self.entries(kind, number, number + 1)[0]) >> 16
        if generation == 0:
            raise damaged(kind, number, "it is missing")
        page = self._place(kind, number)
        start = page * self.layout.page_bytes + PAGE_HEAD_BYTES
        block = self._mapping.bytes[start : start + self.layout.length(kind)]
        seen = self.checked.seen(kind, self.header.counts[kind])
        if seen[number] != generation:
            self.pages.check_span(page, self.layout.pages(kind))
            check(block, kind, number, generation)
            seen[number] = generation
        return block

    def addresses(self, kind: int, numbers: Numbers) -> NDArray[np.uint64]:
        addresses: NDArray[np.uint64] = self._offsets(kind, numbers).astype(np.uint64)
        addresses += np.uint64(self._scanned.address)
        return addresses

    def file_rows(self, kind: int, numbers: Numbers) -> tuple[Bytes, Numbers]:
        return self._mapping.bytes, self._offsets(kind, numbers)

    def lazy(self, kind: int, first: int, count: int, *, gaps: bool = False) -> LazyTable:
        """Where these blocks lie, found without reading any of them.

        A missing block is damage, unless ``gaps`` says that some were freed: those have address 0.
        """
        known = self._lazy.get((kind, first, count))
        if known is None or known[0] is not self.checked:  # a whole verification begins to check anew
            self._lazy[kind, first, count] = known = self.checked, self._lazy_table(kind, first, count)
        table = known[1]
        if not gaps and count and not table.addresses.all():
            raise damaged(kind, first + int(np.argmin(table.addresses)), "it is missing")
        return table

    def _lazy_table(self, kind: int, first: int, count: int) -> LazyTable:
        generations = self.entries(kind, first, first + count) >> np.uint64(16)
        listed = generations > 0
        places = self._places[kind][first : first + count]
        self._take_places(kind, first, generations)
        unknown = np.flatnonzero(listed & (places == 0))
        if unknown.size > _FEW_PLACES:
            self._locate(kind, first, count)
        for place in unknown.tolist() if unknown.size <= _FEW_PLACES else ():
            if places[place] == 0:
                self._place(kind, first + place)
        if unknown.size:
            lost = listed & (places == 0)
            if lost.any():
                raise damaged(kind, first + int(np.argmax(lost)), "it is missing")
        offsets = (places * self.layout.page_bytes + PAGE_HEAD_BYTES).astype(np.uint64)
        sums = self.sums() if kind == keys.VECTORS else np.zeros((self.header.counts[kind], 0), dtype=np.uint32)
        pages_seen = self.checked.seen(kind, sums.size, pages=True)[: sums.size].reshape(sums.shape)
        return LazyTable(
            kind=kind,
            first=first,
            length=self.layout.length(kind),
            base=self._mapping.address,
            page_bytes=self.layout.page_bytes,
            addresses=np.where(listed, offsets + np.uint64(self._mapping.address), np.uint64(0)),
            generations=np.where(listed, generations, NO_GENERATION),
            seen=self.checked.seen(kind, self.header.counts[kind])[first : first + count],
            mapping=self._mapping,
            row_start=self.layout.row_start,
            sums=sums[first : first + count],
            pages_seen=pages_seen[first : first + count],
        )

    def _take_places(self, kind: int, first: int, generations: NDArray[np.uint64]) -> None:
        """Blocks that nobody wrote since an older state's table lie where they lay."""
        table = self._inherited.get((kind, first))
        if table is None:
            return
        both = min(table.addresses.size, generations.size)
        same = (table.generations[:both] == generations[:both]) & (table.addresses[:both] > 0)
        offsets = table.addresses[:both][same].astype(np.int64) - table.base - PAGE_HEAD_BYTES
        self._places[kind][first : first + both][same] = offsets // self.layout.page_bytes

    def sums(self) -> NDArray[np.uint32]:
        """(blocks of vectors, pages of each): the checksum of every page; a block of which none were written has 0."""
        layout, count = self.layout, self.header.counts[keys.VECTORS]
        sums = np.zeros((count, layout.data_pages), dtype=np.uint32)
        numbers = np.flatnonzero(self.present(keys.SUMS)[: -(-count // layout.sum_rows)])
        starts = self._offsets(keys.SUMS, numbers) + HEAD_BYTES
        rows = gather(self._mapping.bytes, starts, 4 * layout.data_pages * layout.sum_rows).view("<u4")
        for number, row in zip(numbers.tolist(), rows, strict=True):
            part = sums[number * layout.sum_rows : (number + 1) * layout.sum_rows]
            part[:] = row.reshape(layout.sum_rows, -1)[: len(part)]
        return sums

    def _locate(self, kind: int, first: int, count: int) -> None:
        """Note the places of all these blocks."""
        leaf = self.pages.between(keys.order(kind, first), keys.order(kind, first + count - 1))
        numbers = leaf.keys & keys.MAX_NUMBER
        wrong = leaf.sizes != self.layout.length(kind)
        if wrong.any():
            raise damaged(kind, int(numbers[wrong][0]), "it has a wrong length")
        self._places[kind][numbers] = leaf.pages

    def check_spans(self, kind: int, numbers: Numbers) -> None:
        """LMDB's headers before these blocks: it believes them when it frees the blocks."""
        if numbers.size == 0:
            return
        first = int(numbers.min())
        self._locate(kind, first, int(numbers.max()) + 1 - first)
        places = self._places[kind][numbers]
        if not places.all():
            raise damaged(kind, int(numbers[places == 0][0]), "it is missing")
        heads = gather(self._mapping.bytes, places * self.layout.page_bytes, PAGE_HEAD_BYTES)
        wrong = self._wrong_spans(kind, places, heads)
        if wrong.any():
            self.pages.check_span(int(places[wrong][0]), self.layout.pages(kind))

    def _wrong_spans(self, kind: int, places: Numbers, heads: Bytes) -> NDArray[np.bool_]:
        wrong: NDArray[np.bool_] = heads.view("<u8")[:, 0].astype(np.int64) != places
        wrong |= heads.view("<u2")[:, 5] != 4
        wrong |= heads.view("<u4")[:, 3] != self.layout.pages(kind)
        return wrong

    def present(self, kind: int) -> NDArray[np.bool_]:
        return self.entries(kind, 0, self.header.counts[kind]) > 0

    def entries(self, kind: int, first: int, last: int) -> NDArray[np.uint64]:
        """The catalog's words for these blocks: generation << 16 | dead bytes; 0 for an absent block."""
        entries, loaded = self._entries[kind], self._loaded[kind]
        if last > entries.size:
            raise damaged(kind, last - 1, "it is missing")
        per_part = self.layout.table_payload // 8
        for part in range(first // per_part, -(-last // per_part)):
            if not loaded[part]:
                number = keys.catalog_number(kind, part)
                place = self.pages.find(keys.order(keys.CATALOG, number))
                if place is None or place[1] != self.layout.length(keys.CATALOG):
                    raise damaged(keys.CATALOG, number, "it is missing")
                start = place[0] * self.layout.page_bytes + PAGE_HEAD_BYTES
                block = self._mapping.bytes[start : start + place[1]]
                self.pages.check_span(place[0], 1)
                check(block, keys.CATALOG, number, self.header.catalog[kind][part])
                words = payload(block).view("<u8")
                low, high = part * per_part, min((part + 1) * per_part, entries.size)
                entries[low:high] = words[: high - low]
                loaded[part] = True
        return entries[first:last]

    def _place(self, kind: int, number: int) -> int:
        """The page where a block begins."""
        places = self._places[kind]
        if places[number] == 0:
            leaf = self.pages.leaf_of(keys.order(kind, number))
            if leaf is not None:
                low, high = np.searchsorted(
                    leaf.keys, (keys.order(kind, 0), keys.order(kind, self.header.counts[kind]))
                )
                if (leaf.sizes[low:high] != self.layout.length(kind)).any():
                    raise damaged(kind, number, "one near it has a wrong length")
                places[leaf.keys[low:high] & keys.MAX_NUMBER] = leaf.pages[low:high]
            if places[number] == 0:
                raise damaged(kind, number, "it is missing")
        return int(places[number])

    def _offsets(self, kind: int, numbers: Numbers) -> Numbers:
        if numbers.size == 0:
            return np.zeros(0, dtype=np.int64)
        low, high = int(numbers.min()), int(numbers.max())
        generations = self.entries(kind, low, high + 1)[numbers - low] >> np.uint64(16)
        if not generations.all():
            raise damaged(kind, int(numbers[generations == 0][0]), "it is missing")
        places = self._places[kind]
        while True:
            unknown = numbers[places[numbers] == 0]
            if unknown.size == 0:
                break
            self._place(kind, int(unknown[0]))
        offsets = places[numbers] * self.layout.page_bytes + PAGE_HEAD_BYTES
        seen = self.checked.seen(kind, self.header.counts[kind])
        fresh = seen[numbers] != generations
        for part in np.array_split(
            np.flatnonzero(fresh), -(-int(fresh.sum()) * self.layout.length(kind) // _WINDOW) or 1
        ):
            if part.size:
                self._read_ahead(offsets[part], self.layout.length(kind))
                self._check_many(kind, numbers[part], offsets[part], generations[part])
                seen[numbers[part]] = generations[part]
        return offsets

    def _read_ahead(self, offsets: Numbers, length: int) -> None:
        """Ask for many pages at once, neighbours together: far faster than a fault for each."""
        if offsets.size == 1 and length <= self.layout.page_bytes:
            return
        ordered = np.sort(offsets)
        starts = np.flatnonzero(np.r_[True, np.diff(ordered) > 2 * length])
        ends = np.r_[starts[1:], ordered.size] - 1
        for start, end in zip(ordered[starts].tolist(), ordered[ends].tolist(), strict=True):
            self._mapping.will_need(start, end - start + length)

    def _check_many(
        self, kind: int, numbers: Numbers, offsets: Numbers, generations: NDArray[np.uint64]
    ) -> None:
        length = self.layout.length(kind)
        both = gather(self._mapping.bytes, offsets - PAGE_HEAD_BYTES, PAGE_HEAD_BYTES + HEAD_BYTES)
        heads = np.ascontiguousarray(both[:, PAGE_HEAD_BYTES:]).view(HEAD)[:, 0]
        wrong = (
            (heads["magic"] != MAGIC)
            | (heads["kind"] != kind)
            | (heads["number"] != numbers)
            | (heads["generation"] != generations)
            | (heads["length"] != length)
        )
        spans = np.ascontiguousarray(both[:, :PAGE_HEAD_BYTES])
        wrong |= self._wrong_spans(kind, offsets // self.layout.page_bytes, spans)
        bad = int(np.argmax(wrong)) if wrong.any() else -1
        if bad < 0 and numbers.size < (_FEW_FOR_KERNELS if dispatch.checksums_are_loaded() else _FEW):
            for start, number, generation in zip(
                offsets.tolist(), numbers.tolist(), generations.tolist(), strict=True
            ):
                check(self._mapping.bytes[start : start + length], kind, number, generation)
        elif bad < 0:
            addresses = np.uint64(self._mapping.address) + offsets.astype(np.uint64)
            bad = dispatch.first_bad_block(addresses, length)
        if bad >= 0:
            start = int(offsets[bad])
            self.pages.check_span(start // self.layout.page_bytes, self.layout.pages(kind))
            block = self._mapping.bytes[start : start + length]
            check(block, kind, int(numbers[bad]), int(generations[bad]))

    def loose_block(self, kind: int, number: int, generation: int) -> Bytes:
        """A block that is in the file and not in the catalog: one that was staged."""
        place = self.pages.find(keys.order(kind, number))
        if place is None or place[1] != self.layout.length(kind):
            raise damaged(kind, number, "it is missing")
        start = place[0] * self.layout.page_bytes + PAGE_HEAD_BYTES
        block = self._mapping.bytes[start : start + place[1]]
        self.pages.check_span(place[0], self.layout.pages(kind))
        check(block, kind, number, generation)
        return block


def gather(data: Bytes, offsets: Numbers, width: int) -> Bytes:
    """Rows of this many bytes at these offsets, copied into one array."""
    windows = np.lib.stride_tricks.as_strided(
        data, shape=(data.size - width + 1, width), strides=(1, 1), writeable=False
    )
    return windows[offsets]
