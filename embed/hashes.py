"""64-bit hashes of pictures, for copies: two of a picture differ in few bits, whatever its size or quality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .decode import decode
from .resize import resize

_SIDE = 32
# Twice the side that is hashed: decoders stop there.
ENOUGH = 4 * _SIDE
_KEPT = 8


@dataclass(frozen=True)
class Hashes:
    """A picture's two hashes, and those of its mirror image.

    ``perceptual`` tells which low frequencies are strong, ``difference`` where brightness rises to the right.
    """

    perceptual: int
    difference: int
    mirrored_perceptual: int
    mirrored_difference: int


def hashes(source: Any) -> Hashes:
    """The hashes of a picture: a path, bytes, a Pillow image or an array.

    >>> ramp = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None], 64, axis=0)
    >>> hashes(ramp).difference == hashes(ramp[:, ::-1]).mirrored_difference == 2**64 - 1
    True
    """
    return hashes_of(decode(source, enough=ENOUGH).rgb)


def hashes_of(rgb: NDArray[np.uint8]) -> Hashes:
    """The hashes of a decoded picture.

    >>> hashes_of(np.zeros((8, 8, 3), np.uint8)).difference
    0
    """
    light = _grey(resize(rgb, 2 * _SIDE, 2 * _SIDE))
    mirrored = np.ascontiguousarray(light[:, ::-1])
    return Hashes(_perceptual(light), _difference(light), _perceptual(mirrored), _difference(mirrored))


def differing_bits(one: int, other: int) -> int:
    """How many bits of two hashes differ: of 64, about 32 by chance and under 10 for copies.

    >>> differing_bits(0b1100, 0b1010)
    2
    """
    return (one ^ other).bit_count()


def _grey(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    whole = rgb.astype(np.int32) @ np.array([299, 587, 114], np.int32)
    return ((whole + 500) // 1000).astype(np.uint8)[:, :, None]


def _difference(light: NDArray[np.uint8]) -> int:
    small = resize(light, 8, 9)[:, :, 0].astype(np.int16)
    return _as_number(small[:, 1:] > small[:, :-1])


def _perceptual(light: NDArray[np.uint8]) -> int:
    small = resize(light, _SIDE, _SIDE)[:, :, 0].astype(np.float64)
    waves = _COSINES @ small @ _COSINES.T
    # The mean brightness says nothing of the picture's shapes, and would outweigh all else.
    return _as_number(waves > np.median(waves.ravel()[1:]))


def _as_number(bits: NDArray[np.bool_]) -> int:
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _cosines() -> NDArray[np.float64]:
    place = np.arange(_SIDE) + 0.5
    waves: NDArray[np.float64] = np.cos(np.pi / _SIDE * np.arange(_KEPT)[:, None] * place[None, :])
    return waves


_COSINES = _cosines()
