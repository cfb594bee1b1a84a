"""What a checked where-expression is made of: tests of one field, and what joins them. Each tells which slots match."""

from __future__ import annotations

import operator
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

import numpy as np

from vecstore.query import places
from vecstore.query.columns import ORDER, Column, holds_instant
from vecstore.query.frozen import freeze, plain
from vecstore.query.instants import Instant, instant
from vecstore.query.matching import FEW, Mask, Matching, Slots
from vecstore.query.operands import bracket, refuse
from vecstore.query.patterns import PatternError
from vecstore.query.ranks import Rows, Span
from vecstore.storage.values import MISSING, extract

Columns: TypeAlias = Mapping[str, Column]

# Up to one in so many slots are sorted to find those that several lists have; more are marked in a mask.
_FEW_TO_SORT: Final = 8 * FEW


class Node(Protocol):
    """An expression, or a part of one."""

    def matches(self, metadata: Mapping[str, object] | None) -> bool:
        """Whether one record's metadata does."""

    def choose(self, columns: Columns, size: int) -> Matching:
        """Which of all slots do. The flags, if there are any, are the caller's own."""

    def at(self, columns: Columns, slots: Slots) -> Mask:
        """Which of some slots do."""


@dataclass(frozen=True, slots=True)
class Test:
    """One question about one field: $eq, an order, $in, $exists, $contains, $prefix, $regex or $near.

    The value is what was asked for, or an Instant, a Pattern, a Near or a OneOf.
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
            same = bracket(found) is not None and bracket(found) == bracket(self.value)
            return same and bool(ORDER[self.operator](found, self.value))
        if self.operator == "$eq":
            return freeze(found) == self.key
        if self.operator == "$in":
            return freeze(found) in self.value.frozen
        if isinstance(found, (list, tuple)):
            return any(freeze(item) == self.key for item in found)
        return isinstance(found, str) and isinstance(self.value, str) and self.value in found

    def choose(self, columns: Columns, size: int) -> Matching:
        rows = self.rows(columns)
        return Matching.of(self._look(columns, None)) if rows is None else rows.matching(size)

    def at(self, columns: Columns, slots: Slots) -> Mask:
        return self._look(columns, slots)

    def rows(self, columns: Columns) -> Rows | None:
        """Where what matches stands in the order of the field's values, if that is known."""
        if self.operator == "$exists":
            return None
        return columns[self.name].rows(self.operator, self._asked())

    def _look(self, columns: Columns, among: Slots | None) -> Mask:
        column = columns[self.name]
        if self.operator == "$exists":
            there = column.exists(among)
            return there if self.value else ~there
        if self.operator in ORDER:
            return column.compare(self.operator, self.value, among)
        if self.operator == "$in":
            return column.one_of(self.value, among)
        if self.operator in ("$prefix", "$regex"):
            return column.texts(self._asked(), among)
        if self.operator == "$near":
            return column.near(self.value, among)
        if self.operator == "$eq":
            return column.equals(self.value, among)
        return column.contains(self.value, among)

    def _asked(self) -> Any:
        """What a column is asked for."""
        if self.operator == "$prefix":
            return lambda texts: (text.startswith(self.value) for text in texts)
        return (lambda texts: _searched(self, texts)) if self.operator == "$regex" else self.value


def _searched(test: Test, texts: Iterable[str]) -> Iterator[bool]:
    try:
        yield from test.value.search(texts)
    except PatternError as error:
        refuse((test.name, "$regex"), f"a pattern that needs {error}", "Say the same with fewer repeats")


@dataclass(frozen=True, slots=True)
class And:
    parts: tuple[Node, ...]

    def matches(self, metadata: Mapping[str, object] | None) -> bool:
        return all(part.matches(metadata) for part in self.parts)

    def choose(self, columns: Columns, size: int) -> Matching:
        parts = _in_order(_flat(self.parts), columns)
        if not parts:
            return Matching.of(np.ones(size, dtype=np.bool_))
        found = parts[0].choose(columns, size)
        for part in parts[1:]:
            if found.slots is not None:
                found = Matching(size, found.slots[part.at(columns, found.slots)])
                continue
            mask, other = found.mask(), part.choose(columns, size)
            if other.slots is not None:
                found = Matching(size, other.slots[mask[other.slots]])
            else:
                np.logical_and(mask, other.mask(), out=mask)
        return found

    def at(self, columns: Columns, slots: Slots) -> Mask:
        mask = np.ones(len(slots), dtype=np.bool_)
        for part in self.parts:
            mask &= part.at(columns, slots)
        return mask


@dataclass(frozen=True, slots=True)
class _Known:
    """A test or several of one field, and where in an order all that match them all stand."""

    rows: Rows
    tests: tuple[Test, ...]

    def matches(self, metadata: Mapping[str, object] | None) -> bool:
        return all(test.matches(metadata) for test in self.tests)

    def choose(self, columns: Columns, size: int) -> Matching:
        return self.rows.matching(size)

    def at(self, columns: Columns, slots: Slots) -> Mask:
        return And(self.tests).at(columns, slots)

    def met(self, rows: Rows, test: Test) -> _Known | None:
        """Together with another, if the two make one row."""
        if isinstance(rows, Span) and isinstance(self.rows, Span) and rows.ranks is self.rows.ranks:
            return _Known(self.rows.met(rows), (*self.tests, test))
        return None


def _flat(parts: Iterable[Node]) -> Iterator[Node]:
    for part in parts:
        if isinstance(part, And):
            yield from _flat(part.parts)
        else:
            yield part


def _in_order(parts: Iterable[Node], columns: Columns) -> list[Node]:
    """What is known to choose few before what chooses more, and what takes a pass behind all."""
    known: list[_Known] = []
    joined: list[Node] = []
    passes: list[Node] = []
    for part in parts:
        if not isinstance(part, Test):
            joined.append(part)
            continue
        rows = part.rows(columns)
        if rows is None:
            passes.append(part)
            continue
        for place, other in enumerate(known):
            if (both := other.met(rows, part)) is not None:
                known[place] = both
                break
        else:
            known.append(_Known(rows, (part,)))
    known.sort(key=lambda one: one.rows.count)
    return [*known, *joined, *passes]


@dataclass(frozen=True, slots=True)
class Or:
    parts: tuple[Node, ...]

    def matches(self, metadata: Mapping[str, object] | None) -> bool:
        return any(part.matches(metadata) for part in self.parts)

    def choose(self, columns: Columns, size: int) -> Matching:
        every = [part.choose(columns, size) for part in self.parts]
        lists = [found.slots for found in every if found.slots is not None]
        masks = [found.mask() for found in every if found.slots is None]
        if not masks and sum(map(len, lists)) * _FEW_TO_SORT <= size:
            return Matching(size, _each_once(np.concatenate(lists)))
        mask = masks.pop() if masks else np.zeros(size, dtype=np.bool_)
        for other in masks:
            mask |= other
        for slots in lists:
            mask[slots] = True
        return Matching.of(mask)

    def at(self, columns: Columns, slots: Slots) -> Mask:
        mask = np.zeros(len(slots), dtype=np.bool_)
        for part in self.parts:
            mask |= part.at(columns, slots)
        return mask


def _each_once(slots: Slots) -> Slots:
    slots.sort()
    new = np.ones(len(slots), dtype=np.bool_)
    np.not_equal(slots[1:], slots[:-1], out=new[1:])
    return slots[new]


@dataclass(frozen=True, slots=True)
class Not:
    part: Node

    def matches(self, metadata: Mapping[str, object] | None) -> bool:
        return not self.part.matches(metadata)

    def choose(self, columns: Columns, size: int) -> Matching:
        mask = self.part.choose(columns, size).mask()
        return Matching.of(np.logical_not(mask, out=mask))

    def at(self, columns: Columns, slots: Slots) -> Mask:
        mask = self.part.at(columns, slots)
        return np.logical_not(mask, out=mask)
