"""Tables of blocks that a kernel reads as it comes to them, and checks the first time it touches each."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vecstore.kernels import reference
from vecstore.storage.blocks import HEAD_BYTES
from vecstore.storage.platform import Mapping

# The generation of a block that is not there: none was ever seen of it, so a kernel asks, and is told no.
NO_GENERATION = np.uint64((1 << 64) - 1)


@dataclass(frozen=True)
class LazyTable:
    """Where blocks lie that were not read yet, and what they must be; valid while its snapshot lives.

    Entry b is about block ``first + b``. A kernel may read it once ``seen[b] == generations[b]``; until then
    it calls ``ensure_whole`` (``kernels/cpu/verify.py``) and notes the generation. ``seen`` is shared by all
    threads and states of the opened file. Two that race write the same number; one that a growing table has
    left behind only makes for a second check.
    """

    kind: int
    first: int
    # Bytes of each block, from its header on.
    length: int
    # Where the file's first page is mapped, and the size of its pages.
    base: int
    page_bytes: int
    # Where each block's header begins; 0 for one that is absent.
    addresses: NDArray[np.uint64]
    generations: NDArray[np.uint64]
    seen: NDArray[np.uint64]
    # Held, so that the addresses stay mapped.
    mapping: Mapping
    # Where rows of vectors begin in a block, from its header on.
    row_start: int = HEAD_BYTES
    # (blocks, pages): a sum of each page, for checking it without the rest of its block; a block whose first is 0
    # has none. And the generation of each page that was checked so. Only blocks of vectors have any.
    sums: NDArray[np.uint32] = field(default_factory=lambda: np.zeros((0, 0), dtype=np.uint32))
    pages_seen: NDArray[np.uint64] = field(default_factory=lambda: np.zeros((0, 0), dtype=np.uint64))

    @property
    def weights(self) -> NDArray[np.uint64]:
        """What the checksum of such a block is computed with."""
        return reference.checksum_weights(self.length // 4)
