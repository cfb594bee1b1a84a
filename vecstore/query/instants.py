"""Moments in time: what a date, a datetime or an ISO 8601 text stands for, on one scale.

Metadata is JSON-like, so a date is stored as its ISO text, in the zone it was given in. Asked for with a date or a
datetime, texts are compared as the moments they name, whatever their zones. One without a zone is read as UTC, and a day
as its first moment.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

# Stands for a text that is no date.
NONE: Final = np.iinfo(np.int64).min

_DAY: Final = 86_400_000_000
_EPOCH: Final = datetime.date(1970, 1, 1).toordinal()
_ISO: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)"
    r"(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?(Z|[+-]\d\d(?::?\d\d(?::?\d\d)?)?)?)?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Instant:
    """A moment that a filter names, in microseconds from 1970 in UTC.

    >>> Instant.of(datetime.date(1970, 1, 2)) == Instant(86_400_000_000)
    True
    """

    microseconds: int

    @classmethod
    def of(cls, moment: datetime.date) -> Instant:
        """Of a date or a datetime."""
        days = (moment.toordinal() - _EPOCH) * _DAY
        if not isinstance(moment, datetime.datetime):
            return cls(days)
        of_day = datetime.timedelta(
            hours=moment.hour, minutes=moment.minute, seconds=moment.second, microseconds=moment.microsecond
        )
        of_day -= moment.utcoffset() or datetime.timedelta()
        return cls(days + of_day // datetime.timedelta(microseconds=1))


def instant(text: str) -> int | None:
    """The microseconds from 1970 in UTC that an ISO 8601 text names; None for any other text.

    >>> instant("1970-01-01T01:00:00.5+01:00"), instant("1970-01-01"), instant("yesterday")
    (500000, 0, None)
    """
    found = _ISO.fullmatch(text)
    if found is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = found.groups()
    try:
        days = datetime.date(int(year), int(month), int(day)).toordinal() - _EPOCH
    except ValueError:
        return None
    hours, minutes, seconds = int(hour or 0), int(minute or 0), int(second or 0)
    away = _offset(zone)
    if hours > 23 or minutes > 59 or seconds > 59 or away is None:
        return None
    # What is finer than a microsecond is dropped.
    parts = int((fraction or "0").ljust(6, "0")[:6])
    return days * _DAY + (3600 * hours + 60 * minutes + seconds - away) * 1_000_000 + parts


def from_numpy(value: np.datetime64) -> datetime.date | None:
    """The date or datetime, to the microsecond, that NumPy's is; None for its NaT.

    >>> from_numpy(np.datetime64("2024-05")), from_numpy(np.datetime64("NaT"))
    (datetime.date(2024, 5, 1), None)
    """
    if np.isnat(value):
        return None
    # Beyond these years a change of units overflows without a word.
    if not re.match(r"(?!0000)\d{4}(-|$)", str(value)):
        raise ValueError(f"a date must lie in the years 1 to 9999, not {value}")
    whole_days = np.datetime_data(value.dtype)[0] in ("Y", "M", "W", "D")
    found: datetime.date = value.astype("M8[D]" if whole_days else "M8[us]").item()
    return found


def names_instant(text: str) -> bool:
    """Whether a text is an ISO date with its time and its zone, and so a moment and nothing else.

    >>> names_instant("2024-05-01T10:00:00Z"), names_instant("2024-05-01"), names_instant("2024")
    (True, False, False)
    """
    found = _ISO.fullmatch(text)
    return found is not None and found[8] is not None and instant(text) is not None


def instants(texts: Iterable[object], count: int) -> NDArray[np.int64]:
    """``instant`` of each; ``NONE`` for all that is no date.

    >>> instants(["1970-01-01", 3], 2).tolist() == [0, NONE]
    True
    """
    found = (instant(text) if type(text) is str else None for text in texts)
    return np.fromiter((NONE if one is None else one for one in found), dtype=np.int64, count=count)


def _offset(zone: str | None) -> int | None:
    """Seconds east of UTC; None for a zone that is none."""
    if zone is None or zone == "Z":
        return 0
    digits = zone[1:].replace(":", "")
    hours, minutes, seconds = int(digits[:2]), int(digits[2:4] or 0), int(digits[4:6] or 0)
    if hours > 23 or minutes > 59 or seconds > 59:
        return None
    away = 3600 * hours + 60 * minutes + seconds
    return -away if zone[0] == "-" else away
