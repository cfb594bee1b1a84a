"""What several test files share: collections that are closed for sure, and brute force to compare with."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from vecstore.kernels.cuda.card import simulated

if simulated():
    # The simulator's threads take turns: with Python's usual five milliseconds each, they would mostly wait.
    sys.setswitchinterval(1e-4)


class BruteForce:
    """Distances by the definition, in float64, sharing no code with the package."""

    @staticmethod
    def distances(metric: str, rows: Any, query: Any) -> np.ndarray:
        if metric in ("hamming", "jaccard"):
            rows, query = np.asarray(rows, dtype=bool), np.asarray(query, dtype=bool)
            if metric == "hamming":
                return (rows != query).sum(axis=1).astype(float)
            both, either = (rows & query).sum(axis=1), (rows | query).sum(axis=1)
            return 1 - np.divide(both, either, out=np.ones(len(rows)), where=either > 0)
        rows, query = np.asarray(rows, dtype=np.float64), np.asarray(query, dtype=np.float64)
        if metric == "l2":
            return np.sqrt(((rows - query) ** 2).sum(axis=1))
        if metric == "ip":
            return -(rows @ query)
        return 1 - (rows @ query) / (np.linalg.norm(rows, axis=1) * np.linalg.norm(query))

    @staticmethod
    def check(
        hits: Any, ids: Any, truth: np.ndarray, k: int | None = None, radius: float | None = None, rtol: float = 2e-6
    ) -> None:
        """These hits are the right answer, ties in any order, and each carries its own distance."""
        expected = np.sort(truth if radius is None else truth[truth <= radius])[:k]
        found = hits.distances
        atol = rtol * max(1.0, float(np.abs(truth).max(initial=0)))
        assert len(hits) == len(expected)
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)
        assert (np.diff(found) >= 0).all()
        assert len(set(hits.ids)) == len(hits)
        distance_of = dict(zip(list(ids), truth.tolist(), strict=True))
        np.testing.assert_allclose(found, [distance_of[id_] for id_ in hits.ids], rtol=rtol, atol=atol)


@pytest.fixture(scope="session")
def brute() -> type[BruteForce]:
    return BruteForce


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "test.vec")


@pytest.fixture
def opened(path: str) -> Iterator[Callable[..., vecstore.Collection]]:
    """`vecstore.open` on the test's own path, closed at the end."""
    made: list[vecstore.Collection] = []

    def make(at: str | None = None, **options: Any) -> vecstore.Collection:
        collection = vecstore.open(path if at is None else at, **options)
        made.append(collection)
        return collection

    yield make
    for collection in made:
        collection.close()


def _folder_state(folder: str | os.PathLike[str]) -> dict[str, tuple[int, int, str]]:
    """Name -> (size, mtime, hash) of every file below a folder."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            full = os.path.join(place, name)
            status = os.stat(full)
            with open(full, "rb") as file:
                digest = hashlib.sha256(file.read()).hexdigest()
            found[os.path.relpath(full, folder)] = status.st_size, status.st_mtime_ns, digest
    return found


@pytest.fixture(scope="session")
def folder_state() -> Callable[..., dict[str, tuple[int, int, str]]]:
    return _folder_state
