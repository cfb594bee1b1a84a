"""The graphics card of this process: found on first use, its memory handed out within a budget.

Nothing here is imported, and no driver is asked, before `find` is called. One `Card` serves all collections of a
process; another process has a card object of its own, and both look at what is free before they take more.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import math
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Iterator
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

DeviceArray: TypeAlias = Any
"""An array on the card, as Numba makes it: it has shape, dtype and nbytes, can be sliced, and goes to kernels."""
Stream: TypeAlias = Any

SHARE = 0.8
"""The part of what is free on a card that one process takes unless told otherwise: others want some too."""
SPARE = 256 << 20
"""What is left free for the driver, for kernels' code and for local memory."""
_SIMULATED_BYTES = 256 << 20
_OLDEST = (7, 0)

_OUT_OF_MEMORY = 2


class CardError(RuntimeError):
    """There is no card to use, or it failed: too old a driver, too little memory, a card that was lost."""


class NoCardError(CardError):
    """Nothing is broken: this machine, or this installation, has no card."""


def simulated() -> bool:
    """Whether kernels run in Numba's simulator: NUMBA_ENABLE_CUDASIM was set when Numba was imported, or is now."""
    config = sys.modules.get("numba.core.config")
    if config is not None:
        return bool(getattr(config, "ENABLE_CUDASIM", 0))
    return os.environ.get("NUMBA_ENABLE_CUDASIM", "0").strip() not in ("", "0")


_lock = threading.RLock()
_found: tuple[int, Card] | None = None


def find() -> Card:
    """The card, initialised now if it was not. Raises CardError with a reason that says what to do."""
    global _found
    with _lock:
        if _found is None:
            _check_driver()
            with _translated("starting CUDA"):
                _found = os.getpid(), Card(_numba())
        process, card = _found
        if process != os.getpid():
            raise CardError(
                "this process was forked from one that had started CUDA, which does not survive that: "
                'start it with multiprocessing\'s "spawn", or open with device="cpu"'
            )
        return card


def _check_driver() -> None:
    """Two looks that cost nothing and initialise nothing, so that a machine without a card pays for neither."""
    if simulated():
        return
    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        raise NoCardError(
            "no NVIDIA driver is installed here (libcuda was not found): install one, or use the CPU"
        ) from None
    if importlib.util.find_spec("numba_cuda") is None:
        raise NoCardError(
            "the kernels for graphics cards need the package numba-cuda: pip install 'vecstore-db[cuda]'"
        )


def _numba() -> ModuleType:
    from numba import cuda
    from numba.core import config

    # Small grids are meant: a batch of ten queries needs no more. An answer to the variable is left as it is.
    if "NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS" not in os.environ:
        config.CUDA_LOW_OCCUPANCY_WARNINGS = 0
    if simulated():
        from .simulator import mend

        mend()
    module: ModuleType = cuda
    return module


class Card:
    """A card and the memory on it that this process may hold.

    Arrays are counted from `empty` or `put` until `release`, or until they are collected. A slice keeps the memory
    but not the count, so keep the whole. Work on the card belongs inside `working`, one thread at a time.
    """

    def __init__(self, cuda: ModuleType) -> None:
        self._cuda = cuda
        self._lock = threading.RLock()
        self._held = 0
        self._counted: dict[int, weakref.finalize[..., Any]] = {}
        if simulated():
            self.name, self.multiprocessors, self.capability = "CUDA simulator", 1, (9, 0)
            self.total_bytes = free = _SIMULATED_BYTES
        else:
            device = cuda.get_current_device()
            name = device.name
            self.name = name.decode() if isinstance(name, bytes) else str(name)
            self.multiprocessors = int(device.MULTIPROCESSOR_COUNT)
            self.capability = tuple(device.compute_capability)
            if self.capability < _OLDEST:
                raise CardError(
                    f"{self.name} is too old (compute capability {self.capability[0]}.{self.capability[1]}, "
                    f"and {_OLDEST[0]}.{_OLDEST[1]} is needed): use the CPU"
                )
            memory = cuda.current_context().get_memory_info()
            self.total_bytes, free = int(memory.total), int(memory.free)
        self.budget = int(SHARE * max(0, free - (0 if simulated() else SPARE)))

    # -- memory on the card

    @property
    def held(self) -> int:
        """Bytes that are counted now."""
        return self._held

    def room(self) -> int:
        """Bytes that may still be taken: what is left of the budget, and no more than what is free at this moment."""
        left = self.budget - self._held
        if not simulated():
            with self.working():
                context = self._cuda.current_context()
                # Numba keeps freed memory for a while; others cannot have it, and we can.
                context.deallocations.clear()
                left = min(left, int(context.get_memory_info().free) - SPARE)
        return max(0, left)

    def empty(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> DeviceArray:
        """An array on the card, its contents undefined. CardError where it does not fit the budget or the card."""
        size = math.prod(shape if isinstance(shape, tuple) else (shape,)) * np.dtype(dtype).itemsize
        with self.working():
            if self._held + size > self.budget:
                raise CardError(
                    f"{size / 1e6:,.0f} MB more do not fit: {self._held / 1e6:,.0f} of {self.budget / 1e6:,.0f} MB on "
                    f"{self.name} are in use; VECSTORE_CUDA_MEMORY sets how much one process may take"
                )
            with _unwarned():
                made = self._cuda.device_array(shape, dtype=np.dtype(dtype))
            if simulated():
                # What nobody wrote must show, and must not overflow where tiles read behind the end.
                made.view(np.uint8)[:] = 1
            self._held += size
            self._counted[id(made)] = weakref.finalize(made, self._give_back, id(made), size)
        return made

    def put(self, host_array: NDArray[Any], stream: Stream | None = None) -> DeviceArray:
        """A copy on the card. With a stream the copy is only begun: leave the host's array alone until it is done."""
        whole = np.ascontiguousarray(host_array)
        made = self.empty(whole.shape, whole.dtype)
        self.copy(whole, made, stream)
        return made

    def copy(self, host_array: NDArray[Any], target: DeviceArray, stream: Stream | None = None) -> None:
        """Copy to an array that is on the card already, or a contiguous slice of one, of the same shape and type."""
        if host_array.size:
            with self.working():
                target.copy_to_device(host_array, stream=0 if stream is None else stream)

    def get(
        self, device_array: DeviceArray, out: NDArray[Any] | None = None, stream: Stream | None = None
    ) -> NDArray[Any]:
        """A copy on the host. With a stream it is whole only once the stream was synchronised."""
        made = np.empty(tuple(device_array.shape), dtype=device_array.dtype) if out is None else out
        if made.size:
            with self.working():
                device_array.copy_to_host(made, stream=0 if stream is None else stream)
        return made

    def release(self, *device_arrays: DeviceArray | None) -> None:
        """Give arrays back to the budget; the caller drops them. None, and one given back already, are passed over."""
        for array in device_arrays:
            counted = None if array is None else self._counted.get(id(array))
            if counted is not None:
                counted()

    def _give_back(self, key: int, size: int) -> None:
        with self._lock:
            if self._counted.pop(key, None) is not None:
                self._held -= size

    # -- what copies and kernels need

    def pinned(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Page-locked memory of the host, which copies to and from at full speed and beside kernels."""
        if simulated():
            return np.empty(shape, dtype=dtype)
        with self.working(), _unwarned():
            made: NDArray[Any] = self._cuda.pinned_array(shape, dtype=np.dtype(dtype))
        return made

    def stream(self) -> Stream:
        """A stream: what is put on one is done in order, and beside what is on others."""
        with self.working():
            return self._cuda.stream()

    def synchronize(self) -> None:
        """Wait until all that was asked of the card is done."""
        with self.working():
            self._cuda.synchronize()

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Work on the card: one thread at a time, and what CUDA or its compiler raises becomes a CardError."""
        with self._lock, _translated(f"working on {self.name}"):
            yield


@contextlib.contextmanager
def _translated(doing: str) -> Iterator[None]:
    try:
        yield
    except CardError:
        raise
    except Exception as error:
        # Numba and NVIDIA's bindings raise half a dozen classes that share no parent but Exception.
        if simulated() or type(error).__module__.split(".")[0] not in ("numba", "numba_cuda", "cuda"):
            raise
        if getattr(error, "code", None) == _OUT_OF_MEMORY or "OUT_OF_MEMORY" in str(error):
            reason = "the card is out of memory: another process may hold it"
        else:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
        kind = NoCardError if "CUDA_ERROR_NO_DEVICE" in str(error) else CardError
        raise kind(f"{doing} failed: {reason}") from error


@contextlib.contextmanager
def _unwarned() -> Iterator[None]:
    """numba-cuda advises to have CuPy make arrays, which would be another gigabyte to install."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* is deprecated. Please prefer cupy")
        yield
