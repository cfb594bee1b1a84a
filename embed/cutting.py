"""Resizing and cropping as two products of matrices, on whatever device pixels lie.

The weights' authors cut pictures with Pillow, and so do we on the processor. Here the same filters are rows of matrices, and
each pass is rounded as Pillow rounds it: pixels differ by one level of 255 at most, and few do (of tall pictures a quarter, where
a new Pillow takes the two passes in the other order). What lies outside of the crop is
never computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_KINDS = ("bilinear", "bicubic")
# A folder's pictures have few sizes; a matrix for a large photograph takes some 4 MB.
_KEPT = 64


@dataclass(frozen=True)
class Pass:
    """One direction: which rows (or columns) are read, and how much each new one takes of them."""

    first: int
    last: int
    weights: NDArray[np.float32]


class Cut:
    """A picture's shorter side to a length (or both sides to two), then the middle of it.

    >>> cut = Cut(256, (224, 224), "bilinear")
    >>> cut.sides(300, 600)
    (256, 512)
    """

    def __init__(self, size: int | tuple[int, int], crop: tuple[int, int], kind: str) -> None:
        self.size, self.crop, self._cubic = size, crop, kind == "bicubic"
        self._on_device = lru_cache(_KEPT)(self._sent)

    @staticmethod
    def of(size: Any, crop: Any, kind: str) -> Cut | None:
        """From what transforms hold: numbers or lists of one or two; None where this cannot do what they ask.

        >>> Cut.of([256], [224], "bilinear").crop, Cut.of(256, 224, "lanczos")
        ((224, 224), None)
        """
        sizes, crops = ([side] if isinstance(side, int) else list(side) for side in (size, crop))
        least = sizes * 2 if len(sizes) == 1 else sizes
        crops = crops * 2 if len(crops) == 1 else crops
        if kind not in _KINDS or min(least) < max(crops):
            return None
        return Cut(sizes[0] if len(sizes) == 1 else (sizes[0], sizes[1]), (crops[0], crops[1]), kind)

    @property
    def least(self) -> int:
        """How many pixels a picture's shorter side must have, so that it is not made larger."""
        return max(self.size) if isinstance(self.size, tuple) else self.size

    def sides(self, tall: int, wide: int) -> tuple[int, int]:
        """Height and width before the crop."""
        if isinstance(self.size, tuple):
            return self.size
        longer = int(self.size * max(tall, wide) / min(tall, wide))
        return (longer, self.size) if tall > wide else (self.size, longer)

    def passes(self, tall: int, wide: int) -> tuple[Pass, Pass]:
        """Down and across, for a picture of this size."""
        made = []
        for old, new, kept in zip((tall, wide), self.sides(tall, wide), self.crop, strict=True):
            start = round((new - kept) / 2)
            made.append(_pass(old, new, start, kept, self._cubic))
        return made[0], made[1]

    def __call__(self, torch: Any, pictures: Any) -> Any:
        """Pictures (n, 3, h, w) of bytes to (n, 3, *crop) of whole numbers from 0 to 255, as float32."""
        tall, wide = (int(side) for side in pictures.shape[-2:])
        (top, bottom, down), (left, right, across) = self._on_device(torch, tall, wide, pictures.device)
        part = pictures[..., top:bottom, left:right].to(torch.float32)
        # As Pillow does it: along the rows first, and whole numbers in between.
        return _whole(down @ _whole(part @ across))

    def _sent(self, torch: Any, tall: int, wide: int, device: Any) -> Any:
        down, across = self.passes(tall, wide)
        return (
            (down.first, down.last, torch.from_numpy(down.weights).to(device)),
            (across.first, across.last, torch.from_numpy(np.ascontiguousarray(across.weights.T)).to(device)),
        )


def _whole(numbers: Any) -> Any:
    """Halves go up, as Pillow's do: with powers of two between the sizes they are common."""
    return numbers.add_(0.5).floor_().clamp_(0, 255)


def _pass(old: int, new: int, start: int, kept: int, cubic: bool) -> Pass:
    """Pillow's coefficients, from ``start`` on, and only of what they read."""
    scale = old / new
    wider = max(scale, 1.0)
    reach = (2.0 if cubic else 1.0) * wider
    centre = (np.arange(start, start + kept) + 0.5) * scale
    low = np.maximum((centre - reach + 0.5).astype(np.int64), 0)
    high = np.minimum((centre + reach + 0.5).astype(np.int64), old)
    first, last = int(low.min()), int(high.max())
    place = np.arange(first, last)
    away = np.abs((place[None, :] + 0.5 - centre[:, None]) / wider)
    weights = _bicubic(away) if cubic else np.maximum(1 - away, 0)
    weights[(place < low[:, None]) | (place >= high[:, None])] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    return Pass(first, last, weights.astype(np.float32))


def _bicubic(away: NDArray[np.float64]) -> NDArray[np.float64]:
    bend = -0.5
    near = ((bend + 2) * away - (bend + 3)) * away * away + 1
    far = (((away - 5) * away + 8) * away - 4) * bend
    return np.where(away < 1, near, np.where(away < 2, far, 0))
