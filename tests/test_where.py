"""The filter language: what each operator means, what is refused and how, and that masks agree with it."""

from __future__ import annotations

import copy
import datetime
import enum
import operator
import pickle
import re
from typing import Any

import numpy as np
import pytest

from vecstore.errors import InvalidFilterError
from vecstore.query import columns, operands, where
from vecstore.query.columns import Column
from vecstore.storage.values import MISSING, extract

BIG = 2**53
DEEP: dict[str, Any] = {"a": 1}
for _ in range(80):
    DEEP = {"$not": DEEP}
DEEPER: dict[str, Any] = {"a": 1}
for level in range(10_000):
    DEEPER = {"$not": DEEPER} if level % 2 else {"$and": [DEEPER]}
CYCLE: list[Any] = []
CYCLE.append(CYCLE)


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


def hits(expression: object, values: list[Any]) -> list[Any]:
    """Those of `values` (MISSING for none) that match where they are field f."""
    records: list[dict[str, Any] | None] = [{} if value is MISSING else {"f": value} for value in values]
    return [value for value, hit in zip(values, mask(expression, records), strict=True) if hit]


VALUES: list[Any] = [MISSING, None, False, True, 0, 1, 2.0, "1", "ab", [1, "ab"], {"a": 1}]


def but(*left_out: int) -> list[Any]:
    return [value for i, value in enumerate(VALUES) if i not in left_out]


class Kind(str, enum.Enum):
    CAT = "ab"


@pytest.mark.parametrize(
    ("operand", "expected"),
    [
        (1, [1]),
        (1.0, [1]),
        (2, [2.0]),
        (True, [True]),
        (None, [None]),
        ("ab", ["ab"]),
        (Kind.CAT, ["ab"]),
        ([1.0, "ab"], [[1, "ab"]]),
        ([True, "ab"], []),
        (["ab", 1], []),
        ({"a": 1.0}, [{"a": 1}]),
        ({"a": True}, []),
        ({}, []),
        ([], []),
        (np.int64(1), [1]),
        (np.float32(2), [2.0]),
        (np.bool_(True), [True]),
        (np.str_("ab"), ["ab"]),
        ({"$eq": 0}, [0]),
        ({"$eq": {"$gt": 1}}, []),
        ({"$ne": 1}, but(5)),
        ({"$ne": None}, but(1)),
        ({"$ne": [1, "ab"]}, but(9)),
        ({"$lt": 1}, [0]),
        ({"$lte": 1}, [0, 1]),
        ({"$gt": 0.5}, [1, 2.0]),
        ({"$gte": 2}, [2.0]),
        ({"$gte": "1"}, ["1", "ab"]),
        ({"$lt": "ab"}, ["1"]),
        ({"$lt": True}, [False]),
        ({"$lte": True}, [False, True]),
        ({"$gt": False}, [True]),
        ({"$gte": False}, [False, True]),
        ({"$gt": float("-inf")}, [0, 1, 2.0]),
        ({"$in": [1, "ab", None, False, {"a": 1}]}, [None, False, 1, "ab", {"a": 1}]),
        ({"$in": (True,)}, [True]),
        ({"$in": []}, []),
        ({"$nin": [1, "ab", None]}, but(1, 5, 8)),
        ({"$nin": []}, VALUES),
        ({"$exists": True}, but(0)),
        ({"$exists": False}, [MISSING]),
        ({"$exists": np.bool_(False)}, [MISSING]),
        ({"$contains": "ab"}, ["ab", [1, "ab"]]),
        ({"$contains": "b"}, ["ab"]),
        ({"$contains": 1.0}, [[1, "ab"]]),
        ({"$contains": True}, []),
        ({"$contains": ""}, ["1", "ab"]),
        ({"$not": {"$gt": 0}}, but(5, 6)),
        ({"$not": {"$exists": True}}, [MISSING]),
        ({"$not": {"$not": {"$gt": 0}}}, [1, 2.0]),
        ({"$gt": 0, "$lt": 2, "$ne": 5}, [1]),
        ({"$gt": 0, "$lt": "z"}, []),
    ],
    ids=repr,
)
def test_each_operator_on_one_field(operand: object, expected: list[Any]) -> None:
    found = hits({"f": operand}, VALUES)
    assert [(type(v), v) for v in found] == [(type(v), v) for v in expected]


def test_contains_compares_elements_deeply() -> None:
    values = [[{"a": [1, None]}], [{"a": [1, None], "b": 0}], [[1]], [True], [1], [], "1"]
    assert hits({"f": {"$contains": {"a": [1.0, None]}}}, values) == [values[0]]
    assert hits({"f": {"$contains": [1]}}, values) == [[[1]]]
    assert hits({"f": {"$contains": 1}}, values) == [[1]]
    assert hits({"f": {"$contains": None}}, [[None], None, MISSING]) == [[None]]


RECORDS: list[dict[str, Any] | None] = [
    {"year": 2024, "tags": ["beach"]},
    {"year": 2024},
    {"year": 1999, "tags": ["beach"]},
    {},
    None,
]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ({}, [1, 1, 1, 1, 1]),
        ({"$not": {}}, [0, 0, 0, 0, 0]),
        ({"year": {"$gte": 2020}, "tags": {"$contains": "beach"}}, [1, 0, 0, 0, 0]),
        ({"$and": [{"year": 2024}, {"tags": {"$exists": False}}]}, [0, 1, 0, 0, 0]),
        ({"$or": [{"year": 1999}, {"tags": {"$exists": False}}]}, [0, 1, 1, 1, 1]),
        ({"$or": [{}, {"year": 1}]}, [1, 1, 1, 1, 1]),
        ({"$and": [{}, {"year": 2024}]}, [1, 1, 0, 0, 0]),
        ({"$not": {"year": 2024, "tags": ["beach"]}}, [0, 1, 1, 1, 1]),
        ({"$not": {"$or": [{"year": 1999}, {"year": 2024}]}}, [0, 0, 0, 1, 1]),
        ({"year": 2024, "$or": [{"tags": ["beach"]}, {"year": 1}], "$not": {"x": 1}}, [1, 0, 0, 0, 0]),
        ({"year": {"$not": {"$gt": 2000, "$lt": 3000}}}, [0, 0, 1, 1, 1]),
    ],
)
def test_expressions_combine(expression: object, expected: list[int]) -> None:
    assert mask(expression, RECORDS) == [bool(one) for one in expected]


def test_a_dotted_field_is_the_literal_key_first_and_nested_dicts_otherwise() -> None:
    records: list[dict[str, Any] | None] = [
        {"exif": {"iso": 100}},
        {"exif.iso": 100, "exif": {"iso": 7}},
        {"exif.iso": 7, "exif": {"iso": 100}},
        {"exif": {"iso": None}},
        {"exif": [{"iso": 100}]},
        {"exif": 100},
        {"exif": {"iso.x": 100}},
    ]
    assert mask({"exif.iso": 100}, records) == [True, True, False, False, False, False, False]
    assert mask({"exif.iso": {"$exists": True}}, records) == [True, True, True, True, False, False, False]
    assert extract({"a": {"b": {"c": 0}}}, "a.b.c") == 0
    assert extract({"a": {"b": {"c": 0}}}, "a.b") == {"c": 0}
    assert extract({"a": 1}, "a.b.c") is MISSING
    assert extract({"": {"": 1}}, ".") == 1


def test_integers_beyond_float64_compare_exactly() -> None:
    values = [BIG - 1, BIG, float(BIG), BIG + 1, BIG + 2, 2**63 - 1, 2**63, 2.0**63, 2**64 - 1, -(2**63), 0.5]
    for operand in [*values, 2.0**64, -BIG - 1, 1e300, float("inf")]:
        for key, test in {"$eq": operator.eq, **columns.ORDER}.items():
            assert hits({"f": {key: operand}}, values) == [v for v in values if test(v, operand)]
        held = [[v] for v in values]
        assert hits({"f": {"$contains": operand}}, held) == [[v] for v in values if v == operand]
    assert hits({"f": BIG + 1}, [BIG, float(BIG)]) == []
    assert hits({"f": {"$gt": BIG - 1}}, [BIG, 1]) == [BIG]
    assert hits({"f": {"$lt": BIG + 1}}, [BIG, BIG + 2.0]) == [BIG]
    assert hits({"f": {"$gt": BIG + 1}}, [BIG, BIG + 2.0]) == [BIG + 2.0]


@pytest.mark.parametrize("step", [1, 977])
def test_long_in_lists(step: int) -> None:
    values = [MISSING, float("nan"), *range(300), *range(BIG, BIG + 300), *map(str, range(300))]
    wanted = [*range(0, 300 * step, 3 * step), *range(BIG, BIG + 300, 7), *map(str, range(0, 300, 11))]
    assert hits({"f": {"$in": wanted}}, values) == [v for v in values if v in wanted]
    small = [v for v in values if not isinstance(v, int) or v < BIG]
    assert hits({"f": {"$in": wanted}}, small) == [v for v in small if v in wanted]


def test_values_that_are_not_json_match_only_what_a_missing_type_would() -> None:
    nan = float("nan")
    odd = [nan, [nan], {"a": nan}, b"x", {"a": b"x"}, datetime.date(2020, 1, 1)]
    assert hits({"f": {"$exists": True}}, odd) == odd
    assert hits({"f": {"$ne": 0}}, odd) == odd
    assert hits({"f": {"$in": [0, "x", None, [0], {"a": 0}, True, "b'x'"]}}, odd) == []
    for order in columns.ORDER:
        assert hits({"f": {order: 0}}, odd) == []
        assert hits({"f": {order: "x"}}, odd) == []
    stored = [np.float32(0.1), np.int64(BIG + 1), np.True_, np.str_("ab"), (1, 2), [np.int8(1)], Kind.CAT]
    for i, value in enumerate([float(np.float32(0.1)), BIG + 1, True, "ab", [1, 2], [1], "ab"]):
        assert stored[i] in hits({"f": value}, stored)
    assert hits({"f": {"$lt": 0.1}}, [np.float32(0.1)]) == []
    assert hits({"f": {"$gt": 0.1}}, [np.float32(0.1)]) == [np.float32(0.1)]


BAD: list[tuple[Any, list[str]]] = [
    ("year > 3", ["expected an expression", "got str 'year > 3'", "at where."]),
    (None, ["expected an expression", "NoneType", "leave `where` out"]),
    ([{"a": 1}], ["expected an expression", "list"]),
    ({1: 2}, ["strings", "got int 1"]),
    ({"a": {1: 2}}, ["strings", "got int 1", "where['a']"]),
    ({"a": {"$eq": {1: 2}}}, ["strings", "where['a']['$eq']"]),
    ({"year": {"$gtee": 1}}, ["unknown operator '$gtee'", "where['year']", "Did you mean '$gte'?"]),
    ({"year": {"$GTE": 1}}, ["Did you mean '$gte'?"]),
    ({"year": {"$exist": True}}, ["Did you mean '$exists'?"]),
    ({"year": {"$contain": "x"}}, ["Did you mean '$contains'?"]),
    ({"year": {"$zzzzzz": 1}}, ["unknown operator '$zzzzzz'", "$nin", "$contains"]),
    ({"$nor": [{"a": 1}]}, ["unknown operator '$nor'", "Did you mean '$or'?", "$and, $or, $not"]),
    ({"$gt": 3}, ["'$gt' without a field", "{'some_field': {'$gt': …}}"]),
    ({"a": {"$or": [{"$gt": 3}]}}, ["'$or' under a field", "{'$or': [{'a': …}, …]}"]),
    ({"a": {"$gt": 3, "b": 1}}, ["mixed", "'$gt' beside 'b'", "{'$eq': {…}}"]),
    ({"a": {"b": 1, "$gt": 3}}, ["mixed"]),
    (
        {"exif": {"gps": {"lat": {"$gt": 3}}}},
        ["'$gt' stands inside", "{'exif.gps.lat': {'$gt': …}}", "'$eq'"],
    ),
    ({"$and": []}, ["a list of one expression or more", "where['$and']"]),
    ({"$or": {"a": 1}}, ["a list of one expression or more", "got dict"]),
    ({"$and": [{"a": 1}, {"$or": [3]}]}, ["an expression", "got int 3", "where['$and'][1]['$or'][0]"]),
    ({"$not": [{"a": 1}]}, ["an expression", "where['$not']"]),
    ({"a": {"$not": 3}}, ["operators such as", "got int 3", "'$ne'"]),
    ({"a": {"$not": {}}}, ["operators such as", "where['a']['$not']"]),
    ({"a": {"$not": {"b": 1}}}, ["operators such as"]),
    ({"a": {"$not": {"$gt": []}}}, ["where['a']['$not']['$gt']"]),
    ({"a": {"$in": 3}}, ["a list of values", "got int 3", "where['a']['$in']"]),
    ({"a": {"$in": "xy"}}, ["a list of values", "Write ['xy']"]),
    ({"a": {"$nin": {"b": 1}}}, ["a list of values", "got dict"]),
    ({"a": {"$in": {1, 2}}}, ["a list of values", "got set"]),
    ({"a": {"$exists": 1}}, ["True or False", "got int 1"]),
    ({"a": {"$exists": "yes"}}, ["True or False", "got str 'yes'"]),
    ({"a": {"$lt": [1]}}, ["a number, string, bool or date", "got list [1]", "where['a']['$lt']"]),
    ({"a": {"$gte": None}}, ["a number, string, bool or date", "got NoneType", "'$eq'"]),
    ({"a": {"$gt": {"b": 1}}}, ["a number, string, bool or date", "got dict"]),
    ({"a": float("nan")}, ["a number", "nan", "'$exists': False"]),
    ({"a": {"$in": [1, [np.float32("nan")]]}}, ["nan", "where['a']['$in'][1][0]"]),
    ({"a": {"$lt": np.nan}}, ["nan"]),
    ({"a": 2**64}, ["an integer of 64 bits", "got one of 65"]),
    ({"a": {"$lt": -(2**63) - 1}}, ["an integer of 64 bits"]),
    ({"a": 10**5000}, ["an integer of 64 bits"]),
    ({"a": [datetime.date(2020, 1, 1)]}, ["got date", "ISO string"]),
    ({"a": np.datetime64("NaT")}, ["got datetime64"]),
    ({"a": np.datetime64(2**62, "s")}, ["got datetime64"]),
    ({"a": {"$prefix": 3}}, ["a string", "got int 3", "where['a']['$prefix']"]),
    ({"a": {"$regex": 3}}, ["a pattern as a string", "got int 3"]),
    ({"a": {"$regex": "(a"}}, ["'(' that is not closed", "where['a']['$regex']"]),
    ({"a": {"$regex": "a)"}}, ["unmatched ')'"]),
    ({"a": {"$regex": "[a"}}, ["'[' that is not closed"]),
    ({"a": {"$regex": "[z-a]"}}, ["bad character range"]),
    ({"a": {"$regex": "a**"}}, ["a repeat of a repeat"]),
    ({"a": {"$regex": "a++"}}, ["possessive"]),
    ({"a": {"$regex": "*"}}, ["nothing to repeat"]),
    ({"a": {"$regex": "^*"}}, ["nothing to repeat"]),
    ({"a": {"$regex": "a{3,2}"}}, ["most is below its least"]),
    ({"a": {"$regex": r"(a)\1"}}, ["a backreference", "no lookaround"]),
    ({"a": {"$regex": "(?=a)"}}, ["a lookaround"]),
    ({"a": {"$regex": "(?P=a)"}}, ["'(?'"]),
    ({"a": {"$regex": "(?x)a"}}, ["flags other than i, m, s"]),
    ({"a": {"$regex": "\\"}}, ["cannot be used"]),
    ({"a": {"$regex": "a" * 1001}}, ["1000 characters"]),
    ({"a": {"$regex": "(" * 400 + ")" * 400}}, ["nested deeper than 50"]),
    ({"a": {"$regex": "a{9999}"}}, ["4000 parts"]),
    ({"a": {"$regex": "(((){9999}){9999}){9999}"}}, ["4000 parts"]),
    ({"a": {"$regex": re.compile(b"a")}}, ["a pattern as a string", "got bytes"]),
    ({"a": {"$regex": re.compile("a", re.X)}}, ["other flags"]),
    ({"a": {"$regex": "a", "$options": "x"}}, ["letters 'i', 'm', 's'", "where['a']['$options']"]),
    ({"a": {"$options": "i"}}, ["'$options' without '$regex'"]),
    ({"a": {"$near": 3}}, ["a latitude, a longitude and metres", "got int 3", "[48.14, 11.58, 500]"]),
    ({"a": {"$near": [1, 2]}}, ["a latitude, a longitude and metres"]),
    ({"a": {"$near": {"lat": 1, "lon": 2}}}, ["a latitude, a longitude and metres"]),
    ({"a": {"$near": {"lat": 1, "lon": 2, "metres": 3, "km": 4}}}, ["a latitude, a longitude and metres"]),
    ({"a": {"$near": [91, 0, 5]}}, ["from -90 to 90"]),
    ({"a": {"$near": ["1", 0, 5]}}, ["from -90 to 90"]),
    ({"a": {"$near": [1, 0, -5]}}, ["metres of 0 or more", "got int -5"]),
    ({"a": {"$near": [1, 0, float("nan")]}}, ["metres of 0 or more"]),
    ({"a": {"$gt": np.timedelta64(1, "ns")}}, ["got timedelta64"]),
    ({"a": b"x"}, ["got bytes"]),
    ({"a": {1, 2}}, ["got set", "list(…)"]),
    ({"a": np.arange(3)}, ["got ndarray", ".tolist()"]),
    ({"a": 1j}, ["got complex"]),
    ({"a": {"$contains": object}}, ["got type"]),
    ({"a": CYCLE}, ["deeper than 64 levels"]),
    (DEEP, ["deeper than 64 levels", "where['$not']"]),
    (DEEPER, ["deeper than 64 levels"]),
    ({"a" * 999: {"$in": "b" * 999}}, ["...", "a list of values"]),
]


@pytest.mark.parametrize(("expression", "parts"), BAD, ids=range(len(BAD)))
def test_what_cannot_be_read_is_refused_with_the_place_and_a_way_out(
    expression: Any, parts: list[str]
) -> None:
    with pytest.raises(InvalidFilterError) as caught:
        where.parse(expression)
    message = str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert len(message) < 400
    assert "where" in message
    for part in parts:
        assert part in message


def test_sixty_four_levels_are_accepted() -> None:
    expression: dict[str, Any] = {"a": 1}
    for _ in range(operands.MAX_DEPTH - 1):
        expression = {"$not": expression}
    assert where.parse(expression).matches({"a": 1}) is False
    with pytest.raises(InvalidFilterError, match="64 levels"):
        where.parse({"$not": expression})


def test_a_parsed_expression_is_a_value() -> None:
    inner = [1, [2]]
    expression = {"a": {"$in": inner}, "b.c": {"$not": {"$gt": 1}}, "$or": [{"d": 1}, {"$not": {"e": 1}}]}
    parsed = where.parse(expression)
    assert parsed.fields == {"a", "b.c", "d", "e"}
    assert not parsed.everything
    assert where.parse({}).everything
    same = where.parse(copy.deepcopy(expression))
    assert parsed == same
    assert hash(parsed) == hash(same)
    assert pickle.loads(pickle.dumps(parsed)) == parsed
    inner[1] = 3
    assert parsed == same
    assert not parsed.matches({"a": 3, "d": 1})
    assert parsed.matches({"a": [2], "d": 1})
    with pytest.raises(AttributeError):
        parsed.fields = frozenset()  # type: ignore[misc]
    for one, other in [(1, True), (0, False), (1, "1"), ([1], [True]), (None, False)]:
        assert where.parse({"a": one}) != where.parse({"a": other})
    assert where.parse({"a": {"$lt": 1}}) != where.parse({"a": {"$lt": True}})


def test_columns_come_from_a_callable_once_a_field_and_must_agree_in_size() -> None:
    asked: list[str] = []

    def column(name: str) -> Column:
        asked.append(name)
        return Column(3)

    parsed = where.parse({"$or": [{"a": 1}, {"a": 2, "b": {"$ne": 3}}]})
    assert parsed.mask(column).tolist() == [False] * 3
    assert asked == ["a", "b"]
    with pytest.raises(ValueError, match=r"one size, got \[1, 2\]"):
        parsed.mask({"a": Column(1), "b": Column(2)})
    with pytest.raises(ValueError, match="one size"):
        parsed.mask(column, size=4)
    with pytest.raises(ValueError, match="size="):
        where.parse({}).mask({})
    assert where.parse({}).mask({}, size=2).tolist() == [True, True]
    assert where.parse({"a": {"$ne": 1}}).mask({"a": Column(0)}).tolist() == []


def test_a_mask_is_fresh() -> None:
    column = Column(2)
    column.put([0], [1])
    parsed = where.parse({"a": {"$exists": True}})
    parsed.mask({"a": column})[:] = True
    assert parsed.mask({"a": column}).tolist() == [True, False]


def test_what_was_parsed_before_is_not_parsed_again_and_nothing_else_is_taken_for_it() -> None:
    expression: dict[str, Any] = {"year": {"$gte": 2020}, "tags": {"$contains": "sea"}}
    first = where.parse(expression)
    assert where.parse(dict(expression)) is first
    expression["year"] = {"$gte": 2021}
    assert not where.parse(expression).matches({"year": 2020, "tags": ["sea"]})
    assert first.matches({"year": 2020, "tags": ["sea"]})
    for one, other in ((1, True), (0, False), (1, "1"), ("a", b"a"), ([1], [True]), ("a", datetime.date(2020, 1, 1))):
        asked = []
        for value in (one, other):
            try:
                asked.append(where.parse({"a": value}).matches({"a": one}))
            except InvalidFilterError:
                asked.append(False)
        assert asked == [True, False]
    bits = np.float64(1.5).view(np.int64)
    assert where.parse({"a": np.float64(1.5)}).matches({"a": 1.5})
    assert where.parse({"a": bits}).matches({"a": int(bits)})
    assert where.parse({"a": [np.float64(1.5)]}).matches({"a": [1.5]})
    assert where.parse({"a": {"$in": (bits, 2)}}).matches({"a": int(bits)})
    for number in range(1000):
        where.parse({"n": number})
    assert where.parse({"n": [1] * 100_000}).matches({"n": [1] * 100_000})
    with pytest.raises(InvalidFilterError):
        where.parse({"n": float("nan")})
    with pytest.raises(InvalidFilterError):
        where.parse({"n": float("nan")})
