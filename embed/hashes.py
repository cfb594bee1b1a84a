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
    # Resizing and mirroring may change places: what is added up are the same whole numbers.
    small, tiny = resize(light, _SIDE, _SIDE)[:, :, 0], resize(light, 8, 9)[:, :, 0]
    return Hashes(*(hashed(seen[:, ::way]) for way in (1, -1) for hashed, seen in ((_perceptual, small), (_difference, tiny))))


def differing_bits(one: int, other: int) -> int:
    """How many bits of two hashes differ: of 64, about 32 by chance and under 10 for copies.

    >>> differing_bits(0b1100, 0b1010)
    2
    """
    return (one ^ other).bit_count()


def _grey(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    red, green, blue = rgb.transpose(2, 0, 1).astype(np.int32)
    whole = 299 * red + 587 * green + 114 * blue
    light: NDArray[np.uint8] = ((whole + 500) // 1000).astype(np.uint8)
    return light[:, :, None]


def _difference(tiny: NDArray[np.uint8]) -> int:
    return _as_number(tiny[:, 1:] > tiny[:, :-1])


def _perceptual(small: NDArray[np.uint8]) -> int:
    waves = _COSINES @ small.astype(np.float64) @ _COSINES.T
    # The mean brightness says nothing of the picture's shapes, and would outweigh all else.
    others = waves.ravel()[1:]
    middle = len(others) // 2
    return _as_number(waves > np.partition(others, middle)[middle])


def _as_number(bits: NDArray[np.bool_]) -> int:
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _cosines() -> NDArray[np.float64]:
    place = np.arange(_SIDE) + 0.5
    waves: NDArray[np.float64] = np.cos(np.pi / _SIDE * np.arange(_KEPT)[:, None] * place[None, :])
    return waves


_COSINES = _cosines()
