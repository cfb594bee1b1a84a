"""Groups of copies as stars: the best picture that is in no group yet takes all of its copies that are in none.

So only pictures that are kept are asked for what is like them, and a thousand copies of one are compared with that one, not
with each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .alike import Alike, Candidates, Numbers
from .confirming import Confirming, Distances

# So many pictures are asked for what is like them at once, and so many vectors held at once.
_ASKED = 512
_HELD = 8192
_AT_ONCE = 1024
# Where one of so many candidates is a copy, those behind the first are looked at as well.
_DENSE = 4

_distance = attrgetter("distance")


class Like(NamedTuple):
    """A copy: its place, "near" or "mirrored", and how far it is."""

    place: int
    kind: str
    distance: float


class Stars:
    """The stars of a row of pictures, best first. Iterated once: every picture that no better one has taken, with its copies."""

    def __init__(self, alike: Alike, confirming: Confirming, row: Numbers) -> None:
        self._alike, self._confirming, self._row = alike, confirming, row
        self._taken = np.zeros(len(row), np.bool_)

    def __iter__(self) -> Iterator[tuple[int, list[Like]]]:
        for start in range(0, len(self._row), _ASKED):
            asked = start + np.flatnonzero(~self._taken[start : start + _ASKED])
            for part in self._parts(asked.tolist(), self._alike.of(asked)):
                asked_for = [
                    np.append(each.near, place) for place, each in part if len(each.near) or each.more
                ]
                held = np.unique(np.concatenate(asked_for)) if asked_for else np.zeros(0, np.int64)
                vectors = self._confirming.vectors(self._row[held])
                for place, candidates in part:
                    if not self._taken[place]:
                        copies = self._near(place, candidates, held, vectors) + self._mirrored(
                            place, candidates
                        )
                        yield (
                            int(self._row[place]),
                            [like._replace(place=int(self._row[like.place])) for like in copies],
                        )

    def _parts(
        self, places: list[int], candidates: list[Candidates]
    ) -> Iterator[list[tuple[int, Candidates]]]:
        """As many at once as their vectors have room; what was taken meanwhile is left out."""
        part: list[tuple[int, Candidates]] = []
        held = 0
        for place, each in zip(places, candidates, strict=True):
            near = each.near[~self._taken[each.near]]
            if part and held + len(near) >= _HELD:
                yield part
                part, held = [], 0
                near = each.near[~self._taken[each.near]]
            if self._taken[place]:
                continue
            part.append((place, replace(each, near=near)))
            held += len(near) + 1
        if part:
            yield part

    def _near(
        self, place: int, candidates: Candidates, held: Numbers, vectors: NDArray[np.float32]
    ) -> list[Like]:
        if not len(candidates.near) and not candidates.more:
            return []
        own = vectors[np.searchsorted(held, place)]
        places = candidates.near[~self._taken[candidates.near]]
        copies = self._within(places, 1 - vectors[np.searchsorted(held, places)] @ own, "near")
        if candidates.more and len(copies) * _DENSE >= len(places):
            apart = self._confirming.near(int(self._row[place]))
            copies += self._rest(self._alike.every(place), candidates.near, apart, "near")
        return sorted(copies, key=_distance)

    def _mirrored(self, place: int, candidates: Candidates) -> list[Like]:
        places = candidates.mirrored[~self._taken[candidates.mirrored]]
        if not len(places) and not candidates.more_mirrored:
            return []
        apart = self._confirming.mirrored(int(self._row[place]))
        copies = self._within(places, apart(self._row[places]), "mirrored") if len(places) else []
        if candidates.more_mirrored and len(copies) * _DENSE >= len(places):
            copies += self._rest(self._alike.every_mirrored(place), candidates.mirrored, apart, "mirrored")
        return sorted(copies, key=_distance)

    def _rest(
        self, every: Numbers, seen: Numbers, apart: Callable[[Numbers], Distances], kind: str
    ) -> list[Like]:
        """Of a picture with very many copies, those that were not among the first; until hardly any of them is one."""
        left = every[~self._taken[every] & ~np.isin(every, seen)]
        copies: list[Like] = []
        for start in range(0, len(left), _AT_ONCE):
            places = left[start : start + _AT_ONCE]
            found = self._within(places, apart(self._row[places]), kind)
            copies += found
            if len(found) * 2 * _DENSE < len(places):
                break
        return copies

    def _within(self, places: Numbers, apart: Distances, kind: str) -> list[Like]:
        """Those that are near enough, nearest first; they are taken."""
        found = np.flatnonzero(apart <= self._confirming.radius)
        found = found[np.argsort(apart[found], kind="stable")]
        self._taken[places[found]] = True
        return [Like(int(places[at]), kind, max(0.0, float(apart[at]))) for at in found]
