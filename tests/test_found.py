"""Answers of many queries side by side, and records that threads fetch beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from vecstore.query.found import Rows, in_a_row
from vecstore.storage import fetch as fetching


def rows(sizes: list[int]) -> Rows:
    slots = np.arange(4 * len(sizes), dtype=np.int64).reshape(-1, 4)
    return Rows(slots, slots / 2, np.array(sizes, dtype=np.int64))


@pytest.mark.parametrize("sizes", [[4, 4, 4], [4, 0, 2], [0], [1], []])
def test_rows_read_as_a_list_of_answers_would(sizes: list[int]) -> None:
    found = rows(sizes)
    plain = list(found)
    assert [slots.size for slots, _ in plain] == sizes
    assert len(found) == len(sizes)
    for place, (slots, distances) in enumerate(plain):
        assert found[place][0].tolist() == slots.tolist() == list(range(4 * place, 4 * place + sizes[place]))
        assert (distances == slots / 2).all()
    assert [slots.tolist() for slots, _ in found[1:]] == [slots.tolist() for slots, _ in plain[1:]]
    for mine, other in zip(in_a_row(found), in_a_row(plain), strict=True):
        assert mine.tolist() == other.tolist()


@pytest.mark.parametrize("ids", ["numbers", "texts", "both"])
def test_records_fetched_by_several_threads_are_those_fetched_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ids: str
) -> None:
    monkeypatch.setattr(fetching, "_SLOTS_A_THREAD", 50)
    names: list[Any] = [n if ids == "numbers" or (ids == "both" and n < 300) else f"name {n}" for n in range(600)]
    vectors = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    with vecstore.open(tmp_path / "f.vec", dim=8, metric="l2") as c:
        c.add(names, vectors, [{"n": n, "text": "x" * (n % 90)} for n in range(600)])
        # A query beside a record of each kind, so that some threads meet numbers alone.
        alone, together = (c.search(vectors[:200], k=3, threads=threads) for threads in (1, 4))
        assert together.ids.tolist() == alone.ids.tolist()
        assert [list(hits) for hits in together] == [list(hits) for hits in alone]
        assert [hits[0].metadata["n"] for hits in together] == list(range(200))
