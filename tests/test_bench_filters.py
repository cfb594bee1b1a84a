"""bench/filters.py and bench/hamming.py in small, on synthetic data: what is asked, what is judged, what is told."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCH = Path(__file__).parent.parent / "bench"
ROWS, DIM, QUERIES, CLUSTERS = 2_000, 8, 6, 40


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module


@pytest.fixture
def data(bench: Any) -> dict[str, Any]:
    random = np.random.default_rng(3)
    base = random.random((ROWS, DIM), dtype=np.float32)
    queries = random.random((QUERIES, DIM), dtype=np.float32)
    centres = base[:CLUSTERS]
    cluster = ((base[:, None] - centres) ** 2).sum(2).argmin(1)
    cells = bench("filter_cells")
    near, r = cells.nearest_clusters(queries, centres), random.random(ROWS)
    made = [cells.plan(kind, share, r, cluster, near) for kind in cells.KINDS for share in cells.SHARES]
    cells.solve(made, base, queries, cluster)
    limits = np.sort(((base - queries[:, None]).astype(float) ** 2).sum(2), axis=1)[:, 9]
    return {"base": base, "queries": queries, "limits": limits, "r": r, "cluster": cluster, "cells": made}


def right(data: dict[str, Any], cell: Any, row: int) -> np.ndarray:
    """The ten nearest of what matches, by the definition."""
    mask = cell.narrow(row, 0).mask(data["r"], data["cluster"])
    distances = ((data["base"].astype(float) - data["queries"][row]) ** 2).sum(1)
    return np.flatnonzero(mask)[np.argsort(distances[mask])[:10]]


def test_cells_have_their_share(data: dict[str, Any]) -> None:
    for cell in data["cells"]:
        wanted = cell.share * ROWS
        if wanted >= 60:
            assert (np.abs(cell.matching - wanted) < 0.35 * wanted + 20).all(), cell.name
    distances = {}
    for cell in data["cells"]:
        if cell.share == 0.1:
            masks = [cell.narrow(row, 0).mask(data["r"], data["cluster"]) for row in range(QUERIES)]
            each = [
                ((data["base"][mask] - query) ** 2).sum(1).mean()
                for mask, query in zip(masks, data["queries"], strict=True)
            ]
            distances[cell.kind] = np.mean(each)
    assert distances["correlated"] < distances["random"] < distances["anti-correlated"]


def test_filters_read_differently_and_choose_the_same(data: dict[str, Any]) -> None:
    for cell in data["cells"]:
        asked = [cell.narrow(row, turn) for row in range(QUERIES) for turn in range(5)]
        assert len(set(asked)) == len(asked)
        for row in range(QUERIES):
            masks = [cell.narrow(row, turn).mask(data["r"], data["cluster"]) for turn in range(5)]
            assert all((mask == masks[0]).all() for mask in masks)
            assert masks[0].sum() == cell.matching[row]


def test_answers_are_judged(bench: Any, data: dict[str, Any]) -> None:
    judge = bench("filter_cells").judge
    for cell in data["cells"]:
        exact = [right(data, cell, row) for row in range(QUERIES)]
        told = judge(cell, data, exact)
        assert (told["recall"], told["short"], told["strays"]) == (1.0, 0, 0), cell.name
        assert told["answers"] == told["expected"] == sum(map(len, exact))
    cell = next(cell for cell in data["cells"] if cell.name == "random 10%")
    exact = [right(data, cell, row) for row in range(QUERIES)]
    forbidden = np.flatnonzero(data["r"] > 0.5)[0]
    worse = [[*mine[:8], mine[0], forbidden] for mine in exact]
    told = judge(cell, data, worse)
    assert (told["recall"], told["short"], told["strays"]) == (pytest.approx(0.8), 0, 2 * QUERIES)
    told = judge(cell, data, [mine[:4] for mine in exact])
    assert (told["recall"], told["short"], told["strays"]) == (pytest.approx(0.4), QUERIES, 0)


def test_a_peer_is_measured(bench: Any, data: dict[str, Any], tmp_path: Path) -> None:
    measure, roster = bench("filter_measure"), bench("filter_roster")
    kind = roster.FILTERING["vecstore"]
    peer = kind.peer(ROWS, DIM, "l2", tmp_path / "place", **kind.options)
    peer.r, peer.cluster = data["r"], data["cluster"]
    assert not measure.built(peer, data["base"], False)["kept"]
    assert measure.built(peer, data["base"], False)["kept"]
    peer.open()
    meter = measure.Meter(peer, data, 1.0)
    events = [{"event": "start", "version": "1"}, {"event": "build", "seconds": 1, "disk": 1}]
    events.append({"event": "plain", "points": meter.climb_plain()})
    events += [{"event": "cell", **meter.cell(cell)} for cell in data["cells"]]
    peer.close()
    events = json.loads(json.dumps(events))
    for cell in events[3:]:
        assert cell["reached"]
        for point in (cell, cell["default"]):
            assert (point["recall"], point["short"], point["strays"]) == (1.0, 0, 0)
            assert min(point[what] for what in ("fresh", "warm", "plain", "same")) > 0
    lines = bench("filter_tables").tables({"tiny": {"vecstore": events}}).splitlines()
    rows = [line for line in lines if line.startswith("| anti-correlated 0.3% ")]
    assert len(rows) == 4  # by default, asked before, anew, against unfiltered
    [cell] = [cell for cell in data["cells"] if cell.name == "anti-correlated 0.3%"]
    all_of_them = int(np.minimum(cell.matching, 10).sum())
    assert f" 1.0000 | {all_of_them} of {all_of_them} |" in rows[0]


def test_the_least_knob_is_found(bench: Any, data: dict[str, Any]) -> None:
    measure = bench("filter_measure")
    meter = measure.Meter(None, data, 1.0)
    knobs = [{"ef": number} for number in range(12)]
    for enough in range(13):
        meter.probe = lambda cell, knob, enough=enough: {
            "knob": knob,
            "recall": 1.0 if knob["ef"] >= enough else 0.5,
        }
        points = meter.least(None, knobs, float("inf"))
        recalls = {point["knob"]["ef"]: point["recall"] for point in points}
        least = min((knob for knob, reached in recalls.items() if reached == 1.0), default=None)
        assert least == (enough if enough < 12 else None)
        assert len(points) <= 4
        if 0 < enough < 12:
            assert recalls[enough - 1] == 0.5


def test_filters_in_every_language(bench: Any) -> None:
    stores, narrow = bench("filter_stores"), bench("filter_cells").Narrow
    both = narrow(0.25, (3, 5))
    assert stores.mongo(both) == {"r": {"$lt": 0.25}, "cluster": {"$in": [3, 5]}}
    assert stores.sql(both) == "r < 0.25 and cluster in (3, 5)"
    assert stores.sql(narrow(None, (3,))) == "cluster in (3)"
    assert stores.sql(narrow(0.5, None)) == "r < 0.5"


def test_speed_of_a_peer_that_falls_short(bench: Any) -> None:
    tables = bench("filter_tables")
    cell = {
        "fresh": 90.0,
        "warm": 100.0,
        "equal": 1.2,
        "reached": True,
        "recall": 0.97,
        "short": 0,
        "strays": 0,
    }
    assert tables.told(cell, "warm") == "120"
    assert (
        tables.told(cell | {"reached": False, "recall": 0.7, "equal": 1.0, "short": 4}, "fresh")
        == "90 [0.70] 4 short"
    )
    assert tables.told(None, "warm") == "–"
    assert tables.best([cell, None, cell | {"warm": 500.0, "reached": False}], "warm") == 120
    assert tables.best([None], "warm") is None


def test_evaluating_and_inserting(
    bench: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    costs = bench("filter_costs")
    monkeypatch.setattr(costs, "RUNS", 1)
    monkeypatch.setattr(costs, "pin", lambda cores: None)
    monkeypatch.setattr(
        costs, "sift", lambda rows, dtype: np.random.default_rng(0).random((rows, 128), dtype=dtype)
    )
    costs.evaluate(2_000)
    costs.inserts(4_000)
    said = capsys.readouterr().out
    assert said.count("| r < ") == 4
    assert "| cluster in 10 of 1,000 |" in said
    rates = [line for line in said.splitlines() if line.startswith("| ten fields")]
    assert len(rates) == 3
    assert "| 1.00× |" in rates[0]


def test_bits_are_compared(bench: Any) -> None:
    hamming, random = bench("hamming"), np.random.default_rng(4)
    vectors = random.random((300, 128), dtype=np.float32)
    bits = hamming.signs(vectors, vectors.mean(axis=0))
    assert bits.shape == (300, 32)
    assert abs(np.unpackbits(bits).mean() - 0.5) < 0.05
    plain = np.unpackbits(bits, axis=1)
    counted = (plain[:5, None] != plain[None]).sum(2)
    ids = np.argsort(counted, axis=1, kind="stable")[:, :10]
    assert (hamming.distances(bits, bits[:5], ids) == np.take_along_axis(counted, ids, 1)).all()
    farthest = np.sort(counted, axis=1)[:, 9]
    assert hamming.recall(bits, bits[:5], farthest, ids) == 1.0
    assert hamming.recall(bits, bits[:5], farthest, np.repeat(ids[:, :1], 10, axis=1)) == pytest.approx(0.1)
    assert hamming.recall(bits, bits[:5], farthest, np.where(np.arange(10) < 7, ids, -1)) == pytest.approx(
        0.7
    )
