"""One peer on one set's cells, in a process of its own: `bench/filters.py` starts it, and reads the lines it writes."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from contenders import Knob
from curves import at
from filter_cells import Cell, judge, load
from filter_peers import Filtering
from filter_roster import FILTERING
from measure import ENOUGH, disk, memory, pin, recall, table, version_of

TARGET = 0.95
# Each query's own filter is asked anew and then once more in groups: few enough for filters to be kept, many enough for
# the vectors to leave the caches. A filter that all queries share is asked by all of them in a row.
GROUP = 16
ROUNDS, FEWEST, SLOW = 3, 20, 0.01


def built(peer: Filtering, base: Any, again: bool) -> dict[str, Any]:
    """Build the peer's index, unless this version of it left one here: what it took."""
    note, version = peer.folder / "built.json", importlib.metadata.version(peer.package)
    if note.exists() and not again:
        kept: dict[str, Any] = json.loads(note.read_text())
        if kept["version"] == version:
            return kept | {"kept": True}
    shutil.rmtree(peer.folder, ignore_errors=True)
    peer.folder.mkdir(parents=True)
    start = time.perf_counter()
    peer.build(base)
    found = {"version": version, "seconds": time.perf_counter() - start, "disk": disk(peer.folder)}
    note.write_text(json.dumps(found))
    return found | {"kept": False}


def clock(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    answer = call()
    return time.perf_counter() - start, answer


class Meter:
    """Measures one peer. Every pass over the queries asks filters that were never asked before."""

    def __init__(self, peer: Filtering, data: dict[str, Any], cell_seconds: float) -> None:
        self.peer, self.data, self.cell_seconds = peer, data, cell_seconds
        self.turn = 0
        # Without a filter: recall and speed of every knob, and the quickest knob that reaches the target.
        self.plain: list[tuple[float, float]] = []
        self.steady: tuple[Knob, float] | None = None

    def few(self, seconds: float) -> int:
        """How many queries to take where each lasts so long: a pass shall take a tenth of a cell's time."""
        return int(np.clip(self.cell_seconds / 10 / seconds, FEWEST, len(self.data["queries"])))

    # -- without a filter

    def unfiltered(self, count: int) -> float:
        """Seconds of that many queries."""
        peer = self.peer
        return sum(clock(lambda q=query: peer.one(q))[0] for query in self.data["queries"][:count])

    def climb_plain(self) -> list[dict[str, Any]]:
        points: list[dict[str, Any]] = []
        for knobs in self.peer.plain or self.peer.ladders:
            best, idle = 0.0, 0
            for knob in knobs:
                self.peer.set(**knob)
                self.unfiltered(3)
                count = self.few(self.unfiltered(3) / 3)
                some = self.data["queries"][:count]
                answers = [self.peer.ids(self.peer.one(query)) for query in some]
                reached = recall(self.data["base"], some, self.data["limits"], table(answers))
                speed = count / statistics.median(self.unfiltered(count) for _ in range(ROUNDS))
                points.append({"knob": knob, "recall": reached, "qps": speed, "queries": count})
                idle = 0 if reached > best else idle + 1
                best = max(best, reached)
                if best >= ENOUGH or idle == 3:
                    break
        self.plain = [(point["recall"], point["qps"]) for point in points]
        enough = [point for point in points if point["recall"] >= TARGET] or points
        quickest = max(enough, key=lambda point: point["qps"])
        self.steady = quickest["knob"], quickest["qps"]
        return points

    # -- with one

    def probe(self, cell: Cell, knob: Knob) -> dict[str, Any]:
        """Recall, and the speed of filters that are evaluated anew."""
        self.peer.set(**knob)
        self.turn += 1
        first = [self.ask(cell, row)[0] for row in range(3)]
        count = self.few(statistics.median(first))
        self.turn += 1
        asked = [self.ask(cell, row) for row in range(count)]
        found = judge(cell, self.data, (self.peer.ids(answer) for _, answer in asked))
        speed = count / sum(seconds for seconds, _ in asked)
        return {"knob": knob, "queries": count, "fresh": speed, **found}

    def ask(self, cell: Cell, row: int, kept: Any = None) -> tuple[float, Any]:
        asked = self.peer.ask(cell.narrow(row, self.turn)) if kept is None else kept
        return clock(lambda: self.peer.one(self.data["queries"][row], asked))

    def least(self, cell: Cell, knobs: list[Knob], end: float) -> list[dict[str, Any]]:
        """What was probed in search of the least knob that reaches the target, by halves, as long as there is time."""
        points: dict[int, dict[str, Any]] = {}
        low, high = 0, len(knobs) - 1
        while low <= high and (not points or time.monotonic() < end):
            middle = (low + high) // 2
            points[middle] = self.probe(cell, knobs[middle])
            if points[middle]["recall"] >= TARGET:
                high = middle - 1
            else:
                low = middle + 1
        return [points[place] for place in sorted(points)]

    def speeds(self, cell: Cell, count: int, rounds: int) -> dict[str, float]:
        """Queries a second at the knob that is set: filters evaluated anew, and known from the time before."""
        fresh, warm = [], []
        size = count if cell.common else GROUP
        for _ in range(rounds):
            self.turn += 1
            taken = [0.0, 0.0]
            for first in range(0, count, size):
                rows = range(first, min(first + size, count))
                taken[0] += sum(self.ask(cell, row)[0] for row in rows)
                if cell.common:
                    kept = [self._kept(cell, 0)] * count
                    self.ask(cell, 0, kept[0])
                else:
                    kept = [self._kept(cell, row) for row in rows]
                taken[1] += sum(self.ask(cell, row, mine)[0] for row, mine in zip(rows, kept, strict=True))
            fresh.append(count / taken[0])
            warm.append(count / taken[1])
        return {"fresh": statistics.median(fresh), "warm": statistics.median(warm)}

    def _kept(self, cell: Cell, row: int) -> Any:
        return self.peer.keep(self.peer.ask(cell.narrow(row, self.turn)))

    def cell(self, cell: Cell) -> dict[str, Any]:
        """The quickest way to reach the target in this cell, or the surest where none does; and the default's."""
        start = time.monotonic()
        share = self.cell_seconds / len(self.peer.ladders)
        points: list[dict[str, Any]] = []
        best: tuple[dict[str, Any], float] | None = None
        for number, knobs in enumerate(self.peer.ladders, 1):
            mine = self.least(cell, knobs, start + share * number)
            points += mine
            for point in mine:
                if point["recall"] >= TARGET and (best is None or point["fresh"] > best[0]["fresh"]):
                    level = at([(each["recall"], each["fresh"]) for each in mine], TARGET) or point["fresh"]
                    best = point, max(level / point["fresh"], 1.0)
        chosen, equal = best or (max(points, key=lambda point: (point["recall"], point["fresh"])), 1.0)
        found = {"kind": cell.kind, "share": cell.share, "matching": float(cell.matching.mean())}
        found |= {"probed": points, "reached": best is not None, "equal": equal}
        found |= self._timed(cell, chosen)
        if self.peer.default is not None:
            known = [point for point in points if point["knob"] == self.peer.default]
            found["default"] = self._timed(cell, known[0] if known else self.probe(cell, self.peer.default))
        return found | {"seconds": time.monotonic() - start}

    def _timed(self, cell: Cell, point: dict[str, Any]) -> dict[str, Any]:
        """The point with its speeds, and those of searches without a filter: now, and at the same recall."""
        assert self.steady is not None
        knob, then = self.steady
        count = point["queries"]
        rounds = 1 if point["fresh"] < 1 / SLOW else ROUNDS
        self.peer.set(**point["knob"])
        speeds = self.speeds(cell, count, rounds)
        self.peer.set(**knob)
        self.unfiltered(min(count, GROUP))
        now = count / statistics.median(self.unfiltered(count) for _ in range(rounds))
        most = max(reached for reached, _ in self.plain)
        same = at(self.plain, min(point["recall"], most)) or then
        level = at(self.plain, min(TARGET, most)) or then
        return point | speeds | {"plain": level * now / then, "same": same * now / then}


def main() -> None:
    settings = json.loads(sys.argv[1])
    out = open(settings["out"], "a", buffering=1)  # noqa: SIM115

    def say(event: str, **more: Any) -> None:
        out.write(json.dumps({"event": event, **more}) + "\n")

    variant = FILTERING[settings["variant"]]
    pin(2)
    data = load(Path(settings["data"]), Path(settings["cells"]), settings["queries"])
    base = data["base"]
    peer: Any = variant.peer(
        len(base), base.shape[1], settings["metric"], Path(settings["place"]), **variant.options
    )
    peer.r, peer.cluster = data["r"], data["cluster"]
    version = version_of(peer.package)
    say(
        "start",
        package=peer.package,
        version=version,
        load=os.getloadavg()[0],
        when=time.strftime("%Y-%m-%d %H:%M"),
    )
    say("warm")
    say("build", **built(peer, base, settings["rebuild"]))
    if settings["build"]:
        say("done", after=memory())
        return
    pin(1)
    peer.open()
    meter = Meter(peer, data, settings["cell_seconds"])
    say("plain", points=meter.climb_plain())
    meter.probe(data["cells"][0], (peer.ladders[0])[0])  # the first filter reads the fields
    meter.probe(data["cells"][len(data["cells"]) // 2], (peer.ladders[0])[0])
    for cell in data["cells"]:
        try:
            say("cell", **meter.cell(cell))
        except Exception as error:
            what = f"{type(error).__name__}: {error}"[:300]
            say("cell", kind=cell.kind, share=cell.share, error=what)
    say("done", after=memory())
    peer.close()


if __name__ == "__main__":
    main()
