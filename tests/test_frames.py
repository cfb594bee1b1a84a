"""Answers as tables of pandas, polars and Arrow, and as text and HTML for people."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vecstore
from vecstore import Hit, Hits, HitsBatch, frames
from vecstore.errors import MissingPackageError

pytest.importorskip("pandas")
pytest.importorskip("polars")
pytest.importorskip("pyarrow")

MIXED: list[dict[str, Any]] = [
    {
        "year": 2020,
        "name": "a",
        "ok": True,
        "score": 0.5,
        "tags": ["x"],
        "exif": {"iso": 100},
        "any": 1,
        "id": "own",
    },
    {"year": None, "name": "ä", "score": float("nan"), "tags": [], "exif": {"f": 2.8}, "any": "one"},
    {"year": 2**60 + 1, "ok": False, "any": [1, "x", None], "distance": 3},
    {},
]
HITS = Hits(Hit(f"id {n}", n / 4, one) for n, one in enumerate(MIXED))
NAMES = [
    "id",
    "distance",
    "year",
    "name",
    "ok",
    "score",
    "tags",
    "exif",
    "any",
    "metadata.id",
    "metadata.distance",
]


def rows_of(table: Any) -> list[dict[str, Any]]:
    """Any of the three as plain rows, gaps as None."""
    if hasattr(table, "to_pylist"):
        return list(table.to_pylist())
    if hasattr(table, "to_dicts"):
        return list(table.to_dicts())
    return [
        {str(k): None if v is sys.modules["pandas"].NA else v for k, v in row.items()}
        for row in table.to_dict("records")
    ]


WAYS = ["to_pandas", "to_polars", "to_arrow"]


@pytest.mark.parametrize("way", WAYS)
def test_hits_as_a_table(way: str) -> None:
    rows = rows_of(getattr(HITS, way)())
    assert [list(row) for row in rows] == [NAMES] * 4
    for row, hit in zip(rows, HITS, strict=True):
        assert (row["id"], row["distance"]) == (hit.id, hit.distance)
        for key, value in hit.metadata.items():
            found = row[f"metadata.{key}" if key in ("id", "distance") else key]
            if key == "any" and way != "to_pandas":
                assert json.loads(found) == value
            elif isinstance(value, dict):
                assert {k: v for k, v in found.items() if v is not None} == value
            else:
                assert found == value or found is value or found != found
    assert rows[3]["name"] is None or rows[3]["name"] != rows[3]["name"]
    assert rows[3]["year"] is None
    assert rows[1]["ok"] is None


@pytest.mark.parametrize("way", WAYS)
def test_batches_and_empty_answers_as_tables(way: str) -> None:
    batch = HitsBatch([HITS[:2], Hits([]), HITS[2:3]], 2, integer_ids=False)
    rows = rows_of(getattr(batch, way)())
    assert [(row["query"], row["id"], row["distance"]) for row in rows] == [
        (0, "id 0", 0.0),
        (0, "id 1", 0.25),
        (2, "id 2", 0.5),
    ]
    for nothing in (Hits([]), HitsBatch([], 3, integer_ids=True)):
        table = getattr(nothing, way)()
        assert rows_of(table) == []
        assert "distance" in list(getattr(table, "column_names", None) or table.columns)


def test_types_are_those_that_a_reader_expects() -> None:
    arrow = HITS.to_arrow().schema
    assert [str(arrow.field(name).type) for name in ("id", "distance", "year", "ok", "any")] == [
        "string",
        "double",
        "int64",
        "bool",
        "string",
    ]
    assert HITS.to_pandas().dtypes[["year", "ok", "distance"]].astype(str).tolist() == [
        "Int64",
        "boolean",
        "float64",
    ]
    assert str(HITS.to_polars().schema["year"]) == "Int64"
    whole = Hits([Hit(1, 0.5, {}), Hit(2, 0.75, {})])
    assert str(whole.to_arrow().schema.field("id").type) == "int64"
    assert rows_of(Hits([Hit(1, 0.5, {}), Hit("b", 1.0, {})]).to_arrow())[0]["id"] == "1"


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_scans_as_tables_with_their_vectors(opened: Callable[..., vecstore.Collection], dtype: str) -> None:
    with opened(dim=3, metric="l2", dtype=dtype) as c:
        rows = np.arange(30).reshape(10, 3)
        c.add(range(10), rows, [{"n": n} for n in range(10)])
        pandas, polars, arrow = (getattr(c.scan(where={"n": {"$gte": 4}}), way)() for way in WAYS)
        assert (
            pandas["id"].tolist() == polars["id"].to_list() == arrow["id"].to_pylist() == list(range(4, 10))
        )
        np.testing.assert_array_equal(np.stack(pandas["vector"].tolist()), rows[4:])
        assert np.stack(pandas["vector"].tolist()).dtype == dtype
        np.testing.assert_array_equal(polars["vector"].to_numpy(), rows[4:])
        np.testing.assert_array_equal(np.array(arrow["vector"].to_pylist()), rows[4:])
        assert arrow.schema.field("vector").type.list_size == 3
        records = c.scan(vectors=False)
        next(records)
        assert records.to_arrow().column_names == ["id", "n"]
        assert list(records) == []
        assert len(c.scan(where={"n": 99}).to_pandas()) == 0
        with c.transaction():
            c.add(10, rows[0])
            assert len(c.scan().to_polars()) == 11
        hits = c.search(rows[2], k=2)
        assert hits.to_arrow()["id"].to_pylist() == hits.ids
        assert c.search(rows, k=2).to_pandas()["query"].tolist() == [n // 2 for n in range(20)]
        part = c.scan()
        next(part)
        part.close()
        assert list(part) == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text("ab", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(json_values, min_size=1, max_size=5), st.sampled_from(["to_polars", "to_arrow"]))
def test_no_value_is_lost_or_changed(values: list[Any], way: str) -> None:
    """A column holds the values, or their JSON."""
    hits = Hits(Hit(n, 0.0, {"v": value}) for n, value in enumerate(values))
    for row, value in zip(rows_of(getattr(hits, way)()), values, strict=True):
        found = row["v"]
        if isinstance(found, str) and found != value:
            found = json.loads(found)
        assert frames._same(found, value)


def test_a_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for way, package in zip(WAYS, ("pandas", "polars", "pyarrow"), strict=True):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingPackageError, match=f"{way} needs {package}: pip install {package}"):
            getattr(HITS, way)()
    assert issubclass(MissingPackageError, ImportError)


def test_searching_loads_none_of_them(path: str) -> None:
    code = (
        "import sys, vecstore\n"
        f"c = vecstore.open({path!r}, dim=2); c.add('a', [1, 0]); repr(c.search([1, 0])); c.search([1, 0])._repr_html_()\n"
        "print(sorted({'pandas', 'polars', 'pyarrow', 'asyncio'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


# -- for people


class _Page(HTMLParser):
    """Which tags there are, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.cells: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.cells.append(data)


EVIL = '<script>alert("x")</script>\'" onload='


def test_html_shows_values_and_never_runs_them() -> None:
    hits = Hits(Hit(EVIL, 0.5, {EVIL: EVIL, "d": {EVIL: [EVIL]}, "long": "x" * 10**6}) for _ in range(30))
    for shown in (hits, HitsBatch([hits, hits[:1]], 30, integer_ids=False)):
        text = shown._repr_html_()
        page = _Page(text)
        assert page.tags <= {"table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td"}
        assert EVIL in page.cells
        assert len(text) < 30_000
    assert "… and 10 more" in hits._repr_html_()
    assert "30 hits" in hits._repr_html_()
    assert "tfoot" not in _Page(hits[:3]._repr_html_()).tags
    many = Hits([Hit(1, 0.0, {f"key {n}": n for n in range(50)})])
    assert "…" in _Page(many._repr_html_()).cells
    assert "key 40" not in many._repr_html_()
    assert "<table>" in Hits([])._repr_html_()


def test_text_is_short_whatever_the_metadata() -> None:
    hits = Hits(Hit(n, n / 2, {"text": "x" * 10**6, "n": n} if n else {}) for n in range(12))
    lines = repr(hits).splitlines()
    assert lines[0] == "Hits(12)"
    assert lines[1] == "  0            0"
    assert lines[-1] == "  … and 2 more"
    assert max(map(len, lines)) < 200
    batch = HitsBatch([hits] * 7, 12, integer_ids=True)
    assert repr(batch).splitlines()[:3] == [
        "HitsBatch(7 queries, up to 12 hits each)",
        "  query 0",
        "    0            0",
    ]
    assert repr(batch).splitlines()[-1] == "  … and 2 queries more"
    assert len(repr(batch).splitlines()) < 40
