"""JPEGs that a card decodes: taken as bytes by what their header says, decoded a batch at once.

What the card's decoder might read differently (four colours, 12 bits, odd sampling, orientation told in other ways, a file cut
short) is left to Pillow.
"""

from __future__ import annotations

import importlib
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .card import Card
from .decode import decode

# Larger ones are shrunk while they are decoded by the processor: on a card they would take gigabytes.
LARGEST = 25_000_000

_BASELINE, _PROGRESSIVE = 0xC0, 0xC2
_OTHER_FRAMES = (0xC1, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_SCAN, _EXIF, _ADOBE = 0xDA, 0xE1, 0xEE
# Sampling of brightness against colours of 1 x 1: 4:4:4, 4:2:2, 4:4:0, 4:2:0, 4:1:1.
_SAMPLED = {0x11, 0x21, 0x12, 0x22, 0x41}
_ORIENTATION, _SHORT = 0x0112, 3
_ORDERS: dict[bytes, Literal["little", "big"]] = {b"II*\0": "little", b"MM\0*": "big"}
# How far a card's decoder may be from Pillow's on average, in levels of 255: they interpolate colours in different ways.
_NEAR = 4.0


@dataclass(frozen=True)
class Whole:
    """A picture that was decoded already; ``ready`` where it was cut to size as well."""

    rgb: NDArray[np.uint8]
    ready: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        return self.rgb.shape[0], self.rgb.shape[1]

    @property
    def nbytes(self) -> int:
        return self.rgb.nbytes

    def decoded(self, enough: int | None) -> NDArray[np.uint8]:
        return self.rgb


@dataclass(frozen=True)
class Jpeg:
    """A JPEG's bytes, its height and width once it is upright, and how it must be turned for that."""

    data: bytes
    shape: tuple[int, int]
    turn: int
    ready: bool = False

    @property
    def nbytes(self) -> int:
        return len(self.data)

    def decoded(self, enough: int | None) -> NDArray[np.uint8]:
        return decode(self.data, enough=enough).rgb


def taken(data: bytes, max_pixels: int) -> Jpeg | None:
    """A JPEG that the card may decode, by its header alone; None for all else, which Pillow reads or refuses.

    >>> taken(b"no JPEG", 10**6) is None
    True
    """
    try:
        found = _header(data)
    except IndexError:  # It ends within its header.
        return None
    if found is None or found.shape[0] * found.shape[1] > min(max_pixels, LARGEST):
        return None
    return found


def _header(data: bytes) -> Jpeg | None:
    if data[:2] != b"\xff\xd8":
        return None
    frame: tuple[int, int] | None = None
    turn: int | None = None
    place, told_elsewhere = 2, False
    while True:
        if data[place] != 0xFF:
            return None
        kind = data[place + 1]
        if kind == 0xFF:
            place += 1
            continue
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        start, place = place + 4, place + 2 + length
        if length < 2 or place > len(data) or kind in _OTHER_FRAMES:
            return None
        body = data[start:place]
        if kind in (_BASELINE, _PROGRESSIVE):
            frame = _frame(body)
            if frame is None:
                return None
        elif kind == _EXIF and body.startswith(b"Exif\0"):
            if turn is not None:
                return None
            turn = _turn(body[6:])
            if turn is None:
                return None
        elif kind == _EXIF:
            told_elsewhere |= b"Orientation" in body
        elif kind == _ADOBE and body.startswith(b"Adobe") and body[11] != 1:
            return None
        elif kind == _SCAN:
            break
    # Without its end it was cut short: Pillow says so, and a card's decoder may not.
    if frame is None or (told_elsewhere and turn in (None, 1)) or data.find(b"\xff\xd9", place) < 0:
        return None
    tall, wide = frame
    turn = turn or 1
    return Jpeg(data, (wide, tall) if turn in (5, 6, 7, 8) else (tall, wide), turn)


def _frame(body: bytes) -> tuple[int, int] | None:
    """Height and width, of grey or of brightness and two colours in 8 bits."""
    bits, tall, wide, parts = (
        body[0],
        int.from_bytes(body[1:3], "big"),
        int.from_bytes(body[3:5], "big"),
        body[5],
    )
    names, sampled = body[6 : 6 + 3 * parts : 3], body[7 : 7 + 3 * parts : 3]
    if bits != 8 or not tall or not wide or parts not in (1, 3):
        return None
    if parts == 3 and (names == b"RGB" or sampled[0] not in _SAMPLED or sampled[1:] != b"\x11\x11"):
        return None
    return tall, wide


def _turn(exif: bytes) -> int | None:
    """The orientation from 1 to 8; None where the field is odd."""
    order = _ORDERS.get(exif[:4])
    if order is None:
        return None

    def number(place: int, size: int) -> int:
        if place + size > len(exif):
            raise IndexError(place)
        return int.from_bytes(exif[place : place + size], order)

    first = number(4, 4)
    for entry in range(number(first, 2)):
        place = first + 2 + 12 * entry
        if number(place, 2) == _ORIENTATION:
            value = number(place + 8, 2)
            return value if number(place + 2, 2) == _SHORT and 1 <= value <= 8 else None
    return 1


class Decoder:
    """A batch of JPEGs to pixels (3, h, w) where the card is. ``upright`` where the decoder turns them by itself."""

    def __init__(
        self, name: str, torch: Any, run: Callable[[list[Any]], list[Any]], *, upright: bool, card: Card
    ) -> None:
        self.name, self._torch, self._run, self._upright, self._card = name, torch, run, upright, card

    def __call__(self, jpegs: Sequence[Jpeg]) -> list[Any]:
        """Pixels on the card of each; of one that the card cannot read, an array as Pillow reads it."""
        if not jpegs:
            return []
        try:
            found = self._run(
                [self._torch.frombuffer(bytearray(jpeg.data), dtype=self._torch.uint8) for jpeg in jpegs]
            )
        except RuntimeError as error:
            if self._card.is_full(error):
                raise
            if len(jpegs) == 1:
                return [jpegs[0].decoded(None)]
            found = None
        if (
            found is None
        ):  # One of them is at fault: it is found in few steps, and the others stay on the card.
            half = len(jpegs) // 2
            return self(jpegs[:half]) + self(jpegs[half:])
        turned = [self._turned(pixels, jpeg.turn) for pixels, jpeg in zip(found, jpegs, strict=True)]
        return [
            pixels if tuple(pixels.shape) == (3, *jpeg.shape) else jpeg.decoded(None)
            for pixels, jpeg in zip(turned, jpegs, strict=True)
        ]

    def _turned(self, pixels: Any, turn: int) -> Any:
        if self._upright:
            return pixels
        if turn in (5, 6, 7, 8):
            pixels = pixels.transpose(1, 2)
        sides = [side for side, turns in ((2, (2, 3, 6, 7)), (1, (3, 4, 7, 8))) if turn in turns]
        return pixels.flip(sides) if sides else pixels

    def proves_itself(self) -> bool:
        """Whether a picture that is known comes out as it should, turned and all."""
        data = _example()
        known = taken(data, LARGEST)
        assert known is not None
        try:
            found = self([known, known])
        except RuntimeError:
            return False
        expected = decode(data).rgb.transpose(2, 0, 1)
        pixels = [np.asarray(one.cpu()) for one in found if not isinstance(one, np.ndarray)]
        apart = [np.abs(one.astype(np.int16) - expected).mean() for one in pixels]
        return len(apart) == 2 and max(apart) <= _NEAR


def _example() -> bytes:
    """A picture of slow changes and one edge, lying on its side."""
    from PIL import Image

    down, across = np.mgrid[:96, :128]
    rgb = np.stack((across * 2, down * 2, 255 - across), axis=2).astype(np.uint8)
    rgb[40:60, 30:90] = 220, 40, 30
    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    written = io.BytesIO()
    Image.fromarray(rgb).save(written, "JPEG", quality=92, exif=exif)
    return written.getvalue()


def decoder(torch: Any, card: Card) -> Decoder | None:
    """The first decoder that is installed and gives what it should: torchcodec's, torchvision's, or None."""
    for make in (_of_torchcodec, _of_torchvision):
        found = make(torch, card)
        if found is not None and found.proves_itself():
            return found
    return None


def _of_torchcodec(torch: Any, card: Card) -> Decoder | None:
    try:
        run = importlib.import_module("torchcodec.decoders").decode_jpeg
    except (ImportError, OSError, RuntimeError, AttributeError):
        # It is not there, it is older than its image decoders, or a library that it loads is missing.
        return None
    return Decoder(
        "torchcodec",
        torch,
        lambda tensors: run(tensors, mode="RGB", device=card.name),
        upright=True,
        card=card,
    )


def _of_torchvision(torch: Any, card: Card) -> Decoder | None:
    try:
        there = importlib.import_module("torchvision.io")
        run, mode = there.decode_jpeg, there.ImageReadMode.RGB
    except (ImportError, OSError, RuntimeError, AttributeError):
        return None

    def decoded(tensors: list[Any]) -> list[Any]:
        # It writes on a stream of its own, into memory that what is queued beside may still read.
        card.arrive()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            found: list[Any] = run(tensors, mode=mode, device=card.name)
        return found

    return Decoder("torchvision", torch, decoded, upright=False, card=card)
