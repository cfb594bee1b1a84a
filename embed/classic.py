"""The model that needs no weights: colours, edges and layout, each a part of one vector."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import features
from .model import Model
from .resize import VERSION as RESIZE_VERSION
from .resize import resize

# Measured on photographs of ten classes and on altered copies of 200 others: edges tell classes apart best, and
# see copies without colour; colours and layout tell apart what has no clear edges.
WEIGHTS = (0.41, 0.82, 0.41)


class Classic(Model):
    """Colours, edges and layout in 1024 numbers; no texts.

    >>> model = Classic()
    >>> black, white = np.zeros((9, 9, 3), np.uint8), np.full((9, 9, 3), 255, np.uint8)
    >>> model.images([black, white]).shape
    (2, 1024)
    """

    name = "classic"
    dim = 1024
    # As much as stays in a cache near the processor: four times as many take half as long again.
    batch = 8
    # It computes in the thread that asks: waiting there for threads that decode is none of its work.
    clock = staticmethod(time.thread_time)
    # Twice a side: averaging hides what a decoder that stops early does to single pixels.
    enough = 2 * features.SIDE
    fingerprint = f"classic features={features.VERSION} resize={RESIZE_VERSION} side={features.SIDE} unit"

    def prepare(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A picture at the size that the parts look at.

        >>> Classic().prepare(np.zeros((90, 70, 3), np.uint8)).shape
        (64, 64, 3)
        """
        return resize(rgb, features.SIDE, features.SIDE)

    def vectors(self, prepared: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Prepared pictures, each (64, 64, 3), to unit vectors.

        >>> Classic().vectors(np.zeros((2, 64, 64, 3), np.uint8)).shape
        (2, 1024)
        """
        parts = features.parts(np.stack(prepared))
        weighted = [weight * part for weight, part in zip(WEIGHTS, parts, strict=True)]
        return features.unit(np.concatenate(weighted, axis=1))
