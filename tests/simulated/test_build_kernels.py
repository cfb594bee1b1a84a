"""The kernels that build a graph on a card, against definitions and against their twins on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vecstore.kernels import dispatch
from vecstore.kernels.cuda import gram, leaf, prune
from vecstore.kernels.cuda.card import Card

NONE = 0xFFFFFFFF


def lattice(count: int, dim: int, seed: int = 0, most: int = 9) -> np.ndarray:
    """Whole numbers: all sums are exact in float32, so every way of summing up gives the same."""
    return np.random.default_rng([seed, dim]).integers(0, most, (count, dim)).astype(np.float32)


def squares(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    difference = rows[:, None].astype(np.float64) - columns[None]
    return np.square(difference).sum(axis=2)


def groups_of(card: Card, vectors: np.ndarray, members: list[list[int]]) -> gram.Groups:
    sizes = np.array([len(each) for each in members], dtype=np.int64)
    flat = np.array([one for each in members for one in each], dtype=np.uint32)
    firsts = np.cumsum(sizes) - sizes
    return gram.Groups(
        card.put(vectors), card.put(flat), card.put(firsts), card.put(sizes), int(sizes.max(initial=0))
    )


def tables(
    card: Card, left: gram.Groups, right: gram.Groups, shapes: list[tuple[int, int]], origins: list[int]
) -> list[np.ndarray]:
    sizes = np.array([height * width for height, width in shapes], dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    out = card.put(np.full(int(sizes.sum()), -1, dtype=np.float32))
    gram.tables(left, right, card.put(starts), card.put(np.array(origins, dtype=np.int64)), out)
    flat = card.get(out)
    return [
        flat[at : at + size].reshape(shape) for at, size, shape in zip(starts, sizes, shapes, strict=True)
    ]


# -- tables of distances


@pytest.mark.parametrize("dim", [1, 7, 19])
def test_tables_have_all_distances(card: Card, dim: int) -> None:
    vectors = lattice(40, dim)
    members = [list(range(21)), [3], [], [39, 0, 17, 8, 9, 1, 2, 30, 31, 32]]
    groups = groups_of(card, vectors, members)
    shapes = [(len(each), len(each)) for each in members]
    for origins in ([-1, -1, -1, -1], [0, 3, -1, 39]):
        for found, each in zip(tables(card, groups, groups, shapes, origins), members, strict=True):
            np.testing.assert_array_equal(found, squares(vectors[each], vectors[each]))


def test_tables_between_two_sets(card: Card) -> None:
    vectors, leaders = lattice(30, 11), lattice(9, 11, seed=1)
    left, right = groups_of(card, leaders, [list(range(9))]), groups_of(card, vectors, [list(range(30))])
    (found,) = tables(card, left, right, [(9, 30)], [-1])
    np.testing.assert_array_equal(found, squares(leaders, vectors))


def test_a_distance_is_the_same_both_ways_and_an_origin_keeps_it_exact(card: Card) -> None:
    random = np.random.default_rng(3)
    vectors = (1000 + random.normal(size=(20, 13))).astype(np.float32)
    groups = groups_of(card, vectors, [list(range(20))])
    near, far = (tables(card, groups, groups, [(20, 20)], [origin])[0] for origin in (4, -1))
    for found in (near, far):
        np.testing.assert_array_equal(found, found.T)
        assert (np.diag(found) == 0).all()
    np.testing.assert_allclose(near, squares(vectors, vectors), rtol=1e-5, atol=1e-5)
    assert np.abs(far - squares(vectors, vectors)).max() > 0.1


@pytest.mark.filterwarnings("ignore:.*encountered")
def test_what_is_no_number_lies_infinitely_far(card: Card) -> None:
    vectors = np.array([[3e38, 3e38], [-3e38, 3e38], [0, 0], [1, 1]], dtype=np.float32)
    groups = groups_of(card, vectors, [[0, 1, 2, 3]])
    (found,) = tables(card, groups, groups, [(4, 4)], [-1])
    assert found[2, 3] == 2
    assert np.isinf(found[0, 1:]).all()
    assert not np.isnan(found).any()


@pytest.mark.parametrize(("rows", "leaders", "wanted"), [(1, 1, 1), (5, 8, 8), (37, 20, 4)])
def test_the_nearest_leaders_are_those_of_all_distances(
    card: Card, rows: int, leaders: int, wanted: int
) -> None:
    """Of few values, so that there are ties, which go by number."""
    apart = np.random.default_rng(rows).integers(0, 4, (leaders, rows)).astype(np.float32)
    apart[0, 0] = np.inf
    chosen = card.put(np.full((rows, wanted), -7, dtype=np.int32))
    gram.nearest(card.put(apart.reshape(-1)), leaders, chosen)
    np.testing.assert_array_equal(card.get(chosen), np.argsort(apart.T, axis=1, kind="stable")[:, :wanted])


@pytest.mark.parametrize("count", [1, 3, 11])
def test_a_chain_goes_to_the_nearest_of_the_rest(card: Card, count: int) -> None:
    vectors = lattice(count, 2, most=5)
    table, order = squares(vectors, vectors).astype(np.float32), card.empty(count, np.int32)
    gram.chain(card.put(table.reshape(-1)), card.put(np.zeros(count, dtype=np.uint8)), order)
    at, left, expected = 0, set(range(count)), []
    while left:
        at = min(left, key=lambda other: (table[at, other], other))
        left.remove(at)
        expected.append(at)
    assert card.get(order).tolist() == expected


# -- leaves


def edges_of_leaves(
    card: Card,
    vectors: np.ndarray,
    leaves: list[list[int]],
    low: int = 0,
    high: int | None = None,
    looked_at: int = 8,
    kept: int = 4,
) -> tuple[np.ndarray, np.ndarray]:
    """Each vector is in the same number of leaves, as often as it stands here."""
    fanout = sum(len(each) for each in leaves) // len(vectors)
    high = len(vectors) if high is None else high
    turn = [0] * len(vectors)
    places = []
    for each in leaves:
        for member in each:
            places.append(member * fanout + turn[member])
            turn[member] += 1
    groups = groups_of(card, vectors, leaves)
    sizes = np.array([len(each) for each in leaves], dtype=np.int64)
    starts = card.put(np.cumsum(sizes * sizes) - sizes * sizes)
    table = card.empty(int((sizes * sizes).sum()), np.float32)
    gram.tables(groups, groups, starts, card.put(np.array([each[0] for each in leaves])), table)
    ids = card.put(np.full((high - low, fanout * kept), 7, dtype=np.uint32))
    distances = card.put(np.full(ids.shape, np.nan, dtype=np.float32))
    owners = card.put(np.repeat(np.arange(len(leaves), dtype=np.int32), sizes))
    how = low, fanout, looked_at, kept, np.float32(1.2)
    leaf.edges(table, starts, groups, owners, card.put(np.array(places)), *how, ids, distances)
    return card.get(ids), card.get(distances)


def expected_edges(vectors: np.ndarray, members: list[int], own: int, looked_at: int, kept: int) -> list[int]:
    apart = squares(vectors[members], vectors[members]).astype(np.float32)
    others = [other for other in range(len(members)) if other != own]
    near = sorted(others, key=lambda other: (apart[own, other], other))[:looked_at]
    chosen: list[int] = []
    for other in near:
        if all(np.float32(1.2) * apart[one, other] > apart[own, other] for one in chosen):
            chosen.append(other)
    return [members[other] for other in chosen[:kept]]


def test_edges_of_leaves_are_the_nearest_in_different_directions(card: Card) -> None:
    vectors = lattice(26, 3, most=5)
    leaves = [list(range(14)), list(range(14, 25)), [25], [*range(0, 26, 2)], [*range(1, 26, 2)]]
    ids, distances = edges_of_leaves(card, vectors, leaves)
    for node in range(26):
        for turn, each in enumerate(one for one in leaves if node in one):
            expected = expected_edges(vectors, each, each.index(node), 8, 4)
            part = slice(4 * turn, 4 * turn + 4)
            assert ids[node, part].tolist() == expected + [NONE] * (4 - len(expected))
            found = distances[node, part][: len(expected)]
            assert found.tolist() == squares(vectors[[node]], vectors[expected])[0].tolist()
    whole = ids.copy()
    part_ids, _ = edges_of_leaves(card, vectors, leaves, 9, 20)
    np.testing.assert_array_equal(part_ids, whole[9:20])


# -- lists of candidates, and pruning


def lists_of(vectors: np.ndarray, room: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Some candidates of each node, nearest first, ties by number."""
    random = np.random.default_rng(seed)
    count = len(vectors)
    ids = np.full((count, room), 99999, dtype=np.uint32)
    distances = np.full((count, room), np.nan, dtype=np.float32)
    counts = random.integers(0, room + 1, count).astype(np.int32)
    for node in range(count):
        some = random.permutation([other for other in range(count) if other != node])[: counts[node]]
        apart = squares(vectors[[node]], vectors[some])[0]
        order = np.lexsort((some, apart))
        ids[node, : some.size], distances[node, : some.size] = some[order], apart[order]
        counts[node] = some.size
    return ids, distances, counts


def rows_of(lists: tuple[np.ndarray, np.ndarray, np.ndarray]) -> list[list[tuple[float, int]]]:
    return [
        list(zip(distances[:size].tolist(), ids[:size].tolist(), strict=True))
        for ids, distances, size in zip(*lists, strict=True)
    ]


@pytest.mark.parametrize("room", [3, 24])
def test_lists_collect_the_nearest_of_all_leaves_once(card: Card, room: int) -> None:
    random = np.random.default_rng(5)
    apart = random.integers(0, 9, 30).astype(np.float32)
    found = random.integers(0, 30, (9, 12)).astype(np.uint32)
    found[2] = found[3, 5:] = NONE
    ids, distances, counts = (
        card.empty((9, room), np.uint32),
        card.empty((9, room), np.float32),
        card.empty(9, np.int32),
    )
    prune.collect(card.put(found), card.put(apart[np.minimum(found, 29)]), ids, distances, counts)
    rows = rows_of((card.get(ids), card.get(distances), card.get(counts)))
    for row, candidates in zip(rows, found, strict=True):
        distinct = set(candidates.tolist()) - {NONE}
        assert row == sorted((float(apart[each]), each) for each in distinct)[:room]


@pytest.mark.parametrize(("degree", "alpha"), [(5, 1.2), (12, 2.0)])
def test_pruning_is_the_cpu_s(card: Card, degree: int, alpha: float) -> None:
    vectors = lattice(40, 5)
    vectors[7] = vectors[8]
    lists = lists_of(vectors, 12)
    expected = np.empty((40, degree), dtype=np.uint32)
    dispatch.cpu().prune.prune_all()(vectors, *lists, np.float32(alpha), 0, 40, expected)
    ids, distances, counts = lists
    members = [row[:size].tolist() for row, size in zip(ids, counts, strict=True)]
    groups = groups_of(card, vectors, members)
    starts = card.put(np.arange(40, dtype=np.int64) * 144)
    table = card.empty(40 * 144, np.float32)
    gram.tables(groups, groups, starts, card.put(np.arange(40)), table)
    edges = card.empty((40, degree), np.uint32)
    prune.prune(table, card.put(ids), card.put(distances), card.put(counts), np.float32(alpha), edges)
    np.testing.assert_array_equal(card.get(edges), expected)


def turned(card: Card, edges: np.ndarray, lists: Any) -> list[list[tuple[float, int]]]:
    incoming = card.put(np.zeros(len(edges), dtype=np.int64))
    leads = card.put(edges)
    prune.count(leads, incoming)
    sizes = card.get(incoming)
    used = edges[edges != NONE]
    np.testing.assert_array_equal(sizes, np.bincount(used, minlength=len(edges)))
    on_card = [card.put(each) for each in lists]
    room = card.empty(used.size, np.uint32), card.empty(used.size, np.float32)
    prune.turn_round(leads, *on_card, card.put(np.cumsum(sizes) - sizes), *room)
    return rows_of(tuple(card.get(each) for each in on_card))  # type: ignore[arg-type]


@pytest.mark.parametrize("room", [10, 40])
def test_edges_come_back_as_on_the_cpu(card: Card, room: int) -> None:
    vectors = lattice(40, 6, most=50)
    lists = lists_of(vectors, room)
    edges = np.empty((40, 8), dtype=np.uint32)
    dispatch.cpu().prune.prune_all()(vectors, *lists, np.float32(1.2), 0, 40, edges)
    found = turned(card, edges, lists)
    dispatch.cpu().prune.turn_round()(edges, vectors, 0, 40, *lists)
    for mine, other in zip(found, rows_of(lists), strict=True):
        assert mine == sorted(mine)
        # Where two are equally far, only one of which there is room for, the CPU may have taken the other.
        assert [apart for apart, _ in mine] == [apart for apart, _ in other]
        last = mine[-1][0] if len(mine) == room else np.inf
        assert {each for each in mine if each[0] < last} == {each for each in other if each[0] < last}
