"""What a search gives back: copied while the snapshot lives, decoded when it is asked for."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import vecstore
from vecstore import Hit, Hits, HitsBatch, inputs
from vecstore.errors import CorruptionError
from vecstore.kernels import dispatch
from vecstore.query import answers
from vecstore.storage import store
from vecstore.storage.ids import hash_ids
from vecstore.storage.session import Session


@pytest.fixture(scope="module")
def kernels() -> Any:
    dispatch.cpu()
    loaded = dispatch.fetch_kernels()
    assert loaded is not None
    return loaded


def ids_of(kind: str, count: int) -> list[Any]:
    return [f"id-{n}" if kind == "text" or (kind == "both" and n % 3 == 0) else n - 7 for n in range(count)]


def filled(opened: Any, kind: str, count: int = 3000, **options: Any) -> vecstore.Collection:
    rng = np.random.default_rng(5)
    collection: vecstore.Collection = opened(dim=4, metric="l2", **options)
    metadata = [{"n": n, "text": "x" * int(rng.integers(0, 60))} for n in range(count)]
    collection.add(ids_of(kind, count), rng.standard_normal((count, 4)), metadata)
    return collection


# -- what is decoded, and when


@pytest.fixture(params=["kernel", "plain"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, kernels: Any) -> None:
    if request.param == "plain":
        monkeypatch.setattr(dispatch, "fetch_kernels", lambda: None)


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    seen: list[int] = []
    unpack = store.unpacked

    def counted(packed: Any, mark: int, is_text: bool) -> Any:
        seen.append(mark)
        return unpack(packed, mark, is_text)

    monkeypatch.setattr(store, "unpacked", counted)
    return seen


@pytest.mark.usefixtures("way")
def test_a_search_decodes_nothing(opened: Any, decodings: list[int]) -> None:
    collection = filled(opened, "whole")
    batch = collection.search(np.eye(4), k=5)
    hits = collection.search(np.ones(4), k=5)
    assert hits.ids == hits[:].ids
    assert batch.ids.shape == batch.distances.shape == (4, 5)
    assert [row.ids for row in batch] == batch.ids.tolist()
    assert len(hits) == len(batch[2]) == 5
    assert not decodings
    assert hits[1].metadata["n"] == hits.ids[1] + 7
    assert len(decodings) == 1
    assert [hit.metadata for hit in hits] == hits.metadata
    assert len(decodings) == 5
    hits.metadata[3]["mine"] = True
    assert hits[3].metadata["mine"]
    assert hits[2:][1].metadata["mine"]
    assert batch[1][0].metadata is batch[1:][0][0].metadata
    assert len(decodings) == 6


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", ["whole", "text", "both"])
def test_hits_are_those_of_get(opened: Any, kind: str) -> None:
    collection = filled(opened, kind)
    queries = np.random.default_rng(4).standard_normal((40, 4))
    batch = collection.search(queries, k=20)
    assert batch.ids.dtype == (np.int64 if kind == "whole" else object)
    for query, row, ids, distances in zip(queries, batch, batch.ids.tolist(), batch.distances, strict=True):
        records = collection.get(row.ids)
        assert ids == row.ids == [record.id for record in records]
        assert all(type(id_) in (int, str) for id_ in row.ids)
        assert row.metadata == [record.metadata for record in records]
        truth = np.linalg.norm(np.stack([record.vector for record in records]) - query, axis=1)
        np.testing.assert_allclose(distances, truth, rtol=1e-5)
        assert (row.distances == distances).all()
        assert collection.search(query, k=20) == row


@pytest.mark.usefixtures("way")
def test_hits_outlive_what_they_came_from(opened: Any) -> None:
    collection = filled(opened, "both")
    hits = collection.search(np.ones(4), k=30)
    before = collection.search(np.ones(4), k=30)
    assert before.metadata
    for _ in range(5):
        collection.upsert(ids_of("both", 3000), np.zeros((3000, 4)), [{"new": "w" * 40}] * 3000)
    collection.compact()
    collection.close()
    assert hits == before


@pytest.mark.usefixtures("way")
def test_inside_a_transaction(opened: Any) -> None:
    collection = filled(opened, "text")
    with collection.transaction():
        collection.add("new", [9, 9, 9, 9], {"fresh": 1})
        collection.delete("id-0")
        hits = collection.search([9, 9, 9, 9], k=2)
        assert hits[0] == Hit("new", 0.0, {"fresh": 1})
        assert collection.search(np.full((3, 4), 9.0), k=1).ids.tolist() == [["new"]] * 3
    assert collection.search([9, 9, 9, 9], k=2) == hits


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("packed", [b"", b"\xc1", b"\x93\x01", b"\x01", b"\x92\x01\x80", b"\x81\xa1a", b"\x80\x80", b"\xdf" * 5])
def test_records_that_are_none_are_told_of_when_they_are_asked_for(opened: Any, text: bool, packed: bytes) -> None:
    collection = opened(dim=4, metric="l2")
    collection.add(["one", 2], np.ones((2, 4)), [{"fine": 1}, {"fine": 2}])
    with collection._file.writing(1):
        session = Session(collection._file)
        bad = hash_ids(["bad" if text else 7], session.header.seed)
        store.insert(session, bad, np.zeros((1, 16), np.uint8), [packed])
        session.commit()
        session.close()
    if packed == b"\x92\x01\x80" or not text:
        expected = "a record in it (is not a record|cannot be read)"
    else:
        expected = "a record in it"
    with pytest.raises(CorruptionError, match=expected) as by_get, collection._file.snapshot() as state:
        answers.records_of(state, np.array([2]))
    hits, batch = collection.search(np.zeros(4)), collection.search(np.zeros((2, 4)))
    assert len(hits) == 3
    assert hits.distances.tolist() == [0, 2, 2]
    for access in (
        lambda: hits[0],
        lambda: list(hits),
        lambda: hits.metadata,
        lambda: repr(hits),
        lambda: hits == hits[:],
        lambda: batch[0][0],
        lambda: pickle.dumps(batch),
    ):
        for _ in range(2):
            with pytest.raises(CorruptionError) as later:
                access()
            assert str(later.value) == str(by_get.value)
    assert {hit.id for hit in hits[1:]} == {"one", 2}


def test_a_small_search_loads_no_numba(tmp_path: Any) -> None:
    code = (
        "import sys, vecstore, numpy\n"
        "c = vecstore.open('i.vec', dim=2); c.add(range(50), numpy.ones((50, 2)))\n"
        "c.search([1, 0]).metadata, c.search([[1, 0]] * 30).ids, c.radius([1, 0], 2).ids\n"
        "print('numba' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


# -- Hits and HitsBatch as sequences


def some_hits(opened: Any) -> list[Hits]:
    """The same six hits: made by hand, and three ways out of a search."""
    listed = [Hit(f"id-{n}" if n % 2 else n, float(n), {"n": n}) for n in range(6)]
    collection = opened(dim=1, metric="l2")
    collection.add([hit.id for hit in listed], [[n] for n in range(6)], [hit.metadata for hit in listed])
    batch = collection.search([[0], [0], [0]], k=6)
    return [Hits(listed), collection.search([0], k=6), batch[1], batch[::-1][2][:]]


def test_hits_are_a_sequence(opened: Any) -> None:
    ids = [0, "id-1", 2, "id-3", 4, "id-5"]
    for hits in some_hits(opened):
        listed = list(hits)
        assert hits.ids == ids
        assert hits.distances.tolist() == list(range(6))
        assert hits.distances.dtype == np.float64
        assert hits.metadata == [{"n": n} for n in range(6)]
        assert [hits[n] for n in range(6)] == listed == [hits[n - 6] for n in range(6)]
        assert all(type(hit) is Hit and type(hit.distance) is float for hit in hits)
        assert list(reversed(hits)) == listed[::-1]
        assert listed[2] in hits
        assert hits.index(listed[3]) == 3
        assert hits.count(listed[1]) == 1
        for part in (
            slice(None),
            slice(2, 4),
            slice(-2, None),
            slice(None, None, -1),
            slice(4, None, -2),
            slice(5, 0, -3),
            slice(0, 99, 4),
            slice(3, 3),
            slice(9, 2),
        ):
            piece = hits[part]
            assert type(piece) is Hits
            assert list(piece) == listed[part]
            assert piece == Hits(listed[part])
            assert piece.ids == ids[part]
            assert piece.distances.tolist() == list(range(6))[part]
            assert list(piece[::-1]) == listed[part][::-1]
            assert piece[::-1].distances.tolist() == list(range(6))[part][::-1]
        for place in (6, -7, 1 << 70):
            with pytest.raises(IndexError):
                hits[place]
        with pytest.raises(TypeError):
            hits["id-1"]  # type: ignore[call-overload]
        with pytest.raises(TypeError):
            hash(hits)
        assert hits != listed
        assert hits != hits[:5]
        assert repr(hits[:2]) == "Hits(2)\n  0            0  {'n': 0}\n  1            'id-1'  {'n': 1}"
        hits.ids.append(3)
        hits.distances[:] = 9
        assert hits == Hits(listed)
        assert hits.ids == ids
        for copied in (pickle.loads(pickle.dumps(hits)), copy.copy(hits), copy.deepcopy(hits), pickle.loads(pickle.dumps(hits[1:]))):
            assert copied == (hits if len(copied) == 6 else hits[1:])
            assert copied.ids == ids[-len(copied) :]


def test_a_long_answer_is_shown_in_part() -> None:
    assert repr(Hits([Hit(n, 0.5, {}) for n in range(12)])).splitlines() == [
        "Hits(12)",
        *(f"  0.5          {n}" for n in range(10)),
        "  … and 2 more",
    ]
    assert repr(Hits([])) == "Hits(0)"
    assert Hits([]).ids == Hits([])[::-1].ids == []
    assert Hits([]).distances.tolist() == []


@pytest.mark.parametrize("kind", ["whole", "text"])
def test_a_batch_is_a_sequence_of_rows(opened: Any, kind: str) -> None:
    collection = opened(dim=1, metric="l2")
    names = [10 + n if kind == "whole" else f"t{n}" for n in range(4)]
    collection.add(names, [[0], [1], [2], [10]], [{"n": n} for n in range(4)])
    nothing = -1 if kind == "whole" else None
    found = collection.search([[0], [50], [2], [10]], radius=1)
    rows = [names[:2], [], [names[2], names[1]], names[3:]]
    for batch in (found, HitsBatch(list(found), 2, integer_ids=kind == "whole"), pickle.loads(pickle.dumps(found)), copy.copy(found)):
        assert [row.ids for row in batch] == rows
        assert batch.ids.tolist() == [row + [nothing] * (2 - len(row)) for row in rows]
        assert batch.ids.dtype == (np.int64 if kind == "whole" else object)
        assert batch.distances.tolist() == [[0, 1], [np.inf, np.inf], [0, 1], [0, np.inf]]
        assert [batch[n] for n in range(4)] == list(batch) == [batch[n - 4] for n in range(4)]
        for part in (slice(None), slice(1, 3), slice(None, None, -1), slice(3, None, -2), slice(1, 2), slice(2, 2)):
            piece = batch[part]
            assert type(piece) is HitsBatch
            assert len(piece) == len(rows[part])
            assert [row.ids for row in piece] == rows[part]
            assert piece.ids.tolist() == batch.ids[part].tolist()
            assert piece.distances.tolist() == batch.distances[part].tolist()
            assert piece.ids.shape == (len(piece), 2)
        for place in (4, -5):
            with pytest.raises(IndexError):
                batch[place]
        assert repr(batch).startswith("HitsBatch(4 queries, up to 2 hits each)\n  query 0\n    0 ")
        batch.ids[:] = 0
        batch.distances[:] = 0
        assert [row.ids for row in batch] == rows
        assert [row.metadata for row in batch[3:]] == [[{"n": 3}]]
    wide = collection.search([[0], [50]], k=6)
    assert wide.ids.tolist() == [[*names, nothing, nothing], [*names[::-1], nothing, nothing]]
    assert wide.distances[:, 4:].tolist() == [[np.inf] * 2] * 2
    none = collection.search(np.zeros((0, 1)), k=3)
    assert none.ids.shape == none.distances.shape == (0, 3)
    assert not len(none)
    assert list(none) == []
    assert collection.search([[0], [0]], radius=-1).ids.shape == (2, 0)


def test_flat_answers_and_lists_of_them_are_the_same(opened: Any, kernels: Any) -> None:
    collection = filled(opened, "both")
    rng = np.random.default_rng(6)
    with collection._file.snapshot() as state:
        found = [(rng.integers(0, 3000, n), np.sort(rng.random(n))) for n in (3, 0, 10, 1)]
        offsets = np.array([0, 3, 3, 13, 14])
        slots, distances = (np.concatenate([pair[side] for pair in found]) for side in (0, 1))
        flat, listed = answers.hits(state, slots, distances, offsets), answers.hits_of(state, found)
        for one in (flat, listed):
            assert one.ids.shape == (4, 10)
            assert [len(row) for row in one] == [3, 0, 10, 1]
        assert list(flat) == list(listed)
        assert answers.hits(state, slots, distances, offsets, 12).ids.shape == (4, 12)
        assert answers.hits_of(state, found[:1])[0] == flat[0]
        assert answers.hits_of(state, found[1:2], 4).ids.shape == (1, 4)
        assert answers.hits_of(state, []).ids.shape == (0, 0)


# -- the short way in


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_a_query_in_its_final_form_is_judged_as_any_other(metric: str) -> None:
    settings = vecstore.config.Settings(dim=3, metric=metric, dtype="float32")
    rows = [[1, 2, 3], [0, 0, 0], [1e-30, 0, 0], [3e38, 3e38, -3e38], [1e25, 1, 1], [np.inf, 0, 0]]
    rows += [[np.nan, 1, 1], [np.inf, -np.inf, 0], [1, 2], [1, 2, 3, 4]]

    def judged(query: Any) -> Any:
        try:
            found, single = inputs.check_queries(query, settings)
        except vecstore.VecstoreError as error:
            return type(error), str(error)
        assert found.flags.c_contiguous
        assert found.dtype == np.float32
        return found.tolist(), single

    for row in rows:
        whole = np.array(row, dtype=np.float32)
        apart = np.repeat(whole, 2)[::2]
        assert judged(whole) == judged(apart) == judged(memoryview(whole)) == judged(whole.astype(">f4"))
