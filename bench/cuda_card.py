"""What the parts of `bench/card.py` share: the card, its limits as measured, timing, and the lines of the table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Limits:
    """What the card can do at most, in bytes and operations a second; measured where it could be."""

    memory: float
    """Bytes read and written, by a copy from the card to itself."""
    bus: float
    """Bytes to the card, from page-locked memory."""
    product: float
    """float32 operations, two a multiplication: cores × clock × 2."""

    def seconds(self, moved: float, operations: float) -> tuple[float, str]:
        """The least time for so many bytes of memory and operations, and which of them it is that binds."""
        by_memory, by_product = moved / self.memory, operations / self.product
        return max(by_memory, by_product), "memory" if by_memory > by_product else "product"


@dataclass
class Bench:
    """What a part is given: where to work, how large, and where its lines go."""

    card: Any
    limits: Limits
    folder: Path
    rows: int
    queries: int
    rounds: int
    simulate: bool
    lines: list[tuple[str, ...]] = field(default_factory=list)
    kernels: list[tuple[str, ...]] = field(default_factory=list)

    @property
    def k(self) -> int:
        """Neighbours asked for; the simulator sorts no more than a few."""
        return 4 if self.simulate else 10

    def line(self, what: str, value: str, reach: str = "–", met: bool | None = None) -> None:
        """A figure; ``met`` says whether it reaches what it was to reach. Under the simulator none counts."""
        verdict = "–" if met is None or self.simulate else "yes" if met else "MISSED"
        self.lines.append((what, value, reach, verdict))
        print(f"  {what}: {value}" + (f" (to reach {reach}: {verdict})" if reach != "–" else ""), flush=True)

    def kernel(self, name: str, seconds: float, moved: float, operations: float) -> float:
        """A kernel's profile: bytes and operations counted by hand, against the limits. Gives the share of the limit."""
        least, binds = self.limits.seconds(moved, operations)
        self.kernels.append(
            (
                name,
                f"{seconds * 1e3:,.3f} ms",
                f"{moved / 1e9:,.3f} GB",
                f"{moved / seconds / 1e12:,.3f} TB/s",
                f"{operations / seconds / 1e12:,.3f} Tflop/s",
                binds,
                f"{least / seconds:.2f}×",
            )
        )
        return least / seconds

    def median(self, call: Callable[[], Any]) -> float:
        """Seconds of a call that ends with the card at rest, the first not counted."""
        seconds = []
        for _ in range(self.rounds + 1):
            self.card.synchronize()
            begun = time.perf_counter()
            call()
            self.card.synchronize()
            seconds.append(time.perf_counter() - begun)
        return statistics.median(seconds[1:] or seconds)


def limits_of(card: Any, simulate: bool) -> Limits:
    """Two copies, and what the card says of its cores. A multiprocessor of the last ten years has 128 or 64."""
    size = 1 << 16 if simulate else 1 << 30
    first, second = card.empty(size, np.uint8), card.empty(size, np.uint8)
    host, stream = card.pinned(size, np.uint8), card.stream()
    host[:] = 1

    def fastest(call: Callable[[], Any], moved: int) -> float:
        taken = []
        for _ in range(6):
            begun = time.perf_counter()
            call()
            card.synchronize()
            taken.append(time.perf_counter() - begun)
        return moved / min(taken)

    bus = fastest(lambda: card.copy(host, first, stream), size)
    memory = fastest(lambda: second.copy_to_device(first, stream=stream), 2 * size)
    card.release(first, second)
    if simulate:
        return Limits(memory, bus, 1e9)
    from numba import cuda

    device = cuda.get_current_device()
    cores = 64 if device.compute_capability in ((7, 0), (7, 2), (7, 5), (8, 0)) else 128
    return Limits(memory, bus, 2e3 * device.CLOCK_RATE * cores * card.multiprocessors)


def markdown(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    rows = [head, tuple("---" for _ in head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
