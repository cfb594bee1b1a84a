"""A graphics card as networks use it: a stream beside the computing, page-locked memory, and what it says when it is full."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from vecstore import InvalidArgumentError

# What torch and the libraries under it say when memory runs out; only torch's own has a class for it.
_FULL = ("out of memory", "ALLOC_FAILED", "nvjpegDecode failed: 5", "ALLOCATOR_FAILURE")

# What a process may hold on a card, as searches there are told too.
BUDGET = "VECSTORE_CUDA_MEMORY"
_UNITS = {"": 1} | {f"{letter}B": 10 ** (3 * n) for n, letter in enumerate("KMGT", 1)}
_UNITS |= {f"{letter}IB": 1 << 10 * n for n, letter in enumerate("KMGT", 1)} | {"B": 1}


def budget() -> int | None:
    """The bytes that the environment allows, or None.

    >>> budget() is None
    True
    """
    text = os.environ.get(BUDGET)
    if not text:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?B|)", text.strip().upper())
    if found is None or found[2] not in _UNITS:
        raise InvalidArgumentError(f"{BUDGET} must be a size such as '8GB', not {text!r}")
    return int(float(found[1]) * _UNITS[found[2]])


class Card:
    """What of torch's CUDA the image path needs, in one place: tests put the processor in its place."""

    name = "cuda"

    def __init__(self, torch: Any) -> None:
        self.torch = torch
        self._beside = torch.cuda.Stream()

    def pinned(self, shape: Any, dtype: Any) -> Any:
        """Page-locked memory, which the card copies from and to while others compute.

        torch keeps a block that a copy still reads from being used again.
        """
        return self.torch.empty(shape, dtype=dtype, pin_memory=True)

    def beside(self) -> Any:
        """A context: what is queued in it runs beside the network, not behind it."""
        return self.torch.cuda.stream(self._beside)

    def arrive(self) -> None:
        """Wait for what was queued beside, and for nothing else."""
        self._beside.synchronize()

    def follow(self, tensor: Any) -> None:
        """From here on computing waits for what was queued beside; the tensor that came of it lives until it is computed with."""
        computing = self.torch.cuda.current_stream()
        computing.wait_stream(self._beside)
        tensor.record_stream(computing)

    def mark(self) -> Any:
        """An event behind all that is queued for the network; ``synchronize()`` waits for it."""
        event = self.torch.cuda.Event()
        event.record()
        return event

    def finish(self) -> None:
        """Wait for all that is queued."""
        self.torch.cuda.synchronize()

    def clear(self) -> None:
        """Give back what no tensor holds, to this process and to others."""
        self.finish()
        self.torch.cuda.empty_cache()

    def room(self) -> int:
        """Bytes that are free on the card now, whoever shares it, with those that torch holds and does not use."""
        cuda = self.torch.cuda
        held, most = int(cuda.memory_allocated()), budget()
        free = int(cuda.mem_get_info()[0] + cuda.memory_reserved()) - held
        return free if most is None else max(0, min(free, most - held))

    def taken_by(self, run: Callable[[], Any]) -> int:
        """How many bytes a call takes at most, beyond those that are taken already."""
        cuda = self.torch.cuda
        self.finish()
        before = cuda.memory_allocated()
        cuda.reset_peak_memory_stats()
        run()
        self.finish()
        return int(cuda.max_memory_allocated() - before)

    def is_full(self, error: BaseException) -> bool:
        """Whether an error says that there was no room, so that less at once may go."""
        return isinstance(error, self.torch.OutOfMemoryError) or any(word in str(error) for word in _FULL)
