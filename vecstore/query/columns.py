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
from collections.abc import Callable, Iterable, Sequence
from itertools import islice, repeat
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vecstore.query import instants, places
from vecstore.query.frozen import Codes, freeze, plain, weight
from vecstore.query.instants import Instant, instant
from vecstore.query.matching import Mask, Slots
from vecstore.query.one_of import OneOf
from vecstore.query.picked import Picked
from vecstore.query.places import Near
from vecstore.query.ranks import Lazily, OfCodes, OfNumbers, Ranks, Rows, Span
from vecstore.query.wide import EXACT, paired, split
from vecstore.storage.values import Missing

_Values = Sequence[Any]
_Tags = NDArray[np.uint8]
_Kind = TypeVar("_Kind", bound=np.generic)

ORDER: Final = {"$lt": operator.lt, "$lte": operator.le, "$gt": operator.gt, "$gte": operator.ge}
_OF_NUMBERS: Final = ("$eq", *ORDER)
INT_MIN, INT_MAX = -(2**63), 2**64 - 1  # as msgpack stores them: signed or unsigned, 64 bits

_ABSENT, _NULL, _FALSE, _TRUE, _NUMBER, _STRING, _OTHER = range(7)
_TAGS: Final[dict[type, int]] = dict.fromkeys((list, tuple, dict), _OTHER)
_TAGS.update({bool: _FALSE, int: _NUMBER, float: _NUMBER, str: _STRING})
_TAGS.update({Missing: _ABSENT, type(None): _NULL})
_PASSES: Final = 32  # for so many numbers, a pass over the slots each is quicker than the first look at their ranks
_SMALL: Final = 1024  # a dictionary of up to this many distinct values isn't worth compacting
_NOWHERE: Final = Span(Ranks(np.zeros(0), np.zeros(1)), 0, 0)

# Which of many frozen values hold what is asked for.
Search: TypeAlias = Callable[[Iterable[Any]], Iterable[bool]]


class Column:
    """The values of one field for slots 0 … size-1; each starts out missing.

    A method that answers a question returns a fresh mask over the slots, or over those that it is to look `among`;
    `rows` tells the slots themselves, where it can. Operands follow the rules that `vecstore.query.where` checks:
    JSON-like, no NaN, integers of 64 bits. A column does not lock: whoever shares one between threads keeps all
    methods apart from each other.

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
        self._distinct = Codes()
        # What distinct values stand for as moments or places, by code, as far as anybody asked.
        self._read: dict[str, NDArray[Any]] = {}
        # The slots in the order of their numbers and of their codes, once questions are worth that.
        self._by_number: Lazily[OfNumbers] = Lazily()
        self._by_code: Lazily[OfCodes] = Lazily()
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
            self._tags, self._numbers, self._remainders, self._codes, *self._read.values()
        )  # fmt: skip
        for key in islice(self._distinct, self._weighed, None):
            self._weight += weight(key) + 32  # the code is an object as well
        self._weighed = len(self._distinct)
        ranks = self._by_number.nbytes + self._by_code.nbytes
        return sum(a.nbytes for a in arrays if a is not None) + ranks + self._weight + self._distinct.nbytes

    def resize(self, size: int) -> None:
        """Grows to `size` slots; the new ones are missing. Growing one by one costs little."""
        if size < self.size:
            raise ValueError(f"a column only grows: it has {self.size} slots, {size} were asked for")
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
        self._changed()
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
        self._changed()
        self._numbers = _written(self._numbers, room, slots, numbers if any_numbers else None, np.nan)
        self._remainders = _written(self._remainders, room, slots, None, 0)
        self._codes = _written(self._codes, room, slots, codes, -1)
        large = np.flatnonzero(tags > _OTHER)
        if large.size:
            self.put(slots[large], [picked.distinct[place] for place in picked.which[large].tolist()])
        self._compact()

    def _changed(self) -> None:
        self._by_number.changed()
        self._by_code.changed()

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
        kept = Codes()
        for key, stays in zip(self._distinct, used[:total].tolist(), strict=True):
            if stays:
                kept[key] = len(kept)
        self._distinct, self._read = kept, {}
        self._codes = moved[self._codes]
        self._weighed = self._weight = 0

    def rows(self, question: str, value: object) -> Rows | None:
        """The slots that match, out of those in order; None where a pass over them is to tell.

        The question is an operator of ``vecstore.query.where`` or a search of texts, with its operand.
        """
        if isinstance(value, OneOf):
            if value.flags or (value.coded and len(value.numbers)):
                return None
            return self._coded_rows("$in", value) if value.coded else self._numbers_one_of(value)
        if question in _OF_NUMBERS:
            if value is None or isinstance(value, bool):
                return None
            if isinstance(value, (int, float)):
                ranks = self._numbers_in_order()
                if not isinstance(ranks, OfNumbers):
                    return ranks
                return ranks.equal(*split(value)) if question == "$eq" else ranks.ordered(question, *split(value))
        return self._coded_rows(question, value)

    def _numbers_in_order(self, *, now: bool = False) -> OfNumbers | Span | None:
        """None where they are not kept in order."""
        return _NOWHERE if self._numbers is None else self._by_number.get(lambda: OfNumbers(self._keys()), now=now)

    def _numbers_one_of(self, some: OneOf) -> Rows | None:
        ranks, wanted = self._numbers_in_order(now=len(some.numbers) > _PASSES), some.numbers
        if not isinstance(ranks, OfNumbers):
            return ranks
        return ranks.one_of(_as(wanted, ranks.paired))

    def _coded_rows(self, question: str, value: object) -> Rows | None:
        if self._codes is None:
            return _NOWHERE
        codes = self._codes[: self.size]
        ranks = self._by_code.get(lambda: OfCodes(codes, len(self._distinct)))
        if ranks is None:
            return None
        if isinstance(value, OneOf):
            return ranks.these(np.array(self._codes_of(value), dtype=np.int64))
        if question == "$eq" and not isinstance(value, Instant):
            code = self._distinct.get(freeze(value))
            return _NOWHERE if code is None else ranks.between(code, code + 1)
        return ranks.held(self._holding(question, value))

    def _codes_of(self, some: OneOf) -> list[int]:
        return [code for code in map(self._distinct.get, some.coded) if code is not None]

    def exists(self, among: Slots | None = None) -> Mask:
        """Where the field is there, null included."""
        return np.asarray(self._part(self._tags, among) != _ABSENT)

    def equals(self, value: object, among: Slots | None = None) -> Mask:
        """Where the field is `value`: deep, int and float together, bools apart from numbers."""
        if isinstance(value, Instant):
            return self._of_codes("$eq", value, among)
        return self.one_of(OneOf.of([value]), among)

    def one_of(self, some: OneOf, among: Slots | None = None) -> Mask:
        """Where the field is one of some values."""
        mask = self._nowhere(among)
        for flag in some.flags:
            mask |= self._part(self._tags, among) == (_NULL if flag is None else _FALSE + flag)
        codes = self._codes_of(some)
        if len(codes) == 1 and self._codes is not None:
            mask |= self._part(self._codes, among) == codes[0]
        elif codes and self._codes is not None:
            holds = np.zeros(len(self._distinct), dtype=np.bool_)
            holds[codes] = True
            mask |= np.append(holds, np.False_)[self._part(self._codes, among)]
        if len(some.numbers) and self._numbers is not None:
            mask |= _among(self._keys(among), _as(some.numbers, self._remainders is not None))
        return mask

    def compare(
        self, order: str, value: bool | int | float | str | Instant, among: Slots | None = None
    ) -> Mask:
        """Where the field stands in `order` (a key of `ORDER`) to `value`; other types never do.

        To a moment stand the texts that are dates, each as the moment it names.

        >>> column = Column(3)
        >>> column.put([0, 1, 2], [2**53, 2**53 + 1, "2"])
        >>> column.compare("$gt", 2.0**53).tolist()
        [False, True, False]
        """
        test = ORDER[order]
        if isinstance(value, (str, Instant)):
            return self._of_codes(order, value, among)
        if isinstance(value, bool):
            table = np.zeros(_OTHER + 1, dtype=np.bool_)
            table[[_FALSE, _TRUE]] = test(False, value), test(True, value)
            return table[self._part(self._tags, among)]
        if self._numbers is None:
            return self._nowhere(among)
        stored = self._part(self._numbers, among)
        number, extra = split(value)
        if self._remainders is None and not extra:
            return np.asarray(test(stored, number), dtype=np.bool_)
        remainders = np.zeros(1, np.int16) if self._remainders is None else self._part(self._remainders, among)
        beyond = stored < number if order.startswith("$lt") else stored > number
        return np.asarray(beyond | ((stored == number) & test(remainders, extra)), dtype=np.bool_)

    def contains(self, value: object, among: Slots | None = None) -> Mask:
        """Where a list holds `value` (deep equality) or a string has it as a substring."""
        return self._of_codes("$contains", value, among)

    def texts(self, search: Search, among: Slots | None = None) -> Mask:
        """Where the field is a text that a search of many texts finds something in.

        >>> column = Column(2)
        >>> column.put([0, 1], ["cat", 3])
        >>> column.texts(lambda texts: ["a" in text for text in texts]).tolist()
        [True, False]
        """
        return self._of_codes("$regex", search, among)

    def near(self, near: Near, among: Slots | None = None) -> Mask:
        """Where the field is a place that is near enough."""
        return self._of_codes("$near", near, among)

    def _holding(self, question: str, value: Any, codes: NDArray[np.int32] | None = None) -> Mask:
        """Which distinct values are what is asked for: of all, or of those that have some codes."""
        which = slice(None) if codes is None else codes
        if isinstance(value, Near):
            return places.within(value, self._known("places", places.places)[which])
        if isinstance(value, Instant) and question != "$contains":
            moments = self._known("instants", instants.instants)[which]
            found = ORDER.get(question, operator.eq)(moments, value.microseconds)
            return np.asarray(found & (moments != instants.NONE), dtype=np.bool_)
        values = self._distinct if codes is None else self._distinct.at(codes.tolist())
        if not callable(value):
            test = _holder(value) if question == "$contains" else _follower(ORDER[question], value)
            return np.fromiter(map(test, values), dtype=np.bool_, count=len(values))
        texts = np.fromiter((type(one) is str for one in values), dtype=np.bool_, count=len(values))
        holds = np.zeros(len(values), dtype=np.bool_)
        holds[texts] = np.fromiter(value(one for one in values if type(one) is str), dtype=np.bool_)
        return holds

    def _known(self, what: str, read: Callable[[Iterable[Any], int], NDArray[Any]]) -> NDArray[Any]:
        """What the distinct values stand for; each is read once."""
        known = self._read.get(what)
        count = 0 if known is None else len(known)
        if known is None or count < len(self._distinct):
            new = read(islice(self._distinct, count, None), len(self._distinct) - count)
            known = self._read[what] = new if known is None else np.concatenate((known, new))
        return known

    def _of_codes(self, question: str, value: Any, among: Slots | None) -> Mask:
        """Where the field's distinct value is what is asked for."""
        if self._codes is None:
            return self._nowhere(among)
        codes = self._part(self._codes, among)
        if among is None or len(among) >= len(self._distinct):
            return np.append(self._holding(question, value), np.False_)[codes]  # code -1 reads the last place
        few, which = np.unique(codes, return_inverse=True)
        none = np.zeros(np.count_nonzero(few < 0), dtype=np.bool_)  # -1 is the first
        return np.append(none, self._holding(question, value, few[len(none) :]))[which]

    def _nowhere(self, among: Slots | None) -> Mask:
        return np.zeros(self.size if among is None else len(among), dtype=np.bool_)

    def _part(self, array: NDArray[_Kind], among: Slots | None) -> NDArray[_Kind]:
        return array[: self.size] if among is None else array[among]

    def _keys(self, among: Slots | None = None) -> NDArray[Any]:
        """Numbers, with their remainders where there are any."""
        assert self._numbers is not None
        numbers = self._part(self._numbers, among)
        return numbers if self._remainders is None else paired(numbers, self._part(self._remainders, among))


def _follower(test: Callable[[Any, Any], Any], text: str) -> Callable[[Any], bool]:
    """What tells whether a frozen value is a text that stands in an order to one."""
    return lambda held: type(held) is str and bool(test(held, text))


def _holder(value: object) -> Callable[[Any], bool]:
    """What tells whether a frozen value contains one."""
    if isinstance(value, Instant):
        return lambda held: type(held) is tuple and holds_instant(held, value)
    key = freeze(value)
    if isinstance(value, str):
        return lambda held: isinstance(held, (str, tuple)) and value in held
    return lambda held: type(held) is tuple and key in held


def _among(stored: NDArray[Any], wanted: NDArray[Any]) -> Mask:
    """Which numbers are among those wanted, which are ascending and distinct."""
    if len(wanted) <= _PASSES:
        mask: Mask = np.zeros(len(stored), dtype=np.bool_)
        for number in wanted:
            mask |= stored == number
        return mask
    places = np.minimum(wanted.searchsorted(stored), len(wanted) - 1)
    return np.asarray(wanted[places] == stored, dtype=np.bool_)


def _as(wanted: NDArray[Any], pairs: bool) -> NDArray[Any]:
    """Numbers as they are stored; those that are stored nowhere left out."""
    if np.iscomplexobj(wanted) and not pairs:
        wanted = wanted.real[wanted.imag == 0]
    return paired(wanted, 0) if pairs and not np.iscomplexobj(wanted) else wanted


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
    for i in np.flatnonzero(np.abs(floats) >= EXACT).tolist():
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
