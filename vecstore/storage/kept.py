"""What a writer knows when it has committed, kept for the next write of this process.

It holds as long as nobody else commits: the next session finds the same number of the newest commit, or
drops all of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vecstore.storage.blocks import Bytes, Layout
from vecstore.storage.header import Header
from vecstore.storage.opened import Opened

# Those of one small write after another; a large one leaves too much behind to be kept.
_MOST_BYTES = 2 << 20
# What is about records and not about the graph, which readers keep.
_CACHED = ("live", "directory", "linked")


@dataclass
class Kept:
    """The blocks of this commit, and of those right before it, by their orders; the catalog's words."""

    opened: Opened
    generation: int
    header: Header
    layout: Layout
    blocks: dict[int, Bytes]
    words: dict[int, NDArray[np.uint64]]
    cache: dict[str, object]

    def trimmed(self) -> Kept:
        """Without what is more than is worth keeping, and parts of larger arrays, which keep those."""
        self.blocks = {order: block for order, block in self.blocks.items() if block.base is None}
        size = sum(block.size for block in self.blocks.values())
        for order in list(self.blocks):  # the latest come last
            if size <= _MOST_BYTES:
                break
            size -= self.blocks.pop(order).size
        self.cache = {name: self.cache[name] for name in _CACHED if name in self.cache}
        return self
