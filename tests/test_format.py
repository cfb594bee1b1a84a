"""Every file format that ever landed can be read: the fixtures are files of it, with what they hold beside them."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import vecstore
from vecstore import config
from vecstore.config import FORMAT_VERSION

FIXTURES = Path(__file__).parent / "fixtures"
FILES = sorted(FIXTURES.glob("format-*/*.vec"))

# Of all files of a format, one after the other. What stands here has landed: a file that no longer fits is another
# format, with a number and a line of its own.
LANDED = {
    "format-1": "c811444fe9130be3e4c2dd3d2601e6e160d59427e765dec6b654b67e9d81437a",
    "format-2": "58e23f9e9171e904f95ee04e4062f865487c712e515eb75e800946d4cea2b05b",
    "format-3": "3962c3338e9f7488ba0ffa0bc5c3703a52c2bd5312430683fbda41d6ebbef66e",
    "format-4": "9748513abb36cf554efb8e4016f817949ac7fb73fba2caf3ba4870d34757d82f",
    "format-5": "b9c48d36fcf442f5c82b043eb56ce8fa7389cd8752c1e61a9f65cd84911888a4",
}


def test_todays_format_has_fixtures() -> None:
    assert [path for path in FILES if path.parent.name == f"format-{FORMAT_VERSION}"]


def test_fixtures_are_the_files_that_landed() -> None:
    found = {
        folder.name: hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.glob("*.vec")))).hexdigest()
        for folder in FIXTURES.glob("format-*")
    }
    assert found == LANDED


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
@pytest.mark.parametrize("mode", ["r", "a"])
def test_an_old_file_is_read(path: Path, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "READ_INDEXED_FROM", 0)  # fields are read out of indexes, where the file has some
    copy = tmp_path / path.name
    shutil.copy(path, copy)
    content = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    with vecstore.open(copy, mode=mode) as opened:
        assert opened.verify(raise_on_error=True).records == len(content["records"]) == len(opened)
        records = [[record.id, record.vector.tolist(), record.metadata] for record in opened]
        assert records == content["records"]
        query = np.array(content["query"])
        hits = opened.search(query.astype(bool) if opened.dtype == "binary" else query, k=5)
        assert hits.ids == content["ids"]
        np.testing.assert_allclose(hits.distances, content["distances"], rtol=1e-9)
        assert sorted(opened.indexes()) == content.get("indexes", [])
        assert [record.id for record in opened.scan(where=content.get("where", {"n": None}))] == content.get("matching", [])
        if mode == "a":
            opened.add("new", opened["img-1"].vector, {"later": True})
            opened.compact()
            assert len(opened) == len(content["records"]) + 1
            assert sorted(opened.indexes()) == content.get("indexes", [])
            assert opened.verify(raise_on_error=True).ok
            assert opened["img-3"].metadata == {"long": "x" * 9000}
