"""What the demo's scenes are made of: colours, light, outlines, leaves. All drawn at twice a picture's size."""

from __future__ import annotations

import colorsys
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDE, TALL = 320, 240
# Made smaller in the end, for soft edges.
W, H = 2 * WIDE, 2 * TALL

Colour = tuple[int, int, int]
Random = np.random.Generator


def hsv(hue: float, depth: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, min(max(depth, 0), 1), min(max(value, 0), 1))
    return round(red * 255), round(green * 255), round(blue * 255)


def mixed(one: Colour, other: Colour, share: float) -> Colour:
    first, second, third = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return first, second, third


def between(random: Random, low: float, high: float) -> float:
    return float(random.uniform(low, high))


def gradient(*stops: Colour) -> NDArray[np.float64]:
    """From the top to the bottom, through all of the colours."""
    places = np.linspace(0, len(stops) - 1, H)
    columns = [
        np.interp(places, range(len(stops)), [stop[channel] for stop in stops]) for channel in range(3)
    ]
    return np.repeat(np.stack(columns, axis=1)[:, None], W, axis=1)


def glow(
    canvas: NDArray[np.float64], x: float, y: float, size: float, colour: Colour, strength: float = 1.0
) -> None:
    """Light around a point, added to what is there."""
    down, across = np.ogrid[:H, :W]
    apart = (across - x) ** 2 + (down - y) ** 2
    canvas += np.exp(-apart / (2 * size * size))[..., None] * np.array(colour) * strength


def painted(canvas: NDArray[np.float64]) -> tuple[Any, Any]:
    from PIL import Image, ImageDraw

    image = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    return image, ImageDraw.Draw(image, "RGBA")


def disc(
    draw: Any, x: float, y: float, wide: float, colour: tuple[int, ...], tall: float | None = None
) -> None:
    tall = wide if tall is None else tall
    draw.ellipse((x - wide, y - tall, x + wide, y + tall), fill=colour)


def hills(random: Random, roughness: float, level: float, height: float) -> NDArray[np.float64]:
    """The outline of hills: waves of ever shorter length."""
    across = np.linspace(0, 1, W)
    found = np.full(W, level)
    for octave in range(1, 8):
        found += (
            height
            * roughness**octave
            * np.sin((across * 2**octave + random.random()) * math.pi * between(random, 0.8, 1.2))
        )
    return found


def land(draw: Any, outline: NDArray[np.float64], colour: Colour) -> None:
    points = list(zip(range(0, W, 2), outline[::2].tolist(), strict=True))
    draw.polygon([(0, H), *points, (W, H)], fill=colour)


def turned(
    points: list[tuple[float, float]], x: float, y: float, angle: float, size: float
) -> list[tuple[float, float]]:
    cosine, sine = math.cos(angle) * size, math.sin(angle) * size
    return [(x + a * cosine - b * sine, y + a * sine + b * cosine) for a, b in points]


def leaf(
    draw: Any, x: float, y: float, angle: float, long: float, wide: float, colour: tuple[int, ...]
) -> None:
    """A leaf-shaped thing that begins at a point and leads away from it."""
    steps = np.linspace(0, 1, 24)
    bulge = np.sin(steps * math.pi) ** 0.8 * wide / 2
    rim = [*zip(steps * long, bulge, strict=True), *zip(steps[::-1] * long, -bulge[::-1], strict=True)]
    draw.polygon(turned([(float(a), float(b)) for a, b in rim], x, y, angle, 1), fill=colour)
