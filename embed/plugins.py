"""Models that other packages bring, through the entry point group ``vecstore.embedders``.

A package that knows faces names a class (or a function that makes an object) in its ``pyproject.toml``::

    [project.entry-points."vecstore.embedders"]
    faces = "facepackage.vecstore:Faces"

and from then on ``embed.load("faces")`` and ``vecstore index photos/ photos.vec --model faces`` use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import ModelError, shown
from .features import unit
from .model import Model

GROUP = "vecstore.embedders"


class Embedder(Protocol):
    """What a package must bring: three methods, nothing to inherit from.

    It may also have ``batch``, how many pictures it wants at once (16), and ``enough``, how many pixels a side
    needs at least: decoders stop there, and it is what keeps huge photographs from being handed over whole.
    """

    def images(self, pictures: Sequence[NDArray[np.uint8]], /) -> Any:
        """Pictures, each (height, width, 3), RGB and upright, to rows of numbers (n, d); any length of row will do."""

    def texts(self, texts: Sequence[str], /) -> Any:
        """Texts to rows beside those of pictures; ``NotImplementedError`` where it knows none."""

    def fingerprint(self) -> str:
        """One line that changes whenever vectors would: weights, preprocessing, versions that matter."""


class Plugin(Model):
    """An embedder as a model: rows of length 1, and a check of all that it gives.

    >>> class Brightness:
    ...     def images(self, pictures):
    ...         return [[picture.mean(), 1.0] for picture in pictures]
    ...     def texts(self, texts):
    ...         raise NotImplementedError
    ...     def fingerprint(self):
    ...         return "1"
    >>> model = Plugin("brightness", Brightness())
    >>> model.dim, model.fingerprint
    (2, 'brightness 1')
    >>> model.images([np.zeros((9, 9, 3), np.uint8)]).tolist()
    [[0.0, 1.0]]
    """

    def __init__(self, name: str, embedder: Any) -> None:
        missing = [
            part for part in ("images", "texts", "fingerprint") if not callable(getattr(embedder, part, None))
        ]
        if missing:
            raise ModelError(f"the embedder {name!r} lacks the methods {', '.join(missing)} (see {__name__})")
        self.name, self._embedder = name, embedder
        self.batch = int(getattr(embedder, "batch", 16))
        self.enough = getattr(embedder, "enough", None)
        self.fingerprint = f"{name} {' '.join(str(self._asked(embedder.fingerprint)).split())}"
        self.dim = self._asked(embedder.images, [np.full((64, 64, 3), 127, np.uint8)]).shape[1]

    def prepare(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The picture itself."""
        return rgb

    def vectors(self, prepared: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """What the embedder makes of pictures, at length 1."""
        return unit(self._asked(self._embedder.images, list(prepared)))

    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """What the embedder makes of texts, at length 1."""
        try:
            return unit(self._asked(self._embedder.texts, list(texts)))
        except NotImplementedError:
            return super().texts(texts)

    def _asked(self, method: Any, *items: Any) -> Any:
        try:
            found = method(*items)
        except (NotImplementedError, MemoryError):
            raise
        except Exception as error:  # Whatever another package raises: the user must learn which one it was.
            raise ModelError(
                f"the embedder {self.name!r} failed: {type(error).__name__}: {shown(error)}"
            ) from error
        if not items:
            return found
        rows = np.asarray(found, dtype=np.float32)
        expected = getattr(self, "dim", None)
        if (
            rows.ndim != 2
            or len(rows) != len(items[0])
            or not rows.shape[1]
            or expected not in (None, rows.shape[1])
        ):
            raise ModelError(
                f"the embedder {self.name!r} must give ({len(items[0])}, {expected or 'd'}) numbers for {len(items[0])} "
                f"items, and gave {rows.shape}"
            )
        return rows


def plugin_names() -> list[str]:
    """The names that installed packages bring.

    >>> "resnet18" in plugin_names()
    False
    """
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def plugin(name: str) -> Model | None:
    """The model of an installed package, or None where no package brings that name.

    >>> plugin("no such model") is None
    True
    """
    found: list[EntryPoint] = list(entry_points(group=GROUP, name=name))
    if not found:
        return None
    if len({entry.value for entry in found}) > 1:
        brought = ", ".join(sorted(entry.value for entry in found))
        raise ModelError(f"several packages bring a model {name!r} ({brought}): uninstall all but one")
    try:
        made = found[0].load()()
    except Exception as error:
        raise ModelError(
            f"the model {name!r} ({found[0].value}) cannot be made: {type(error).__name__}: {shown(error)}"
        ) from error
    return made if isinstance(made, Model) else Plugin(name, made)
