"""Blocks: what every value in the file looks like.

A block is a 48-byte header and a payload. LMDB puts large values 16 bytes behind a page's start, so the
payload of every block is 64-byte aligned in the file. The checksum covers the whole block, the kind, the
number and the generation with it: a block that is damaged, misplaced or stale shows.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vecstore.config import Settings
from vecstore.errors import CorruptionError
from vecstore.kernels import dispatch
from vecstore.storage import keys

Bytes = NDArray[np.uint8]

MAGIC = int.from_bytes(b"vsB1", "little")
HEAD_BYTES = 48
PAGE_HEAD_BYTES = 16

# From so many blocks on, one call of a kernel seals them.
_MANY = 100

# Kinds whose blocks have the larger of the two sizes.
_DATA_KINDS = (keys.RECORDS, keys.VECTORS, keys.LONG, keys.CODES, keys.INDEX, keys.EDGES)

HEAD = np.dtype(
    [
        ("magic", "<u4"),
        ("kind", "<u4"),
        ("number", "<u8"),
        ("generation", "<u8"),
        ("length", "<u4"),
        ("count", "<u4"),
        ("extra", "<u8"),
        ("checksum", "<u8"),
    ]
)


def value_bytes(pages: int, page_bytes: int) -> int:
    """The length of a value that fills its pages exactly."""
    return pages * page_bytes - PAGE_HEAD_BYTES


@dataclass(frozen=True)
class Layout:
    """Sizes that follow from the settings and the file's page size.

    Two sizes only: tables and the graph's rows take one page, vectors, records and codes share one larger
    size, so that what one block frees fits the next.
    """

    page_bytes: int
    data_pages: int
    row_bytes: int
    # Where a block's rows begin, from its header on.
    row_start: int

    @property
    def table_payload(self) -> int:
        return value_bytes(1, self.page_bytes) - HEAD_BYTES

    @property
    def data_payload(self) -> int:
        return value_bytes(self.data_pages, self.page_bytes) - HEAD_BYTES

    @property
    def rows(self) -> int:
        """Vectors in a block."""
        return self.data_payload // self.row_bytes

    @property
    def record_payload(self) -> int:
        """Offsets inside a record block are 16 bits wide."""
        return min(self.data_payload, 0xFFFF - HEAD_BYTES)

    @property
    def sum_rows(self) -> int:
        """Blocks of vectors whose pages' sums are in one block."""
        return self.table_payload // (4 * self.data_pages)

    def graph_rows(self, degree: int) -> int:
        """Nodes in a block of the graph, each a slot and its neighbours."""
        return self.table_payload // (4 * (1 + degree))

    @property
    def field_rows(self) -> int:
        """Slots in a block of a field's index, each a word of eight bytes and a tag of one."""
        return self.table_payload // 9

    @property
    def slot_nodes(self) -> int:
        """Slots in a block that names their nodes."""
        return self.table_payload // 4

    @property
    def pairs(self) -> int:
        """Edges in a block of those that came later, each two nodes."""
        return self.data_payload // 8

    def code_rows(self, code_bytes: int) -> int:
        """Codes in a block."""
        return self.data_payload // code_bytes

    def pages(self, kind: int) -> int:
        return self.data_pages if kind in _DATA_KINDS else 1

    def length(self, kind: int) -> int:
        return value_bytes(self.pages(kind), self.page_bytes)


@functools.lru_cache(64)
def layout(settings: Settings, page_bytes: int, aligned: bool) -> Layout:
    """The smallest block from 16 to 64 KiB that wastes less than 1.6% of itself, or the one wasting least.

    Aligned rows begin where the fewest of them lie on more pages than they must.
    """
    overhead = PAGE_HEAD_BYTES + HEAD_BYTES
    fewest = max(1, 16_384 // page_bytes, -(-(settings.row_bytes + overhead) // page_bytes))
    most = max(fewest, 65_536 // page_bytes)

    def waste(pages: int) -> float:
        rows = (pages * page_bytes - overhead) // settings.row_bytes
        return 1 - rows * settings.row_bytes / (pages * page_bytes)

    choices = range(fewest, most + 1)
    thrifty = [pages for pages in choices if waste(pages) < 0.016]
    pages = thrifty[0] if thrifty else min(choices, key=waste)
    rows = (pages * page_bytes - overhead) // settings.row_bytes

    def touched(start: int) -> int:
        firsts = start + np.arange(rows) * settings.row_bytes
        return int(((firsts + settings.row_bytes - 1) // page_bytes - firsts // page_bytes).sum())

    last = pages * page_bytes - rows * settings.row_bytes if aligned else overhead
    start = min(range(overhead, last + 1, 64), key=touched)
    return Layout(page_bytes, pages, settings.row_bytes, start - PAGE_HEAD_BYTES)


def new_block(kind: int, number: int, length: int) -> Bytes:
    """An empty block of our own, to be filled and sealed."""
    block = np.zeros(length, dtype=np.uint8)
    head = head_of(block)
    head["magic"], head["kind"], head["number"], head["length"] = MAGIC, kind, number, length
    return block


def head_of(block: Bytes) -> np.void:
    """The header as a record; writable where the block is."""
    record: np.void = block[:HEAD_BYTES].view(HEAD)[0]
    return record


def count_of(block: Bytes) -> int:
    return int.from_bytes(block[28:32].tobytes(), "little")


def extra_of(block: Bytes) -> int:
    return int.from_bytes(block[32:40].tobytes(), "little")


def set_count(block: Bytes, count: int, extra: int = 0) -> None:
    head = head_of(block)
    head["count"], head["extra"] = count, extra


def payload(block: Bytes) -> Bytes:
    return block[HEAD_BYTES:]


def seal(block: Bytes, generation: int) -> None:
    """Stamp the generation and the checksum; the block is not changed again after this."""
    head = head_of(block)
    head["generation"] = generation
    head["checksum"] = dispatch.block_checksum(block)


def seal_all(blocks: Collection[Bytes], generation: int) -> None:
    if len(blocks) < _MANY:
        for block in blocks:
            seal(block, generation)
    else:
        dispatch.seal_blocks(list(blocks), generation)


def check(block: Bytes, kind: int, number: int, generation: int) -> None:
    """Raise CorruptionError unless this is that block, of that generation, whole."""
    head = block[:HEAD_BYTES].tobytes()
    problem = None
    if int.from_bytes(head[0:4], "little") != MAGIC:
        problem = "it does not begin like a block"
    elif int.from_bytes(head[24:28], "little") != block.size:
        problem = "its length is wrong"
    elif int.from_bytes(head[40:48], "little") != dispatch.block_checksum(block):
        problem = "its checksum does not match its bytes"
    elif int.from_bytes(head[4:8], "little") != kind or int.from_bytes(head[8:16], "little") != number:
        problem = "another block stands in its place"
    elif int.from_bytes(head[16:24], "little") != generation:
        found = int.from_bytes(head[16:24], "little")
        problem = f"it is of generation {found}, and {generation} was written last"
    if problem is not None:
        raise damaged(kind, number, problem)


def damaged(kind: int, number: int, problem: str) -> CorruptionError:
    """The error for one bad block, worded the same everywhere."""
    name = keys.NAMES.get(kind, f"kind {kind}")
    remedy = "Restore a backup, or save what is readable with `vecstore export --skip-damaged`"
    if kind == keys.FIELDS:  # nothing is lost: the records tell all that it says
        remedy = "It is part of an index of a field: drop_index() drops that, and create_index() makes it anew"
    return CorruptionError(f"block {name} {number} is damaged: {problem}. {remedy}")
