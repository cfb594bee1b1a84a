"""bench/card.py runs from end to end in the simulator."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

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
    assert "streamed from the file" in out
