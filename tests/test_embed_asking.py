"""Asking: by several things at once, by web address and by record; answers as paths and in the terminal."""

from __future__ import annotations

import contextlib
import http.server
import ipaddress
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("PIL", reason="pictures need Pillow")

from PIL import Image

import vecstore
from vecstore import cli, embed
from vecstore.cli import terminal
from vecstore.embed import fetch as fetching
from vecstore.embed.thumbnails import thumbnail

COLOURS = ("red", "green", "blue", "orange", "purple")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("asking") / "pictures"
    place.mkdir()
    for colour in COLOURS:
        Image.new("RGB", (60, 40), colour).save(place / f"{colour}.png")
    ramp = np.repeat(np.linspace(0, 255, 64, dtype=np.uint8)[None], 48, axis=0)
    Image.fromarray(ramp).save(place / "ramp.png")
    return place


@pytest.fixture(scope="module")
def file(folder: Path) -> str:
    path = str(folder.parent / "p.vec")
    assert embed.index_folder(folder, path).added == 6
    return path


def names(hits: vecstore.Hits) -> list[str]:
    return [Path(str(id_)).stem for id_ in hits.ids]


# -- several things at once


def test_one_thing_or_many_with_weights(folder: Path, file: str) -> None:
    red, blue = folder / "red.png", folder / "blue.png"
    assert names(embed.search(file, image=red, k=2))[0] == "red"
    assert set(names(embed.search(file, image=[red, blue], k=2))) == {"red", "blue"}
    assert names(embed.search(file, image=[(red, 1), (blue, 0.01)], k=1)) == ["red"]
    assert names(embed.search(file, image=[(red, -1), (blue, 0.01)], k=6))[-1] == "red"
    assert names(embed.search(file, image=[(red, -1)], k=6))[-1] == "red"
    # A vector by hand: what is asked for is the weighted sum.
    model = embed.load("classic")
    both = np.array([1, -0.25]) @ model.images([red, blue])
    expected = vecstore.open(file, mode="r").search(both / np.linalg.norm(both), 6)
    found = embed.search(file, image=[red, (blue, -0.25)], k=6, mirror=False)
    assert found.ids == expected.ids
    np.testing.assert_allclose(found.distances, expected.distances, atol=1e-5)


def test_records_that_are_asked_for_are_no_answers(folder: Path, file: str) -> None:
    red = str(folder / "red.png")
    assert "red" not in names(embed.search(file, id=red))
    assert len(embed.search(file, id=red)) == 5
    assert len(embed.search(file, id=red, k=3)) == 3
    assert names(embed.search(file, id=red, image=folder / "red.png", k=1)) != ["red"]
    with vecstore.open(file, mode="r") as pictures:
        assert embed.search(pictures, id=red).ids == embed.search(file, id=red).ids
        assert len(pictures) == 6


def test_a_radius_takes_all_within_and_mirrors_are_asked_for(folder: Path, file: str) -> None:
    mirrored = np.asarray(Image.open(folder / "ramp.png"))[:, ::-1]
    near = embed.search(file, image=mirrored, radius=0.01)
    assert names(near) == ["ramp"]
    assert len(embed.search(file, image=mirrored, radius=0.01, mirror=False)) == 0
    assert len(embed.search(file, image=mirrored, radius=2.1)) == 6
    assert names(embed.search(file, image=mirrored, where={"path": {"$in": ["red.png"]}})) == ["red"]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({}, "needs image="),
        ({"id": "nowhere.png"}, "no record 'nowhere.png'"),
        ({"text": "a red thing"}, "no texts"),
        ({"image": [("a.png", 0)]}, "other than 0"),
        ({"image": [("a.png", float("nan"))]}, "other than 0"),
    ],
)
def test_questions_that_make_no_sense(file: str, asked: dict[str, Any], told: str) -> None:
    with pytest.raises(embed.ModelError, match=told):
        embed.search(file, **asked)


def test_what_cancels_out_is_said(folder: Path, file: str) -> None:
    red = folder / "red.png"
    with pytest.raises(embed.ModelError, match="cancels"):
        embed.search(file, image=[red, (red, -1)])


# -- web addresses


class Answers(http.server.BaseHTTPRequestHandler):
    """A picture, and ways to go wrong."""

    picture = b""
    asked: list[str]

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.headers['Host']}{self.path}")  # type: ignore[attr-defined]
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path[4:])
            self.end_headers()
            return
        if self.path == "/missing.png":
            self.send_error(404)
            return
        self.send_response(200)
        if self.path == "/a.png":
            self.send_header("Content-Length", str(len(self.picture)))
            self.end_headers()
            self.wfile.write(self.picture)
        elif self.path == "/claims.png":
            self.send_header("Content-Length", str(1 << 40))
            self.end_headers()
        elif self.path == "/cut.png":
            self.send_header("Content-Length", str(len(self.picture)))
            self.end_headers()
            self.wfile.write(self.picture[:20])
        elif self.path == "/endless.png":
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(10_000):
                    self.wfile.write(b"x" * 100_000)
        else:
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(40):
                    self.wfile.write(b"x")
                    time.sleep(0.05)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[http.server.ThreadingHTTPServer]:
    Answers.picture = (folder / "blue.png").read_bytes()
    made = http.server.ThreadingHTTPServer(("0.0.0.0", 0), Answers)
    made.daemon_threads = True
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def web(server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Names of our own, and one loopback address that is held for public; the resolver's calls are counted."""
    server.asked = []
    server.resolved = []
    known = {"public.test": "127.0.0.1", "private.test": "127.0.0.2", "metadata.test": "169.254.169.254"}
    plain, checked = socket.getaddrinfo, fetching._is_public

    def resolver(host: str, port: int, *rest: Any, **more: Any) -> Any:
        server.resolved.append(host)
        return plain(known.get(host, host), port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    monkeypatch.setattr(fetching, "_is_public", lambda text: text == "127.0.0.1" or checked(text))
    server.at = f"http://public.test:{server.server_port}"
    return server


def test_a_picture_is_asked_for_by_its_address(web: Any, file: str) -> None:
    assert names(embed.search(file, image=f"{web.at}/a.png", k=1)) == ["blue"]
    assert web.asked == [f"public.test:{web.server_port}/a.png"]
    # Resolved once, and connected to what was checked: the second is the connection to the number itself.
    assert web.resolved == ["public.test", "127.0.0.1"]


def test_the_page_shows_what_was_fetched_and_fetches_once(
    web: Any, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.html"
    run(capsys, file, f"{web.at}/a.png", "--html", str(out))
    assert len(web.asked) == 1
    assert f'<a href="{web.at}/a.png"' in out.read_text(encoding="utf-8")
    assert "public.test" in run(capsys, file, f"{web.at}/drips.png", status=1)


def test_certificates_are_checked(web: Any, tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("making a certificate needs openssl")
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    made = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate]
    subprocess.run([*made, "-subj", "/CN=public.test", "-days", "2"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    secure = http.server.HTTPServer(("127.0.0.1", 0), Answers)
    secure.asked = []  # type: ignore[attr-defined]
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    secure.handle_error = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=secure.serve_forever, daemon=True).start()
    try:
        with pytest.raises(embed.ImageError, match=r"(?i)certificate"):
            fetching.fetch(f"https://public.test:{secure.server_port}/a.png")
        assert secure.asked == []  # type: ignore[attr-defined]
    finally:
        secure.shutdown()
        secure.server_close()


def test_redirects_are_followed_and_checked(web: Any) -> None:
    assert fetching.fetch(f"{web.at}/to//a.png") == Answers.picture
    for place in (f"http://private.test:{web.server_port}/a.png", "http://metadata.test/", f"http://[::1]:{web.server_port}/"):
        web.asked.clear()
        with pytest.raises(embed.ImageError, match="no public address"):
            fetching.fetch(f"{web.at}/to/{place}")
        assert len(web.asked) == 1
    with pytest.raises(embed.ImageError, match="must begin with http"):
        fetching.fetch(f"{web.at}/to/file:///etc/passwd")
    with pytest.raises(embed.ImageError, match="leads on more than"):
        fetching.fetch(f"{web.at}/to//to//to//to//to//to//to//a.png")


def test_one_private_address_among_several_is_enough(web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("127.0.0.1", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    with pytest.raises(embed.ImageError, match=r"public.test is 10.0.0.1, which is no public address"):
        fetching.fetch(f"{web.at}/a.png")
    assert web.asked == []


def test_sizes_and_times_are_limited(web: Any) -> None:
    for path in ("claims.png", "endless.png"):
        with pytest.raises(embed.ImageError, match="more than 1000000 bytes"):
            fetching.fetch(f"{web.at}/{path}", max_bytes=1_000_000)
    start = time.monotonic()
    with pytest.raises(embed.ImageError, match=r"took longer than 0\.3 seconds"):
        fetching.fetch(f"{web.at}/drips.png", seconds=0.3)
    assert time.monotonic() - start < 1.5


def test_what_is_not_there_is_said_in_one_line(web: Any) -> None:
    with pytest.raises(embed.ImageError, match="answered 404"):
        fetching.fetch(f"{web.at}/missing.png")
    with pytest.raises(embed.ImageError, match="bytes are missing"):
        fetching.fetch(f"{web.at}/cut.png")
    with pytest.raises(embed.ImageError, match="passwords"):
        fetching.fetch("http://me:secret@public.test/")
    with pytest.raises(embed.ImageError, match="cannot be fetched"):
        fetching.fetch("http://public.test:1/a.png")
    with pytest.raises(embed.ImageError, match="cannot be fetched"):
        fetching.fetch("http://public.test:99999/a.png")


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:10.0.0.1",
        "64:ff9b::10.0.0.1", "2002:0a00:0001::", "no address",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(text: str) -> None:
    assert not fetching._is_public(text)


def test_public_addresses() -> None:
    for text in ("93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::5db8:d70e"):
        assert ipaddress.ip_address(text)
        assert fetching._is_public(text)


# -- the command


def run(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert cli.main(["search", *arguments]) == status
    out, err = capsys.readouterr()
    if status == 1:
        assert err.count("\n") == 1
    return out if status == 0 else err


def test_the_command_mixes_and_weighs(folder: Path, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    red, blue = str(folder / "red.png"), str(folder / "blue.png")
    found = json.loads(run(capsys, file, red, blue, "--weights", "-1,0.5", "-k", "6", "--json"))
    assert Path(found["results"][0][-1]["id"]).stem == "red"
    assert red not in run(capsys, file, "--id", red, "--id", blue, "--paths")
    assert Path(run(capsys, file, red, "--radius", "0.001", "--paths").strip()).name == "red.png"
    assert "cancels" in run(capsys, file, red, red, "--weights", "1,-1", status=1)
    assert "127.0.0.1 is no public address" in run(capsys, file, "http://127.0.0.1/a.png", status=1)
    assert "cannot be read" in run(capsys, file, "nowhere.png", status=1)


def test_the_page_shows_what_was_asked_for(
    folder: Path, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    red, blue = str(folder / "red.png"), str(folder / "blue.png")
    out = tmp_path / "out.html"
    run(capsys, file, red, "--id", blue, "--weights", "1,-0.5", "-k", "3", "--html", str(out))
    text = out.read_text(encoding="utf-8")
    assert "<h1>Like red.png − 0.5 × blue.png</h1>" in text
    assert re.findall("<figcaption>(.*?)</figcaption>", text) == ["red.png", "blue.png"]
    assert text.count('class="card"') == 3


@pytest.mark.parametrize(
    "more",
    [
        ["1,2", "a.png"], ["1,2", "--text", "a"], ["a.png", "--weights", "1,2"], ["a.png", "--weights", "0"],
        ["a.png", "--weights", "x"], ["a.png", "--json", "--paths"], ["a.png", "-0"], ["a.png", "--paths", "--show"],
        ["a.png", "--show", "holograms"], ["1,2", "--weights", "2"],
    ],
)  # fmt: skip
def test_wrong_usage(file: str, more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "usage:" in run(capsys, file, *more, status=2)


@pytest.mark.skipif(sys.platform == "win32", reason="such names cannot be")
def test_paths_are_those_of_the_files_whatever_they_are_called(tmp_path: Path) -> None:
    names = [os.fsencode(tmp_path) + b"/in/" + name for name in (b"a\nb.png", b"c\xe9 d.png", b"'e\".png")]
    (tmp_path / "in").mkdir()
    for name in names:
        Image.new("RGB", (9, 9), "red").save(tmp_path / "x.png")
        os.rename(tmp_path / "x.png", name)
    file = str(tmp_path / "p.vec")
    embed.index_folder(tmp_path / "in", file)
    Image.new("RGB", (9, 9), "red").save(tmp_path / "red.png")
    command = [sys.executable, "-m", "vecstore", "search", file, str(tmp_path / "red.png"), "--paths", "-0"]
    found = subprocess.run(command, capture_output=True, check=True).stdout
    assert sorted(found.split(b"\0")[:-1]) == sorted(names)


# -- the terminal


def test_half_blocks_fit_the_width(folder: Path, file: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setenv("COLORTERM", "truecolor")
    out = run(capsys, file, str(folder / "red.png"), "-k", "2", "--show", "blocks")
    assert "\x1b[38;2;254;0;0m\x1b[48;2;254;0;0m▀" in out
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out)
    assert max(map(len, plain.splitlines())) <= 50
    assert "1 0.000 red.png" in plain
    monkeypatch.delenv("COLORTERM")
    assert "\x1b[38;5;196m" in run(capsys, file, str(folder / "red.png"), "-k", "2", "--show", "blocks")


def test_kitty_gets_a_png_in_parts() -> None:
    import base64
    import io

    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    _, drawn = terminal.pictures([(thumbnail(noise), "a\x1b]b")], "kitty")
    parts = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", drawn)
    assert parts[0][0].startswith("a=T,f=100")
    assert [head[-3:] for head, _ in parts] == ["m=1"] * (len(parts) - 1) + ["m=0"]
    assert max(len(data) for _, data in parts) <= 4096
    assert Image.open(io.BytesIO(base64.b64decode("".join(data for _, data in parts)))).size == (200, 200)


def test_sixels_draw_the_picture_again() -> None:
    picture = np.zeros((30, 40, 3), np.uint8)
    picture[:, 20:] = (255, 0, 0)
    picture[20:, :20] = (0, 0, 255)
    caption, drawn = terminal.pictures([(thumbnail(picture), "a\x1b]b")], "sixel")
    assert "\x1b" not in caption
    seen = read_sixels(drawn)
    assert seen.shape == picture.shape
    assert np.abs(seen.astype(int) - picture).mean() < 6


def read_sixels(text: str) -> np.ndarray:
    """A reader of its own, by the format's description."""
    head = re.fullmatch(r'\x1bPq"1;1;(\d+);(\d+)(.*)\x1b\\', text, flags=re.DOTALL)
    assert head is not None
    made = np.zeros((int(head[2]), int(head[1]), 3), np.uint8)
    colours: dict[int, list[float]] = {}
    x = y = 0
    colour = 0
    for token in re.finditer(r"#(\d+)(?:;2;(\d+);(\d+);(\d+))?|!(\d+)(.)|([$-])|(.)", head[3]):
        if token[1]:
            colour = int(token[1])
            if token[2]:
                colours[colour] = [int(token[place]) * 2.55 for place in (2, 3, 4)]
        elif token[7]:
            x, y = 0, y + 6 * (token[7] == "-")
        else:
            six = ord(token[6] or token[8]) - 63
            end = x + int(token[5] or 1)
            for bit in range(6):
                if six >> bit & 1:
                    made[y + bit, x:end] = colours[colour]
            x = end
    return made
