"""Every call of the public surface, against brute force and plain dicts."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from vecstore.query.where import parse

DENSE = [(metric, dtype) for dtype in ("float32", "float16", "uint8", "int8") for metric in ("l2", "ip", "cosine")]
PAIRS = [*DENSE, ("hamming", "binary"), ("jaccard", "binary")]


class UndoError(Exception):
    """Raised inside a transaction to roll it back."""


def rows_of(dtype: str, count: int, dim: int, seed: int = 0) -> np.ndarray:
    """Random vectors as a user has them; bits as 0 and 1. Never all zero."""
    rng = np.random.default_rng(seed)
    if dtype == "binary":
        rows = rng.integers(0, 2, (count, dim)).astype(np.uint8)
        rows[:, 0] = 1
        return rows
    if dtype in ("uint8", "int8"):
        limits = np.iinfo(dtype)
        rows = rng.integers(limits.min, limits.max, (count, dim), endpoint=True).astype(dtype)
        rows[:, 0] |= 1
        return rows
    return rng.standard_normal((count, dim)).astype(dtype)


def stored(dtype: str, rows: np.ndarray) -> np.ndarray:
    return np.packbits(rows, axis=1) if dtype == "binary" else rows


# -- searching, small: answered in NumPy


@pytest.mark.parametrize(("metric", "dtype"), PAIRS)
def test_search_is_brute_force(opened: Any, brute: Any, metric: str, dtype: str) -> None:
    dim, count = 24, 300
    rows = rows_of(dtype, count, dim)
    queries = rows_of(dtype, 7, dim, seed=1)
    ids: list[str | int] = [f"id-{n}" if n % 2 else n for n in range(count)]
    collection = opened(dim=dim, metric=metric, dtype=dtype)
    assert collection.add(ids, rows, [{"n": n, "even": n % 2 == 0} for n in range(count)]) == count
    for k in (1, 10, 299, 1000):
        batch = collection.search(queries, k=k)
        assert len(batch) == 7
        assert batch.ids.shape == batch.distances.shape == (7, k)
        for query, hits in zip(queries, batch, strict=True):
            truth = brute.distances(metric, rows, query)
            brute.check(hits, ids, truth, k=k)
            single = collection.search(query, k=k)
            brute.check(single, ids, truth, k=k)
            assert single.ids == hits.ids
    query = queries[0]
    truth = brute.distances(metric, rows, query)
    radius = float(np.sort(truth)[20]) + 1e-3
    brute.check(collection.search(query, radius=radius), ids, truth, radius=radius)
    brute.check(collection.search(query, 5, radius=radius), ids, truth, k=5, radius=radius)
    assert collection.radius(query, radius) == collection.search(query, radius=radius)
    assert collection.radius(query, radius, k=3).ids == collection.search(query, 3, radius=radius).ids
    even = np.arange(count) % 2 == 0
    few = collection.search(query, k=400, where={"even": True})
    brute.check(few, np.arange(count)[even].tolist(), truth[even], k=400)
    assert all(hit.metadata == {"n": hit.id, "even": True} for hit in few)
    assert collection.search(query, k=4, exact=True, recall=0.9, search_list=20).ids == collection.search(query, k=4).ids


@pytest.mark.parametrize(("metric", "dtype"), PAIRS)
def test_vectors_come_back_bit_for_bit(opened: Any, path: str, metric: str, dtype: str) -> None:
    dim = 19
    rows = rows_of(dtype, 50, dim, seed=2)
    collection = opened(dim=dim, metric=metric, dtype=dtype)
    collection.add(range(50), stored(dtype, rows))
    collection.close()
    with vecstore.open(path, mode="r") as again:
        assert (again.dim, again.metric, again.dtype) == (dim, metric, dtype)
        for record, row in zip(again.scan(), stored(dtype, rows), strict=True):
            assert record.vector.dtype == row.dtype
            assert record.vector.tobytes() == row.tobytes()


def test_special_floats_are_kept(opened: Any) -> None:
    row = np.array([-0.0, 1e-45, 3.4028235e38, -1e-38], dtype=np.float32)
    half = np.array([-0.0, 6e-8, 65504, -6e-5], dtype=np.float16)
    first = opened(dim=4, metric="l2")
    first.add("a", row)
    assert first["a"].vector.tobytes() == row.tobytes()
    first.upsert("a", np.abs(row))  # differs in the sign of a zero alone, there
    assert first["a"].vector.tobytes() == np.abs(row).tobytes()
    second = opened(first.path + "2", dim=4, metric="l2", dtype="float16")
    second.add("a", half)
    assert second["a"].vector.tobytes() == half.tobytes()


def test_batches_are_padded(opened: Any) -> None:
    collection = opened(dim=2, metric="l2")
    collection.add([1, 2], [[0, 0], [1, 0]])
    batch = collection.search([[0, 0], [9, 9]], k=3)
    assert batch.ids.dtype == np.int64
    assert batch.ids.tolist() == [[1, 2, -1], [2, 1, -1]]
    assert batch.distances[:, 2].tolist() == [np.inf, np.inf]
    assert [len(hits) for hits in batch] == [2, 2]
    assert batch[0].ids == [1, 2]
    assert batch[:1].ids.shape == (1, 3)
    within = collection.search([[0, 0], [9, 9]], radius=1)
    assert within.ids.tolist() == [[1, 2], [-1, -1]]
    collection.add("x", [5, 5])
    mixed = collection.search([[0, 0], [9, 9]], k=4)
    assert mixed.ids.tolist() == [[1, 2, "x", None], ["x", 2, 1, None]]
    assert collection.search(np.zeros((0, 2)), k=3).ids.shape == (0, 3)


def test_an_empty_collection_answers(opened: Any) -> None:
    collection = opened(dim=2)
    assert collection.search([1, 0]).ids == []
    assert collection.search([1, 0], radius=5).distances.shape == (0,)
    assert collection.search([[1, 0]], k=2).ids.tolist() == [[-1, -1]]
    assert list(collection) == []
    assert collection.get([1, "a"]) == [None, None]
    assert collection.recall() == 1.0
    assert collection.delete([1, 2]) == 0
    assert collection.delete(where={}) == 0
    assert collection.verify().ok
    assert len(collection) == 0
    assert bool(collection)  # a collection is no container that is false when empty


def test_search_by_id_leaves_itself_out(opened: Any, brute: Any) -> None:
    rows = rows_of("float32", 40, 8)
    rows[7] = rows[3]
    collection = opened(dim=8)
    collection.add(range(40), rows, [{"odd": n % 2 == 1} for n in range(40)])
    hits = collection.search(id=3, k=5)
    others = np.arange(40) != 3
    brute.check(hits, np.arange(40)[others].tolist(), brute.distances("cosine", rows, rows[3])[others], k=5)
    assert hits.ids[0] == 7
    assert collection.search(id=3, k=100).ids.count(3) == 0
    assert len(collection.search(id=3, k=100)) == 39
    assert 3 not in collection.search(id=3, radius=3.0).ids
    assert collection.search(id=3, k=50, where={"odd": False}).ids.count(3) == 0
    assert len(collection.search(id=3, k=50, where={"odd": False})) == 20
    batch = collection.search(id=[3, 7, 3], k=2)
    assert batch.ids[:, 0].tolist() == [7, 3, 7]
    with pytest.raises(vecstore.RecordNotFoundError):
        collection.search(id="nobody")


def test_cosine_of_far_lengths(opened: Any, brute: Any) -> None:
    """A row's length must not decide how well its direction is seen."""
    rng = np.random.default_rng(5)
    rows = rng.standard_normal((4000, 600)).astype(np.float32)
    scale = np.float32(10) ** rng.integers(-15, 16, (4000, 1)).astype(np.float32)
    collection = opened(dim=600, metric="cosine")
    collection.add(range(4000), rows * scale)
    truth = brute.distances("cosine", (rows * scale), rows[17])
    brute.check(collection.search(rows[17], k=10), range(4000), truth, k=10)
    for hits, query in zip(collection.search(rows[:6], k=10), rows[:6], strict=True):
        brute.check(hits, range(4000), brute.distances("cosine", rows * scale, query), k=10)


# -- searching, large: answered by the compiled kernels


@pytest.mark.parametrize(("metric", "dtype"), PAIRS)
def test_large_searches_are_brute_force(opened: Any, brute: Any, metric: str, dtype: str) -> None:
    dim = 512 if dtype == "binary" else 96
    count = 8_000 if dtype == "binary" else 24_000
    rows = rows_of(dtype, count, dim)
    queries = rows_of(dtype, 6, dim, seed=1)
    collection = opened(dim=dim, metric=metric, dtype=dtype, durability="none")
    ids = np.arange(count)
    collection.add(ids, stored(dtype, rows), [{"third": n % 3 == 0} for n in range(count)])
    gone = np.random.default_rng(3).permutation(count)[: count // 5]
    assert collection.delete(gone) == gone.size
    alive = np.ones(count, dtype=bool)
    alive[gone] = False
    third = alive & (ids % 3 == 0)
    rtol = 1e-5
    for threads in (1, 2):
        batch = collection.search(queries, k=20, threads=threads)
        thirds = collection.search(queries, k=20, where={"third": True}, threads=threads)
        for place, query in enumerate(queries):
            truth = brute.distances(metric, rows, query)
            brute.check(batch[place], ids[alive].tolist(), truth[alive], k=20, rtol=rtol)
            brute.check(thirds[place], ids[third].tolist(), truth[third], k=20, rtol=rtol)
            if place > 1:
                continue
            single = collection.search(query, k=20, threads=threads)
            assert single.ids == batch[place].ids
            assert (single.distances == batch[place].distances).all()
            assert collection.search(query, k=20, where={"third": True}, threads=threads).ids == thirds[place].ids
            # A border well apart from any record's distance, so that rounding cannot matter.
            near = np.sort(truth[alive])
            step = int(np.argmax(np.diff(near[100:200]))) + 100
            radius = float(near[step : step + 2].mean()) if near[step + 1] > near[step] else float(near[step])
            for k in (None, 50):
                hits = collection.search(query, k, radius=radius, threads=threads)
                brute.check(hits, ids[alive].tolist(), truth[alive], k=k, radius=radius, rtol=rtol)


def test_threads_give_one_answer(opened: Any) -> None:
    rows = rows_of("float32", 90_000, 48)
    collection = opened(dim=48, metric="l2", durability="none", threads=2)
    collection.add(range(90_000), rows)
    queries = rows_of("float32", 5, 48, seed=9)
    for options in ({"k": 33}, {"k": 33, "radius": 9.0}, {"radius": 6.0}):
        one, two = (collection.search(queries, threads=n, **options) for n in (1, 2))
        assert [hits.ids for hits in one] == [hits.ids for hits in two]
        assert all((a.distances == b.distances).all() for a, b in zip(one, two, strict=True))
        single = [collection.search(query, threads=2, **options) for query in queries]
        assert [hits.ids for hits in one] == [hits.ids for hits in single]


@pytest.mark.parametrize(("metric", "expected"), [("l2", []), ("cosine", []), ("ip", ["c"])])
def test_a_negative_radius_holds_nothing_but_products(opened: Any, metric: str, expected: list[str]) -> None:
    collection = opened(dim=2, metric=metric)
    collection.add(["a", "b", "c"], [[1.0, 0], [0, 1], [3, 0]])
    assert collection.search([1, 0], radius=-2).ids == expected
    assert collection.search([1, 0], radius=float("inf")).ids[0] is not None
    assert len(collection.search([1, 0], radius=np.float32(1e30))) == 3


# -- reading


def test_get_keeps_order_and_says_none(opened: Any) -> None:
    collection = opened(dim=2, metric="l2")
    collection.add(["a", 1, "1", -5], [[1, 0], [2, 0], [3, 0], [4, 0]], [{"n": n} for n in range(4)])
    found = collection.get(["1", "absent", -5, 1, "a", "a", 99])
    assert [record and record.id for record in found] == ["1", None, -5, 1, "a", "a", None]
    assert [record.vector[0] for record in found if record] == [3, 4, 2, 1, 1]
    assert collection.get([]) == []
    assert collection.get("a").metadata == {"n": 0}
    assert collection.get(np.array([1, 2]))[0].id == 1
    assert collection.get("b") is None
    assert collection["1"].metadata == {"n": 2}
    with pytest.raises(KeyError, match="no record has the id 'b'"):
        collection["b"]
    assert "a" in collection
    assert 1 in collection
    assert np.int32(1) in collection
    assert "b" not in collection
    assert 1.0 not in collection
    assert True not in collection
    assert None not in collection
    assert ["a"] not in collection
    assert len(collection) == 4
    assert [record.id for record in collection] == ["a", 1, "1", -5]


def test_a_returned_record_is_the_callers_own(opened: Any) -> None:
    collection = opened(dim=2, metric="l2")
    collection.add("a", [1, 2], {"tags": ["x"]})
    record = collection["a"]
    record.vector[:] = 9
    record.metadata["tags"].append("y")
    assert collection["a"].vector.tolist() == [1, 2]
    assert collection["a"].metadata == {"tags": ["x"]}


def test_scan(opened: Any) -> None:
    collection = opened(dim=3, metric="l2")
    rows = rows_of("float32", 2500, 3)
    collection.add(range(2500), rows, [{"n": n} for n in range(2500)])
    for size in (1, 7, 1000, 10_000):
        records = list(collection.scan(batch_size=size))
        assert [record.id for record in records] == list(range(2500))
        assert (np.stack([record.vector for record in records]) == rows).all()
    few = list(collection.scan(where={"n": {"$lt": 3}}, vectors=False))
    assert [(record.id, record.vector, record.metadata) for record in few] == [(n, None, {"n": n}) for n in range(3)]
    assert list(collection.scan({"n": -1})) == []


def test_a_scan_is_a_steady_snapshot(opened: Any) -> None:
    collection = opened(dim=3, metric="l2")
    collection.add(range(5000), rows_of("float32", 5000, 3), [{"v": 0}] * 5000)
    records = collection.scan(batch_size=10)
    first = next(records)
    collection.delete(range(0, 5000, 2))
    collection.upsert(range(1, 5000, 2), rows_of("float32", 2500, 3, seed=4), [{"v": 1}] * 2500)
    collection.compact()
    collection.add(range(5000, 9000), rows_of("float32", 4000, 3, seed=5))
    seen = [first, *records]
    assert [record.id for record in seen] == list(range(5000))
    assert all(record.metadata == {"v": 0} for record in seen)
    assert (np.stack([record.vector for record in seen]) == rows_of("float32", 5000, 3)).all()
    assert len(collection) == 6500


def test_closing_under_an_iterator_leaves_it_whole(opened: Any) -> None:
    collection = opened(dim=2, metric="l2")
    collection.add(range(100), np.ones((100, 2)))
    records = collection.scan(batch_size=3)
    next(records)
    collection.close()
    assert len(list(records)) == 99


# -- writing


def test_add_refuses_a_present_id_and_writes_nothing(opened: Any) -> None:
    collection = opened(dim=2, metric="l2")
    collection.add(["a", "b"], [[1, 0], [0, 1]])
    with pytest.raises(vecstore.DuplicateIdError, match=r"'b'.*1 others are"):
        collection.add(["c", "b", "a"], [[0, 0]] * 3)
    with pytest.raises(vecstore.DuplicateIdError, match="'c' stands twice"):
        collection.upsert(["c", "c"], [[0, 0]] * 2)
    assert [record.id for record in collection] == ["a", "b"]


def test_one_record_and_many(opened: Any) -> None:
    collection = opened(dim=2, metric="l2")
    assert collection.add("one", [1, 2], {"n": 1}) == 1
    assert collection.add(np.int64(2), np.array([[1, 2]]), [{"n": 2}]) == 1
    assert collection.add(np.array([3, 4], dtype=np.uint8), np.ones((2, 2), dtype=np.float16)) == 2
    assert collection.add((f"g{n}" for n in range(2)), ((0, 1), (1, 0)), ({"n": n} for n in range(2))) == 2
    assert collection.add([], []) == 0
    assert collection.add([], np.zeros((0, 2)), []) == 0
    assert collection.add(["last"], [[0, 0]], [None]) == 1
    assert [record.id for record in collection] == ["one", 2, 3, 4, "g0", "g1", "last"]
    assert collection["last"].metadata == {}
    assert type(collection.get([2])[0].id) is int


def test_metadata_comes_back_as_it_went_in(opened: Any) -> None:
    given: dict[str, Any] = {
        "none": None, "yes": True, "int": -(2**63), "big": 2**64 - 1, "float": 0.1, "nan": float("nan"),
        "text": "été\x00 \U0001f600", "": "empty key", "$odd.key": 1,
        "list": [1, [2.5, {"deep": [None, False]}], "x"], "dict": {"a": {"b": {"c": []}}, "empty": {}},
    }  # fmt: skip
    collection = opened(dim=1, metric="l2")
    collection.add(["a", 1], [[0], [0]], [given, given])
    for record in collection:
        nan = record.metadata.pop("nan")
        assert nan != nan
        assert record.metadata == {key: value for key, value in given.items() if key != "nan"}
        assert type(record.metadata["yes"]) is bool
        assert list(record.metadata) == [key for key in given if key != "nan"]
    collection.add(2, [0], {"np": np.float32(0.5), "array": np.arange(3), "tuple": (1, 2), "bool": np.bool_(True)})
    assert collection[2].metadata == {"np": 0.5, "array": [0, 1, 2], "tuple": [1, 2], "bool": True}


def test_upsert(opened: Any) -> None:
    collection = opened(dim=2, metric="l2")
    assert collection.upsert(["a", "b"], [[1, 0], [2, 0]], [{"n": 1}, {"n": 2}]) == 2
    assert collection.upsert(["b", "c"], [[5, 0], [3, 0]], [{"m": 1}, {"m": 2}]) == 2
    assert collection["b"].vector.tolist() == [5, 0]
    assert collection["b"].metadata == {"m": 1}  # replaced, not merged
    collection.upsert("b", [5, 0])
    assert collection["b"].metadata == {}
    assert len(collection) == 3
    assert collection.search([5, 0], k=1).ids == ["b"]
    assert collection.search([2, 0], radius=0).ids == []
    assert collection.verify().ok


def test_update_merges_key_by_key(opened: Any) -> None:
    collection = opened(dim=2, metric="l2")
    collection.add(["a", 2], [[1, 0], [2, 0]], [{"x": 1, "y": {"z": 1}}, {"x": 5}])
    assert collection.update(["a", 2], [{"x": 2, "w": None}, {"x": None, "n": [None]}]) == 2
    assert collection["a"].metadata == {"x": 2, "y": {"z": 1}}
    assert collection[2].metadata == {"n": [None]}
    assert collection.update("a", {"y": {"k": None}}) == 1
    assert collection["a"].metadata == {"x": 2, "y": {"k": None}}  # keys of the top level alone merge
    assert collection["a"].vector.tolist() == [1, 0]
    assert collection.search([0, 0], where={"x": 2}).ids == ["a"]
    with pytest.raises(vecstore.RecordNotFoundError, match="'nobody'"):
        collection.update(["a", "nobody"], [{"x": 3}, {"x": 3}])
    assert collection["a"].metadata["x"] == 2
    assert collection.update([], []) == 0


def test_delete(opened: Any) -> None:
    collection = opened(dim=1, metric="l2")
    collection.add(range(10), np.zeros((10, 1)), [{"n": n} for n in range(10)])
    assert collection.delete(0) == 1
    assert collection.delete(0) == 0
    assert collection.delete([1, 1, 99, "1"]) == 1
    assert collection.delete([]) == 0
    assert collection.delete(where={"n": {"$gte": 8}}) == 2
    assert collection.delete([2, 3, 4], where={"n": {"$gt": 2}}) == 2
    assert [record.id for record in collection] == [2, 5, 6, 7]
    with pytest.raises(vecstore.InvalidArgumentError, match="delete needs ids"):
        collection.delete()
    assert collection.delete(where={}) == 4
    assert len(collection) == 0
    collection.add(0, [1.0])
    assert collection.search([0.0]).ids == [0]
    assert collection.verify().ok


def test_filters_follow_deletes_and_reused_slots(opened: Any) -> None:
    collection = opened(dim=2, metric="l2")
    collection.add(range(3000), rows_of("float32", 3000, 2), [{"n": n} for n in range(3000)])
    assert len(collection.search([0, 0], k=3000, where={"n": {"$lt": 1000}})) == 1000
    collection.delete(where={"n": {"$lt": 1500}})
    assert collection.search([0, 0], k=10, where={"n": {"$lt": 1000}}).ids == []
    collection.add(range(5000, 6000), rows_of("float32", 1000, 2), [{"n": 0}] * 1000)
    hits = collection.search([0, 0], k=3000, where={"n": {"$lt": 1000}})
    assert sorted(hits.ids) == list(range(5000, 6000))
    collection.compact()
    assert sorted(collection.search([0, 0], k=3000, where={"n": 0}).ids) == list(range(5000, 6000))
    assert len(collection.search([0, 0], k=3000, where={"n": {"$exists": True}})) == 2500


def test_a_filter_over_an_older_snapshot_sees_what_was_deleted_since(opened: Any) -> None:
    collection = opened(dim=1, metric="l2")
    collection.add(range(100), np.zeros((100, 1)), [{"n": n} for n in range(100)])
    with collection._file.snapshot() as old:
        collection.delete(range(50))
        assert len(collection.search([0], k=100, where={"n": {"$gte": 0}})) == 50
        assert collection._planner.matching(old, parse({"n": {"$gte": 0}})).sum() == 100


def test_extend(opened: Any, capsys: pytest.CaptureFixture[str]) -> None:
    collection = opened(dim=2, metric="l2")

    def batches() -> Any:
        yield range(5), np.zeros((5, 2)), [{"n": n} for n in range(5)]
        yield ["x"], [[1, 1]]
        yield [range(10, 12), np.zeros((2, 2)), None]

    assert collection.extend(batches(), progress=True) == 8
    assert len(collection) == 8
    with pytest.raises(vecstore.DuplicateIdError):
        collection.extend([([20], [[0, 0]]), ([20], [[0, 0]])])
    assert 20 in collection  # batches before the bad one stay
    with pytest.raises(vecstore.InvalidArgumentError, match="a batch must be"):
        collection.extend([{"ids": [1]}])
    assert capsys.readouterr().out == ""


# -- transactions


def test_a_transaction_is_one_commit(opened: Any, path: str) -> None:
    collection = opened(dim=2, metric="l2")
    other = vecstore.open(path, mode="r")
    collection.add("old", [9, 9], {"n": 0})
    with collection.transaction() as same:
        assert same is collection
        collection.add(["a", "b"], [[1, 0], [0, 1]], [{"n": 1}, {"n": 2}])
        collection.upsert("a", [1, 1], {"n": 5})
        collection.update("b", {"m": 1})
        assert collection.delete("old") == 1
        # Reads inside see all of it,
        assert len(collection) == 2
        assert collection["a"].vector.tolist() == [1, 1]
        assert [record.id for record in collection.scan()] == [record.id for record in collection]
        assert set(collection.search([0, 0]).ids) == {"a", "b"}
        assert collection.search([0, 0], where={"m": 1}).ids == ["b"]
        assert collection.search(id="a").ids == ["b"]
        assert "old" not in collection
        assert collection.stats()["count"] == 2
        assert collection.explain([0, 0])["candidates"] == 2
        assert collection.delete(where={"n": 2}) == 1
        collection.add("b", [7, 7])
        # and reads outside none.
        assert [record.id for record in other] == ["old"]
        seen = []
        thread = threading.Thread(target=lambda: seen.extend(record.id for record in collection))
        thread.start()
        thread.join()
        assert seen == ["old"]
    assert sorted(record.id for record in other) == ["a", "b"]
    assert other["b"].vector.tolist() == [7, 7]
    assert other.verify().ok
    other.close()


def test_an_error_rolls_a_transaction_back(opened: Any) -> None:
    collection = opened(dim=2, metric="l2")
    collection.add(range(100), rows_of("float32", 100, 2), [{"n": n} for n in range(100)])
    before = [(record.id, record.vector.tolist(), record.metadata) for record in collection]
    with pytest.raises(UndoError), collection.transaction():  # noqa: PT012
        collection.delete(where={"n": {"$lt": 50}})
        collection.add("x", [0, 0])
        collection.update(99, {"n": -1})
        raise UndoError
    assert [(record.id, record.vector.tolist(), record.metadata) for record in collection] == before
    assert collection.verify().ok
    assert len(collection.search([0, 0], k=100, where={"n": {"$gte": 0}})) == 100


def test_a_failed_call_inside_leaves_the_earlier_ones(opened: Any) -> None:
    collection = opened(dim=2, metric="l2")
    with collection.transaction():
        collection.add("a", [1, 0])
        with pytest.raises(vecstore.DuplicateIdError):
            collection.add(["b", "a"], [[0, 0], [0, 0]])
        with pytest.raises(vecstore.RecordNotFoundError):
            collection.update("nobody", {"n": 1})
        with pytest.raises(vecstore.InvalidVectorError):
            collection.upsert("a", [np.nan, 0])
        with pytest.raises(vecstore.InvalidArgumentError, match="a transaction is open"), collection.transaction():
            pass
        collection.add("c", [2, 0])
    assert [record.id for record in collection] == ["a", "c"]


def test_a_staged_transaction_rolls_back_and_is_cleared(opened: Any) -> None:
    collection = opened(dim=64, metric="l2", memory="16MiB")
    collection.add(range(100), rows_of("float32", 100, 64))
    with pytest.raises(UndoError), collection.transaction():  # noqa: PT012
        for part in range(6):
            first = 1000 + part * 10_000
            collection.add(range(first, first + 10_000), np.zeros((10_000, 64)), [{"t": "x" * 50}] * 10_000)
            assert len(collection) == 100 + (part + 1) * 10_000
            assert collection[first].vector.tolist() == [0] * 64
        collection.delete(range(1000, 30_000))
        raise UndoError
    assert len(collection) == 100
    assert collection.verify().ok
    with collection.transaction():
        collection.add(range(1000, 41_000), np.ones((40_000, 64)))
        collection.delete(range(1000, 31_000))
        collection.upsert(range(31_000, 41_000), np.full((10_000, 64), 2))
    assert len(collection) == 10_100
    assert collection[31_000].vector[0] == 2
    assert collection.verify().ok
    size = os.path.getsize(collection.path)
    assert size < 90 << 20
    collection.compact()
    assert os.path.getsize(collection.path) < 4 << 20


def test_a_scan_inside_a_transaction_stays_steady(opened: Any) -> None:
    collection = opened(dim=2, metric="l2")
    collection.add(range(6000), rows_of("float32", 6000, 2), [{"n": n} for n in range(6000)])
    with collection.transaction():
        seen = []
        for record in collection.scan(batch_size=100):
            seen.append(record.id)
            if record.id % 100 == 0:
                collection.delete(range(record.id, record.id + 3000))
        assert seen == list(range(6000))
        collection.add(range(5000), np.zeros((5000, 2)))
        records = collection.scan(batch_size=100)
        next(records)
        collection.add("late", [0, 0])
    collection.upsert("later", [0, 0])
    assert "late" not in {record.id for record in records}


def test_closing_inside_a_transaction_keeps_what_it_commits(opened: Any, path: str) -> None:
    collection = opened(dim=2, metric="l2")
    collection.add(range(2000), np.zeros((2000, 2)))
    with collection.transaction():
        collection.delete(range(1000))
        collection.close()
    with vecstore.open(path) as again:
        assert len(again) == 1000


# -- opening


def test_modes(opened: Any, path: str) -> None:
    with pytest.raises(vecstore.CollectionNotFoundError, match="dim="):
        vecstore.open(path)
    with pytest.raises(vecstore.CollectionNotFoundError):
        vecstore.open(path, mode="r")
    with pytest.raises(vecstore.CollectionNotFoundError):
        vecstore.open(path, mode="r", dim=3)
    assert not os.path.exists(path)
    with opened(dim=3, mode="x") as collection:
        collection.add("a", [1, 0, 0])
    with pytest.raises(FileExistsError):
        vecstore.open(path, dim=3, mode="x")
    with vecstore.open(path) as again, vecstore.open(path, mode="r") as reader:
        assert again["a"].vector.tolist() == reader["a"].vector.tolist() == [1, 0, 0]
        again.add("b", [0, 1, 0])
        assert "b" in reader


@pytest.mark.parametrize("lock_file", [True, False])
def test_reading_writes_nothing(opened: Any, path: str, tmp_path: Path, folder_state: Any, lock_file: bool) -> None:
    collection = opened(dim=4)
    collection.add(range(100), rows_of("float32", 100, 4), [{"n": n} for n in range(100)])
    collection.delete(range(10))
    collection.close()
    if not lock_file:
        os.unlink(path + "-lock")

    def state() -> Any:
        # The lock file is where readers sign in, so its bytes are not the data's.
        return {name: value for name, value in folder_state(tmp_path).items() if not name.endswith("-lock")}

    before, names = state(), sorted(os.listdir(tmp_path))
    with vecstore.open(path, mode="r") as reader:
        assert len(reader.search(np.ones(4), k=5, where={"n": {"$gt": 3}})) == 5
        assert len(list(reader)) == 90
        assert reader.get(50).metadata == {"n": 50}
        assert reader.verify().ok
        assert reader.recall(sample=5) == 1.0
        assert reader.stats()["count"] == 90
        reader.explain(np.ones(4))
        for write in (
            lambda: reader.add(1000, np.ones(4)),
            lambda: reader.add([], []),
            lambda: reader.upsert(50, np.ones(4)),
            lambda: reader.update(50, {"n": 1}),
            lambda: reader.delete(50),
            lambda: reader.delete(where={}),
            lambda: reader.extend([([1000], np.ones((1, 4)))]),
            lambda: reader.transaction().__enter__(),
            reader.compact,
            reader.optimize,
        ):
            with pytest.raises(vecstore.ReadOnlyError, match='mode="a"'):
                write()
    assert state() == before
    assert sorted(os.listdir(tmp_path)) == names


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_can_be_read(opened: Any, path: str, tmp_path: Path) -> None:
    opened(dim=2).close()
    os.chmod(path, 0o444)
    os.chmod(tmp_path, 0o555)
    try:
        assert len(vecstore.open(path, mode="r")) == 0
        with pytest.raises(vecstore.ReadOnlyError):
            vecstore.open(path)
    finally:
        os.chmod(tmp_path, 0o755)


def test_settings_are_read_from_the_file_and_contradictions_name_both(opened: Any, path: str) -> None:
    opened(dim=16, metric="ip", dtype="float16").close()
    with vecstore.open(path, dim=16, metric="ip", dtype="float16") as same:
        assert (same.dim, same.metric, same.dtype) == (16, "ip", "float16")
        assert same.settings.row_bytes == 32
    for mode in ("a", "r"):
        for name, asked, has in (("dim", 17, 16), ("metric", "l2", "'ip'"), ("dtype", "int8", "'float16'")):
            with pytest.raises(vecstore.SettingsMismatchError) as caught:
                vecstore.open(path, mode=mode, **{name: asked})
            assert f"{name}={has}" in str(caught.value)
            assert f"{name}={asked!r}" in str(caught.value)
            assert isinstance(caught.value, ValueError)


def test_defaults(opened: Any, path: str) -> None:
    assert (opened(dim=2).metric, opened().dtype) == ("cosine", "float32")
    bits = vecstore.open(path + "b", dim=8, dtype="binary")
    assert bits.metric == "hamming"
    assert vecstore.open(path + "j", dim=8, metric="jaccard").dtype == "binary"


def test_close_and_after(opened: Any, path: str) -> None:
    collection = opened(dim=2)
    with collection:
        collection.add("a", [1, 0])
    collection.close()
    collection.close()
    assert "closed" in repr(collection)
    for call in (
        lambda: len(collection), lambda: collection.get("a"), lambda: collection.add("b", [1, 0]),
        lambda: collection.search([1, 0]), lambda: list(collection), lambda: "a" in collection, collection.stats,
        collection.verify, collection.compact, collection.optimize, lambda: collection.backup(path + "2"),
        lambda: collection.transaction().__enter__(), lambda: collection.delete(where={}), collection.recall,
    ):  # fmt: skip
        with pytest.raises(vecstore.ClosedError, match="open it again"):
            call()
    assert collection.dim == 2
    assert not os.path.exists(path + "2")


def test_one_file_opened_many_times(opened: Any, path: str) -> None:
    first = opened(dim=2, metric="l2")
    reader = opened(mode="r")
    second = opened()
    first.add("a", [1, 0])
    second.add("b", [2, 0])
    assert len(reader) == len(first) == len(second) == 2
    with pytest.raises(vecstore.ReadOnlyError):
        reader.add("c", [3, 0])
    first.close()
    second.add("c", [3, 0])
    assert [record.id for record in reader] == ["a", "b", "c"]
    second.close()
    assert len(reader) == 3
    with vecstore.open(path) as third:
        third.add("d", [4, 0])
        fourth = opened()
        with third.transaction(), pytest.raises(vecstore.LockedError, match="another handle"):
            fourth.add("e", [5, 0])
    assert len(reader) == 4


def test_reading_first_then_writing(opened: Any, path: str) -> None:
    opened(dim=2, metric="l2").close()
    reader = opened(mode="r")
    records = iter(reader)
    writer = opened()
    writer.add(range(500), np.zeros((500, 2)))
    assert len(reader) == 500
    assert len(list(records)) == 500  # it had not begun yet
    writer.close()
    assert len(reader) == 500


def test_a_link_leads_to_the_same_collection(opened: Any, path: str, tmp_path: Path) -> None:
    collection = opened(dim=2, metric="l2")
    collection.add(range(100), np.zeros((100, 2)))
    collection.close()
    link = str(tmp_path / "link.vec")
    os.symlink(path, link)
    with vecstore.open(link) as linked:
        linked.delete(range(50))
        linked.compact()
    assert os.path.islink(link)
    assert not os.path.exists(link + "-lock")
    with vecstore.open(path) as again:
        assert len(again) == 50


def test_names_of_all_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("plain", Path("path.vec"), b"bytes.vec", "with space [x]*?.vec", "über\u4e2d.vec", ".hidden"):
        with vecstore.open(name, dim=1, metric="l2") as collection:
            collection.add(1, [1])
            collection.compact()
            assert len(collection) == 1
        assert os.path.exists(os.path.join(tmp_path, os.fsdecode(name)))
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".new")]


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be deleted there")
def test_deleting_the_file_under_an_open_collection(opened: Any, path: str) -> None:
    collection = opened(dim=2, metric="l2")
    collection.add("a", [1, 0])
    os.unlink(path)
    with pytest.raises(vecstore.CollectionNotFoundError, match="was deleted"):
        collection.get("a")
    with pytest.raises(vecstore.CollectionNotFoundError):
        collection.add("b", [1, 0])
    assert not os.path.exists(path)
    fresh = opened(dim=3, metric="l2")
    fresh.add("n", [1, 2, 3])
    with pytest.raises(vecstore.CollectionNotFoundError):
        collection.get("a")
    assert [record.id for record in fresh] == ["n"]


# -- caring for it


def test_stats(opened: Any, path: str) -> None:
    collection = opened(dim=8, metric="l2")
    collection.add(range(1000), np.zeros((1000, 8)), [{"n": n} for n in range(1000)])
    collection.delete(range(500))
    collection.search(np.zeros(8), where={"n": 3})
    stats = collection.stats()
    assert set(stats) >= {
        "path", "count", "dim", "metric", "dtype", "live_bytes", "free_bytes", "memory_bytes", "graph_degree",
        "pending", "snapshot_age_seconds", "file_bytes", "format_version", "readers", "blocks",
    }  # fmt: skip
    assert stats["count"] == 500
    assert (stats["dim"], stats["metric"], stats["dtype"]) == (8, "l2", "float32")
    assert stats["file_bytes"] == os.path.getsize(path)
    assert 0 < stats["live_bytes"] <= stats["file_bytes"]
    assert stats["live_bytes"] + stats["free_bytes"] == stats["file_bytes"]
    assert stats["filter_columns"] == ["n"]
    assert stats["memory_bytes"] > 0
    records = iter(collection)
    next(records)
    assert collection.stats()["snapshot_age_seconds"] > 0
    assert collection.stats()["readers"] >= 1


def test_explain(opened: Any) -> None:
    collection = opened(dim=8, metric="l2")
    collection.add(range(1000), np.zeros((1000, 8)), [{"n": n} for n in range(1000)])
    plan = collection.explain(np.zeros(8), k=5, where={"n": {"$lt": 100}})
    assert set(plan) >= {"plan", "hops", "distances", "blocks", "seconds", "candidates", "hits"}
    assert (plan["candidates"], plan["hits"], plan["distances"]) == (100, 5, 100)
    assert all(value >= 0 for value in plan["seconds"].values())
    assert collection.explain(np.zeros((3, 8)), radius=1)["hits"] == 3000
    assert collection.explain(np.zeros(8))["hits"] == 10


@pytest.mark.parametrize(("metric", "dtype"), [("cosine", "float32"), ("ip", "int8"), ("hamming", "binary")])
def test_recall_of_a_scan_is_one(opened: Any, metric: str, dtype: str) -> None:
    collection = opened(dim=32, metric=metric, dtype=dtype)
    collection.add(range(500), rows_of(dtype, 500, 32))
    assert collection.recall(sample=20, k=5) == 1.0
    assert collection.recall(sample=1000, k=1000) == 1.0


def test_backup(opened: Any, path: str) -> None:
    collection = opened(dim=4, metric="l2")
    rows = rows_of("float32", 5000, 4)
    metadata = [{"n": n, "long": "x" * (20_000 if n % 1000 == 0 else 5)} for n in range(5000)]
    collection.add([n if n % 2 else str(n) for n in range(5000)], rows, metadata)
    collection.delete(where={"n": {"$lt": 4000}})
    with collection.transaction():
        collection.add("not in it", [0] * 4)
        collection.backup(path + ".copy")
    with vecstore.open(path + ".copy", mode="r") as copied:
        assert [(r.id, r.vector.tolist(), r.metadata) for r in copied] == [
            (n if n % 2 else str(n), rows[n].tolist(), metadata[n]) for n in range(4000, 5000)
        ]
        assert copied.verify().ok
    assert os.path.getsize(path + ".copy") < os.path.getsize(path)
    assert not os.path.exists(path + ".copy-lock")
    with pytest.raises(vecstore.CollectionExistsError):
        collection.backup(path + ".copy")
    collection.backup(path + ".copy", overwrite=True)
    with vecstore.open(path + ".copy") as copied:
        assert "not in it" in copied
        copied.add("more", [1] * 4)
        assert len(copied) == 1002
    with pytest.raises(vecstore.InvalidArgumentError, match="another path"):
        collection.backup(path)
    with pytest.raises(vecstore.CollectionNotFoundError):
        collection.backup(os.path.join(path + ".nowhere", "x.vec"))
    with vecstore.open(path, mode="r") as reader:
        reader.backup(path + ".from-reader")
    with vecstore.open(path + ".from-reader") as copied:
        assert len(copied) == 1001


def test_compact(opened: Any, path: str) -> None:
    collection = opened(dim=16, metric="l2")
    rows = rows_of("float32", 20_000, 16)
    collection.add(range(20_000), rows, [{"n": n} for n in range(20_000)])
    collection.delete(range(18_000))
    before = os.path.getsize(path)
    gained = collection.compact()
    assert gained == before - os.path.getsize(path) > before // 2
    assert collection.verify().ok
    assert (np.stack([record.vector for record in collection]) == rows[18_000:]).all()
    collection.add(range(100), rows[:100])
    for _ in range(3):
        assert collection.compact() >= 0
    with vecstore.open(path) as again:
        assert len(again) == 2100
        again.compact()
    collection.add(200, rows[200])
    assert collection.search(rows[200], k=1).ids == [200]
    assert collection.verify().ok


def test_optimize_and_verify(opened: Any) -> None:
    collection = opened(dim=2, metric="l2")
    collection.add(range(100), np.zeros((100, 2)))
    collection.optimize()
    collection.optimize(budget_seconds=0)
    report = collection.verify(raise_on_error=True)
    assert report
    assert report.ok
    assert report.records == 100
    assert report.problems == ()


def test_a_moved_file_works(opened: Any, path: str, tmp_path: Path) -> None:
    collection = opened(dim=2, metric="l2")
    collection.add("a", [1, 0])
    collection.close()
    shutil.move(path, tmp_path / "moved.vec")
    with vecstore.open(tmp_path / "moved.vec") as moved:
        moved.add("b", [0, 1])
        assert len(moved) == 2
