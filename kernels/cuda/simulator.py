"""Numba's simulator, mended: two of its threads that ask for one shared array at once could each get one of their own."""

from __future__ import annotations

import threading
from typing import Any


class _Once(dict[Any, Any]):
    """Arrays by where they are asked for. Who finds none makes it, and the others wait for that."""

    def __init__(self) -> None:
        super().__init__()
        self._making = threading.Lock()

    def get(self, key: Any, default: Any = None) -> Any:
        self._making.acquire()
        found = super().get(key, default)
        if found is not None:
            self._making.release()
        return found

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        self._making.release()


def mend() -> None:
    """Do so for all kernels that are launched from now on."""
    from numba.cuda.simulator import kernelapi

    make = kernelapi.FakeCUDAShared.__init__
    if getattr(make, "mended", False):
        return

    def mended(shared: Any, dynamic_bytes: int) -> None:
        make(shared, dynamic_bytes)
        shared._allocations = _Once()

    mended.mended = True  # type: ignore[attr-defined]
    kernelapi.FakeCUDAShared.__init__ = mended
