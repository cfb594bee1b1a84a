"""Runs over folders: killed in the middle, watched, short of memory; and what is written of each picture."""

from __future__ import annotations

import base64
import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image", reason="the extra `images` (Pillow) is not installed")

import vecstore  # noqa: E402
from vecstore import embed  # noqa: E402
from vecstore.cli import main  # noqa: E402
from vecstore.embed import ahead, reading  # noqa: E402
from vecstore.embed.classic import Classic  # noqa: E402
from vecstore.embed.files import pictures  # noqa: E402
from vecstore.embed.hashes import hashes_of  # noqa: E402
from vecstore.embed.progress import Line  # noqa: E402


def pixels(seed: int, height: int = 60, width: int = 80) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height)))


def fill(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for seed in range(count):
        Image.fromarray(pixels(seed)).save(folder / f"{seed:03}.png")
    return folder


INDEXING = """
import sys
from vecstore import embed
from vecstore.embed import folder
folder.BATCH = 16
embed.index_folder(sys.argv[1], sys.argv[2], progress=lambda done, of: print(done, flush=True))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL here")
@pytest.mark.parametrize("batches", [1, 4, 7])
def test_a_killed_run_loses_a_batch_at_most_and_the_next_goes_on(
    tmp_path: Path, path: str, batches: int
) -> None:
    folder = fill(tmp_path / "in", 200)
    with subprocess.Popen(
        [sys.executable, "-c", INDEXING, str(folder), path], stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        told = [int(run.stdout.readline()) for _ in range(batches)][-1]
        run.send_signal(signal.SIGKILL)
    assert run.returncode == -signal.SIGKILL
    assert told == 16 * batches
    with vecstore.open(path, mode="r") as collection:
        kept = len(collection)
        assert kept >= told
        assert kept % 16 == 0 or kept == 200
        assert collection.verify().ok
    report = embed.index_folder(folder, path)
    assert (report.unchanged, report.added, report.failed) == (kept, 200 - kept, 0)
    for seed in (0, told, 199):
        hits = embed.search(path, image=folder / f"{seed:03}.png", k=1)
        assert hits.ids == [str(folder / f"{seed:03}.png")]
        assert hits.distances[0] < 1e-5


def test_what_a_camera_wrote_is_kept(tmp_path: Path, path: str) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Nobody", "Box 3\0"
    exif[0x0132] = "2021:01:02 03:04:05"
    exif.get_ifd(0x8769)[0x9003] = "2020:05:17 18:19:20"
    exif.get_ifd(0x8825).update({1: "S", 2: (33.0, 51.0, 36.0), 3: "E", 4: (151.0, 12.0, 0.0)})
    odd = Image.Exif()
    odd[0x0110], odd[0x0132] = "x" * 5000, "yesterday"
    odd.get_ifd(0x8825).update({1: "N", 2: (933.0, 0.0, 0.0), 3: "E", 4: (1.0, 0.0, 0.0)})
    place = tmp_path / "in" / "harbours"
    place.mkdir(parents=True)
    Image.fromarray(pixels(1)).save(place / "camera.jpg", exif=exif)
    Image.fromarray(pixels(2)).save(place / "odd.jpg", exif=odd)
    Image.fromarray(pixels(3)).save(place / "plain.jpg")
    embed.index_folder(tmp_path / "in", path)
    with vecstore.open(path, mode="r") as collection:
        camera, strange, plain = (
            collection[str(place / f"{name}.jpg")].metadata for name in ("camera", "odd", "plain")
        )
    assert (camera["camera"], camera["time"]) == ("Box 3", "2020-05-17T18:19:20")
    assert camera["gps"] == {"latitude": -33.86, "longitude": 151.2}
    assert (camera["path"], camera["folder"]) == ("harbours/camera.jpg", "harbours")
    assert (camera["width"], camera["height"], camera["size"]) == (
        80,
        60,
        (place / "camera.jpg").stat().st_size,
    )
    assert strange["camera"] == "x" * 200
    assert "time" not in strange
    assert "gps" not in strange
    assert not {"camera", "time", "gps", "thumbnail"} & set(plain)
    found = embed.search(path, image=place / "plain.jpg", where={"time": {"$gte": "2020-01-01"}}, k=5)
    assert found.ids == [str(place / "camera.jpg")]


def test_thumbnails_lie_in_the_same_file(
    tmp_path: Path, path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels(1, 900, 1200)).save(tmp_path / "in" / "large.jpg")
    Image.fromarray(pixels(2, 50, 40)).save(tmp_path / "in" / "small.png")
    assert main(["index", str(tmp_path / "in"), path, "--thumbnails"]) == 0
    capsys.readouterr()
    sizes = {}
    with vecstore.open(path, mode="r") as collection:
        for record in collection:
            small = Image.open(io.BytesIO(base64.b64decode(record.metadata["thumbnail"])))
            sizes[record.metadata["path"]] = small.format, small.size
    assert sizes == {"large.jpg": ("JPEG", (128, 96)), "small.png": ("JPEG", (40, 50))}
    (tmp_path / "in" / "large.jpg").unlink()
    assert (
        main(["search", path, str(tmp_path / "in" / "small.png"), "--html", str(tmp_path / "page.html")]) == 0
    )
    assert f"as a page, pictures and all: {tmp_path / 'page.html'}" in capsys.readouterr().out
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count('src="data:image/jpeg') == 3
    Image.fromarray(pixels(1, 900, 1200)).save(tmp_path / "in" / "large.jpg")
    # They make no difference to vectors, and are nothing that a table shows.
    embed.index_folder(tmp_path / "in", path + "2.vec")
    with vecstore.open(path, mode="r") as one, vecstore.open(path + "2.vec", mode="r") as other:
        for record in one:
            np.testing.assert_allclose(record.vector, other[record.id].vector, atol=0.02)
    capsys.readouterr()
    monkeypatch.setenv("COLUMNS", "400")  # so that nothing is shortened
    assert main(["search", path, str(tmp_path / "in" / "small.png")]) == 0
    told = capsys.readouterr().out
    assert "40 × 50, " in told
    assert "thumbnail" not in told.replace(str(tmp_path), "")


class Whole(Classic):
    """Takes pictures as they are, as networks on a GPU do; and counts those that wait."""

    waiting = most = 0
    lock = threading.Lock()

    def prepare(self, rgb: np.ndarray) -> np.ndarray:
        with self.lock:
            self.waiting += 1
            self.most = max(self.most, self.waiting)
        return rgb

    def vectors(self, prepared: Any) -> np.ndarray:
        time.sleep(0.005)
        with self.lock:
            self.waiting -= len(prepared)
        return super().vectors([super(Whole, self).prepare(rgb) for rgb in prepared])


@pytest.mark.parametrize("room", [1, 100_000])
def test_pictures_wait_within_their_budget(
    tmp_path: Path, path: str, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fill(tmp_path / "in", 120)
    monkeypatch.setattr(reading, "HELD_BYTES", room)
    model = Whole()
    model.batch = 4
    report = embed.index_folder(folder, path, model, threads=3)
    assert report.added == 120
    # Those that have room, those waited for and those just handed over, one in each thread, a batch in the model.
    assert model.most <= room // (60 * 80 * 3) + 2 * ahead.AT_ONCE + 3 + 4


class Blind(Classic):
    def vectors(self, prepared: Any) -> np.ndarray:
        rows = super().vectors(prepared)
        for row, picture in zip(rows, prepared, strict=True):
            if picture.max() == 0:
                row[:] = np.nan
            elif picture.min() == 255:
                row[:] = 0
        return rows


def test_a_picture_that_the_model_makes_nothing_of_does_not_stop_the_run(tmp_path: Path, path: str) -> None:
    folder = fill(tmp_path / "in", 10)
    Image.new("RGB", (20, 20), "black").save(folder / "black.png")
    Image.new("RGB", (20, 20), "white").save(folder / "white.png")
    report = embed.index_folder(folder, path, Blind())
    assert (report.added, report.failed) == (10, 2)
    reasons = {os.path.basename(failure.path): failure.reason for failure in embed.failures(path)}
    assert set(reasons) == {"black.png", "white.png"}
    assert "the model 'classic' makes no vector of it" in reasons["black.png"]
    again = embed.index_folder(folder, path, retry=True)
    assert (again.added, again.failed, again.unchanged) == (2, 0, 10)


def test_an_interrupt_reaches_threads_that_wait(
    tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fill(tmp_path / "in", 60)
    monkeypatch.setattr(reading, "HELD_BYTES", 1)
    monkeypatch.setattr("vecstore.embed.folder.BATCH", 4)

    def stop(done: int, of: int) -> None:
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        embed.index_folder(folder, path, Whole(), progress=stop)
    assert threading.active_count() == before


def test_hashes_are_the_same_whatever_the_model(tmp_path: Path) -> None:
    folder = fill(tmp_path / "in", 3)
    for file in pictures(str(folder)):
        read = reading.Reader(embed.load("classic"), {}, 10**8, 1, False).read(file)
        assert isinstance(read, reading.Read)
        expected = hashes_of(embed.decode(file.path).rgb)
        assert int(read.metadata["perceptual"], 16) == expected.perceptual
        assert int(read.metadata["mirrored_difference"], 16) == expected.mirrored_difference


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_line_tells_rate_and_stages(
    tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fill(tmp_path / "in", 40)
    monkeypatch.setattr("vecstore.embed.folder.BATCH", 8)
    monkeypatch.setattr("vecstore.embed.progress._PAUSE", 0)
    monkeypatch.setenv("COLUMNS", "100")
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    assert main(["index", str(folder), path]) == 0
    lines = [line for line in screen.getvalue().split("\r\x1b[K") if line]
    assert any("] 20 of 40  " in line and "/s  " in line and " left  " in line for line in lines)
    assert any("embed " in line and "decode " in line and " %" in line for line in lines[20:])
    assert all(len(line) < 100 for line in lines)
    assert screen.getvalue().endswith("\r\x1b[K")
    assert "most time went to" in capsys.readouterr().out


def test_the_line_counts_only_what_this_run_did() -> None:
    screen = Terminal()
    line = Line(screen)
    line.show(900, 1000, {})
    assert "/s" not in screen.getvalue()
