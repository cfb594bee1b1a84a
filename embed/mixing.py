"""One query of several things: pictures, texts and records, each with a weight; a negative one leads away."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import vecstore

from .decode import decode
from .errors import ModelError, shown
from .fetch import fetch, is_address
from .model import Model

Pairs = list[tuple[Any, float]]


def weighted(things: Any, what: str) -> Pairs:
    """One thing or a list of them, each on its own or as a pair with its weight, as pairs.

    >>> weighted("a.jpg", "image"), weighted(["a.jpg", ("b.jpg", -0.5)], "image")
    ([('a.jpg', 1.0)], [('a.jpg', 1.0), ('b.jpg', -0.5)])
    """
    if things is None:
        return []
    listed = things if isinstance(things, list) else [things]
    pairs = [thing if _is_pair(thing) else (thing, 1.0) for thing in listed]
    for _, weight in pairs:
        if not math.isfinite(weight) or weight == 0:
            raise ModelError(f"a weight of {what}= must be a number other than 0, not {weight}")
    return [(thing, float(weight)) for thing, weight in pairs]


def _is_pair(thing: Any) -> bool:
    if not (isinstance(thing, tuple) and len(thing) == 2):
        return False
    return isinstance(thing[1], (int, float)) and not isinstance(thing[1], bool)


@dataclass(frozen=True)
class Mixture:
    """What is asked for. Its queries are one or two: pictures as they are, and all of them mirrored."""

    images: Pairs
    texts: Pairs
    ids: Pairs

    def __bool__(self) -> bool:
        return bool(self.images or self.texts or self.ids)

    @property
    def needs_model(self) -> bool:
        """Whether there is more than records, whose vectors are known."""
        return bool(self.images or self.texts)

    def queries(
        self, pictures: vecstore.Collection, model: Model | None, *, mirror: bool
    ) -> NDArray[np.float32]:
        """Rows to search for: the weighted sums, of length 1 where several things make one.

        >>> with vecstore.open("mixed.vec", dim=2) as pictures:
        ...     _ = pictures.add(["a", "b"], [[1, 0], [0, 1]])
        ...     Mixture([], [], [("a", 1.0), ("b", 1.0)]).queries(pictures, None, mirror=True).round(2)
        array([[0.71, 0.71]], dtype=float32)
        """
        rows = [self._stored(pictures)] if self.ids else []
        weights = [weight for _, weight in self.ids]
        if self.texts:
            rows.append(_model(model).texts([text for text, _ in self.texts]))
            weights += [weight for _, weight in self.texts]
        mirrored = list(rows)
        if self.images:
            made = _model(model)
            found = [source(image) for image, _ in self.images]
            pixels = [decode(each, enough=made.enough, name=getattr(each, "address", None)).rgb for each in found]
            rows.append(made.images(pixels))
            weights += [weight for _, weight in self.images]
            if mirror:
                mirrored.append(made.images([rgb[:, ::-1] for rgb in pixels]))
        queries = [_sum(rows, weights)]
        if self.images and mirror:
            queries.append(_sum(mirrored, weights))
        return np.stack(queries)

    def _stored(self, pictures: vecstore.Collection) -> NDArray[np.float32]:
        records = pictures.get([id_ for id_, _ in self.ids])
        for (id_, _), record in zip(self.ids, records, strict=True):
            if record is None:
                raise ModelError(f"{shown(pictures.path)} has no record {id_!r} to ask for")
        rows = [np.asarray(record.vector, np.float32) for record in records if record is not None]
        return np.stack(rows)


class Fetched(bytes):
    """A picture's bytes that came from a web address, which messages name."""

    address = ""


def source(image: Any) -> Any:
    """What can be decoded: a web address is fetched first.

    >>> source("a.jpg")
    'a.jpg'
    """
    if not is_address(image):
        return image
    fetched = Fetched(fetch(image))
    fetched.address = image
    return fetched


def _model(model: Model | None) -> Model:
    if model is None:
        raise ModelError("pictures and texts need a model, and none was given")
    return model


def _sum(parts: Sequence[NDArray[np.float32]], weights: Sequence[float]) -> NDArray[np.float32]:
    rows: NDArray[np.float32] = np.concatenate(parts)
    total: NDArray[np.float32] = rows[0]
    if len(rows) == 1 and weights[0] > 0:
        return total
    total = np.array(weights, np.float32) @ rows
    length = float(np.linalg.norm(total))
    if length < 1e-6 * sum(map(abs, weights)):
        raise ModelError("what is asked for cancels itself out: change a weight")
    total /= np.float32(length)
    return total
