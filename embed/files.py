"""Which files a folder holds, and the ids they go by."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

SUFFIXES = tuple(
    f".{name}"
    for name in (
        *("avif", "bmp", "dib", "gif", "heic", "heif", "ico", "j2k", "jfif", "jp2", "jpe", "jpeg", "jpg", "jpx"),
        *("mpo", "pbm", "pcx", "pgm", "png", "pnm", "ppm", "qoi", "tif", "tiff", "webp"),
    )
)


@dataclass(frozen=True)
class Found:
    """A file as the folder lists it."""

    path: str
    size: int
    mtime_ns: int

    @cached_property
    def id(self) -> str:
        r"""The whole path; bytes of a name that are no text are written as \xNN.

        >>> Found("/photos/a.jpg", 1, 2).id
        '/photos/a.jpg'
        """
        return as_id(self.path)


def as_id(path: str) -> str:
    r"""A path as text that can be stored.

    >>> as_id(os.fsdecode(b"caf\xe9")) == "caf\\xe9"
    True
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def pictures(folder: str) -> Iterator[Found]:
    """Every plain file below a folder that is named like a picture, in the order of names.

    Links to files count, links to folders don't: no loop is walked. Pipes and devices are left out.

    >>> [found.path for found in pictures("nowhere")]
    []
    """
    waiting = [folder]
    while waiting:
        deeper = []
        try:
            with os.scandir(waiting.pop()) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    deeper.append(entry.path)
                elif os.path.splitext(entry.name)[1].lower() in SUFFIXES and entry.is_file():
                    status = entry.stat()
                    yield Found(entry.path, status.st_size, status.st_mtime_ns)
            except OSError:
                continue
        waiting.extend(reversed(deeper))


_BYTE = re.compile(r"\\x([0-9a-f]{2})")


def path_of(id_: str) -> str:
    r"""The path that an id stands for, also where its name is no text.

    >>> path_of("/photos/a.jpg")
    '/photos/a.jpg'
    """
    if "\\x" not in id_ or os.path.lexists(id_):
        return id_
    parts = _BYTE.split(id_)
    named = b"".join(bytes.fromhex(part) if place % 2 else os.fsencode(part) for place, part in enumerate(parts))
    path = os.fsdecode(named)
    return path if os.path.lexists(path) else id_
