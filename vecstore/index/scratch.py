"""Rows in files without a name, for what a build cannot hold in memory."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

# Files are read and written this many bytes at a time.
_PORTION_BYTES = 2 << 20


class Rows:
    """Rows of one width in a file that has no name: however the process ends, nothing is left of it."""

    def __init__(self, folder: str, width: int) -> None:
        self._width = width
        # Not mapped to be written to: on a full disk that would end the process.
        self._file: Any = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, first: int, rows: NDArray[Any]) -> None:
        left = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
        self._file.seek(first * self._width)
        while left:
            left = left[self._file.write(left) :]

    def read(self, first: int, last: int) -> Bytes:
        rows = np.empty((last - first, self._width), dtype=np.uint8)
        left = rows.reshape(-1).data
        self._file.seek(first * self._width)
        while left:
            count = self._file.readinto(left)
            if not count:
                raise OSError("a temporary file is shorter than what was written to it")
            left = left[count:]
        return rows

    def windows(self, count: int) -> Iterator[Bytes]:
        """So many rows, a portion at a time."""
        for first, last in portions(0, count, self._width):
            yield self.read(first, last)

    def mapped(self, count: int, *, at_random: bool) -> Bytes:
        """The first rows, not read: their pages are the system's, and no memory of the process."""
        view = mmap.mmap(self._file.fileno(), count * self._width, access=mmap.ACCESS_READ)
        if at_random and hasattr(mmap, "MADV_RANDOM"):
            view.madvise(mmap.MADV_RANDOM)
        return np.frombuffer(view, dtype=np.uint8).reshape(count, self._width)


def portions(
    low: int, high: int, row_bytes: int, portion_bytes: int = _PORTION_BYTES
) -> Iterator[tuple[int, int]]:
    """The range in parts of a few megabytes."""
    step = max(1, portion_bytes // row_bytes)
    return ((first, min(first + step, high)) for first in range(low, high, step))
