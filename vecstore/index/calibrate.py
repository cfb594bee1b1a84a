"""From a target of recall to how far a walk goes, measured on the collection's own vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from vecstore.config import MOST_WALKED

# Slack is on squared distances: a walk ends where the next node is that much farther than the k-th best.
SLACKS = (
    1.0,
    1.02,
    1.04,
    1.06,
    1.08,
    1.1,
    1.12,
    1.14,
    1.16,
    1.19,
    1.22,
    1.26,
    1.3,
    1.36,
    1.44,
    1.56,
    1.75,
    2.0,
    2.5,
)
DEFAULT_RECALL = 0.95
# Measured on a sample, so a little more than asked for is aimed at: about one standard error.
_MARGIN = 0.15
# A target that is missed by more than this is not walked for.
_SHORT_OF = 0.03

# A pool that slack ends has room for what lies within the slack, as far as walks were seen to need it.
_ROOM_A_HIT, _ROOM_A_SLACK, _ROOM_A_SLACK_AND_HIT = 2, 200, 24
# How many of the best codes are compared exactly: a few more than k, and the more the wider the walk.
_RERANKED, _RERANKED_A_SLACK = 4, 6


@dataclass(frozen=True)
class Reach:
    """How far a walk goes: places in its pool, how many of the best the slack is counted from, the slack that
    ends it (0: when the pool is expanded), and how many of the best are compared exactly."""

    room: int
    near: int
    slack: float
    reranked: int


def reach_of_slack(k: int, slack: float) -> Reach:
    wide = slack - 1
    room = math.ceil(_ROOM_A_HIT * k + wide * (_ROOM_A_SLACK + _ROOM_A_SLACK_AND_HIT * k))
    reranked = math.ceil(k * (1 + _RERANKED_A_SLACK * wide)) + _RERANKED
    return Reach(room, k, slack, min(room, reranked))


def reach_of_list(k: int, search_list: int) -> Reach:
    """The expert's: a pool of this size, expanded wholly, and half of it compared exactly."""
    room = max(k, search_list)
    return Reach(room, k, 0.0, min(room, max(k + _RERANKED, room // 2)))


@dataclass(frozen=True)
class Curve:
    """The recall of the k nearest that was measured at each slack."""

    slacks: tuple[float, ...]
    recalls: tuple[float, ...]
    k: int

    def slack(self, target: float) -> float:
        """The least slack that reached this recall, between two that were measured."""
        # What a wider walk lost by chance is taken for what a narrower one had.
        found = np.maximum.accumulate(self.recalls)
        if found[-1] < target:
            return self.slacks[-1]
        place = int(np.argmax(found >= target))
        if place == 0:
            return self.slacks[0]
        low, high = found[place - 1], found[place]
        share = (target - low) / (high - low)
        return float(self.slacks[place - 1] + share * (self.slacks[place] - self.slacks[place - 1]))

    def doubted(self, share: float) -> Curve:
        """The same, had so many more been missed.

        >>> Curve((1.0,), (0.9,), 10).doubted(0.5).recalls
        (0.85,)
        """
        recalls = tuple(round(max(0.0, 1.0 - (1.0 + share) * (1.0 - recall)), 6) for recall in self.recalls)
        return Curve(self.slacks, recalls, self.k)

    def to_dict(self) -> dict[str, Any]:
        return {"slacks": list(self.slacks), "recalls": list(self.recalls), "k": self.k}

    @classmethod
    def from_dict(cls, content: object) -> Curve:
        if not isinstance(content, dict):
            raise ValueError("a calibration that is none")
        slacks, recalls = (tuple(float(x) for x in content[name]) for name in ("slacks", "recalls"))
        k = content["k"]
        sound = type(k) is int and 1 <= k <= MOST_WALKED and len(slacks) == len(recalls) > 0
        if not sound or not all(1.0 <= x <= 100.0 for x in slacks) or list(slacks) != sorted(slacks):
            raise ValueError("a calibration that makes no sense")
        if not all(0.0 <= x <= 1.0 for x in recalls):
            raise ValueError("a calibration that makes no sense")
        return cls(slacks, recalls, k)


@dataclass(frozen=True)
class Calibration:
    """What was measured for a few answers, and perhaps for many: a curve each.

    >>> few, many = Curve((1.0, 1.2), (0.8, 1.0), k=10), Curve((1.0, 1.1), (0.9, 1.0), k=100)
    >>> [round(Calibration((few, many)).reach(k, 0.95).slack, 3) for k in (1, 10, 30, 100)]
    [1.157, 1.157, 1.11, 1.058]
    """

    curves: tuple[Curve, ...]

    @property
    def most(self) -> int:
        """The largest number of answers that was measured for."""
        return self.curves[-1].k

    def reach(self, k: int, recall: float | None) -> Reach:
        target = DEFAULT_RECALL if recall is None else recall
        target += _MARGIN * (1.0 - target)
        # The few nearest say little about how far there is to go: a walk for fewer is one for so many.
        k = max(k, self.curves[0].k)
        places = np.log([curve.k for curve in self.curves])
        slack = np.interp(np.log(k), places, [curve.slack(target) for curve in self.curves])
        return reach_of_slack(k, float(slack))

    def reaches(self, recall: float | None) -> bool:
        """Whether a walk finds about this share at all: codes of some data tell too little apart."""
        target = DEFAULT_RECALL if recall is None else recall
        return max(self.curves[0].recalls) >= target - _SHORT_OF

    def to_dict(self) -> dict[str, Any]:
        first, *more = (curve.to_dict() for curve in self.curves)
        return first | {"more": more}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Calibration:
        """Read what `to_dict` gave; anything else is a ValueError."""
        first = Curve.from_dict(content)
        curves = (first, *map(Curve.from_dict, content.get("more", ())))
        if any(one.k >= other.k for one, other in pairwise(curves)):
            raise ValueError("a calibration that makes no sense")
        return cls(curves)

    @classmethod
    def mean(cls, parts: Sequence[Calibration]) -> Calibration:
        """Of samples of one size."""
        return cls(tuple(_mean(curves) for curves in zip(*(part.curves for part in parts), strict=True)))


def _mean(curves: Sequence[Curve]) -> Curve:
    # One that ended early was whole by then.
    longest = max(curves, key=lambda curve: len(curve.slacks))
    recalls = [
        [curve.recalls[min(step, len(curve.recalls) - 1)] for curve in curves]
        for step in range(len(longest.slacks))
    ]
    return Curve(longest.slacks, tuple(float(np.mean(each)) for each in recalls), longest.k)


def measured(recall: Callable[[float], float], k: int, enough: float = 0.9995) -> Curve:
    """Measure the recall of more and more slack, until it is nearly whole."""
    slacks: list[float] = []
    recalls: list[float] = []
    for slack in SLACKS:
        slacks.append(slack)
        recalls.append(recall(slack))
        if recalls[-1] >= enough:
            break
    return Curve(tuple(slacks), tuple(recalls), k)


# Before anything was measured: a walk that ends late.
UNKNOWN = Calibration((Curve((1.2,), (1.0,), 10),))
