"""bench/card.py runs from end to end in the simulator."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from vecstore import carried, config
from vecstore.kernels.cuda.card import simulated

if not simulated():
    pytest.skip("its simulation needs the simulator; a card is for the script itself", allow_module_level=True)

BENCH = Path(__file__).parent.parent.parent / "bench"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_exact_part(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(BENCH)
    assert importlib.import_module("card").main(["exact", "--simulate"]) == 0
    out = capsys.readouterr().out
    assert "SIMULATED: these are no figures." in out
    assert "same answers as the CPU | 5 queries | all | – |" in out
    for kernel in ("norms", "tiles", "tiles and selection"):
        assert f"| {kernel}, 150 × 20 |" in out
    assert "exact, 2 of 150 × 20 | " in out
    assert "streamed from the file" in out


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_search_part(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("GRAPH_FROM", "GRAPH_FROM_BYTES"):
        monkeypatch.setattr(config, name, getattr(config, name))
    monkeypatch.setattr(carried, "FEWEST", carried.FEWEST)
    monkeypatch.syspath_prepend(BENCH)
    assert importlib.import_module("card").main(["search", "--simulate"]) == 0
    out = capsys.readouterr().out
    assert "4 queries, search()" in out
    assert "recall on the card, on the CPU" in out
    assert "| walks, 4 queries, 150 × 20 |" in out
