"""The command line: every command, what it prints, and how it fails."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from vecstore.cli import main

COMMANDS = (
    "search", "info", "verify", "compact", "backup", "recall", "warmup", "export", "import", "demo", "dedupe", "evaluate",
    "fields",
)  # fmt: skip
METADATA: list[dict[str, Any]] = [
    {"year": 2020, "tags": ["beach", "ü"], "place": {"lat": 1.5, "names": [None, True, {"deep": "\n"}]}},
    {},
    {"year": 2021},
    {"text": "x" * 300},
]
IDS: list[str | int] = [7, "7", "img 1", -3]


def vectors_of(dtype: str) -> np.ndarray[Any, Any]:
    random = np.random.default_rng(1)
    if dtype == "binary":
        return np.packbits(random.integers(0, 2, (4, 13), dtype=np.uint8), axis=1)
    if dtype in ("float32", "float16"):
        rows = random.standard_normal((4, 5)).astype(dtype)
        rows[0, 0] = -0.0
        rows[1, 1] = np.finfo(dtype).smallest_subnormal
        return rows
    return random.integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, (4, 5)).astype(dtype)


def make(path: Path, dtype: str = "float32", ids: list[str | int] | None = None) -> str:
    dim, metric = (13, "hamming") if dtype == "binary" else (5, "l2")
    with vecstore.open(path, dim=dim, dtype=dtype, metric=metric) as collection:
        collection.add(IDS if ids is None else ids, vectors_of(dtype), METADATA)
    return str(path)


@pytest.fixture
def file(tmp_path: Path) -> str:
    return make(tmp_path / "a.vec")


def document(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> Any:
    assert main([*arguments, "--json"]) == status
    return json.loads(capsys.readouterr().out)


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a command that fails."""
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("vecstore: ")
    assert err.count("\n") == 1
    return err


def contents(path: str) -> list[tuple[Any, bytes, Any]]:
    with vecstore.open(path, mode="r") as collection:
        return sorted(
            ((r.id, np.asarray(r.vector).tobytes(), r.metadata) for r in collection),
            key=lambda item: repr(item[0]),
        )


def damage(path: str) -> None:
    with vecstore.open(path, dim=64, metric="l2") as collection:
        for start in range(0, 5000, 1000):
            rows = np.arange(start, start + 1000)
            collection.add(rows, np.repeat(rows[:, None], 64, axis=1).astype(np.float32))
    data = bytearray(Path(path).read_bytes())
    at = data.index(np.full(64, 2500, dtype=np.float32).tobytes())
    data[at : at + 8] = b"\xff" * 8
    Path(path).write_bytes(data)


# -- help, usage, entry points


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "example:" in text
    assert f"vecstore {command} " in text.split("example:")[1]


def test_help_of_all_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n    {command} " in text for command in COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["nonsense"], ["info"], ["info", "a.vec", "--nonsense"], ["search", "a.vec"], ["search", "a.vec", "1,2", "--id", "a"],
        ["search", "a.vec", "1,2", "-k", "0"], ["search", "a.vec", "1,2", "--json", "--ids-only"], ["export", "a.vec", "a.csv"],
        ["import", "a", "a.vec"], ["import", "a.npz", "a.vec", "--ids", "x"], ["import", "a.npy", "a.vec", "--metric", "far"],
        ["demo", "--records", "0"],
    ],
)  # fmt: skip
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "usage: vecstore" in err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"vecstore {vecstore.__version__}\n"


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vecstore", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, encoding="utf-8", check=False)


def test_as_a_module(tmp_path: Path) -> None:
    done = run("import", "-", str(tmp_path / "a.vec"), stdin='{"id": "ü", "vector": [1, 2]}\n')
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("1 record added into ")
    done = run("info", str(tmp_path / "missing.vec"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"vecstore: {tmp_path / 'missing.vec'} does not exist\n"


@pytest.mark.skipif(os.name == "nt", reason="pipes close otherwise there")
def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    with vecstore.open(tmp_path / "a.vec", dim=64, metric="l2") as collection:
        collection.add(range(5000), np.ones((5000, 64)))
    with subprocess.Popen(
        [sys.executable, "-m", "vecstore", "export", str(tmp_path / "a.vec"), "-"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b'{"id":0,')
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1


def test_ctrl_c_is_quiet(
    file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(vecstore.Collection, "stats", interrupted)
    assert main(["info", file]) == 130
    assert capsys.readouterr() == ("", "")


# -- care


def test_info(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", file]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["count", "4"] for line in lines)
    assert any(line.split() == ["metric", "l2"] for line in lines)
    found = document(capsys, "info", file)
    assert (found["count"], found["dim"], found["dtype"]) == (4, 5, "float32")


def test_verify_sound(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", file]) == 0
    assert "sound (4 records" in capsys.readouterr().out
    assert document(capsys, "verify", file)["ok"] is True


def test_verify_and_export_of_a_damaged_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, target = str(tmp_path / "bad.vec"), str(tmp_path / "saved.npz")
    damage(path)
    assert main(["verify", path]) == 1
    assert "1 problem\n" in capsys.readouterr().out
    assert document(capsys, "verify", path, status=1)["problems"]
    failure(capsys, "export", path, target)
    assert not os.path.exists(target)
    assert main(["export", path, target, "--skip-damaged"]) == 0
    out, err = capsys.readouterr()
    saved = np.load(target)
    lost = 5000 - len(saved["ids"])
    assert 0 < lost < 1000
    assert f"{lost:,} records of 5,000 could not be read and are lost" in err
    assert "written to" in out
    assert (saved["vectors"][:, 3] == saved["ids"]).all()
    assert 2500 not in saved["ids"]


def test_compact_gives_space_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.vec"
    with vecstore.open(path, dim=128) as collection:
        collection.add(range(5000), np.ones((5000, 128)))
        collection.delete(range(4900))
    before = path.stat().st_size
    found = document(capsys, "compact", str(path))
    assert found["freed_bytes"] == before - path.stat().st_size > 0
    assert main(["compact", str(path)]) == 0
    assert "MB left" in capsys.readouterr().out


def test_backup(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = str(tmp_path / "b.vec")
    assert main(["backup", file, target]) == 0
    assert "written in" in capsys.readouterr().out
    assert contents(target) == contents(file)
    assert "exists" in failure(capsys, "backup", file, target)
    assert document(capsys, "backup", file, target, "--overwrite")["target"] == target


def test_recall_and_warmup(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert document(capsys, "recall", file, "-k", "2")["recall"] == 1.0
    assert main(["recall", file]) == 0
    assert capsys.readouterr().out.startswith("recall@10  1.0000")
    assert document(capsys, "warmup", file)["seconds"]["next_query"] > 0
    assert main(["warmup", file]) == 0
    assert "next query" in capsys.readouterr().out
    vecstore.open(tmp_path / "empty.vec", dim=2).close()
    assert main(["warmup", str(tmp_path / "empty.vec")]) == 0
    assert "empty" in capsys.readouterr().out


def test_fields(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert document(capsys, "fields", file)["indexes"] == {}
    made = document(capsys, "fields", file, "--create", "year", "--create", "place.lat")
    assert made["created"] == ["year", "place.lat"]
    assert sorted(made["indexes"]) == ["place.lat", "year"]
    assert made["indexes"]["year"]["built"] == 1
    with vecstore.open(file, mode="r") as collection:
        assert collection.indexes() == made["indexes"]
    assert main(["fields", file]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].split() == ["size", "built", "made", "by", "field"]
    assert told[1].split()[2:] == ["100%", "asked", "for", "place.lat"]
    dropped = document(capsys, "fields", file, "--drop", "year", "--drop", "nothing")
    assert dropped["dropped"] == ["year"]
    assert list(dropped["indexes"]) == ["place.lat"]
    assert main(["fields", file, "--drop", "year", "--drop", "place.lat"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[:2] == ["dropped: place.lat", "there was no index of year"]
    assert "--create" in told[2]
    assert main(["fields", file, "--drop", "year", "--create", "year"]) == 2
    assert main(["fields", file, "--create", "$year"]) == 1
    assert "named as in filters" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["info", "fields", "verify", "recall", "warmup", "compact"])
def test_no_collection(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.vec"
    assert "does not exist" in failure(capsys, command, str(path))
    assert not path.exists()
    path.write_bytes(b"no collection at all\n" * 1000)
    assert "not a vecstore collection" in failure(capsys, command, str(path))


# -- search


def text_of(row: np.ndarray[Any, Any]) -> str:
    return ",".join(map(str, row.tolist()))


def test_search_table(file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["search", file, text_of(vectors_of("float32")[3]), "-k", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["rank", "distance", "id", "metadata"]
    assert lines[1].split()[:3] == ["1", "0", "-3"]
    assert lines[1].endswith("…")
    assert len(lines) == 4
    assert max(map(len, lines)) <= 60


@pytest.mark.parametrize("form", ["npy", "npz", "json", "inline", "blanks", "stdin"])
def test_search_takes_a_vector_from(
    form: str, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = -np.abs(vectors_of("float32")[2])
    with vecstore.open(file) as collection:
        collection.upsert("wanted", row)
    path = str(tmp_path / f"q.{form}")
    if form == "npy":
        np.save(path, row)
    elif form == "npz":
        np.savez(path, query=row)
    elif form == "json":
        Path(path).write_text(json.dumps(row.tolist()))
    else:
        monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps({"vector": row.tolist()})))
        path = (
            "-" if form == "stdin" else text_of(row) if form == "inline" else text_of(row).replace(",", " ")
        )
    found = document(capsys, "search", file, path, "-k", "1")
    [hit] = found["results"][0]
    assert (hit["rank"], hit["id"], hit["distance"]) == (1, "wanted", 0.0)


def test_search_with_a_matrix_gives_a_block_a_query(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "q.npy", vectors_of("float32"))
    query = str(tmp_path / "q.npy")
    found = document(capsys, "search", file, query, "-k", "2")
    assert [block[0]["id"] for block in found["results"]] == IDS
    assert main(["search", file, query, "-k", "2"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("query")] == [
        f"query {n}" for n in range(4)
    ]


def test_search_by_id_radius_filter_and_ids_only(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    def asked(*arguments: str) -> list[Any]:
        return [hit["id"] for hit in document(capsys, "search", file, *arguments)["results"][0]]

    assert set(asked("--id", "7")) == {"7", "img 1", -3}
    assert set(asked("--id", '"7"')) == {7, "img 1", -3}
    assert set(asked("--id", "-3")) == {7, "7", "img 1"}
    assert asked("--id", "img 1", "--where", '{"year": {"$lt": 2021}}') == [7]
    assert asked(text_of(vectors_of("float32")[1]), "--radius", "0.001") == ["7"]
    assert main(["search", file, text_of(vectors_of("float32")[2]), "--ids-only", "-k", "1"]) == 0
    assert capsys.readouterr().out == "img 1\n"
    assert main(["search", file, text_of(vectors_of("float32")[2]), "--ids-only", "--null", "-k", "1"]) == 0
    assert capsys.readouterr().out == "img 1\0"
    assert main(["search", file, text_of(vectors_of("float32")[2]), "--where", '{"year": 1900}']) == 0
    assert capsys.readouterr().out == "no record matches\n"


def test_search_in_binary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, rows = make(tmp_path / "a.vec", "binary"), vectors_of("binary")
    for query in (text_of(rows[1]), text_of(np.unpackbits(rows[1])[:13]), json.dumps(rows[1].tolist())):
        assert document(capsys, "search", path, query, "-k", "1")["results"][0][0]["id"] == "7"


def test_what_would_move_the_cursor_is_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with vecstore.open(tmp_path / "a.vec", dim=2) as collection:
        collection.add(["\x1b[2Ja\nb"], [[1, 0]], [{"t": "\x9b2J"}])
    assert main(["search", str(tmp_path / "a.vec"), "1,0"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\x9b" not in out
    assert out.count("\n") == 2


def test_json_has_no_nan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with vecstore.open(tmp_path / "a.vec", dim=2) as collection:
        collection.add("a", [1, 0], {"x": [float("nan")]})
    found = document(capsys, "search", str(tmp_path / "a.vec"), "1,0")
    assert found["results"][0][0]["metadata"] == {"x": [None]}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["1,2"], "(5,)"),
        (["a,b"], "no vector"),
        (["missing.npy"], "missing.npy: No such file"),
        (["[1, [2]]"], "no vector"),
        (["[1, 2"], "no vector"),
        (['["a"]'], "no vector"),
        (["1,2,3,4,nan"], "nan"),
        (["1,2,3,4,5", "--where", "{year: 1}"], "not JSON"),
        (["1,2,3,4,5", "--where", '{"year": {"$near": 1}}'], "$near"),
        (["1,2,3,4,5", "--where", "[" * 100_000], "not JSON"),
        (["--id", "nobody"], "nobody"),
    ],
)
def test_search_fails(
    arguments: list[str], words: str, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in failure(capsys, "search", file, *arguments)


def test_a_pickle_is_no_query(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "q.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert "q.npy" in failure(capsys, "search", file, str(tmp_path / "q.npy"))
    (tmp_path / "q.npz").write_bytes(pickle.dumps([1]))
    assert "q.npz" in failure(capsys, "search", file, str(tmp_path / "q.npz"))


# -- export and import


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int8", "binary"])
@pytest.mark.parametrize("suffix", [".npz", ".jsonl", ".npy"])
def test_round_trip(dtype: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, between, back = (
        make(tmp_path / "a.vec", dtype),
        str(tmp_path / f"x{suffix}"),
        str(tmp_path / "b.vec"),
    )
    ids = ["--ids", str(tmp_path / "x.ids")] if suffix == ".npy" else []
    assert document(capsys, "export", path, between, *ids)["records"] == 4
    with vecstore.open(path) as collection:
        settings = ["--dim", str(collection.dim), "--metric", collection.metric, "--dtype", dtype]
    found = document(capsys, "import", between, back, *ids, *([] if suffix == ".npz" else settings))
    assert (found["records"], found["created"], found["count"]) == (4, True, 4)
    expected = [(id_, row, {} if ids else item) for id_, row, item in contents(path)]
    assert contents(back) == expected
    with vecstore.open(back) as collection:
        assert [type(id_) for id_ in (r.id for r in collection)] == [type(id_) for id_ in IDS]
        assert (collection.dim, collection.dtype) == (13 if dtype == "binary" else 5, dtype)


@pytest.mark.parametrize("suffix", [".npz", ".jsonl", ".npy"])
def test_round_trip_of_nothing_and_of_one_bit(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, between, back = str(tmp_path / "a.vec"), str(tmp_path / f"x{suffix}"), str(tmp_path / "b.vec")
    with vecstore.open(path, dim=1, dtype="binary") as collection:
        assert main(["export", path, between]) == 0
        collection.add([0, 1], np.array([[True], [False]]))
    assert main(["import", between, back, "--dim", "1", "--dtype", "binary"]) == 0
    assert main(["export", path, between, "--overwrite"]) == 0
    assert main(["import", between, back]) == 0
    capsys.readouterr()
    assert contents(back) == contents(path)


def test_a_npz_of_integer_ids_reads_without_pickles(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, target = make(tmp_path / "a.vec", ids=[5, -(1 << 63), (1 << 63) - 1, 0]), str(tmp_path / "x.npz")
    assert main(["export", path, target]) == 0
    capsys.readouterr()
    with np.load(target, allow_pickle=False) as found:
        assert found["ids"].dtype == np.int64
        assert found["ids"].tolist() == [5, -(1 << 63), (1 << 63) - 1, 0]
        assert [json.loads(text) for text in found["metadata"]] == METADATA
        assert found["vectors"].tobytes() == vectors_of("float32").tobytes()


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_npz_by_other_hands(order: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.asarray(vectors_of("float32").astype(np.float64), order=order)
    np.savez_compressed(tmp_path / "x.npz", vectors=rows, ids=np.array(["a", "7", "c", '"d"']))
    found = document(capsys, "import", str(tmp_path / "x.npz"), str(tmp_path / "b.vec"), "--metric", "l2")
    assert found["count"] == 4
    with vecstore.open(tmp_path / "b.vec") as collection:
        assert [record.id for record in collection] == ["a", "7", "c", '"d"']
        assert np.asarray(collection["c"].vector).tobytes() == vectors_of("float32")[2].tobytes()


def test_several_batches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.random.default_rng(0).standard_normal((20_500, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", rows)
    path = str(tmp_path / "a.vec")
    assert document(capsys, "import", str(tmp_path / "x.npy"), path)["count"] == 20_500
    for suffix in (".jsonl", ".npz", ".npy"):
        target, back = str(tmp_path / f"y{suffix}"), str(tmp_path / f"{suffix[1:]}.vec")
        assert main(["export", path, target]) == 0
        assert document_after(capsys, "import", target, back)["count"] == 20_500
        assert contents(back) == contents(path)


def document_after(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    return document(capsys, *arguments)


def test_export_to_standard_output(file: str, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["export", file, "-"]) == 0
    out, err = capsysbinary.readouterr()
    assert [json.loads(line)["id"] for line in out.splitlines()] == IDS
    assert b"4 records written to -" in err


def test_npy_says_what_it_leaves_out(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", file, str(tmp_path / "x.npy")]) == 0
    err = capsys.readouterr().err
    assert "no ids" in err
    assert "those of 3 records" in err
    assert np.load(tmp_path / "x.npy").tobytes() == vectors_of("float32").tobytes()


def test_export_replaces_only_when_asked(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "x.jsonl"
    target.write_text("mine")
    assert "exists" in failure(capsys, "export", file, str(target))
    assert target.read_text() == "mine"
    assert main(["export", file, str(target), "--overwrite"]) == 0
    assert len(target.read_text().splitlines()) == 4
    capsys.readouterr()
    assert "no folder" in failure(capsys, "export", file, str(tmp_path / "none" / "x.jsonl"))
    assert sorted(os.listdir(tmp_path)) == ["a.vec", "a.vec-lock", "x.jsonl"]


def test_import_upserts(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "x.jsonl"
    source.write_text(
        '{"id": 7, "vector": [1, 2, 3, 4, 5]}\n\n{"id": "new", "vector": [0, 0, 0, 0, 1.5], "metadata": null}\n'
    )
    assert "the id 7 is in the collection already" in failure(capsys, "import", str(source), file)
    assert document(capsys, "import", str(source), file, "--upsert")["count"] == 5
    with vecstore.open(file) as collection:
        assert np.asarray(collection[7].vector).tolist() == [1, 2, 3, 4, 5]
        assert np.asarray(collection["new"].vector).tolist() == [0, 0, 0, 0, 1.5]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2: not JSON"),
        ("\xff", "line 2: not JSON"),
        ("[1]", "line 2: a record must be"),
        ('{"id": 1.5, "vector": [1, 2]}', "line 2: an id must be"),
        ('{"id": true, "vector": [1, 2]}', "line 2: an id must be"),
        ('{"id": 1, "vector": [1]}', "1 numbers, and those before it have 2"),
        ('{"id": 1, "vector": [1, [2]]}', "list of numbers"),
        ('{"id": 1, "vector": "ab"}', "list of numbers"),
        ('{"id": 1, "vector": [1, 2], "year": 1}', "unknown field year"),
        ('{"id": 1, "vector": [1, 2], "metadata": [1]}', "metadata must be an object"),
        ('{"id": "a", "vector": [1, 2]}', "stands twice"),
        ('{"id": 1, "vector": [NaN, 2]}', "nan"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_bad_lines(line: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, path = tmp_path / "x.jsonl", tmp_path / "a.vec"
    source.write_bytes(b'{"id": "a", "vector": [1, 2]}\n' + line.encode("latin-1") + b"\n")
    assert words in failure(capsys, "import", str(source), str(path))
    assert not path.exists()


def test_import_says_what_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.ones((10_002, 2))
    rows[10_001] = np.nan
    np.save(tmp_path / "x.npy", rows)
    err = failure(capsys, "import", str(tmp_path / "x.npy"), str(tmp_path / "a.vec"))
    assert "records 10,000…10,001 of" in err
    assert "10,000 records before that are in" in err
    assert len(vecstore.open(tmp_path / "a.vec", mode="r")) == 10_000


def test_import_fails(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(name: str, *more: str) -> str:
        return failure(capsys, "import", str(tmp_path / name), str(tmp_path / "new.vec"), *more)

    assert "No such file" in refused("none.npz")
    np.savez(tmp_path / "object.npz", vectors=np.ones((1, 2)), ids=np.array([{}], dtype=object))
    assert "Python objects" in refused("object.npz")
    np.savez(tmp_path / "short.npz", vectors=np.ones((2, 2)), ids=np.array([1]))
    assert "ids has shape (1,)" in refused("short.npz")
    np.savez(tmp_path / "flat.npz", vectors=np.ones(2))
    assert "matrix" in refused("flat.npz")
    (tmp_path / "broken.npz").write_bytes((tmp_path / "short.npz").read_bytes()[:100])
    assert "cannot be read" in refused("broken.npz")
    (tmp_path / "broken.npy").write_bytes(b"no")
    assert "cannot be read" in refused("broken.npy")
    np.save(tmp_path / "two.npy", np.ones((2, 2)))
    for count, words in ((1, "2 vectors, and"), (3, "more ids than the 2")):
        (tmp_path / "ids").write_text("".join(f"{n}\n" for n in range(count)))
        target = str(tmp_path / f"{count}.vec")
        assert words in failure(
            capsys, "import", str(tmp_path / "two.npy"), target, "--ids", str(tmp_path / "ids")
        )
    (tmp_path / "empty.jsonl").write_bytes(b"")
    assert "--dim" in refused("empty.jsonl")
    assert "does not go with" in refused("two.npy", "--metric", "hamming", "--dtype", "int8")
    assert not (tmp_path / "new.vec").exists()
    assert "(2, 2)" in failure(capsys, "import", str(tmp_path / "two.npy"), file)
    assert "metric" in failure(capsys, "import", str(tmp_path / "two.npy"), file, "--metric", "ip")


# -- demo


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "demo.vec")
    assert main(["demo", "--records", "3000", "--dim", "16", "--file", path]) == 0
    assert "against NumPy" in capsys.readouterr().out
    assert document(capsys, "info", path)["count"] == 3000
    assert "exists" in failure(capsys, "demo", "--file", path, "--records", "10")
    found = document(capsys, "demo", "--records", "50", "--dim", "4")
    assert found["answers_match_numpy"] is True
    assert found["records_per_second"] > 0
