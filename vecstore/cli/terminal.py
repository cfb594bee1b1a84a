"""Pictures in a terminal: half blocks everywhere, Kitty's and Sixel's protocols where the terminal speaks them.

Small writers of our own, so that nothing has to be installed for it.
"""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore.cli.output import columns, printable, shorten

WAYS = ("auto", "blocks", "kitty", "sixel")

# A thumbnail's width in characters, at least and at most. Two pixels stand in one of half a block.
_LEAST, _MOST = 22, 32
# Pixels of a thumbnail for terminals that draw real ones.
_SIDE = 220
_KITTY_PART = 4096
_GAP = 2


def way_of(asked: str, environment: Mapping[str, str]) -> str:
    """How to draw: what was asked for, or what the terminal says it can.

    >>> way_of("auto", {"TERM": "xterm-kitty"}), way_of("auto", {"TERM": "xterm"}), way_of("sixel", {})
    ('kitty', 'blocks', 'sixel')
    """
    if asked != "auto":
        return asked
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if "KITTY_WINDOW_ID" in environment or "kitty" in term or program in ("ghostty", "WezTerm"):
        return "kitty"
    if program in ("mlterm", "mintty") or term.startswith(("foot", "mlterm")):
        return "sixel"
    return "blocks"


def pictures(shown: Sequence[tuple[bytes | None, str]], way: str) -> Iterator[str]:
    """Lines that draw thumbnails (JPEG, or none where there is no picture) with a caption each."""
    if way == "blocks":
        yield from _in_blocks(shown)
        return
    draw = _kitty if way == "kitty" else _sixel
    for jpeg, caption in shown:
        yield printable(caption)
        yield draw(jpeg) if jpeg is not None else "(no picture)"


# -- half blocks: the upper pixel is the ink, the lower one the ground


def _in_blocks(shown: Sequence[tuple[bytes | None, str]]) -> Iterator[str]:
    limit = shutil.get_terminal_size((100, 24)).columns
    across = max(1, (limit + _GAP) // (_LEAST + _GAP))
    wide = min(_MOST, max(1, (limit + _GAP) // across - _GAP))
    paint = _true_colour if re.search("truecolor|24bit", os.environ.get("COLORTERM", "")) else _of_256
    for start in range(0, len(shown), across):
        row = shown[start : start + across]
        blocks = [_block(jpeg, wide, paint) for jpeg, _ in row]
        tall = max(map(len, blocks))
        blocks = [[" " * wide] * (tall - len(block)) + block for block in blocks]
        for line in zip(*blocks, strict=True):
            yield (" " * _GAP).join(line).rstrip()
        captions = (shorten(printable(caption), wide) for _, caption in row)
        yield (" " * _GAP).join(text + " " * (wide - columns(text)) for text in captions).rstrip()
        yield ""


def _block(jpeg: bytes | None, wide: int, paint: Any) -> list[str]:
    if jpeg is None:
        return ["(no picture)".center(wide)]
    image = _opened(jpeg)
    image.thumbnail((wide, wide))
    pixels = np.asarray(image.convert("RGB"))
    if len(pixels) % 2:
        pixels = np.concatenate((pixels, pixels[-1:]))
    lines = []
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=True):
        cells = "".join(
            f"{paint(38, ink)}{paint(48, ground)}▀" for ink, ground in zip(upper, lower, strict=True)
        )
        lines.append(cells + "\x1b[0m" + " " * (wide - len(upper)))
    return lines


def _true_colour(which: int, colour: NDArray[np.uint8]) -> str:
    red, green, blue = colour.tolist()
    return f"\x1b[{which};2;{red};{green};{blue}m"


def _of_256(which: int, colour: NDArray[np.uint8]) -> str:
    """The nearest of the cube of 6 × 6 × 6 colours that terminals agree on, or of its greys."""
    red, green, blue = colour.tolist()
    if max(red, green, blue) - min(red, green, blue) < 12:
        grey = round((red + green + blue) / 3)
        number = 16 if grey < 4 else 231 if grey > 246 else 232 + min(23, max(0, round((grey - 8) / 10)))
    else:
        number = 16 + 36 * _step(red) + 6 * _step(green) + _step(blue)
    return f"\x1b[{which};5;{number}m"


def _step(value: int) -> int:
    return 0 if value < 48 else 1 if value < 115 else min(5, (value - 35) // 40)


# -- real pixels


def _kitty(jpeg: bytes) -> str:
    written = io.BytesIO()
    image = _opened(jpeg)
    image.thumbnail((_SIDE, _SIDE))
    image.save(written, "PNG")
    data = base64.b64encode(written.getvalue()).decode("ascii")
    parts = [data[place : place + _KITTY_PART] for place in range(0, len(data), _KITTY_PART)]
    found = []
    for number, part in enumerate(parts):
        first = "a=T,f=100,q=2," if number == 0 else ""
        more = int(number + 1 < len(parts))
        found.append(f"\x1b_G{first}m={more};{part}\x1b\\")
    return "".join(found)


def _sixel(jpeg: bytes) -> str:
    """Six rows of pixels are a band, and a band is written once for each of its colours."""
    image = _opened(jpeg)
    image.thumbnail((_SIDE, _SIDE))
    reduced = image.convert("RGB").quantize(64)
    colours = np.array(reduced.getpalette(), np.int64).reshape(-1, 3)
    pixels = np.asarray(reduced)
    tall, wide = pixels.shape
    found = [f'\x1bPq"1;1;{wide};{tall}']
    found += [
        f"#{number};2;{red};{green};{blue}"
        for number, (red, green, blue) in enumerate((colours * 100 // 255).tolist())
    ]
    for top in range(0, tall, 6):
        band = pixels[top : top + 6]
        weights = 1 << np.arange(len(band))
        runs = []
        for number in np.unique(band).tolist():
            sixes = ((band == number) * weights[:, None]).sum(axis=0) + 63
            runs.append(f"#{number}{_packed(sixes)}")
        found.append("$".join(runs) + "-")
    return "".join(found) + "\x1b\\"


def _packed(sixes: NDArray[np.int64]) -> str:
    """Runs of the same character, written as their number and the character."""
    edges = np.flatnonzero(np.diff(sixes)) + 1
    starts = np.concatenate(([0], edges))
    lengths = np.diff(np.concatenate((starts, [len(sixes)])))
    return "".join(
        f"!{length}{chr(six)}" if length > 3 else chr(six) * length
        for six, length in zip(sixes[starts].tolist(), lengths.tolist(), strict=True)
    )


def _opened(jpeg: bytes) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(jpeg))
