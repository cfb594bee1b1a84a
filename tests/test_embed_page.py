"""A page of answers: nothing of it comes from elsewhere, and nothing that a file says becomes part of it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("PIL", reason="pictures need Pillow")

from PIL import Image

from vecstore import cli, embed
from vecstore.embed.page import Card, Section, page
from vecstore.embed.thumbnails import SIDE, thumbnail

EVIL = "<script>alert('1')</script>\"&'.jpg"


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def some_page() -> str:
    cards = [Card(EVIL, "file:///a.jpg", 0.25, thumbnail(np.zeros((30, 40, 3), np.uint8)), (("camera", EVIL),), EVIL)]
    return page(EVIL, [Section(cards, EVIL), Section([Card("second")])], asked=[Card(EVIL)], note=EVIL)


def test_names_are_text_and_nothing_else() -> None:
    tags = Tags(some_page())
    assert len(tags.of("script")) == 1
    [image] = tags.of("img")
    assert image["alt"] == EVIL
    assert all(not name.startswith("on") for _, attributes in tags.tags for name in attributes)
    assert tags.of("li")[0]["data-words"] == f"{EVIL} {EVIL} camera {EVIL}".lower()


def test_it_asks_for_nothing() -> None:
    text = some_page()
    tags = Tags(text)
    sources = [value for _, attributes in tags.tags for name, value in attributes.items() if name in ("src", "href")]
    assert {str(source).split(":")[0] for source in sources} == {"data", "file"}
    assert "default-src 'none'" in text
    assert not re.search(r"url\(|@import|fetch\(|XMLHttp", text)


def test_a_thumbnail_is_small_and_keeps_its_shape() -> None:
    import io

    made = Image.open(io.BytesIO(thumbnail(np.zeros((1000, 2000, 3), np.uint8))))
    assert made.size == (SIDE, SIDE // 2)
    assert made.format == "JPEG"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "pictures"
    place.mkdir()
    for number, colour in enumerate(("red", "green", "blue", "orange")):
        Image.new("RGB", (60, 40), colour).save(place / f"{number}-{colour}.png")
    (place / "broken.jpg").write_bytes(b"no picture")
    return place


def test_the_commands_index_ask_and_write_a_page(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = str(tmp_path / "p.vec"), tmp_path / "out.html"
    assert cli.main(["index", str(folder), file]) == 0
    told = capsys.readouterr().out
    assert "added   4" in told
    assert "failed  1" in told
    assert cli.main(["index", str(folder), file]) == 0
    assert "unchanged  4" in capsys.readouterr().out
    assert cli.main(["errors", file]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if "broken.jpg" in line]
    assert line.count("broken.jpg") == 1
    query = str(folder / "0-red.png")
    assert cli.main(["search", file, query, "-k", "2", "--html", str(out)]) == 0
    assert "0-red.png" in capsys.readouterr().out
    text = out.read_text(encoding="utf-8")
    assert len(Tags(text).of("li")) == 2
    assert "0-red.png" in text
    assert cli.main(["search", file, query, "-k", "1", "--ids-only"]) == 0
    assert capsys.readouterr().out == f"{query}\n"
    assert cli.main(["search", file, "--text", "a red thing"]) == 1
    assert "no texts" in capsys.readouterr().err
    assert embed.search(file, image=query, k=1).ids == [query]
