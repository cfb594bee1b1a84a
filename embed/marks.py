"""What is known of every picture of a collection without its vector: hashes, content, size and age.

Some hundred bytes a picture are held in memory; names lie in a temporary file.
"""

from __future__ import annotations

import datetime
import tempfile
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

import vecstore

from .errors import ImageError, shown

_HASHES = ("perceptual", "difference", "mirrored_perceptual", "mirrored_difference")
_GROW = 4096


class Marks:
    """Columns over a collection's pictures, in the order of one scan. A context manager, for its file of names.

    >>> import numpy as np
    >>> from vecstore import embed
    >>> with vecstore.open("marks.vec", dim=2) as pictures, Marks(pictures) as marks:
    ...     len(marks)
    0
    """

    def __init__(self, pictures: vecstore.Collection) -> None:
        rows: list[tuple[int, ...]] = []
        parts: list[NDArray[np.uint64]] = []
        ends = [0]
        self._names = tempfile.TemporaryFile()  # noqa: SIM115
        others = 0
        for record in pictures.scan(vectors=False):
            row = _row(record.metadata)
            if row is None or not isinstance(record.id, str):
                others += 1
                continue
            rows.append(row)
            ends.append(ends[-1] + self._names.write(record.id.encode()))
            if len(rows) == _GROW:
                parts.append(np.array(rows, np.uint64))
                rows = []
        parts.append(np.array(rows, np.uint64).reshape(len(rows), 9))
        columns = np.concatenate(parts).T
        self._ends = np.array(ends)
        if others and not len(self):
            self._names.close()
            raise ImageError(f"{shown(pictures.path)} holds no pictures that index_folder put there")
        self.hashes = dict(zip(_HASHES, np.ascontiguousarray(columns[:4]), strict=True))
        self.content = np.ascontiguousarray(columns[4:6].T)
        self.pixels, self.bytes, self.time = columns[6:].astype(np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __enter__(self) -> Marks:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._names.close()

    def id(self, place: int) -> str:
        """A picture's id.

        >>> with vecstore.open("named.vec", dim=1) as pictures:
        ...     hashes = dict.fromkeys(("perceptual", "difference", "mirrored_perceptual", "mirrored_difference"), "ff")
        ...     row = {"content": "00" * 32, "width": 2, "height": 1, "size": 9, "mtime_ns": 0}
        ...     _ = pictures.add("a.jpg", [1], hashes | row)
        ...     with Marks(pictures) as marks:
        ...         marks.id(0)
        'a.jpg'
        """
        self._names.seek(int(self._ends[place]))
        return self._names.read(int(self._ends[place + 1] - self._ends[place])).decode()


def _row(metadata: dict[str, Any]) -> tuple[int, ...] | None:
    try:
        hashed = [int(metadata[name], 16) for name in _HASHES]
        content = metadata["content"]
        pixels = metadata["width"] * metadata["height"]
        return (
            *hashed,
            int(content[:16], 16),
            int(content[16:32], 16),
            pixels,
            metadata["size"],
            _age(metadata),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _age(metadata: dict[str, Any]) -> int:
    """Nanoseconds: when the camera says that it was taken, or when the file was changed."""
    try:
        taken = datetime.datetime.fromisoformat(metadata["time"]).replace(tzinfo=datetime.timezone.utc)
        return max(0, int(taken.timestamp()) * 1_000_000_000)
    except (KeyError, TypeError, ValueError):
        return max(0, int(metadata["mtime_ns"]))
