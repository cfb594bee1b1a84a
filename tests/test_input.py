"""What must be refused: each with its own error, a message that helps, and nothing written."""

from __future__ import annotations

import ast
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

import vecstore
from vecstore.storage import header as header_of_file
from vecstore.storage import replace

ROOT = Path(vecstore.__file__).parent
FAR = 10 * 1024 * 1024


class Unreadable:
    """An array-like that fails."""

    def __array__(self, *arguments: Any, **options: Any) -> Any:
        raise ValueError("no array here")


def nested(levels: int, kind: type) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value} if kind is dict else [value]
    return value


def cyclic() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def put(ids: Any, vectors: Any, metadata: Any = None) -> Callable[[Any], Any]:
    return lambda collection: collection.add(ids, vectors, metadata)


def with_metadata(value: Any) -> Callable[[Any], Any]:
    return put(["n"], [[1, 0, 0]], [value])


V = [[1.0, 0.0, 0.0]]
BAD_IDS: list[tuple[str, Any, str]] = [
    ("empty", [""], "empty text"),
    ("ten-megabytes", ["x" * FAR], "4096 bytes.*metadata"),
    ("bytes-of-utf8", ["é" * 3000], "takes 6000"),
    ("true", [True], "bool"),
    ("numpy-true", [np.bool_(False)], "str or an int"),
    ("float", [1.0], "float"),
    ("none", [None], "NoneType"),
    ("bytes", [b"a"], "bytes"),
    ("tuple", [("a",)], "tuple"),
    ("too-large", [2**63], "64 bits.*use a str"),
    ("too-small", [-(2**63) - 1], "64 bits"),
    ("uint64", np.array([2**64 - 1], dtype=np.uint64), "64 bits"),
    ("surrogate", ["a\ud800"], "Unicode"),
    ("array-of-floats", np.array([1.0]), "integers or texts"),
    ("array-of-bools", np.array([True]), "integers or texts"),
    ("array-of-two", np.array([[1]]), "one-dimensional"),
    ("dict", {"a": 1}, "dict"),
    ("just-bytes", b"a", "bytes"),
    ("just-none", None, "NoneType"),
    ("just-float", 1.5, "float"),
]
BAD_VECTORS: list[tuple[str, Any, type, str]] = [
    ("short", [[1, 2]], vecstore.DimensionError, r"\(n, 3\).*\(1, 2\)"),
    ("long", [[1, 2, 3, 4]], vecstore.DimensionError, r"\(1, 4\)"),
    ("flat", [1, 2, 3], vecstore.DimensionError, r"\(3,\)"),
    ("deep", [[[1, 2, 3]]], vecstore.DimensionError, r"\(1, 1, 3\)"),
    ("number", 5, vecstore.DimensionError, r"\(\)"),
    ("ragged", [[1, 2, 3], [1, 2]], vecstore.VecstoreError, "vectors must"),
    ("two-for-one", [[1, 2, 3]] * 2, vecstore.DimensionError, "1 ids need as many vectors, and 2 came"),
    ("none-for-one", [], vecstore.DimensionError, "and 0 came"),
    ("nan", [[1, np.nan, 3]], vecstore.InvalidVectorError, "vector 0 holds nan at place 1"),
    ("infinity", [[1, 2, -np.inf]], vecstore.InvalidVectorError, "-inf at place 2"),
    ("beyond-float32", [[1e300, 2, 3]], vecstore.InvalidVectorError, "1e.300"),
    ("zero", [[0, 0, 0]], vecstore.InvalidVectorError, "all zeros.*cosine"),
    ("vanishing", [[1e-60, 0, 0]], vecstore.InvalidVectorError, "all zeros"),
    ("texts", [["a", "b", "c"]], vecstore.InvalidVectorError, "real numbers"),
    ("none", None, vecstore.VecstoreError, "vectors must"),
    ("nones", [[None, None, None]], vecstore.InvalidVectorError, "vector"),
    ("complex", [[1j, 0, 0]], vecstore.InvalidVectorError, "complex"),
    ("objects", [[object()] * 3], vecstore.InvalidVectorError, "numbers"),
    ("dates", np.zeros((1, 3), dtype="M8[s]"), vecstore.InvalidVectorError, "datetime"),
    ("dict", {"a": 1}, vecstore.VecstoreError, "vectors must"),
    ("unreadable", Unreadable(), vecstore.VecstoreError, "no array here"),
]
BAD_METADATA: list[tuple[str, Any, str]] = [
    ("object", {"a": object()}, "takes None, bool, int, float, str, lists and dicts, not object"),
    ("set", {"a": {1}}, "not set"),
    ("bytes", {"a": b"x"}, "not bytes"),
    ("complex", {"a": 1j}, "not complex"),
    ("function", {"a": len}, "builtin"),
    ("int-key", {1: "a"}, "must be a str, not int"),
    ("none-key", {None: "a"}, "must be a str"),
    ("nested-key", {"a": [{(1,): 2}]}, "must be a str, not tuple"),
    ("deep-dict", nested(70, dict), "deeper than 64"),
    ("deep-list", {"a": nested(70, list)}, "deeper than 64"),
    ("endless", {"a": cyclic()}, "deeper than 64"),
    ("large", {"a": "x" * (17 << 20)}, "16 MiB"),
    ("many", {"a": list(range(10_000_000, 14_000_000))}, "16 MiB"),
    ("huge-int", {"a": 2**64}, "64 bits: use a float or a str"),
    ("negative-int", {"a": [-(2**63) - 1]}, "64 bits"),
    ("surrogate", {"a": "\udfff"}, "Unicode"),
    ("surrogate-key", {"\udfff": 1}, "Unicode"),
    ("list", [1, 2], "must be a dict, not list"),
    ("text", "abc", "must be a dict, not str"),
    ("number", 5, "must be a dict, not int"),
]
BAD_COUNTS: list[tuple[str, Any, str]] = [
    ("fewer", [], "1 ids need 1 dicts of metadata, and 0 came"),
    ("more", [{}, {}], "and 2 came"),
    ("dict", {"a": 1}, "list of dicts"),
    ("text", "a", "list of dicts"),
    ("number", 3, "list of dicts"),
]
BAD_FILTERS: list[tuple[str, Any, str]] = [
    ("operator", {"n": {"$gr": 1}}, r"unknown operator '\$gr'.*\$gt"),
    ("text", "n = 1", "expression"),
    ("list", [{"n": 1}], "expression"),
    ("value", {"n": {1, 2}}, "expected"),
    ("nan", {"n": float("nan")}, "number"),
    ("key", {1: 2}, "strings"),
    ("in", {"n": {"$in": 5}}, "list"),
]

CALLS: list[tuple[str, Callable[[Any], Any], type, type, str]] = [
    *((f"id-{name}", put(ids, V), vecstore.InvalidIdError, ValueError, text) for name, ids, text in BAD_IDS),
    *((f"vector-{name}", put(["n"], vectors), kind, ValueError, text) for name, vectors, kind, text in BAD_VECTORS),
    *((f"metadata-{name}", with_metadata(value), vecstore.InvalidMetadataError, ValueError, text)
      for name, value, text in BAD_METADATA),
    *((f"metadata-count-{name}", put(["n"], V, value), vecstore.InvalidMetadataError, ValueError, text)
      for name, value, text in BAD_COUNTS),
    *((f"where-{name}", lambda c, where=where: c.search(V, where=where), vecstore.InvalidFilterError, ValueError, text)
      for name, where, text in BAD_FILTERS),
    ("delete-where", lambda c: c.delete(where={"n": {"$gr": 1}}), vecstore.InvalidFilterError, ValueError, "unknown"),
    ("scan-where", lambda c: c.scan(where={"n": {"$gr": 1}}), vecstore.InvalidFilterError, ValueError, "unknown"),
    ("present", put(["old"], V), vecstore.DuplicateIdError, ValueError, r"'old'.*upsert\(\)"),
    ("twice", put(["n", 3, "n"], V * 3), vecstore.DuplicateIdError, ValueError, "'n' stands twice"),
    ("upsert-twice", lambda c: c.upsert([3, 3], V * 2), vecstore.DuplicateIdError, ValueError, "3 stands twice"),
    ("second-of-two", put(["n", "m"], [V[0], [np.nan] * 3]), vecstore.InvalidVectorError, ValueError, "vector 1"),
    ("update-absent", lambda c: c.update(["old", "no"], [{}, {}]), vecstore.RecordNotFoundError, KeyError, "'no'"),
    ("update-object", lambda c: c.update("old", {"a": {1}}), vecstore.InvalidMetadataError, TypeError, "not set"),
    ("search-absent", lambda c: c.search(id="no"), vecstore.RecordNotFoundError, LookupError, "'no'"),
    ("search-nothing", lambda c: c.search(), vecstore.InvalidArgumentError, ValueError, "one of the two"),
    ("search-both", lambda c: c.search(V, id="old"), vecstore.InvalidArgumentError, ValueError, "one of the two"),
    ("search-empty", lambda c: c.search([]), vecstore.DimensionError, ValueError, "shape"),
    ("search-short", lambda c: c.search([1, 2]), vecstore.DimensionError, ValueError, r"\(1, 2\)"),
    ("search-nan", lambda c: c.search([1, 2, np.nan]), vecstore.InvalidVectorError, ValueError, "nan"),
    ("search-zero", lambda c: c.search([0, 0, 0]), vecstore.InvalidVectorError, ValueError, "all zeros"),
    ("search-texts", lambda c: c.search(["a", "b", "c"]), vecstore.InvalidVectorError, ValueError, "real numbers"),
    *((f"k-{k!r}", lambda c, k=k: c.search(V, k=k), vecstore.InvalidArgumentError, ValueError, "k must be")
      for k in (0, -1, 1.5, True, "3", np.float32(2), [1])),
    *((f"recall-{r!r}", lambda c, r=r: c.search(V, recall=r), vecstore.InvalidArgumentError, ValueError, "recall must be")
      for r in (0, -0.1, 1.01, float("nan"), "0.9")),
    *((f"radius-{r!r}", lambda c, r=r: c.search(V, radius=r), vecstore.InvalidArgumentError, ValueError, "radius must be")
      for r in (float("nan"), "1", True, [1.0])),
    ("search-list", lambda c: c.search(V, search_list=0), vecstore.InvalidArgumentError, ValueError, "search_list"),
    ("threads", lambda c: c.search(V, threads=0), vecstore.InvalidArgumentError, ValueError, "threads"),
    ("batch-size", lambda c: c.scan(batch_size=0), vecstore.InvalidArgumentError, ValueError, "batch_size"),
    ("sample", lambda c: c.recall(sample=0), vecstore.InvalidArgumentError, ValueError, "sample"),
    ("delete-nothing", lambda c: c.delete(), vecstore.InvalidArgumentError, ValueError, "where={} deletes every"),
    ("many-in-brackets", lambda c: c[["old"]], vecstore.InvalidIdError, TypeError, r"get\(\) takes several"),
    ("get-float", lambda c: c.get([1.0]), vecstore.InvalidIdError, TypeError, "float"),
    ("delete-float", lambda c: c.delete([1.0]), vecstore.InvalidIdError, TypeError, "float"),
    ("batch", lambda c: c.extend([5]), vecstore.InvalidArgumentError, ValueError, "a batch must be"),
    ("backup-here", lambda c: c.backup(c.path), vecstore.InvalidArgumentError, ValueError, "another path"),
    ("backup-nowhere", lambda c: c.backup(c.path + "x/y"), vecstore.CollectionNotFoundError, FileNotFoundError, "create"),
    ("backup-number", lambda c: c.backup(5), vecstore.InvalidArgumentError, ValueError, "path"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "error", "parent", "text"), [call[1:] for call in CALLS], ids=[call[0] for call in CALLS]
)
def test_a_bad_call_writes_nothing(
    opened: Any, tmp_path: Path, folder_state: Any, call: Any, error: type, parent: type, text: str
) -> None:
    collection = opened(dim=3)
    collection.add("old", [1, 2, 3], {"n": 1})
    collection.close()
    collection = opened()
    before = folder_state(tmp_path)["test.vec"]
    with pytest.raises(error, match=text) as caught:
        call(collection)
    assert isinstance(caught.value, vecstore.VecstoreError)
    assert isinstance(caught.value, parent)
    assert 10 < len(str(caught.value)) < 400
    assert folder_state(tmp_path)["test.vec"] == before
    assert sorted(os.listdir(tmp_path)) == ["test.vec", "test.vec-lock"]
    assert [(record.id, record.vector.tolist(), record.metadata) for record in collection] == [
        ("old", [1, 2, 3], {"n": 1})
    ]


@pytest.mark.parametrize(
    ("dtype", "metric", "row", "text"),
    [
        ("uint8", "l2", [256, 0, 0], "256.*from 0 to 255"),
        ("uint8", "l2", [-1, 0, 0], "-1"),
        ("uint8", "l2", [0.5, 0, 0], "whole numbers"),
        ("uint8", "l2", [np.nan, 0, 0], "nan"),
        ("int8", "cosine", [128, 0, 0], "-128 to 127"),
        ("int8", "cosine", [0, 0, 0], "all zeros"),
        ("int8", "ip", [np.inf, 0, 0], "inf"),
        ("float16", "l2", [1e6, 0, 0], "float16"),
        ("float16", "cosine", [1e-9, 0, 0], "all zeros"),
        ("binary", "hamming", [2, 0, 0], "0 and 1"),
        ("binary", "hamming", [0.5, 0, 0], "0 and 1"),
        ("binary", "hamming", np.array([0x01], dtype=np.uint8), "last 5 bits"),
    ],
)
def test_a_vector_must_fit_its_dtype(opened: Any, dtype: str, metric: str, row: Any, text: str) -> None:
    collection = opened(dim=3, dtype=dtype, metric=metric)
    with pytest.raises(vecstore.InvalidVectorError, match=text):
        collection.add("a", row)
    assert len(collection) == 0


@pytest.mark.parametrize("count", [2, 5])
def test_binary_shapes(opened: Any, count: int) -> None:
    collection = opened(dim=24, dtype="binary")
    for shape in ((count, 4), (count, 23), (count,)):
        with pytest.raises(vecstore.DimensionError, match="packed uint8"):
            collection.add(range(count), np.zeros(shape, dtype=np.uint8))
    with pytest.raises(vecstore.DimensionError):
        collection.add(range(count), np.zeros((count, 3)))  # floats are no packed bytes


BAD_OPENINGS: list[tuple[str, dict[str, Any], type, type, str]] = [
    ("no-dim", {}, vecstore.CollectionNotFoundError, FileNotFoundError, "dim="),
    ("reading", {"mode": "r"}, vecstore.CollectionNotFoundError, FileNotFoundError, "does not exist"),
    ("metric", {"dim": 3, "metric": "manhattan"}, vecstore.InvalidArgumentError, ValueError, "cosine, l2, ip"),
    ("dtype", {"dim": 3, "dtype": "float64"}, vecstore.InvalidArgumentError, ValueError, "float32, float16"),
    ("bits", {"dim": 3, "metric": "l2", "dtype": "binary"}, vecstore.InvalidArgumentError, ValueError, "hamming or jaccard"),
    ("floats", {"dim": 3, "metric": "hamming", "dtype": "int8"}, vecstore.InvalidArgumentError, ValueError, 'dtype="binary"'),
    ("numpy-dtype", {"dim": 3, "dtype": np.float32}, vecstore.InvalidArgumentError, ValueError, "one of"),
    *((f"dim-{dim!r}", {"dim": dim}, vecstore.InvalidArgumentError, ValueError, "dim must be")
      for dim in (0, -1, 65_537, 1.5, True, "3", 2**70)),
    ("mode", {"dim": 3, "mode": "w"}, vecstore.InvalidArgumentError, ValueError, '"a", "x" or "r"'),
    ("durability", {"dim": 3, "durability": "some"}, vecstore.InvalidArgumentError, ValueError, "full"),
    ("device", {"dim": 3, "device": "tpu"}, vecstore.InvalidArgumentError, ValueError, "cpu"),
    ("memory", {"dim": 3, "memory": "lots"}, vecstore.InvalidArgumentError, ValueError, "512MB"),
    ("no-memory", {"dim": 3, "memory": "1MB"}, vecstore.InvalidArgumentError, ValueError, "16 M"),
    ("threads", {"dim": 3, "threads": 0}, vecstore.InvalidArgumentError, ValueError, "threads"),
    ("timeout", {"dim": 3, "timeout": -1}, vecstore.InvalidArgumentError, ValueError, "timeout"),
    ("timeout-text", {"dim": 3, "timeout": "1"}, vecstore.InvalidArgumentError, ValueError, "timeout"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "error", "parent", "text"), [case[1:] for case in BAD_OPENINGS], ids=[case[0] for case in BAD_OPENINGS]
)
def test_a_bad_opening_makes_no_file(
    path: str, tmp_path: Path, options: dict[str, Any], error: type, parent: type, text: str
) -> None:
    with pytest.raises(error, match=text) as caught:
        vecstore.open(path, **options)
    assert isinstance(caught.value, vecstore.VecstoreError)
    assert isinstance(caught.value, parent)
    assert os.listdir(tmp_path) == []


def test_paths_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(vecstore.CollectionNotFoundError, match="create it first") as caught:
        vecstore.open(tmp_path / "nowhere" / "a.vec", dim=3)
    assert isinstance(caught.value, FileNotFoundError)
    for mode in ("a", "x", "r"):
        with pytest.raises(vecstore.NotACollectionError, match="is a folder"):
            vecstore.open(tmp_path, dim=3, mode=mode)
    for bad in (5, None, ["a"], "a\0b"):
        with pytest.raises(vecstore.VecstoreError):
            vecstore.open(bad, dim=3)  # type: ignore[arg-type]
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(vecstore.VecstoreError):
        vecstore.open(tmp_path / "file" / "a.vec", dim=3)
    with pytest.raises(vecstore.VecstoreError):
        vecstore.open(tmp_path / ("x" * 5000), dim=3)
    assert os.listdir(tmp_path) == ["file"]


def jpeg(path: str) -> None:
    Path(path).write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(range(256)) * 64)


def sqlite(path: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute("create table t (x)")
    connection.commit()
    connection.close()


def other_lmdb(path: str) -> None:
    with lmdb.open(path, subdir=False) as environment, environment.begin(write=True) as transaction:
        for n in range(1000):
            transaction.put(f"key {n}".encode(), b"value")
    os.unlink(path + "-lock")


def empty_lmdb(path: str) -> None:
    lmdb.open(path, subdir=False).close()
    os.unlink(path + "-lock")


def lmdb_like_ours(path: str) -> None:
    with lmdb.open(path, subdir=False) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"H\0\0\0\0", b"x" * 4080)
    os.unlink(path + "-lock")


MAKERS: list[Callable[[str], Any]] = [
    jpeg,
    sqlite,
    other_lmdb,
    empty_lmdb,
    lmdb_like_ours,
    lambda path: Path(path).write_bytes(b""),
    lambda path: Path(path).write_bytes(b"x"),
    lambda path: Path(path).write_bytes(b"\0" * 100_000),
    lambda path: Path(path).write_text("photos.vec\n" * 3000),
    lambda path: np.savez(open(path, "wb"), np.zeros(5)),  # noqa: SIM115
]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("mode", ["a", "r"])
@pytest.mark.parametrize("make", MAKERS, ids=lambda make: getattr(make, "__name__", "file"))
def test_a_file_of_another_kind_is_left_alone(
    path: str, tmp_path: Path, folder_state: Any, make: Callable[[str], Any], mode: str
) -> None:
    make(path)
    before = folder_state(tmp_path)
    # A well-formed LMDB file is told from a damaged collection by its keys and values alone.
    like_ours = make in (other_lmdb, lmdb_like_ours)
    kind = vecstore.CorruptionError if like_ours else vecstore.NotACollectionError
    with pytest.raises(kind):
        vecstore.open(path, mode=mode)
    with pytest.raises(kind):
        vecstore.open(path, mode=mode, dim=3)
    with pytest.raises(vecstore.CollectionExistsError):
        vecstore.open(path, mode="x", dim=3)
    after = folder_state(tmp_path)
    if mode == "a" and make in (other_lmdb, empty_lmdb, lmdb_like_ours):
        after.pop("test.vec-lock", None)  # only LMDB itself can tell, and it locks before it looks
    assert after == before


def test_merged_metadata_has_its_bound_as_well(opened: Any) -> None:
    collection = opened(dim=3)
    collection.add("a", [1, 2, 3], {"b": "x" * (9 << 20)})
    with pytest.raises(vecstore.InvalidMetadataError, match="16 MiB"):
        collection.update("a", {"c": "x" * (9 << 20)})
    assert list(collection["a"].metadata) == ["b"]


def test_a_newer_format_is_refused(
    path: str, tmp_path: Path, folder_state: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = header_of_file.Header

    def newer(*arguments: Any, **options: Any) -> Any:
        made = build(*arguments, **options)
        made.version = 999
        return made

    monkeypatch.setattr(replace, "Header", newer)
    replace.create(path, vecstore.config.Settings(3, "l2", "float32"))
    monkeypatch.undo()
    before = folder_state(tmp_path)["test.vec"]
    for mode in ("a", "r"):
        with pytest.raises(vecstore.FormatVersionError, match=r"format 999.*up to \d+.*upgrade"):
            vecstore.open(path, mode=mode)
    assert folder_state(tmp_path)["test.vec"] == before


def test_cuda_is_refused_where_there_is_none(path: str) -> None:
    if os.environ.get("VECSTORE_TEST_CUDA"):
        pytest.skip("this machine has one")
    with pytest.raises(vecstore.DeviceError, match="cpu") as caught:
        vecstore.open(path, dim=3, device="cuda")
    assert isinstance(caught.value, RuntimeError)
    assert not os.path.exists(path)


def test_a_bad_file_makes_a_good_folder(path: str) -> None:
    """After a refusal the same path can be used."""
    jpeg(path)
    with pytest.raises(vecstore.NotACollectionError):
        vecstore.open(path, dim=2)
    os.unlink(path)
    with vecstore.open(path, dim=2) as collection:
        collection.add("a", [1, 0])


def test_no_source_unpickles_or_evaluates() -> None:
    """A file from a stranger must never run code."""
    for file in sorted(ROOT.rglob("*.py")) + sorted(Path(vecstore.kernels.__path__[0]).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = {alias.name.split(".")[0] for alias in node.names} | {(getattr(node, "module", "") or "").split(".")[0]}
                assert not names & {"pickle", "cloudpickle", "dill", "marshal", "shelve"}, file
            elif isinstance(node, ast.Call):
                called = node.func.id if isinstance(node.func, ast.Name) else ""
                assert called not in ("eval", "exec", "__import__"), (file, node.lineno)
                for keyword in node.keywords:
                    refused = keyword.arg == "allow_pickle" and getattr(keyword.value, "value", True) is not False
                    assert not refused, (file, node.lineno)
