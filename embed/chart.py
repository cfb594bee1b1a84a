"""An evaluation as a picture: an SVG of our own, which needs nothing to be made and every browser shows."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from .evaluation import Evaluation, Measure

_WIDE, _LEFT, _RIGHT = 760, 150, 76
_ROW, _BAR = 27, 22
# As many labels as a reader compares; of more, the best and the worst.
_LABELS = 30
_TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def chart(found: Evaluation, title: str) -> str:
    """The measures as dots with their intervals, exact search and the graph beside each other, then mAP by label.

    >>> measure = Measure(0.5, 0.4, 0.6)
    >>> found = Evaluation(9, 9, 2, None, {"hit@1": measure}, None, None, {"a": (0.5, 4)})
    >>> chart(found, "a <b>")[:38], "a &lt;b&gt;" in chart(found, "a <b>")
    ('<svg xmlns="http://www.w3.org/2000/svg', True)
    """
    body = list(_body(found, title))
    tall = 0
    parts = []
    for height, text in body:
        parts.append(f'<g transform="translate(0 {tall})">{text}</g>')
        tall += height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {tall + 24}" width="{_WIDE}" height="{tall + 24}" '
        f'role="img" aria-label="{escape(title)}">\n<style>{_STYLE}</style>\n<rect class="ground" width="100%" height="100%"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _body(found: Evaluation, title: str) -> Iterator[tuple[int, str]]:
    asked = f"{found.queries:,} pictures asked of {found.pictures:,}, {found.labels:,} labels"
    yield (
        78,
        f'<text x="24" y="40" class="title">{escape(title)}</text><text x="24" y="62" class="soft">{escape(asked)}</text>',
    )
    yield 30, _legend(found.index is not None)
    count = len(found.embedder)
    yield 0, _grid(count * _ROW)
    for name, measure in found.embedder.items():
        other = None if found.index is None else found.index.get(name)
        yield _ROW, _row(name, measure, other)
    yield 52, _scale()
    listed = sorted(found.by_label.items(), key=lambda item: -item[1][0])
    if len(listed) > _LABELS:
        listed = listed[: _LABELS // 2] + listed[-_LABELS // 2 :]
    heading = "mAP by label" if len(listed) == len(found.by_label) else "mAP by label, the best and the worst"
    yield 30, f'<text x="24" y="14" class="heading">{heading}</text>'
    for label, (value, queries) in listed:
        yield _BAR, _bar(label, value, queries)


def _across(value: float) -> float:
    return _LEFT + min(max(value, 0.0), 1.0) * (_WIDE - _LEFT - _RIGHT)


def _legend(graph: bool) -> str:
    parts = [
        f'<circle class="exact" cx="{_LEFT}" cy="6" r="5"/><text x="{_LEFT + 12}" y="11">exact search: the embedder</text>'
    ]
    if graph:
        x = _LEFT + 230
        parts.append(
            f'<circle class="graph" cx="{x}" cy="6" r="4.5"/><text x="{x + 12}" y="11">the graph</text>'
        )
    return (
        "".join(parts)
        + f'<text x="{_WIDE - 24}" y="11" class="soft end">lines: 95 % of resampled queries</text>'
    )


def _grid(tall: int) -> str:
    lines = (
        f'<line class="grid" x1="{_across(x):.1f}" x2="{_across(x):.1f}" y1="0" y2="{tall}"/>' for x in _TICKS
    )
    return "".join(lines)


def _scale() -> str:
    return "".join(f'<text x="{_across(x):.1f}" y="16" class="soft middle">{x:g}</text>' for x in _TICKS)


def _row(name: str, exact: Measure, graph: Measure | None) -> str:
    text = f'<text x="{_LEFT - 14}" y="18" class="end">{escape(name)}</text>'
    if graph is not None:
        text += _dot(graph, "graph", 19)
    text += _dot(exact, "exact", 9 if graph is not None else 13)
    return text + f'<text x="{_WIDE - 24}" y="18" class="end number">{exact.value:.3f}</text>'


def _dot(measure: Measure, kind: str, y: int) -> str:
    low, high = _across(measure.low), _across(measure.high)
    return (
        f'<line class="{kind}" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>'
        f'<circle class="{kind}" cx="{_across(measure.value):.1f}" cy="{y}" r="4.5"/>'
    )


def _bar(label: str, value: float, queries: int) -> str:
    shown = label if len(label) <= 18 else label[:17] + "…"
    return (
        f'<text x="{_LEFT - 14}" y="14" class="end">{escape(shown)}<title>{escape(label)}, {queries:,} asked</title></text>'
        f'<rect class="bar" x="{_LEFT}" y="3" width="{_across(value) - _LEFT:.1f}" height="14" rx="3"/>'
        f'<text x="{_WIDE - 24}" y="14" class="end number">{value:.3f}</text>'
    )


_STYLE = """
svg { font: 13px system-ui, sans-serif; }
.ground { fill: #ffffff; } text { fill: #1c1d1f; }
.title { font-size: 20px; font-weight: 600; } .heading { font-weight: 600; } .soft { fill: #5d6167; }
.end { text-anchor: end; } .middle { text-anchor: middle; } .number { font-variant-numeric: tabular-nums; }
.grid { stroke: #e4e4e0; } line.exact, line.graph { stroke-width: 2.5; stroke-linecap: round; opacity: 0.55; }
line.exact { stroke: #0b62d6; } circle.exact { fill: #0b62d6; }
line.graph { stroke: #c2570c; } circle.graph { fill: #ffffff; stroke: #c2570c; stroke-width: 2; }
.bar { fill: #0b62d6; opacity: 0.8; }
@media (prefers-color-scheme: dark) {
  .ground { fill: #131416; } text { fill: #eceded; } .soft { fill: #a3a8ae; } .grid { stroke: #2b2e32; }
  line.exact { stroke: #78b0ff; } circle.exact, .bar { fill: #78b0ff; }
  line.graph { stroke: #ffa057; } circle.graph { fill: #131416; stroke: #ffa057; }
}
"""
