"""Indexes of fields in the file: kept with the records whatever happens to these, and never asked when they are not whole."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vecstore
from vecstore import config
from vecstore.cli import main
from vecstore.errors import CorruptionError, InvalidArgumentError, LockedError, ReadOnlyError
from vecstore.query import fields as columns_module
from vecstore.query import indexed as indexed_module
from vecstore.storage import fields, keys
from vecstore.storage.session import Session
from vecstore.storage.values import NUMBER, TEXT

Opened = Callable[..., vecstore.Collection]
ODD = [
    1,
    1.5,
    -(2**53),
    2**60,
    2**60 + 1,
    2**64 - 1,
    True,
    None,
    "red",
    "",
    "é" * 40,
    ["red", 2],
    [],
    {"deep": 1},
    -0.0,
]


@pytest.fixture
def by_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that filters read of fields comes out of indexes: no column is read out of records."""

    def refused(*_: Any) -> None:
        raise AssertionError("a field was read out of the records")

    monkeypatch.setattr(config, "READ_INDEXED_FROM", 0)
    monkeypatch.setattr(indexed_module, "_DISTINCT", 1)
    monkeypatch.setattr(columns_module.Fields, "_read", refused)


@pytest.fixture
def by_index_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "READ_INDEXED_FROM", 0)


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "INDEXED_AT_ONCE", 100)


def chosen(collection: vecstore.Collection, where: dict[str, Any]) -> set[Any]:
    return {record.id for record in collection.scan(where=where, vectors=False)}


def put(collection: vecstore.Collection, numbers: Any, make: Callable[[int], dict[str, Any]]) -> None:
    numbers = list(numbers)
    collection.upsert(numbers, np.ones((len(numbers), collection.dim)), [make(number) for number in numbers])


def write(collection: vecstore.Collection, change: Callable[[Session], Any]) -> None:
    with collection._file.writing(None):
        session = Session(collection._file)
        try:
            change(session)
            session.commit()
        finally:
            session.close()


def poke(collection: vecstore.Collection, field: str, slot: int, tag: int, word: int) -> None:
    """A row that the record does not have, in a block that is sound."""

    def change(session: Session) -> None:
        one = np.array([slot], dtype=np.int64)
        tags, words = np.array([tag], dtype=np.uint8), np.array([word], dtype=np.uint64)
        fields.write(session, session.header.fields[field], one, tags, words)

    write(collection, change)


# -- asked for and dropped


def test_made_listed_and_dropped(opened: Opened, by_index: None) -> None:
    c = opened(dim=2)
    put(c, range(1000), lambda n: {"year": 2000 + n % 20, "exif": {"iso": n}})
    assert c.indexes() == {} == c.stats()["indexes"]
    c.create_index("year")
    c.create_index("exif.iso")
    c.create_index("nowhere")
    assert list(c.indexes()) == ["exif.iso", "nowhere", "year"]
    assert all(index["built"] == 1.0 and not index["by_itself"] for index in c.indexes().values())
    assert c.stats()["indexes"] == c.indexes()
    assert c.stats()["blocks"]["fields"] * 4096 == sum(index["bytes"] for index in c.indexes().values())
    assert len(chosen(c, {"year": 2003, "exif.iso": {"$lt": 100}})) == 5
    assert len(chosen(c, {"nowhere": {"$exists": False}})) == 1000
    assert chosen(c, {"nowhere": 1}) == set()
    c.create_index("year")  # once more changes nothing
    assert c.drop_index("year")
    assert not c.drop_index("year")
    assert list(c.indexes()) == ["exif.iso", "nowhere"]
    assert c.verify(raise_on_error=True).ok
    assert c.drop_index("exif.iso") and c.drop_index("nowhere")  # noqa: PT018
    assert c.stats()["blocks"]["fields"] == 0


def test_an_index_of_an_empty_collection_grows_with_it(opened: Opened, by_index: None) -> None:
    c = opened(dim=2)
    c.create_index("n")
    assert c.indexes()["n"]["built"] == 1.0
    put(c, range(50), lambda n: {"n": n})
    assert chosen(c, {"n": {"$gte": 48}}) == {48, 49}
    c.delete(where={})
    assert c.indexes()["n"]["built"] == 1.0
    put(c, range(3), lambda n: {"n": -n})
    assert chosen(c, {"n": {"$lt": -1}}) == {2}
    assert c.verify(raise_on_error=True).ok


def test_sixteen_indexes_and_no_more(opened: Opened, by_index: None) -> None:
    c = opened(dim=2)
    names = [f"f{place}" for place in range(16)]
    put(c, range(600), lambda n: {name: n * place for place, name in enumerate(names)})
    for name in names:
        c.create_index(name)
    with pytest.raises(InvalidArgumentError, match=r"16 indexes of fields at most.*f15.*drop_index"):
        c.create_index("one more")
    put(c, range(500, 1000), lambda n: {name: n * place + 1 for place, name in enumerate(names)})
    for place, name in enumerate(names):
        assert len(chosen(c, {name: {"$lt": 300 * place}})) == (300 if place else 0)
    c.drop_index("f7")
    c.create_index("one more")
    assert c.verify(raise_on_error=True).ok
    assert sorted(index.place for index in _fields_of(c).values()) == list(range(16))


def _fields_of(collection: vecstore.Collection) -> Any:
    with collection._file.snapshot() as state:
        return state.header.fields


def test_what_cannot_be_indexed_is_refused(opened: Opened) -> None:
    c = opened(dim=2)
    for wrong in (5, None, "$gt", ["a"]):
        with pytest.raises(InvalidArgumentError, match="an index is of a field"):
            c.create_index(wrong)  # type: ignore[arg-type]
    for wrong in ("x" * 300, "\ud800"):
        with pytest.raises(InvalidArgumentError, match="256 bytes"):
            c.create_index(wrong)
    with c.transaction():
        for call in (c.create_index, c.drop_index):
            with pytest.raises(InvalidArgumentError, match="outside of the transaction"):
                call("n")
    with vecstore.open(c.path, mode="r") as reader:
        for call in (reader.create_index, reader.drop_index):
            with pytest.raises(ReadOnlyError):
                call("n")
        assert reader.indexes() == {}
    with c.transaction(), vecstore.open(c.path, timeout=0) as other, pytest.raises(LockedError):
        other.create_index("n")


def test_info_names_them(opened: Opened, capsys: pytest.CaptureFixture[str]) -> None:
    c = opened(dim=2)
    put(c, range(100), lambda n: {"n": n})
    c.create_index("n")
    write(c, lambda session: fields.create(session, "half", asked=True))
    assert main(["info", c.path]) == 0
    assert "half (0% built), n" in capsys.readouterr().out


# -- kept


def test_kept_through_all_that_happens_to_records(opened: Opened, tmp_path: Path, by_index: None) -> None:
    """Purges that move rows and records, slots that are used again, long records, transactions, copies."""
    c = opened(dim=900, metric="l2")
    for name in ("n", "odd", "in.odd", "long"):
        c.create_index(name)
    random = np.random.default_rng(5)
    model: dict[Any, dict[str, Any]] = {}

    def made(number: int) -> dict[str, Any]:
        odd = ODD[int(random.integers(len(ODD)))]
        found: dict[str, Any] = {"n": number, "in": {"odd": odd}}
        found |= {"odd": odd} if number % 3 else {}
        return found | ({"long": "x" * int(random.integers(1, 30_000))} if number % 40 == 0 else {})

    def check() -> None:
        with vecstore.open(c.path, mode="r") as reader:
            for collection in (c, reader):
                assert chosen(collection, {"n": {"$lt": 150}}) == {
                    id_ for id_, m in model.items() if m["n"] < 150
                }
                assert chosen(collection, {"odd": {"$exists": True}}) == {
                    id_ for id_, m in model.items() if "odd" in m
                }
                for odd in ODD:
                    mine = {
                        id_
                        for id_, m in model.items()
                        if type(m["in"]["odd"]) is type(odd) and m["in"]["odd"] == odd
                    }
                    if not isinstance(odd, (int, float)) or isinstance(odd, bool) or abs(odd) > 2:
                        assert chosen(collection, {"in.odd": {"$eq": odd}}) == mine, odd
                long = {id_ for id_, m in model.items() if m.get("long", "").startswith("xx")}
                assert chosen(collection, {"long": {"$prefix": "xx"}}) == long
        report = c.verify()
        assert report.problems == ()

    for step in range(6):
        ids = [number if number % 2 else f"id {number}" for number in range(100 * step, 100 * step + 160)]
        metadata = [made(100 * step + place) for place in range(160)]
        c.upsert(ids, random.random((160, 900)), metadata)
        model |= dict(zip(ids, metadata, strict=True))
        some = [list(model)[int(place)] for place in random.choice(len(model), 30, replace=False)]
        c.update(some, [{"odd": "changed", "n": step} for _ in some])
        for id_ in some:
            model[id_] = model[id_] | {"odd": "changed", "n": step}
        with contextlib.suppress(ZeroDivisionError), c.transaction():
            c.delete(some)
            c.add("undone", np.ones(900), {"n": 1, "odd": "undone"})
            raise ZeroDivisionError
        with c.transaction():
            c.delete(some[:10])
            c.add([f"new {step}"], np.ones((1, 900)), [{"n": 7, "in": {"odd": "red"}}])
        for id_ in some[:10]:
            del model[id_]
        model[f"new {step}"] = {"n": 7, "in": {"odd": "red"}}
        gone = list(model)[::2] if step % 2 else list(model)[-40:]
        assert c.delete(gone) == len(gone)
        for id_ in gone:
            del model[id_]
        check()
    c.backup(tmp_path / "copy.vec")
    with vecstore.open(tmp_path / "copy.vec", mode="r") as copied:
        assert copied.indexes().keys() == c.indexes().keys()
        assert chosen(copied, {"odd": "changed"}) == {
            id_ for id_, m in model.items() if m.get("odd") == "changed"
        }
        assert copied.verify(raise_on_error=True).ok
    c.compact()
    check()


def test_a_bulk_load_is_kept_up_in_portions(
    opened: Opened, by_index: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fields, "_KEPT_AT_ONCE", 700)
    monkeypatch.setattr("vecstore.handle.STAGE_BYTES", 1 << 16)
    c = opened(dim=2, durability="none")
    c.create_index("n")
    c.create_index("kind")
    c.add(
        [f"id {n}" for n in range(30_000)],
        np.ones((30_000, 2)),
        [{"n": n, "kind": f"kind {n % 7}"} for n in range(30_000)],
    )
    assert c.verify(raise_on_error=True).ok
    assert len(chosen(c, {"n": {"$lt": 700}, "kind": "kind 3"})) == 100


# -- made in slices


def test_half_an_index_answers_nothing_and_is_finished_by_later_writes(
    opened: Opened, small_slices: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    c = opened(dim=2)
    put(c, range(450), lambda n: {"n": n})
    write(c, lambda session: fields.create(session, "n", asked=True))
    monkeypatch.setattr(config, "READ_INDEXED_FROM", 0)
    asked = []
    read = fields.read
    monkeypatch.setattr(fields, "read", lambda *given: (asked.append(1), read(*given))[1])
    changed: set[int] = set()
    for turn in range(20):
        if c.indexes()["n"]["built"] == 1.0:
            break
        with vecstore.open(c.path, mode="r") as reader:
            assert chosen(reader, {"n": {"$lt": 0}}) == changed
        assert not asked
        # Below what is covered the row is kept; behind it, it is read later.
        c.update([turn, 440 - turn], [{"n": -1}, {"n": -2}])
        changed |= {turn, 440 - turn}
        assert c.verify(raise_on_error=True).ok
        asked.clear()
    assert 3 < turn < 10
    with vecstore.open(c.path, mode="r") as reader:
        assert chosen(reader, {"n": {"$lt": 0}}) == changed
    assert asked
    assert c.verify(raise_on_error=True).ok


def test_slots_that_go_take_their_rows_along(opened: Opened, small_slices: None) -> None:
    c = opened(dim=2)
    put(c, range(2000), lambda n: {"n": n})
    c.create_index("n")
    write(c, lambda session: fields.create(session, "half", asked=True))
    before = c.stats()["blocks"]["fields"]
    c.delete(range(600, 2000))
    assert c.stats()["blocks"]["fields"] < before
    assert c.verify(raise_on_error=True).ok
    put(c, range(3000, 4500), lambda n: {"n": n, "half": n})
    c.optimize()
    assert {name: index["built"] for name, index in c.indexes().items()} == {"half": 1.0, "n": 1.0}
    assert c.verify(raise_on_error=True).ok


def test_an_index_is_made_by_itself_of_what_is_asked_again(
    path: str, small_slices: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "INDEXED_FROM", 300)
    with vecstore.open(path, dim=2) as c:
        put(c, range(300), lambda n: {"n": n, "name": f"name {n}", "kind": f"kind {n % 5}"})

    def process(*names: str, mode: str = "a") -> dict[str, Any]:
        with vecstore.open(path, mode=mode) as c:
            for name in names:
                chosen(c, {name: 5}), chosen(c, {name: 6})
            if mode == "a":
                c.update(7, {"seen": 1})
            return c.indexes()

    assert process("n", mode="r") == process("n", mode="r") == {}
    assert process("n", "name", "nowhere") == {}
    assert process("kind") == {}
    assert process() == {}
    made = process("n", "name", "nowhere")
    assert list(made) == ["n"], "of texts that all differ, and of what no record has, there is none"
    assert made["n"]["by_itself"]
    assert made["n"]["built"] == pytest.approx(1 / 3, abs=1e-3)
    process()
    assert process()["n"]["built"] == 1.0
    assert list(process("kind")) == ["kind", "n"]
    with vecstore.open(path) as c:
        c.optimize()
        assert c.verify(raise_on_error=True).ok
        assert c.drop_index("n")
        c.create_index("kind")
        assert not c.indexes()["kind"]["by_itself"]
    for _ in range(3):
        assert list(process("n")) == ["kind"], "what was dropped does not come back by itself"
    with vecstore.open(path) as c:
        c.compact()
    assert list(process("n")) == ["kind"]
    with vecstore.open(path) as c:
        c.create_index("n")
        assert list(c.indexes()) == ["kind", "n"]


def test_so_many_are_made_by_themselves_and_no_more(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "INDEXED_FROM", 100)
    monkeypatch.setattr(config, "INDEXED_BY_ITSELF", 3)
    names = [f"f{place}" for place in range(20)]
    with vecstore.open(path, dim=2) as c:
        put(c, range(100), lambda n: dict.fromkeys(names, n))
    for _ in range(3):
        with vecstore.open(path) as c:
            chosen(c, {"$or": [{name: 1} for name in [*names, "\ud800", "x" * 300]]})
            c.optimize()
            c.optimize()
    with vecstore.open(path) as c:
        assert len(c.indexes()) == 3
        with c._file.snapshot() as state:
            assert len(state.header.asked) <= 32
        for name in names[:16]:
            if name not in c.indexes() and len(c.indexes()) < 16:
                c.create_index(name)
        assert len(c.indexes()) == 16
        assert c.verify(raise_on_error=True).ok


# -- snapshots and other processes


def test_old_snapshots_answer_as_they_did(opened: Opened, by_index: None) -> None:
    c = opened(dim=2)
    put(c, range(500), lambda n: {"n": n, "kind": f"kind {n % 3}"})
    c.create_index("n")
    c.create_index("kind")
    with vecstore.open(c.path, mode="r") as reader, reader._file.snapshot() as old:
        where = vecstore.query.where.parse({"n": {"$lt": 50}, "kind": "kind 1"})
        before = reader._planner.matching(old, where).copy()
        c.drop_index("n")
        put(c, range(100), lambda n: {"n": -1, "kind": "kind 1"})
        c.create_index("n")
        c.delete(range(40, 60))
        now = chosen(reader, {"n": {"$lt": 50}, "kind": "kind 1"})
        assert now == set(range(100)) - set(range(40, 60))
        assert (reader._planner.matching(old, where) == before).all()
        assert before.sum() == 17
        c.drop_index("n")
        c.drop_index("kind")
        assert (vecstore.query.fields.Fields().matching(old, where) == before).all()


def test_the_first_filter_of_a_process_needs_no_kernels(path: str) -> None:
    with vecstore.open(path, dim=2, metric="l2") as c:
        count = 25_000
        c.add(range(count), np.ones((count, 2)), [{"n": n, "kind": f"kind {n % 9}"} for n in range(count)])
        c.create_index("n")
        c.create_index("kind")
    code = (
        "import sys, vecstore\n"
        "c = vecstore.open(sys.argv[1], mode='r')\n"
        "print(len(list(c.scan(where={'n': {'$lt': 90}, 'kind': 'kind 4'}))), 'numba' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.stdout.split() == ["10", "False"], done.stderr


def test_readers_beside_a_writer_that_makes_and_drops_indexes(path: str, by_index_where_there_is_one: None) -> None:
    """All records change together, so whoever reads finds all of them alike, whatever his columns come from."""
    count, rounds = 300, 25
    done = threading.Event()
    failures: list[Any] = []
    with vecstore.open(path, dim=2, durability="none") as c:
        put(c, range(count), lambda n: {"step": 0, "kind": "kind 0"})

        def read() -> None:
            try:
                with vecstore.open(path, mode="r") as reader:
                    while not done.is_set():
                        steps = {record.metadata["step"] for record in reader.scan(where={"step": {"$gte": 0}})}
                        assert len(steps) == 1, steps
                        [step] = steps
                        found = [record.metadata for record in reader.scan(where={"kind": f"kind {step}"})]
                        assert len(found) in (0, count), len(found)
                        assert all(metadata["step"] == step for metadata in found)
            except BaseException as error:
                failures.append(error)

        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        for step in range(1, rounds):
            put(c, range(count), lambda n: {"step": step, "kind": f"kind {step}"})  # noqa: B023
            for place, name in enumerate(("step", "kind")):
                (c.create_index if (step + place) % 3 else c.drop_index)(name)
        done.set()
        for reader in readers:
            reader.join()
        assert not failures
        assert c.verify(raise_on_error=True).ok


# -- damage


def test_verify_tells_each_row_that_is_not_its_records(opened: Opened) -> None:
    c = opened(dim=2)
    put(c, range(1200), lambda n: {"n": n, "kind": f"kind {n % 4}"})
    c.create_index("n")
    c.create_index("kind")
    assert c.verify().ok
    seven = int(np.array([7.0]).view(np.uint64)[0])
    poke(c, "n", 5, NUMBER, seven)
    poke(c, "n", 1100, TEXT, 12345)
    poke(c, "kind", 600, TEXT, 12345)
    problems = c.verify().problems
    assert len(problems) == 3
    assert "slot 5 the index of 'n' has 7.0, and the record 5.0" in problems[0]
    assert "slot 1100 the index of 'n' has a text, and the record 1100.0" in problems[1] + problems[2]
    assert "slot 600 the index of 'kind' has a text, and the record another" in problems[1] + problems[2]
    assert all("drop_index" in problem for problem in problems)
    with pytest.raises(CorruptionError, match="slot 5"):
        c.verify(raise_on_error=True)
    for name in ("n", "kind"):
        c.drop_index(name)
        c.create_index(name)
    assert c.verify().ok


def test_blocks_that_are_missing_or_nobodys_are_told(opened: Opened) -> None:
    c = opened(dim=2)
    put(c, range(1200), lambda n: {"n": n})
    c.create_index("n")
    write(c, lambda session: session.create(keys.FIELDS, 3))
    assert c.verify().problems == ("block fields 3 is no part of an index",)
    write(c, lambda session: session.free(keys.FIELDS, 16))
    assert "fields 16 is damaged: it is missing" in c.verify().problems[1]


@pytest.mark.parametrize("tag", [TEXT, 9, 255])
def test_a_row_that_makes_no_sense_is_damage(opened: Opened, by_index: None, tag: int) -> None:
    c = opened(dim=2)
    put(c, range(1000), lambda n: {"n": f"text {n % 3}"})
    c.create_index("n")
    poke(c, "n", 700, tag, 99)
    with vecstore.open(c.path, mode="r") as reader, pytest.raises(CorruptionError, match="block fields 16 "):
        chosen(reader, {"n": "text 1"})


def test_a_damaged_index_is_told_and_made_anew(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "READ_INDEXED_FROM", 0)
    with vecstore.open(path, dim=2) as c:
        put(c, range(1200), lambda n: {"n": n})
        c.create_index("n")
        with c._file.snapshot() as state:
            place = state._place(keys.FIELDS, 16) * state.layout.page_bytes
    with open(path, "r+b") as file:
        file.seek(place + 900)
        byte = file.read(1)[0]
        file.seek(place + 900)
        file.write(bytes([byte ^ 4]))
    with vecstore.open(path) as c:
        with pytest.raises(CorruptionError, match=r"block fields 16 .*drop_index"):
            chosen(c, {"n": 5})
        with pytest.raises(CorruptionError, match="drop_index"):
            c.update(500, {"n": 1})
        assert any("block fields 16 " in problem for problem in c.verify().problems)
        assert c.drop_index("n")
        assert chosen(c, {"n": 5}) == {5}
        c.create_index("n")
        assert c.verify().ok
        assert chosen(c, {"n": 5}) == {5}


# -- files of before


def test_a_file_of_format_4_takes_indexes(tmp_path: Path, by_index: None) -> None:
    fixture = Path(__file__).parent / "fixtures" / "format-4" / "l2-float32.vec"
    shutil.copy(fixture, tmp_path / "old.vec")
    with vecstore.open(tmp_path / "old.vec", mode="r") as old:
        assert (old.stats()["format_version"], old.indexes()) == (4, {})
    with vecstore.open(tmp_path / "old.vec") as c:
        assert not c.drop_index("n")
        assert c.stats()["format_version"] == 4
        c.create_index("n")
        c.create_index("deep.x")
        assert c.stats()["format_version"] == config.FORMAT_VERSION
        wanted = {record.id for record in c if record.metadata.get("n", 0) >= 10}
        assert chosen(c, {"n": {"$gte": 10}}) == wanted
        assert wanted
        assert c.verify(raise_on_error=True).ok


# -- what stands beside


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 400), st.integers(1, 300), st.sampled_from([64, 48, 8, 1]), st.integers(0, 2**32 - 1))
def test_distinct_words_are_told_apart(size: int, several: int, bits: int, seed: int) -> None:
    """Also where hardly any of their bits differ, as hashes' would."""
    random = np.random.default_rng(seed)
    pool = (
        random.integers(0, 1 << bits, several, dtype=np.uint64, endpoint=False)
        if bits < 64
        else random.bytes(8 * several)
    )
    words = random.choice(np.frombuffer(pool, dtype=np.uint64), size)
    places, which = indexed_module.distinct(words)
    assert (words[places][which] == words).all()
    assert len(places) == len(set(words.tolist()))
