"""The README's first command: pictures are drawn, indexed, asked for and shown."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("PIL", reason="pictures need Pillow")

from PIL import Image

import vecstore
from vecstore.cli import drawn, main


def demo(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(["demo", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_pictures_are_drawn_indexed_asked_for_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    found = demo(capsys, "--out", str(out), "--count", "6")
    assert found["pictures"] == found["indexed"] == 72
    assert found["right_kind"] == 6
    assert found["copy_found"] is True
    assert found["hit_at_1"] > 0.8
    text = Path(found["page"]).read_text(encoding="utf-8")
    assert text.count('class="card') == 24
    assert "sunset.jpg" in text
    again = demo(capsys, "--out", str(out), "--count", "6")
    assert again["indexed"] == 0
    assert again["answers"] == found["answers"]
    assert main(["demo", "--out", str(out), "--count", "6"]) == 0
    told = capsys.readouterr().out
    assert f"Look at it:   {found['page']}" in told
    assert "6 of 24" in told


def test_a_demo_of_another_version_is_made_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    demo(capsys, "--out", str(out), "--count", "2")
    with vecstore.open(out / "demo.vec") as c:
        c.update([record.id for record in c.scan()], [{"model": "classic features=0"}] * len(c))
    assert demo(capsys, "--out", str(out), "--count", "2")["indexed"] == 24


def test_a_folder_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "my pictures"
    mine.mkdir()
    for number in range(5):
        drawn.picture("fish", number).save(mine / f"{number}.png")
    (mine / "broken.jpg").write_bytes(b"x")
    before = sorted(os.listdir(mine))
    found = demo(capsys, str(mine), "--out", str(tmp_path / "out"))
    assert found["file"].endswith("my pictures.vec")
    assert found["failed"] == 1
    assert len(found["answers"]) == 4
    assert found["asked"] not in [answer["path"] for answer in found["answers"]]
    assert sorted(os.listdir(mine)) == before
    assert main(["demo", str(mine), "--vectors"]) == 2
    assert main(["demo", str(tmp_path / "none")]) == 1
    assert main(["demo", str(tmp_path / "out"), "--out", str(tmp_path / "other")]) == 1
    assert "fewer than two pictures" in capsys.readouterr().err


def test_pictures_are_the_same_everywhere_and_of_their_own() -> None:
    sums = {hashlib.sha256(drawn.picture(kind, number).tobytes()).hexdigest() for kind in drawn.KINDS for number in range(3)}
    assert len(sums) == 36
    one, other = (np.asarray(drawn.picture("tiles", 5), int) for _ in range(2))
    assert (one == other).all()
    assert Image.fromarray(one.astype(np.uint8)).size == (drawn.WIDE, drawn.TALL)
