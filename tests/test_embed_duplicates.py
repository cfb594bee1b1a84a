"""Copies: found whatever was done to them, kept by a rule, and never removed by anybody but who asked for it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL", reason="pictures need Pillow")

from PIL import Image

import vecstore
from vecstore import cli, embed
from vecstore.embed.alike import Alike
from vecstore.embed.marks import Marks

# Names that a shell, a terminal or a page could take for something else.
NAMES = ("plain", "it's", 'a "b" $(touch hacked) `id`', "-rf", "two\nlines", "<script>alert(1)<script>")


def drawn(seed: int, wide: int = 160, tall: int = 120) -> Image.Image:
    """Blobs and edges: no two seeds look alike, and none is its own mirror image."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:tall, :wide] / np.array([tall, wide])[:, None, None]
    picture = np.zeros((tall, wide, 3)) + random.integers(0, 256, 3)
    for _ in range(9):
        at, size = random.random(2), random.random() * 0.3 + 0.08
        picture[(y - at[0]) ** 2 + (x - at[1]) ** 2 < size**2] = random.integers(0, 256, 3)
    return Image.fromarray(picture.astype(np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Thirty pictures, and of six of them a smaller copy, one with the same bytes and a mirrored one."""
    place = tmp_path / "pictures"
    (place / "copies").mkdir(parents=True)
    for seed in range(30):
        drawn(seed).save(place / f"{seed:02}.png")
    for seed, name in enumerate(NAMES):
        drawn(seed).resize((80, 60)).save(place / "copies" / f"{name}.jpg", quality=60)
        (place / "copies" / f"{name}.png").write_bytes((place / f"{seed:02}.png").read_bytes())
        drawn(seed).transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((90, 70)).save(place / f"mirror-{seed}.jpg", quality=90)
    for number, name in enumerate(sorted(place.rglob("*.*g"))):
        os.utime(name, ns=(10**18 + number, 10**18 + number))
    for seed in range(30):
        os.utime(place / f"{seed:02}.png", ns=(10**17 + seed, 10**17 + seed))
    return place


@pytest.fixture
def file(folder: Path) -> str:
    path = str(folder.parent / "p.vec")
    assert embed.index_folder(folder, path).failed == 0
    return path


def test_every_kind_of_copy_is_found_and_nothing_else(folder: Path, file: str) -> None:
    found = embed.dedupe(file)
    assert found.pictures == 48
    assert len(found.groups) == 6
    for group in found.groups:
        seed = int(Path(group.kept.id).stem)
        kinds = {Path(copy.id).relative_to(folder).as_posix(): copy.kind for copy in group.copies}
        name = NAMES[seed]
        assert kinds == {f"copies/{name}.jpg": "near", f"copies/{name}.png": "exact", f"mirror-{seed}.jpg": "mirrored"}
        assert all(0 <= copy.distance <= found.radius for copy in group.copies)
    assert len(found.spare) == 18
    assert found.spare_bytes == sum(os.path.getsize(copy.id) for copy in found.spare)


def test_which_is_kept(folder: Path, file: str) -> None:
    os.utime(folder / "mirror-0.jpg", ns=(10**9, 10**9))
    embed.index_folder(folder, file)
    assert sorted(Path(group.kept.id).stem for group in embed.dedupe(file).groups) == [f"{seed:02}" for seed in range(6)]
    oldest = {Path(group.kept.id).stem for group in embed.dedupe(file, keep="oldest").groups}
    assert oldest == {"mirror-0", *(f"{seed:02}" for seed in range(1, 6))}
    with pytest.raises(embed.ModelError, match="largest"):
        embed.dedupe(file, keep="nicest")


def test_every_copy_is_one_of_the_kept_picture_itself(tmp_path: Path) -> None:
    """A row in which each looks like the next must not end in what does not look like the first."""
    place = tmp_path / "row"
    place.mkdir()
    one, other = (np.asarray(drawn(seed), float) for seed in (1, 2))
    for step in range(13):
        mixed = one + (other - one) * step / 12
        Image.fromarray(mixed.astype(np.uint8)).save(place / f"{step:02}.png")
    found_file = str(tmp_path / "row.vec")
    embed.index_folder(place, found_file)
    found = embed.dedupe(found_file, radius=0.15, bits=16)
    assert len(found.groups) >= 2
    model = embed.load("classic")
    for group in found.groups:
        vectors = model.images([group.kept.id, *(copy.id for copy in group.copies)])
        assert (1 - vectors[1:] @ vectors[0] <= 0.151).all()


def test_mirrored_copies_without_their_files_are_told_by_hashes(folder: Path, file: str) -> None:
    for path in [*folder.rglob("*.png"), *folder.rglob("*.jpg")]:
        path.unlink()
    kinds = [copy.kind for copy in embed.dedupe(file).spare]
    assert kinds.count("exact") == 6
    assert kinds.count("mirrored") >= 4


def test_links_to_a_picture_are_no_copies(tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("links need rights")
    place = tmp_path / "links"
    place.mkdir()
    drawn(1).save(place / "b.png")
    (place / "a.png").symlink_to("b.png")
    os.link(place / "b.png", place / "c.png")
    file = str(tmp_path / "links.vec")
    assert embed.index_folder(place, file).found == 3
    assert embed.dedupe(file).groups == ()


def test_thousands_with_one_hash_take_no_time(tmp_path: Path) -> None:
    hashed = dict.fromkeys(("perceptual", "difference", "mirrored_perceptual", "mirrored_difference"), "0" * 16)
    rows = [
        hashed | {"content": f"{n:064x}", "width": 9, "height": 9, "size": 9, "mtime_ns": n, "model": "x y"} for n in range(3000)
    ]
    random = np.random.default_rng(0).normal(size=(3000, 16))
    path = str(tmp_path / "flat.vec")
    with vecstore.open(path, dim=16) as c:
        c.add([f"{n}.png" for n in range(3000)], random, [row | {"content": f"{n << 192:064x}"} for n, row in enumerate(rows)])
    found = embed.dedupe(path, radius=1e-6)
    assert found.pictures == 3000
    assert found.groups == ()
    assert found.seconds < 60


def test_candidates_are_those_of_brute_force(file: str) -> None:
    random = np.random.default_rng(0)
    hashed = random.integers(0, 2**63, 300, dtype=np.uint64)
    for place in range(0, 300, 3):
        hashed[place] = hashed[place + 1] ^ np.uint64(1 << int(random.integers(0, 60)))
    with vecstore.open(file, mode="r") as pictures, Marks(pictures) as marks:
        # The other hash is farther off, by a few bits or by very many.
        second = hashed ^ np.array([0b111_1111 << n % 50 if n % 2 else 0 for n in range(300)], np.uint64)
        second[::10] = random.integers(0, 2**63, 30, dtype=np.uint64)
        marks.hashes = {
            "perceptual": hashed, "difference": second,
            "mirrored_perceptual": np.roll(hashed, 5), "mirrored_difference": np.roll(second, 5),
        }  # fmt: skip
        row = np.arange(300)
        with Alike(marks, row, 6) as alike:
            every = alike.of(row)
            one_by_one = [(place, other) for place in range(300) for other in alike.every(place).tolist()]
            every_turned = [(place, other) for place in range(300) for other in alike.every_mirrored(place).tolist()]
        found = {(place, other) for place, each in enumerate(every) for other in each.near.tolist()}
        turned = {(place, other) for place, each in enumerate(every) for other in each.mirrored.tolist()}
        apart = {name: bits_apart(marks.hashes[name], marks.hashes[name]) for name in ("perceptual", "difference")}
        either = np.minimum(*apart.values()) <= 6
        agreed = either & (np.maximum(*apart.values()) <= 10)
        assert agreed.sum() < either.sum()
        expected = {(i, j) for i, j in np.argwhere(agreed).tolist() if i < j}
        assert found == expected
        assert sorted(one_by_one) == sorted(expected)
        assert not any(each.more for each in every)
        both = (bits_apart(marks.hashes["mirrored_perceptual"], hashed) <= 6) & (
            bits_apart(marks.hashes["mirrored_difference"], marks.hashes["difference"]) <= 6
        )
        assert turned == {(i, j) for i, j in np.argwhere(both | both.T).tolist() if i < j}
        assert not any(each.more_mirrored for each in every)
        assert sorted(every_turned) == sorted(turned)
        # A picture that is its own mirror image has no other.
        marks.hashes["mirrored_perceptual"], marks.hashes["mirrored_difference"] = hashed, marks.hashes["difference"]
        with Alike(marks, row, 6) as alike:
            assert not any(len(each.mirrored) or each.more_mirrored for each in alike.of(row))
            assert not any(len(alike.every_mirrored(place)) for place in range(300))
    assert len(expected) >= 50
    assert turned


def bits_apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.array([[(int(a) ^ int(b)).bit_count() for b in other] for a in one])


def test_very_many_copies_take_no_more_time_than_few(tmp_path: Path) -> None:
    """20,000 pictures: five thousand copies of one, twenty each of five hundred, and five thousand that are alone."""
    random = np.random.default_rng(0)
    originals = [0] * 5000 + [1 + n // 20 for n in range(10_000)] + [501 + n for n in range(5000)]
    of = random.permutation(np.array(originals))
    kinds = ("perceptual", "difference", "mirrored_perceptual", "mirrored_difference")
    hashed = {kind: random.integers(0, 2**63, 5501, dtype=np.uint64)[of] for kind in kinds}
    for kind in kinds[:2]:
        for _ in range(3):  # so that two copies differ in six bits at most
            hashed[kind] ^= np.uint64(1) << random.integers(0, 64, len(of), dtype=np.uint64)
    vectors = random.normal(size=(5501, 32))[of] + random.normal(size=(len(of), 32)) * 0.05
    rows = [
        {kind: f"{hashed[kind][n]:016x}" for kind in kinds}
        | {"content": f"{n << 192:064x}", "width": 9, "height": 9, "size": 9, "mtime_ns": n, "model": "x y"}
        for n in range(len(of))
    ]
    path = str(tmp_path / "many.vec")
    with vecstore.open(path, dim=32) as c:
        c.add([f"{n}.png" for n in range(len(of))], vectors, rows)
    found = embed.dedupe(path, radius=0.05)
    assert [len(group.copies) for group in found.groups] == [4999] + [19] * 500
    for group in found.groups[:50]:
        assert len({of[int(copy.id.removesuffix(".png"))] for copy in (group.kept, *group.copies)}) == 1
    assert found.seconds < 60


def crowd(tmp_path: Path, mirrored: int, others: int) -> tuple[str, str]:
    """A picture, so many mirror images of it, and so many others that have the hashes of its mirror images."""
    picture = tmp_path / "one.png"
    drawn(1, 200, 160).save(picture)
    path = str(tmp_path / "crowd.vec")
    embed.index_folder(tmp_path, path)
    random = np.random.default_rng(0)
    with vecstore.open(path) as c:
        row = c[str(picture)].metadata
        turned = embed.load("classic").images([np.asarray(drawn(1, 200, 160))[:, ::-1]])[0]
        rows = [
            row
            | {name: f"{int(row[f'mirrored_{name}'], 16) ^ 1 << n % 3:016x}" for name in ("perceptual", "difference")}
            | {f"mirrored_{name}": row[name] for name in ("perceptual", "difference")}
            | {"content": f"{n << 192:064x}", "width": 9}
            for n in range(mirrored + others)
        ]
        vectors = random.normal(size=(len(rows), c.dim))
        # The others, which are larger, come first where candidates are looked at.
        for n in range(others, len(rows)):
            vectors[n], rows[n]["width"] = turned + random.normal(size=c.dim) * 1e-3, 8
        c.add([f"{tmp_path}/{n}.png" for n in range(len(rows))], vectors, rows)
    return path, str(picture)


def test_a_crowd_of_mirror_images_is_one_group(tmp_path: Path) -> None:
    path, picture = crowd(tmp_path, 3000, 0)
    [group] = embed.dedupe(path, radius=0.1).groups
    assert group.kept.id == picture
    assert [copy.kind for copy in group.copies] == ["mirrored"] * 3000
    distances = [copy.distance for copy in group.copies]
    assert distances == sorted(distances)


def test_where_hardly_one_of_a_crowd_is_a_copy_the_first_are_compared(tmp_path: Path) -> None:
    """The bound that the documentation names: thousands that share a hash and are no copies are not compared each with each."""
    path, _ = crowd(tmp_path, 30, 2000)
    found = embed.dedupe(path, radius=0.1)
    [group] = found.groups
    assert {copy.kind for copy in group.copies} == {"near"}  # the thirty are copies of each other, and no others are
    assert len(group.copies) == 29
    assert found.seconds < 30


# -- what becomes of them


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
def test_the_script_removes_the_copies_and_nothing_else(folder: Path, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    script = folder.parent / "remove.sh"
    before = {path for path in folder.rglob("*") if path.is_file()}
    assert cli.main(["dedupe", file, "--script", str(script), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {path for path in folder.rglob("*") if path.is_file()} == before
    (folder / "copies" / "plain.png").write_bytes(b"something else by now")
    (folder / "05.png").unlink()
    done = subprocess.run(["sh", str(script)], cwd=folder.parent, capture_output=True, text=True)
    assert "left alone" in done.stderr
    left = {path for path in folder.rglob("*") if path.is_file()}
    spare = {Path(copy["path"]) for group in found["groups"] for copy in group if copy["kind"] != "kept"}
    of_the_last = {folder / "mirror-5.jpg", *(folder / "copies" / f"{NAMES[5]}.{suffix}" for suffix in ("png", "jpg"))}
    assert left == before - spare - {folder / "05.png"} | {folder / "copies" / "plain.png"} | (of_the_last & before)
    assert not (folder.parent / "hacked").exists()
    # Another run may write over a script of ours, and over nothing else.
    assert cli.main(["dedupe", file, "--script", str(script)]) == 0
    assert cli.main(["dedupe", file, "--script", str(folder / "07.png")]) == 1
    assert "no script of" in capsys.readouterr().err
    assert embed.hashes(folder / "07.png")


def test_moving_is_asked_for_and_overwrites_nothing(folder: Path, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    target = folder.parent / "out"
    target.mkdir()
    (target / "plain.png").write_text("mine")
    os.utime(folder / "mirror-1.jpg", ns=(5, 5))
    (folder / "02.png").unlink()
    assert cli.main(["dedupe", file, "--move-to", str(target), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["moved"]) == 14
    assert {item["reason"] for item in found["left"]} == {
        "it changed since it was indexed", "the picture that is kept is gone",
    }  # fmt: skip
    assert (target / "plain.png").read_text() == "mine"
    assert (target / "plain-2.png").exists()
    assert (folder / "mirror-1.jpg").exists()
    assert all(Path(item["to"]).exists() and not Path(item["from"]).exists() for item in found["moved"])
    assert embed.index_folder(folder, file, prune=True).pruned == 15


def test_the_page_and_the_paths(folder: Path, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder.parent / "copies.html"
    assert cli.main(["dedupe", file, "--html", str(out), "--limit", "5"]) == 0
    told = capsys.readouterr().out
    assert "18 copies in 6 groups" in told
    assert "two\\nlines" in told
    text = out.read_text()
    assert text.count('<section class="set"') == 5
    assert text.count('class="card') == 20
    assert "<script>alert" not in text
    assert cli.main(["dedupe", file, "--paths", "-0"]) == 0
    assert len(capsys.readouterr().out.split("\0")) == 19
    assert cli.main(["dedupe", file, "--paths", "--json"]) == 2
    assert cli.main(["dedupe", file, "--radius", "-1"]) == 1
    assert "radius must be a number from 0 on, not -1" in capsys.readouterr().err


def test_where_there_are_no_copies_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    drawn(1).save(tmp_path / "in" / "1.png")
    embed.index_folder(tmp_path / "in", tmp_path / "p.vec")
    assert cli.main(["dedupe", str(tmp_path / "p.vec"), "--script", str(tmp_path / "r.sh")]) == 0
    told = capsys.readouterr().out
    assert "no copies among 1 picture" in told
    assert "r.sh removes nothing" in told


def test_what_holds_no_pictures_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "v.vec")
    with vecstore.open(path, dim=2) as c:
        assert embed.dedupe(c).groups == ()
        c.add(["a", 7], [[1, 0], [0, 1]])
    assert cli.main(["dedupe", path]) == 1
    assert "holds no pictures" in capsys.readouterr().err
    assert cli.main(["dedupe", str(tmp_path / "none.vec")]) == 1


def test_a_copy_in_low_quality_is_found_by_either_hash() -> None:
    picture = drawn(3)
    written = io.BytesIO()
    picture.save(written, "JPEG", quality=15)
    one, other = embed.hashes(picture), embed.hashes(written.getvalue())
    assert min(embed.differing_bits(one.perceptual, other.perceptual), embed.differing_bits(one.difference, other.difference)) <= 10
