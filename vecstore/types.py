"""What calls give back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

Id: TypeAlias = str | int
Metadata: TypeAlias = dict[str, Any]


class Record(NamedTuple):
    """A record as it was stored.

    >>> Record("a", None, {"year": 2020}).metadata["year"]
    2020
    """

    id: Id
    vector: NDArray[Any] | None
    metadata: Metadata


class Hit(NamedTuple):
    """One answer of a search: a lower distance is nearer.

    >>> Hit("a", 0.5, {}).distance
    0.5
    """

    id: Id
    distance: float
    metadata: Metadata


class Hits(Sequence[Hit]):
    """The answers to one query, nearest first.

    >>> hits = Hits([Hit("a", 0.0, {}), Hit("b", 0.5, {})])
    >>> hits.ids
    ['a', 'b']
    """

    def __init__(self, hits: Sequence[Hit]) -> None:
        self._hits = list(hits)

    @property
    def ids(self) -> list[Id]:
        return [hit.id for hit in self._hits]

    @property
    def distances(self) -> NDArray[np.float64]:
        return np.array([hit.distance for hit in self._hits], dtype=np.float64)

    @property
    def metadata(self) -> list[Metadata]:
        return [hit.metadata for hit in self._hits]

    def __len__(self) -> int:
        return len(self._hits)

    @overload
    def __getitem__(self, place: int) -> Hit: ...
    @overload
    def __getitem__(self, place: slice) -> Hits: ...
    def __getitem__(self, place: int | slice) -> Hit | Hits:
        return Hits(self._hits[place]) if isinstance(place, slice) else self._hits[place]

    def __iter__(self) -> Iterator[Hit]:
        return iter(self._hits)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hits) and self._hits == other._hits

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        lines = [
            f"  {hit.distance:<12.6g} {hit.id!r}  {hit.metadata or ''}".rstrip() for hit in self._hits[:10]
        ]
        more = [f"  … and {len(self) - 10} more"] if len(self) > 10 else []
        return "\n".join([f"Hits({len(self)})", *lines, *more])


class HitsBatch(Sequence[Hits]):
    """The answers to many queries, one row each.

    Where a query has fewer answers than the widest, its row is filled up with None (or -1 where every
    id is an integer) and infinite distances.
    """

    def __init__(self, rows: Sequence[Hits], width: int, *, integer_ids: bool) -> None:
        self._rows = list(rows)
        self._width = width
        self._integer_ids = integer_ids

    @property
    def ids(self) -> NDArray[Any]:
        whole = self._integer_ids
        ids = np.full((len(self), self._width), -1 if whole else None, dtype=np.int64 if whole else object)
        for place, row in enumerate(self._rows):
            ids[place, : len(row)] = row.ids
        return ids

    @property
    def distances(self) -> NDArray[np.float64]:
        distances = np.full((len(self), self._width), np.inf)
        for place, row in enumerate(self._rows):
            distances[place, : len(row)] = row.distances
        return distances

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> Hits: ...
    @overload
    def __getitem__(self, place: slice) -> HitsBatch: ...
    def __getitem__(self, place: int | slice) -> Hits | HitsBatch:
        return (
            HitsBatch(self._rows[place], self._width, integer_ids=self._integer_ids)
            if isinstance(place, slice)
            else self._rows[place]
        )

    def __repr__(self) -> str:
        return f"HitsBatch({len(self)} queries, up to {self._width} hits each)"


@dataclass(frozen=True)
class VerifyReport:
    """What ``verify`` found.

    >>> VerifyReport(blocks=3, records=1, problems=()).ok
    True
    """

    blocks: int
    records: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems

    def __bool__(self) -> bool:
        return self.ok
