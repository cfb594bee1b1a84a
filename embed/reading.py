"""Files become prepared pictures in threads, ahead of the model and no farther ahead than memory allows."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Container, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .ahead import HELD_BYTES, ahead, at_once
from .classic import Classic
from .decode import decode, read_file
from .errors import ImageError
from .exif import described
from .files import Found
from .hashes import ENOUGH, hashes_of
from .model import Model, held_by
from .thumbnails import encoded

# Stored thumbnails take some 3 KB each.
THUMBNAIL_SIDE = 128


@dataclass
class Read:
    """What the threads made of a file: a prepared picture, or none where its content is known already.

    ``seconds`` are those of reading and of decoding; ``vector`` comes later.
    """

    file: Found
    content: str
    metadata: dict[str, Any]
    prepared: Any
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
        size = at_once(len(files), self.threads)
        return ahead(files, self.read, threads=self.threads, size=size, bytes_of=_bytes_of, held=HELD_BYTES)

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

    def _decoded(self, data: bytes, file: Found) -> tuple[Any, dict[str, Any]]:
        prepared = self.model.undecoded(data, self.max_pixels)
        # Where the model decodes by itself, all that is left to be seen here are the hashes and the thumbnail.
        enough = self.model.enough if prepared is None else ENOUGH
        if self.thumbnails and enough is not None:
            enough = max(enough, THUMBNAIL_SIDE)
        picture = decode(data, enough=enough, max_pixels=self.max_pixels, name=file.path)
        if prepared is None:
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
        if self.model.libraries:
            metadata["libraries"] = self.model.libraries
        if self.thumbnails:
            metadata["thumbnail"] = base64.b64encode(encoded(picture.rgb, THUMBNAIL_SIDE)).decode()
        return prepared, metadata


def _bytes_of(item: Read | Failed) -> int:
    return held_by(item.prepared) if isinstance(item, Read) and item.prepared is not None else 0


