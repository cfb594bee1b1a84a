"""Reads LMDB's pages (format 1) without LMDB: finds where a value lies, and touches no byte of it.

LMDB's own ``get`` reads a whole value in, and trusts every number in the file. This walk gives page
numbers only, checks each number before it follows it, and runs under a live read transaction, which
keeps the pages it sees from being used again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vecstore.errors import CorruptionError, NotACollectionError
from vecstore.storage.blocks import PAGE_HEAD_BYTES, Bytes
from vecstore.storage.keys import KEY_BYTES

_BRANCH, _LEAF, _OVERFLOW, _META = 0x01, 0x02, 0x04, 0x08
_BIG_DATA = 0x01
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_META_HEAD = struct.Struct("<QHHHHIIQQ")
_TREE = struct.Struct("<IHHQQQQQ")
_TAIL = struct.Struct("<QQ")
META_BYTES = _META_HEAD.size + 2 * _TREE.size + _TAIL.size
_PAGE_HEAD = struct.Struct("<QHHHH")
_NO_ROOT = (1 << 64) - 1
_MOST_DEPTH = 32


@dataclass(frozen=True)
class Meta:
    """One of LMDB's two meta pages: where a committed state begins."""

    page_bytes: int
    transaction: int
    last_page: int
    root: int | None
    depth: int
    entries: int
    free_root: int | None
    free_depth: int


def read_meta(data: bytes, page: int, *, newest: bool = True) -> Meta:
    """Read a meta page's first bytes; refuses everything that LMDB's code could trip over.

    Of the older of the two pages LMDB follows nothing, and writes over it next. After a failed write it
    leaves one there that has the new roots under the old number.
    """
    if len(data) < META_BYTES:
        raise NotACollectionError("the file is too short for a collection")
    number, _, flags, _, _, magic, version, _, _ = _META_HEAD.unpack_from(data)
    if magic != _MAGIC or not flags & _META:
        raise NotACollectionError("the file is not a vecstore collection")
    if version != _VERSION or number != page:
        raise CorruptionError(f"meta page {page} is damaged; restore a backup")
    free = _TREE.unpack_from(data, _META_HEAD.size)
    main = _TREE.unpack_from(data, _META_HEAD.size + _TREE.size)
    last_page, transaction = _TAIL.unpack_from(data, _META_HEAD.size + 2 * _TREE.size)
    page_bytes = free[0]
    sound = (
        free[1] & 0x7F == 0x08  # integer keys; LMDB keeps its environment's flags in the upper bits
        and main[1] == 0
        and free[2] <= _MOST_DEPTH
        and main[2] <= _MOST_DEPTH
        and 1 <= last_page < 1 << 40
    )
    for tree in (free, main):
        sound = sound and (tree[7] == _NO_ROOT or 2 <= tree[7] <= last_page)
    if page_bytes not in (4096, 8192, 16384, 32768) or (newest and not sound):
        raise CorruptionError(f"meta page {page} is damaged; restore a backup")
    return Meta(
        page_bytes,
        transaction,
        last_page,
        None if main[7] == _NO_ROOT else main[7],
        main[2],
        main[6],
        None if free[7] == _NO_ROOT else free[7],
        free[2],
    )


@dataclass(frozen=True)
class Leaf:
    """A leaf page's entries: keys as sorted integers, and where each value lies."""

    keys: NDArray[np.int64]
    pages: NDArray[np.int64]
    sizes: NDArray[np.int64]


class PageMap:
    """The tree of one committed state; leaves are read when first asked for."""

    def __init__(self, data: Bytes, meta: Meta) -> None:
        page_bytes = meta.page_bytes
        whole = min(data.size // page_bytes, meta.last_page + 1)
        self._pages = data[: whole * page_bytes].reshape(whole, page_bytes)
        self._page_bytes = page_bytes
        self._meta = meta
        self._leaves: dict[int, Leaf] = {}
        self._branches: dict[int, tuple[NDArray[np.int64], list[int]]] = {}

    def find(self, key: int) -> tuple[int, int] | None:
        """(page, bytes) of the value under this key, or None."""
        leaf = self.leaf_of(key)
        if leaf is None:
            return None
        at = int(np.searchsorted(leaf.keys, key))
        if at == leaf.keys.size or leaf.keys[at] != key:
            return None
        return int(leaf.pages[at]), int(leaf.sizes[at])

    def leaf_of(self, key: int) -> Leaf | None:
        """The leaf page where this key is, or would be."""
        page = self._meta.root
        if page is None:
            return None
        for _ in range(self._meta.depth - 1):
            separators, children = self._branch(page)
            page = children[int(np.searchsorted(separators, key, side="right"))]
        return self._leaf(page)

    def leaves(self, first: int = 0, last: int = 1 << 62) -> Iterator[Leaf]:
        """Every leaf page that may hold keys from first to last, in order."""
        if self._meta.root is not None:
            yield from self._below(self._meta.root, self._meta.depth, first, last, set())

    def between(self, first: int, last: int) -> Leaf:
        """All entries with keys from first to last, as if one leaf had them: many leaves are read at once."""
        if self._meta.root is None:
            return Leaf(*(np.zeros(0, dtype=np.int64) for _ in range(3)))
        at = [self._meta.root]
        for _ in range(self._meta.depth - 1):
            below: list[int] = []
            for page in at:
                separators, children = self._branch(page)
                low, high = np.searchsorted(separators, (first, last), side="right").tolist()
                below += children[low : high + 1]
            at = below
            if len(at) > len(self._pages):
                raise self._bad(at[0], "it is linked twice")
        whole = self._parse(np.array(at, dtype=np.int64))
        low, high = np.searchsorted(whole.keys, (first, last + 1)).tolist()
        return Leaf(whole.keys[low:high], whole.pages[low:high], whole.sizes[low:high])

    def check_writable(self) -> None:
        """Check all that LMDB's own code follows when it writes: both trees, and the list of free pages.

        No page may have two uses: LMDB would write over a live one, or abort the process.
        """
        entries = 0
        seen: set[int] = set()
        spans: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        if self._meta.root is not None:
            for leaf in self._below(self._meta.root, self._meta.depth, 0, 1 << 62, seen):
                entries += leaf.keys.size
                spans.append((leaf.pages, leaf.pages + self._span(leaf.sizes)))
        if entries != self._meta.entries:
            raise self._bad(
                self._meta.root or 0, f"it counts {self._meta.entries} blocks and holds {entries}"
            )
        if self._meta.free_root is not None:
            self._check_free(self._meta.free_root, self._meta.free_depth, seen, spans)
        own = np.array(sorted(seen), dtype=np.int64)
        spans.append((own, own + 1))
        starts = np.concatenate([first for first, _ in spans])
        order = np.argsort(starts, kind="stable")
        ends = np.concatenate([last for _, last in spans])[order]
        twice = starts[order][1:] < ends[:-1]
        if twice.any():
            raise self._bad(int(starts[order][1:][twice][0]), "it has two uses")

    def _span(self, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Pages that values of these sizes fill."""
        return (sizes + PAGE_HEAD_BYTES + self._page_bytes - 1) // self._page_bytes

    def _below(self, page: int, depth: int, first: int, last: int, seen: set[int]) -> Iterator[Leaf]:
        if page in seen:
            raise self._bad(page, "it is linked twice")
        seen.add(page)
        if depth <= 1:
            yield self._leaf(page)
            return
        separators, children = self._branch(page)
        low = int(np.searchsorted(separators, first, side="right"))
        high = int(np.searchsorted(separators, last, side="right"))
        for child in children[low : high + 1]:
            yield from self._below(child, depth - 1, first, last, seen)

    def _open(self, page: int, kind: int) -> tuple[Bytes, NDArray[np.int64]]:
        """A page of this kind, and the offsets of its nodes."""
        if not 2 <= page < len(self._pages):
            raise self._bad(page, "it lies behind the end of the file: the file was truncated")
        data = self._pages[page]
        number, _, flags, lower, upper = _PAGE_HEAD.unpack_from(data)
        # LMDB marks pages dirty and loose in memory only; on disk a page has its kind and nothing else.
        if (
            number != page
            or flags != kind
            or not PAGE_HEAD_BYTES <= lower <= upper <= self._page_bytes
            or lower & 1
        ):
            raise self._bad(page, "its header is wrong")
        offsets = data[PAGE_HEAD_BYTES:lower].view("<u2").astype(np.int64)
        if (
            offsets.size == 0
            or (offsets & 1).any()
            or offsets.min() < upper
            or offsets.max() > self._page_bytes - 8
        ):
            raise self._bad(page, "its nodes are out of place")
        return data, offsets

    def _branch(self, page: int) -> tuple[NDArray[np.int64], list[int]]:
        """(keys between the children, children)."""
        known = self._branches.get(page)
        if known is not None:
            return known
        data, offsets = self._open(page, _BRANCH)
        raw = data.tobytes()
        children, separators = [], []
        for place, offset in enumerate(offsets.tolist()):
            low, high, top, key_bytes = struct.unpack_from("<HHHH", raw, offset)
            children.append(low | high << 16 | top << 32)
            if place == 0:
                continue  # the first key stands for minus infinity, whatever it says
            if key_bytes != KEY_BYTES or offset + 8 + KEY_BYTES > self._page_bytes:
                raise self._bad(page, "it holds a key of a foreign kind")
            separators.append(int.from_bytes(raw[offset + 8 : offset + 8 + KEY_BYTES], "big"))
        bounds = np.array(separators, dtype=np.int64)
        if (np.diff(bounds) <= 0).any():
            raise self._bad(page, "its keys are out of order")
        self._branches[page] = bounds, children
        return bounds, children

    def _leaf(self, page: int) -> Leaf:
        known = self._leaves.get(page)
        if known is not None:
            return known
        leaf = self._parse(np.array([page], dtype=np.int64))
        self._leaves[page] = leaf
        return leaf

    def _parse(self, leaves: NDArray[np.int64]) -> Leaf:
        """The entries of these leaf pages, which follow each other in the tree."""
        inside = (leaves >= 2) & (leaves < len(self._pages))
        if not inside.all():
            page = int(leaves[~inside][0])
            raise self._bad(page, "it lies behind the end of the file: the file was truncated")
        heads = self._pages[leaves, :PAGE_HEAD_BYTES]
        lower, upper = (heads.view("<u2")[:, place].astype(np.int64) for place in (6, 7))
        wrong = (heads.view("<i8")[:, 0] != leaves) | (heads.view("<u2")[:, 5] != _LEAF)
        wrong |= (lower <= PAGE_HEAD_BYTES) | (lower > upper) | (upper > self._page_bytes) | (lower & 1 > 0)
        if wrong.any():
            raise self._bad(int(leaves[wrong][0]), "its header is wrong")
        counts = (lower - PAGE_HEAD_BYTES) // 2
        ends = np.cumsum(counts)
        owners = np.repeat(np.arange(leaves.size), counts)
        starts = leaves[owners] * self._page_bytes
        inner = np.arange(int(ends[-1])) - (ends - counts)[owners]
        data = self._pages.reshape(-1)
        shorts = data.view("<u2")
        offsets = shorts[(starts + PAGE_HEAD_BYTES) // 2 + inner].astype(np.int64)
        wrong = (offsets & 1 > 0) | (offsets < upper[owners])
        wrong |= offsets > self._page_bytes - 8 - KEY_BYTES - 8
        if wrong.any():
            raise self._bad(int(leaves[owners[wrong]][0]), "its nodes are out of place")
        nodes = starts + offsets
        words = shorts[(nodes // 2)[:, None] + np.arange(4)].astype(np.int64)
        wrong = (words[:, 2] != _BIG_DATA) | (words[:, 3] != KEY_BYTES)
        if wrong.any():
            raise self._bad(int(leaves[owners[wrong]][0]), "it holds an entry of a foreign kind")
        tails = data[nodes[:, None] + np.arange(8, 8 + KEY_BYTES + 8)]
        weights = np.int64(1) << np.arange(32, -1, -8, dtype=np.int64)
        found: NDArray[np.int64] = tails[:, :KEY_BYTES].astype(np.int64) @ weights
        wrong = np.r_[False, np.diff(found) <= 0]
        if wrong.any():
            raise self._bad(int(leaves[owners[wrong]][0]), "its keys are out of order")
        pages = np.ascontiguousarray(tails[:, KEY_BYTES:]).view("<i8").ravel().astype(np.int64)
        sizes = words[:, 0] | words[:, 1] << 16
        spans = self._span(sizes)
        wrong = (pages < 2) | (pages > self._meta.last_page + 1 - spans)
        if wrong.any():
            raise self._bad(int(leaves[owners[wrong]][0]), "it points outside of the file")
        wrong = pages > len(self._pages) - spans
        if wrong.any():
            page = int(leaves[owners[wrong]][0])
            raise self._bad(page, "it points behind the end of the file: the file was truncated")
        return Leaf(found, pages, sizes)

    def _check_free(
        self,
        page: int,
        depth: int,
        seen: set[int],
        spans: list[tuple[NDArray[np.int64], NDArray[np.int64]]],
    ) -> None:
        """The tree of free pages: transaction -> a counted, descending list of page numbers."""
        if page in seen or depth < 1:
            raise self._bad(page, "the list of free pages is damaged")
        seen.add(page)
        data, offsets = self._open(page, _LEAF if depth == 1 else _BRANCH)
        raw = data.tobytes()
        for place, offset in enumerate(offsets.tolist()):
            low, high, flags, key_bytes = struct.unpack_from("<HHHH", raw, offset)
            if depth > 1:
                if place and key_bytes != 8:
                    raise self._bad(page, "the list of free pages is damaged")
                self._check_free(low | high << 16 | flags << 32, depth - 1, seen, spans)
                continue
            size = low | high << 16
            start = offset + 16
            if key_bytes != 8 or flags not in (0, _BIG_DATA) or start + 8 > self._page_bytes:
                raise self._bad(page, "the list of free pages is damaged")
            if flags == _BIG_DATA:
                first = int.from_bytes(raw[start : start + 8], "little")
                numbers = self._big(first, size, page)
                last = first + (size + PAGE_HEAD_BYTES + self._page_bytes - 1) // self._page_bytes
                spans.append((np.array([first]), np.array([last])))
            elif start + size > self._page_bytes:
                raise self._bad(page, "the list of free pages is damaged")
            else:
                numbers = np.frombuffer(raw[start : start + size // 8 * 8], dtype="<u8")
            count = int(numbers[0]) if numbers.size else -1
            listed = numbers[1 : count + 1].astype(np.int64)
            if not 0 <= count < max(numbers.size, 1) or (np.diff(listed) >= 0).any():
                raise self._bad(page, "the list of free pages is damaged")
            if count and not 2 <= int(listed[-1]) <= int(listed[0]) <= self._meta.last_page:
                raise self._bad(page, "the list of free pages names a page outside of the file")
            spans.append((listed, listed + 1))

    def _big(self, first: int, size: int, page: int) -> NDArray[np.uint64]:
        """A free list that fills pages of its own; LMDB reads its header, so it is checked as well."""
        span = (size + PAGE_HEAD_BYTES + self._page_bytes - 1) // self._page_bytes
        if not 2 <= first <= len(self._pages) - span:
            raise self._bad(page, "the list of free pages is damaged")
        self.check_span(first, span)
        flat = self._pages[first : first + span].reshape(-1)
        return flat[PAGE_HEAD_BYTES : PAGE_HEAD_BYTES + size // 8 * 8].view("<u8")

    def check_span(self, first: int, span: int) -> None:
        """LMDB's header of a large value; LMDB believes it when it frees the value."""
        number, _, flags, low, high = _PAGE_HEAD.unpack_from(self._pages[first])
        if number != first or flags != _OVERFLOW or low | high << 16 != span:
            raise self._bad(first, "its header is wrong")

    @staticmethod
    def _bad(page: int, problem: str) -> CorruptionError:
        return CorruptionError(f"page {page} of the index of blocks is damaged: {problem}. Restore a backup")
