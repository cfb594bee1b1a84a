"""Answers as one page that needs nothing else: pictures, style and script are in it, and it asks for nothing.

Whatever comes from a file or its name is escaped; the page's own policy forbids everything that is not in it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from .page_parts import SCRIPT, STYLE

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


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
    # What stands below the name.
    more: str = ""


@dataclass(frozen=True)
class Section:
    """Cards that belong together, under a heading where there are several such.

    With ``beside_first`` the others are looked at beside the first of them, and else beside what was asked for.
    """

    cards: Sequence[Card]
    heading: str = ""
    beside_first: bool = False


def page(title: str, sections: Iterable[Section], *, asked: Sequence[Card] = (), note: str = "") -> str:
    """The whole page as HTML text.

    >>> text = page("Like <this>", [Section([Card("a.jpg", distance=0.25)])])
    >>> "Like &lt;this&gt;" in text, "://" in text
    (True, False)
    """
    parts = list(sections)
    count = sum(len(section.cards) for section in parts)
    body = "".join(_section(section) for section in parts)
    head = f'<div class="asked">{"".join(map(_asked, asked))}</div>\n' if asked else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
{head}<div class="about">
<h1>{escape(title)}</h1>
<p class="note">{escape(note)}</p>
</div>
</header>
<div class="tools">
<input id="filter" type="search" placeholder="Filter by name or fact" aria-label="Filter by name or fact" autocomplete="off">
<span id="shown" role="status">{count} of {count}</span>
<p class="keys"><kbd>←</kbd><kbd>→</kbd><kbd>↑</kbd><kbd>↓</kbd> move <kbd>Enter</kbd> look closer <kbd>O</kbd> open the file
<kbd>/</kbd> filter <kbd>Esc</kbd> clear</p>
</div>
<main>
{body}<p id="none" hidden>Nothing matches the filter.</p>
</main>
<dialog id="viewer" aria-label="A closer look" tabindex="-1">
<div class="pair"></div>
<div class="told"><h2></h2><dl></dl><p class="links"><a>Open the file</a><span></span></p></div>
<button type="button" aria-label="Close">×</button>
</dialog>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _asked(card: Card) -> str:
    caption = f"{card.label} {card.name}".strip()
    return f"<figure>{_picture(card)}<figcaption>{escape(caption)}</figcaption></figure>"


def _section(section: Section) -> str:
    heading = f"<h2>{escape(section.heading)}</h2>\n" if section.heading else ""
    # Copies are all near: how near they are to each other's distances says nothing.
    farthest = (
        0.0 if section.beside_first else max((card.distance or 0.0 for card in section.cards), default=0.0)
    )
    cards = "".join(_card(card, farthest) for card in section.cards)
    kind = f' class="set" style="--cards:{len(section.cards)}"' if section.beside_first else ""
    return f'<section{kind}>\n{heading}<ul class="grid">\n{cards}</ul>\n</section>\n'


def _card(card: Card, farthest: float) -> str:
    facts = (f"{name} {value}" for name, value in card.facts)
    words = " ".join(filter(None, (card.name, card.more, card.label, *facts)))
    label = f'<span class="label">{escape(card.label)}</span>' if card.label else ""
    distance = "" if card.distance is None else f'<span class="distance">{card.distance:.3f}</span>'
    more = f'<p class="more">{escape(card.more)}</p>' if card.more else ""
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in card.facts)
    return (
        f'<li class="card" tabindex="0" data-words="{escape(words.lower())}">'
        f'<div class="frame">{_picture(card)}{label}</div>{_nearness(card, farthest)}'
        f'<div class="line"><span class="name" title="{escape(card.name)}">{escape(card.name)}</span>{distance}</div>'
        f"{more}<dl hidden>{rows}</dl></li>\n"
    )


def _nearness(card: Card, farthest: float) -> str:
    """A bar below the picture: full for distance 0, a tenth for the farthest on the page."""
    if card.distance is None or farthest <= 0:
        return ""
    share = 1 - 0.9 * card.distance / farthest
    return f'<div class="near" style="--near:{max(0.0, min(1.0, share)):.1%}"></div>'


def _picture(card: Card) -> str:
    if card.picture is None:
        shown = f'<span class="gone" role="img" aria-label="{escape(card.name)}">no picture</span>'
    else:
        data = base64.b64encode(card.picture).decode("ascii")
        shown = f'<img src="data:image/jpeg;base64,{data}" alt="{escape(card.name)}">'
    if card.link is None:
        return shown
    return f'<a href="{escape(card.link)}" tabindex="-1" rel="noreferrer">{shown}</a>'
