"""From the cells that were measured: the tables and the picture of bench/filters.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from filter_cells import KINDS, SHARES

Events = list[dict[str, Any]]
OURS = "vecstore"
NOTE = (
    "Queries a second, one by one on one thread, at recall@10 0.95 among what matches; in brackets the recall where "
    "0.95 is not reached, with the speed of the surest knob; “short”: searches that gave fewer than k though k match; "
    "“stray”: answers that the filter forbids."
)

OURS_NOTE = (
    "Queries a second with a filter that was asked before, and with one evaluated anew; without a filter at the same "
    "recall (or the best that was measured), and at 0.95. Then how many times as long a search with a filter takes."
)


def cells_of(events: Events) -> dict[tuple[str, float], dict[str, Any]]:
    return {(event["kind"], event["share"]): event for event in events if event["event"] == "cell"}


def speed(cell: dict[str, Any], mode: str) -> float:
    """At equal recall: between the measured knobs, where the least that is enough is more than enough."""
    return float(cell[mode] * cell["equal"])


def told(cell: dict[str, Any] | None, mode: str) -> str:
    if cell is None:
        return "–"
    if "error" in cell:
        return "failed"
    text = f"{speed(cell, mode):,.0f}"
    if not cell["reached"]:
        text += f" [{cell['recall']:.2f}]"
    text += f" {cell['short']} short" if cell["short"] else ""
    return text + (f" {cell['strays']} stray" if cell["strays"] else "")


def best(cells: list[dict[str, Any] | None], mode: str) -> float | None:
    """The quickest that reaches the recall."""
    good = [speed(cell, mode) for cell in cells if cell is not None and cell.get("reached")]
    return max(good, default=None)


def _lines(head: list[str], rows: list[list[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        f"|{' --- |' * len(head)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _names() -> list[tuple[str, float]]:
    return [(kind, share) for kind in KINDS for share in SHARES]


def _label(kind: str, share: float) -> str:
    return f"{kind} {share * 100:g}%"


def ours(events: Events) -> list[str]:
    """vecstore by default: recall, answers, and its time against searches without a filter at the same recall."""
    head = ["cell", "match", "recall", "answers", "asked before", "anew", "unfiltered", "unfiltered, 0.95"]
    head += ["time asked before", "than at 0.95", "time anew", "than at 0.95"]
    rows = []
    for name, cell in cells_of(events).items():
        if "error" in cell:
            rows.append([_label(*name), cell["error"], *[""] * (len(head) - 2)])
            continue
        point = cell["default"]
        answers = f"{point['answers']} of {point['expected']}" + (" stray!" if point["strays"] else "")
        row = [_label(*name), f"{cell['matching']:,.0f}", f"{point['recall']:.4f}", answers]
        row += [f"{point[mode]:,.0f}" for mode in ("warm", "fresh", "same", "plain")]
        row += [f"{point[how] / point[mode]:.2f}×" for mode in ("warm", "fresh") for how in ("same", "plain")]
        rows.append(row)
    return [*_lines(head, rows), "", OURS_NOTE]


def against(runs: dict[str, Events], mode: str) -> list[str]:
    """Speed at equal recall, every peer; and ours against the best of the others."""
    peers = {name: cells_of(events) for name, events in runs.items() if cells_of(events)}
    others = [name for name in peers if name != OURS]
    rows = []
    for name in _names():
        row = [_label(*name), *(told(peers[peer].get(name), mode) for peer in peers)]
        mine = best([peers.get(OURS, {}).get(name)], mode)
        theirs = best([peers[peer].get(name) for peer in others], mode)
        rows.append([*row, f"{mine / theirs:.2f}×" if mine and theirs else "–"])
    return _lines(["cell", *peers, "vecstore / best"], rows)


def slowdown(runs: dict[str, Events]) -> list[str]:
    """Each peer's time against its own searches without a filter at the same recall."""
    peers = {name: cells_of(events) for name, events in runs.items() if cells_of(events)}
    rows = []
    for name in _names():
        row = [_label(*name)]
        for cells in peers.values():
            cell = cells.get(name)
            row.append(f"{cell['same'] / cell['warm']:.2f}×" if cell and cell.get("reached") else "–")
        rows.append(row)
    return _lines(["cell", *peers], rows)


def builds(runs: dict[str, Events]) -> list[str]:
    rows, failed = [], []
    for name, events in runs.items():
        by = {event["event"]: event for event in events}
        version = by.get("start", {}).get("version", "")
        if "failed" in by:
            failed.append(f"- {name} {version}: {by['failed']['error']}")
        if "build" not in by:
            continue
        plain = max(
            (point["recall"] for point in by.get("plain", {}).get("points", [])), default=float("nan")
        )
        queries = {cell["queries"] for cell in cells_of(events).values() if "queries" in cell}
        few = f"{min(queries)} to {max(queries)}" if queries else "–"
        built = by["build"]
        rows.append(
            [name, version, f"{built['seconds']:,.1f}", f"{built['disk'] / 1e6:,.0f}", f"{plain:.4f}", few]
        )
    head = ["peer", "version", "build, s", "on disk, MB", "best unfiltered recall", "queries a cell"]
    return [*_lines(head, rows), *failed]


def tables(found: dict[str, dict[str, Events]]) -> str:
    parts = []
    for name, runs in found.items():
        parts += [f"### {name}", "", *builds(runs), ""]
        if OURS in runs:
            parts += ["**vecstore by default**", "", *ours(runs[OURS]), ""]
        titles = {"warm": "a filter that was asked before", "fresh": "every filter evaluated anew"}
        for mode, title in titles.items():
            parts += [f"**At recall 0.95, {title}**", "", *against(runs, mode), ""]
        parts += [
            NOTE,
            "",
            "**Time against the same peer's searches without a filter**",
            "",
            *slowdown(runs),
            "",
        ]
    return "\n".join(parts) or "nothing has been measured"


def draw(found: dict[str, dict[str, Events]], path: Path) -> None:
    """For each set a line of speeds and a line of recalls, one panel for each kind; hollow where 0.95 is missed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    size = (6 * len(KINDS), 9 * max(len(found), 1))
    figure, panels = pyplot.subplots(2 * max(len(found), 1), len(KINDS), figsize=size, squeeze=False)
    names = list(dict.fromkeys(name for runs in found.values() for name in runs))
    colours = dict(zip(names, pyplot.get_cmap("tab20").colors, strict=False)) | {OURS: "black"}
    for place, (title, runs) in enumerate(found.items()):
        for column, kind in enumerate(KINDS):
            above, below = panels[2 * place][column], panels[2 * place + 1][column]
            for name, events in runs.items():
                cells = [
                    cell for cell in cells_of(events).values() if cell["kind"] == kind and "error" not in cell
                ]
                if not cells:
                    continue
                style: Any = {
                    "color": colours[name],
                    "linewidth": 2.5 if name == OURS else 1.2,
                    "label": name,
                }
                shares, speeds = [cell["share"] for cell in cells], [speed(cell, "warm") for cell in cells]
                above.plot(shares, speeds, **style)
                for share, fast, cell in zip(shares, speeds, cells, strict=True):
                    face = colours[name] if cell["reached"] else "white"
                    above.plot([share], [fast], "o", color=colours[name], markerfacecolor=face, markersize=5)
                below.plot(shares, [cell["recall"] for cell in cells], marker=".", **style)
            above.set_yscale("log")
            above.set_title(f"{title}: {kind}")
            above.set_ylabel("queries per second at 0.95")
            below.axhline(0.95, color="grey", linestyle=":")
            below.set_ylim(-0.03, 1.03)
            below.set_ylabel("recall@10")
            for panel in (above, below):
                panel.set_xscale("log")
                panel.invert_xaxis()
                panel.set_xticks(SHARES, [f"{share * 100:g}%" for share in SHARES])
                panel.minorticks_off()
                panel.set_xlabel("records that match")
                panel.grid(visible=True, alpha=0.3)
        handles, labels = panels[2 * place][0].get_legend_handles_labels()
        panels[2 * place][-1].legend(
            handles, labels, bbox_to_anchor=(1.02, 1), loc="upper left", fontsize="small"
        )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
