"""An open write: changed blocks are kept beside the state they came from, and go to the file in one commit."""

from __future__ import annotations

import contextlib
from typing import Any

import lmdb
import numpy as np
from numpy.typing import NDArray

from vecstore.config import FORMAT_VERSION, STAGE_BYTES
from vecstore.errors import CorruptionError, LockedError
from vecstore.kernels import dispatch
from vecstore.storage import keys
from vecstore.storage.behind import Behind
from vecstore.storage.blocks import Bytes, Layout, damaged, new_block, payload, seal, seal_all
from vecstore.storage.environment import translated
from vecstore.storage.file import File, Snapshot
from vecstore.storage.header import FieldIndex, GraphHeader, Header, write_header
from vecstore.storage.kept import Kept
from vecstore.storage.pages import PageMap
from vecstore.storage.state import Numbers, State
from vecstore.storage.sums import NewSums

# Kinds of which a large write makes more than fits into memory.
_STAGED_KINDS = (
    keys.VECTORS,
    keys.RECORDS,
    keys.SLOTS,
    keys.LONG,
    keys.GRAPH,
    keys.CODES,
    keys.INDEX,
    keys.FIELDS,
)

_DEAD = np.uint64(0xFFFF)


class Session:
    """What a writer reads and changes, from taking the lock to the commit.

    The catalog's words are ours from the start: a block that this session made, even one that was staged
    already, has the generation written here, and no state of the file knows of it before the commit.
    """

    def __init__(self, file: File, stage_bytes: int = STAGE_BYTES) -> None:
        self._file = file
        self._stage_bytes = stage_bytes
        kept = file.take_kept()
        self._snapshot: Snapshot = file.snapshot(kept)
        if not self._snapshot.opened.newest_is(self._snapshot.number):
            self._snapshot.close()
            file.repair_lock()
            self._snapshot = file.snapshot(kept)
        if kept is None or (kept.opened, kept.generation) != (self._snapshot.opened, self._snapshot.number):
            base = self._base
            kept = Kept(
                self._snapshot.opened, self._snapshot.number, base.header, base.layout, {}, {}, base.cache
            )
        self.header: Header = kept.header.copy()
        self.layout: Layout = kept.layout
        self.cache: dict[str, object] = dict(kept.cache)
        # Blocks as the last commit left them: to be changed in place, once that is this session's base.
        self._recent: dict[int, Bytes] = kept.blocks
        self._dirty: dict[int, Bytes] = {}
        self._freed: set[int] = set()
        self._staged: dict[int, int] = {}
        self._fresh_bytes = 0
        self._words: dict[int, NDArray[np.uint64]] = kept.words
        self._changed_words: set[int] = set()
        self._sums = NewSums(self.layout)
        self._behind: Behind | None = None
        self.changed = False
        # Something was deleted or replaced, so a purge may be due.
        self.dropped = False
        file.check_tree(self._snapshot)
        if self.header.staged:
            self._drop_leftovers()

    @property
    def transaction(self) -> int:
        """The number of the commit that this session builds on."""
        return self._snapshot.number

    @property
    def path(self) -> str:
        """Where the file is."""
        return self._file.path

    @property
    def _base(self) -> State:
        return self._snapshot.state

    @property
    def base(self) -> State:
        """The committed state that this session builds on; staging exchanges it for the next."""
        return self._base

    # -- reading, as ``Blocks``

    def block(self, kind: int, number: int) -> Bytes:
        order = keys.order(kind, number)
        block = self._dirty.get(order)
        if block is not None:
            return block
        block = self._recent.get(order)
        if block is not None:
            return block
        if order in self._staged:
            return self._staged_block(kind, number)
        if order in self._freed:
            raise damaged(kind, number, "it was freed")
        return self._base.block(kind, number)

    def addresses(self, kind: int, numbers: Numbers) -> NDArray[np.uint64]:
        if not self._dirty and not self._staged:
            return self._base.addresses(kind, numbers)
        found = [self.block(kind, number).ctypes.data for number in numbers.tolist()]
        return np.array(found, dtype=np.uint64)

    def file_rows(self, kind: int, numbers: Numbers) -> tuple[Bytes, Numbers] | None:
        return None if self._dirty or self._staged else self._base.file_rows(kind, numbers)

    def present(self, kind: int) -> NDArray[np.bool_]:
        return self._words_of(kind)[: self.header.counts[kind]] > 0

    def exists(self, kind: int, number: int) -> bool:
        return number < self.header.counts[kind] and bool(self._words_of(kind)[number])

    # -- changing

    def edit(self, kind: int, number: int) -> Bytes:
        """A block to be changed in place."""
        order = keys.order(kind, number)
        block = self._dirty.get(order)
        if block is None:
            block = self._recent.pop(order, None)
            if block is None:
                block = self.block(kind, number).copy()
            self._dirty[order] = block
            self.changed = True
        return block

    def create(self, kind: int, number: int | None = None) -> tuple[int, Bytes]:
        """A new, empty block: of this number, or of the lowest that is free."""
        if number is None:
            absent = np.flatnonzero(~self.present(kind))
            number = int(absent[0]) if absent.size else self.header.counts[kind]
        return number, self.put(new_block(kind, number, self.layout.length(kind)), kind, number)

    def append_numbers(self, kind: int, amount: int) -> int:
        """The first of this many new numbers behind all that exist."""
        first = self.header.counts[kind]
        self._grow(kind, first + amount)
        return first

    def put(self, block: Bytes, kind: int, number: int) -> Bytes:
        """Take a filled block as this number's."""
        order = keys.order(kind, number)
        if number >= self.header.counts[kind]:
            self._grow(kind, number + 1)
        if order not in self._dirty:
            self._fresh_bytes += block.size
        self._dirty[order] = block
        self._recent.pop(order, None)
        self._freed.discard(order)
        self._set_word(kind, number, 1 << 16)
        self.changed = True
        return block

    def free(self, kind: int, number: int) -> None:
        """Drop a block; its number and its pages are used again."""
        order = keys.order(kind, number)
        if order not in self._dirty and order not in self._staged:
            self._base.block(kind, number)
        self._dirty.pop(order, None)
        self._recent.pop(order, None)
        self._freed.add(order)
        self._set_word(kind, number, 0)
        self.changed = True

    def free_all(self, kind: int) -> None:
        """Drop all blocks of a kind, as ``free_many`` does."""
        self.free_many(kind, np.flatnonzero(self.present(kind)))

    def free_many(self, kind: int, numbers: Numbers) -> None:
        """Drop these blocks, whatever is in them: a damaged one as well, if LMDB can let go of it."""
        orders = [keys.order(kind, number) for number in numbers.tolist()]
        known = [order not in self._dirty and order not in self._staged for order in orders]
        self._base.check_spans(kind, numbers[np.array(known, dtype=bool)])
        for order, number in zip(orders, numbers.tolist(), strict=True):
            self._dirty.pop(order, None)
            self._recent.pop(order, None)
            self._staged.pop(order, None)
            self._set_word(kind, number, 0)
        self._freed.update(orders)
        self.changed = self.changed or bool(orders)

    def free_numbers(self, kind: int, amount: int) -> int:
        """The first of so many numbers in a row, the lowest of which no block is, and was none before.

        Blocks of these numbers can be staged: nothing that is published speaks of them.
        """
        used = np.zeros(max(self.header.counts[kind], self._base.header.counts[kind]), dtype=bool)
        for present in (self.present(kind), self._base.present(kind)):
            used[: present.size] |= present
        places = np.flatnonzero(used)
        starts = np.r_[0, places + 1]
        ends = np.r_[places, starts[-1] + amount]
        first = int(starts[np.argmax(ends - starts >= amount)])
        if first + amount > self.header.counts[kind]:
            self._grow(kind, first + amount)
        return first

    def describe_graph(self, graph: GraphHeader | None) -> None:
        """What the header says of the graph from the commit on."""
        self.changed = self.changed or graph != self.header.graph
        self.header.graph = graph

    def describe_fields(self, fields: dict[str, FieldIndex]) -> None:
        """What the header says of the indexes of fields from the commit on."""
        self.changed = self.changed or fields != self.header.fields
        self.header.fields = fields

    def dead_bytes(self, kind: int) -> NDArray[np.int64]:
        words: NDArray[np.uint64] = self._words_of(kind)[: self.header.counts[kind]]
        dead: NDArray[np.int64] = np.bitwise_and(words, _DEAD).astype(np.int64)
        return dead

    def add_dead_bytes(self, kind: int, number: int, amount: int) -> None:
        word = int(self._words_of(kind)[number])
        self._set_word(kind, number, (word & ~0xFFFF) | min((word & 0xFFFF) + amount, 0xFFFF))
        self.changed = self.dropped = True

    def _words_of(self, kind: int) -> NDArray[np.uint64]:
        words = self._words.get(kind)
        if words is None:
            words = self._base.entries(kind, 0, self._base.header.counts[kind]).copy()
            self._words[kind] = words
        return words

    def _set_word(self, kind: int, number: int, word: int) -> None:
        self._words_of(kind)[number] = word
        self._changed_words.add(keys.order(kind, number))

    def _grow(self, kind: int, count: int) -> None:
        if count > keys.MAX_NUMBER:
            raise CorruptionError("the collection has more blocks than the format can number")
        words = self._words_of(kind)
        if words.size < count:
            grown = np.zeros(max(count, 2 * words.size), dtype=np.uint64)
            grown[: words.size] = words
            self._words[kind] = grown
        self.header.counts[kind] = count

    # -- writing

    def stage(self) -> None:
        """Write new blocks ahead of the commit, once they fill the memory meant for them.

        They are in the file then and nobody's: no header counts them. A kill here costs their space
        until the next writer finds ``staged`` set and drops them.
        """
        if self._fresh_bytes < self._stage_bytes:
            return
        self.settle()
        dispatch.expect_many_checksums()
        base = self._base.header
        batch = {
            order: block
            for order, block in self._dirty.items()
            if order >> 32 in _STAGED_KINDS and self._is_new(order)
        }
        header = base.copy()
        header.staged = True
        generation = self._write(batch, [], header)
        for order in batch:
            del self._dirty[order]
            self._staged[order] = generation
            self._set_word(order >> 32, order & keys.MAX_NUMBER, self._word_of(order, generation))
        self._fresh_bytes = 0
        self._rebase()

    def write_behind(self, first: int, rows: Bytes) -> bool:
        """Stage whole blocks of vectors, numbered from this one, in a thread; False where they are too few.

        Nobody may change the rows, or read these blocks, before ``settle``.
        """
        if rows.size < self._stage_bytes:
            return False
        self.settle()
        self._start_behind(first, rows)
        return True

    def _start_behind(self, first: int, rows: Bytes) -> None:
        header = self._base.header.copy()
        header.staged, header.version = True, FORMAT_VERSION
        last = first + len(rows) // self.layout.rows
        if last > self.header.counts[keys.VECTORS]:
            self._grow(keys.VECTORS, last)
        self._behind = Behind(self._file, self._snapshot, header, self.layout, first, rows, self._stage_bytes)
        self.changed = True

    def settle(self) -> None:
        """Wait for what is being written behind."""
        if self._behind is None:
            return
        behind = self._behind
        rest = behind.finish()
        self._behind = None  # not sooner: where waiting is interrupted, closing stops it
        words = self._words_of(keys.VECTORS)
        for part in behind.done:
            last = part.first + len(part.sums)
            numbers = range(part.first, last)
            orders = range(keys.order(keys.VECTORS, part.first), keys.order(keys.VECTORS, last))
            words[part.first : last] = part.generation << 16
            self._changed_words.update(orders)
            self._freed.difference_update(orders)
            self._staged.update(dict.fromkeys(orders, part.generation))
            self._sums.add(numbers, part.sums)
        if rest is not None:
            self._snapshot.close()
            self._file.grow_map()
        self._rebase()
        if rest is not None:
            self._start_behind(*rest)
            self.settle()

    def _is_new(self, order: int) -> bool:
        """Whether the published state has no block of this number."""
        kind, number = order >> 32, order & keys.MAX_NUMBER
        counted = number < self._base.header.counts[kind]
        return not counted or not int(self._base.entries(kind, number, number + 1)[0])

    def commit(self) -> None:
        """All of it, or none: what this returns from survives whatever comes."""
        if not self.changed:
            return
        self.settle()
        self.header.staged = False
        opened = self._snapshot.opened
        generation = self._write(self._dirty, sorted(self._freed), self.header, catalog=True)
        self.close()
        self._recent.update(self._dirty)
        self._file.keep(
            Kept(
                opened, generation, self.header, self.layout, self._recent, self._words, self.cache
            ).trimmed()
        )

    def close(self) -> None:
        if self._behind is not None:
            self._behind.stop()
            self._behind = None
        self._snapshot.close()

    def _write(
        self, blocks: dict[int, Bytes], freed: list[int], header: Header, *, catalog: bool = False
    ) -> int:
        header.version = FORMAT_VERSION
        while True:
            try:
                return self._try_to_write(blocks, freed, header, catalog)
            except lmdb.MapFullError:
                self._snapshot.close()
                self._file.grow_map()
                self._rebase()

    def _try_to_write(self, blocks: dict[int, Bytes], freed: list[int], header: Header, catalog: bool) -> int:
        with translated(self._file.path, "writing"):
            transaction = self._file.begin_write(self._snapshot)
            try:
                generation = int(transaction.id())
                if generation != self._snapshot.number + 1:
                    raise LockedError(
                        f"{self._file.path} was written to behind this write's back; nothing was written, call again"
                    )
                seal_all(blocks.values(), generation)
                for order in sorted(blocks):
                    transaction.put(_key(order), blocks[order].data)
                self._sums.note(blocks)
                for order in freed:
                    transaction.delete(_key(order))
                if catalog:
                    self._write_sums(transaction, freed, generation)
                    self._write_catalog(transaction, blocks, header, generation)
                block = write_header(header, self.layout.page_bytes)
                seal(block, generation)
                transaction.put(keys.key(keys.HEADER, 0), block.data)
                transaction.commit()
            except BaseException:
                with contextlib.suppress(lmdb.Error):
                    transaction.abort()
                raise
        return generation

    def _write_sums(self, transaction: Any, freed: list[int], generation: int) -> None:
        tables, empty = self._sums.tables(self, freed)
        for number, block in tables.items():
            if number >= self.header.counts[keys.SUMS]:
                self._grow(keys.SUMS, number + 1)
            seal(block, generation)
            transaction.put(keys.key(keys.SUMS, number), block.data)
            self._recent[keys.order(keys.SUMS, number)] = block
            self._set_word(keys.SUMS, number, generation << 16)
        for number in empty:
            transaction.delete(keys.key(keys.SUMS, number))
            self._recent.pop(keys.order(keys.SUMS, number), None)
            self._set_word(keys.SUMS, number, 0)

    def _write_catalog(
        self, transaction: Any, blocks: dict[int, Bytes], header: Header, generation: int
    ) -> None:
        for order in blocks:
            self._set_word(order >> 32, order & keys.MAX_NUMBER, self._word_of(order, generation))
        per_part = self.layout.table_payload // 8
        parts = {(order >> 32, (order & keys.MAX_NUMBER) // per_part) for order in self._changed_words}
        for kind, part in sorted(parts):
            number = keys.catalog_number(kind, part)
            block = new_block(keys.CATALOG, number, self.layout.length(keys.CATALOG))
            words = self._words_of(kind)[part * per_part : min((part + 1) * per_part, header.counts[kind])]
            payload(block).view("<u8")[: words.size] = words
            seal(block, generation)
            transaction.put(keys.key(keys.CATALOG, number), block.data)
            generations = header.catalog[kind]
            generations.extend([0] * (part + 1 - len(generations)))
            generations[part] = generation

    def _word_of(self, order: int, generation: int) -> int:
        return generation << 16 | int(self._words_of(order >> 32)[order & keys.MAX_NUMBER]) & 0xFFFF

    def _rebase(self) -> None:
        """Read on from the newest commit, which is our own: the writer's lock is held."""
        self._snapshot.close()
        self._snapshot = self._file.snapshot()

    def _staged_block(self, kind: int, number: int) -> Bytes:
        return self._base.loose_block(kind, number, self._staged[keys.order(kind, number)])

    def _drop_leftovers(self) -> None:
        """Free the blocks that a killed writer had staged."""
        pages: PageMap = self._base.pages
        for leaf in pages.leaves():
            for order, page, size in zip(
                leaf.keys.tolist(), leaf.pages.tolist(), leaf.sizes.tolist(), strict=True
            ):
                kind, number = order >> 32, order & keys.MAX_NUMBER
                if kind in (keys.HEADER, keys.CATALOG):
                    continue
                known = kind in self.header.counts and number < self.header.counts[kind]
                if not (known and int(self._words_of(kind)[number])):
                    pages.check_span(page, (size + 16) // self.layout.page_bytes)
                    self._freed.add(order)
        self.changed = True


def _key(order: int) -> bytes:
    return keys.key(order >> 32, order & keys.MAX_NUMBER)
