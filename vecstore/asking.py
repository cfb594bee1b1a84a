"""More ways to ask a collection than ``search``: in order, by several vectors, and all records at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from itertools import chain
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vecstore import inputs, order, pairs, variety
from vecstore.config import DEFAULT_K, PAIRS_RECALL
from vecstore.errors import InvalidArgumentError
from vecstore.handle import Handle
from vecstore.planner import Asked
from vecstore.query import answers
from vecstore.query.where import parse
from vecstore.types import Hit, Hits, Neighbours, Pair

T = TypeVar("T")

# What a stream reads of records at a time.
_STREAMED = 100


class Asking(Handle):
    """What ``Collection`` offers beside ``search``."""

    # -- in order

    def stream(
        self,
        query: Any = None,
        *,
        id: Any = None,
        where: Any = None,
        radius: float | None = None,
        recall: float | None = None,
        exact: bool = False,
    ) -> Generator[Hit, None, None]:
        """All hits, nearest first, one by one: take as many as you want, and later more.

        They come from one steady snapshot, which is held until the last one or ``close()``. Each record comes once, and
        in the end all have come. Where the graph is walked, some that a walk missed come late; ``exact`` has none.

        >>> import vecstore
        >>> with vecstore.open("sm.vec", dim=1, metric="l2") as c:
        ...     _ = c.add(["far", "near", "middle"], [[9], [1], [4]])
        ...     hits = c.stream([0])
        ...     next(hits).id, [hit.id for hit in hits]
        ('near', ['middle', 'far'])
        """
        return _one_by_one(self._paged(query, id, where, radius, recall, exact, _STREAMED))

    def pages(
        self,
        query: Any = None,
        size: int = DEFAULT_K,
        *,
        id: Any = None,
        where: Any = None,
        radius: float | None = None,
        recall: float | None = None,
        exact: bool = False,
    ) -> Generator[Hits, None, None]:
        """All hits, nearest first, in ``Hits`` of this size: each goes on where the one before it stopped.

        As ``stream``: one steady snapshot, and the search goes farther only when a page asks for it.

        >>> import vecstore
        >>> with vecstore.open("pg.vec", dim=1, metric="l2") as c:
        ...     _ = c.add(range(5), [[n] for n in range(5)])
        ...     [page.ids for page in c.pages([0], size=2)]
        [[0, 1], [2, 3], [4]]
        """
        return self._paged(query, id, where, radius, recall, exact, inputs.check_k(size, "size"))

    def _paged(
        self,
        query: Any,
        id_: Any,
        where: Any,
        radius: float | None,
        recall: float | None,
        exact: bool,
        size: int,
    ) -> Generator[Hits, None, None]:
        if (query is None) == (id_ is None):
            raise InvalidArgumentError("a stream needs a vector, or id=… of a record: one of the two")
        inputs.check_limits(None, radius, recall, None)
        if id_ is not None and not inputs.is_single(id_):
            raise InvalidArgumentError("a stream is of one query: pass one id")
        vector = None if query is None else self._one(query)
        filter_ = None if where is None else parse(where)
        asked = Asked(None, radius, filter_, recall, None, exact, self._threads)

        def found() -> Generator[Hits, None, None]:
            with self._view() as blocks:
                own, queries = None, vector
                if queries is None:
                    own = answers.slots_of(blocks, inputs.check_ids(id_))
                    queries = answers.queries_of(blocks, own)
                portions = order.in_order(self._planner, blocks, queries, own, asked)
                for page in order.pages(portions, size):
                    yield answers.hits_of_one(blocks, page)

        return self._steady(found)

    def _one(self, query: Any) -> NDArray[Any]:
        queries, _ = inputs.check_queries(query, self._settings)
        if len(queries) != 1:
            raise InvalidArgumentError(f"one query is asked for at a time here, and {len(queries)} came")
        return queries

    def _steady(self, found: Callable[[], Generator[T, None, None]]) -> Generator[T, None, None]:
        """A transaction's state changes under an iterator, so there the whole answer is taken at once."""
        self._check_open()
        return _each(list(found())) if self._in_transaction() else found()

    # -- by several vectors

    def combine(self, items: Any, weights: Any = None) -> NDArray[Any]:
        """One query of several: the weighted sum of vectors, each given itself or by its record's id.

        ``weights`` are equal parts of one if left out; a negative one leads away. Under cosine each vector is brought to
        length one first. Packed bits are voted for.

        >>> import vecstore
        >>> with vecstore.open("cb.vec", dim=2, metric="l2") as c:
        ...     _ = c.add(["a", "b"], [[1, 0], [0, 1]])
        ...     c.combine(["a", "b", [1, 1]], weights=[2, 1, -1]).tolist()
        [1.0, 0.0]
        """
        with self._view() as blocks:
            return variety.combined(blocks, items, weights)

    def recommend(
        self,
        like: Any,
        dislike: Any = (),
        k: int | None = None,
        *,
        where: Any = None,
        recall: float | None = None,
        exact: bool = False,
    ) -> Hits:
        """Records like some and unlike others: both are ids, or vectors. Records that are asked for are left out.

        The query is the mean of the liked, moved away from the mean of the disliked by the way between the two.

        >>> import vecstore
        >>> with vecstore.open("rm.vec", dim=1, metric="l2") as c:
        ...     _ = c.add(range(7), [[n] for n in range(7)])
        ...     c.recommend(like=[3], k=2).ids, c.recommend(like=[3], dislike=[1], k=2).ids
        ([2, 4], [5, 4])
        """
        limit = inputs.check_limits(k, None, recall, None)
        liked, disliked = _listed(like, "like"), _listed(dislike, "dislike")
        if not liked:
            raise InvalidArgumentError("recommend needs an id or a vector to be liked")
        weights = [(2 if disliked else 1) / len(liked)] * len(liked) + [-1 / len(disliked or [0])] * len(
            disliked
        )
        filter_ = None if where is None else parse(where)
        with self._view() as blocks:
            query = self._one(variety.combined(blocks, [*liked, *disliked], weights))
            ids = [item for item in (*liked, *disliked) if inputs.is_single(item)]
            left_out = np.unique(answers.slots_of(blocks, inputs.check_ids(ids)))
            asked = Asked(limit, None, filter_, recall, None, exact, self._threads)
            assert limit is not None
            wanted = asked._replace(k=limit + left_out.size)
            [(slots, distances)], _ = self._planner.answer(blocks, query, None, wanted)
            others = np.flatnonzero(np.isin(slots, left_out, invert=True))[:limit]
            return answers.hits_of_one(blocks, (slots[others], distances[others]))

    # -- all records at once

    def near_duplicates(
        self, radius: float, *, where: Any = None, recall: float | None = None, exact: bool = False
    ) -> Generator[Pair, None, None]:
        """All pairs of records within a distance, each pair once, as they are found.

        Memory holds a batch, whatever the size of the collection. A large one is walked through its graph from every
        record, and ``recall`` is the share of pairs to aim at, 0.99 by default; small ones, and ``exact``, miss none.

        >>> import vecstore
        >>> with vecstore.open("nd.vec", dim=1, metric="l2") as c:
        ...     _ = c.add(["a", "b", "c"], [[0], [5], [0.5]])
        ...     [(pair.first, pair.second, pair.distance) for pair in c.near_duplicates(1)]
        [('a', 'c', 0.5)]
        """
        inputs.check_limits(None, radius, recall, None)
        if radius is None:
            raise InvalidArgumentError(
                "near_duplicates needs a radius: the distance up to which two are alike"
            )
        filter_ = None if where is None else parse(where)
        asked = Asked(
            None, None, filter_, PAIRS_RECALL if recall is None else recall, None, exact, self._threads
        )

        def found() -> Generator[Pair, None, None]:
            with self._view() as blocks:
                for near in pairs.near(self._planner, blocks, float(radius), asked):
                    first, second = (pairs.ids_of(blocks, slots).tolist() for slots in near[:2])
                    yield from map(Pair, first, second, near.distances.tolist())

        return self._steady(found)

    def neighbours(
        self,
        k: int = DEFAULT_K,
        *,
        where: Any = None,
        recall: float | None = None,
        exact: bool = False,
        batch_size: int = 1000,
    ) -> Generator[Neighbours, None, None]:
        """The k nearest others of every record: the k-nearest-neighbour graph of the collection, in batches.

        Each batch has ``ids`` (n,), ``neighbours`` (n, k) and ``distances`` (n, k). With ``where``, records that match
        are asked for their neighbours that match.

        >>> import vecstore
        >>> with vecstore.open("nb.vec", dim=1, metric="l2") as c:
        ...     _ = c.add([1, 2, 3], [[1], [2], [4]])
        ...     [batch.neighbours.tolist() for batch in c.neighbours(k=1)]
        [[[2], [1], [2]]]
        """
        inputs.check_limits(k, None, recall, None)
        size, filter_ = inputs.check_k(batch_size, "batch_size"), None if where is None else parse(where)
        asked = Asked(inputs.check_k(k), None, filter_, recall, None, exact, self._threads)

        def found() -> Generator[Neighbours, None, None]:
            with self._view() as blocks:
                for slots, near in pairs.neighbours(self._planner, blocks, asked, size):
                    batch = answers.hits_of(blocks, near, asked.k)
                    yield Neighbours(pairs.ids_of(blocks, slots), batch.ids, batch.distances)

        return self._steady(found)


def _each(items: list[T]) -> Generator[T, None, None]:
    yield from items


def _one_by_one(pages: Generator[Hits, None, None]) -> Generator[Hit, None, None]:
    """The hits of all pages. Who closes it closes them, and lets go of their snapshot."""
    with contextlib.closing(pages):
        yield from chain.from_iterable(pages)


def _listed(items: Any, name: str) -> list[Any]:
    """One id, one vector, or a list of ids and vectors."""
    if inputs.is_single(items):
        return [items]
    if isinstance(items, np.ndarray) and items.dtype.kind == "f":
        return list(np.atleast_2d(items))
    try:
        return list(items)
    except TypeError:
        raise InvalidArgumentError(f"{name} must be ids or vectors, not {type(items).__name__}") from None
