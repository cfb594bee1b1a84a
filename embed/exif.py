"""What a camera wrote into a picture: when, with what, where. Anything odd is left out."""

from __future__ import annotations

import re
from typing import Any

_MODEL, _TIME = 0x0110, 0x0132
_DETAILS, _PLACE = 0x8769, 0x8825
_TAKEN = 0x9003


def described(exif: Any) -> dict[str, Any]:
    """``time``, ``camera`` and ``gps``, as far as they are there and make sense.

    >>> described(None)
    {}
    """
    if exif is None:
        return {}
    found = {
        "time": _or_none(lambda: _time(exif.get_ifd(_DETAILS).get(_TAKEN) or exif.get(_TIME))),
        "camera": _or_none(lambda: _text(exif.get(_MODEL))),
        "gps": _or_none(lambda: _place(exif.get_ifd(_PLACE))),
    }
    return {name: value for name, value in found.items() if value}


def _or_none(read: Any) -> Any:
    try:
        return read()
    except Exception:  # Whatever a hostile field does, the picture counts.
        return None


def _text(value: Any) -> str | None:
    return value.strip("\0 ")[:200].encode("utf-8", "replace").decode() if isinstance(value, str) else None


def _time(value: Any) -> str | None:
    match = re.match(r"(\d{4}):(\d\d):(\d\d) (\d\d:\d\d:\d\d)", str(value))
    return f"{match[1]}-{match[2]}-{match[3]}T{match[4]}" if match else None


def _place(fields: Any) -> dict[str, float] | None:
    latitude = _degrees(fields[2], str(fields[1]) == "S")
    longitude = _degrees(fields[4], str(fields[3]) == "W")
    sensible = abs(latitude) <= 90 and abs(longitude) <= 180
    return {"latitude": latitude, "longitude": longitude} if sensible else None


def _degrees(parts: Any, negative: bool) -> float:
    degrees: float = sum(float(part) / 60**place for place, part in enumerate(parts))
    return round(-degrees if negative else degrees, 6)
