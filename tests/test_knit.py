"""How a graph is changed in place, on graphs so small that every edge can be said beforehand."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from vecstore.index.build import Plan
from vecstore.index.knit import Later, Weaver
from vecstore.kernels import dispatch

NONE = 0xFFFFFFFF
DEGREE = 4


def row(mark: int, *neighbors: int) -> list[int]:
    return [mark, *neighbors, *[NONE] * (DEGREE - len(neighbors))]


def mended(
    rows: list[list[int]], dead: set[int], pairs: list[tuple[int, int]], origin: int = 0, heirs: int = 2, nodes: Any = None
) -> list[Any]:
    """Where each row is to lead; None where it stays as it is."""
    table = np.array(rows, dtype=np.uint32)
    asked = np.arange(len(rows)) if nodes is None else np.array(nodes)
    alive = np.array([node not in dead for node in range(len(rows))], dtype=np.uint8)
    later = Later.of(len(pairs) + 3, len(rows), origin)
    assert later.added(np.array(pairs, dtype=np.uint32).reshape(-1, 2), 0, len(rows)) is later
    ids = np.array(sorted(dead), dtype=np.uint32)
    found, sizes = np.empty((asked.size, 9), dtype=np.uint32), np.empty(asked.size, dtype=np.int32)
    dispatch.cpu().knit.mend()(
        table[asked], asked, alive, later.lines, later.heads, origin, heirs, ids, table[ids], found, sizes
    )
    for some, size in zip(found, sizes.tolist(), strict=True):
        assert size < 0 or (some[size:] == NONE).all()
    return [None if size < 0 else some[:size].tolist() for some, size in zip(found, sizes.tolist(), strict=True)]


# -- mending


def test_rows_that_lost_and_gained_nothing_stay() -> None:
    assert mended([row(0, 1, 2), row(0, 0), row(0)], set(), []) == [None, None, None]


def test_edges_that_came_later_are_followed_newest_first() -> None:
    rows = [row(0, 1), row(0, 0), row(0, 0), row(0, 0)]
    assert mended(rows, set(), [(0, 2), (1, 3), (0, 3)]) == [[1, 3, 2], [0, 3], None, None]


def test_an_edge_that_is_there_or_leads_home_adds_nothing() -> None:
    assert mended([row(0, 1), row(0, 0)], set(), [(0, 1), (0, 0)]) == [None, None]


@pytest.mark.parametrize(("mark", "expected"), [(10, [1, 3, 2]), (11, [1, 3]), (12, None), (99, None), (NONE, None), (0, [1, 3, 2])])
def test_a_row_has_the_edges_that_had_come_when_it_was_written(mark: int, expected: Any) -> None:
    """Of all that ever came, ten came before those that are kept."""
    rows = [row(mark, 1), row(0), row(0), row(0)]
    assert mended(rows, set(), [(0, 2), (0, 3)], origin=10)[0] == expected


def test_a_dead_neighbour_gives_way_to_those_that_it_led_to() -> None:
    rows = [row(0, 1, 2), row(0, 0), row(0, 0, 3, 4, 5), row(0), row(0), row(0)]
    assert mended(rows, {2}, []) == [[1, 3, 4], None, None, None, None, None]
    assert mended(rows, {2}, [], heirs=9)[0] == [1, 3, 4, 5]
    assert mended(rows, {2, 3}, [])[0] == [1, 4, 5]
    assert mended(rows, {1, 2, 3, 4, 5}, [])[0] == []


def test_a_dead_node_is_led_to_by_nobody_and_not_mended() -> None:
    rows = [row(0, 1), row(0, 2), row(0, 0)]
    assert mended(rows, {1}, [(2, 1), (1, 0)]) == [[2], None, None]


def test_rows_from_the_middle_are_those_of_their_nodes() -> None:
    rows = [row(0, 2), row(0, 2), row(0, 3), row(0, 0)]
    assert mended(rows, set(), [(2, 0)], nodes=[3, 1, 2]) == [None, None, [3, 0]]


def test_more_than_there_is_room_for_is_left_out() -> None:
    rows = [row(0, 1, 2, 3, 4), *[row(0) for _ in range(14)]]
    assert mended(rows, set(), [(0, node) for node in range(5, 15)])[0] == [1, 2, 3, 4, 14, 13, 12, 11, 10]


def test_a_pair_of_no_node_is_told() -> None:
    later = Later.of(4, 3, 0)
    assert later.added(np.array([[0, 1]], dtype=np.uint32), 0, 3) is later
    for bad in ([3, 0], [0, 3], [NONE, NONE]):
        assert later.added(np.array([bad], dtype=np.uint32), 1, 3) is None


def chains(later: Later) -> list[list[tuple[int, int]]]:
    """(number, other) of each node's edges, newest first."""
    found = []
    for head in later.heads.tolist():
        chain, line = [], head
        while line >= 0:
            places = later.lines[line, 2:].reshape(-1, 2)
            chain += [(number, other) for number, other in places[::-1].tolist() if number != NONE]
            line = int(later.lines[line, 0].astype(np.int32))
        found.append(chain)
    return found


@pytest.mark.parametrize("portion", [1, 13, 4000])
def test_chains_grow_and_older_walks_keep_theirs(portion: int) -> None:
    """Whatever the portions they come in, and however often the lines are too few for them."""
    pairs = np.random.default_rng(0).integers(0, 90, (4000, 2)).astype(np.uint32)
    pairs[::3, 0] = 7
    later = Later.of(0, 5, 0)
    kept = []
    for start in range(0, len(pairs), portion):
        nodes = 90 if start else 60 + 30 * (portion == 4000)
        part = np.minimum(pairs[start : start + portion], nodes - 1)
        pairs[start : start + portion] = part
        more = later.added(part, start, nodes)
        assert more is not None
        later = more
        if start % 1000 < portion:
            kept.append((start + len(part), later))
    for count, known in kept:
        expected: list[list[tuple[int, int]]] = [[] for _ in known.heads]
        for number, (node, other) in enumerate(pairs[:count].tolist()):
            expected[node].insert(0, (number, other))
        assert [[edge for edge in chain if edge[0] < count] for chain in chains(known)] == expected
        assert known.lines.ctypes.data % 64 == 0


# -- new nodes


def weaver(vectors: Any, degree: int = 3, at_once: int = 1000) -> tuple[Weaver, ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(1)
    plan = Plan(degree=degree, alpha=1.2)
    return Weaver(plan, lambda nodes: vectors[nodes], lambda nodes: np.zeros((nodes.size, 1 + degree), np.uint32), 1, pool, at_once), pool


def test_a_new_node_on_a_line_leads_to_the_nearest_on_each_side() -> None:
    """What lies behind a kept neighbour is nearer to that one."""
    line = np.zeros((9, 2), dtype=np.float32)
    line[:, 0] = 10 * np.arange(9)
    threads, pool = weaver(line)
    own = np.array([[44, 0]], dtype=np.float32)
    near = np.array([[4, 5, 3, 6, 2, NONE]], dtype=np.uint32)
    with pool:
        order, among = threads.among(own)
        rows, pairs = threads.join(np.array([9]), own, near, among)
    assert order.tolist() == [0]
    assert rows.tolist() == [[4, 5, NONE]]
    assert pairs.tolist() == [[4, 9], [5, 9]]


@pytest.mark.parametrize("at_once", [1, 5, 1000])
def test_new_nodes_find_each_other(at_once: int) -> None:
    line = np.array([[44, 0], [58, 0]], dtype=np.float32)
    threads, pool = weaver(line, at_once=at_once)
    own = np.array([[50, 0], [51, 0], [52, 0]], dtype=np.float32)
    near = np.tile(np.array([[0, 1]], dtype=np.uint32), (3, 1))
    with pool:
        order, among = threads.among(own)
        rows, pairs = threads.join(np.array([2, 3, 4]), own, near, among)
    assert order.tolist() == [0, 1, 2]
    assert [sorted(set(one) - {NONE}) for one in rows.tolist()] == [[0, 3], [2, 4], [1, 3]]
    # Back to each of them from whatever it leads to.
    assert sorted(map(tuple, pairs.tolist())) == [(0, 2), (1, 4), (2, 3), (3, 2), (3, 4), (4, 3)]


def test_many_new_nodes_find_each_other_in_leaves() -> None:
    """In an order in which neighbours lie together, and each finds nearly all that a comparison with all would."""
    own = np.random.default_rng(4).normal(size=(500, 4)).astype(np.float32)
    threads, pool = weaver(own, degree=16)
    few = replace(threads, plan=replace(threads.plan, leaf=60, fanout=4))
    with pool:
        order, places = few.among(own)
    assert sorted(order.tolist()) == list(range(500))
    apart = ((own[order][:, None] - own[order][None]) ** 2).sum(axis=2)
    np.fill_diagonal(apart, np.inf)
    steps = np.sqrt(apart[np.arange(499), np.arange(1, 500)]).mean()
    assert steps < 0.6 * np.sqrt(apart[np.isfinite(apart)]).mean()
    # In a leaf only those are kept that no kept one is much nearer to: the nearest of all is among them.
    assert np.mean(places[:, 0] == np.argmin(apart, axis=1)) > 0.95
    for node, row in enumerate(places.tolist()):
        named = [other for other in row if other != NONE]
        assert row == named + [NONE] * (len(row) - len(named))
        assert node not in named
        assert (np.diff(apart[node, named]) >= -1e-4).all()


def test_a_crowded_row_is_pruned_and_others_are_taken_as_they_are() -> None:
    points = np.zeros((8, 2), dtype=np.float32)
    points[:, 0] = [0, 1, 2, 3, -1, -2, -3, 50]
    threads, pool = weaver(points, degree=3)
    rows = np.array([[0, 1, 2, 3], [0, 0, NONE, NONE]], dtype=np.uint32)
    later = Later.of(5, 8, 0)
    assert later.added(np.array([[0, 4], [0, 5], [1, 2]], dtype=np.uint32), 0, 8) is later
    with pool:
        changed, neighbors = threads.mend(np.arange(2), rows, np.ones(8, dtype=np.uint8), later)
    assert changed.tolist() == [0, 1]
    assert neighbors.tolist() == [[1, 4, NONE], [0, 2, NONE]]
