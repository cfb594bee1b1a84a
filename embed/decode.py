"""A picture from a path, bytes, a Pillow image or an array: RGB, upright, no larger than a budget.

What a file is called does not count, only what it holds. Formats that start other programs are left out.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ImageError, shown

# A file that unpacks to more is refused by its header: this is where Pillow begins to warn.
MAX_PIXELS = 89_478_485
# Photographs are a hundredth of it; what is larger is read neither for its pixels nor for its hash.
MAX_BYTES = 256 << 20

_FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI", "TIFF", "WEBP",
)  # fmt: skip
# How files of Apple's phones begin, behind their first four bytes.
_HEIC = {b"ftyp" + brand for brand in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")}
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Picture:
    """RGB pixels, upright, and what the file says of itself: its full size, and its EXIF fields.

    Pixels may be fewer than ``width`` x ``height`` where decoding was asked to stop early.
    """

    rgb: NDArray[np.uint8]
    width: int
    height: int
    exif: Any = None


def decode(
    source: Any, *, enough: int | None = None, max_pixels: int = MAX_PIXELS, name: object = None
) -> Picture:
    """A picture as RGB. With ``enough``, a JPEG may come smaller, with no side below so many pixels.

    >>> decode(np.zeros((2, 3), np.uint8)).rgb.shape
    (2, 3, 3)
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, (str, os.PathLike)):
        return decode(read_file(source), enough=enough, max_pixels=max_pixels, name=name or source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        called = shown(name) if name is not None else f"the picture of {len(source)} bytes"
        if not len(source):
            raise ImageError(f"{called} is empty: it holds 0 bytes")
        with _naming(called), _opened(source, called) as image:
            return _from_image(image, called, enough, max_pixels)
    if hasattr(source, "getexif") and hasattr(source, "convert"):
        called = shown(name) if name is not None else "the picture"
        with _naming(called):
            # A copy, since draft and orientation would change the caller's own.
            return _from_image(source.copy(), called, None, max_pixels)
    raise ImageError(
        f"a picture is a path, bytes, a Pillow image or an array, not {type(source).__name__}"
    )


def read_file(path: str | os.PathLike[str]) -> bytes:
    """A file's bytes, if it is a plain file of sensible size. Pipes and devices are not waited for.

    >>> read_file("nowhere.jpg")
    Traceback (most recent call last):
    vecstore.embed.errors.ImageError: nowhere.jpg cannot be read: No such file or directory
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags | getattr(os, "O_CLOEXEC", 0))
        with open(handle, "rb") as file:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise ImageError(f"{shown(path)} is no plain file")
            if status.st_size > MAX_BYTES:
                raise ImageError(
                    f"{shown(path)} has {status.st_size} bytes, and pictures may have {MAX_BYTES}"
                )
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"{shown(path)} cannot be read: {reason}") from None


@contextmanager
def _opened(data: bytes | bytearray | memoryview, called: str) -> Iterator[Any]:
    pillow = _pillow()
    known = [name for name in _FORMATS if name in pillow.OPEN]
    try:
        image = pillow.open(io.BytesIO(data), formats=known)
    except pillow.UnidentifiedImageError:
        if bytes(data[4:12]) in _HEIC and "HEIF" not in known:
            raise ImageError(f"{called} is HEIC, as phones write it: pip install 'vecstore-db[heif]'") from None
        raise ImageError(f"{called} is no picture of a known format ({', '.join(known)})") from None
    with image:
        yield image


@contextmanager
def _naming(called: str) -> Iterator[None]:
    """Decoders meet damaged files with all kinds of errors; a caller gets one kind, with the name."""
    try:
        yield
    except ImageError:
        raise
    except MemoryError:
        raise ImageError(f"{called} needs more memory than there is") from None
    except Exception as error:
        if type(error).__name__.startswith("DecompressionBomb"):
            raise ImageError(f"{called} has more than {MAX_PIXELS} pixels") from None
        reason = str(error) or type(error).__name__
        raise ImageError(f"{called} cannot be decoded: {shown(reason)}") from error


@cache
def _register_heif() -> None:
    """Once, and only where its package is installed."""
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise ImageError("pictures need Pillow: pip install 'vecstore-db[images]'") from None
    Image.init()
    _register_heif()
    return Image


def _from_image(image: Any, called: str, enough: int | None, max_pixels: int) -> Picture:
    wide, tall = image.size
    if wide * tall > max_pixels:
        raise ImageError(
            f"{called} has {wide} x {tall} pixels, and {max_pixels} are allowed (max_pixels)"
        )
    if not wide or not tall:
        raise ImageError(f"{called} has no pixels")
    if enough is not None and image.format in ("JPEG", "MPO"):
        image.draft(None, (enough, enough))
    try:
        exif = image.getexif()
        turn = int(exif.get(_ORIENTATION, 1))
    except Exception:  # Damaged EXIF is no reason to lose the picture.
        exif, turn = None, 1
    rgb = _upright(_to_rgb(image), turn)
    if turn in (5, 6, 7, 8):
        wide, tall = tall, wide
    return Picture(rgb, wide, tall, exif)


def _to_rgb(image: Any) -> NDArray[np.uint8]:
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep(np.asarray(image), image.format)
    see_through = "transparency" in image.info
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or (see_through and image.mode in ("P", "L", "RGB", "1")):
        return _over_white(np.asarray(image.convert("RGBA")))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _from_deep(values: NDArray[Any], kind: str | None) -> NDArray[np.uint8]:
    """Grey of more than 8 bits; Pillow's own conversion would turn all of it white."""
    if values.dtype.kind == "f":
        values = np.nan_to_num(values.astype(np.float64), posinf=255, neginf=0)
        if values.max() <= 1:
            values = values * 255
        grey = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    elif values.dtype == np.uint16 or kind in ("PNG", "PPM"):
        grey = (np.clip(values, 0, 65_535).astype(np.int64) >> 8).astype(np.uint8)
    else:
        whole = np.maximum(values.astype(np.int64), 0)
        grey = (whole >> max(0, int(whole.max()).bit_length() - 8)).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _over_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    opaque = rgba[:, :, 3:].astype(np.uint16)
    mixed = rgba[:, :, :3] * opaque + 255 * (255 - opaque) + 127
    return (mixed // 255).astype(np.uint8)


def _upright(rgb: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    """Undo a camera's orientation, as EXIF numbers it."""
    if turn in (5, 6, 7, 8):
        rgb = rgb.transpose(1, 0, 2)
    if turn in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    if turn in (3, 4, 7, 8):
        rgb = rgb[::-1]
    return np.ascontiguousarray(rgb)


def _from_array(array: NDArray[Any]) -> Picture:
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    flat = array[:, :, None] if array.ndim == 2 else array
    if flat.dtype != np.uint8 or flat.ndim != 3 or flat.shape[2] not in (1, 3, 4) or not flat.size:
        raise ImageError(
            "an array must be uint8, uint16 or bool, of shape (height, width) or (height, width, 1, 3 or 4), "
            f"not {array.dtype} of shape {array.shape}"
        )
    rgb = _over_white(flat) if flat.shape[2] == 4 else flat
    if rgb.shape[2] == 1:
        rgb = np.repeat(rgb, 3, axis=2)
    rgb = np.ascontiguousarray(rgb)
    return Picture(rgb, rgb.shape[1], rgb.shape[0])
