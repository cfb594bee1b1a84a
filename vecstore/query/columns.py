"""One metadata field over all slots, laid out so that a filter is a handful of array operations.

A `Column` keeps a tag for each slot and, where the field needs them, a float64 for numbers and a code
for all else: a predicate on strings, lists or dicts runs once per distinct value, then one gather by code.

>>> from vecstore.query.columns import Column
>>> from vecstore.storage.values import MISSING
>>> years = Column(4)
>>> years.put([0, 1, 2], [1999, 2024, MISSING])
>>> years.compare("$gte", 2000).tolist()
[False, True, False, False]
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import islice, repeat
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vecstore.query import instants, places
from vecstore.query.instants import Instant, instant
from vecstore.query.picked import Picked
from vecstore.query.places import Near
from vecstore.storage.values import Missing

Mask = NDArray[np.bool_]
_Values = Sequence[Any]
_Tags = NDArray[np.uint8]
_Kind = TypeVar("_Kind", bound=np.generic)

ORDER: Final = {"$lt": operator.lt, "$lte": operator.le, "$gt": operator.gt, "$gte": operator.ge}
INT_MIN, INT_MAX = -(2**63), 2**64 - 1  # as msgpack stores them: signed or unsigned, 64 bits

_ABSENT, _NULL, _FALSE, _TRUE, _NUMBER, _STRING, _OTHER = range(7)
_TAGS: Final[dict[type, int]] = dict.fromkeys((list, tuple, dict), _OTHER)
_TAGS.update({bool: _FALSE, int: _NUMBER, float: _NUMBER, str: _STRING})
_TAGS.update({Missing: _ABSENT, type(None): _NULL})
_EXACT: Final = 2.0**53  # below it every integer is a float64
_PASSES: Final = 8  # for so many numbers, a pass over the slots each is quicker than the first look at their ranks
_SMALL: Final = 1024  # a dictionary of up to this many distinct values isn't worth compacting
_FROM_PLAIN: Final = frozenset((str, int, float, type(None)))  # frozen as they are
# A frozen dict is a frozenset of pairs, so a frozenset of one bool or one str is free to mean
# something else: True must differ from 1, and a value that isn't JSON-like from all that are.
_BOOLS: Final = (frozenset((False,)), frozenset((True,)))


class _Codes(dict[Hashable, int]):
    """Distinct frozen values; the n-th key has code n, since keys leave only by compaction."""

    def __missing__(self, key: Hashable) -> int:
        code = self[key] = len(self)
        return code


def plain(value: object) -> object:
    """`value` as the builtin it stands for: NumPy scalars and subclasses (enums) lose their type.

    >>> plain(np.float32(0.5)), plain(np.bool_(True))
    (0.5, True)
    """
    if isinstance(value, np.generic) and value.dtype.kind in "biufU":  # a datetime64's item may be an int
        value = value.item()
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return float(value) if isinstance(value, float) else value


def freeze(value: object) -> Hashable:
    """A hashable stand-in; two are equal exactly where the values are, by the rules of filters.

    Numbers are equal across int and float where they are so exactly, a bool equals no number, and the
    order of a dict's keys does not count. A value that isn't JSON-like equals no JSON-like value.

    >>> freeze([1, {"a": 2.0}]) == freeze([1.0, {"a": 2}]), freeze(True) == freeze(1)
    (True, False)
    """
    kind = type(value)
    if kind in _FROM_PLAIN:
        return value
    if kind is bool:
        return _BOOLS[bool(value)]
    if isinstance(value, (list, tuple)):
        flat = _FROM_PLAIN.issuperset(map(type, value))
        return tuple(value if flat else map(freeze, value))
    if isinstance(value, (dict, Mapping)):
        flat = _FROM_PLAIN.issuperset(map(type, value.values()))
        return frozenset(value.items() if flat else zip(value, map(freeze, value.values()), strict=True))
    builtin = plain(value)
    return freeze(builtin) if type(builtin) is not kind else frozenset((repr(value),))


def _weight(key: Hashable) -> int:
    """About how many bytes a frozen value takes."""
    return sys.getsizeof(key) + (sum(map(_weight, key)) if isinstance(key, (tuple, frozenset)) else 0)


class Column:
    """The values of one field for slots 0 … size-1; each starts out missing.

    Every method that answers a question returns a fresh mask over the slots. Operands follow the rules
    that `vecstore.query.where` checks: JSON-like, no NaN, integers of 64 bits. A column does not lock:
    whoever shares one between threads keeps `put` and `resize` apart from the rest.

    >>> kinds = Column(3)
    >>> kinds.put([0, 2], ["cat", ["cat", "dog"]])
    >>> kinds.equals("cat").tolist(), kinds.contains("cat").tolist(), kinds.exists().tolist()
    ([True, False, False], [True, False, True], [True, False, True])
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._tags: _Tags = np.zeros(size, dtype=np.uint8)
        # Only once a value needs them, since most fields hold one kind of value. Slots without a number
        # hold NaN and slots without a code -1, so that comparing them needs no look at the tags.
        self._numbers: NDArray[np.float64] | None = None
        # An integer that float64 can't hold is its nearest float plus this. Rounding never reverses an
        # order, so (number, remainder) pairs order as the exact integers do.
        self._remainders: NDArray[np.int16] | None = None
        self._codes: NDArray[np.int32] | None = None
        self._distinct = _Codes()
        # What distinct values stand for as moments or places, by code, as far as anybody asked.
        self._read: dict[str, NDArray[Any]] = {}
        # The distinct numbers in order, the slots in the order of their numbers, and where each number's begin and the last's
        # end, once somebody asks for many numbers.
        self._ranked: tuple[NDArray[Any], NDArray[np.int32], NDArray[np.int64]] | None = None
        self._churn = 0  # codes written over since the last look for unused ones
        self._live = 0  # distinct values in use at that look, and those added since
        self._weighed = self._weight = 0  # how many distinct values nbytes has added up, and their bytes

    @property
    def distinct(self) -> int:
        """How many texts, lists and dicts it has, each counted once."""
        return len(self._distinct)

    @property
    def nbytes(self) -> int:
        """About how much memory the column holds, distinct values included."""
        arrays: tuple[NDArray[Any] | None, ...] = (
            self._tags, self._numbers, self._remainders, self._codes, *self._read.values(), *(self._ranked or ())
        )  # fmt: skip
        for key in islice(self._distinct, self._weighed, None):
            self._weight += _weight(key) + 32  # the code is an object as well
        self._weighed = len(self._distinct)
        return sum(a.nbytes for a in arrays if a is not None) + self._weight + sys.getsizeof(self._distinct)

    def resize(self, size: int) -> None:
        """Grows to `size` slots; the new ones are missing. Growing one by one costs little."""
        if size < self.size:
            raise ValueError(f"a column only grows: it has {self.size} slots, {size} were asked for")
        if size > self.size:
            self._ranked = None
        self.size, room = size, len(self._tags)
        if size <= room:
            return
        room = max(size, room * 5 // 4)
        self._tags = _grown(self._tags, room, _ABSENT)
        self._numbers = None if self._numbers is None else _grown(self._numbers, room, np.nan)
        self._remainders = None if self._remainders is None else _grown(self._remainders, room, 0)
        self._codes = None if self._codes is None else _grown(self._codes, room, -1)

    def put(self, slots: ArrayLike, values: Sequence[object]) -> None:
        """Sets `values[i]` at `slots[i]`, whatever was there; `MISSING` clears. The last of a slot wins.

        Raises IndexError for a slot outside the column and OverflowError for an integer that takes more
        than 64 bits; nothing has changed then.
        """
        at = np.asarray(slots, dtype=np.int64)
        if at.shape != (len(values),):
            raise ValueError(f"expected a slot for each of {len(values)} values, got shape {at.shape}")
        if at.min(initial=0) < 0 or at.max(initial=-1) >= self.size:
            raise IndexError(f"slots {at.min()} to {at.max()} don't lie within the {self.size} of the column")

        if not _TAGS.keys() >= set(map(type, values)):
            values = [plain(value) for value in values]
        tags = np.fromiter(map(_TAGS.get, map(type, values), repeat(_OTHER)), np.uint8, count=len(values))
        numbers, remainders = _numbers(values, tags)
        codes = self._encode(values, tags)
        flags, bools = _select(values, tags, _FALSE)
        if len(flags):
            tags[flags] = np.fromiter(bools, dtype=np.uint8, count=len(flags)) + _FALSE

        if self._codes is not None:
            self._churn += int(np.count_nonzero(self._codes[at] >= 0))
        room = len(self._tags)
        self._ranked = None
        self._tags[at] = tags
        self._numbers = _written(self._numbers, room, at, numbers, np.nan)
        self._remainders = _written(self._remainders, room, at, remainders, 0)
        self._codes = _written(self._codes, room, at, codes, -1)
        self._compact()

    def put_picked(self, slots: NDArray[np.int64], picked: Picked) -> None:
        """As ``put``, of values that were picked out of packed records."""
        tags, numbers, room = picked.kinds, picked.numbers, len(self._tags)
        distinct = np.fromiter(
            (_TAGS.get(type(value), _OTHER) for value in picked.distinct), np.uint8, count=len(picked.distinct)
        )
        coded = self._encode(picked.distinct, distinct)
        # The last place is that of records which have none of them.
        codes = None if coded is None else np.append(coded, np.int32(-1))[picked.which]
        if self._codes is not None:
            self._churn += int(np.count_nonzero(self._codes[slots] >= 0))
        self._tags[slots] = np.where(tags > _OTHER, _NUMBER, tags)
        any_numbers = (tags == _NUMBER).any()
        self._ranked = None
        self._numbers = _written(self._numbers, room, slots, numbers if any_numbers else None, np.nan)
        self._remainders = _written(self._remainders, room, slots, None, 0)
        self._codes = _written(self._codes, room, slots, codes, -1)
        large = np.flatnonzero(tags > _OTHER)
        if large.size:
            self.put(slots[large], [picked.distinct[place] for place in picked.which[large].tolist()])
        self._compact()

    def _encode(self, values: _Values, tags: _Tags) -> NDArray[np.int32] | None:
        """The codes of a batch, -1 where the value has none; None where no value has one."""
        strings, texts = _select(values, tags, _STRING)
        others, objects = _select(values, tags, _OTHER)
        if not len(strings) and not len(others):
            return None
        self._live -= len(self._distinct)
        codes = np.full(len(values), -1, dtype=np.int32)
        code = self._distinct.__getitem__
        codes[strings] = np.fromiter(map(code, texts), dtype=np.int32, count=len(strings))
        codes[others] = np.fromiter(map(code, map(freeze, objects)), dtype=np.int32, count=len(others))
        self._live += len(self._distinct)
        return codes

    def _compact(self) -> None:
        """Drops the distinct values that no slot has, once they outnumber the ones in use.

        Looking costs a pass over the slots, so it waits until enough writes have paid for it.
        """
        total = len(self._distinct)
        least = max(_SMALL, 2 * (self._live - self._churn))
        if self._codes is None or total <= least or self._churn <= self.size // 16:
            return
        self._churn = 0
        used = np.zeros(total + 1, dtype=np.bool_)
        used[self._codes] = True  # -1 marks the place beyond the last code
        used[total] = False
        self._live = int(np.count_nonzero(used))
        if total <= 2 * self._live:
            return
        moved = np.full(total + 1, -1, dtype=np.int32)
        moved[used] = np.arange(self._live, dtype=np.int32)
        kept = _Codes()
        for key, stays in zip(self._distinct, used[:total].tolist(), strict=True):
            if stays:
                kept[key] = len(kept)
        self._distinct, self._read = kept, {}
        self._codes = moved[self._codes]
        self._weighed = self._weight = 0

    def exists(self) -> Mask:
        """Where the field is there, null included."""
        return np.asarray(self._tags[: self.size] != _ABSENT)

    def equals(self, value: object) -> Mask:
        """Where the field is `value`: deep, int and float together, bools apart from numbers."""
        return self._at_instant(operator.eq, value) if isinstance(value, Instant) else self.one_of((value,))

    def one_of(self, values: Iterable[object]) -> Mask:
        """Where the field is one of `values`."""
        tags = self._tags[: self.size]
        mask: Mask = np.zeros(self.size, dtype=np.bool_)
        numbers: list[float] = []
        codes: list[int] = []
        for value in values:
            if value is None:
                mask |= tags == _NULL
            elif isinstance(value, bool):
                mask |= tags == _FALSE + value
            elif isinstance(value, (int, float)):
                numbers.append(value)
            elif (code := self._distinct.get(freeze(value))) is not None:
                codes.append(code)
        if len(codes) == 1 and self._codes is not None:
            mask |= self._codes[: self.size] == codes[0]
        elif codes and self._codes is not None:
            table = np.zeros(len(self._distinct) + 1, dtype=np.bool_)
            table[codes] = True
            mask |= table[self._codes[: self.size]]
        if numbers and self._numbers is not None:
            mask |= self._numbers_in(self._numbers[: self.size], numbers)
        return mask

    def _numbers_in(self, stored: NDArray[np.float64], wanted: list[float]) -> Mask:
        pairs = [_split(number) for number in wanted]
        keys: NDArray[Any] = stored
        if self._remainders is None:
            sought = np.unique(np.array([number for number, extra in pairs if not extra], np.float64))
        else:
            # Complex numbers compare by both parts and sort by the first, then the second.
            keys = _paired(stored, self._remainders[: self.size])
            sought = np.unique(_paired(*np.array(pairs, dtype=np.float64).T))
        if len(sought) <= _PASSES:
            mask: Mask = np.zeros(self.size, dtype=np.bool_)
            for key in sought:
                mask |= keys == key
            return mask
        if self._ranked is None:
            self._ranked = _ranks(keys)
        distinct, slots, starts = self._ranked
        if not len(distinct):
            return np.zeros(self.size, dtype=np.bool_)
        places = np.minimum(np.searchsorted(distinct, sought), len(distinct) - 1)
        return self._at(places[distinct[places] == sought], slots, starts)

    def _at(self, places: NDArray[np.int64], slots: NDArray[np.int32], starts: NDArray[np.int64]) -> Mask:
        """Where the numbers in these places of all are."""
        mask: Mask = np.zeros(self.size, dtype=np.bool_)
        counts = starts[places + 1] - starts[places]
        if counts.sum() > len(slots) // 2:
            chosen = np.zeros(len(starts) - 1, dtype=np.bool_)
            chosen[places] = True
            mask[slots] = np.repeat(chosen, np.diff(starts))
        else:
            before = np.cumsum(counts) - counts
            mask[slots[np.repeat(starts[places] - before, counts) + np.arange(counts.sum())]] = True
        return mask

    def compare(self, order: str, value: bool | int | float | str | Instant) -> Mask:
        """Where the field stands in `order` (a key of `ORDER`) to `value`; other types never do.

        To a moment stand the texts that are dates, each as the moment it names.

        >>> column = Column(3)
        >>> column.put([0, 1, 2], [2**53, 2**53 + 1, "2"])
        >>> column.compare("$gt", 2.0**53).tolist()
        [False, True, False]
        """
        test = ORDER[order]
        if isinstance(value, Instant):
            return self._at_instant(test, value)
        if isinstance(value, bool):
            table = np.zeros(_OTHER + 1, dtype=np.bool_)
            table[[_FALSE, _TRUE]] = test(False, value), test(True, value)
            return table[self._tags[: self.size]]
        if isinstance(value, str):
            return self._distinct_where(lambda key: type(key) is str and test(key, value))
        if self._numbers is None:
            return np.zeros(self.size, dtype=np.bool_)
        stored = self._numbers[: self.size]
        number, extra = _split(value)
        if self._remainders is None and not extra:
            return np.asarray(test(stored, number), dtype=np.bool_)
        remainders = np.zeros(1, np.int16) if self._remainders is None else self._remainders[: self.size]
        beyond = stored < number if order.startswith("$lt") else stored > number
        return np.asarray(beyond | ((stored == number) & test(remainders, extra)), dtype=np.bool_)

    def contains(self, value: object) -> Mask:
        """Where a list holds `value` (deep equality) or a string has it as a substring."""
        if isinstance(value, Instant):
            return self._distinct_where(lambda held: type(held) is tuple and holds_instant(held, value))
        key = freeze(value)
        if isinstance(value, str):
            return self._distinct_where(lambda held: isinstance(held, (str, tuple)) and value in held)
        return self._distinct_where(lambda held: type(held) is tuple and key in held)

    def texts(self, search: Callable[[Iterable[str]], Iterable[bool]]) -> Mask:
        """Where the field is a text that a search of many texts finds something in.

        >>> column = Column(2)
        >>> column.put([0, 1], ["cat", 3])
        >>> column.texts(lambda texts: ["a" in text for text in texts]).tolist()
        [True, False]
        """
        codes = [code for code, held in enumerate(self._distinct) if type(held) is str]
        found = search(held for held in self._distinct if type(held) is str)
        holds = np.zeros(len(self._distinct), dtype=np.bool_)
        holds[codes] = np.fromiter(found, dtype=np.bool_, count=len(codes))
        return self._by_code(holds)

    def near(self, near: Near) -> Mask:
        """Where the field is a place that is near enough."""
        return self._by_code(places.within(near, self._known("places", places.places)))

    def _at_instant(self, test: Callable[[Any, Any], Any], value: Instant) -> Mask:
        found = self._known("instants", instants.instants)
        return self._by_code(np.asarray(test(found, value.microseconds)) & (found != instants.NONE))

    def _known(self, what: str, read: Callable[[Iterable[Any], int], NDArray[Any]]) -> NDArray[Any]:
        """What the distinct values stand for; each is read once."""
        known = self._read.get(what)
        count = 0 if known is None else len(known)
        if known is None or count < len(self._distinct):
            new = read(islice(self._distinct, count, None), len(self._distinct) - count)
            known = self._read[what] = new if known is None else np.concatenate((known, new))
        return known

    def _distinct_where(self, holds: Callable[[Any], bool]) -> Mask:
        found = map(holds, self._distinct)
        return self._by_code(np.fromiter(found, dtype=np.bool_, count=len(self._distinct)))

    def _by_code(self, holds: Mask) -> Mask:
        """Where the field's distinct value is one of those that hold."""
        if self._codes is None:
            return np.zeros(self.size, dtype=np.bool_)
        table = np.append(holds, np.False_)
        return table[self._codes[: self.size]]  # code -1 reads the last place


def holds_instant(items: Iterable[object], value: Instant) -> bool:
    """Whether one of them is a text that names this moment."""
    return any(type(item) is str and instant(item) == value.microseconds for item in items)


def _grown(array: NDArray[_Kind], room: int, fill: float) -> NDArray[_Kind]:
    new = np.full(room, fill, dtype=array.dtype)
    new[: len(array)] = array
    return new


def _written(
    array: NDArray[_Kind] | None, room: int, at: NDArray[np.int64], batch: NDArray[_Kind] | None, fill: float
) -> NDArray[_Kind] | None:
    """`array` with a batch put into it; None until there is a batch that needs it."""
    if array is None and batch is not None:
        array = np.full(room, fill, dtype=batch.dtype)
    if array is not None:
        array[at] = fill if batch is None else batch
    return array


def _ranks(numbers: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int32], NDArray[np.int64]]:
    slots = np.argsort(numbers, kind="stable")[: np.count_nonzero(numbers == numbers)]  # NaN comes last
    ordered = numbers[slots]
    firsts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)])
    return ordered[firsts], slots.astype(np.int32), np.append(firsts, len(ordered))


def _split(value: float) -> tuple[float, int]:
    """The nearest float64 and, for an integer, what is left."""
    number = float(value)
    return number, value - int(number) if isinstance(value, int) else 0


def _paired(numbers: NDArray[Any], remainders: NDArray[Any]) -> NDArray[np.complex128]:
    pairs = np.empty(len(numbers), dtype=np.complex128)
    pairs.real, pairs.imag = numbers, remainders
    return pairs


def _select(values: _Values, tags: _Tags, tag: int) -> tuple[NDArray[np.intp], _Values]:
    """Where in the batch `tag` stands, and the values there."""
    places = np.flatnonzero(tags == tag)
    if len(places) == len(values):
        return places, values
    return places, [values[i] for i in places.tolist()]


def _numbers(values: _Values, tags: _Tags) -> tuple[NDArray[np.float64] | None, NDArray[np.int16] | None]:
    """The numbers of a batch (NaN elsewhere) and their remainders; None where there are none."""
    places, found = _select(values, tags, _NUMBER)
    if not len(places):
        return None, None
    floats = np.fromiter(found, dtype=np.float64, count=len(places))
    numbers = np.full(len(values), np.nan)
    numbers[places] = floats
    extras = {}
    for i in np.flatnonzero(np.abs(floats) >= _EXACT).tolist():
        value = found[i]
        if isinstance(value, int):
            if not INT_MIN <= value <= INT_MAX:
                raise OverflowError(f"integers of metadata take up to 64 bits, got {value}")
            if extra := value - int(floats[i]):
                extras[i] = extra
    if not extras:
        return numbers, None
    remainders = np.zeros(len(values), dtype=np.int16)
    remainders[places[list(extras)]] = list(extras.values())
    return numbers, remainders
