"""What stands beside an operator: values, moments, patterns and places, checked and made our own; and how to say what is wrong."""

from __future__ import annotations

import contextlib
import datetime
import math
import re
import reprlib
from collections.abc import Mapping
from typing import Final, NoReturn, TypeAlias

import numpy as np

from vecstore.errors import InvalidFilterError
from vecstore.query import places
from vecstore.query.columns import INT_MAX, INT_MIN
from vecstore.query.frozen import plain
from vecstore.query.instants import Instant, from_numpy
from vecstore.query.patterns import Pattern, PatternError
from vecstore.query.places import Near

MAX_DEPTH: Final = 64  # far beyond what people write, far below Python's recursion limit
SHORT: Final = reprlib.Repr()  # bounded in depth as well, which repr() is not
SHORT.maxstring = SHORT.maxother = SHORT.maxlong = 60

# Where in an expression something stands.
Path: TypeAlias = tuple[str | int, ...]

_METRES: Final = ("metres", "meters")


def read_pattern(operand: object, options: object, path: Path) -> Pattern:
    """What stands beside `$regex` and `$options`."""
    flags = 0
    if isinstance(operand, re.Pattern):
        flags, operand = operand.flags & ~re.UNICODE, operand.pattern
    if not isinstance(operand, str):
        fail(path, "a pattern as a string", operand, "Write it as re.search takes it")
    if not isinstance(options, str) or not set(options) <= set("ims"):
        fail((*path[:-1], "$options"), "some of the letters 'i', 'm', 's'", options, "As in re.I, re.M, re.S")
    if flags & ~int(re.IGNORECASE | re.MULTILINE | re.DOTALL):
        refuse(path, "a pattern with other flags than re.I, re.M, re.S", "Leave them out")
    for letter in options:
        flags |= {"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL}[letter]
    try:
        return Pattern(str.__str__(operand), int(flags))
    except PatternError as error:
        hint = "It may have groups, sets, '|', repeats and '^ $ \\b'; no backreferences, no lookaround"
        refuse(path, f"the pattern {SHORT.repr(operand)} cannot be used: {error}", hint)


def read_near(operand: object, path: Path) -> Near:
    """Latitude, longitude and metres, in a dict by name or in a list in this order."""
    hint = "Write {'lat': 48.14, 'lon': 11.58, 'metres': 500}, or [48.14, 11.58, 500]"
    found: list[object] = []
    if isinstance(operand, Mapping):
        known = (places.LATITUDES, places.LONGITUDES, _METRES)
        found = [operand[name] for names in known for name in names if name in operand]
        if len(operand) != len(found):
            found = []
    elif isinstance(operand, (list, tuple)):
        found = list(operand)
    if len(found) != 3:
        fail(path, "a latitude, a longitude and metres", operand, hint)
    latitude, longitude, metres = map(plain, found)
    place = places.checked(latitude, longitude)
    if place is None:
        fail(path, "a latitude from -90 to 90 and a longitude from -180 to 180", operand, hint)
    if isinstance(metres, bool) or not isinstance(metres, (int, float)) or not 0 <= metres < math.inf:
        fail(path, "metres of 0 or more", metres, hint)
    return Near(place, float(metres))


def read_moment(operand: object) -> Instant | None:
    """What a date or a datetime, of Python or of NumPy, stands for; None for anything else."""
    if isinstance(operand, np.datetime64):
        with contextlib.suppress(ValueError):
            operand = from_numpy(operand)
    # NaT of pandas says that it is a datetime, and equals nothing.
    return Instant.of(operand) if isinstance(operand, datetime.date) and operand == operand else None


def read_value(value: object, path: Path, depth: int) -> object:
    """A JSON-like operand as builtins of our own, so that later changes to the caller's don't reach it."""
    value = plain(value)
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        if not INT_MIN <= value <= INT_MAX:
            problem = f"expected an integer of 64 bits, got one of {value.bit_length()}"
            refuse(path, problem, "A larger one can't be stored; use a float")
        return value
    if isinstance(value, float):
        if math.isnan(value):
            hint = "NaN equals nothing; for records without the field use {'$exists': False}"
            fail(path, "a number", value, hint)
        return value
    if isinstance(value, (list, tuple)):
        check_depth(path, depth)
        return [read_value(item, (*path, i), depth + 1) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        check_depth(path, depth)
        for key in value:
            if not isinstance(key, str):
                fail(path, "keys that are strings", key, "Metadata is JSON-like, and so are its keys")
        return {str.__str__(key): read_value(item, (*path, key), depth + 1) for key, item in value.items()}
    hint = "Convert it to what is stored, as a date inside of a list to its ISO string"
    if isinstance(value, (np.ndarray, set, frozenset)):
        hint = "Convert it with " + (".tolist()" if isinstance(value, np.ndarray) else "list(…)")
    return fail(path, "None, a bool, int, float, str, list or dict", value, hint)


def bracket(value: object) -> str | None:
    """What a value may be ordered with; None for what has no order."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "number"
    return "string" if isinstance(value, str) else None


def check_depth(path: Path, depth: int) -> None:
    if depth > MAX_DEPTH:
        refuse(path[:4], f"nested deeper than {MAX_DEPTH} levels", "Flatten it: an '$and' may be one list")


def fail(path: Path, expected: str, got: object, hint: str) -> NoReturn:
    refuse(path, f"expected {expected}, got {type(got).__name__} {SHORT.repr(got)}", hint)


def refuse(path: Path, problem: str, hint: str) -> NoReturn:
    place = "where" + "".join(f"[{SHORT.repr(step)}]" for step in path)
    raise InvalidFilterError(f"{problem} at {place}. {hint}")
