"""Pictures for the demo: twelve kinds of scene, each picture of its own, the same on every machine.

NumPy's own generator with a seed a picture, so that the fortieth sunset is the same whether others were drawn or not.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from vecstore.cli import scenes, things
from vecstore.cli.brushes import TALL, WIDE, Random

KINDS: dict[str, Callable[[Random], Any]] = {
    "balloons": things.balloons,
    "butterflies": things.butterflies,
    "city at night": scenes.city,
    "fish": things.fish,
    "flowers": things.flowers,
    "forest": scenes.forest,
    "houses": scenes.houses,
    "mountains": scenes.mountains,
    "planets": things.planets,
    "sunset": scenes.sunset,
    "tiles": things.tiles,
    "waves": scenes.waves,
}


def picture(kind: str, number: int) -> Any:
    """One Pillow image of a kind.

    >>> picture("sunset", 1).size
    (320, 240)
    """
    from PIL import Image

    random = np.random.default_rng([zlib.crc32(kind.encode()), number])
    return KINDS[kind](random).resize((WIDE, TALL), Image.Resampling.LANCZOS)
