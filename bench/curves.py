"""From the points that were measured: speed at a recall, the table, and the picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

LEVELS = (0.95, 0.99)
MARKS = {"one": "one by one", "batch1": "1,000 at once, 1 thread", "batch2": "1,000 at once, 2 threads"}
Curve = list[tuple[float, float]]


def frontier(points: Curve) -> Curve:
    """The points (recall, speed) that no other beats in both, by growing recall."""
    best: Curve = []
    for recall, speed in sorted(points, key=lambda point: (-point[0], -point[1])):
        if not best or speed > best[-1][1]:
            best.append((recall, speed))
    return best[::-1]


def at(points: Curve, recall: float) -> float | None:
    """The speed at a recall, log-linear between the two points around it; None where none gets there.

    Where even the fastest point is above, its speed: that much is had in any case.
    """
    curve = frontier(points)
    if not curve or curve[-1][0] < recall:
        return None
    above = next(place for place, point in enumerate(curve) if point[0] >= recall)
    high = curve[above]
    if above == 0 or high[0] == recall:
        return high[1]
    low = curve[above - 1]
    share = (recall - low[0]) / (high[0] - low[0])
    return math.exp(math.log(low[1]) * (1 - share) + math.log(high[1]) * share)


def curve_of(events: list[dict[str, Any]], mode: str) -> Curve:
    points = [event for event in events if event["event"] == "point" and mode in event]
    return [(point[mode].get("recall", point["recall"]), point[mode]["qps"]) for point in points]


def fewest(events: list[dict[str, Any]], recall: float) -> float | None:
    """Distances computed by a query at a recall: like a speed, of its inverse."""
    counted = [e for e in events if e["event"] == "point" and e.get("distances")]
    rate = at([(point["recall"], 1 / point["distances"]) for point in counted], recall)
    return None if rate is None else 1 / rate


def summary(variant: str, events: list[dict[str, Any]]) -> dict[str, Any]:
    """A row of the table, as numbers."""
    by = {event["event"]: event for event in events}
    points = [event for event in events if event["event"] == "point"]
    row: dict[str, Any] = {"name": variant, "error": by.get("failed", {}).get("error")}
    row["version"] = by.get("start", {}).get("version", "")
    for mode in MARKS:
        row[mode] = [at(curve_of(events, mode), level) for level in LEVELS]
    row["distances"] = [fewest(events, level) for level in LEVELS]
    row["best"] = max((point["recall"] for point in points), default=None)
    row["queries"] = min((point["queries"] for point in points), default=None)
    asked = {"one": 1, "batch1": 1, "batch2": 2}
    shares = [point[mode]["cores"] / asked[mode] for point in points for mode in MARKS if mode in point]
    row["cores"] = [min(shares, default=1.0), max(shares, default=1.0)]
    if "build" in by:
        build, last = by["build"], by.get("done", by["build"])
        row |= {"build": build["seconds"], "disk": build["disk"], "total": last["after"]["peak"]}
        row["peak"] = last["after"]["peak"] - build["before"]["now"]
        row["held"] = build["after"]["now"] - build["before"]["now"]
    return row


def _number(value: float | None, form: str = ",.0f") -> str:
    return "–" if value is None else format(value, form)


BUSY = {
    "†": "more cores were busy at a point than threads were asked for",
    "‡": "had less than 0.8 of its cores at a point: it waited for a disk, or others had the machine",
}


def _busy(cores: list[float]) -> str:
    return " †" * (cores[1] > 1.2) + " ‡" * (cores[0] < 0.8)


def _megabytes(value: int | None) -> str:
    return "–" if value is None else f"{max(value, 0) / 1e6:,.0f}"


HEAD = (
    "index", "build, s", "peak, MB", "of it beyond the data", "held after the build", "on disk, MB",
    *(f"{name}, {level}" for name in MARKS.values() for level in LEVELS),
    *(f"distances, {level}" for level in LEVELS), "best recall",
)  # fmt: skip
NOTE = "Queries per second at a recall@10, between measured points; – where it is not reached or not offered."


def table_of(name: str, measured: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown, the fastest at 0.95 one by one first; then what failed, and with which words."""
    rows = [summary(variant, events) for variant, events in measured.items()]
    rows.sort(key=lambda row: -(row["one"][0] or 0))
    lines = [f"### {name}", "", f"| {' | '.join(HEAD)} |", f"|{' --- |' * len(HEAD)}"]
    for row in rows:
        if row["best"] is None:
            continue
        label = f"{row['name']} {row['version']}" + _busy(row["cores"])
        cells = [label, _number(row.get("build"), ",.1f")]
        cells += [_megabytes(row.get(what)) for what in ("total", "peak", "held")]
        cells += [_megabytes(row["disk"]) if row.get("disk") else "–"]
        cells += [_number(value) for mode in (*MARKS, "distances") for value in row[mode]]
        lines.append(f"| {' | '.join([*cells, _number(row['best'], '.4f')])} |")
    lines += ["", NOTE]
    marks = "".join(_busy(row["cores"]) for row in rows)
    for mark, what in BUSY.items():
        if mark in marks:
            lines.append(f"{mark} {what}.")
    most = max((row["queries"] or 0 for row in rows), default=0)
    slow = [f"{row['name']} ({row['queries']})" for row in rows if row["queries"] and row["queries"] < most]
    if slow:
        lines.append(f"Slow, so measured on fewer queries at some points: {', '.join(slow)}.")
    lines += [f"- {row['name']} {row['version']}: {row['error']}" for row in rows if row["error"]]
    return "\n".join(lines)


def tables(found: dict[str, dict[str, Any]]) -> str:
    each = [table_of(name, measured) for name, measured in found.items()]
    return "\n\n".join(each) or "nothing has been measured"


def draw(found: dict[str, dict[str, Any]], path: Path) -> None:
    """A line of panels for each set: one by one, a batch with one thread, with two."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        max(len(found), 1), len(MARKS), figsize=(7 * len(MARKS), 6 * max(len(found), 1)), squeeze=False
    )
    peers = sorted({name.split("-")[0] for measured in found.values() for name in measured} - {"vecstore"})
    colours = dict(zip(peers, pyplot.get_cmap("tab20").colors, strict=False)) | {"vecstore": "black"}
    styles = ("-", "--", ":", "-.", (0, (3, 1, 1, 1)))
    for line, (set_name, measured) in zip(panels, found.items(), strict=False):
        for panel, (mode, title) in zip(line, MARKS.items(), strict=True):
            seen: dict[str, int] = {}
            for name, events in measured.items():
                peer = name.split("-")[0]
                curve = [point for point in frontier(curve_of(events, mode)) if point[0] >= 0.7]
                style = styles[seen.get(peer, 0) % len(styles)]
                seen[peer] = seen.get(peer, 0) + 1
                if curve:
                    # Each step to the right is a tenth of the misses.
                    misses = [-math.log10(max(1 - recall, 2e-4)) for recall, _ in curve]
                    panel.plot(
                        misses, [speed for _, speed in curve], label=name, color=colours[peer], linestyle=style,
                        marker=".", linewidth=3 if peer == "vecstore" else 1.3,
                    )  # fmt: skip
            ticks = (0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
            panel.set_xticks([-math.log10(1 - tick) for tick in ticks], [str(tick) for tick in ticks])
            panel.set_yscale("log")
            panel.grid(visible=True, which="both", alpha=0.3)
            panel.set_title(f"{set_name}: {title}")
            panel.set_xlabel("recall@10")
            panel.set_ylabel("queries per second")
        shown = [panel.get_legend_handles_labels() for panel in line]
        legend = {
            label: handle for handles, labels in shown for handle, label in zip(handles, labels, strict=True)
        }
        line[-1].legend(
            legend.values(), legend.keys(), bbox_to_anchor=(1.02, 1), loc="upper left", fontsize="small"
        )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
