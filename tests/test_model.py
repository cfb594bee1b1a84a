"""A state machine of every call, against a plain dict and brute force.

Each step is one call (add, upsert, update, delete, search, …) that the collection and the model both do;
whatever can be seen of the collection is then compared. The usual run takes well under a minute. For a
long one, say how many steps in all, and Hypothesis' seed if another walk is wanted:

    VECSTORE_LONG_STEPS=50000 pytest tests/test_model.py --hypothesis-seed=random
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import vecstore
from vecstore import config

LONG_STEPS = int(os.environ.get("VECSTORE_LONG_STEPS", "0"))
# Long walks find what only piles up over time; short ones start afresh more often.
STEPS_A_WALK = 250 if LONG_STEPS else 40

KINDS = [
    (3, "l2", "float32"),
    (5, "cosine", "float16"),
    (17, "hamming", "binary"),
    (600, "ip", "int8"),
    (64, "l2", "float32"),
]

small = st.integers(0, 40)
names = st.sampled_from([f"id {n}" for n in range(30)] + ["é", "x" * 70, "y" * 4096])
ids = st.one_of(small, names, st.sampled_from([-(2**63), 2**63 - 1, -1]))
id_lists = st.lists(ids, min_size=0, max_size=12, unique_by=lambda id_: (type(id_), id_))
seeds = st.integers(0, 2**32 - 1)
values = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from(["red", "blue", 0.5, 2**60, -1.0]),
    st.lists(st.sampled_from([1, "red", None]), max_size=3),
    st.fixed_dictionaries({"b": st.integers(0, 2)}),
)  # fmt: skip
metadatas = st.dictionaries(st.sampled_from(["n", "color", "a", "tags"]), values, max_size=4)
filters = st.one_of(
    st.fixed_dictionaries({"n": st.integers(-3, 3)}),
    st.builds(lambda op, n: {"n": {op: n}}, st.sampled_from(["$lt", "$gte", "$ne"]), st.integers(-3, 3)),
    st.just({"color": {"$in": ["red", "blue"]}}),
    st.just({"tags": {"$contains": "red"}}),
    st.just({"a.b": {"$gte": 1}}),
    st.just({"color": {"$exists": True}}),
    st.just({"$or": [{"n": {"$gt": 0}}, {"color": "red"}]}),
)
indexed = st.sampled_from(["n", "color", "a.b", "tags", "text", "nowhere"])


class UndoError(Exception):
    """Raised inside a transaction to roll it back."""


def matches(metadata: dict[str, Any], expression: dict[str, Any]) -> bool:
    """The few filters used here, written out on their own."""

    def number(value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool)

    (field, test), *_ = expression.items()
    if field == "$or":
        return any(matches(metadata, part) for part in test)
    value = metadata.get(field)
    if field == "a.b":
        inner = metadata.get("a")
        return isinstance(inner, dict) and number(inner.get("b")) and inner["b"] >= 1
    if not isinstance(test, dict):
        return field in metadata and type(value) is not bool and value == test
    ((operator, operand),) = test.items()
    if operator == "$exists":
        return field in metadata
    if operator == "$in":
        return isinstance(value, str) and value in operand
    if operator == "$contains":
        return (isinstance(value, list) and operand in value) or (isinstance(value, str) and operand in value)
    if operator == "$ne":
        return not (number(value) and value == operand)
    if operator == "$gt":
        return number(value) and value > operand
    return number(value) and (value < operand if operator == "$lt" else value >= operand)


class Walk(RuleBasedStateMachine):
    @initialize(kind=st.sampled_from(KINDS), memory=st.sampled_from([None, "16MiB"]))
    def begin(self, kind: tuple[int, str, str], memory: str | None) -> None:
        self.dim, self.metric, self.dtype = kind
        self.memory = memory
        self.folder = tempfile.mkdtemp()
        self.path = os.path.join(self.folder, "walk.vec")
        self.model: dict[Any, tuple[bytes, dict[str, Any]]] = {}
        self.indexes: set[str] = set()
        self.collection = vecstore.open(
            self.path, dim=self.dim, metric=self.metric, dtype=self.dtype, durability="none", memory=memory
        )
        self.second: vecstore.Collection | None = None
        self.held: list[tuple[Any, list[Any]]] = []

    def teardown(self) -> None:
        if not hasattr(self, "folder"):
            return
        try:
            for iterator, expected in self.held:
                assert [record.id for record in iterator] == expected
            report = self.collection.verify()
            assert report.problems == ()
            assert report.records == len(self.model)
            self.compare()
            assert {name: index["built"] for name, index in self.collection.indexes().items()} == dict.fromkeys(self.indexes, 1.0)
        finally:
            self.held.clear()
            if self.second is not None:
                self.second.close()
            self.collection.close()
            shutil.rmtree(self.folder)

    # -- the model

    def rows(self, count: int, seed: int) -> np.ndarray:
        """Vectors as stored; from a small set, so that an upsert often brings the same one again."""
        rng = np.random.default_rng(seed)
        if self.dtype == "binary":
            bits = rng.integers(0, 2, (count, self.dim), dtype=np.uint8)
            return np.packbits(bits, axis=1)
        if self.dtype == "int8":
            return rng.integers(-128, 128, (count, self.dim)).astype(np.int8)
        rows = rng.integers(-3, 4, (count, self.dim)).astype(self.dtype)
        rows[:, 0] = rng.integers(1, 4, count)
        return rows

    def distances(self, rows: np.ndarray, query: np.ndarray) -> np.ndarray:
        if self.dtype == "binary":
            return np.unpackbits(rows ^ query, axis=1).sum(axis=1).astype(float)
        rows, query = rows.astype(float), query.astype(float)
        if self.metric == "l2":
            return np.sqrt(((rows - query) ** 2).sum(axis=1))
        if self.metric == "ip":
            return -(rows @ query)
        return 1 - rows @ query / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)

    def table(self, where: Any = None) -> tuple[list[Any], np.ndarray]:
        found = [id_ for id_, (_, data) in self.model.items() if where is None or matches(data, where)]
        dtype = np.uint8 if self.dtype == "binary" else np.dtype(self.dtype)
        width = (self.dim + 7) // 8 if self.dtype == "binary" else self.dim
        joined = b"".join(self.model[id_][0] for id_ in found)
        return found, np.frombuffer(joined, dtype=dtype).reshape(len(found), width)

    def check_hits(self, hits: Any, query: np.ndarray, where: Any, k: int | None, radius: float | None, but: Any = None) -> None:
        found, rows = self.table(where)
        truth = self.distances(rows, query) if found else np.zeros(0)
        distance_of = {id_: d for id_, d in zip(found, truth.tolist(), strict=True) if id_ != but or type(id_) is not type(but)}
        expected = sorted(d for d in distance_of.values() if radius is None or d <= radius)[:k]
        np.testing.assert_allclose(hits.distances, expected, rtol=1e-5, atol=1e-5)
        assert len(set(hits.ids)) == len(hits)
        for hit in hits:
            assert math.isclose(hit.distance, distance_of[hit.id], rel_tol=1e-5, abs_tol=1e-5)
            assert hit.metadata == self.model[hit.id][1]

    def compare(self) -> None:
        seen = {}
        for record in self.collection:
            assert record.id not in seen
            seen[record.id] = record.vector.tobytes(), record.metadata
        assert seen == self.model

    def apply(self, ids: list[Any], rows: np.ndarray, metadata: list[dict[str, Any]]) -> None:
        for id_, row, data in zip(ids, rows, metadata, strict=True):
            self.model[id_] = row.tobytes(), dict(data)

    def add_now(self, ids: list[Any], seed: int, data: dict[str, Any]) -> None:
        rows = self.rows(len(ids), seed)
        if any(id_ in self.model for id_ in ids):
            with pytest.raises(vecstore.DuplicateIdError):
                self.collection.add(ids, rows, [data] * len(ids))
        else:
            assert self.collection.add(ids, rows, [data] * len(ids)) == len(ids)
            self.apply(ids, rows, [data] * len(ids))

    def upsert_now(self, ids: list[Any], seed: int, data: dict[str, Any]) -> None:
        rows = self.rows(len(ids), seed)
        metadata = [{**data, "n": place % 3} for place in range(len(ids))]
        assert self.collection.upsert(ids, rows, metadata) == len(ids)
        self.apply(ids, rows, metadata)

    def update_now(self, ids: list[Any], data: dict[str, Any]) -> None:
        if any(id_ not in self.model for id_ in ids):
            with pytest.raises(vecstore.RecordNotFoundError):
                self.collection.update(ids, [data] * len(ids))
            return
        assert self.collection.update(ids, [data] * len(ids)) == len(ids)
        for id_ in ids:
            row, old = self.model[id_]
            merged = {**old, **data}
            self.model[id_] = row, {k: v for k, v in merged.items() if not (k in data and data[k] is None)}

    def delete_now(self, ids: list[Any] | None, where: dict[str, Any] | None) -> None:
        gone = [
            id_ for id_, (_, data) in self.model.items()
            if (ids is None or id_ in ids) and (where is None or matches(data, where))
        ]  # fmt: skip
        assert self.collection.delete(ids, where=where) == len(gone)
        for id_ in gone:
            del self.model[id_]

    # -- steps

    @rule(ids=id_lists, seed=seeds, data=metadatas)
    def add(self, ids: list[Any], seed: int, data: dict[str, Any]) -> None:
        self.add_now(ids, seed, data)

    @rule(ids=id_lists, seed=st.integers(0, 3), data=metadatas)
    def upsert(self, ids: list[Any], seed: int, data: dict[str, Any]) -> None:
        self.upsert_now(ids, seed, data)

    @rule(ids=id_lists, data=metadatas)
    def update(self, ids: list[Any], data: dict[str, Any]) -> None:
        self.update_now(ids, data)

    @precondition(lambda self: self.model)
    @rule(draw=st.data(), data=metadatas)
    def update_present(self, draw: Any, data: dict[str, Any]) -> None:
        present = sorted(self.model, key=repr)[:200]
        self.update_now(draw.draw(st.lists(st.sampled_from(present), max_size=8, unique=True)), data)

    @rule(ids=id_lists)
    def delete(self, ids: list[Any]) -> None:
        self.delete_now(ids, None)

    @rule(where=filters, ids=st.one_of(st.none(), id_lists))
    def delete_where(self, where: dict[str, Any], ids: list[Any] | None) -> None:
        self.delete_now(ids, where)

    @rule(first=st.integers(0, 3), count=st.integers(500, 3000), seed=seeds, text=st.booleans())
    def upsert_many(self, first: int, count: int, seed: int, text: bool) -> None:
        start = 1000 + first * 1500
        ids = [f"many {n}" if text else n for n in range(start, start + count)]
        self.upsert_now(ids, seed, {"color": "blue"})

    @rule(first=st.integers(0, 3), step=st.integers(1, 3), text=st.booleans())
    def delete_many(self, first: int, step: int, text: bool) -> None:
        start = 1000 + first * 1500
        ids = [f"many {n}" if text else n for n in range(start, start + 3000, step)]
        self.delete_now(ids, None)

    @rule(ids=id_lists, seed=seeds, length=st.sampled_from([3000, 9000, 40_000, 200_000]))
    def upsert_long(self, ids: list[Any], seed: int, length: int) -> None:
        self.upsert_now(ids[:4], seed, {"text": "z" * length, "color": "red"})

    @rule(length=st.sampled_from([1, 5000, 70_000]))
    def update_long(self, length: int) -> None:
        self.update_now(list(self.model)[:5], {"text": "u" * length})

    @rule(
        calls=st.lists(
            st.one_of(
                st.tuples(st.just("add"), id_lists, seeds, metadatas),
                st.tuples(st.just("upsert"), id_lists, st.integers(0, 3), metadatas),
                st.tuples(st.just("update"), id_lists, metadatas),
                st.tuples(st.just("delete"), st.none(), filters),
                st.tuples(st.just("delete"), id_lists, st.none()),
                st.tuples(st.just("look")),
            ),
            max_size=5,
        ),
        big=st.booleans(),
        undo=st.booleans(),
    )
    def transaction(self, calls: list[Any], big: bool, undo: bool) -> None:
        before = dict(self.model)
        try:
            with self.collection.transaction():
                if big:
                    self.upsert_now(list(range(1500, 4000)), 7, {"color": "red"})
                for name, *arguments in calls:
                    if name == "look":
                        self.compare()
                        self.check_search(0, 5, None, None)
                    else:
                        getattr(self, f"{name}_now")(*arguments)
                assert len(self.collection) == len(self.model)
                if undo:
                    raise UndoError
        except UndoError:
            self.model = before

    @rule(ids=id_lists)
    def get(self, ids: list[Any]) -> None:
        for id_, record in zip(ids, self.collection.get(ids), strict=True):
            assert (id_ in self.collection) is (id_ in self.model)
            if id_ in self.model:
                assert type(record.id) is type(id_)
                assert (record.id, record.vector.tobytes(), record.metadata) == (id_, *self.model[id_])
            else:
                assert record is None

    def check_search(self, seed: int, k: int | None, where: Any, radius: float | None) -> None:
        query = self.rows(1, seed)[0]
        hits = self.collection.search(query, k, where=where, radius=radius)
        if k is None and radius is None:
            k = 10
        self.check_hits(hits, query, where, k, radius)

    @rule(seed=seeds, k=st.sampled_from([None, 1, 7, 5000]), where=st.one_of(st.none(), filters))
    def search(self, seed: int, k: int | None, where: Any) -> None:
        self.check_search(seed, k, where, None)

    @rule(seed=seeds, k=st.sampled_from([None, 3]), where=st.one_of(st.none(), filters), share=st.floats(0, 1))
    def search_within(self, seed: int, k: int | None, where: Any, share: float) -> None:
        found, rows = self.table(where)
        if found:
            # A border between two distances, so that rounding cannot matter.
            every = np.unique(np.round(self.distances(rows, self.rows(1, seed)[0]), 4))
            at = int(share * (len(every) - 1))
            border = float(every[at : at + 2].mean()) if at + 1 < len(every) else float(every[at]) + 1
            self.check_search(seed, k, where, border)

    @rule(seed=seeds, where=st.one_of(st.none(), filters))
    def search_batch(self, seed: int, where: Any) -> None:
        queries = self.rows(5, seed)
        for query, hits in zip(queries, self.collection.search(queries, k=4, where=where), strict=True):
            self.check_hits(hits, query, where, 4, None)

    @precondition(lambda self: self.model)
    @rule(draw=st.data())
    def search_by_id(self, draw: Any) -> None:
        id_ = draw.draw(st.sampled_from(sorted(self.model, key=repr)[:200]))
        dtype = np.uint8 if self.dtype == "binary" else np.dtype(self.dtype)
        query = np.frombuffer(self.model[id_][0], dtype=dtype)
        self.check_hits(self.collection.search(id=id_, k=5), query, None, 5, None, but=id_)

    @rule(where=st.one_of(st.none(), filters), size=st.sampled_from([1, 100, 1000]))
    def scan(self, where: Any, size: int) -> None:
        records = self.collection.scan(where, batch_size=size, vectors=False)
        assert {record.id for record in records} == set(self.table(where)[0])

    @rule(steps=st.integers(0, 5))
    def hold_an_iterator(self, steps: int) -> None:
        while len(self.held) > 2:
            iterator, expected = self.held.pop(0)
            assert [record.id for record in iterator] == expected
        iterator = self.collection.scan(batch_size=2)
        expected = [record.id for record in self.collection]
        self.held.append((iterator, expected[1:]))
        if next(iterator, None) is None:
            self.held.pop()

    @rule(field=indexed)
    def create_index(self, field: str) -> None:
        self.collection.create_index(field)
        self.indexes.add(field)

    @rule(field=indexed)
    def drop_index(self, field: str) -> None:
        assert self.collection.drop_index(field) is (field in self.indexes)
        self.indexes.discard(field)

    @rule()
    def compact(self) -> None:
        self.collection.compact()

    @rule()
    def optimize(self) -> None:
        self.collection.optimize()

    @rule(mode=st.sampled_from(["a", "r"]))
    def open_second(self, mode: str) -> None:
        if self.second is not None:
            self.second.close()
        self.second = vecstore.open(self.path, mode=mode, durability="none")

    @precondition(lambda self: self.second is not None)
    @rule()
    def swap_handles(self) -> None:
        assert self.second is not None
        assert len(self.second) == len(self.model)
        if self.second._writable:
            self.collection, self.second = self.second, self.collection

    @rule()
    def reopen(self) -> None:
        self.collection.close()
        self.collection = vecstore.open(self.path, durability="none", memory=self.memory)

    @rule()
    def back_up(self) -> None:
        copy = self.path + ".copy"
        self.collection.backup(copy, overwrite=True)
        with vecstore.open(copy, mode="r") as copied:
            assert {record.id for record in copied.scan(vectors=False)} == set(self.model)

    @rule()
    def verify(self) -> None:
        report = self.collection.verify()
        assert report.problems == ()
        assert report.records == len(self.model)
        self.compare()

    @invariant()
    def agrees(self) -> None:
        if hasattr(self, "collection"):
            assert len(self.collection) == len(self.model)


class GraphWalk(Walk):
    """The same where collections of a hundred records have a graph, which every few changes is tended to.

    What a walk finds need not be the nearest; whatever it gives must be right, and most of it the nearest.
    """

    asked = found = 0

    def check_hits(self, hits: Any, query: np.ndarray, where: Any, k: int | None, radius: float | None, but: Any = None) -> None:
        ids, rows = self.table(where)
        truth = self.distances(rows, query) if ids else np.zeros(0)
        distance_of = {id_: d for id_, d in zip(ids, truth.tolist(), strict=True) if id_ != but or type(id_) is not type(but)}
        most = 10 if k is None and radius is None else k
        nearest = sorted(d for d in distance_of.values() if radius is None or d <= radius)[:most]
        # k come back whenever k match; of those within a radius, what is found.
        assert len(set(hits.ids)) == len(hits) <= len(nearest)
        assert len(hits) == len(nearest) or radius is not None
        assert (np.diff(hits.distances) >= 0).all()
        for hit in hits:
            assert math.isclose(hit.distance, distance_of[hit.id], rel_tol=1e-5, abs_tol=1e-5)
            assert hit.metadata == self.model[hit.id][1]
            assert radius is None or hit.distance <= radius
        if nearest:
            self.asked += len(nearest)
            self.found += int((hits.distances <= nearest[-1] + 1e-5).sum())

    def teardown(self) -> None:
        if self.asked >= 100:
            assert self.found >= 0.85 * self.asked
        super().teardown()


def walk(machine: type[Walk], steps: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=max(1, steps // STEPS_A_WALK),
            stateful_step_count=STEPS_A_WALK,
            deadline=None,
            database=None,
            derandomize=not LONG_STEPS,
            phases=[Phase.generate, *([Phase.shrink] if LONG_STEPS else [])],
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every filter reads what an index has, and indexes are made in many slices.
    monkeypatch.setattr(config, "READ_INDEXED_FROM", 0)
    monkeypatch.setattr(config, "INDEXED_AT_ONCE", 900)
    walk(Walk, LONG_STEPS or 1600)


def test_walk_with_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "GRAPH_FROM": 100, "GRAPH_FROM_BYTES": 0, "LINKED_FROM": 4, "LINKED_AT_ONCE": 7, "SWEPT_FROM": 20, "SWEPT_AT_ONCE": 40,
        "RECALIBRATED_SHARE": 0.05, "HELD_OUT": 50, "READ_INDEXED_FROM": 0,
    }.items():  # fmt: skip
        monkeypatch.setattr(config, name, value)
    walk(GraphWalk, LONG_STEPS or 600)
