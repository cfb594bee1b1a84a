"""Slots in the order of what a field holds there: those of a range lie in a row, and need no pass over all slots."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from vecstore.kernels import dispatch
from vecstore.query.matching import FEW, Mask, Matching, Slots

Places: TypeAlias = NDArray[np.int64]

# Beside the order there are masks of its first 1/32, 2/32, …: any other differs from one in a 64th of the slots at most.
_MASKS: Final = 32
# Sorting takes as long as a few hundred passes: it is done at the second question, but for what changes only after many.
_FIRST_TIME, _AFTER_A_CHANGE = 2, 64


class Ranks:
    """Slots in order, cut into rows: the i-th row is ``slots[starts[i]:starts[i + 1]]``."""

    def __init__(self, slots: NDArray[Any], starts: NDArray[Any]) -> None:
        self.slots: Slots = slots.astype(np.int32)
        self.slots.flags.writeable = False  # what a filter chose may be a part of it
        self._starts: NDArray[np.int32] = starts.astype(np.int32)

    @property
    def nbytes(self) -> int:
        masks = self.__dict__.get("_masks")
        return self.slots.nbytes + self._starts.nbytes + (0 if masks is None else masks.nbytes)

    def between(self, first: int, last: int) -> Span:
        """The rows from `first` to before `last`."""
        return Span(self, int(self._starts[first]), int(self._starts[last]))

    def these(self, places: Places) -> Span | Spans:
        """Some rows, in any order and each once."""
        lows, highs = self._starts[places], self._starts[places + 1]
        if len(places) == 1:
            return Span(self, int(lows[0]), int(highs[0]))
        return Spans(self, lows, highs, int((highs - lows).sum()))

    @cached_property
    def _masks(self) -> NDArray[np.uint8]:
        """Eight slots a byte: which are among the first `_step`, among twice as many, and so on."""
        mask = np.zeros(int(self.slots.max(initial=-1)) + 1, dtype=np.bool_)
        masks = [np.packbits(mask)]
        for low in range(0, len(self.slots), self._step):
            mask[self.slots[low : low + self._step]] = True
            masks.append(np.packbits(mask))
        return np.array(masks)

    @property
    def _step(self) -> int:
        return max(1, len(self.slots) // _MASKS)

    def mask(self, low: int, high: int, size: int) -> Mask:
        """Which of `size` slots stand from `low` to before `high` in the order."""
        step = self._step
        first, last = (low + step // 2) // step, (high + step // 2) // step
        if first == last:
            mask = np.zeros(size, dtype=np.bool_)
            mask[self.slots[low:high]] = True
            return mask
        mask = np.unpackbits(self._masks[first] ^ self._masks[last], count=size).view(np.bool_)
        # Each end is half a step from its mask's at most, so that neither reaches what is set for the other.
        for edge, known, inside in ((low, first * step, False), (high, last * step, True)):
            mask[self.slots[min(edge, known) : max(edge, known)]] = (edge > known) == inside
        return mask


@dataclass(frozen=True, slots=True)
class Span:
    """The slots from `low` to before `high` in an order."""

    ranks: Ranks
    low: int
    high: int

    @property
    def count(self) -> int:
        return self.high - self.low

    def matching(self, size: int) -> Matching:
        if self.count * FEW <= size:
            return Matching(size, self.ranks.slots[self.low : self.high])
        return Matching.of(self.ranks.mask(self.low, self.high, size))

    def met(self, other: Span) -> Span:
        """What is in both, of the same order."""
        low = max(self.low, other.low)
        return Span(self.ranks, low, max(low, min(self.high, other.high)))


@dataclass(frozen=True, slots=True)
class Spans:
    """As ``Span``, of several rows that have nothing in common."""

    ranks: Ranks
    lows: NDArray[np.int32]
    highs: NDArray[np.int32]
    count: int

    def matching(self, size: int) -> Matching:
        if self.count * FEW <= size:
            return Matching(size, self._slots())
        mask = np.zeros(size, dtype=np.bool_)
        kernels = dispatch.mark_kernels()
        if kernels is None:
            mask[self._slots()] = True
        else:
            kernels.mark_rows()(self.ranks.slots, self.lows, self.highs, mask.view(np.uint8))
        return Matching.of(mask)

    def _slots(self) -> Slots:
        kernels, slots = dispatch.mark_kernels(), self.ranks.slots
        if kernels is None:
            counts = self.highs - self.lows
            before = np.cumsum(counts) - counts
            return slots[np.repeat(self.lows - before, counts) + np.arange(self.count)]
        listed = np.empty(self.count, dtype=np.int32)
        kernels.list_rows()(slots, self.lows, self.highs, listed)
        return listed


class OfNumbers(Ranks):
    """A row for each distinct number. Numbers are float64, or complex where the second part is what a float64 can't hold."""

    def __init__(self, numbers: NDArray[Any]) -> None:
        slots = np.argsort(numbers)[: np.count_nonzero(numbers == numbers)]  # NaN comes last
        ordered = numbers[slots]
        firsts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)])
        super().__init__(slots, np.append(firsts, len(ordered)))
        self.numbers = ordered[firsts]

    @property
    def nbytes(self) -> int:
        return super().nbytes + self.numbers.nbytes

    @property
    def paired(self) -> bool:
        return self.numbers.dtype == np.complex128

    def ordered(self, order: str, number: float, extra: int) -> Span:
        """What stands in `order` to a number, the sum of two."""
        place = self._place(number, extra, order in ("$lte", "$gt"))
        return self.between(0, place) if order in ("$lt", "$lte") else self.between(place, len(self.numbers))

    def equal(self, number: float, extra: int) -> Span:
        return self.between(self._place(number, extra, False), self._place(number, extra, True))

    def _place(self, number: float, extra: int, behind: bool) -> int:
        """Before how many numbers, or behind how many, this one stands."""
        if self.paired:
            return int(self.numbers.searchsorted(complex(number, extra), "right" if behind else "left"))
        if extra:
            behind = extra > 0
        return int(self.numbers.searchsorted(number, "right" if behind else "left"))

    def one_of(self, wanted: NDArray[Any]) -> Span | Spans:
        """Of numbers that are ascending and distinct, as these are."""
        places = self.numbers.searchsorted(wanted)
        there = places < len(self.numbers)
        there[there] = self.numbers[places[there]] == wanted[there]
        return self.these(places[there])


class OfCodes(Ranks):
    """A row for each of `count` codes; a slot whose code is -1 stands in none."""

    def __init__(self, codes: NDArray[np.int32], count: int) -> None:
        # Numbers of 16 bits are sorted in a tenth of the time. -1 is the largest of them.
        short = count < np.iinfo(np.uint16).max
        order = np.argsort(codes.astype(np.uint16), kind="stable") if short else np.argsort(codes)
        starts = np.append(0, np.cumsum(np.bincount(codes + 1, minlength=count + 1)))
        unheld, held = int(starts[1]), int(starts[-1] - starts[1])
        super().__init__(order[:held] if short else order[unheld:], starts[1:] - unheld)

    def held(self, flags: Mask) -> Span | Spans:
        """The rows of those codes that are flagged."""
        return self.these(np.flatnonzero(flags))


Rows: TypeAlias = Span | Spans
_Kept = TypeVar("_Kept", bound=Ranks)


class Lazily(Generic[_Kept]):
    """Ranks that are made once they were asked for often enough since the last change."""

    def __init__(self) -> None:
        self._ranks: _Kept | None = None
        self._asked, self._wait = 0, _FIRST_TIME

    @property
    def nbytes(self) -> int:
        return 0 if self._ranks is None else self._ranks.nbytes

    def changed(self) -> None:
        """They no longer hold."""
        if self._ranks is not None:
            self._wait = _AFTER_A_CHANGE
        self._ranks, self._asked = None, 0

    def get(self, make: Callable[[], _Kept], *, now: bool = False) -> _Kept | None:
        """None where a pass over the slots is to answer; `now` where it had better not."""
        if self._ranks is None:
            self._asked += 1
            if not now and self._asked < self._wait:
                return None
            self._ranks = make()
        return self._ranks
