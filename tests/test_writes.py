"""The write path's two short cuts: blocks written behind a bulk load, and what one write leaves for the next."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from vecstore.storage import ids as id_table
from vecstore.storage import platform
from vecstore.storage.behind import Behind
from vecstore.storage.session import Session

ROWS = np.random.default_rng(0).random((6000, 32), dtype=np.float32)


@pytest.fixture
def small_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every write of a few blocks is a large one."""
    monkeypatch.setattr("vecstore.handle.STAGE_BYTES", 1 << 17)


def check(path: Path, expected: dict[Any, np.ndarray]) -> None:
    with vecstore.open(path, mode="r") as again:
        assert not again.verify().problems
        assert len(again) == len(expected)
        found = again.get(list(expected))
        assert all((record.vector == row).all() for record, row in zip(found, expected.values(), strict=True))


# -- blocks written behind


@pytest.mark.parametrize("first", [0, 7, 700])
def test_a_bulk_load_is_all_there(tmp_path: Path, small_stages: None, first: int) -> None:
    path = tmp_path / "c.vec"
    with vecstore.open(path, dim=32, metric="l2") as c:
        if first:
            c.add(range(first), ROWS[:first])
        c.add(range(first, 6000), ROWS[first:])
        c.add([f"more {n}" for n in range(3000)], ROWS[:3000])
    check(path, dict(enumerate(ROWS)) | {f"more {n}": ROWS[n] for n in range(3000)})


def test_rows_are_the_callers_again_when_add_returns(tmp_path: Path, small_stages: None) -> None:
    path, rows = tmp_path / "c.vec", ROWS.copy()
    with vecstore.open(path, dim=32, metric="l2") as c, c.transaction():
        c.add(range(6000), rows)
        rows[:] = -1
        assert (c.get(5999).vector == ROWS[5999]).all()
        c.add(range(6000, 9000), ROWS[:3000])
        c.delete(range(6000, 8000))
    check(path, dict(enumerate(ROWS)) | {n: ROWS[n - 6000] for n in range(8000, 9000)})


def test_what_fails_meanwhile_leaves_nothing(
    tmp_path: Path, small_stages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.vec"
    with vecstore.open(path, dim=32, metric="l2") as c:
        c.add(range(100), ROWS[:100])
        with monkeypatch.context() as patch:
            patch.setattr(id_table, "insert", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                c.add(range(100, 6000), ROWS[100:])
        assert len(c) == 100
        with monkeypatch.context() as patch:
            patch.setattr(Behind, "_fill", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                c.add(range(100, 6000), ROWS[100:])
        assert len(c) == 100
        c.add(range(100, 3000), ROWS[100:3000])
    check(path, dict(enumerate(ROWS[:3000])))


def test_a_map_that_is_too_small_grows(
    tmp_path: Path, small_stages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "MAP_SIZES", (1 << 18,))
    path = tmp_path / "c.vec"
    with vecstore.open(path, dim=32, metric="l2") as c:
        c.add(range(6000), ROWS)
    check(path, dict(enumerate(ROWS)))


# -- what a write leaves for the next


def test_small_writes_one_after_another(tmp_path: Path) -> None:
    path, expected = tmp_path / "c.vec", dict(enumerate(ROWS[:300]))
    with vecstore.open(path, dim=32, metric="l2") as c:
        for n in range(300):
            c.add(n, ROWS[n], {"n": n})
        for n in range(0, 300, 3):
            c.delete(n)
            del expected[n]
            c.upsert(n + 1, ROWS[n])
            expected[n + 1] = ROWS[n]
            c.update(n + 2, {"n": -n})
            assert c.get(n) is None
            assert c.get(n + 2).metadata == {"n": -n}
        with pytest.raises(vecstore.DuplicateIdError):
            c.add(1, ROWS[0])
        c.compact()
        for n in range(1000, 1050):
            c.add(n, ROWS[n])
            expected[n] = ROWS[n]
    check(path, expected)


OTHER = """
import sys, numpy as np, vecstore
with vecstore.open(sys.argv[1]) as c:
    if sys.argv[2] == "compact":
        c.compact()
    else:
        c.add(sys.argv[2], np.ones(32, np.float32))
"""


def test_another_process_writes_in_between(tmp_path: Path) -> None:
    path = tmp_path / "c.vec"

    def other(what: str) -> None:
        subprocess.run([sys.executable, "-c", OTHER, str(path), what], check=True)

    expected: dict[Any, np.ndarray] = {}
    with vecstore.open(path, dim=32, metric="l2") as c:
        for n, what in enumerate(["a", "b", "compact", "c"]):
            for place in (10 * n, 10 * n + 1):
                c.add(place, ROWS[place])
                expected[place] = ROWS[place]
            other(what)
            if what != "compact":
                expected[what] = np.ones(32, np.float32)
                with pytest.raises(vecstore.DuplicateIdError):
                    c.add(what, ROWS[0])
        c.add("last", ROWS[0])
        expected["last"] = ROWS[0]
    check(path, expected)


def test_a_write_that_failed_leaves_nothing_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.vec"
    with vecstore.open(path, dim=32, metric="l2") as c:
        c.add(1, ROWS[1])
        for place in ("_write_catalog", "_write_sums", "_try_to_write"):
            with monkeypatch.context() as patch:
                patch.setattr(Session, place, lambda *_: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    c.add(2, ROWS[2])
            assert c.get(2) is None
        with contextlib.suppress(ZeroDivisionError), c.transaction():
            c.add(2, ROWS[2])
            c.delete(1)
            raise ZeroDivisionError
        c.add(2, ROWS[3])
    check(path, {1: ROWS[1], 2: ROWS[3]})
