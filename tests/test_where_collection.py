"""Filters through a collection: by scan and beside a graph, over random records, before and after any churn."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterator
from datetime import timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vecstore
from vecstore import config
from vecstore.query import fields, indexed

UTC = timezone.utc
START = datetime.datetime(2024, 1, 1, tzinfo=UTC)
ZONES = [timezone(datetime.timedelta(hours=hours)) for hours in (-8, 0, 2)]
COUNT = 600


def made(number: int, random: np.random.Generator) -> dict[str, Any]:
    """A record's metadata: each field is often missing, and sometimes of another type."""
    moment = START + datetime.timedelta(hours=int(random.integers(0, 1000)))
    latitude, longitude = float(random.uniform(-60, 60)), float(random.uniform(-180, 180))
    fields: dict[str, list[Any]] = {
        "n": [number, number / 2, str(number), None, True],
        "name": [f"IMG_{number:04}.jpg", f"img {number}\n", "", 5, [f"IMG_{number:04}.jpg"]],
        "taken": [
            moment.astimezone(ZONES[number % 3]).isoformat(),
            moment.date().isoformat(),
            "unknown",
            None,
        ],
        "place": [[latitude, longitude], {"lat": latitude, "lon": longitude}, "here", [latitude]],
        "tags": [["a", f"t{number % 7}"], [], "a", [number % 5]],
    }
    found = {
        name: values[int(random.choice(len(values)))]
        for name, values in fields.items()
        if random.random() < 0.8
    }
    return {"in": found} | found


def in_order(found: Any, operator: str, asked: Any) -> bool:
    return bool(
        {"$lt": found < asked, "$lte": found <= asked, "$gt": found > asked, "$gte": found >= asked}[operator]
    )


def moment_of(text: Any) -> datetime.datetime | None:
    if not isinstance(text, str) or text[:2] != "20":
        return None
    found = datetime.datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def arc(a: Any, b: Any) -> float:
    (north, east), (n, e) = (map(math.radians, place) for place in (a, b))
    cosine = math.sin(north) * math.sin(n) + math.cos(north) * math.cos(n) * math.cos(east - e)
    return 6_371_008.8 * math.acos(max(-1.0, min(1.0, cosine)))


def naive(value: Any, there: bool, operator: str, asked: Any) -> bool:
    """One test of one field, spelled out."""
    if operator == "$exists":
        return there is asked
    if operator == "$ne":
        return not naive(value, there, "$eq", asked)
    if not there:
        return False
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if operator in ("$lt", "$lte", "$gt", "$gte"):
        if isinstance(asked, datetime.datetime):
            moment = moment_of(value)
            return moment is not None and in_order(moment, operator, asked)
        return number and in_order(value, operator, asked)
    if operator == "$eq":
        if isinstance(asked, datetime.datetime):
            return moment_of(value) == asked
        return type(value) is str and value == asked if isinstance(asked, str) else number and value == asked
    if operator == "$in":
        return any(naive(value, there, "$eq", one) for one in asked)
    if operator == "$contains":
        return (
            any(item == asked and type(item) is type(asked) for item in value)
            if isinstance(value, list)
            else (isinstance(value, str) and isinstance(asked, str) and asked in value)
        )
    if operator == "$prefix":
        return isinstance(value, str) and value.startswith(asked)
    if operator == "$regex":
        return isinstance(value, str) and re.search(asked, value) is not None
    place = [value.get("lat"), value.get("lon")] if isinstance(value, dict) else value
    whole = isinstance(place, list) and len(place) == 2 and all(isinstance(one, float) for one in place)
    return whole and arc(place, asked[:2]) <= asked[2]


moments = st.builds(
    lambda hours, zone: (START + datetime.timedelta(hours=hours)).astimezone(zone),
    st.integers(0, 1000),
    st.sampled_from(ZONES),
)
tests: dict[str, st.SearchStrategy[Any]] = {
    "n": st.one_of(
        st.tuples(st.sampled_from(["$lt", "$lte", "$gt", "$gte", "$eq", "$ne"]), st.integers(0, COUNT)),
        st.tuples(st.just("$in"), st.lists(st.integers(0, COUNT) | st.sampled_from(["1", "2"]), max_size=5)),
    ),
    "name": st.one_of(
        st.tuples(st.just("$prefix"), st.sampled_from(["IMG_", "IMG_00", "img", "", "x"])),
        st.tuples(
            st.just("$regex"),
            st.sampled_from([r"^IMG_\d*5\.", r"\d$", r"(1|2)\d+", r"[^A-Z]m", "^$", r"\bimg\b"]),
        ),
        st.tuples(st.just("$exists"), st.booleans()),
    ),
    "taken": st.tuples(st.sampled_from(["$lt", "$lte", "$gt", "$gte", "$eq", "$ne"]), moments)
    | st.tuples(st.just("$in"), st.lists(moments, max_size=3)),
    "place": st.tuples(
        st.just("$near"),
        st.tuples(st.floats(-90, 90), st.floats(-180, 180), st.sampled_from([1e5, 1e6, 5e6, 3e7])),
    ),
    "tags": st.tuples(st.just("$contains"), st.sampled_from(["a", "t3", 1, 4])),
}
one_test = st.one_of([st.tuples(st.sampled_from([name, f"in.{name}"]), test) for name, test in tests.items()])
questions = st.lists(st.tuples(one_test, st.booleans()), min_size=1, max_size=3)


def expression(question: Any) -> dict[str, Any]:
    return {
        "$and": [
            {"$not": {name: {key: value}}} if turned else {name: {key: value}}
            for (name, (key, value)), turned in question
        ]
    }


def expected(question: Any, model: dict[int, dict[str, Any]]) -> set[int]:
    def matches(metadata: dict[str, Any]) -> bool:
        found = []
        for (name, (key, value)), turned in question:
            level, last = (metadata["in"], name[3:]) if name.startswith("in.") else (metadata, name)
            found.append(naive(level.get(last), last in level, key, value) is not turned)
        return all(found)

    return {number for number, metadata in model.items() if matches(metadata)}


class World:
    """A collection, and what it should hold."""

    def __init__(self, collection: vecstore.Collection) -> None:
        self.collection = collection
        self.random = np.random.default_rng(1)
        self.model: dict[int, dict[str, Any]] = {}
        self.put(range(COUNT))

    def put(self, numbers: Any) -> None:
        metadata = {number: made(number, self.random) for number in numbers}
        self.collection.upsert(
            list(metadata), self.random.normal(size=(len(metadata), 4)), list(metadata.values())
        )
        self.model |= metadata

    def churn(self) -> None:
        some = self.random.choice(COUNT, 30).tolist()
        self.put(some[:10])
        changed = [number for number in dict.fromkeys(some[10:20]) if number in self.model]
        for number in changed:
            new = made(number, self.random)
            self.model[number] = self.model[number] | new
        self.collection.update(changed, [self.model[number] for number in changed])
        for number in changed:
            self.model[number] = {
                key: value for key, value in self.model[number].items() if value is not None
            }
        self.collection.delete(some[20:])
        for number in some[20:]:
            self.model.pop(number, None)


@pytest.fixture(scope="module", params=["scan", "graph", "indexes"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "graph":
            patch.setattr(config, "GRAPH_FROM", 400)
            patch.setattr(config, "GRAPH_FROM_BYTES", 0)
        if request.param == "indexes":  # and nothing else: reading a field out of records would fail
            patch.setattr(config, "READ_INDEXED_FROM", 0)
            patch.setattr(indexed, "_DISTINCT", 1)
            patch.delattr(fields.Fields, "_read")
        path: Path = tmp_path_factory.mktemp(request.param) / "w.vec"
        with vecstore.open(path, dim=4, metric="l2") as collection:
            world = World(collection)
            for name in tests if request.param == "indexes" else ():
                collection.create_index(name)
                collection.create_index(f"in.{name}")
            yield world
            assert collection.verify().ok


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(questions, st.sampled_from(["no", "before", "inside"]))
def test_filters_find_what_a_naive_reading_finds(world: World, question: Any, churned: str) -> None:
    collection, where = world.collection, expression(question)
    if churned == "before":
        world.churn()
    query = np.zeros(4)
    if churned == "inside":
        with collection.transaction():
            world.churn()
            wanted = expected(question, world.model)
            assert {record.id for record in collection.scan(where=where, vectors=False)} == wanted
            assert set(collection.search(query, k=COUNT, where=where).ids) == wanted
    with vecstore.open(collection.path, mode="r") as reader:
        assert {record.id for record in reader.scan(where=where, vectors=False)} == expected(question, world.model)
    wanted = expected(question, world.model)
    assert {record.id for record in collection.scan(where=where, vectors=False)} == wanted
    assert set(collection.search(query, k=COUNT, where=where).ids) == wanted
    few = collection.search(query, k=7, where=where)
    assert len(few) == min(7, len(wanted))
    assert set(few.ids) <= wanted
    assert len(list(collection.stream(query, where=where))) == len(wanted)
