"""Pages of answers in a real browser: keyboard, filter, closer look, narrow and wide, light and dark, and nothing from outside."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("PIL", reason="pictures need Pillow")

from vecstore.cli import drawn, main
from vecstore.embed.page import Card, Section, page
from vecstore.embed.thumbnails import thumbnail

_SPEC = importlib.util.spec_from_file_location("vecstore_tests_chromium", Path(__file__).parent / "chromium.py")
assert _SPEC is not None
assert _SPEC.loader is not None
chromium = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = chromium
_SPEC.loader.exec_module(chromium)

PROGRAM = chromium.program()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed (Debian: apt-get install chromium)")

EVIL = "<script>document.title = 'hacked'</script><img src=http://evil.test/x onerror=\"document.title='hacked'\">.jpg"
KINDS = list(drawn.KINDS)
# Screenshots are kept where somebody wants to look at them.
SHOTS = os.environ.get("VECSTORE_SCREENSHOTS")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    made = chromium.Chromium(PROGRAM, tmp_path_factory.mktemp("home"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two of each kind, one without a picture, and one with the worst of names."""
    cards = [
        Card(f"{kind}-{number}.jpg", "file:///nowhere/a.jpg", 0.01 * place, thumbnail(np.asarray(drawn.picture(kind, number))),
             (("camera", f"{'Leica' if number else 'Canon'} {place}"), ("folder", kind)), more=f"{kind} · 320 × 240")
        for place, (kind, number) in enumerate((kind, number) for kind in KINDS for number in range(2))
    ]  # fmt: skip
    tall = thumbnail(np.asarray(drawn.picture("forest", 9))[:, 100:180])
    cards += [Card("gone.jpg", distance=0.3), Card(EVIL, EVIL, 0.35, tall, ((EVIL, EVIL),), EVIL, EVIL)]
    asked = Card("sunset.jpg", picture=thumbnail(np.asarray(drawn.picture("sunset", 1000))))
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(page(f"Like {EVIL}", [Section(cards)], asked=[asked], note=EVIL), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(autouse=True)
def quiet(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test does: no complaint in the console, nothing asked for but the page itself and what is in it."""
    made = request.getfixturevalue("browser")
    yield
    assert made.run("document.title").startswith(("Like ", "Copies "))
    assert made.complaints == []
    assert {request.split(":")[0] for request in made.requests} <= {"file", "data"}
    assert sum(request.startswith("file:") for request in made.requests) == 1


def focused(browser: Any) -> str:
    card = "document.activeElement.matches('.card') && document.activeElement.querySelector('.name').textContent"
    return str(browser.run(f"{card} || document.activeElement.id"))


def count(browser: Any) -> int:
    return int(browser.run("document.querySelectorAll('.card:not([hidden])').length"))


def shot(browser: Any, name: str) -> None:
    if SHOTS:
        browser.screenshot(Path(SHOTS) / f"{name}.png")


def test_the_filter_leaves_what_has_all_words(browser: Any, address: str) -> None:
    browser.open(address)
    assert count(browser) == 26
    browser.press("/")
    assert focused(browser) == "filter"
    browser.press(*"leica fi")
    assert count(browser) == 1
    assert browser.run("document.getElementById('shown').textContent") == "1 of 26"
    shot(browser, "filtered")
    browser.press(*"xyz")
    assert count(browser) == 0
    assert browser.run("getComputedStyle(document.getElementById('none')).display") != "none"
    browser.press("Escape")
    assert count(browser) == 26
    assert browser.run("document.getElementById('filter').value") == ""
    assert focused(browser) == ""


def test_arrows_move_through_the_grid(browser: Any, address: str) -> None:
    browser.open(address)
    across = browser.run("getComputedStyle(document.querySelector('.grid')).gridTemplateColumns.split(' ').length")
    assert across > 3
    names = browser.run("[...document.querySelectorAll('.name')].map((name) => name.textContent)")
    for keys, place in (
        (["ArrowRight"], 0), (["ArrowRight"], 1), (["ArrowDown"], 1 + across), (["ArrowLeft"], across), (["ArrowUp"], 0),
        (["ArrowLeft"], 0), (["End"], 25), (["ArrowRight"], 25), (["Home"], 0), (["ArrowDown"] * 2, 2 * across),
    ):  # fmt: skip
        browser.press(*keys)
        assert focused(browser) == names[place]
    browser.press("End")
    top, bottom = browser.run(
        "(({ top, bottom }) => [top, bottom])(document.activeElement.getBoundingClientRect())"
    )
    assert 0 <= top < bottom <= 900
    # From the filter into what it left.
    browser.press("/", *"leica", "ArrowDown", "ArrowRight")
    assert focused(browser) == f"{KINDS[1]}-1.jpg"


def test_a_closer_look_shows_both_and_the_facts(browser: Any, address: str) -> None:
    browser.open(address)
    browser.press("ArrowRight", "Enter")
    assert browser.run("document.getElementById('viewer').open")
    assert browser.run("document.querySelectorAll('#viewer figure img').length") == 2
    assert browser.run("document.querySelector('#viewer h2').textContent") == f"{KINDS[0]}-0.jpg"
    facts = browser.run("[...document.querySelectorAll('#viewer dl > *')].map((each) => each.textContent)")
    assert facts == ["distance", "0.000", "camera", "Canon 0", "folder", KINDS[0]]
    shot(browser, "closer")
    browser.press("ArrowRight", "ArrowRight", "ArrowLeft")
    assert browser.run("document.querySelector('#viewer h2').textContent") == f"{KINDS[0]}-1.jpg"
    assert browser.run("document.querySelector('#viewer .links span').textContent") == "2 of 26"
    browser.press("Escape")
    assert not browser.run("document.getElementById('viewer').open")
    assert focused(browser) == f"{KINDS[0]}-1.jpg"
    browser.click(".card:nth-child(3) img")
    assert browser.run("document.querySelector('#viewer h2').textContent") == f"{KINDS[1]}-0.jpg"
    browser.click("#viewer button")
    assert not browser.run("document.getElementById('viewer').open")
    # What comes from names and facts is text there too.
    browser.press("End", "Enter")
    assert browser.run("document.querySelector('#viewer h2').textContent") == EVIL
    assert browser.run("document.querySelectorAll('script').length") == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("wide", [320, 380, 768, 1440, 2560])
def test_it_is_readable_at_every_width(browser: Any, address: str, wide: int, scheme: str) -> None:
    browser.open(address, wide=wide, scheme=scheme)
    shot(browser, f"{scheme}-{wide}")
    assert browser.run("document.documentElement.scrollWidth") <= wide
    columns = browser.run("getComputedStyle(document.querySelector('.grid')).gridTemplateColumns.split(' ').length")
    assert (columns == 2) if wide < 400 else (columns >= wide // 320)
    smallest = browser.run("Math.min(...[...document.querySelectorAll('.name, .distance, .more, #shown')].map("
                           "(each) => parseFloat(getComputedStyle(each).fontSize)))")  # fmt: skip
    assert smallest >= 13
    assert browser.run("document.querySelector('.card').getBoundingClientRect().width") >= 130
    for selector in (".name", ".distance", ".more", ".note", "#shown", "h1"):
        assert contrast(browser, selector) >= 4.5, selector
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (luminance(ground) < 0.1) == (scheme == "dark")


def contrast(browser: Any, selector: str) -> float:
    """As WCAG has it: of a text with the first ground below it that is not clear."""
    ink, ground = browser.run(
        "((at) => { const ink = getComputedStyle(at).color;"
        " while (getComputedStyle(at).backgroundColor === 'rgba(0, 0, 0, 0)') at = at.parentElement;"
        f" return [ink, getComputedStyle(at).backgroundColor]; }})(document.querySelector({selector!r}))"
    )
    dark, light = sorted((luminance(ink), luminance(ground)))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in colour[4:-1].split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_pages_of_the_commands(browser: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As users get them: of a search, and of copies side by side with the one that is kept."""
    out = tmp_path / "out"
    assert main(["demo", "--out", str(out), "--count", "2"]) == 0
    browser.open((out / "demo.html").as_uri())
    assert count(browser) == 24
    assert browser.run("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    for kind in KINDS[:3]:
        drawn.picture(kind, 0).resize((200, 150)).save(out / "pictures" / f"copy-{kind}.png")
    file = str(out / "demo.vec")
    assert main(["index", str(out / "pictures"), file]) == 0
    assert main(["dedupe", file, "--html", str(out / "copies.html")]) == 0
    browser.open((out / "copies.html").as_uri())
    assert browser.run("document.querySelectorAll('section').length") == 3
    browser.press("ArrowRight", "ArrowRight", "Enter")
    shown = browser.run("[...document.querySelectorAll('#viewer figure img')].map((image) => image.alt)")
    assert len(shown) == 2
    assert shown[1].startswith("copy-")
    shot(browser, "copies-closer")
    browser.press("Escape", "/", *"forest")
    assert count(browser) == 0
    browser.press("Escape")
    shot(browser, "copies")
    capsys.readouterr()
