"""Where a collection computes: on the CPU, or on a graphics card where there is one and it pays."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

from vecstore.config import parse_memory
from vecstore.errors import DeviceError, InvalidArgumentError

if TYPE_CHECKING:
    from vecstore.kernels.cuda.card import Card

T = TypeVar("T")

DEVICES = ("auto", "cpu", "cuda")


class Kept(Protocol):
    """Arrays that stay on the card."""

    def release(self, card: Card) -> None:
        """Give them back."""


class Device:
    """What ``open(device=…)`` asked for, one a collection. It costs nothing until ``card`` is called.

    "auto" looks for a card once, and does without from the first time that one fails; "cuda" raises DeviceError
    instead. Numba's simulator stands in for a card where "cuda" was asked for, and under "auto" only if
    VECSTORE_CUDA_SIMULATOR is 1: it is thousands of times slower than the CPU. ``memory`` is the collection's
    budget off the card; VECSTORE_CUDA_MEMORY ("8GB") is what a process may hold on it, 80% of what is free by default.

    >>> Device("cpu").attempt(lambda card: "on the card", lambda: "on the CPU")
    'on the CPU'
    """

    def __init__(self, wanted: str = "auto", memory: int | None = None) -> None:
        self.wanted = wanted
        self.memory = memory
        self.kept: dict[str, Kept] = {}
        """What stays on the card between calls, by the names that those who put it there chose."""
        self._card: Card | None = None
        self._looked = wanted == "cpu"
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """What computes, as far as is known without looking: "cpu", or the card's name."""
        return "cpu" if self._card is None else self._card.name

    @property
    def held(self) -> int:
        """Bytes that this process holds on the card."""
        return 0 if self._card is None else self._card.held

    @property
    def started(self) -> bool:
        """Whether there is a card, and CUDA was initialised for it."""
        return self._card is not None

    @property
    def possible(self) -> bool:
        """Whether there is a card, or looking for one may still find it."""
        return self._card is not None or not self._looked

    def card(self) -> Card | None:
        """The card, or None where the CPU does the work. CUDA is initialised now if it was not."""
        with self._lock:
            if not self._looked:
                self._look()
            return self._card

    def forget(self) -> None:
        """Let go of what stays on the card."""
        while self.kept:
            _, each = self.kept.popitem()
            if self._card is not None:
                each.release(self._card)

    def _look(self) -> None:
        from vecstore.kernels.cuda import card

        if self.wanted == "auto" and card.simulated() and os.environ.get("VECSTORE_CUDA_SIMULATOR") != "1":
            self._looked = True
            return
        share = _share()
        try:
            found = card.find()
        except card.CardError as error:
            if self.wanted == "cuda":
                raise DeviceError(
                    f'device="cuda" was asked for: {error}; device="auto" or "cpu" does without'
                ) from error
            self._looked = True
            # Most machines have none. One that has a card which cannot be used is told so.
            if not isinstance(error, card.NoCardError):
                self._warn(error)
            return
        if share is not None:
            found.budget = min(share, found.total_bytes)
        self._card, self._looked = found, True

    def attempt(self, on_card: Callable[[Card], T], on_cpu: Callable[[], T]) -> T:
        """What the card gives, if there is one; else, and under "auto" where the card fails, what the CPU gives.

        >>> Device("cpu").attempt(lambda card: 1, lambda: 2)
        2
        """
        found = self.card()
        if found is None:
            return on_cpu()
        from vecstore.kernels.cuda.card import CardError

        try:
            return on_card(found)
        except CardError as error:
            self.forget()
            if self.wanted == "cuda":
                raise DeviceError(f'{error}; device="auto" goes on with the CPU') from error
            with self._lock:
                first, self._card = self._card is not None, None
            if first:
                self._warn(error)
        return on_cpu()

    @staticmethod
    def _warn(error: Exception) -> None:
        warnings.warn(
            f"the graphics card is not used, the CPU is: {error}; open the collection again to try the card again",
            RuntimeWarning,
            stacklevel=4,
        )


def _share() -> int | None:
    try:
        return parse_memory(os.environ.get("VECSTORE_CUDA_MEMORY") or None)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"VECSTORE_CUDA_MEMORY: {error}") from None
