"""Collection: what a user calls. It owns transactions and snapshots; the work is done in the layers below."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore import inputs, order, variety
from vecstore.asking import Asking
from vecstore.caring import Caring
from vecstore.config import DEFAULT_K
from vecstore.errors import (
    DimensionError,
    DuplicateIdError,
    InvalidArgumentError,
    InvalidIdError,
    RecordNotFoundError,
    StorageError,
    VecstoreError,
)
from vecstore.planner import Asked
from vecstore.query import answers
from vecstore.query.found import Found
from vecstore.query.where import Where, parse
from vecstore.report import progress_line, warn_of_old_snapshots
from vecstore.storage import fields, store
from vecstore.storage.ids import Ids, hash_ids
from vecstore.storage.packed import Packed
from vecstore.storage.session import Session
from vecstore.storage.slots import read_slots
from vecstore.storage.state import Numbers
from vecstore.storage.vectors import read_rows
from vecstore.types import Hits, Id, Record, Records


class Collection(Asking, Caring):
    """Records (id, vector, metadata) in one file, and their nearest neighbours. Made by ``vecstore.open``.

    Threads may share it. A forked child must open its own.

    >>> import vecstore
    >>> with vecstore.open("pairs.vec", dim=2, metric="l2") as pairs:
    ...     _ = pairs.add(["a", 7], [[0, 0], [3, 4]], [{"year": 2020}, {"year": 2021}])
    ...     pairs.search([0, 0], k=2).distances.tolist()
    [0.0, 5.0]
    """

    # -- writing

    def add(self, ids: Any, vectors: Any, metadata: Any = None) -> int:
        """Add records; an id that is there already raises, and nothing is written. Gives how many were added.

        >>> import vecstore
        >>> with vecstore.open("a.vec", dim=2) as a:
        ...     a.add("one", [1, 2])
        ...     a.add([2, 3], [[1, 0], [0, 1]], [{"n": 2}, {"n": 3}])
        1
        2
        """
        return self._put(ids, vectors, metadata, replace_present=False)

    def upsert(self, ids: Any, vectors: Any, metadata: Any = None) -> int:
        """Add records, or replace those whose ids are there. Gives how many were written.

        >>> import vecstore
        >>> with vecstore.open("u.vec", dim=2) as u:
        ...     _ = u.upsert("one", [1, 2]), u.upsert("one", [3, 4])
        ...     u["one"].vector.tolist()
        [3.0, 4.0]
        """
        return self._put(ids, vectors, metadata, replace_present=True)

    def update(self, ids: Any, metadata: Any) -> int:
        """Merge metadata into records, key by key; None removes a key. Vectors stay.

        >>> import vecstore
        >>> with vecstore.open("m.vec", dim=2) as m:
        ...     _ = m.add("one", [1, 2], {"a": 1, "b": 2})
        ...     _ = m.update("one", {"a": None, "c": 3})
        ...     m["one"].metadata
        {'b': 2, 'c': 3}
        """
        single = inputs.is_single(ids)
        values = inputs.check_ids(ids, unique=True)
        changes = inputs.check_metadata(metadata, len(values), single=single)
        with self._writing() as session:
            slots = answers.slots_of(session, values)
            records = store.read_stored(session, read_slots(session, slots))
            merged = [
                {
                    key: value
                    for key, value in {**stored.metadata, **change}.items()
                    if key not in change or value is not None
                }
                for stored, change in zip(records, changes, strict=True)
            ]
            packed = inputs.pack_records(values, merged)
            with self._mutating():
                store.change_metadata(session, slots, packed)
        return len(values)

    def delete(self, ids: Any = None, *, where: Any = None) -> int:
        """Delete by id, by filter, or those of these ids that match. Gives how many were there.

        >>> import vecstore
        >>> with vecstore.open("d.vec", dim=2) as d:
        ...     _ = d.add([1, 2, 3], [[1, 0], [0, 1], [1, 1]], [{"n": 1}, {"n": 2}, {"n": 3}])
        ...     d.delete([1, 99]), d.delete(where={"n": {"$gt": 2}}), len(d)
        (1, 1, 1)
        """
        if ids is None and where is None:
            raise InvalidArgumentError("delete needs ids, or where=…; where={} deletes every record")
        values = None if ids is None else inputs.check_ids(ids)
        filter_ = None if where is None else parse(where)
        with self._writing() as session:
            if values is None:
                slots = store.live_slots(session)
            else:
                found = store.find(session, hash_ids(list(dict.fromkeys(values)), session.header.seed))
                slots = np.sort(found[found >= 0])
            if filter_ is not None:
                slots = slots[self._planner.matching(session, filter_)[slots]]
            with self._mutating():
                store.delete(session, slots)
        return int(slots.size)

    def extend(self, batches: Iterable[Any], *, progress: bool = False) -> int:
        """Add batches of (ids, vectors) or (ids, vectors, metadata), each in one transaction of its own.

        The graph is built once, behind the last batch: for many records this is the quickest way in.

        >>> import vecstore
        >>> with vecstore.open("e.vec", dim=2) as e:
        ...     e.extend(([n], [[n, 1]], [{"n": n}]) for n in range(3))
        3
        """
        total = 0
        with self.bulk(), progress_line(progress) as report:
            for batch in batches:
                if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
                    raise InvalidArgumentError("a batch must be (ids, vectors) or (ids, vectors, metadata)")
                total += self.add(*batch)
                report(total)
        return total

    @contextlib.contextmanager
    def bulk(self) -> Iterator[Collection]:
        """Many calls, each committed by itself as ever; the graph is seen to once, behind the last.

        >>> import vecstore
        >>> with vecstore.open("bulk.vec", dim=2) as b, b.bulk():
        ...     b.upsert([1, 2, 3], [[1, 0], [2, 0], [0, 3]])
        ...     b.delete(2)
        3
        1
        """
        self._check_open()
        self._link_later += 1
        try:
            yield self
        finally:
            self._link_later -= 1
        if not self._link_later:
            with self._file.writing(self._timeout), contextlib.suppress(VecstoreError, MemoryError):
                self._link()
                self._make_indexes()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Collection]:
        """Several calls, one atomic commit; an error inside undoes them all.

        >>> import vecstore
        >>> with vecstore.open("t.vec", dim=2) as t:
        ...     with t.transaction():
        ...         _ = t.add("a", [1, 0]), t.add("b", [0, 1])
        ...     len(t)
        2
        """
        self._check_open()
        if self._in_transaction():
            raise InvalidArgumentError(
                "a transaction is open in this thread already: one holds all calls inside it"
            )
        with self._writing() as session:
            self._session, self._session_thread, self._broken = session, threading.get_ident(), False
            try:
                yield self
                if self._broken:
                    raise StorageError(
                        "a call inside this transaction failed half-way and its error was caught there: "
                        "the whole transaction is undone"
                    )
            finally:
                self._session = self._session_thread = None

    def _put(self, ids: Any, vectors: Any, metadata: Any, *, replace_present: bool) -> int:
        single = inputs.is_single(ids)
        values = inputs.check_ids(ids)
        batch = hash_ids(values, self._seed)
        if batch.may_repeat():
            inputs.check_unique(values)
        rows = inputs.check_vectors(vectors, self._settings, single=single)
        if len(rows) != len(values):
            raise DimensionError(f"{len(values)} ids need as many vectors, and {len(rows)} came")
        packed = inputs.pack(values, metadata, single=single)
        if not values:
            self._check_writable()
            return 0
        with self._writing() as session:
            slots = store.find(session, batch)
            present = np.flatnonzero(slots >= 0)
            if present.size and not replace_present:
                raise DuplicateIdError(
                    f"the id {values[int(present[0])]!r} is in the collection already"
                    + (f", and {present.size - 1} others are" if present.size > 1 else "")
                    + ": upsert() replaces records"
                )
            with self._mutating():
                self._write(session, batch, slots, rows, packed)
        return len(values)

    @staticmethod
    def _write(
        session: Session, batch: Ids, slots: Numbers, rows: NDArray[np.uint8], packed: Packed
    ) -> None:
        """Add what is new, move what has another vector, and give the rest its metadata in place."""
        present = np.flatnonzero(slots >= 0)
        if present.size:
            same = (read_rows(session, slots[present]) == rows[present]).all(axis=1)
            kept = present[same]
            store.change_metadata(session, slots[kept], packed.take(kept))
            store.delete(session, slots[present[~same]])
            fresh = np.sort(np.concatenate((np.flatnonzero(slots < 0), present[~same])))
            if not fresh.size:
                return
            batch, rows, packed = batch.take(fresh), rows[fresh], packed.take(fresh)
        store.insert(session, batch, rows, packed)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Session]:
        """The session of the transaction that is open in this thread, or one for this call alone."""
        self._check_writable()
        if self._in_transaction():
            assert self._session is not None
            yield self._session
            return
        with self._file.writing(self._timeout):
            session = Session(self._file, self._stage_bytes)
            due = False
            asked: frozenset[str] = frozenset()
            try:
                yield session
                if session.changed and not self._link_later:
                    # Asked while the session has it all at hand: opening another for it costs as much as a small write.
                    with contextlib.suppress(VecstoreError, MemoryError):
                        due = self._graph.due(session)
                if session.changed:
                    asked = self._note_asked(session)
                session.commit()
            finally:
                session.close()
            self._fields.noted(asked)
            # The call itself is done and durable, so what fails here is left to the next one.
            with contextlib.suppress(VecstoreError, MemoryError):
                if session.dropped:
                    self._purge()
                if (due or session.dropped) and not self._link_later:
                    self._link()
                    warn_of_old_snapshots(self._file, self._warned_of)
                if fields.unfinished(session) and not self._link_later:
                    self._make_indexes(once=True)

    @contextlib.contextmanager
    def _mutating(self) -> Iterator[None]:
        """What fails in here may have done half its work: its transaction can no longer be committed."""
        try:
            yield
        except BaseException:
            self._broken = True
            raise

    # -- reading

    def get(self, ids: Any) -> Any:
        """Records by id, in order, None for an absent one; a single id gives a single answer.

        >>> import vecstore
        >>> with vecstore.open("g.vec", dim=2) as g:
        ...     _ = g.add("a", [1, 0], {"n": 1})
        ...     g.get("a").metadata, g.get(["a", "b"])[1]
        ({'n': 1}, None)
        """
        values = inputs.check_ids(ids)
        with self._view() as blocks:
            found = answers.get(blocks, values)
        return found[0] if inputs.is_single(ids) else found

    def __getitem__(self, id_: Id) -> Record:
        if not inputs.is_single(id_):
            raise InvalidIdError(
                f"collection[id] takes one id, not {type(id_).__name__}: get() takes several"
            )
        record: Record | None = self.get(id_)
        if record is None:
            raise RecordNotFoundError(f"no record has the id {id_!r}")
        return record

    def __contains__(self, id_: object) -> bool:
        try:
            values = inputs.check_ids(id_) if inputs.is_single(id_) else []
        except InvalidIdError:
            return False
        with self._view() as blocks:
            return bool(values) and bool(
                (store.find(blocks, hash_ids(values, blocks.header.seed)) >= 0).all()
            )

    def __len__(self) -> int:
        with self._view() as blocks:
            return blocks.header.records

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Record]:
        return self.scan()

    def scan(
        self, where: Any = None, batch_size: int = 1000, vectors: bool = True, *, skip_damaged: bool = False
    ) -> Records:
        """All records that match, one by one, from one steady snapshot; writers are not blocked.

        ``scan(…).to_pandas()``, ``.to_polars()`` and ``.to_arrow()`` read them into one table.
        ``skip_damaged`` passes over records that cannot be read any more, to save the others.

        >>> import vecstore
        >>> with vecstore.open("s.vec", dim=2) as s:
        ...     _ = s.add([1, 2], [[1, 0], [0, 1]], [{"n": 1}, {"n": 2}])
        ...     [record.id for record in s.scan(where={"n": 2}, vectors=False)]
        [2]
        """
        size = inputs.check_k(batch_size, "batch_size")
        filter_ = None if where is None else parse(where)
        self._check_open()
        found = self._scan(filter_, size, vectors, skip_damaged)
        # A transaction's state changes under an iterator, so there the whole answer is taken at once.
        return Records(iter(list(found)) if self._in_transaction() else found)

    def _scan(self, filter_: Where | None, size: int, vectors: bool, skip_damaged: bool) -> Iterator[Record]:
        with self._view() as blocks:
            slots = store.live_slots(blocks)
            if skip_damaged:
                yield from answers.readable(blocks, slots, filter_, vectors)
                return
            if filter_ is not None:
                slots = slots[self._planner.matching(blocks, filter_)[slots]]
            for part in store.batches(slots, size):
                yield from answers.records_of(blocks, part, vectors=vectors)

    def search(
        self,
        query: Any = None,
        k: int | None = None,
        *,
        id: Any = None,
        where: Any = None,
        radius: float | None = None,
        recall: float | None = None,
        search_list: int | None = None,
        exact: bool = False,
        threads: int | None = None,
        group_by: str | None = None,
        group_size: int = 1,
        diversity: float | None = None,
    ) -> Any:
        """The nearest records: Hits for one vector, a batch of Hits for a matrix.

        ``k`` is 10 unless ``radius`` asks for everything within a distance; with both, at most k of it.
        ``id`` asks for records like a stored one, itself left out. ``where`` restricts to matching records.
        A large collection is searched through its graph, which finds a share of the true neighbours:
        ``recall`` says what share to aim at (0.95), ``search_list`` how many candidates to follow instead,
        ``exact`` compares every record. Small ones are always compared record by record.

        ``group_by`` names a field: of each of the k groups that come nearest, the best ``group_size`` records are hits;
        records without the field are in no group. ``diversity`` from 0 to 1 prefers hits that are unlike the hits before
        them (maximal marginal relevance), and gives them in the order they were chosen in.

        >>> import vecstore
        >>> with vecstore.open("q.vec", dim=2, metric="l2") as q:
        ...     _ = q.add(["a", "b", "c"], [[0, 0], [1, 0], [5, 0]], [{"n": 1}, {"n": 2}, {"n": 2}])
        ...     q.search([0, 0], k=2).ids, q.search(id="a", where={"n": 2}).ids, q.search([0, 0], radius=2).ids
        (['a', 'b'], ['b', 'c'], ['a', 'b'])
        """
        if (query is None) == (id is None):
            raise InvalidArgumentError("search needs a vector, or id=… of a record: one of the two")
        limit = inputs.check_limits(k, radius, recall, search_list)
        workers = self._threads if threads is None else inputs.check_k(threads, "threads")
        self._check_open()
        own: Numbers | None = None
        queries: NDArray[Any] | None = None
        single = True
        filter_ = None if where is None else parse(where)
        vector = query if self._plain(query) else None
        if id is None and vector is None:
            queries, single = inputs.check_queries(query, self._settings)
            if single:
                vector = np.require(queries[0], requirements=("C", "A"))
        varied = group_by is not None or diversity is not None
        if vector is not None and limit is not None and radius is None and not (exact or varied):
            hits = self._glance(vector, Asked(limit, None, filter_, recall, search_list, False, workers))
            if hits is not None:
                return hits
        with self._view() as blocks:
            if id is not None:
                single = inputs.is_single(id)
                own = answers.slots_of(blocks, inputs.check_ids(id))
                queries = answers.queries_of(blocks, own)
            elif queries is None:
                queries, _ = inputs.check_queries(query, self._settings)
            asked = Asked(limit, radius, filter_, recall, search_list, exact, workers)
            found: Sequence[Found]
            if varied:
                way = variety.Way(group_by, group_size, diversity, where)
                found = variety.answer(self._planner, blocks, queries, own, asked, way)
                limit = (limit or DEFAULT_K) * (group_size if group_by is not None else 1)
            else:
                found, _ = order.answer(self._planner, blocks, queries, own, asked)
            batch = answers.hits_of(blocks, found, limit, cold=self._planner.cold(blocks), threads=workers)
        return batch[0] if single else batch

    def _plain(self, query: object) -> bool:
        """Whether this may be one vector as kernels take it, which look themselves whether it can be searched for."""
        if type(query) is not np.ndarray or query.ndim != 1 or not query.flags.carray:
            return False
        if self._settings.dtype == "binary":
            # Whole bytes, so that there are no bits behind the last.
            return bool(query.dtype == np.uint8 and query.size * 8 == self._settings.dim)
        return bool(query.dtype == np.float32)

    def _glance(self, query: NDArray[Any], asked: Asked) -> Hits | None:
        """What most searches are: a walk for one vector, which takes little longer than beginning a snapshot would.

        None where there is more to it, or a commit came between. A snapshot answers then, and says what is wrong.
        """
        opened = self._opened
        state = None if opened is None or self._in_transaction() else opened.glance()
        if opened is None or state is None:
            return None
        try:
            found = self._planner.answer_one(state, query, asked)
            hits = None if found is None else answers.hits_of_one(state, found, cold=self._planner.cold(state))
        except VecstoreError:
            return None
        return hits if opened.newest_is(state.meta.transaction) else None

    def radius(
        self,
        query: Any,
        radius: float,
        *,
        where: Any = None,
        k: int | None = None,
        threads: int | None = None,
    ) -> Any:
        """Everything within a distance: ``search`` with ``radius``, under its own name.

        >>> import vecstore
        >>> with vecstore.open("r.vec", dim=2, metric="l2") as r:
        ...     _ = r.add(["a", "b"], [[0, 0], [3, 4]])
        ...     r.radius([0, 0], 5.0).ids
        ['a', 'b']
        """
        return self.search(query, k, radius=radius, where=where, threads=threads)
