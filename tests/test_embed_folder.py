"""Folders become collections, quickly the second time, and whatever lies in them."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image", reason="the extra `images` (Pillow) is not installed")

import vecstore  # noqa: E402
from vecstore import embed  # noqa: E402


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    Image.fromarray(small).resize((80, 60)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(12):
        draw(tmp_path / "in" / ("even" if seed % 2 == 0 else "odd") / f"{seed}.png", seed)
    return tmp_path / "in"


def test_a_folder_is_indexed_and_asked(folder: Path, path: str) -> None:
    seen: list[tuple[int, int]] = []
    report = embed.index_folder(folder, path, progress=lambda done, of: seen.append((done, of)))
    assert (report.found, report.added, report.failed) == (12, 12, 0)
    assert seen[-1] == (12, 12)
    assert report.bottleneck in report.seconds
    picture = folder / "odd" / "3.png"
    hits = embed.search(path, image=picture, k=2)
    assert hits.ids[0] == str(picture)
    assert len(hits) == 2
    row = hits[0].metadata
    assert (row["path"], row["folder"], row["width"], row["height"]) == ("odd/3.png", "odd", 80, 60)
    assert embed.search(path, image=picture, where={"folder": "even"})[0].metadata["folder"] == "even"
    mirrored = Image.open(picture).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert embed.search(path, image=mirrored, k=1).ids == [str(picture)]
    assert embed.search(path, image=mirrored, k=1).distances[0] < 1e-5
    with pytest.raises(embed.ModelError, match="texts"):
        embed.search(path, text="a red shoe")


def test_a_second_run_writes_nothing(folder: Path, path: str) -> None:
    (folder / "bad.jpg").write_bytes(b"no picture")
    embed.index_folder(folder, path)
    before = {name: Path(name).read_bytes() for name in (path, path + "-errors")}
    report = embed.index_folder(folder, path)
    assert (report.unchanged, report.added, report.failed) == (12, 0, 1)
    assert before == {name: Path(name).read_bytes() for name in before}


def test_changes_are_followed(folder: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    embed.index_folder(folder, path)
    with vecstore.open(path, mode="r") as before:
        vector = before[str(folder / "odd" / "5.png")].vector
    draw(folder / "even" / "0.png", 100)
    os.utime(folder / "even" / "2.png", ns=(1, 1))
    os.remove(folder / "even" / "4.png")
    (folder / "moved").mkdir()
    (folder / "odd" / "5.png").rename(folder / "moved" / "five.png")
    shutil.copy(folder / "odd" / "7.png", folder / "copy.png")
    report = embed.index_folder(folder, path)
    assert (report.changed, report.moved, report.added, report.pruned) == (1, 1, 1, 0)
    with vecstore.open(path, mode="r") as after:
        assert str(folder / "even" / "4.png") in after
        assert str(folder / "odd" / "5.png") not in after
        moved = after[str(folder / "moved" / "five.png")]
        np.testing.assert_array_equal(moved.vector, vector)
        assert moved.metadata["path"] == "moved/five.png"
    assert embed.index_folder(folder, path, prune=True).pruned == 1
    assert embed.index_folder(folder, path).unchanged == 12


@pytest.mark.parametrize("size", [1, 256])
def test_files_that_change_places_change_vectors(
    folder: Path, path: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vecstore.embed.folder.BATCH", size)
    embed.index_folder(folder, path)
    one, other = folder / "odd" / "1.png", folder / "odd" / "3.png"
    one.rename(folder / "between")
    other.rename(one)
    (folder / "between").rename(other)
    os.utime(one, ns=(5, 5))
    os.utime(other, ns=(6, 6))
    embed.index_folder(folder, path)
    for picture in (one, other):
        hit = embed.search(path, image=picture, k=1)[0]
        assert hit.id == str(picture)
        assert hit.distance < 1e-5


def test_the_bottleneck_is_not_who_waits(folder: Path, path: str) -> None:
    """The classic model computes beside threads that decode: the time it waits for them is theirs."""

    class Waits(type(embed.load("classic"))):  # type: ignore[misc]
        def vectors(self, prepared: Sequence[Any]) -> Any:
            time.sleep(0.3)
            return super().vectors(prepared)

    class Card(Waits):
        clock = staticmethod(time.perf_counter)

    report = embed.index_folder(folder, path, model=Waits())
    assert report.seconds["embed"] < 0.3
    report = embed.index_folder(folder, path + "2.vec", model=Card())
    assert report.seconds["embed"] > 0.3
    assert report.bottleneck == "embed"


def test_a_folder_that_was_renamed_is_not_there_twice(folder: Path, path: str) -> None:
    embed.index_folder(folder, path)
    other = folder.parent / "other"
    draw(other / "1.png", 100)
    embed.index_folder(other, path)
    (other / "1.png").unlink()  # as where a disk is not mounted
    now = folder.rename(folder.parent / "renamed")
    report = embed.index_folder(now, path)
    assert (report.added, report.moved, report.pruned) == (0, 12, 0)
    assert embed.index_folder(now, path, prune=True).pruned == 12
    with vecstore.open(path, mode="r") as pictures:
        ids = {record.id for record in pictures.scan(vectors=False)}
    assert ids == {str(other / "1.png"), *map(str, now.rglob("*.png"))}


def test_another_model_is_refused_by_name(folder: Path, path: str) -> None:
    embed.index_folder(folder, path)

    class Other(type(embed.load("classic"))):  # type: ignore[misc]
        fingerprint = "other 1"

    for ask in (
        lambda: embed.index_folder(folder, path, model=Other()),
        lambda: embed.search(path, image=folder / "odd" / "1.png", model=Other()),
    ):
        with pytest.raises(embed.ModelError, match=r"classic.*other 1"):
            ask()


def test_a_stop_in_the_middle_loses_a_batch_at_most(
    folder: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vecstore.embed.folder.BATCH", 4)

    def stop(done: int, of: int) -> None:
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed.index_folder(folder, path, progress=stop)
    report = embed.index_folder(folder, path)
    assert (report.unchanged, report.added) == (8, 4)


def test_a_hostile_folder_does_no_harm(folder: Path, path: str) -> None:
    os.symlink(folder, folder / "loop")
    os.symlink(folder / "nowhere.png", folder / "dangling.png")
    (folder / "empty.jpg").touch()
    with (folder / "sparse.jpg").open("wb") as file:
        file.truncate(1 << 30)
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
    (folder / "half.png").write_bytes((folder / "odd" / "1.png").read_bytes()[:600])
    (folder / "wrong.jpg").write_bytes((folder / "odd" / "1.png").read_bytes())
    (folder / "notes.txt").write_text("no picture")
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.jpg")
    names = ['"quoted".png', "two\nlines.png", "<script>alert(1)</script>".replace("/", "") + ".png"]
    for seed, name in enumerate(names):
        draw(folder / name, 50 + seed)
    odd = os.fsencode(folder) + b"/caf\xe9.png"
    shutil.copy(folder / "odd" / "3.png", odd)
    report = embed.index_folder(folder, path)
    assert report.failed == 4
    assert report.added == 12 + len(names) + 2
    failed = {os.path.basename(failure.path): failure.reason for failure in embed.failures(path)}
    assert set(failed) == {"empty.jpg", "sparse.jpg", "bomb.png", "half.png"}
    assert "0 bytes" in failed["empty.jpg"]
    assert "pixels" in failed["bomb.png"]
    with vecstore.open(path, mode="r") as collection:
        assert str(folder / "two\nlines.png") in collection
        assert collection.verify().ok
    draw(folder / "empty.jpg", 9)
    again = embed.index_folder(folder, path, prune=True)
    assert (again.added + again.changed, again.failed) == (1, 3)
    assert "empty.jpg" not in {os.path.basename(failure.path) for failure in embed.failures(path)}
    assert embed.index_folder(folder, path, retry=True).failed == 3


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(embed.ImageError, match="no folder"):
        embed.index_folder(tmp_path / "none", tmp_path / "none.vec")
    assert not (tmp_path / "none.vec").exists()
