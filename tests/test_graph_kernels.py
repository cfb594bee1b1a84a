"""The kernels that build a graph, on points whose edges can be told by hand. What walks one is in test_walk.py."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numba import njit

from vecstore.kernels import dispatch
from vecstore.kernels.cpu import pool

# Kernels call these, and Python cannot.
key_of, node_of, score_of, take = (
    njit(each.py_func) for each in (pool.key_of, pool.node_of, pool.score_of, pool.take)
)
NONE = 0xFFFFFFFF
GRID = np.array([(x, y) for x in range(10) for y in range(10)], dtype=np.float32)


def squares(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    difference = rows[:, None].astype(np.float64) - columns[None]
    return np.square(difference).sum(axis=2)


# -- tables of distances


@pytest.mark.parametrize("dim", [1, 3, 17, 129])
@pytest.mark.parametrize(("rows", "columns", "wanted"), [(1, 1, 1), (5, 8, 8), (97, 37, 8), (200, 130, 3)])
def test_the_nearest_columns_are_those_of_all_distances(rows: int, columns: int, wanted: int, dim: int) -> None:
    """Whole numbers, so that float32 is exact; few of them, so that there are ties, which go by number."""
    random = np.random.default_rng([rows, dim])
    mine, others = (random.integers(0, 3, (count, dim)).astype(np.float32) for count in (rows, columns))
    chosen = np.full((rows, wanted), -7, dtype=np.int32)
    dispatch.cpu().gram.nearest()(mine, others, 0, rows, chosen)
    np.testing.assert_array_equal(chosen, np.argsort(squares(mine, others), axis=1, kind="stable")[:, :wanted])


def test_only_the_rows_that_were_asked_for_are_written() -> None:
    data = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    whole, part = np.full((300, 4), -7, dtype=np.int32), np.full((300, 4), -7, dtype=np.int32)
    nearest = dispatch.cpu().gram.nearest()
    nearest(data, data[:40], 0, 300, whole)
    nearest(data, data[:40], 101, 199, part)
    np.testing.assert_array_equal(part[101:199], whole[101:199])
    assert (part[:101] == -7).all()
    assert (part[199:] == -7).all()


# -- leaves


def edges_of_leaf(
    vectors: np.ndarray, members: Any, nearest: int = 32, alpha: float = 1.2, kept: int = 12
) -> tuple[list[list[int]], list[list[float]]]:
    members = np.array(members, dtype=np.int64)
    ids = np.full((members.size, kept), 7, dtype=np.uint32)
    distances = np.full((members.size, kept), np.nan, dtype=np.float32)
    dispatch.cpu().leaf.leaf_edges()(vectors, members, nearest, np.float32(alpha), ids, distances)
    used = (ids != NONE).sum(axis=1)
    for row, size in zip(ids, used, strict=True):
        assert (row[size:] == NONE).all()
    rows = list(zip(ids.tolist(), distances.tolist(), used.tolist(), strict=True))
    return [row[:size] for row, _, size in rows], [apart[:size] for _, apart, size in rows]


def test_on_a_line_only_the_two_next_to_each_stay() -> None:
    line = np.arange(30, dtype=np.float32)[:, None]
    ids, distances = edges_of_leaf(line, np.arange(10, 20))
    assert ids == [[11], *([n - 1, n + 1] for n in range(11, 19)), [18]]
    assert distances == [[1.0], *([1.0, 1.0] for _ in range(8)), [1.0]]


def around(place: int, steps: list[tuple[int, int]]) -> list[int]:
    x, y = divmod(place, 10)
    inside = [(x + a, y + b) for a, b in steps if 0 <= x + a < 10 and 0 <= y + b < 10]
    return [10 * a + b for a, b in inside]


STRAIGHT = [(-1, 0), (0, -1), (0, 1), (1, 0)]
DIAGONAL = [(-1, -1), (-1, 1), (1, -1), (1, 1)]


@pytest.mark.parametrize(("alpha", "steps"), [(1.2, [STRAIGHT]), (2.2, [STRAIGHT, DIAGONAL])])
def test_on_a_grid_those_stay_that_lie_in_different_directions(
    alpha: float, steps: list[list[tuple[int, int]]]
) -> None:
    """A diagonal neighbour is at 2, and 1 from a straight one: alpha decides. A hundred members are sampled."""
    ids, distances = edges_of_leaf(GRID, np.arange(100), nearest=14, alpha=alpha)
    for place, (row, apart) in enumerate(zip(ids, distances, strict=True)):
        assert row == [other for part in steps for other in around(place, part)]
        assert apart == squares(GRID[place : place + 1], GRID[row])[0].tolist()


def test_a_leaf_keeps_no_more_than_there_is_room_for() -> None:
    whole, _ = edges_of_leaf(GRID, np.arange(100))
    some, _ = edges_of_leaf(GRID, np.arange(100), kept=3)
    assert some == [row[:3] for row in whole]


def test_of_equal_vectors_one_is_enough() -> None:
    ids, _ = edges_of_leaf(np.zeros((5, 4), dtype=np.float32), np.arange(5))
    assert ids == [[1], [0], [0], [0], [0]]
    points = np.repeat(np.array([[0.0], [5.0]], dtype=np.float32), 3, axis=0)
    ids, _ = edges_of_leaf(points, np.arange(6))
    assert ids == [[1, 3], [0, 3], [0, 3], [4, 0], [3, 0], [3, 0]]


def test_a_sample_that_says_too_near_is_not_believed() -> None:
    """Every tenth member is sampled, and only such lie near the first: by them, five would be all there is to see."""
    points = np.full((640, 2), 100, dtype=np.float32) + (np.arange(640, dtype=np.float32) % 7)[:, None]
    points[:50:10] = [[0, 0], [-1, -1], [-2, -1], [-1, -2], [-3, -3]]
    ids, _ = edges_of_leaf(points, np.arange(640))
    assert ids[0][0] == 10
    assert any(other % 10 for other in ids[0])


def test_distances_beyond_all_numbers_leave_edges_that_are_there() -> None:
    points = np.array([[3e38, 3e38], [-3e38, 3e38], [1e30, -1e30], [0, 0], [1, 1]], dtype=np.float32)
    ids, _ = edges_of_leaf(points, np.arange(5))
    assert all(other in range(5) and other != place for place, row in enumerate(ids) for other in row)
    assert ids[3][0] == 4


# -- lists of candidates, and pruning


class Lists:
    """Candidates of each node: what a leaf found, and what pruning takes from it."""

    def __init__(self, count: int, room: int) -> None:
        self.ids = np.full((count, room), 99, dtype=np.uint32)
        self.distances = np.full((count, room), np.nan, dtype=np.float32)
        self.counts = np.zeros(count, dtype=np.int32)

    @classmethod
    def of(cls, vectors: np.ndarray, rows: list[list[int]], room: int) -> Lists:
        lists = cls(len(rows), room)
        for node, row in enumerate(rows):
            lists.counts[node] = len(row)
            lists.ids[node, : len(row)] = row
            lists.distances[node, : len(row)] = squares(vectors[node : node + 1], vectors[row])[0]
        return lists

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.ids, self.distances, self.counts

    def rows(self) -> list[list[tuple[int, float]]]:
        return [
            list(zip(ids[:size].tolist(), distances[:size].tolist(), strict=True))
            for ids, distances, size in zip(self.ids, self.distances, self.counts, strict=True)
        ]


def pruned(vectors: np.ndarray, lists: Lists, alpha: float, room: int, parts: Any = None) -> list[list[int]]:
    edges = np.full((len(lists.ids), room), 99, dtype=np.uint32)
    for part in parts or [(0, len(edges))]:
        dispatch.cpu().prune.prune_all()(vectors, *lists.arrays, np.float32(alpha), *part, edges)
    return edges.tolist()


def everyone(vectors: np.ndarray) -> list[list[int]]:
    order = np.argsort(squares(vectors, vectors), axis=1, kind="stable")
    return [[other for other in row if other != node] for node, row in enumerate(order.tolist())]


@pytest.mark.parametrize(("alpha", "steps"), [(1.2, [STRAIGHT]), (2.2, [STRAIGHT, DIAGONAL])])
def test_pruning_a_grid_leaves_what_a_leaf_leaves(alpha: float, steps: list[list[tuple[int, int]]]) -> None:
    lists = Lists.of(GRID, [row[:14] for row in everyone(GRID)], 14)
    edges = pruned(GRID, lists, alpha, 9)
    for place, row in enumerate(edges):
        wanted = [other for part in steps for other in around(place, part)]
        assert row == wanted + [NONE] * (9 - len(wanted))
    assert pruned(GRID, lists, alpha, 2) == [row[:2] for row in edges]
    assert pruned(GRID, lists, alpha, 9, [(50, 100), (0, 17), (17, 50)]) == edges


def test_alpha_says_how_much_nearer_is_near_enough() -> None:
    """From 0 the points lie at 4 and 9 to the right: squares 16 and 81, and 25 between them."""
    points = np.array([[0.0], [4.0], [9.0]], dtype=np.float32)
    lists = Lists.of(points, [[1, 2], [], []], 2)
    assert [pruned(points, lists, alpha, 2)[0] for alpha in (1.0, 3.2, 3.3)] == [[1, NONE], [1, NONE], [1, 2]]


def test_equal_vectors_take_one_place_of_a_row() -> None:
    points = np.array([[0.0], [0.0], [0.0], [3.0], [3.0], [3.0]], dtype=np.float32)
    assert pruned(points, Lists.of(points, everyone(points), 5), 1.2, 4)[0] == [1, 3, NONE, NONE]
    assert pruned(points, Lists(6, 5), 1.2, 4) == [[NONE] * 4] * 6


def some_leaves() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Leaves of all sorts, as a build's are: the same pairs turn up in several, at the same distance."""
    random = np.random.default_rng(4)
    leaves = []
    for _ in range(6):
        members = np.sort(random.permutation(40)[:20]).astype(np.int64)
        ids = np.stack([random.permutation(members)[:5] for _ in members]).astype(np.uint32)
        ids[random.random(20) < 0.3, 3:] = NONE
        apart = ((members[:, None] * 7919) ^ (ids.astype(np.int64) * 104729)) % 9973
        leaves.append((members, ids, apart.astype(np.float32)))
    return leaves


@pytest.mark.parametrize("room", [3, 30])
def test_lists_collect_the_nearest_of_all_leaves_once(room: int) -> None:
    leaves = some_leaves()
    wanted: list[dict[int, float]] = [{} for _ in range(40)]
    for members, ids, apart in leaves:
        for node, row, distances in zip(members, ids.tolist(), apart.tolist(), strict=True):
            wanted[node].update((a, d) for a, d in zip(row, distances, strict=True) if a != NONE)
    best = [sorted(each.items(), key=lambda pair: pair[1])[:room] for each in wanted]
    collect = dispatch.cpu().prune.collect()
    for order in (leaves, leaves[::-1]):
        for parts in ([(0, 40)], [(25, 40), (0, 3), (3, 25)]):
            lists = Lists(40, room)
            for part, leaf in itertools.product(parts, order):
                collect(*leaf, *part, *lists.arrays)
            assert lists.rows() == best


def test_edges_are_offered_to_where_they_lead() -> None:
    points = np.array([[0.0], [1.0], [5.0], [6.0]], dtype=np.float32)
    edges = np.array([[1, 2], [0, NONE], [3, NONE], [1, NONE]], dtype=np.uint32)
    turn_round = dispatch.cpu().prune.turn_round()
    for parts in ([(0, 4)], [(3, 4), (0, 2), (2, 3)]):
        turned = Lists.of(points, [[1, 2, 3], [0, 2, 3], [3, 1, 0], [2, 1, 0]], 3)
        for part in parts:
            turn_round(edges, points, *part, *turned.arrays)
        # Own edges, nearest first, and the others' that lead here: 3 is no edge of 0's any more.
        assert turned.rows() == [[(1, 1.0), (2, 25.0)], [(0, 1.0), (3, 25.0)], [(3, 1.0), (0, 25.0)], [(2, 1.0), (1, 25.0)]]


def test_a_full_list_gives_up_its_farthest_for_an_edge_from_nearer_by() -> None:
    points = np.array([[0.0], [9.0], [2.0], [30.0]], dtype=np.float32)
    lists = Lists.of(points, [[1], [], [], []], 1)
    edges = np.array([[1], [NONE], [0], [0]], dtype=np.uint32)
    dispatch.cpu().prune.turn_round()(edges, points, 0, 4, *lists.arrays)
    assert lists.rows() == [[(2, 4.0)], [(0, 81.0)], [], []]


def test_only_the_lists_that_were_asked_for_are_turned_round() -> None:
    """Others are another thread's."""
    points = np.arange(4, dtype=np.float32)[:, None]
    lists = Lists.of(points, [[1], [2], [3], [0]], 3)
    edges = np.array([[1], [2], [3], [0]], dtype=np.uint32)
    dispatch.cpu().prune.turn_round()(edges, points, 2, 3, *lists.arrays)
    assert lists.rows() == [[(1, 1.0)], [(2, 1.0)], [(3, 1.0), (1, 1.0)], [(0, 9.0)]]


# -- whole-graph passes


def reached(edges: np.ndarray, entries: Any) -> set[int]:
    seen, waiting = set(map(int, entries)), list(map(int, entries))
    while waiting:
        for other in edges[waiting.pop()].tolist():
            if other != NONE and other not in seen:
                seen.add(other)
                waiting.append(other)
    return seen


def connect(edges: np.ndarray, entries: list[int]) -> tuple[np.ndarray, int]:
    after = edges.copy()
    return after, dispatch.cpu().order.connect()(after, np.array(entries, dtype=np.uint32))


def test_islands_are_joined_where_they_are_near() -> None:
    edges = np.array([[1, NONE], [0, NONE], [3, 1], [2, NONE], [NONE, NONE]], dtype=np.uint32)
    after, added = connect(edges, [0])
    # 2 has an edge to 1, which has room. 4 knows nobody, and hangs on what was joined last, for the farther edge.
    assert added == 2
    assert after.tolist() == [[1, NONE], [0, 2], [3, 4], [2, NONE], [1, NONE]]


def test_what_is_whole_already_stays_as_it_is() -> None:
    ring = (np.arange(9, dtype=np.uint32)[:, None] + 1) % 9
    after, added = connect(ring, [4])
    assert added == 0
    np.testing.assert_array_equal(after, ring)
    alone, added = connect(np.full((1, 3), NONE, dtype=np.uint32), [0])
    assert added == 0
    assert alone.tolist() == [[NONE] * 3]


def test_a_full_row_gives_up_an_edge_and_nothing_is_lost() -> None:
    """All rows are full: what an edge led to that had to go is reached through the node it went for."""
    edges = np.array([[1], [0], [3], [4], [2]], dtype=np.uint32)
    after, _ = connect(edges, [0])
    assert reached(after, [0]) == set(range(5))


@pytest.mark.parametrize("degree", [1, 2, 3, 7])
def test_every_node_of_any_graph_can_be_reached_afterwards(degree: int) -> None:
    for seed in range(150):
        random = np.random.default_rng([seed, degree])
        count = int(random.integers(1, 40))
        edges = random.integers(0, count, (count, degree)).astype(np.uint32)
        fullness = random.choice([0.3, 0.8, 1.0])
        used = random.binomial(degree, fullness, count)
        edges[np.arange(degree) >= used[:, None]] = NONE
        entries = random.permutation(count)[: random.integers(1, 4)].tolist()
        after, added = connect(edges, entries)
        assert reached(after, entries) == set(range(count)), seed
        assert added <= count - len(reached(edges, entries))
        filler = after == NONE
        assert (filler[:, 1:] >= filler[:, :-1]).all(), "a used edge behind a filler is never read"
        assert ((after < count) | filler).all()


def test_cells_are_put_into_chains_of_nearest_ones() -> None:
    random = np.random.default_rng(3)
    points = random.integers(0, 1000, (60, 3)).astype(np.float32)
    members = random.permutation(60).astype(np.int64)
    bounds = np.array([0, 0, 1, 20, 20, 58, 60])
    chained = members.copy()
    for part in [(4, 6), (0, 4)]:
        dispatch.cpu().order.chain_cells()(points, chained, bounds, *part)
    for low, high in itertools.pairwise(bounds):
        cell = chained[low:high].tolist()
        assert sorted(cell) == sorted(members[low:high].tolist())
        assert cell[:1] == members[low:high][:1].tolist()
        for at in range(len(cell) - 1):
            apart = squares(points[cell[at]][None], points[cell[at + 1 :]])[0]
            assert apart[0] == apart.min()


# -- the pool of a walk


def key(score: int, node: int, expanded: bool = False) -> int:
    return score * (1 << 32) + 2 * node + expanded


def filled(keys: list[int], room: int) -> np.ndarray:
    found = np.zeros(room + 1, dtype=np.int64)
    found[: len(keys)] = keys
    return found


def test_keys_hold_scores_of_both_signs_and_nodes() -> None:
    for score, node in itertools.product((-(1 << 31), -5, 0, 7, (1 << 31) - 1), (0, 1, (1 << 31) - 1)):
        made = key_of(score, node)
        assert made == key(score, node)
        assert (score_of(made), node_of(made)) == (score, node)
        assert (score_of(made | 1), node_of(made | 1)) == (score, node)


def test_a_pool_takes_each_node_once_expanded_or_not() -> None:
    keys = [key(-9, 4), key(-2, 1, True), key(-2, 3), key(5, 0, True)]
    before = filled(keys, 6)
    for present in keys:
        assert take(before, 4, 6, present & ~1) == -1
    assert before.tolist() == filled(keys, 6).tolist()
    # Between two of the same score it goes by node, and what stands behind moves up.
    assert take(before, 4, 6, key(-2, 2)) == 2
    assert before[:5].tolist() == [*keys[:2], key(-2, 2), *keys[2:]]


def test_a_full_pool_gives_up_its_farthest() -> None:
    full = filled([key(1, 1, True), key(2, 2), key(3, 3)], 3)
    assert take(full, 3, 3, key(3, 4)) == -1
    assert take(full, 3, 3, key(3, 3)) == -1
    assert take(full, 3, 3, key(0, 9)) == 0
    assert full[:3].tolist() == [key(0, 9), key(1, 1, True), key(2, 2)]


def test_a_pool_is_a_sorted_set_of_the_best() -> None:
    random = np.random.default_rng(8)
    for room in (1, 2, 7, 40):
        held, model, size = filled([], room), [], 0
        for _ in range(400):
            score, node = int(random.integers(-4, 5)), int(random.integers(0, 30))
            place = take(held, size, room, key(score, node))
            known = any(each | 1 == key(score, node, True) for each in model)
            wanted = sorted([*model, key(score, node)])[:room]
            if known or key(score, node) not in wanted:
                assert place == -1
            else:
                assert place == wanted.index(key(score, node))
                model, size = wanted, min(size + 1, room)
            assert held[:size].tolist() == model
            if random.random() < 0.3:
                at = random.integers(0, size)
                held[at] |= 1
                model[at] |= 1
