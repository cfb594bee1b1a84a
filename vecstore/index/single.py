"""Searches for one vector at a time: all that is the same from call to call is laid out once."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vecstore.config import Settings
from vecstore.index.calibrate import Reach
from vecstore.index.watch import Watch
from vecstore.kernels import dispatch


class Walk(Protocol):
    """What a ``Walker`` knows of its graph."""

    @property
    def settings(self) -> Settings: ...
    @property
    def frame(self) -> NDArray[np.void]: ...
    @property
    def weights(self) -> NDArray[np.uint64]: ...
    @property
    def codec(self) -> tuple[Any, ...]: ...
    @property
    def watch(self) -> Watch: ...

    def trusted(self, kernel: Any) -> Any: ...


class Single:
    """Searches for k neighbours of one vector, as far as one reach. Threads may share it."""

    def __init__(self, walk: Walk, mask: NDArray[np.uint8], others: NDArray[np.int64], k: int, reach: Reach, wanted: int) -> None:
        kernels = dispatch.cpu()
        given = walk.frame, walk.weights, walk.codec, mask, others
        far = reach.near, reach.room, reach.slack, reach.reranked, wanted
        self._kernel = kernels.compile.trusting(kernels.beam.search_one(walk.settings.dtype), *given, *far)
        self._cold, self._watch = walk.frame["cold"], walk.watch
        self._frame, self._width, self._k, self._reach = walk.frame, len(walk.codec[2]), k, reach
        # One for each call that was ever under way beside others.
        self._idle: list[tuple[Any, NDArray[np.int64], NDArray[np.int64]]] = []

    def search(self, query: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
        """(slots, distances), nearest first; None where ``Walker.search`` must be asked.

        The query is contiguous and aligned, of float32 or of packed bits.
        """
        try:
            room = self._idle.pop()
        except IndexError:
            room = self._scratch(query)
        scratch, slots, counters = room
        distances = np.empty(self._k)
        self._cold[0] = self._watch.cold
        found = self._kernel(query, scratch, slots, distances, counters)
        self._watch.glance()
        answer = None if found < 0 else (slots[:found].copy(), distances[:found])
        self._idle.append(room)
        return answer

    def _scratch(self, query: NDArray[Any]) -> tuple[Any, NDArray[np.int64], NDArray[np.int64]]:
        reach = self._reach
        scratch = dispatch.cpu().beam.scratch(self._frame, self._width, query, reach.room, reach.reranked)
        return scratch, np.empty(self._k, dtype=np.int64), np.zeros(4, dtype=np.int64)


class Lost(Exception):  # noqa: N818 – no error: the way that is left is asked then
    """A walk gave up: few of those near its query were chosen."""


class SingleAmong:
    """Searches for k neighbours of one vector among chosen ones, by a kernel that answers many. Threads may share it.

    ``among`` is what the kernel takes of the chosen, ``ways`` how far it looks.
    """

    def __init__(
        self, walk: Walk, kernel: Any, among: NDArray[Any], others: NDArray[np.int64], k: int, ways: NDArray[np.void]
    ) -> None:
        self._kernel, self._among = walk.trusted(kernel), (among, others)
        self._lost: int = dispatch.cpu().chosen.LOST
        self._ways, self._k = ways, k
        self._cold, self._watch = walk.frame["cold"], walk.watch
        # One for each call that was ever under way beside others.
        self._idle: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]] = []

    def search(self, query: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
        """(slots, distances), nearest first; None where it met damage. The query is one that the walk ``takes``."""
        try:
            room = self._idle.pop()
        except IndexError:
            room = np.empty((1, self._k), dtype=np.int64), np.empty(1, dtype=np.int64), np.zeros(4, dtype=np.int64)
        slots, sizes, counters = room
        distances = np.empty((1, self._k))
        self._cold[0] = self._watch.cold
        self._kernel(*self._among, query[None], self._ways, slots, distances, sizes, counters)
        self._watch.glance()
        found = sizes.item()
        answer = None if found < 0 else (slots[0, :found].copy(), distances[0, :found])
        self._idle.append(room)
        if found == self._lost:
            raise Lost
        return answer
