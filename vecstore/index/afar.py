"""Walks on a graphics card: queries are prepared here, the card finds nodes, and their vectors are compared here.

So pending and deleted records, damage and distances are what they are for walks on the CPU.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from vecstore.index.calibrate import Reach
from vecstore.index.walk import Besides, DamageFound, Effort, Job, Walker, damage
from vecstore.kernels import dispatch

if TYPE_CHECKING:
    from vecstore.kernels.cuda.beam import Berth, Found, Held

# So many queries keep a card busy, and are prepared and compared while others walk. No more of its memory than this
# is taken for what they are prepared to.
_AT_ONCE, _STATE_BYTES, _LEAST_AT_ONCE = 4096, 64 << 20, 64
# Fewer queries than this for a thread are not worth handing to one.
_QUERIES_A_THREAD = 32


class Afar:
    """Walks over a graph that a card holds. One thread at a time may use it."""

    def __init__(self, held: Held) -> None:
        self.held = held
        self._berths: tuple[int, list[Berth]] = 0, []

    def release(self) -> None:
        """Give back what walks had of the card."""
        for berth in self._berths[1]:
            berth.release()
        self._berths = 0, []

    def renew(self, held: Held) -> None:
        """Go on with the same graph as a later snapshot has it."""
        self.held = held
        for berth in self._berths[1]:
            berth.held = held

    def takes(self, reach: Reach) -> bool:
        """Whether the card has room for walks that go so far."""
        return reach.room <= dispatch.cuda().beam.MOST_ROOM and bool(self._ready(reach.room))

    def run(self, walker: Walker, job: Job, reach: Reach, besides: Besides) -> Effort:
        """As the walker itself does it."""
        berths = self._ready(reach.room)
        most = berths[0].most
        under_way: list[tuple[Job, Berth]] = []
        hops = scores = 0
        for turn, start in enumerate(range(0, len(job.queries), most)):
            part, berth = job.rows(slice(start, start + most)), berths[turn % len(berths)]
            if len(under_way) == len(berths):
                counted = self._land(walker, *under_way.pop(0), reach, besides)
                hops, scores = hops + counted[0], scores + counted[1]
            self._prepare(walker, part, berth, besides)
            berth.send(len(part.queries), reach.near, reach.slack)
            under_way.append((part, berth))
        for part, berth in under_way:
            counted = self._land(walker, part, berth, reach, besides)
            hops, scores = hops + counted[0], scores + counted[1]
        return Effort(hops, scores, len(job.queries) * reach.reranked)

    def _ready(self, room: int) -> list[Berth]:
        """Two berths for walks with such a pool; fewer where the card has no room for them."""
        if self._berths[0] == room:
            return self._berths[1]
        beam, held = dispatch.cuda().beam, self.held
        self.release()
        most = min(_AT_ONCE, _STATE_BYTES // beam.state_bytes(held.kind, held.code_bytes))
        while most >= _LEAST_AT_ONCE and 2 * beam.Berth.nbytes(held, most, room) > held.card.room():
            most //= 2
        if most >= _LEAST_AT_ONCE:
            self._berths = room, [beam.Berth(held, most, room) for _ in range(2)]
        return self._berths[1]

    def _prepare(self, walker: Walker, part: Job, berth: Berth, besides: Besides) -> None:
        kernel = dispatch.cpu().ends.prepare(walker.settings.dtype)
        count = len(part.queries)
        states, offsets = berth.states[:count], berth.offsets[:count]
        berth.skips[:count] = part.skips

        def prepare(cut: slice) -> None:
            kernel(walker.frame, walker.codec, part.queries[cut], states[cut], offsets[cut])

        _spread(prepare, count, besides)

    def _land(
        self, walker: Walker, part: Job, berth: Berth, reach: Reach, besides: Besides
    ) -> tuple[int, int]:
        """Compares what was found; the hops and scores that it took."""
        beam, found = dispatch.cuda().beam, berth.fetch()
        wrong = np.flatnonzero(found.counts[:, beam.STATUS])
        if wrong.size:
            node = int(found.counts[wrong[0], beam.NODE])
            number = int(walker.frame["graph_first"][0]) + node // int(walker.frame["graph_rows"][0])
            raise DamageFound(graph=True, number=number, foreign=True)
        walker.frame["cold"][0] = walker.watch.cold
        _spread(
            lambda cut: _finish(walker, part.rows(cut), found, cut, reach, besides),
            len(part.queries),
            besides,
        )
        walker.watch.look()
        hops, scores = found.counts[:, [beam.HOPS, beam.SCORES]].sum(axis=0, dtype=np.int64).tolist()
        return hops, scores


def _finish(walker: Walker, part: Job, found: Found, cut: slice, reach: Reach, besides: Besides) -> None:
    counters = np.zeros(4, dtype=np.int64)
    status = dispatch.cpu().ends.finish(walker.settings.dtype)(
        walker.frame,
        walker.weights,
        walker.codec,
        besides.mask,
        besides.others,
        part.queries,
        found.pools[cut],
        found.sizes[cut],
        reach.reranked,
        *part[2:],
        counters,
    )
    if status:
        raise damage(status, int(counters[3]))


def _spread(work: Any, count: int, besides: Besides) -> None:
    """Does it for all queries, in more parts than there are threads."""
    threads = min(besides.threads, count // _QUERIES_A_THREAD)
    if threads <= 1:
        work(slice(0, count))
        return
    bounds = np.linspace(0, count, min(count, 4 * threads) + 1).astype(int).tolist()
    list(besides.executor(threads).map(work, [slice(low, high) for low, high in pairwise(bounds)]))
