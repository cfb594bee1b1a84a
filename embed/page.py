"""Answers as one page that needs nothing else: pictures, style and script are in it, and it asks for nothing.

Whatever comes from a file or its name is escaped; the page's own policy forbids everything that is not in it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Card:
    """One picture on a page. ``picture`` is a JPEG; ``facts`` are pairs of a name and a value."""

    name: str
    link: str | None = None
    distance: float | None = None
    picture: bytes | None = None
    facts: tuple[tuple[str, str], ...] = ()
    # What stands in a corner of the picture, such as "keep".
    label: str = ""


@dataclass(frozen=True)
class Section:
    """Cards that belong together, under a heading where there are several such."""

    cards: Sequence[Card]
    heading: str = ""


def page(title: str, sections: Iterable[Section], *, asked: Sequence[Card] = (), note: str = "") -> str:
    """The whole page as HTML text.

    >>> text = page("Like <this>", [Section([Card("a.jpg", distance=0.25)])])
    >>> "Like &lt;this&gt;" in text, "://" in text
    (True, False)
    """
    parts = list(sections)
    count = sum(len(section.cards) for section in parts)
    body = "".join(_section(section) for section in parts)
    head = "".join(map(_asked, asked))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
{head}<div class="about">
<h1>{escape(title)}</h1>
<p class="note">{escape(note)}</p>
<div class="tools">
<input id="filter" type="search" placeholder="Filter by name or fact" aria-label="Filter by name or fact" autocomplete="off">
<span id="shown" role="status">{count} of {count}</span>
</div>
<p class="keys"><kbd>←</kbd><kbd>→</kbd><kbd>↑</kbd><kbd>↓</kbd> move · <kbd>Enter</kbd> open · <kbd>i</kbd> facts ·
<kbd>/</kbd> filter · <kbd>Esc</kbd> clear</p>
</div>
</header>
<main>
{body}<p id="none" hidden>Nothing matches the filter.</p>
</main>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _asked(card: Card) -> str:
    return f'<figure class="asked">{_image(card)}<figcaption>{escape(card.name)}</figcaption></figure>\n'


def _section(section: Section) -> str:
    heading = f"<h2>{escape(section.heading)}</h2>\n" if section.heading else ""
    cards = "".join(_card(card) for card in section.cards)
    return f'<section>\n{heading}<ul class="grid">\n{cards}</ul>\n</section>\n'


def _card(card: Card) -> str:
    words = " ".join([card.name, card.label, *(f"{name} {value}" for name, value in card.facts)])
    image = _image(card)
    if card.link is not None:
        image = f'<a href="{escape(card.link)}" tabindex="-1">{image}</a>'
    label = f'<span class="label">{escape(card.label)}</span>' if card.label else ""
    distance = "" if card.distance is None else f'<span class="distance">{card.distance:.4f}</span>'
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in card.facts)
    details = f"<details><summary>Facts</summary><dl>{facts}</dl></details>" if facts else ""
    return (
        f'<li class="card" tabindex="0" data-words="{escape(words.lower())}">{image}{label}'
        f'<div class="line"><span class="name" title="{escape(card.name)}">{escape(card.name)}</span>{distance}</div>'
        f"{details}</li>\n"
    )


def _image(card: Card) -> str:
    if card.picture is None:
        return f'<div class="gone" role="img" aria-label="{escape(card.name)}">no picture</div>'
    data = base64.b64encode(card.picture).decode("ascii")
    return f'<img src="data:image/jpeg;base64,{data}" alt="{escape(card.name)}" loading="lazy">'


_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

_STYLE = """
:root {
  --ground: #f6f6f4; --card: #ffffff; --ink: #1c1d1f; --soft: #5d6167; --line: #dcdcd8; --mark: #0b62d6;
}
@media (prefers-color-scheme: dark) {
  :root { --ground: #131416; --card: #1e2023; --ink: #eceded; --soft: #a3a8ae; --line: #34373b; --mark: #78b0ff; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
header {
  display: flex; gap: 20px; align-items: flex-start; padding: 20px clamp(12px, 3vw, 40px);
  border-bottom: 1px solid var(--line); background: var(--card);
}
h1 { margin: 0 0 4px; font-size: clamp(19px, 2.4vw, 26px); line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 26px 0 10px; font-size: 16px; overflow-wrap: anywhere; }
.about { flex: 1; min-width: 0; }
.note { margin: 0 0 12px; color: var(--soft); overflow-wrap: anywhere; }
.asked { margin: 0; width: min(200px, 34vw); flex: none; }
.asked img, .asked .gone { width: 100%; max-height: 200px; object-fit: contain; border-radius: 8px; }
figcaption { margin-top: 4px; color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }
.tools { display: flex; gap: 12px; align-items: center; flex-wrap: wrap; }
#filter {
  flex: 1 1 180px; max-width: 420px; min-width: 0; padding: 8px 12px; font: inherit; color: inherit;
  background: var(--ground); border: 1px solid var(--line); border-radius: 8px;
}
#shown { color: var(--soft); font-variant-numeric: tabular-nums; }
.keys { margin: 12px 0 0; color: var(--soft); font-size: 13px; }
kbd { font: inherit; padding: 0 5px; margin-right: 2px; border: 1px solid var(--line); border-radius: 4px; }
main { padding: 16px clamp(12px, 3vw, 40px) 60px; }
.grid {
  list-style: none; margin: 0; padding: 0; display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fill, minmax(min(200px, 44vw), 1fr)); align-items: start;
}
.card { position: relative; background: var(--card); border: 1px solid var(--line); border-radius: 10px; overflow: hidden; }
.card[hidden] { display: none; }
.card:focus, #filter:focus { outline: 3px solid var(--mark); outline-offset: 1px; }
.card a { display: block; }
.card img, .card .gone { display: block; width: 100%; aspect-ratio: 4 / 3; object-fit: cover; background: var(--line); }
.gone { display: grid; place-items: center; color: var(--soft); aspect-ratio: 4 / 3; background: var(--line); }
.label {
  position: absolute; top: 8px; left: 8px; padding: 1px 8px; border-radius: 99px; background: var(--mark); color: var(--card);
  font-size: 12px; font-weight: 600;
}
.line { display: flex; gap: 8px; justify-content: space-between; padding: 8px 10px 6px; font-size: 13px; }
.name { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; direction: rtl; text-align: left; unicode-bidi: plaintext; }
.distance { color: var(--soft); font-variant-numeric: tabular-nums; }
details { padding: 0 10px 8px; font-size: 13px; }
summary { color: var(--mark); cursor: pointer; }
dl { display: grid; grid-template-columns: auto minmax(0, 1fr); gap: 2px 10px; margin: 6px 0 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
#none { color: var(--soft); }
@media (max-width: 560px) {
  header { flex-direction: column; gap: 12px; }
  .asked { width: 100%; display: flex; gap: 12px; align-items: center; }
  .asked img, .asked .gone { width: 40%; }
  .keys { display: none; }
}
@media print { .tools, .keys { display: none; } }
"""

_SCRIPT = """
"use strict";
const field = document.getElementById("filter"), shown = document.getElementById("shown");
const none = document.getElementById("none"), cards = [...document.querySelectorAll(".card")];
const visible = () => cards.filter((card) => !card.hidden);
function sift() {
  const words = field.value.toLowerCase().split(/\\s+/).filter(Boolean);
  for (const card of cards) card.hidden = !words.every((word) => card.dataset.words.includes(word));
  for (const section of document.querySelectorAll("section"))
    section.hidden = !section.querySelector(".card:not([hidden])");
  const count = visible().length;
  shown.textContent = `${count} of ${cards.length}`;
  none.hidden = count > 0 || cards.length === 0;
}
function below(card, step) {
  const here = card.getBoundingClientRect(), middle = here.left + here.width / 2;
  let best = null, least = Infinity;
  for (const other of visible()) {
    const there = other.getBoundingClientRect(), down = (there.top - here.top) * step;
    const apart = down * 4 + Math.abs(there.left + there.width / 2 - middle);
    if (down > 4 && apart < least) { best = other; least = apart; }
  }
  return best;
}
function move(key) {
  const list = visible(), at = list.indexOf(document.activeElement);
  if (!list.length) return;
  let next = null;
  if (at < 0) next = list[0];
  else if (key === "ArrowRight") next = list[at + 1];
  else if (key === "ArrowLeft") next = list[at - 1];
  else if (key === "Home") next = list[0];
  else if (key === "End") next = list[list.length - 1];
  else next = below(list[at], key === "ArrowDown" ? 1 : -1);
  if (next) { next.focus(); next.scrollIntoView({ block: "nearest" }); }
}
field.addEventListener("input", sift);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = document.activeElement === field;
  if (event.key === "Escape") { field.value = ""; sift(); field.blur(); return; }
  if (typing) {
    if (event.key === "ArrowDown" || event.key === "Enter") { event.preventDefault(); field.blur(); move("Home"); }
    return;
  }
  if (event.key === "/") { event.preventDefault(); field.focus(); return; }
  if (["ArrowRight", "ArrowLeft", "ArrowDown", "ArrowUp", "Home", "End"].includes(event.key)) {
    event.preventDefault(); move(event.key); return;
  }
  const card = document.activeElement.closest ? document.activeElement.closest(".card") : null;
  if (!card) return;
  if (event.key === "Enter" && document.activeElement === card) {
    const link = card.querySelector("a"); if (link) link.click();
  }
  if (event.key === "i") { const facts = card.querySelector("details"); if (facts) facts.open = !facts.open; }
});
"""
