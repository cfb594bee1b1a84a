"""What calls give back."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from vecstore.frames import Framed, html_table, ids_column, shortened, with_metadata

Id: TypeAlias = str | int
Metadata: TypeAlias = dict[str, Any]
# A record's bytes, its mark, and whether its id is a text, to its id and metadata.
Unpack: TypeAlias = Callable[[bytes | memoryview, int, bool], tuple[Id, Metadata]]


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


class Pair(NamedTuple):
    """Two records that are near each other.

    >>> Pair("a", "b", 0.5).second
    'b'
    """

    first: Id
    second: Id
    distance: float


class Neighbours(NamedTuple):
    """The nearest others of some records: row i of both matrices is of ``ids[i]``.

    Where there are fewer others, a row is filled up as in a batch of hits: None (or -1), and infinite distances.
    """

    ids: NDArray[Any]
    neighbours: NDArray[Any]
    distances: NDArray[np.float64]


class Copied:
    """What a search copied out of the file for all of its hits; a record is decoded when it is asked for.

    Record i is ``packed[ends[i - 1] : ends[i]]``. Its id is the mark, or where ``text`` is set a text that
    the record has. A hit that was made is kept: who changes its metadata finds the change again.
    """

    def __init__(
        self,
        distances: NDArray[np.float64],
        marks: NDArray[np.int64],
        text: NDArray[np.uint8] | None,
        ends: NDArray[np.int64],
        packed: NDArray[np.uint8],
        unpack: Unpack | None,
    ) -> None:
        self.distances = distances
        # Where all ids are integers, these are they.
        self.integers = marks if text is None else None
        self._marks, self._text, self._ends, self._packed = marks, text, ends, packed
        self._unpack = unpack
        self._made: dict[int, Hit] = {}

    @classmethod
    def of(cls, hits: list[Hit]) -> Copied:
        """From hits that are made already."""
        distances = np.array([hit.distance for hit in hits], dtype=np.float64)
        none = np.zeros(0, dtype=np.int64)
        found = cls(distances, none, _NO_BYTES, none, _NO_BYTES, None)
        found._made = dict(enumerate(hits))
        return found

    def hits(self, places: Sequence[int]) -> list[Hit]:
        made = self._made
        absent = [place for place in places if place not in made]
        if absent:
            for place, hit in zip(absent, self._decoded(absent), strict=True):
                made.setdefault(place, hit)
        return [made[place] for place in places]

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.concatenate((np.zeros(1, dtype=np.int64), self._ends[:-1]))

    def _decoded(self, places: list[int]) -> Iterator[Hit]:
        assert self._unpack is not None
        first, last = places[0], places[-1]
        neighbours = last - first + 1 == len(places)
        at: Any = slice(first, last + 1) if neighbours else np.array(places)
        texts = [0] * len(places) if self._text is None else self._text[at].tolist()
        data = memoryview(self._packed)  # type: ignore[arg-type]
        numbers = (array[at].tolist() for array in (self._marks, self.distances, self._starts, self._ends))
        for mark, distance, start, end, text in zip(*numbers, texts, strict=True):
            id_, metadata = self._unpack(data[start:end], mark, text > 0)
            yield Hit(id_, distance, metadata)


_NO_BYTES = np.zeros(0, dtype=np.uint8)


# Rows that are shown of an answer, and queries of a batch with so many hits each.
_SHOWN, _QUERIES_SHOWN, _EACH = 10, 5, 3


class Hits(Framed, Sequence[Hit]):
    """The answers to one query, nearest first.

    >>> hits = Hits([Hit("a", 0.0, {}), Hit("b", 0.5, {})])
    >>> hits.ids
    ['a', 'b']
    """

    def __init__(self, hits: Iterable[Hit]) -> None:
        made = list(hits)
        self._copied, self._places = Copied.of(made), range(len(made))

    @classmethod
    def _of(cls, copied: Copied, places: range) -> Hits:
        hits = cls.__new__(cls)
        hits._copied, hits._places = copied, places
        return hits

    @property
    def ids(self) -> list[Id]:
        integers = self._copied.integers
        if integers is None:
            return [hit.id for hit in self]
        ids: list[Id] = integers[_slice(self._places)].tolist()
        return ids

    @property
    def distances(self) -> NDArray[np.float64]:
        distances: NDArray[np.float64] = self._copied.distances[_slice(self._places)].copy()
        return distances

    @property
    def metadata(self) -> list[Metadata]:
        return [hit.metadata for hit in self]

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> Hit: ...
    @overload
    def __getitem__(self, place: slice) -> Hits: ...
    def __getitem__(self, place: int | slice) -> Hit | Hits:
        if isinstance(place, slice):
            return Hits._of(self._copied, self._places[place])
        return self._copied.hits((self._places[place],))[0]

    def __iter__(self) -> Iterator[Hit]:
        return iter(self._copied.hits(self._places))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hits) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return Hits, (list(self),)

    def __repr__(self) -> str:
        lines = [_line(hit) for hit in self[:_SHOWN]]
        more = [f"  … and {len(self) - _SHOWN} more"] if len(self) > _SHOWN else []
        return "\n".join([f"Hits({len(self)})", *lines, *more])

    def _repr_html_(self) -> str:
        shown = self[: 2 * _SHOWN]
        return html_table(f"{len(self):,} hits", shown._columns(), len(self) - len(shown))

    def _columns(self) -> dict[str, Any]:
        integers = self._copied.integers
        ids = ids_column(self.ids) if integers is None else integers[_slice(self._places)].copy()
        return with_metadata({"id": ids, "distance": self.distances}, self.metadata)


def _line(hit: Hit) -> str:
    metadata = shortened(hit.metadata) if hit.metadata else ""
    return f"  {hit.distance:<12.6g} {hit.id!r}  {metadata}".rstrip()


def _slice(places: range) -> slice:
    """The slice of an array that takes these places."""
    if not places:
        return slice(0, 0)
    # Behind the first place there is none that a negative number could name.
    return slice(places.start, None if places.stop < 0 else places.stop, places.step)


class HitsBatch(Framed, Sequence[Hits]):
    """The answers to many queries, one row each.

    Where a query has fewer answers than the widest, its row is filled up with None (or -1 where every
    id is an integer) and infinite distances.
    """

    def __init__(self, rows: Iterable[Hits], width: int, *, integer_ids: bool) -> None:
        made = [list(row) for row in rows]
        ends = np.cumsum([0, *map(len, made)])
        self._copied = Copied.of([hit for row in made for hit in row])
        self._starts, self._ends = ends[:-1], ends[1:]
        self._width, self._integer_ids = width, integer_ids

    @classmethod
    def _of(
        cls,
        copied: Copied,
        starts: NDArray[np.int64],
        ends: NDArray[np.int64],
        width: int,
        integer_ids: bool,
    ) -> HitsBatch:
        """Row i is what was copied from ``starts[i]`` to ``ends[i]``."""
        batch = cls.__new__(cls)
        batch._copied, batch._starts, batch._ends = copied, starts, ends
        batch._width, batch._integer_ids = width, integer_ids
        return batch

    @property
    def ids(self) -> NDArray[Any]:
        if self._integer_ids:
            integers = self._copied.integers
            return self._filled(-1, np.int64, self._ids_at if integers is None else integers.__getitem__)
        return self._filled(None, object, self._ids_at)

    @property
    def distances(self) -> NDArray[np.float64]:
        return self._filled(np.inf, np.float64, self._copied.distances.__getitem__)

    def _ids_at(self, places: NDArray[np.int64]) -> list[Id]:
        return [hit.id for hit in self._copied.hits(places.tolist())]

    def _filled(self, filler: Any, dtype: Any, values: Callable[[NDArray[np.int64]], Any]) -> NDArray[Any]:
        counts = self._ends - self._starts
        columns = np.arange(counts.max(initial=0))
        taken = columns < counts[:, None]
        filled = np.full((len(self), self._width), filler, dtype=dtype)
        filled[:, : columns.size][taken] = values((self._starts[:, None] + columns)[taken])
        return filled

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, place: int) -> Hits: ...
    @overload
    def __getitem__(self, place: slice) -> HitsBatch: ...
    def __getitem__(self, place: int | slice) -> Hits | HitsBatch:
        starts, ends = self._starts[place], self._ends[place]
        if isinstance(place, slice):
            return HitsBatch._of(self._copied, starts, ends, self._width, self._integer_ids)
        return Hits._of(self._copied, range(starts, ends))

    def __iter__(self) -> Iterator[Hits]:
        for start, end in zip(self._starts.tolist(), self._ends.tolist(), strict=True):
            yield Hits._of(self._copied, range(start, end))

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(HitsBatch, integer_ids=self._integer_ids), (list(self), self._width)

    def __repr__(self) -> str:
        lines = []
        for number, hits in enumerate(self[:_QUERIES_SHOWN]):
            more = [f"    … and {len(hits) - _EACH} more"] if len(hits) > _EACH else []
            lines += [f"  query {number}", *("  " + _line(hit) for hit in hits[:_EACH]), *more]
        rest = [f"  … and {len(self) - _QUERIES_SHOWN} queries more"] if len(self) > _QUERIES_SHOWN else []
        head = f"HitsBatch({len(self)} queries, up to {self._width} hits each)"
        return "\n".join([head, *lines, *rest])

    def _repr_html_(self) -> str:
        shown = HitsBatch((hits[:_EACH] for hits in self[:_QUERIES_SHOWN]), self._width, integer_ids=self._integer_ids)
        left = int((self._ends - self._starts).sum()) - sum(map(len, shown))
        return html_table(f"hits of {len(self):,} queries", shown._columns(), left)

    def _columns(self) -> dict[str, Any]:
        """A row for each hit, by the number of its query."""
        numbers = np.repeat(np.arange(len(self)), self._ends - self._starts)
        hits = [hit for row in self for hit in row]
        distances = np.array([hit.distance for hit in hits], dtype=np.float64)
        columns = {"query": numbers, "id": ids_column(hit.id for hit in hits), "distance": distances}
        return with_metadata(columns, [hit.metadata for hit in hits])


class Records(Framed, Iterator[Record]):
    """Records one by one, as ``scan`` gives them; or those that are left as one table.

    >>> records = Records(iter([Record(1, None, {"n": 2}), Record(3, None, {})]))
    >>> next(records).id, [record.id for record in records]
    (1, [3])
    """

    def __init__(self, records: Iterator[Record]) -> None:
        self._records = records

    def __iter__(self) -> Records:
        return self

    def __next__(self) -> Record:
        return next(self._records)

    def close(self) -> None:
        """Let go of the snapshot before the last record."""
        if isinstance(self._records, Generator):
            self._records.close()

    def __repr__(self) -> str:
        return "Records(read one by one, or by to_pandas(), to_polars() or to_arrow())"

    def _columns(self) -> dict[str, Any]:
        records = list(self)
        columns: dict[str, Any] = {"id": ids_column(record.id for record in records)}
        vectors = [record.vector for record in records if record.vector is not None]
        if vectors:
            columns["vector"] = np.stack(vectors)
        return with_metadata(columns, [record.metadata for record in records])


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
