"""Every file format that ever landed can be read: the fixtures are files of it, with what they hold beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import vecstore
from vecstore.config import FORMAT_VERSION

FIXTURES = Path(__file__).parent / "fixtures"
FILES = sorted(FIXTURES.glob("format-*/*.vec"))


def test_todays_format_has_fixtures() -> None:
    assert [path for path in FILES if path.parent.name == f"format-{FORMAT_VERSION}"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
@pytest.mark.parametrize("mode", ["r", "a"])
def test_an_old_file_is_read(path: Path, mode: str, tmp_path: Path) -> None:
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
        if mode == "a":
            opened.add("new", opened["img-1"].vector, {"later": True})
            opened.compact()
            assert len(opened) == len(content["records"]) + 1
            assert opened["img-3"].metadata == {"long": "x" * 9000}
