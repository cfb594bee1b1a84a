"""What every model can do: pictures to vectors, in two steps that may run in different threads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .decode import decode
from .errors import ModelError


class Model(ABC):
    """A model gives ``prepare`` and ``vectors``, and ``texts`` where it can; the rest is here.

    ``fingerprint`` tells apart models whose vectors must not be mixed: it names the model, its weights, its
    preprocessing and its normalisation. ``enough`` is how many pixels a side needs at least: decoders stop there.
    """

    name: str
    dim: int
    fingerprint: str
    enough: int | None = None
    # How many pictures make a batch worth computing.
    batch: int = 64

    @abstractmethod
    def prepare(self, rgb: NDArray[np.uint8]) -> NDArray[Any]:
        """A decoded picture as the model takes it, Threads may call it at once."""

    @abstractmethod
    def vectors(self, prepared: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Prepared pictures to unit vectors (n, dim)."""

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
        found: list[NDArray[np.float32]] = []
        waiting: list[NDArray[Any]] = []
        for source in sources:
            waiting.append(self.prepare(decode(source, enough=self.enough).rgb))
            if len(waiting) == self.batch:
                found.append(self.vectors(waiting))
                waiting = []
        if waiting:
            found.append(self.vectors(waiting))
        return np.concatenate(found) if found else np.zeros((0, self.dim), np.float32)
