"""Whether pictures whose hashes are alike are copies: their vectors say so, or that of a mirror image made for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

import vecstore

from .alike import Numbers, differing
from .asking import agreed_model
from .decode import decode
from .errors import ImageError, ModelError
from .files import path_of
from .marks import Marks
from .model import Model

# Where a mirrored copy's file cannot be read again, its hashes alone must say so.
_SURE_BITS = 4

Distances = NDArray[np.floating[Any]]


class Confirming:
    """Distances between pictures of a collection, by their places among the marks."""

    def __init__(self, pictures: vecstore.Collection, marks: Marks, radius: float) -> None:
        self._pictures, self._marks, self.radius = pictures, marks, radius

    def vectors(self, places: Numbers) -> NDArray[np.float32]:
        """Unit vectors; a record that went meanwhile is far from everything."""
        records = self._pictures.get([self._marks.id(place) for place in places.tolist()])
        rows = np.zeros((len(records), self._pictures.dim), np.float32)
        for row, record in zip(rows, records, strict=True):
            if record is not None:
                row[:] = record.vector
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        rows /= np.where(length > 0, length, np.float32(1))
        return rows

    def near(self, place: int) -> Callable[[Numbers], Distances]:
        """Distances of others from a picture."""
        own = self.vectors(np.array([place]))[0]
        return lambda others: 1 - self.vectors(others) @ own

    def mirrored(self, place: int) -> Callable[[Numbers], Distances]:
        """Distances from a picture's mirror image, whose vector was never stored: the picture is read for it, once."""
        made = cache(lambda: self._turned(place))

        def apart(others: Numbers) -> Distances:
            turned = made()
            if turned is not None:
                return np.asarray(1 - self.vectors(others) @ turned)
            return np.where(self._bits_turned(place, others) <= _SURE_BITS, self.radius, np.inf)

        return apart

    def _turned(self, place: int) -> NDArray[np.float32] | None:
        if self._model is None:
            return None
        try:
            rgb = decode(path_of(self._marks.id(place)), enough=self._model.enough).rgb
        except ImageError:
            return None
        mirrored: NDArray[np.float32] = self._model.images([rgb[:, ::-1]])[0]
        return mirrored

    def _bits_turned(self, place: int, others: Numbers) -> Numbers:
        """How many bits the mirror image of one differs from others in, by the hash that says more."""
        hashes = self._marks.hashes
        found = [
            differing(np.repeat(hashes[f"mirrored_{kind}"][place], len(others)), hashes[kind][others])
            for kind in ("perceptual", "difference")
        ]
        return np.maximum(*found)

    @cached_property
    def _model(self) -> Model | None:
        try:
            return agreed_model(self._pictures, None)
        except ModelError:  # Its package or its weights are not here; what is stored can still be compared.
            return None
