"""Files become prepared pictures in threads, ahead of the model and no farther ahead than memory allows."""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections import deque
from collections.abc import Container, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .classic import Classic
from .decode import decode, read_file
from .errors import ImageError
from .exif import described
from .files import Found
from .hashes import hashes_of
from .model import Model
from .thumbnails import encoded

# Enough that the model never waits for a slow file while others are ready.
AHEAD = 256
AT_ONCE = 8
# Models that cut pictures themselves are given whole ones: a dozen large photographs may wait for them.
HELD_BYTES = 256 << 20
# Stored thumbnails take some 3 KB each.
THUMBNAIL_SIDE = 128


@dataclass
class Read:
    """What the threads made of a file: prepared pixels, or none where its content is known already.

    ``seconds`` are those of reading and of decoding; ``vector`` comes later.
    """

    file: Found
    content: str
    metadata: dict[str, Any]
    prepared: NDArray[Any] | None
    seconds: tuple[float, float]
    vector: NDArray[np.float32] | None = None


@dataclass
class Failed:
    """A file that is no picture, and why."""

    file: Found
    reason: str


class Reader:
    """Reads, decodes, prepares and hashes. ``known`` holds the hashes of contents that have a vector."""

    def __init__(
        self, model: Model, known: Container[str], max_pixels: int, threads: int, thumbnails: bool
    ) -> None:
        self.model, self.known, self.max_pixels = model, known, max_pixels
        self.threads, self.thumbnails = threads, thumbnails

    def ahead(self, files: list[Found]) -> Generator[Read | Failed, None, None]:
        """What became of each file, in order."""
        room = _Room(HELD_BYTES)
        # Threads that hand over one file at a time spend a third of their time on waking one another.
        size = max(1, min(AT_ONCE, len(files) // (4 * self.threads)))
        parts = [files[place : place + size] for place in range(0, len(files), size)]
        with ThreadPoolExecutor(self.threads, "vecstore-read") as pool:
            waiting: deque[Future[list[Read | Failed]]] = deque()
            submitted = 0
            try:
                for _ in parts:
                    while submitted < len(parts) and len(waiting) * size < AHEAD:
                        waiting.append(pool.submit(self._read_into, room, submitted, parts[submitted]))
                        submitted += 1
                    items = waiting.popleft().result()
                    room.give(sum(map(_bytes_of, items)))
                    yield from items
            finally:
                room.close()
                pool.shutdown(wait=True, cancel_futures=True)

    def _read_into(self, room: _Room, number: int, files: list[Found]) -> list[Read | Failed]:
        items = []
        for file in files:
            items.append(self.read(file))
            room.take(number, _bytes_of(items[-1]))
        return items

    def read(self, file: Found, *, known: bool = True) -> Read | Failed:
        """One file. With ``known``, one whose content has a vector already is not decoded."""
        try:
            start = time.perf_counter()
            data = read_file(file.path)
            seconds = time.perf_counter() - start
            # The processor's own time: waiting for another thread is no work of this one.
            start = time.thread_time()
            content = hashlib.sha256(data).hexdigest()
            if known and content in self.known:
                return Read(file, content, {}, None, (seconds, time.thread_time() - start))
            prepared, metadata = self._decoded(data, file)
        except ImageError as error:
            return Failed(file, str(error))
        return Read(file, content, metadata, prepared, (seconds, time.thread_time() - start))

    def _decoded(self, data: bytes, file: Found) -> tuple[NDArray[Any], dict[str, Any]]:
        enough = self.model.enough
        if self.thumbnails and enough is not None:
            enough = max(enough, THUMBNAIL_SIDE)
        picture = decode(data, enough=enough, max_pixels=self.max_pixels, name=file.path)
        prepared = self.model.prepare(picture.rgb)
        # The classic model looks at what the hashes look at: it need not be made twice.
        hashed = hashes_of(prepared if isinstance(self.model, Classic) else picture.rgb)
        metadata = {
            "width": picture.width,
            "height": picture.height,
            **described(picture.exif),
            "perceptual": f"{hashed.perceptual:016x}",
            "difference": f"{hashed.difference:016x}",
            "mirrored_perceptual": f"{hashed.mirrored_perceptual:016x}",
            "mirrored_difference": f"{hashed.mirrored_difference:016x}",
            "model": self.model.fingerprint,
        }
        if self.thumbnails:
            metadata["thumbnail"] = base64.b64encode(encoded(picture.rgb, THUMBNAIL_SIDE)).decode()
        return prepared, metadata


def _bytes_of(item: Read | Failed) -> int:
    return item.prepared.nbytes if isinstance(item, Read) and item.prepared is not None else 0


class _Room:
    """How many bytes of pictures may wait. Those that are waited for always get in, so nothing waits for ever."""

    def __init__(self, most: int) -> None:
        self._most, self._held, self._next = most, 0, 0
        self._changed = threading.Condition()

    def take(self, number: int, size: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._held + size <= self._most or number <= self._next)
            self._held += size

    def give(self, size: int) -> None:
        with self._changed:
            self._held -= size
            self._next += 1
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._most = 1 << 62
            self._changed.notify_all()
