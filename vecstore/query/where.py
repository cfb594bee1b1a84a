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

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

import msgpack

from vecstore.query.columns import ORDER, Column
from vecstore.query.frozen import freeze
from vecstore.query.instants import Instant, instant, names_instant
from vecstore.query.matching import Mask, Matching
from vecstore.query.nodes import And, Node, Not, Or, Test
from vecstore.query.one_of import OneOf
from vecstore.query.operands import (
    SHORT,
    Path,
    bracket,
    check_depth,
    fail,
    read_moment,
    read_near,
    read_pattern,
    read_value,
    refuse,
)

_TOP: Final = ("$and", "$or", "$not")
_FIELD: Final = (
    *("$eq", "$ne", *ORDER, "$in", "$nin", "$exists", "$contains"),
    *("$prefix", "$regex", "$options", "$near", "$not"),
)


@dataclass(frozen=True, slots=True)
class Where:
    """A checked expression. It keeps nothing of what the caller may change, and hashes by meaning.

    `fields` are the names it asks about; `everything` says that it is the empty expression.

    >>> parse({}).everything, parse({"a": 1}) == parse({"a": 1.0}), parse({"a": 1}) == parse({"a": True})
    (True, True, False)
    """

    fields: frozenset[str]
    _root: Node

    @property
    def everything(self) -> bool:
        return self._root == And(())

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
        return self.choose(columns, size).mask()

    def choose(
        self, columns: Callable[[str], Column] | Mapping[str, Column], size: int | None = None
    ) -> Matching:
        """As ``mask``, in the form that costs least."""
        column = columns.__getitem__ if isinstance(columns, Mapping) else columns
        ready = {name: column(name) for name in sorted(self.fields)}
        sizes = {found.size for found in ready.values()} | ({size} if size is not None else set())
        if len(sizes) != 1:
            raise ValueError(
                f"expected columns of one size, got {sorted(sizes)}"
                if sizes
                else "an expression without fields needs size=, the number of slots"
            )
        return self._root.choose(ready, sizes.pop())


def parse(expression: object) -> Where:
    """Checks a where-expression; raises InvalidFilterError, which says where in it and what to do.

    >>> parse({"year": {"$gt": 2000, "$lte": 2010}}).matches({"year": 2005})
    True
    >>> parse({"year": {"$gte ": 2000}})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    vecstore.errors.InvalidFilterError: unknown operator '$gte ' at where['year']. Did you mean '$gte'? ...
    """
    written = _written(expression)
    known = None if written is None else _PARSED.get(written)
    if known is not None:
        return known
    names: set[str] = set()
    root = _expression(expression, (), 1, names)
    parsed = Where(frozenset(names), root)
    if written is not None:
        if len(_PARSED) >= _MOST_PARSED:
            _PARSED.clear()
        _PARSED[written] = parsed
    return parsed


# Most programs ask by few filters, again and again.
_PARSED: dict[bytes, Where] = {}
_MOST_PARSED, _LONGEST = 256, 4096


def _written(expression: object) -> bytes | None:
    """An expression in bytes, the same for those that mean the same alone; None for long ones, and some others."""
    try:
        written: bytes = msgpack.packb(expression)
    except (TypeError, ValueError, OverflowError):
        return None
    return written if len(written) <= _LONGEST else None


def _expression(expression: object, path: Path, depth: int, names: set[str]) -> Node:
    if not isinstance(expression, Mapping):
        hint = "For every record leave `where` out" if expression is None else "Write it as a dict"
        fail(path, "an expression, a dict such as {'year': {'$gte': 2020}}", expression, hint)
    check_depth(path, depth)
    parts: list[Node] = []
    for key, operand in expression.items():
        at = (*path, key)
        if not isinstance(key, str):
            fail(path, "field names that are strings", key, "Metadata is JSON-like, and so are its keys")
        if not key.startswith("$"):
            name = str.__str__(key)
            names.add(name)
            parts.append(_field(name, operand, at, depth + 1))
        elif key == "$not":
            parts.append(Not(_expression(operand, at, depth + 1, names)))
        elif key in _TOP:
            if not isinstance(operand, (list, tuple)) or not operand:
                fail(at, "a list of one expression or more", operand, f"Write {{{key!r}: [{{…}}, {{…}}]}}")
            inner = [_expression(one, (*at, i), depth + 1, names) for i, one in enumerate(operand)]
            parts.append(And(tuple(inner)) if key == "$and" else Or(tuple(inner)))
        elif key in _FIELD:
            refuse(path, f"operator {key!r} without a field", f"Write {{'some_field': {{{key!r}: …}}}}")
        else:
            _unknown(key, path, _TOP, "Around fields there are")
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def _field(name: str, operand: object, path: Path, depth: int) -> Node:
    """What stands beside a field: a value, or a dict of operators."""
    keys = list(operand) if isinstance(operand, Mapping) else []
    operators = [key for key in keys if isinstance(key, str) and key.startswith("$")]
    if not isinstance(operand, Mapping) or not operators:
        value = read_moment(operand) or read_value(operand, path, depth)
        _check_no_operators(value, name, path)
        return Test(name, "$eq", value, freeze(value))
    check_depth(path, depth)
    if len(operators) < len(keys):
        other = next(key for key in keys if key not in operators)
        refuse(
            path,
            f"operators and plain keys are mixed: {operators[0]!r} beside {other!r}",
            "Use operators alone, or {'$eq': {…}} to compare with a dict",
        )
    options = operand.get("$options", "")
    if "$options" in operand and "$regex" not in operand:
        refuse(path, "'$options' without '$regex'", "Write {'$regex': '…', '$options': 'i'}")
    parts = tuple(
        Test(name, key, pattern := read_pattern(operand[key], options, (*path, key)), pattern)
        if key == "$regex"
        else _operator(name, key, operand[key], (*path, key), depth)
        for key in operators
        if key != "$options"
    )
    return parts[0] if len(parts) == 1 else And(parts)


def _operator(name: str, key: str, operand: object, path: Path, depth: int) -> Node:
    if key in ("$eq", "$ne", "$contains"):
        value = read_moment(operand) or read_value(operand, path, depth + 1)
        test = Test(name, "$contains" if key == "$contains" else "$eq", value, freeze(value))
        return Not(test) if key == "$ne" else test
    if key in ("$in", "$nin"):
        if not isinstance(operand, (list, tuple)):
            hint = f"Write [{SHORT.repr(operand)}]" if isinstance(operand, str) else "Make a list of it"
            fail(path, "a list of values", operand, hint)
        some = OneOf.of_plain(operand)
        moments: dict[Instant | None, None] = {}
        if some is None:
            moments = dict.fromkeys(filter(None, map(read_moment, operand)))
            values = read_value([one for one in operand if read_moment(one) is None], path, depth + 1)
            assert isinstance(values, list)
            some = OneOf.of(values)
        found: Node = Test(name, "$in", some, some.frozen)
        if moments:
            found = Or((found, *(Test(name, "$eq", moment, moment) for moment in moments)))
        return Not(found) if key == "$nin" else found
    if key in ORDER:
        value = read_moment(operand) or read_value(operand, path, depth + 1)
        if isinstance(value, str) and names_instant(value):
            value = Instant(instant(value) or 0)
        if not isinstance(value, Instant) and bracket(value) is None:
            hint = "Only those have an order; '$eq' compares any value"
            fail(path, "a number, string, bool or date", operand, hint)
        return Test(name, key, value, freeze(value))
    if key == "$prefix":
        if not isinstance(operand, str):
            fail(path, "a string", operand, "It is what the field's text begins with")
        return Test(name, key, str.__str__(operand), str.__str__(operand))
    if key == "$near":
        near = read_near(operand, path)
        return Test(name, key, near, near)
    if key == "$exists":
        value = read_value(operand, path, depth + 1)
        if not isinstance(value, bool):
            fail(path, "True or False", operand, "Write {'$exists': True} where the field must be there")
        return Test(name, key, value, value)
    if key == "$not":
        if not isinstance(operand, Mapping) or not operand or not all(str(k)[:1] == "$" for k in operand):
            fail(path, "operators such as {'$gt': 2000}", operand, "For 'not equal to' use '$ne'")
        return Not(_field(name, operand, path, depth + 1))
    if key in _TOP:
        refuse(
            path[:-1],
            f"{key!r} under a field, but it takes whole expressions",
            f"Write {{{key!r}: [{{{name!r}: …}}, …]}}",
        )
    return _unknown(key, path[:-1], _FIELD, "A field takes")


def _check_no_operators(value: object, dotted: str, path: Path) -> None:
    """An operator inside a plain dict would be compared as a key, and silently match nothing."""
    if not isinstance(value, dict):
        return
    for key, item in value.items():
        if key in _FIELD:
            refuse(
                path,
                f"operator {key!r} stands inside a plain dict, which asks for equality with that dict",
                f"For a nested field write {{{dotted!r}: {{{key!r}: …}}}}; to mean that dict use '$eq'",
            )
        _check_no_operators(item, f"{dotted}.{key}", (*path, key))


def _unknown(key: str, path: Path, known: tuple[str, ...], lead: str) -> NoReturn:
    near = difflib.get_close_matches(key.strip().lower(), (*_FIELD, *_TOP), n=1, cutoff=0.5)
    guess = f"Did you mean {near[0]!r}? " if near else ""
    refuse(path, f"unknown operator {key!r}", f"{guess}{lead} {', '.join(known)}")
