"""Building in bounded memory: each shard's vectors are linked by themselves, and the shards' graphs merged.

A vector that is in two shards takes in edges from both: that is what joins them. What does not fit into memory
waits in files without a name. The same seed gives the same graph, whatever the threads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vecstore.index import build
from vecstore.index.build import Edges, Progress, Vectors
from vecstore.index.division import Limits, Places, Source, assign, sort_vectors
from vecstore.index.scratch import Rows, portions
from vecstore.index.steps import Steps
from vecstore.kernels import dispatch

Words = NDArray[np.uint32]



class Linked:
    """The finished graph, in files: nodes follow one another as their shards do."""

    def __init__(self, source: Source, places: Places, table: Rows, vectors: Rows, entries: Edges) -> None:
        self._width, self._row_bytes, self._prepare = source.width, source.row_bytes, source.prepare
        self._places, self._table, self._vectors = places, table, vectors
        self.count, self.entries = source.count, entries

    def labels(self) -> Words:
        """What each node is called."""
        return np.concatenate([rows[:, 0].copy() for rows in self._windows()])

    def edges(self) -> Iterator[Edges]:
        """All rows of edges, in the order of the nodes."""
        for rows in self._windows():
            yield rows[:, 1:]

    def table(self) -> Words:
        """The rows, labels first, mapped."""
        return self._table.mapped(self.count, at_random=True).view(np.uint32)

    def vectors(self) -> Iterator[Vectors]:
        """All vectors, in the order of the nodes."""
        for shard in range(self._places.shards):
            low, high = self._places.own(shard)
            stored = np.empty((high - low, self._row_bytes), dtype=np.uint8)
            for first, last in portions(low, high, self._row_bytes):
                stored[self._places.nodes[first:last] - low] = self._vectors.read(first, last)
            for first, last in portions(0, high - low, 16 * self._width):
                yield self._prepare(stored[first:last])

    def _windows(self) -> Iterator[Words]:
        return (rows.view(np.uint32) for rows in self._table.windows(self.count))


@contextlib.contextmanager
def link(
    source: Source,
    leaders: Vectors,
    limits: Limits,
    pool: Executor,
    folder: str,
    progress: Progress,
    steps: Steps | None = None,
) -> Iterator[Linked]:
    """The graph of all the source's vectors, from the leaders chosen for it. Its files are gone at the end."""
    places = Places.of(assign(source, leaders, limits, pool), len(leaders))
    progress(0.06)
    degree = limits.plan.degree
    with Rows(folder, source.row_bytes) as vectors, Rows(folder, 4 + 4 * degree) as table:
        sort_vectors(source, places, vectors, limits)
        progress(0.1)
        with Rows(folder, 4 * degree) as others:
            for shard in range(places.shards):
                start, share = 0.1 + 0.8 * shard / places.shards, 0.8 / places.shards

                def told(done: float, start: float = start, share: float = share) -> None:
                    progress(start + share * done)

                _link_shard(source, places, shard, limits, vectors, table, others, pool, told, steps)
            for shard in range(places.shards):
                _merge_shard(places, shard, table, others, limits.threads, pool)
        progress(0.95)
        spaced = np.arange(limits.plan.entries, dtype=np.int64) * source.count // limits.plan.entries
        entries: Edges = np.unique(spaced).astype(np.uint32)
        _connect(table, source.count, entries)
        progress(1.0)
        linked = Linked(source, places, table, vectors, entries)
        places.forget_rows()
        del source
        yield linked


def _link_shard(
    source: Source,
    places: Places,
    shard: int,
    limits: Limits,
    vectors: Rows,
    table: Rows,
    others: Rows,
    pool: Executor,
    progress: Progress,
    steps: Steps | None,
) -> None:
    """Build one shard; its own members' rows go to the table, and its guests' wait among the others."""
    low, high = places.own(shard)
    runs = [(low, high), *places.guests(shard)]
    members = np.concatenate([np.arange(*run, dtype=np.uint32) for run in runs])
    if not members.size:
        return
    table_of = np.empty((members.size, source.width), dtype=np.float32)
    done = 0
    for run in runs:
        for first, last in portions(*run, 16 * source.width):
            table_of[done : done + last - first] = source.prepare(vectors.read(first, last))
            done += last - first
    plan = replace(limits.plan, seed=limits.plan.seed + shard)
    order, edges, _ = build.build(table_of, plan, limits.threads, pool, progress, steps)
    del table_of
    placed = members[order]
    for first, last in portions(0, len(edges), 4 * plan.degree):
        part = edges[first:last]
        used = part != build.NONE
        part[used] = placed[part[used]]
    mine = np.flatnonzero(order < high - low)
    places.nodes[placed[mine]] = np.arange(low, high, dtype=np.uint32)
    for first, last in portions(0, mine.size, 4 * plan.degree):
        rows = np.empty((last - first, 1 + plan.degree), dtype=np.uint32)
        here = mine[first:last]
        rows[:, 0], rows[:, 1:] = source.labels[places.rows[placed[here]]], edges[here]
        table.write(low + first, rows)
    at = np.empty(members.size, dtype=np.int64)
    at[order] = np.arange(members.size)
    done = high - low
    for run in runs[1:]:
        for first, last in portions(*run, 4 * plan.degree):
            others.write(first, edges[at[done : done + last - first]])
            done += last - first


def _merge_shard(places: Places, shard: int, table: Rows, others: Rows, threads: int, pool: Executor) -> None:
    """The nodes of a shard get their edges from their second shards, and all edges lead to nodes."""
    low, high = places.own(shard)
    if low == high:
        return
    merge = dispatch.cpu().merge.merge()
    rows, more = table.read(low, high).view(np.uint32), others.read(low, high).view(np.uint32)
    at = np.empty(high - low, dtype=np.int64)
    at[places.nodes[low:high] - low] = np.arange(high - low)
    bounds = np.linspace(0, high - low, threads + 1).astype(int).tolist()
    list(pool.map(lambda part: merge(rows, more, at, places.nodes, *part), pairwise(bounds)))
    table.write(low, rows)


def _connect(table: Rows, count: int, entries: Edges) -> None:
    """Add edges until every node can be reached from the entries: what shards lose when their rows are cut."""
    kernels = dispatch.cpu().merge
    spread = kernels.spread()
    marks = np.zeros(count, dtype=np.uint8)
    marks[entries] = kernels.SEEN
    while True:
        while (marks == kernels.SEEN).any():
            first = 0
            for rows in table.windows(count):
                spread(rows.view(np.uint32), first, marks)
                first += len(rows)
        missed = np.flatnonzero(marks == kernels.UNSEEN)
        if not missed.size:
            return
        host = int(entries[0])
        for node in missed.tolist():
            _join(table, node, host, marks)
            marks[node] = kernels.SEEN
            host = node


def _join(table: Rows, node: int, last: int, marks: NDArray[np.uint8]) -> None:
    """Let a node within reach lead to this one: one near it, or the one joined last."""
    row = table.read(node, node + 1).view(np.uint32)[0]
    near = [other for other in row[1:].tolist() if other != build.NONE and marks[other]]
    host = near[0] if near else last
    edges = table.read(host, host + 1).view(np.uint32)[0]
    if node in edges[1:]:
        return
    # Where the host has no room, its farthest edge goes: this node leads there instead.
    dropped = _put(edges, node)
    table.write(host, edges)
    if dropped != build.NONE:
        _put(row, dropped)
        table.write(node, row)


def _put(row: Words, node: int) -> int:
    """Add an edge behind the others, or in place of the last; gives what stood there."""
    free = np.flatnonzero(row[1:] == build.NONE)
    place = 1 + int(free[0]) if free.size else -1
    dropped, row[place] = int(row[place]), node
    return dropped
