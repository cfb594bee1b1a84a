"""More ways to ask: in order and page by page, by several vectors, best of each group, far apart, and all records at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from vecstore import config
from vecstore.errors import InvalidArgumentError, InvalidFilterError, InvalidVectorError, RecordNotFoundError

COUNT, DIM = 3000, 12
KINDS = [("l2", "float32"), ("cosine", "float32"), ("ip", "float16"), ("l2", "uint8"), ("hamming", "binary")]


def vectors(count: int, seed: int, dtype: str = "float32") -> Any:
    random = np.random.default_rng(seed)
    found = random.normal(size=(30, DIM))[random.integers(0, 30, count)] + 0.4 * random.normal(
        size=(count, DIM)
    )
    if dtype == "binary":
        return (random.random((count, 64)) < 0.5).astype(np.uint8)
    return np.clip(found * 40 + 128, 0, 255).astype(np.uint8) if dtype == "uint8" else found.astype(dtype)


def metadata(count: int) -> list[dict[str, Any]]:
    """Albums of very different sizes; every tenth record is in none, or in null."""
    return [
        {"n": n} | ({} if n % 20 == 0 else {"album": None if n % 20 == 10 else f"album {int(n**0.5)}"})
        for n in range(count)
    ]


def filled(path: Path, metric: str = "l2", dtype: str = "float32", count: int = COUNT) -> vecstore.Collection:
    rows = vectors(count, 0, dtype)
    collection = vecstore.open(
        path / f"{metric}-{dtype}-{count}.vec", dim=rows.shape[1], metric=metric, dtype=dtype
    )
    collection.add(range(count), rows, metadata(count))
    return collection


@pytest.fixture(scope="module", params=["graph", "scan"])
def collection(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[vecstore.Collection]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "graph":
            patch.setattr(config, "GRAPH_FROM", 400)
            patch.setattr(config, "GRAPH_FROM_BYTES", 0)
        with filled(tmp_path_factory.mktemp(request.param)) as made:
            assert made.explain(vectors(1, 1)[0])["plan"] == request.param
            yield made


QUERY = vectors(1, 1)[0]


def truth(collection: vecstore.Collection, query: Any = QUERY, **asked: Any) -> vecstore.Hits:
    hits: vecstore.Hits = collection.search(query, k=COUNT, exact=True, **asked)
    return hits


# -- in order


def test_a_stream_gives_every_record_once_and_nearly_all_in_order(collection: vecstore.Collection) -> None:
    hits = list(collection.stream(QUERY))
    exact = truth(collection)
    assert sorted(hit.id for hit in hits) == list(range(COUNT))
    assert len(set(exact.ids[:100]) & {hit.id for hit in hits[:100]}) >= 95
    found = np.array([hit.distance for hit in hits])
    assert np.mean(np.diff(found) >= 0) > 0.99
    assert all(hit.metadata["n"] == hit.id for hit in hits[:5])
    assert [hit.id for hit in collection.stream(QUERY, exact=True)] == exact.ids


@pytest.mark.parametrize(
    "asked", [{"where": {"n": {"$lt": 900}}}, {"radius": 4.0}, {"radius": 4.0, "where": {"n": {"$gte": 5}}}]
)
def test_streams_with_filters_and_radii_are_complete(collection: vecstore.Collection, asked: Any) -> None:
    exact = truth(collection, **asked)
    assert 30 < len(exact) < COUNT
    hits = list(collection.stream(QUERY, **asked))
    ids = [hit.id for hit in hits]
    assert len(set(ids)) == len(ids)
    assert set(ids) <= set(exact.ids)
    assert len(ids) >= 0.95 * len(exact)
    assert list(collection.stream(QUERY, exact=True, **asked)) == list(exact)
    if "radius" not in asked:
        assert len(ids) == len(exact)


def test_pages_go_on_where_they_stopped(collection: vecstore.Collection) -> None:
    pages = collection.pages(QUERY, size=70)
    first = next(pages)
    assert isinstance(first, vecstore.Hits)
    assert first == vecstore.Hits(itertools.islice(collection.stream(QUERY), 70))
    more = list(pages)
    assert [len(page) for page in more] == [70] * 41 + [60]
    assert sorted(itertools.chain(first.ids, *(page.ids for page in more))) == list(range(COUNT))


def test_streams_like_a_record_leave_it_out(collection: vecstore.Collection) -> None:
    hits = list(collection.stream(id=7, exact=True))
    assert [hit.id for hit in hits] == [hit.id for hit in collection.search(id=7, k=COUNT, exact=True)]
    assert sorted(hit.id for hit in collection.stream(id=7)) == [n for n in range(COUNT) if n != 7]


def test_a_stream_is_of_one_snapshot_and_lets_go_of_it(tmp_path: Path) -> None:
    with filled(tmp_path, count=500) as c:
        hits = c.stream(QUERY)
        taken = [next(hits).id for _ in range(3)]
        c.delete(where={})
        assert sorted([*taken, *(hit.id for hit in hits)]) == list(range(500))
        assert list(c.stream(QUERY)) == list(c.pages(QUERY)) == []
        left = c.stream(QUERY)
        with c.transaction():
            c.add([1, 2], vectors(2, 5))
            inside = c.stream(QUERY)
            c.delete([1, 2])
            assert len(list(inside)) == 2
        assert list(left) == []
    with pytest.raises(vecstore.ClosedError):
        c.stream(QUERY)


def test_streams_refuse_what_makes_no_sense(collection: vecstore.Collection) -> None:
    for wrong in (
        {},
        {"query": QUERY, "id": 1},
        {"id": [1, 2]},
        {"query": [QUERY, QUERY]},
        {"query": QUERY, "radius": "x"},
    ):
        with pytest.raises(InvalidArgumentError):
            collection.stream(**wrong)
    with pytest.raises(InvalidFilterError):
        collection.stream(QUERY, where={"a": {"$x": 1}})
    with pytest.raises(InvalidArgumentError, match="size"):
        collection.pages(QUERY, size=0)
    with pytest.raises(RecordNotFoundError):
        next(collection.stream(id="none"))


# -- radii


@pytest.mark.parametrize("radius", [0.0, 0.5, 1.5, 3.0, 5.0, 100.0, float("inf")])
def test_radii_are_complete(collection: vecstore.Collection, radius: float) -> None:
    queries = np.concatenate([vectors(20, 2), [collection[5].vector]])
    exact, found = (collection.search(queries, radius=radius, exact=exact) for exact in (True, False))
    inside = sum(map(len, exact))
    both = sum(len(set(one.ids) & set(other.ids)) for one, other in zip(exact, found, strict=True))
    assert sum(map(len, found)) <= inside
    assert both >= 0.95 * inside
    assert all((hits.distances <= radius).all() and (np.diff(hits.distances) >= 0).all() for hits in found)
    few = collection.search(queries, k=5, radius=radius)
    assert all(len(hits) <= 5 and (hits.distances <= radius).all() for hits in few)
    assert sum(map(len, few)) >= 0.95 * sum(min(5, len(hits)) for hits in exact)
    assert 5 not in collection.search(id=5, radius=radius).ids


def test_a_radius_is_walked_for_where_that_is_enough(collection: vecstore.Collection) -> None:
    walks = collection.explain(QUERY)["plan"] == "graph"
    assert collection.explain(QUERY, radius=0.5)["plan"] == ("graph" if walks else "scan")
    assert collection.explain(QUERY, k=3, radius=9.0)["plan"] == ("graph" if walks else "scan")
    assert collection.explain(QUERY, radius=1e9)["plan"] == "scan"


# -- several vectors


@pytest.mark.parametrize(("metric", "dtype"), KINDS)
def test_combinations(tmp_path: Path, metric: str, dtype: str) -> None:
    with filled(tmp_path, metric, dtype, count=200) as c:
        rows = vectors(200, 0, dtype)
        weights = np.array([2, 1, -1])
        found = c.combine([3, rows[4], 5], weights=weights)
        if dtype == "binary":
            expected: Any = np.packbits(weights @ (2.0 * rows[3:6] - 1) > 0)
            assert found.dtype == np.uint8
        else:
            wide = rows[3:6].astype(np.float64)
            expected = weights @ (
                wide / np.linalg.norm(wide, axis=1, keepdims=True) if metric == "cosine" else wide
            )
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(c.combine([9]), c.combine([9], [1]))
        assert len(c.search(found, k=3)) == 3
        hits = c.recommend(like=[1, 2, rows[3]], dislike=[4], k=30)
        assert len(hits) == 30
        assert not {1, 2, 4} & set(hits.ids)
        query = c.combine([1, 2, rows[3], 4], [2 / 3, 2 / 3, 2 / 3, -1])
        assert hits.ids == [id_ for id_ in c.search(query, k=200).ids if id_ not in (1, 2, 4)][:30]
        assert c.recommend(7, k=5).ids == c.search(id=7, k=5).ids
        assert all(hit.id < 20 for hit in c.recommend([1], [2], where={"n": {"$lt": 20}}))


def test_combinations_refuse_what_makes_no_sense(collection: vecstore.Collection) -> None:
    for items, weights in (
        ([], None),
        (3, None),
        ("ab", None),
        ({1: 2}, None),
        ([1, 2], [1]),
        ([1], ["x"]),
        ([1], [np.nan]),
    ):
        with pytest.raises(InvalidArgumentError):
            collection.combine(items, weights)
    with pytest.raises(InvalidArgumentError, match="rows of a matrix"):
        collection.combine([vectors(2, 0)])
    with pytest.raises(vecstore.DimensionError):
        collection.combine([[1, 2, 3]])
    with pytest.raises(RecordNotFoundError):
        collection.recommend(["none"])
    with pytest.raises(InvalidArgumentError, match="to be liked"):
        collection.recommend([], [1])
    with pytest.raises(InvalidArgumentError, match="not float"):
        collection.recommend(1.5)


def test_opposites_have_no_direction(tmp_path: Path) -> None:
    with vecstore.open(tmp_path / "o.vec", dim=2, metric="cosine") as c:
        c.add(["a", "b"], [[1, 0], [2, 0]])
        with pytest.raises(InvalidVectorError, match="no direction"):
            c.search(c.combine(["a", "b"], [1, -1]))


# -- groups


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("asked", [{}, {"where": {"n": {"$lt": 700}}}, {"exact": True}])
def test_the_best_of_each_group(collection: vecstore.Collection, size: int, asked: Any) -> None:
    exact = truth(collection, where=asked.get("where"))
    wanted: dict[str, list[vecstore.Hit]] = {}
    for hit in exact:
        if hit.metadata.get("album") is not None:
            wanted.setdefault(hit.metadata["album"], []).append(hit)
    for k in (1, 8, 20):
        best = sorted(
            (hit for album in list(wanted)[:k] for hit in wanted[album][:size]), key=lambda hit: hit.distance
        )
        hits = collection.search(QUERY, k=k, group_by="album", group_size=size, **asked)
        assert hits.distances.tolist() == sorted(hits.distances)
        albums = [hit.metadata["album"] for hit in hits]
        assert len(set(albums)) == k
        assert max(map(albums.count, albums)) <= size
        assert len(hits) == len(best)
        if asked:
            assert hits.ids == [hit.id for hit in best]
        else:
            assert len({hit.id for hit in best} & set(hits.ids)) >= 0.9 * len(best)


def test_groups_of_every_kind_of_value(tmp_path: Path) -> None:
    values: list[Any] = [1, 1.0, True, "1", [1], [1.0], {"a": 1}, {"a": True}, None, float("nan")]
    with vecstore.open(tmp_path / "k.vec", dim=1, metric="l2") as c:
        c.add(range(11), [[n] for n in range(11)], [*({"g": {"v": value}} for value in values), {}])
        assert c.search([0], k=50, group_by="g.v").ids == [0, 2, 3, 4, 6, 7]
        assert c.search([0], k=2, group_by="g.v", group_size=2).ids == [0, 1, 2]
        batch = c.search([[0], [7]], k=2, group_by="g.v")
        assert batch.ids.tolist() == [[0, 2], [7, 6]]
        assert c.search(id=0, k=2, group_by="g.v", group_size=2).ids == [1, 2]
        assert c.search([0], k=2, group_by="none").ids == []
        for wrong in (
            {"group_by": ""},
            {"group_by": 3},
            {"group_by": "g", "group_size": 0},
            {"group_by": "g", "diversity": 0.5},
        ):
            with pytest.raises(InvalidArgumentError):
                c.search([0], **wrong)


# -- diversity


def test_diversity_chooses_as_the_formula_says(collection: vecstore.Collection) -> None:
    for diversity in (0, 0.3, 0.8, 1):
        pool = list(collection.search(QUERY, k=50))
        rows = np.array([collection[hit.id].vector for hit in pool], dtype=np.float64)
        chosen = [0]
        while len(chosen) < 8:
            apart = np.linalg.norm(rows[:, None] - rows[chosen], axis=2).min(axis=1)
            cost = (1 - diversity) * np.array([hit.distance for hit in pool]) - diversity * apart
            chosen.append(min((i for i in range(50) if i not in chosen), key=lambda i: cost[i]))
        assert collection.search(QUERY, k=8, diversity=diversity).ids == [pool[i].id for i in chosen]
    plain, same = (collection.search(QUERY, k=8, exact=True, **way) for way in ({}, {"diversity": 0}))
    assert plain == same
    for wrong in (-0.1, 1.5, "much", True):
        with pytest.raises(InvalidArgumentError, match="diversity"):
            collection.search(QUERY, diversity=wrong)


@pytest.mark.parametrize(("metric", "dtype"), KINDS)
def test_diversity_of_each_metric(tmp_path: Path, metric: str, dtype: str) -> None:
    with filled(tmp_path, metric, dtype, count=300) as c:
        query = vectors(3, 4, dtype)
        batch = c.search(query, k=9, diversity=0.4, where={"n": {"$gte": 10}})
        assert batch.ids.shape == (3, 9)
        for row, plain in zip(batch, c.search(query, k=9, where={"n": {"$gte": 10}}), strict=True):
            assert row[0] == plain[0]
            assert len(set(row.ids)) == 9
            assert row.distances.mean() >= plain.distances.mean()


# -- all records at once


@pytest.mark.parametrize("radius", [0.0, 0.6, 1.2])
def test_near_duplicates_are_each_pair_once(collection: vecstore.Collection, radius: float) -> None:
    rows = vectors(COUNT, 0).astype(np.float64)
    apart = np.linalg.norm(rows[:, None] - rows, axis=2)
    first, second = np.nonzero(np.triu(apart <= radius, 1))
    wanted = set(zip(first.tolist(), second.tolist(), strict=True))
    found = list(collection.near_duplicates(radius))
    pairs = {tuple(sorted(pair[:2])) for pair in found}
    assert len(pairs) == len(found)
    assert pairs <= wanted
    assert len(pairs) >= 0.99 * len(wanted)
    assert all(isinstance(pair, vecstore.Pair) for pair in found)
    for pair in found[:100]:
        assert pair.distance == pytest.approx(apart[pair.first, pair.second], rel=1e-6)
    assert {tuple(sorted(pair[:2])) for pair in collection.near_duplicates(radius, exact=True)} == wanted


@pytest.mark.parametrize(("metric", "dtype"), KINDS)
def test_crowds_of_duplicates(tmp_path: Path, metric: str, dtype: str) -> None:
    """Far more alike than any walk is first asked for."""
    rows = vectors(500, 0, dtype)
    rows[100:400] = rows[100]
    with vecstore.open(tmp_path / "d.vec", dim=rows.shape[1], metric=metric, dtype=dtype) as c:
        c.add([f"id {n}" for n in range(500)], rows, [{"odd": n % 2} for n in range(500)])
        distance = c.search(id="id 100", k=1)[0].distance + 1e-6
        for where, crowd in ((None, 300), ({"odd": 1}, 150)):
            pairs = [
                pair for pair in c.near_duplicates(distance, where=where) if 100 <= int(pair.first[3:]) < 400
            ]
            inside = {frozenset(pair[:2]) for pair in pairs if 100 <= int(pair.second[3:]) < 400}
            assert len(inside) == crowd * (crowd - 1) // 2


def test_near_duplicates_change_nothing_and_check_what_they_get(collection: vecstore.Collection) -> None:
    with pytest.raises(InvalidArgumentError):
        collection.near_duplicates("near")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="radius"):
        collection.near_duplicates(None)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError):
        collection.near_duplicates(1.0, recall=2)
    with pytest.raises(InvalidFilterError):
        collection.near_duplicates(1.0, where=3)


def test_the_neighbours_of_every_record(collection: vecstore.Collection) -> None:
    rows = vectors(COUNT, 0).astype(np.float64)
    apart = np.linalg.norm(rows[:, None] - rows, axis=2)
    np.fill_diagonal(apart, np.inf)
    wanted = np.sort(apart, axis=1)[:, :6]
    for exact in (True, False):
        batches = list(collection.neighbours(6, exact=exact, batch_size=700))
        assert [len(batch.ids) for batch in batches] == [700] * 4 + [200]
        ids, near, distances = (np.concatenate(part) for part in zip(*batches, strict=True))
        assert ids.tolist() == list(range(COUNT))
        assert near.shape == distances.shape == (COUNT, 6)
        assert not (near == ids[:, None]).any()
        np.testing.assert_allclose(distances, np.take_along_axis(apart, near, axis=1), rtol=1e-5)
        found = float(np.mean(distances <= wanted[:, -1:] * (1 + 1e-6)))
        assert found == 1.0 if exact else found >= 0.95


def test_neighbours_of_few_records(tmp_path: Path) -> None:
    with vecstore.open(tmp_path / "f.vec", dim=1, metric="l2") as c:
        assert list(c.neighbours()) == list(c.near_duplicates(1)) == []
        c.add(["a", 2, "c"], [[1], [2], [4]], [{"n": 1}, {"n": 1}, {"n": 2}])
        [batch] = c.neighbours(3)
        assert batch.ids.tolist() == ["a", 2, "c"]
        assert batch.neighbours.tolist() == [[2, "c", None], ["a", "c", None], [2, "a", None]]
        assert batch.distances.tolist() == [[1, 3, np.inf], [1, 2, np.inf], [2, 3, np.inf]]
        [few] = c.neighbours(1, where={"n": 1})
        assert few.neighbours.tolist() == [[2], ["a"]]
        with c.transaction():
            c.add("d", [1])
            pairs, near = c.near_duplicates(0), c.neighbours(1)
            c.delete("d")
            assert [(pair.first, pair.second) for pair in pairs] == [("a", "d")]
            assert len(next(near).ids) == 4


@pytest.mark.parametrize(
    "ask",
    [
        lambda c: c.stream(QUERY),
        lambda c: c.pages(QUERY),
        lambda c: c.near_duplicates(1.0),
        lambda c: c.neighbours(2),
    ],
)
def test_a_snapshot_is_let_go_of(tmp_path: Path, ask: Callable[[vecstore.Collection], Any]) -> None:
    with filled(tmp_path, count=300) as c:
        found = ask(c)
        next(found)
        c.delete([0])
        assert len(c.stats()["held_snapshots"]) == 1
        found.close()
        assert not c.stats()["held_snapshots"]


# -- after churn


@pytest.mark.parametrize(("metric", "dtype"), [("l2", "float32"), ("cosine", "float16"), ("l2", "uint8")])
def test_all_of_it_with_records_that_are_gone_and_records_that_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str, dtype: str
) -> None:
    monkeypatch.setattr(config, "GRAPH_FROM", 400)
    monkeypatch.setattr(config, "GRAPH_FROM_BYTES", 0)
    with filled(tmp_path, metric, dtype, count=2000) as c:
        c.delete(range(0, 2000, 9))
        rows = vectors(2000, 0, dtype)
        # Twins of records in the graph, which are not linked yet.
        c.add(
            [f"twin {n}" for n in range(1, 181, 2)],
            rows[1:181:2],
            [{"n": -n, "album": "twins"} for n in range(1, 181, 2)],
        )
        assert c.stats()["pending"] > 0
        assert c.explain(rows[1])["plan"] == "graph"
        held = {record.id: record for record in c}
        query = vectors(1, 1, dtype)[0]
        hits = list(c.stream(query))
        assert {hit.id for hit in hits} == set(held)
        assert len(hits) == len(held)
        twins = {(n, f"twin {n}") for n in range(1, 181, 2) if n % 9}
        pairs = {tuple(sorted(pair[:2], key=str)) for pair in c.near_duplicates(1e-6)}
        assert len(twins & pairs) >= 0.99 * len(twins)
        assert {tuple(sorted(pair[:2], key=str)) for pair in c.near_duplicates(1e-6, exact=True)} >= twins
        alone = {"album": "twins"}
        assert not list(c.near_duplicates(1e-6, where=alone))
        assert {hit.id for hit in c.stream(query, where=alone)} == {
            id_ for id_ in held if str(id_)[:4] == "twin"
        }
        assert c.search(id="twin 1", k=1).ids == [1]
        assert len({hit.metadata["album"] for hit in c.search(query, k=20, group_by="album")}) == 20
        near = c.search(query, radius=float(hits[40].distance))
        assert len(near) >= 0.95 * 41
        for batch in c.neighbours(3, where={"n": {"$lt": 300}}):
            assert all(held[id_].metadata["n"] < 300 for id_ in batch.neighbours.ravel())
            assert not (batch.ids[:, None] == batch.neighbours).any()
