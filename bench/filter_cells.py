"""The cells of bench/filters.py: which records each query may name, in every way and share, and the exact answers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from contenders import K, Vectors
from measure import squared
from numpy.typing import NDArray

SHARES = (0.5, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0001)
# By a number that has nothing to do with the vectors; only what lies nearest to the query; only what lies farthest.
KINDS = ("random", "correlated", "anti-correlated")
CLUSTERS, A_CLUSTER = 1_000, 60
# Clusters that hold so many times what is asked for are narrowed by the number.
_TOO_MANY = 1.3
# A cluster that no record is of: with another one in each filter, none is asked twice.
_NOBODY = 1_000_000
_GOLDEN, _SILVER = 0.6180339887, 0.4142135623


class Narrow(NamedTuple):
    """A filter: `r` below a limit, `cluster` one of some, or both."""

    limit: float | None
    clusters: tuple[int, ...] | None

    def mask(self, r: NDArray[np.float64], cluster: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which records match."""
        found = np.ones(len(r), bool) if self.limit is None else r < self.limit
        if self.clusters is not None:
            known = np.zeros(int(cluster.max()) + 1, bool)
            known[[number for number in self.clusters if number < len(known)]] = True
            found &= known[cluster]
        return found


@dataclass(frozen=True)
class Cell:
    """One way to filter, at one share: for each query its filter, how many records match, and the k-th's distance."""

    kind: str
    share: float
    r: NDArray[np.float64]
    # Clusters by their distance, as the kind wants them; how many of them each query takes; its limit of r, or NaN.
    order: NDArray[np.int64]
    taken: NDArray[np.int64]
    limit: NDArray[np.float64]
    matching: NDArray[np.int64]
    farthest: NDArray[np.float64]

    @property
    def name(self) -> str:
        return f"{self.kind} {self.share * 100:g}%"

    @cached_property
    def around(self) -> tuple[float, float]:
        """The two numbers next to the share: every limit between them chooses the same records."""
        below, above = self.r[self.r < self.share], self.r[self.r >= self.share]
        return float(below.max(initial=0.0)), float(above.min(initial=1.0))

    def narrow(self, query: int, turn: int) -> Narrow:
        """The query's filter. Those of other queries and turns read differently, so that none is known from before."""
        if self.kind == "random":
            below, above = self.around
            between = 0.01 + 0.98 * ((query * _GOLDEN + turn * _SILVER) % 1)
            return Narrow(float(below + (above - below) * between), None)
        clusters = self.order[query, : self.taken[query]].tolist()
        limit = float(self.limit[query])
        nobody = _NOBODY + turn * len(self.order) + query
        return Narrow(None if np.isnan(limit) else limit, (*clusters, nobody))

    @property
    def common(self) -> bool:
        """Whether all queries may ask the same filter."""
        return self.kind == "random"


def plan(
    kind: str, share: float, r: NDArray[np.float64], cluster: NDArray[np.int64], near: NDArray[np.int64]
) -> Cell:
    """A cell without its answers. `near` has each query's clusters, the nearest first."""
    queries, wanted = len(near), share * len(r)
    order = near[:, ::-1] if kind == "anti-correlated" else near
    taken, limit = np.zeros(queries, np.int64), np.full(queries, np.nan)
    if kind != "random":
        reached = np.cumsum(np.bincount(cluster, minlength=near.shape[1])[order], axis=1)
        taken = np.minimum((reached < wanted).sum(axis=1) + 1, near.shape[1])
        have = np.take_along_axis(reached, taken[:, None] - 1, axis=1)[:, 0]
        limit = np.where(have > _TOO_MANY * wanted, wanted / np.maximum(have, 1), np.nan)
    none = np.zeros(queries, np.int64)
    return Cell(kind, share, r, order, taken, limit, none, np.full(queries, -np.inf))


def solve(cells: list[Cell], base: Vectors, queries: Vectors, cluster: NDArray[np.int64]) -> None:
    """Fill in how many records match, and how far the k-th nearest of them is: found in float32, told in float64."""
    norms = (base**2).sum(1)
    for row, query in enumerate(queries):
        near = norms - 2 * (base @ query)
        for cell in cells:
            some = np.flatnonzero(cell.narrow(row, 0).mask(cell.r, cluster))
            cell.matching[row] = len(some)
            if not len(some):
                continue
            if len(some) > 2 * K:
                some = some[np.argpartition(near[some], 2 * K)[: 2 * K]]
            exact = np.sort(squared(base, query[None], some[None])[0])
            cell.farthest[row] = exact[min(K, len(exact)) - 1]


def grouped(base: Vectors) -> tuple[NDArray[np.int64], Vectors]:
    """Each record's cluster, and the clusters' centres."""
    import faiss

    count = max(1, min(CLUSTERS, len(base) // A_CLUSTER))
    means = faiss.Kmeans(base.shape[1], count, niter=6, seed=1, max_points_per_centroid=A_CLUSTER)
    means.train(base)
    return means.index.search(base, 1)[1][:, 0], means.centroids


def nearest_clusters(queries: Vectors, centres: Vectors) -> NDArray[np.int64]:
    return np.argsort((centres**2).sum(1) - 2 * (queries @ centres.T), axis=1)


def prepare(data: Path, count: int) -> Path:
    """Beside the set's vectors: r, clusters, and the cells of its first queries."""
    folder = data.with_name(f"{data.name}-filters-{count}")
    if (folder / "cells.npz").exists():
        return folder
    base, queries = np.load(data / "base.npy"), np.load(data / "queries.npy")[:count]
    cluster, centres = grouped(base)
    r, near = np.random.default_rng(5).random(len(base)), nearest_clusters(queries, centres)
    cells = [plan(kind, share, r, cluster, near) for kind in KINDS for share in SHARES]
    solve(cells, base, queries, cluster)
    folder.mkdir(parents=True, exist_ok=True)
    found = {what: np.stack([getattr(cell, what) for cell in cells]) for what in ("matching", "farthest")}
    np.savez(folder / "cells.npz", r=r, cluster=cluster, near=near, **found)
    return folder


def load(data: Path, folder: Path, count: int) -> dict[str, Any]:
    """Vectors, fields and cells, as `prepare` left them."""
    found: dict[str, Any] = {what: np.load(data / f"{what}.npy") for what in ("base", "queries", "limits")}
    saved = np.load(folder / "cells.npz")
    found |= {what: saved[what] for what in ("r", "cluster")}
    count = min(count, len(saved["near"]))
    found["queries"], found["limits"] = found["queries"][:count], found["limits"][:count]
    names = [(kind, share) for kind in KINDS for share in SHARES]
    found["cells"] = cells = []
    for place, (kind, share) in enumerate(names):
        cell = plan(kind, share, found["r"], found["cluster"], saved["near"][:count])
        cell.matching[:], cell.farthest[:] = (
            saved["matching"][place][:count],
            saved["farthest"][place][:count],
        )
        cells.append(cell)
    return found


def judge(cell: Cell, data: dict[str, Any], found: Iterable[Any]) -> dict[str, Any]:
    """Recall among what matches (a tie is as good), how many answers came, and how often that were too few.

    A stray is an answer that the filter forbids, or one that was given twice.
    """
    base, queries = data["base"], data["queries"]
    right = expected = answers = short = strays = 0
    for row, mine in enumerate(found):
        ids = np.asarray([-1 if id_ is None else id_ for id_ in mine], np.int64)[:K]
        ids = ids[ids >= 0]
        one = np.unique(ids)
        allowed = one[cell.narrow(row, 0).mask(data["r"][one], data["cluster"][one])] if len(one) else one
        near = squared(base, queries[row : row + 1], allowed[None])[0]
        right += int((near <= cell.farthest[row] * (1 + 1e-6) + 1e-9).sum())
        possible = min(K, int(cell.matching[row]))
        expected, answers = expected + possible, answers + len(ids)
        short, strays = short + (len(ids) < possible), strays + len(ids) - len(allowed)
    return {
        "recall": right / expected if expected else 1.0,
        "answers": answers,
        "expected": expected,
        "short": short,
        "strays": strays,
    }
