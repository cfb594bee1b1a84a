"""What every model can do: pictures to vectors, in two steps that may run in different threads."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .ahead import HELD_BYTES, ahead, at_once
from .decode import MAX_PIXELS, decode, read_file
from .errors import ModelError

# Fewer pictures are decoded before threads would have begun.
_FEW = 4


class Model(ABC):
    """A model gives ``prepare`` and ``vectors``, and ``texts`` where it can; the rest is here.

    ``fingerprint`` tells apart models whose vectors must not be mixed: it names the model, its weights, its
    preprocessing and its normalisation. ``libraries`` are the packages that compute, with those parts of their versions that
    might matter: they are kept beside the vectors. ``enough`` is how many pixels a side needs at least: decoders stop there.
    """

    name: str
    dim: int
    fingerprint: str
    libraries: str = ""
    enough: int | None = None
    # How many pictures make a batch worth computing.
    batch: int = 64
    # What a batch is timed by: the time that passes, since what computes may be a card, or many threads.
    clock: Callable[[], float] = staticmethod(time.perf_counter)

    @abstractmethod
    def prepare(self, rgb: NDArray[np.uint8]) -> Any:
        """A decoded picture as the model takes it, an array or what has ``nbytes``. Threads may call it at once."""

    @abstractmethod
    def vectors(self, prepared: Sequence[Any]) -> NDArray[np.float32]:
        """Prepared pictures to unit vectors (n, dim)."""

    def start(self, prepared: Sequence[Any]) -> Callable[[], NDArray[np.float32]]:
        """Begin with a batch; what is returned gives its vectors. Models that compute elsewhere take the next one meanwhile.

        >>> from vecstore import embed
        >>> model = embed.load("classic")
        >>> model.start([model.prepare(np.zeros((20, 30, 3), np.uint8))])().shape
        (1, 1024)
        """
        rows = self.vectors(prepared)
        return lambda: rows

    def undecoded(self, data: bytes, max_pixels: int) -> Any:
        """A file's bytes prepared without decoding them here, for models that decode; None where that must come first.

        >>> from vecstore import embed
        >>> embed.load("classic").undecoded(b"", 10) is None
        True
        """
        return None

    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Texts to unit vectors beside those of pictures; most models cannot.

        >>> from vecstore import embed
        >>> embed.load("classic").texts(["a red shoe"])
        Traceback (most recent call last):
        vecstore.embed.errors.ModelError: the model 'classic' knows pictures alone, no texts
        """
        raise ModelError(f"the model {self.name!r} knows pictures alone, no texts")

    def images(self, sources: Iterable[Any]) -> NDArray[np.float32]:
        """Pictures (paths, bytes, Pillow images, arrays) to unit vectors (n, dim).

        >>> import numpy as np
        >>> from vecstore import embed
        >>> embed.load("classic").images([np.zeros((20, 30, 3), np.uint8)]).shape
        (1, 1024)
        """
        if isinstance(sources, (str, bytes)) or hasattr(sources, "__fspath__"):
            raise ModelError("images() takes a list of pictures: write [picture] for one")
        batches = Batches(self)
        found: list[NDArray[np.float32]] = []
        with contextlib.closing(self._prepared(sources)) as every:
            for prepared in every:
                found += [rows for _, rows in batches.put(None, prepared)]
        found += [rows for _, rows in batches.end()]
        return np.concatenate(found) if found else np.zeros((0, self.dim), np.float32)

    def _prepared(self, sources: Iterable[Any]) -> Generator[Any, None, None]:
        few = list(itertools.islice(rest := iter(sources), _FEW))
        if len(few) < _FEW:
            yield from map(self._ready, few)
            return
        threads = os.cpu_count() or 1
        count = len(sources) if isinstance(sources, Sequence) else 0
        yield from ahead(
            itertools.chain(few, rest),
            self._ready,
            threads=threads,
            size=at_once(count, threads),
            bytes_of=held_by,
        )

    def _ready(self, source: Any) -> Any:
        name = source if isinstance(source, (str, os.PathLike)) else None
        if name is not None:
            source = read_file(name)
        if isinstance(source, bytes):
            prepared = self.undecoded(source, MAX_PIXELS)
            if prepared is not None:
                return prepared
        return self.prepare(decode(source, enough=self.enough, name=name).rgb)


def held_by(prepared: Any) -> int:
    """The bytes that a prepared picture takes while it waits.

    >>> held_by(np.zeros(3, np.uint8))
    3
    """
    return int(prepared.nbytes)


Batch = tuple[list[Any], NDArray[np.float32]]


class Batches:
    """Pictures gathered for a model, and their vectors: one batch is computed while the next is gathered.

    A batch ends where the model wants no more at once, or where its pictures take much memory.

    >>> from vecstore import embed
    >>> model = embed.load("classic")
    >>> batches, grey = Batches(model), np.zeros((64, 64, 3), np.uint8)
    >>> [(len(names), rows.shape) for n in range(20) for names, rows in batches.put(n, grey)]
    [(8, (8, 1024))]
    >>> [names[0] for names, rows in batches.end()]
    [8, 16]
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._waiting: list[tuple[Any, Any]] = []
        self._held = 0
        self._begun: tuple[list[Any], Callable[[], NDArray[np.float32]]] | None = None

    def put(self, item: Any, prepared: Any) -> list[Batch]:
        """One more, under whatever name; the batch that is done by now, if one is."""
        self._waiting.append((item, prepared))
        self._held += held_by(prepared)
        if len(self._waiting) < self._model.batch and self._held < HELD_BYTES // 2:
            return []
        return self._next()

    def end(self) -> list[Batch]:
        """All that are still on their way."""
        return self._next() + self._next()

    def _next(self) -> list[Batch]:
        before, self._begun = self._begun, None
        if self._waiting:
            items, prepared = (list(side) for side in zip(*self._waiting, strict=True))
            self._waiting, self._held = [], 0
            self._begun = items, self._model.start(prepared)
        return [] if before is None else [(before[0], before[1]())]
