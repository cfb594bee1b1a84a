"""Another package's model, installed beside ours: by name, from Python and on the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image", reason="the extra `images` (Pillow) is not installed")

import vecstore  # noqa: E402
from vecstore import embed  # noqa: E402
from vecstore.cli import main  # noqa: E402

SOURCE = '''
import numpy as np


class Tints:
    """Mean colours; words are colours too."""

    batch = 3
    words = {"red": (255, 0, 0), "blue": (0, 0, 255)}

    def images(self, pictures):
        assert len(pictures) <= self.batch
        return np.stack([picture.mean(axis=(0, 1)) for picture in pictures]) + 1

    def texts(self, texts):
        return np.array([self.words[text] for text in texts]) + 1

    def fingerprint(self):
        return "means 2"


class Mute:
    def images(self, pictures):
        return [[1.0, picture.shape[0]] for picture in pictures]

    def texts(self, texts):
        raise NotImplementedError

    def fingerprint(self):
        return "1"


class Short(Mute):
    def images(self, pictures):
        return np.ones((1, 2))


class Angry(Mute):
    def images(self, pictures):
        if len(pictures) == 1 and pictures[0].shape[0] == 64:
            return np.ones((1, 2))
        raise OSError("no more")


class Half:
    def images(self, pictures):
        return np.ones((len(pictures), 2))


def broken():
    raise RuntimeError("no licence")
'''
NAMES = {
    "tints": "Tints",
    "mute": "Mute",
    "short": "Short",
    "angry": "Angry",
    "half": "Half",
    "broken": "broken",
    "gone": "Gone",
}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What pip leaves of a package: its module, and a .dist-info that names its entry points."""
    site = tmp_path / "site"
    info = site / "vecstore_tints-2.0.dist-info"
    info.mkdir(parents=True)
    (site / "vecstore_tints.py").write_text(SOURCE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vecstore-tints\nVersion: 2.0\n")
    points = "".join(f"{name} = vecstore_tints:{made}\n" for name, made in NAMES.items())
    (info / "entry_points.txt").write_text(f"[vecstore.embedders]\n{points}")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "vecstore_tints", raising=False)
    return site


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for name in ("red", "blue", "green", "white"):
        Image.new("RGB", (40, 30), name).save(tmp_path / "in" / f"{name}.png")
    return tmp_path / "in"


def test_it_is_found_by_name(installed: Path) -> None:
    model = embed.load("tints")
    assert (model.name, model.dim, model.fingerprint) == ("tints", 3, "tints means 2")
    vectors = model.images([np.full((5, 4), level, np.uint8) for level in range(7)])
    assert vectors.shape == (7, 3)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    with pytest.raises(embed.ModelError, match=r"there is: classic, angry, .*tints"):
        embed.load("no-such-model")


def test_a_folder_is_indexed_and_asked_with_it(installed: Path, folder: Path, path: str) -> None:
    assert embed.index_folder(folder, path, model="tints").added == 4
    assert [os.path.basename(str(id_)) for id_ in embed.search(path, text="red", k=1).ids] == ["red.png"]
    assert embed.search(path, image=folder / "blue.png", k=1).ids == [str(folder / "blue.png")]
    with vecstore.open(path, mode="r") as collection:
        assert {record.metadata["model"] for record in collection.scan()} == {"tints means 2"}
    with pytest.raises(embed.ModelError, match=r"'tints means 2', and 'mute 1'"):
        embed.search(path, image=folder / "blue.png", model="mute")
    with pytest.raises(embed.ModelError, match=r"'tints means 2', and 'classic "):
        embed.index_folder(folder, path)


def test_the_command_line_knows_it(installed: Path, folder: Path, path: str) -> None:
    command = [sys.executable, "-m", "vecstore"]
    surroundings = os.environ | {"PYTHONPATH": str(installed)}
    subprocess.run([*command, "index", str(folder), path, "--model", "tints"], env=surroundings, check=True)
    found = subprocess.check_output(
        [*command, "search", path, "--text", "blue", "-k", "1", "--json"], env=surroundings
    )
    assert json.loads(found)["results"][0][0]["id"] == str(folder / "blue.png")


def test_what_it_cannot_do_is_said(
    installed: Path, folder: Path, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(embed.ModelError, match="'mute' knows pictures alone"):
        embed.load("mute").texts(["red"])
    with pytest.raises(embed.ModelError, match="'half' lacks the methods texts, fingerprint"):
        embed.load("half")
    for name in ("broken", "gone"):
        with pytest.raises(embed.ModelError, match=rf"'{name}' \(vecstore_tints:.*\) cannot be made"):
            embed.load(name)
    with pytest.raises(embed.ModelError, match=r"must give \(2, 2\) numbers for 2 items, and gave \(1, 2\)"):
        embed.load("short").images([np.zeros((2, 2), np.uint8)] * 2)
    assert main(["index", str(folder), path, "--model", "angry"]) == 1
    assert capsys.readouterr().err == "vecstore: the embedder 'angry' failed: OSError: no more\n"


def test_two_packages_of_one_name_are_refused(installed: Path) -> None:
    info = installed / "other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vecstore.embedders]\ntints = other:Tints\n")
    with pytest.raises(
        embed.ModelError,
        match=r"several packages bring a model 'tints' \(other:Tints, vecstore_tints:Tints\)",
    ):
        embed.load("tints")
