"""Dates, prefixes, patterns and places in filters, against Python's own reading of them."""

from __future__ import annotations

import datetime
import math
import pickle
import re
import time
import warnings
from collections.abc import Callable
from datetime import date, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import vecstore
from vecstore.errors import InvalidFilterError
from vecstore.query import where
from vecstore.query.columns import ORDER, Column
from vecstore.query.patterns import Pattern

UTC = timezone.utc
DAY = datetime.datetime(2024, 5, 1, 12, tzinfo=UTC)


def hits(operand: object, values: list[Any]) -> list[Any]:
    """Those of the values that match, by column and one by one."""
    parsed = where.parse({"f": operand})
    column = Column(len(values))
    half = len(values) // 2
    column.put(range(half), values[:half])
    parsed.mask({"f": column})  # so that what was read of the first values is kept
    column.put(range(half, len(values)), values[half:])
    found = parsed.mask({"f": column}).tolist()
    assert found == [parsed.matches({"f": value}) for value in values]
    return [value for value, hit in zip(values, found, strict=True) if hit]


# -- dates

SAME = [
    "2024-05-01T12:00:00Z",
    "2024-05-01T14:00:00+02:00",
    "2024-05-01 07:30:00.000-04:30",
    "2024-05-01T12:00",
    "2024-05-02T02:00:00+1400",
]
NOT_DATES: list[Any] = [
    "2024-05-01T25:00",
    "2024-13-01",
    "May",
    "",
    20240501,
    None,
    True,
    ["2024-05-01"],
    "2024-05-01T12:00 Z",
]


def test_moments_compare_whatever_their_zones() -> None:
    before, after = "2024-05-01T13:59:59+02:00", "2024-05-01T12:00:00.000001Z"
    values = [*SAME, before, after, *NOT_DATES]
    for moment in (
        DAY,
        DAY.astimezone(timezone(timedelta(hours=-8))),
        DAY.replace(tzinfo=None),
        np.datetime64("2024-05-01T12"),
    ):
        assert hits(moment, values) == SAME
        assert hits({"$lt": moment}, values) == [before]
        assert hits({"$gte": moment}, values) == [*SAME, after]
        assert hits({"$in": [moment, "May", None]}, values) == [*SAME, "May", None]
        assert hits({"$nin": [moment, "May", None]}, values) == [
            v for v in [before, after, *NOT_DATES] if v not in ("May", None)
        ]
        assert hits({"$ne": moment}, values) == [before, after, *NOT_DATES]
    assert hits({"$contains": date(2024, 5, 1)}, values) == [["2024-05-01"]]


def test_a_text_with_a_zone_is_a_moment_in_an_order_and_any_other_is_text() -> None:
    values = [*SAME, "2024-05-01", "May"]
    assert hits({"$gte": "2024-05-01T12:00:00+00:00"}, values) == SAME
    assert hits({"$gte": "2024-05-01"}, values) == values
    assert hits({"$gt": "2024-05-01T12:00"}, values) == [SAME[0], SAME[1], SAME[4], "May"]
    assert hits("2024-05-01T12:00:00Z", values) == [SAME[0]]


def test_a_day_is_its_first_moment() -> None:
    values = ["2024-05-01", "2024-05-01T00:00:00Z", "2024-05-01T00:00:01", "2024-04-30"]
    assert hits(date(2024, 5, 1), values) == values[:2]
    assert hits({"$lte": date(2024, 5, 1)}, values) == [*values[:2], values[3]]
    assert hits({"$gt": date.min, "$lt": date.max}, values) == values


zones = st.none() | st.builds(lambda m: timezone(timedelta(minutes=m)), st.integers(-14 * 60, 14 * 60))
moments = st.builds(
    lambda moment, zone: moment.replace(tzinfo=zone),
    st.datetimes(datetime.datetime(1, 1, 3), datetime.datetime(9999, 12, 29))
    | st.sampled_from([DAY.replace(tzinfo=None), datetime.datetime(1970, 1, 1)]),
    zones,
)


def in_utc(value: date) -> datetime.datetime:
    if not isinstance(value, datetime.datetime):
        value = datetime.datetime(value.year, value.month, value.day)
    return value if value.tzinfo else value.replace(tzinfo=UTC)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(moments | st.dates(date(2, 1, 1)), min_size=1),
    moments | st.dates(date(2, 1, 1)),
    st.sampled_from([*ORDER, "$eq"]),
)
def test_dates_as_python_compares_them(stored: list[date], asked: date, order: str) -> None:
    test = ORDER.get(order, lambda a, b: a == b)
    values = [value.isoformat() for value in stored]
    expected = [value.isoformat() for value in stored if test(in_utc(value), in_utc(asked))]
    assert hits({order: asked}, values) == expected


def test_dates_in_metadata_become_iso_texts(opened: Callable[..., vecstore.Collection]) -> None:
    pandas = pytest.importorskip("pandas")
    berlin = timezone(timedelta(hours=2))
    given_as = [
        DAY,
        DAY.astimezone(berlin),
        date(2024, 5, 1),
        np.datetime64("2024-05-01T12:00:00", "ns"),
        np.datetime64("2024-05"),
        pandas.Timestamp(DAY),
        pandas.NaT,
        np.datetime64("NaT"),
    ]
    with opened(dim=1, metric="l2") as c:
        c.add(range(8), np.zeros((8, 1)), [{"t": value, "all": [value]} for value in given_as])
        stored = [record.metadata["t"] for record in c]
        assert stored == [
            "2024-05-01T12:00:00+00:00",
            "2024-05-01T14:00:00+02:00",
            "2024-05-01",
            "2024-05-01T12:00:00",
            "2024-05-01",
            "2024-05-01T12:00:00+00:00",
            None,
            None,
        ]
        assert [record.metadata["all"] for record in c] == [[value] for value in stored]
        assert sorted(c.search([0], k=8, where={"t": DAY}).ids) == [0, 1, 3, 5]
        assert sorted(c.search([0], k=8, where={"t": {"$lt": DAY}}).ids) == [2, 4]
        with c.transaction():
            assert c.delete(where={"t": {"$gte": DAY.astimezone(berlin)}}) == 4
        c.add(9, [1], {"days": np.array(["2024-05-01", "NaT"], "M8[D]")})
        assert c[9].metadata == {"days": ["2024-05-01", None]}
        with pytest.raises(vecstore.InvalidMetadataError, match="years 1 to 9999"):
            c.add(10, [1], {"t": np.datetime64(2**62, "s")})


# -- prefixes and patterns


def test_prefixes() -> None:
    values = ["", "a", "ab", "ba", "ä", ["a"], None, 1]
    assert hits({"$prefix": "a"}, values) == ["a", "ab"]
    assert hits({"$prefix": ""}, values) == ["", "a", "ab", "ba", "ä"]
    assert hits({"$not": {"$prefix": "a"}}, values) == ["", "ba", "ä", ["a"], None, 1]


def test_patterns_and_their_options() -> None:
    values = ["IMG_1.jpg", "img_22.PNG", "x\nimg", "", ["IMG_1.jpg"], 5]
    assert hits({"$regex": r"^IMG_\d+\.jpg$"}, values) == ["IMG_1.jpg"]
    assert hits({"$regex": "^img", "$options": "i"}, values) == values[:2]
    assert hits({"$options": "im", "$regex": "^img"}, values) == values[:3]
    assert hits({"$regex": re.compile("(?i)^img", re.M)}, values) == values[:3]
    assert hits({"$regex": "(?i:i)mg", "$prefix": "img"}, values) == ["img_22.PNG"]
    assert hits({"$regex": "(?P<kind>img)_"}, values) == values[1:2]
    assert hits({"$regex": ""}, values) == values[:4]
    same = where.parse({"a": {"$regex": "b", "$options": "i"}})
    assert (
        same == where.parse({"a": {"$regex": re.compile("b", re.I)}}) != where.parse({"a": {"$regex": "b"}})
    )
    assert pickle.loads(pickle.dumps(same)) == same


ATOMS = [
    *"ab1.\n- ",
    "[ab]",
    "[^a]",
    "[]a]",
    r"[\]a]",
    r"\d",
    r"\w",
    r"\W",
    r"\s",
    "^",
    "$",
    r"\b",
    r"\A",
    r"\Z",
    "é",
    r"\.",
    r"\x61",
    r"\u00e9",
]
REPEATS = ["*", "+", "?", "*?", "+?", "??", "{2}", "{1,2}", "{,2}", "{2,}", "{,}", "{2}?"]
patterns = st.recursive(
    st.sampled_from([*ATOMS, "{", "{a}", "(?i:B)", "(?s:.)", "(?-i:a)", "()"]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map("|".join),
        inner.map("({})".format),
        st.tuples(inner, st.sampled_from(REPEATS)).map("(?:{0[0]}){0[1]}".format),
    ),
    max_leaves=8,
)
texts = st.lists(st.text("aAbB1-_\n é", max_size=8), min_size=1, max_size=8)
flags = st.sampled_from([0, re.I, re.M, re.S, re.I | re.M | re.S])


@settings(max_examples=500, deadline=None)
@given(patterns, flags, texts)
def test_patterns_as_re_reads_them(pattern: str, flag: int, some: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = re.compile(pattern, flag)
    assert list(Pattern(pattern, int(flag)).search(some)) == [plain.search(text) is not None for text in some]


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a|a)*b",
        "(a|aa)+$",
        "([a-zA-Z]+)*$",
        "(.*a){12}$",
        "(a?){400}a{400}b",
        "((a*)*)*b",
        "(a*)*(a*)*(a*)*c",
    ],
)
def test_patterns_that_blow_up_elsewhere_take_no_time(pattern: str) -> None:
    start = time.perf_counter()
    hits({"$regex": pattern}, ["a" * 30 + "!", "a" * 20_000 + "!", "é" * 20_000])
    assert time.perf_counter() - start < 10


def test_patterns_with_more_states_than_can_be_followed_end_in_an_error_soon() -> None:
    noise = np.random.default_rng(0).choice(list("ab"), size=2_000_000)
    start = time.perf_counter()
    with pytest.raises(InvalidFilterError, match=r"where\['f'\]\['\$regex'\]") as caught:
        hits({"$regex": "(a|b)*a(a|b){500}c"}, ["".join(noise.tolist())])
    assert "fewer repeats" in str(caught.value)
    assert time.perf_counter() - start < 30


def test_states_are_dropped_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vecstore.query.patterns._MOST_KEPT", 5)
    some = ["".join(chr(97 + (i * j) % 11) for j in range(30)) for i in range(50)]
    for pattern in ("a.?b|c[^d]{2,4}e|(fg|h)+i", r"\bab|k\Z"):
        assert list(Pattern(pattern).search(some)) == [re.search(pattern, text) is not None for text in some]


# -- places


def arc(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Metres between two places, by the angle between their directions."""
    one, other = (
        np.array([math.cos(n) * math.cos(e), math.cos(n) * math.sin(e), math.sin(n)])
        for n, e in (map(math.radians, place) for place in (a, b))
    )
    return 6_371_008.8 * math.atan2(float(np.linalg.norm(np.cross(one, other))), float(one @ other))


def test_places_in_every_form() -> None:
    munich = [
        {"lat": 48.137, "lon": 11.575},
        {"latitude": 48.137, "longitude": 11.575, "name": "Marienplatz"},
        {"lat": 48.137, "lng": 11.575},
        [48.137, 11.575],
        {"type": "Point", "coordinates": [11.575, 48.137]},
        {"type": "Point", "coordinates": [11.575, 48.137, 519]},
    ]
    others: list[Any] = [[48.3, 11.575], {"lat": 48.3, "lon": 11.575}]
    wrong: list[Any] = [
        None,
        "48,11",
        48.137,
        [48.137],
        [True, 11],
        [48.137, 11.575, 3],
        {"lat": 48},
        {"lat": "48", "lon": 11},
    ]
    wrong += [
        [91, 0],
        [0, 361],
        {"type": "Point", "coordinates": 3},
        {"lat": float("nan"), "lon": 0},
        {"lat": None, "lon": 1},
    ]
    values = [*munich, *others, *wrong]
    for asked in (
        [48.137, 11.576, 100],
        {"lat": 48.137, "lon": 11.576, "metres": 100},
        {"latitude": 48.137, "longitude": 11.576, "meters": 100},
    ):
        assert hits({"$near": asked}, values) == munich
    assert hits({"$near": [48.137, 11.575, 0]}, values) == munich
    assert hits({"$near": [0, 0, 1e9]}, values) == [*munich, *others]
    assert len(hits({"$not": {"$near": [48, 11, 50_000]}}, values)) == len(others + wrong)


latitudes, longitudes = st.floats(-90, 90), st.floats(-180, 180)
spots = st.tuples(latitudes, longitudes) | st.sampled_from(
    [(0.0, 180.0), (0.0, -180.0), (90.0, 0.0), (-90.0, 50.0), (0.0, 0.0)]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(spots, min_size=1, max_size=10), spots, st.floats(0, 2.1e7))
def test_distances_on_the_earth(
    stored: list[tuple[float, float]], asked: tuple[float, float], metres: float
) -> None:
    distances = [arc(place, asked) for place in stored]
    assume(all(abs(distance - metres) > 1 for distance in distances))
    values = [list(place) for place in stored]
    expected = [value for value, distance in zip(values, distances, strict=True) if distance < metres]
    assert hits({"$near": [*asked, metres]}, values) == expected
