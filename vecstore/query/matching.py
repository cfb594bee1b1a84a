"""What a filter chose: the slots themselves where they are few, else a mask over all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Mask: TypeAlias = NDArray[np.bool_]
Slots: TypeAlias = NDArray[np.int32]

# Up to one in so many slots are told one by one.
FEW: Final = 16


@dataclass(frozen=True, slots=True)
class Matching:
    """Which of `size` slots match: `slots`, each once and in no order, or `flags`, one for each slot.

    One of the two is None. Neither array may be written to, since others may look at it.

    >>> few = Matching(5, np.array([3, 1], dtype=np.int32))
    >>> few.mask().tolist(), few.count
    ([False, True, False, True, False], 2)
    >>> Matching.of(np.array([True, False])).count is None  # nobody has counted yet
    True
    """

    size: int
    slots: Slots | None = None
    flags: Mask | None = None

    @classmethod
    def of(cls, flags: Mask) -> Matching:
        """From a mask over all slots."""
        return cls(flags.size, flags=flags)

    @property
    def count(self) -> int | None:
        """How many match, where that is known."""
        return None if self.slots is None else self.slots.size

    def mask(self) -> Mask:
        """A flag for each slot."""
        if self.slots is None:
            assert self.flags is not None
            return self.flags
        mask = np.zeros(self.size, dtype=np.bool_)
        mask[self.slots] = True
        return mask

    def first(self, size: int) -> Matching:
        """Of the first slots alone."""
        if size == self.size:
            return self
        if self.slots is None:
            return Matching.of(self.mask()[:size])
        return Matching(size, self.slots[self.slots < size])
