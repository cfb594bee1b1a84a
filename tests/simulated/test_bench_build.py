"""The parts of bench/card.py that build and encode run from end to end in the simulator."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent.parent / "bench"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_building_and_codes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(BENCH)
    assert importlib.import_module("card").main(["build", "codes", "--simulate"]) == 0
    out = capsys.readouterr().out
    assert "SIMULATED: these are no figures." in out
    for said in ("the same graph again | yes |", "of it prune |", "recall after 40 distances | card "):
        assert f"build 40 × 6: {said}" in out
    for kernel in (
        "edges within these leaves, 5 of 10",
        "pruning of these to 8",
        "scalar4, 40 × 6",
        "product4, 40 × 6",
    ):
        assert f"| {kernel} | " in out
    assert "scalar4, 40 × 6: codes are the CPU's to the bit | yes | yes |" in out
