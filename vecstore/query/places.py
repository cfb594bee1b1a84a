"""Places on the Earth: what of metadata names one, and how far apart two are.

>>> import numpy as np
>>> paris, london = (48.8566, 2.3522), (51.5074, -0.1278)
>>> round(float(metres(paris, *np.array([london]).T)[0]), -3)
344000.0
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

# The mean radius. The Earth is flattened by a 300th, and distances on a ball are within half a per cent of the true ones.
RADIUS: Final = 6_371_008.8

LATITUDES: Final = ("lat", "latitude")
LONGITUDES: Final = ("lon", "lng", "long", "longitude")

Place: TypeAlias = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Near:
    """All that is within so many metres of a place."""

    place: Place
    metres: float


def place(value: object) -> Place | None:
    """Latitude and longitude of a frozen value (see ``frozen.freeze``); None for one that is no place.

    >>> place((48.1, 11.5)), place(frozenset({("lat", 48.1), ("lon", 11.5)})), place((100, 0)), place("48.1, 11.5")
    ((48.1, 11.5), (48.1, 11.5), None, None)
    """
    if type(value) is tuple and len(value) == 2:
        return checked(*value)
    if type(value) is not frozenset:
        return None
    fields: dict[Any, Any] = dict(item for item in value if type(item) is tuple and len(item) == 2)
    if len(fields) != len(value):
        return None
    if fields.get("type") == "Point":  # GeoJSON, which names the longitude first
        point = fields.get("coordinates")
        return checked(point[1], point[0]) if type(point) is tuple and len(point) in (2, 3) else None
    latitude = next((fields[name] for name in LATITUDES if name in fields), None)
    longitude = next((fields[name] for name in LONGITUDES if name in fields), None)
    return checked(latitude, longitude)


def checked(latitude: object, longitude: object) -> Place | None:
    """Two numbers that can be a latitude and a longitude, in degrees; None if they cannot."""
    if isinstance(latitude, bool) or isinstance(longitude, bool):
        return None
    if not isinstance(latitude, (int, float)) or not isinstance(longitude, (int, float)):
        return None
    fits = -90 <= latitude <= 90 and -180 <= longitude <= 360
    return (float(latitude), float(longitude)) if fits else None


def places(values: Iterable[object], count: int) -> NDArray[np.float64]:
    """``place`` of each, one a row; NaN for all that is none."""
    found = np.full((count, 2), np.nan)
    for row, value in enumerate(values):
        if (known := place(value)) is not None:
            found[row] = known
    return found


def within(near: Near, found: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of these rows of latitude and longitude are near enough; NaN never is.

    >>> within(Near((0, 0), 1000), np.array([[0, 0], [0, 0.1], [np.nan, np.nan]])).tolist()
    [True, False, False]
    """
    # A degree of latitude is as long everywhere, so most rows need no more than a look at theirs.
    reach = math.degrees(near.metres / RADIUS) * (1 + 1e-9) + 1e-9
    maybe = np.flatnonzero(np.abs(found[:, 0] - near.place[0]) <= reach)
    mask = np.zeros(len(found), dtype=np.bool_)
    mask[maybe] = metres(near.place, found[maybe, 0], found[maybe, 1]) <= near.metres
    return mask


def metres(
    one: Place, latitudes: NDArray[np.float64], longitudes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The way over a ball, by the haversine formula, which keeps its digits for near places."""
    north, east = np.radians(latitudes), np.radians(longitudes)
    here = math.radians(one[0])
    rise = np.sin((north - here) / 2) ** 2
    turn = np.sin((east - math.radians(one[1])) / 2) ** 2
    share = np.clip(rise + math.cos(here) * np.cos(north) * turn, 0.0, 1.0)
    return np.asarray(2 * RADIUS * np.arcsin(np.sqrt(share)), dtype=np.float64)
