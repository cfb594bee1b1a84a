"""Small pictures of pictures, as JPEG."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .decode import decode
from .errors import ImageError

SIDE = 320


def thumbnail(source: Any, side: int = SIDE) -> bytes:
    """A picture (path, bytes, Pillow image or array) as a JPEG whose longer side has at most so many pixels.

    >>> thumbnail(np.zeros((600, 400, 3), np.uint8), 100)[:2]
    b'\\xff\\xd8'
    """
    return encoded(decode(source, enough=side).rgb, side)


def encoded(rgb: NDArray[np.uint8], side: int = SIDE) -> bytes:
    """The same of pixels that were decoded already.

    >>> len(encoded(np.zeros((60, 40, 3), np.uint8))) < 1000
    True
    """
    try:
        from PIL import Image
    except ImportError:
        raise ImageError("pictures need Pillow: pip install 'vecstore-db[images]'") from None
    image = Image.fromarray(rgb)
    image.thumbnail((side, side))
    written = io.BytesIO()
    image.save(written, "JPEG", quality=82)
    return written.getvalue()


def stored(metadata: dict[str, Any]) -> bytes | None:
    """The small picture that ``index_folder(..., thumbnails=True)`` left in a record, if there is one.

    >>> stored({"thumbnail": "/9g="})
    b'\\xff\\xd8'
    """
    text = metadata.get("thumbnail")
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except ValueError:  # Another program's field of this name.
        return None
