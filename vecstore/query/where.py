"""The filter language: MongoDB's spelling, checked once, then asked of columns or of one record.

========================================  ========================================================
``{"year": 2020}``                        ``$eq``; deep for lists and dicts, 2020 and 2020.0 alike
``$ne``, ``$nin``, ``$not``               the opposite, so a missing field matches
``$lt $lte $gt $gte``                     numbers with numbers, strings with strings, bools with bools
``$in``                                   any of a list
``{"$exists": true}``                     the field is there, null included
``$contains``                             a list holds the value, a string has the substring
``$prefix``                               a string begins with it
``$regex``                                a string has a match, as by ``re.search``; ``$options`` "ims"
``$near``                                 a place within metres: ``{"lat": …, "lon": …, "metres": …}``
``{"a": …, "b": …}``, ``$and $or $not``   all of them; lists of expressions; one expression
``"exif.iso"``                            that very key if there is one, else the nested dicts' value
========================================  ========================================================

Values of two types are never equal and never ordered: True is not 1, and null equals null alone. `$eq`
does not look into lists; `$contains` does.

A ``datetime`` or ``date`` stands for a moment, as does a text with date, time and zone in an order (``"$gte":
"2024-05-01T10:00:00Z"``): stored texts that are ISO dates are compared as the moments they name, and others match
nothing. What has no zone is UTC, and a day is its first moment. Any other text is compared as text.

A place is stored as ``{"lat": …, "lon": …}`` (or latitude, longitude, lng, long), as ``[lat, lon]``, or as a GeoJSON point.
``$regex`` takes what an automaton can follow, so no backreferences and no lookaround; its time grows with the texts alone.

>>> from vecstore.query import where
>>> recent = where.parse({"year": {"$gte": 2020}, "tags": {"$contains": "beach"}})
>>> recent.matches({"year": 2024, "tags": ["beach", "sun"]}), recent.matches({"year": 2024})
(True, False)
>>> sorted(recent.fields)
['tags', 'year']
"""

from __future__ import annotations

import contextlib
import datetime
import difflib
import math
import operator
import re
import reprlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import numpy as np

from vecstore.errors import InvalidFilterError
from vecstore.query import places
from vecstore.query.columns import (
    INT_MAX,
    INT_MIN,
    MISSING,
    ORDER,
    Column,
    Mask,
    extract,
    freeze,
    holds_instant,
    plain,
)
from vecstore.query.instants import Instant, from_numpy, instant, names_instant
from vecstore.query.patterns import Pattern, PatternError
from vecstore.query.places import Near

MAX_DEPTH: Final = 64  # far beyond what people write, far below Python's recursion limit

_TOP: Final = ("$and", "$or", "$not")
_FIELD: Final = (
    *("$eq", "$ne", *ORDER, "$in", "$nin", "$exists", "$contains"),
    *("$prefix", "$regex", "$options", "$near", "$not"),
)
_METRES: Final = ("metres", "meters")
_SHORT: Final = reprlib.Repr()  # bounded in depth as well, which repr() is not
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_Path = tuple[str | int, ...]
_Columns = Mapping[str, Column]


@dataclass(frozen=True, slots=True)
class _Test:
    """One question about one field: $eq, an order, $in, $exists, $contains, $prefix, $regex or $near.

    The value is what was asked for, or an Instant, a Pattern or a Near.
    """

    name: str
    operator: str
    value: Any = field(compare=False)  # two tests are equal by `key`, where True is not 1
    key: Hashable = field(repr=False)

    def matches(self, metadata: Mapping[str, object] | None) -> bool:
        found: Any = extract(metadata, self.name)
        if self.operator == "$exists":
            return (found is not MISSING) is self.value
        if found is MISSING:
            return False
        found = plain(found)
        if self.operator == "$prefix":
            return isinstance(found, str) and found.startswith(self.value)
        if self.operator == "$regex":
            return isinstance(found, str) and next(_searched(self, [found]))
        if self.operator == "$near":
            place = places.place(freeze(found))
            return place is not None and bool(places.within(self.value, np.array([place]))[0])
        if isinstance(self.value, Instant):
            if self.operator == "$contains":
                return isinstance(found, (list, tuple)) and holds_instant(map(plain, found), self.value)
            named = instant(found) if isinstance(found, str) else None
            test = ORDER.get(self.operator, operator.eq)
            return named is not None and bool(test(named, self.value.microseconds))
        if self.operator in ORDER:
            same = _bracket(found) is not None and _bracket(found) == _bracket(self.value)
            return same and bool(ORDER[self.operator](found, self.value))
        if self.operator == "$eq":
            return freeze(found) == self.key
        if self.operator == "$in":
            assert isinstance(self.key, frozenset)
            return freeze(found) in self.key
        if isinstance(found, (list, tuple)):
            return any(freeze(item) == self.key for item in found)
        return isinstance(found, str) and isinstance(self.value, str) and self.value in found

    def mask(self, columns: _Columns, size: int) -> Mask:
        column = columns[self.name]
        if self.operator == "$exists":
            there = column.exists()
            return there if self.value else ~there
        if self.operator in ORDER:
            return column.compare(self.operator, self.value)
        if self.operator == "$in":
            return column.one_of(self.value)
        if self.operator == "$prefix":
            return column.texts(lambda texts: (text.startswith(self.value) for text in texts))
        if self.operator == "$regex":
            return column.texts(lambda texts: _searched(self, texts))
        if self.operator == "$near":
            return column.near(self.value)
        return column.equals(self.value) if self.operator == "$eq" else column.contains(self.value)


def _searched(test: _Test, texts: Iterable[str]) -> Iterator[bool]:
    try:
        yield from test.value.search(texts)
    except PatternError as error:
        _refuse((test.name, "$regex"), f"a pattern that needs {error}", "Say the same with fewer repeats")


@dataclass(frozen=True, slots=True)
class _And:
    parts: tuple[_Node, ...]

    def matches(self, metadata: Mapping[str, object] | None) -> bool:
        return all(part.matches(metadata) for part in self.parts)

    def mask(self, columns: _Columns, size: int) -> Mask:
        if not self.parts:
            return np.ones(size, dtype=np.bool_)
        mask = self.parts[0].mask(columns, size)
        for part in self.parts[1:]:
            mask &= part.mask(columns, size)
        return mask


@dataclass(frozen=True, slots=True)
class _Or:
    parts: tuple[_Node, ...]

    def matches(self, metadata: Mapping[str, object] | None) -> bool:
        return any(part.matches(metadata) for part in self.parts)

    def mask(self, columns: _Columns, size: int) -> Mask:
        mask = self.parts[0].mask(columns, size)
        for part in self.parts[1:]:
            mask |= part.mask(columns, size)
        return mask


@dataclass(frozen=True, slots=True)
class _Not:
    part: _Node

    def matches(self, metadata: Mapping[str, object] | None) -> bool:
        return not self.part.matches(metadata)

    def mask(self, columns: _Columns, size: int) -> Mask:
        mask = self.part.mask(columns, size)
        return np.logical_not(mask, out=mask)


_Node = _Test | _And | _Or | _Not


@dataclass(frozen=True, slots=True)
class Where:
    """A checked expression. It keeps nothing of what the caller may change, and hashes by meaning.

    `fields` are the names it asks about; `everything` says that it is the empty expression.

    >>> parse({}).everything, parse({"a": 1}) == parse({"a": 1.0}), parse({"a": 1}) == parse({"a": True})
    (True, True, False)
    """

    fields: frozenset[str]
    _root: _Node

    @property
    def everything(self) -> bool:
        return self._root == _And(())

    def matches(self, metadata: Mapping[str, object] | None) -> bool:
        """Whether one record's metadata matches; None is metadata without a field.

        >>> parse({"year": {"$ne": 2020}}).matches({}), parse({"a.b": None}).matches({"a": {"b": None}})
        (True, True)
        """
        return self._root.matches(metadata)

    def mask(self, columns: Callable[[str], Column] | Mapping[str, Column], size: int | None = None) -> Mask:
        """Which slots match, as a fresh mask; `columns` gives the column of each of `fields`, asked once.

        `size` is how many slots there are; only an expression without a field (`{}`) has to be told. A
        slot without a record counts as metadata without a field, so `$ne` and its like match it.

        >>> year = Column(3)
        >>> year.put([0, 1], [2020, 1999])
        >>> parse({"year": {"$gte": 2000}}).mask({"year": year}).tolist()
        [True, False, False]
        """
        column = columns.__getitem__ if isinstance(columns, Mapping) else columns
        ready = {name: column(name) for name in sorted(self.fields)}
        sizes = {found.size for found in ready.values()} | ({size} if size is not None else set())
        if len(sizes) != 1:
            raise ValueError(
                f"expected columns of one size, got {sorted(sizes)}"
                if sizes
                else "an expression without fields needs size=, the number of slots"
            )
        return self._root.mask(ready, sizes.pop())


def parse(expression: object) -> Where:
    """Checks a where-expression; raises InvalidFilterError, which says where in it and what to do.

    >>> parse({"year": {"$gt": 2000, "$lte": 2010}}).matches({"year": 2005})
    True
    >>> parse({"year": {"$gte ": 2000}})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    vecstore.errors.InvalidFilterError: unknown operator '$gte ' at where['year']. Did you mean '$gte'? ...
    """
    names: set[str] = set()
    root = _expression(expression, (), 1, names)
    return Where(frozenset(names), root)


def _expression(expression: object, path: _Path, depth: int, names: set[str]) -> _Node:
    if not isinstance(expression, Mapping):
        hint = "For every record leave `where` out" if expression is None else "Write it as a dict"
        _fail(path, "an expression, a dict such as {'year': {'$gte': 2020}}", expression, hint)
    _check_depth(path, depth)
    parts: list[_Node] = []
    for key, operand in expression.items():
        at = (*path, key)
        if not isinstance(key, str):
            _fail(path, "field names that are strings", key, "Metadata is JSON-like, and so are its keys")
        if not key.startswith("$"):
            name = str.__str__(key)
            names.add(name)
            parts.append(_field(name, operand, at, depth + 1))
        elif key == "$not":
            parts.append(_Not(_expression(operand, at, depth + 1, names)))
        elif key in _TOP:
            if not isinstance(operand, (list, tuple)) or not operand:
                _fail(at, "a list of one expression or more", operand, f"Write {{{key!r}: [{{…}}, {{…}}]}}")
            inner = [_expression(one, (*at, i), depth + 1, names) for i, one in enumerate(operand)]
            parts.append(_And(tuple(inner)) if key == "$and" else _Or(tuple(inner)))
        elif key in _FIELD:
            _refuse(path, f"operator {key!r} without a field", f"Write {{'some_field': {{{key!r}: …}}}}")
        else:
            _unknown(key, path, _TOP, "Around fields there are")
    return parts[0] if len(parts) == 1 else _And(tuple(parts))


def _field(name: str, operand: object, path: _Path, depth: int) -> _Node:
    """What stands beside a field: a value, or a dict of operators."""
    keys = list(operand) if isinstance(operand, Mapping) else []
    operators = [key for key in keys if isinstance(key, str) and key.startswith("$")]
    if not isinstance(operand, Mapping) or not operators:
        value = _moment(operand) or _value(operand, path, depth)
        _check_no_operators(value, name, path)
        return _Test(name, "$eq", value, freeze(value))
    _check_depth(path, depth)
    if len(operators) < len(keys):
        other = next(key for key in keys if key not in operators)
        _refuse(
            path,
            f"operators and plain keys are mixed: {operators[0]!r} beside {other!r}",
            "Use operators alone, or {'$eq': {…}} to compare with a dict",
        )
    options = operand.get("$options", "")
    if "$options" in operand and "$regex" not in operand:
        _refuse(path, "'$options' without '$regex'", "Write {'$regex': '…', '$options': 'i'}")
    parts = tuple(
        _regex(name, operand[key], options, (*path, key))
        if key == "$regex"
        else _operator(name, key, operand[key], (*path, key), depth)
        for key in operators
        if key != "$options"
    )
    return parts[0] if len(parts) == 1 else _And(parts)


def _operator(name: str, key: str, operand: object, path: _Path, depth: int) -> _Node:
    if key in ("$eq", "$ne", "$contains"):
        value = _moment(operand) or _value(operand, path, depth + 1)
        test = _Test(name, "$contains" if key == "$contains" else "$eq", value, freeze(value))
        return _Not(test) if key == "$ne" else test
    if key in ("$in", "$nin"):
        if not isinstance(operand, (list, tuple)):
            hint = f"Write [{_SHORT.repr(operand)}]" if isinstance(operand, str) else "Make a list of it"
            _fail(path, "a list of values", operand, hint)
        moments = dict.fromkeys(filter(None, map(_moment, operand)))
        values = _value([one for one in operand if _moment(one) is None], path, depth + 1)
        assert isinstance(values, list)
        some: _Node = _Test(name, "$in", values, frozenset(map(freeze, values)))
        if moments:
            some = _Or((some, *(_Test(name, "$eq", moment, moment) for moment in moments)))
        return _Not(some) if key == "$nin" else some
    if key in ORDER:
        value = _moment(operand) or _value(operand, path, depth + 1)
        if isinstance(value, str) and names_instant(value):
            value = Instant(instant(value) or 0)
        if not isinstance(value, Instant) and _bracket(value) is None:
            hint = "Only those have an order; '$eq' compares any value"
            _fail(path, "a number, string, bool or date", operand, hint)
        return _Test(name, key, value, freeze(value))
    if key == "$prefix":
        if not isinstance(operand, str):
            _fail(path, "a string", operand, "It is what the field's text begins with")
        return _Test(name, key, str.__str__(operand), str.__str__(operand))
    if key == "$near":
        near = _near(operand, path)
        return _Test(name, key, near, near)
    if key == "$exists":
        value = _value(operand, path, depth + 1)
        if not isinstance(value, bool):
            _fail(path, "True or False", operand, "Write {'$exists': True} where the field must be there")
        return _Test(name, key, value, value)
    if key == "$not":
        if not isinstance(operand, Mapping) or not operand or not all(str(k)[:1] == "$" for k in operand):
            _fail(path, "operators such as {'$gt': 2000}", operand, "For 'not equal to' use '$ne'")
        return _Not(_field(name, operand, path, depth + 1))
    if key in _TOP:
        _refuse(
            path[:-1],
            f"{key!r} under a field, but it takes whole expressions",
            f"Write {{{key!r}: [{{{name!r}: …}}, …]}}",
        )
    return _unknown(key, path[:-1], _FIELD, "A field takes")


def _regex(name: str, operand: object, options: object, path: _Path) -> _Node:
    flags = 0
    if isinstance(operand, re.Pattern):
        flags, operand = operand.flags & ~re.UNICODE, operand.pattern
    if not isinstance(operand, str):
        _fail(path, "a pattern as a string", operand, "Write it as re.search takes it")
    if not isinstance(options, str) or not set(options) <= set("ims"):
        _fail(
            (*path[:-1], "$options"), "some of the letters 'i', 'm', 's'", options, "As in re.I, re.M, re.S"
        )
    if flags & ~int(re.IGNORECASE | re.MULTILINE | re.DOTALL):
        _refuse(path, "a pattern with other flags than re.I, re.M, re.S", "Leave them out")
    for letter in options:
        flags |= {"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL}[letter]
    try:
        pattern = Pattern(str.__str__(operand), int(flags))
    except PatternError as error:
        hint = "It may have groups, sets, '|', repeats and '^ $ \\b'; no backreferences, no lookaround"
        _refuse(path, f"the pattern {_SHORT.repr(operand)} cannot be used: {error}", hint)
    return _Test(name, "$regex", pattern, pattern)


def _near(operand: object, path: _Path) -> Near:
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
        _fail(path, "a latitude, a longitude and metres", operand, hint)
    latitude, longitude, metres = map(plain, found)
    place = places.checked(latitude, longitude)
    if place is None:
        _fail(path, "a latitude from -90 to 90 and a longitude from -180 to 180", operand, hint)
    if isinstance(metres, bool) or not isinstance(metres, (int, float)) or not 0 <= metres < math.inf:
        _fail(path, "metres of 0 or more", metres, hint)
    return Near(place, float(metres))


def _moment(operand: object) -> Instant | None:
    """What a date or a datetime, of Python or of NumPy, stands for; None for anything else."""
    if isinstance(operand, np.datetime64):
        with contextlib.suppress(ValueError):
            operand = from_numpy(operand)
    # NaT of pandas says that it is a datetime, and equals nothing.
    return Instant.of(operand) if isinstance(operand, datetime.date) and operand == operand else None


def _value(value: object, path: _Path, depth: int) -> object:
    """A JSON-like operand as builtins of our own, so that later changes to the caller's don't reach it."""
    value = plain(value)
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        if not INT_MIN <= value <= INT_MAX:
            problem = f"expected an integer of 64 bits, got one of {value.bit_length()}"
            _refuse(path, problem, "A larger one can't be stored; use a float")
        return value
    if isinstance(value, float):
        if math.isnan(value):
            hint = "NaN equals nothing; for records without the field use {'$exists': False}"
            _fail(path, "a number", value, hint)
        return value
    if isinstance(value, (list, tuple)):
        _check_depth(path, depth)
        return [_value(item, (*path, i), depth + 1) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        _check_depth(path, depth)
        for key in value:
            if not isinstance(key, str):
                _fail(path, "keys that are strings", key, "Metadata is JSON-like, and so are its keys")
        return {str.__str__(key): _value(item, (*path, key), depth + 1) for key, item in value.items()}
    hint = "Convert it to what is stored, as a date inside of a list to its ISO string"
    if isinstance(value, (np.ndarray, set, frozenset)):
        hint = "Convert it with " + (".tolist()" if isinstance(value, np.ndarray) else "list(…)")
    return _fail(path, "None, a bool, int, float, str, list or dict", value, hint)


def _check_no_operators(value: object, dotted: str, path: _Path) -> None:
    """An operator inside a plain dict would be compared as a key, and silently match nothing."""
    if not isinstance(value, dict):
        return
    for key, item in value.items():
        if key in _FIELD:
            _refuse(
                path,
                f"operator {key!r} stands inside a plain dict, which asks for equality with that dict",
                f"For a nested field write {{{dotted!r}: {{{key!r}: …}}}}; to mean that dict use '$eq'",
            )
        _check_no_operators(item, f"{dotted}.{key}", (*path, key))


def _bracket(value: object) -> str | None:
    """What a value may be ordered with; None for what has no order."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "number"
    return "string" if isinstance(value, str) else None


def _check_depth(path: _Path, depth: int) -> None:
    if depth > MAX_DEPTH:
        _refuse(path[:4], f"nested deeper than {MAX_DEPTH} levels", "Flatten it: an '$and' may be one list")


def _unknown(key: str, path: _Path, known: tuple[str, ...], lead: str) -> NoReturn:
    near = difflib.get_close_matches(key.strip().lower(), (*_FIELD, *_TOP), n=1, cutoff=0.5)
    guess = f"Did you mean {near[0]!r}? " if near else ""
    _refuse(path, f"unknown operator {key!r}", f"{guess}{lead} {', '.join(known)}")


def _fail(path: _Path, expected: str, got: object, hint: str) -> NoReturn:
    _refuse(path, f"expected {expected}, got {type(got).__name__} {_SHORT.repr(got)}", hint)


def _refuse(path: _Path, problem: str, hint: str) -> NoReturn:
    place = "where" + "".join(f"[{_SHORT.repr(step)}]" for step in path)
    raise InvalidFilterError(f"{problem} at {place}. {hint}")
