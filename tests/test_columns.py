"""Columns under any puts and resizes, and masks against an independent reading of the filter language."""

from __future__ import annotations

import contextlib
import copy
import datetime
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vecstore.kernels import dispatch
from vecstore.query import columns, frozen, nodes, ranks, where
from vecstore.query.columns import Column
from vecstore.storage.values import MISSING, extract

BIG = 2**53


def mask(expression: object, records: list[dict[str, Any] | None]) -> list[bool]:
    """The mask over one column a field, which must agree with one record at a time."""
    parsed = where.parse(expression)
    ready = {}
    for name in parsed.fields:
        ready[name] = Column(len(records))
        ready[name].put(np.arange(len(records)), [extract(record, name) for record in records])
    found = parsed.mask(ready, size=len(records))
    assert found.dtype == np.bool_
    assert found.tolist() == [parsed.matches(record) for record in records]
    return [bool(one) for one in found]


def test_put_refuses_before_it_changes_anything() -> None:
    column = Column(2)
    column.put([0, 1], ["a", 1])
    for slot in (2, -1, 5):
        with pytest.raises(IndexError, match="2 of the column"):
            column.put([0, slot], ["b", 2])
    with pytest.raises(ValueError, match="a slot for each of 2 values"):
        column.put([0], ["b", "c"])
    for huge in (2**64, -(2**63) - 1, 10**400):
        with pytest.raises(OverflowError):
            column.put([0, 1], ["b", huge])
    with pytest.raises(ValueError, match="only grows"):
        column.resize(1)
    with pytest.raises(ValueError, match="negative"):
        Column(-1)
    column.put([], [])
    assert column.equals("a").tolist() == [True, False]
    assert column.equals(1).tolist() == [False, True]


def test_the_last_value_of_a_slot_wins_and_missing_clears() -> None:
    column = Column(3)
    column.put([0, 0, 1, 1, 2], ["a", 3, 3, "a", BIG + 1])
    assert column.equals(3).tolist() == [True, False, False]
    assert column.equals("a").tolist() == [False, True, False]
    column.put([1, 2], [MISSING, BIG])
    assert column.exists().tolist() == [True, False, True]
    assert column.equals(BIG).tolist() == [False, False, True]
    assert column.equals("a").tolist() == [False] * 3
    assert pickle.loads(pickle.dumps(MISSING)) is MISSING
    assert repr(copy.deepcopy(MISSING)) == "MISSING"


def test_a_column_takes_only_the_memory_that_its_values_need() -> None:
    size = 10_000
    bools, numbers, words = Column(size), Column(size), Column(size)
    slots = np.arange(size)
    bools.put(slots, [True, False] * (size // 2))
    numbers.put(slots, list(range(size)))
    words.put(slots, ["cat", "dog"] * (size // 2))
    assert bools.nbytes < 1.1 * size
    assert numbers.nbytes < 9.1 * size
    assert words.nbytes < 5.1 * size
    before = words.nbytes
    words.put([0], [["a" * 1000, {"b": "c" * 1000}]])
    assert before + 2000 < words.nbytes < before + 4000


def test_values_no_longer_used_are_dropped() -> None:
    size = 2000
    column, slots = Column(size), np.arange(size)
    for turn in range(20):
        column.put(slots, [f"turn {turn} slot {i}" for i in range(size)])
    assert len(column._distinct) <= 2 * size + 1
    assert column.contains("turn 19").all()
    assert column.equals("turn 19 slot 7").nonzero()[0].tolist() == [7]
    full = column.nbytes
    column.put(slots[1:], [MISSING] * (size - 1))
    assert len(column._distinct) == 1
    assert column.nbytes < full / 10
    assert column.contains("slot").nonzero()[0].tolist() == [0]
    for i in range(size):  # one at a time is paid for too
        column.put([1], [f"single {i}"])
    assert len(column._distinct) < 1500
    assert column.equals(f"single {size - 1}").nonzero()[0].tolist() == [1]


def test_growing_one_by_one_keeps_what_is_there() -> None:
    column = Column(0)
    values = [1, "a", None, BIG + 1, True, [1], MISSING] * 40
    for i, value in enumerate(values):
        column.resize(i + 1)
        column.put([i], [value])
    assert column.size == len(values)
    for wanted in (1, "a", None, BIG + 1, True, [1]):
        expected = [type(v) is type(wanted) and v == wanted for v in values]
        assert column.equals(wanted).tolist() == expected
    column.resize(1000)
    assert not column.exists()[len(values) :].any()


# Independent of the code under test: it reads the raw expression, and spells out the type rules.


def same(a: Any, b: Any) -> bool:
    if isinstance(a, bool) or isinstance(b, bool) or a is None or b is None:
        return type(a) is type(b) and a == b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return a == b
    return isinstance(a, str) and isinstance(b, str) and a == b


def naive_test(value: Any, there: bool, key: str, operand: Any) -> bool:
    if key == "$exists":
        return there is operand
    if key == "$not":
        return not naive_field(value, there, operand)
    if key == "$ne":
        return not (there and same(value, operand))
    if key == "$nin":
        return not (there and any(same(value, one) for one in operand))
    if not there:
        return False
    if key == "$eq":
        return same(value, operand)
    if key == "$in":
        return any(same(value, one) for one in operand)
    if key == "$contains":
        if isinstance(value, str):
            return isinstance(operand, str) and operand in value
        return isinstance(value, list) and any(same(one, operand) for one in value)
    kinds = [
        "bool" if isinstance(v, bool) else "number" if isinstance(v, (int, float)) else type(v).__name__
        for v in (value, operand)
    ]
    if kinds[0] != kinds[1]:
        return False
    return bool(
        {"$lt": value < operand, "$lte": value <= operand, "$gt": value > operand, "$gte": value >= operand}[
            key
        ]
    )


def naive_field(value: Any, there: bool, operand: Any) -> bool:
    if isinstance(operand, dict) and any(key[:1] == "$" for key in operand):
        return all(naive_test(value, there, key, one) for key, one in operand.items())
    return naive_test(value, there, "$eq", operand)


def naive(expression: dict[str, Any], record: dict[str, Any]) -> bool:
    results = []
    for key, operand in expression.items():
        if key == "$and":
            results.append(all(naive(one, record) for one in operand))
        elif key == "$or":
            results.append(any(naive(one, record) for one in operand))
        elif key == "$not":
            results.append(not naive(operand, record))
        elif key in record:
            results.append(naive_field(record[key], True, operand))
        else:
            first, _, rest = key.partition(".")
            nested: Any = record.get(first)
            there = bool(rest) and isinstance(nested, dict) and rest in nested
            results.append(naive_field(nested[rest] if there else None, there, operand))
    return all(results)


NUMBERS: list[Any] = [0, 1, -1, 1.0, -0.0, 0.5, BIG, BIG + 1, float(BIG), -BIG - 1, -float(BIG)]
NUMBERS += [2**63 - 1, 2**63, 2.0**63, 2**64 - 1, 2.0**64, -(2**63), float("inf"), float("-inf"), 1e-320]
STRINGS = ["", "a", "ab", "b", "$gt", "é", "\U0001f431", "\x00"]
scalars = (
    st.sampled_from([None, True, False, *NUMBERS, *STRINGS])
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=3)
)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=5,
)
fields = st.sampled_from(["a", "b", "a.b", "b.c"])
stored = json_values | st.just(float("nan"))
records = st.dictionaries(fields, stored, max_size=4)
orderable = st.sampled_from([True, False, *NUMBERS, *STRINGS]) | st.floats(allow_nan=False)
operands: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("$eq", "$ne", "$contains"), json_values),
    **dict.fromkeys(columns.ORDER, orderable),
    **dict.fromkeys(("$in", "$nin"), st.lists(json_values, max_size=4)),
    "$exists": st.booleans(),
}
one_test = st.one_of([st.fixed_dictionaries({key: operand}) for key, operand in operands.items()])
some_tests = one_test | st.fixed_dictionaries({}, optional=operands).filter(bool)
tests = some_tests | st.fixed_dictionaries({"$not": some_tests})
expressions = st.recursive(
    st.dictionaries(fields, json_values | tests, max_size=2),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"$and": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$or": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$not": inner}),
    ),
    max_leaves=4,
)


@contextlib.contextmanager
def told(few: int, asked: int = 1, masks: int = 3) -> Iterator[None]:
    """Slots are told one by one where they are one in `few`, and kept in order from so many questions on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "FEW", few)
        patch.setattr(ranks, "_MASKS", masks)
        patch.setattr(nodes, "_FEW_TO_SORT", 2 * few)
        patch.setattr(ranks, "_FIRST_TIME", asked)
        patch.setattr(ranks, "_AFTER_A_CHANGE", asked)
        yield


# Nearly all as slots, some, and hardly any.
fews = st.sampled_from([1, 3, 10**6])


def check(parsed: where.Where, ready: dict[str, Column], size: int, expected: list[bool]) -> None:
    """In the form that costs least, as a mask, and at some slots."""
    chosen = parsed.choose(ready, size)
    assert chosen.size == size
    if chosen.slots is not None:
        assert chosen.slots.dtype == np.int32
        assert sorted(chosen.slots.tolist()) == np.flatnonzero(expected).tolist()
        assert chosen.count == sum(expected)
    assert chosen.mask().tolist() == expected
    half = size // 2
    assert chosen.first(half).mask().tolist() == expected[:half]
    some = np.arange(size, dtype=np.int32)[::-2]
    assert parsed._root.at(ready, some).tolist() == [expected[slot] for slot in some]


@settings(max_examples=400, deadline=None)
@given(st.lists(records, max_size=8), expressions)
def test_masks_single_records_and_a_naive_reading_agree(
    some: list[dict[str, Any] | None], expression: dict[str, Any]
) -> None:
    assert mask(expression, some) == [naive(expression, record or {}) for record in some]


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.lists(records, min_size=1, max_size=12), min_size=1, max_size=3),
    st.lists(expressions, min_size=1, max_size=3),
    fews,
    st.sampled_from([1, 2]),
)
def test_what_is_chosen_in_every_form_before_and_after_changes(
    versions: list[list[dict[str, Any]]], asked: list[dict[str, Any]], few: int, often: int
) -> None:
    size = max(map(len, versions))
    parsed = [where.parse(expression) for expression in asked]
    now: list[dict[str, Any]] = [{}] * size
    with told(few, often):
        ready = {name: Column(size) for one in parsed for name in one.fields}
        for some in versions:
            now[: len(some)] = some
            for name, column in ready.items():
                column.put(np.arange(len(some)), [extract(record, name) for record in some])
            for _ in range(often + 1):
                for one, expression in zip(parsed, asked, strict=True):
                    check(one, ready, size, [naive(expression, record) for record in now])


places = st.integers(-1, 32)
ranges = st.fixed_dictionaries({}, optional=dict.fromkeys(columns.ORDER, places)).filter(bool)
lookups = ranges | st.fixed_dictionaries({"$in": st.lists(places, min_size=2, max_size=40)}) | places


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(0, 1), (BIG, 1), (BIG, 2), (-BIG - 40, 1)]),
    st.lists(lookups, min_size=1, max_size=3),
    fews,
    st.sampled_from([1, 4, 32]),
)
def test_lookups_among_many_slots(
    seed: int, scale: tuple[int, int], asked: list[Any], few: int, masks: int
) -> None:
    """Enough slots for masks that are known to differ from those asked for, at both ends; some integers are no float64."""
    random = np.random.default_rng(seed)
    first, step = scale
    size = int(random.integers(100, 300))
    values: list[Any] = [first + step * place for place in random.integers(0, 31, size).tolist()]
    for slot in np.flatnonzero(random.random(size) < 0.2):
        values[slot] = random.choice(np.array([None, True, "a", MISSING], dtype=object))

    def moved(operand: Any) -> Any:
        if isinstance(operand, dict):
            return {key: moved(one) for key, one in operand.items()}
        return [moved(one) for one in operand] if isinstance(operand, list) else first + operand

    records: list[dict[str, Any]] = [{} if value is MISSING else {"f": value} for value in values]
    parts = [{"f": moved(one)} for one in asked]
    with told(few, masks=masks):
        column = Column(size)
        column.put(np.arange(size), values)
        for expression in ({"$and": parts}, {"$or": parts}, {"$not": parts[0]}):
            expected = [naive(expression, record) for record in records]
            check(where.parse(expression), {"f": column}, size, expected)
        assert column._by_number.nbytes  # it was looked up


texts = st.sampled_from(["IMG_1", "IMG_22", "img 3", "2024-05-01", "2024-05-01T10:00:00Z", "x", [48.1, 11.5], [50, 8], 3, MISSING])
of_texts = st.sampled_from(
    [
        {"$prefix": "IMG"},
        {"$regex": r"\d$"},
        {"$near": [48.1, 11.4, 50_000]},
        {"$gte": datetime.date(2024, 5, 1)},
        {"$eq": datetime.datetime(2024, 5, 1, 10, tzinfo=datetime.timezone.utc)},
        {"$gt": "IMG_1"},
        {"$contains": "M"},
        {"$contains": 50},
        {"$in": ["x", "img 3", "nowhere"]},
        {"$in": ["x", 3, None]},
        {"$ne": "x"},
    ]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(texts, max_size=40), st.lists(of_texts, min_size=1, max_size=3), st.data(), fews)
def test_questions_about_distinct_values(values: list[Any], asked: list[Any], data: st.DataObject, few: int) -> None:
    """Of all of them, and of those alone that a few slots have."""
    records: list[dict[str, Any]] = [{} if value is MISSING else {"f": value} for value in values]
    parsed = where.parse({"$and": [{"f": one} for one in asked]})
    expected = [parsed.matches(record) for record in records]
    some = data.draw(st.lists(st.integers(0, len(values) - 1), max_size=4) if values else st.just([]))
    with told(few):
        column = Column(len(values))
        column.put(np.arange(len(values)), values)
        for _ in range(2):
            check(parsed, {"f": column}, column.size, expected)
            found = parsed._root.at({"f": column}, np.array(some, dtype=np.int32))
            assert found.tolist() == [expected[slot] for slot in some]


def test_without_compiled_kernels_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    column = Column(5_000)
    column.put(np.arange(5_000), [slot * 7 % 1000 for slot in range(5_000)])
    wanted = where.parse({"f": {"$in": [*range(0, 1000, 2), 7, 2000]}})
    marked = wanted.mask({"f": column})
    assert marked.tolist() == [slot * 7 % 1000 in {*range(0, 1000, 2), 7} for slot in range(5_000)]
    for kernels in (None, dispatch.cpu() and dispatch._import_marks()):
        monkeypatch.setattr(dispatch, "mark_kernels", lambda kernels=kernels: kernels)
        assert (wanted.mask({"f": column}) == marked).all()


def test_slots_are_kept_in_order_where_that_is_worth_it() -> None:
    column = Column(1_000)
    column.put(np.arange(1_000), list(range(1_000)))
    before, narrow = column.nbytes, where.parse({"f": {"$gte": 990}})
    assert narrow.choose({"f": column}).slots is None
    assert column.nbytes == before
    slots = narrow.choose({"f": column}).slots
    assert slots is not None
    assert slots.tolist() == list(range(990, 1_000))
    assert column.nbytes > before
    with pytest.raises(ValueError, match="read-only"):
        slots[0] = 1
    # What changes between any two questions is never sorted.
    for number in range(40):
        column.put([5], [number])
        assert column.nbytes == before
        assert narrow.choose({"f": column}).slots is None
    assert slots.tolist() == list(range(990, 1_000))


puts = st.lists(
    st.tuples(
        st.integers(0, 4), st.lists(st.tuples(st.integers(0, 30), stored | st.just(MISSING)), max_size=6)
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=300, deadline=None)
@given(puts, st.lists(tests, min_size=1, max_size=3))
def test_columns_after_any_puts_and_resizes_agree_with_plain_dicts(
    steps: list[tuple[int, list[tuple[int, Any]]]], asked: list[dict[str, Any]]
) -> None:
    column = Column(0)
    expected: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "_SMALL", 2)  # so that compaction takes part
        for more, batch in steps:
            column.resize(column.size + more)
            expected += [MISSING] * more
            inside = [(slot % column.size, value) for slot, value in batch if column.size]
            column.put([slot for slot, _ in inside], [value for _, value in inside])
            for slot, value in inside:
                expected[slot] = value
            for operand in asked:
                found = where.parse({"f": operand}).mask({"f": column}).tolist()
                assert found == [naive_field(value, value is not MISSING, operand) for value in expected]
            assert column.nbytes >= column.size


@settings(max_examples=300, deadline=None)
@given(json_values, json_values)
def test_frozen_values_are_equal_where_the_values_are(one: Any, other: Any) -> None:
    assert (frozen.freeze(one) == frozen.freeze(other)) == same(one, other)
    assert frozen.freeze(one) == frozen.freeze(copy.deepcopy(one))


big_or_small = st.one_of(st.integers(-20, 20), st.sampled_from([2**60, 2**60 + 1, 2**64 - 1, -(2**63), 0.5, -0.0, 1e300]))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(big_or_small, st.just("x"), st.none(), st.just(MISSING), st.just([1]), st.just(True)), max_size=60),
    st.lists(st.lists(big_or_small, min_size=9, max_size=40), min_size=1, max_size=3),
    big_or_small,
)
def test_many_numbers_are_found_at_once(stored: list[Any], asked: list[list[Any]], later: Any) -> None:
    """More than a pass each is worth: where they are is looked up in their order."""
    column = Column(len(stored) + 1)
    column.put(np.arange(len(stored)), stored)
    for wanted in asked:
        expected = [type(value) in (int, float) and value in wanted for value in [*stored, MISSING]]
        assert where.parse({"f": {"$in": wanted}}).mask({"f": column}).tolist() == expected
        column.put([len(stored)], [later])
        expected[-1] = later in wanted
        assert where.parse({"f": {"$in": wanted}}).mask({"f": column}).tolist() == expected
        column.put([len(stored)], [MISSING])
