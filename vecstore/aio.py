"""A collection for ``asyncio``: each call runs in a thread, and the loop goes on meanwhile.

Reads run side by side. Writes run one after another, in the order they were asked for, in one thread of their own: a
transaction belongs to the thread that began it. Calls inside ``async with collection.transaction()`` belong to it, those of
tasks that were started inside as well; writes of other tasks wait until it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import ContextVar
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, TypeVar

from numpy.typing import NDArray

from vecstore import opening
from vecstore.collection import Collection
from vecstore.config import DEFAULT_K, Settings
from vecstore.errors import ClosedError, InvalidArgumentError
from vecstore.types import Hit, Hits, Id, Neighbours, Pair, Record, VerifyReport

T = TypeVar("T")

# Reads that run at once; each of a large collection uses several cores by itself.
_READERS = 8
# What an iterator brings from its thread at a time.
_AT_ONCE = 100

# The transactions that the code which runs now stands in.
_INSIDE: ContextVar[tuple[AsyncTransaction, ...]] = ContextVar("vecstore transactions", default=())


class Opening:
    """What ``vecstore.aopen`` gives: to be awaited, or entered with ``async with``."""

    def __init__(self, path: Any, options: dict[str, Any]) -> None:
        self._path, self._options = path, options
        self._opened: AsyncCollection | None = None

    def __await__(self) -> Generator[Any, None, AsyncCollection]:
        return self._open().__await__()

    async def __aenter__(self) -> AsyncCollection:
        self._opened = await self._open()
        return self._opened

    async def __aexit__(self, *error: object) -> None:
        assert self._opened is not None
        await self._opened.close()

    async def _open(self) -> AsyncCollection:
        return AsyncCollection(await asyncio.to_thread(opening.open, self._path, **self._options))


class AsyncCollection:
    """``Collection`` with its methods awaited, and its iterators read by ``async for``.

    >>> import asyncio, vecstore
    >>> async def main():
    ...     async with vecstore.aopen("async.vec", dim=2, metric="l2") as pairs:
    ...         await pairs.add(["a", "b"], [[0, 0], [3, 4]])
    ...         async with pairs.transaction():
    ...             await pairs.delete("b")
    ...             await pairs.add("c", [1, 0])
    ...         print((await pairs.search([0, 0])).ids, [record.id async for record in pairs.scan()])
    >>> asyncio.run(main())
    ['a', 'c'] ['a', 'c']
    """

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="vecstore-read")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="vecstore-write")
        self._writing = asyncio.Lock()
        self._closed = False

    # -- what it is

    @property
    def path(self) -> str:
        """Where the file is."""
        return self._collection.path

    @property
    def settings(self) -> Settings:
        """dim, metric and dtype."""
        return self._collection.settings

    @property
    def dim(self) -> int:
        """Numbers in a vector; bits for ``dtype="binary"``."""
        return self._collection.dim

    @property
    def metric(self) -> str:
        """The distance."""
        return self._collection.metric

    @property
    def dtype(self) -> str:
        """How numbers are stored."""
        return self._collection.dtype

    def __repr__(self) -> str:
        return f"AsyncCollection({self.path!r}{', closed' if self._closed else ''})"

    async def __aenter__(self) -> AsyncCollection:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of the file, behind the writes that were asked for before. A second call does nothing."""
        if self._closed:
            return
        if self._inside():
            raise InvalidArgumentError(
                "a collection cannot be closed inside of its transaction: close it behind it"
            )
        async with self._writing:
            if not self._closed:
                self._closed = True
                await _whole(self._writer, self._collection.close)
                self._writer.shutdown(wait=False)
                self._readers.shutdown(wait=False)

    # -- writing

    async def add(self, ids: Any, vectors: Any, metadata: Any = None) -> int:
        """As ``Collection.add``."""
        return await self._write(lambda: self._collection.add(ids, vectors, metadata))

    async def upsert(self, ids: Any, vectors: Any, metadata: Any = None) -> int:
        """As ``Collection.upsert``."""
        return await self._write(lambda: self._collection.upsert(ids, vectors, metadata))

    async def update(self, ids: Any, metadata: Any) -> int:
        """As ``Collection.update``."""
        return await self._write(lambda: self._collection.update(ids, metadata))

    async def delete(self, ids: Any = None, *, where: Any = None) -> int:
        """As ``Collection.delete``."""
        return await self._write(lambda: self._collection.delete(ids, where=where))

    async def extend(self, batches: Any, *, progress: bool = False) -> int:
        """As ``Collection.extend``; the batches may come from ``async for`` as well."""
        stop = threading.Event()
        if isinstance(batches, AsyncIterable):
            batches = _fetched(batches.__aiter__(), asyncio.get_running_loop())
        some = _until(stop, batches)
        try:
            return await self._write(lambda: self._collection.extend(some, progress=progress))
        finally:
            stop.set()

    @contextlib.asynccontextmanager
    async def bulk(self) -> AsyncIterator[AsyncCollection]:
        """As ``Collection.bulk``, entered with ``async with``."""
        inner = self._collection.bulk()
        inner.__enter__()
        try:
            yield self
        except BaseException as error:
            # Behind an error nothing is linked, so there is nothing to wait for.
            inner.__exit__(type(error), error, error.__traceback__)
            raise
        await self._write(lambda: inner.__exit__(None, None, None))

    async def create_index(self, field: str) -> None:
        """As ``Collection.create_index``."""
        await self._write(lambda: self._collection.create_index(field))

    async def drop_index(self, field: str) -> bool:
        """As ``Collection.drop_index``."""
        return await self._write(lambda: self._collection.drop_index(field))

    async def indexes(self) -> dict[str, dict[str, Any]]:
        """As ``Collection.indexes``."""
        return await self._read(self._collection.indexes)

    def transaction(self) -> AsyncTransaction:
        """As ``Collection.transaction``, entered with ``async with``."""
        return AsyncTransaction(self)

    # -- reading

    async def count(self) -> int:
        """``len`` of the collection."""
        return await self._read(lambda: len(self._collection))

    async def contains(self, id: Id) -> bool:
        """Whether a record has this id."""
        return await self._read(lambda: id in self._collection)

    async def get(self, ids: Any) -> Any:
        """As ``Collection.get``."""
        return await self._read(lambda: self._collection.get(ids))

    def __aiter__(self) -> AsyncIterator[Record]:
        return self.scan()

    def scan(
        self, where: Any = None, batch_size: int = 1000, vectors: bool = True, *, skip_damaged: bool = False
    ) -> AsyncIterator[Record]:
        """As ``Collection.scan``, for ``async for``."""
        return self._each(
            lambda: self._collection.scan(where, batch_size, vectors, skip_damaged=skip_damaged), _AT_ONCE
        )

    async def search(
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
        """As ``Collection.search``."""
        return await self._read(
            lambda: self._collection.search(
                query,
                k,
                id=id,
                where=where,
                radius=radius,
                recall=recall,
                search_list=search_list,
                exact=exact,
                threads=threads,
                group_by=group_by,
                group_size=group_size,
                diversity=diversity,
            )
        )

    async def radius(
        self,
        query: Any,
        radius: float,
        *,
        where: Any = None,
        k: int | None = None,
        threads: int | None = None,
    ) -> Any:
        """As ``Collection.radius``."""
        return await self._read(
            lambda: self._collection.radius(query, radius, where=where, k=k, threads=threads)
        )

    def stream(
        self,
        query: Any = None,
        *,
        id: Any = None,
        where: Any = None,
        radius: float | None = None,
        recall: float | None = None,
        exact: bool = False,
    ) -> AsyncIterator[Hit]:
        """As ``Collection.stream``, for ``async for``."""
        return self._each(
            lambda: self._collection.stream(
                query, id=id, where=where, radius=radius, recall=recall, exact=exact
            ),
            _AT_ONCE,
        )

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
    ) -> AsyncIterator[Hits]:
        """As ``Collection.pages``, for ``async for``."""
        return self._each(
            lambda: self._collection.pages(
                query, size, id=id, where=where, radius=radius, recall=recall, exact=exact
            ),
            1,
        )

    async def combine(self, items: Any, weights: Any = None) -> NDArray[Any]:
        """As ``Collection.combine``."""
        return await self._read(lambda: self._collection.combine(items, weights))

    async def recommend(
        self,
        like: Any,
        dislike: Any = (),
        k: int | None = None,
        *,
        where: Any = None,
        recall: float | None = None,
        exact: bool = False,
    ) -> Hits:
        """As ``Collection.recommend``."""
        return await self._read(
            lambda: self._collection.recommend(like, dislike, k, where=where, recall=recall, exact=exact)
        )

    def near_duplicates(
        self, radius: float, *, where: Any = None, recall: float | None = None, exact: bool = False
    ) -> AsyncIterator[Pair]:
        """As ``Collection.near_duplicates``, for ``async for``."""
        return self._each(
            lambda: self._collection.near_duplicates(radius, where=where, recall=recall, exact=exact),
            _AT_ONCE,
        )

    def neighbours(
        self,
        k: int = DEFAULT_K,
        *,
        where: Any = None,
        recall: float | None = None,
        exact: bool = False,
        batch_size: int = 1000,
    ) -> AsyncIterator[Neighbours]:
        """As ``Collection.neighbours``, for ``async for``."""
        return self._each(
            lambda: self._collection.neighbours(
                k, where=where, recall=recall, exact=exact, batch_size=batch_size
            ),
            1,
        )

    # -- caring for it

    async def stats(self) -> dict[str, Any]:
        """As ``Collection.stats``."""
        return await self._read(self._collection.stats)

    async def explain(
        self,
        query: Any,
        k: int | None = None,
        *,
        where: Any = None,
        radius: float | None = None,
        recall: float | None = None,
        search_list: int | None = None,
        exact: bool = False,
    ) -> dict[str, Any]:
        """As ``Collection.explain``."""
        return await self._read(
            lambda: self._collection.explain(
                query, k, where=where, radius=radius, recall=recall, search_list=search_list, exact=exact
            )
        )

    async def recall(self, sample: int = 100, k: int = DEFAULT_K) -> float:
        """As ``Collection.recall``."""
        return await self._read(lambda: self._collection.recall(sample, k))

    async def verify(self, raise_on_error: bool = False) -> VerifyReport:
        """As ``Collection.verify``."""
        return await self._read(lambda: self._collection.verify(raise_on_error))

    async def optimize(self, budget_seconds: float | None = None) -> None:
        """As ``Collection.optimize``."""
        await self._write(lambda: self._collection.optimize(budget_seconds))

    async def compact(self) -> int:
        """As ``Collection.compact``."""
        return await self._write(self._collection.compact)

    async def backup(self, path: Any, *, overwrite: bool = False) -> None:
        """As ``Collection.backup``."""
        await self._read(lambda: self._collection.backup(path, overwrite=overwrite))

    # -- threads

    def _inside(self) -> bool:
        """Whether the code that runs now stands in an open transaction of this collection."""
        return any(each.open and each.collection is self for each in _INSIDE.get())

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"the collection {self.path} is closed; open it again")

    async def _read(self, call: Callable[[], T]) -> T:
        self._check_open()
        return await _run(self._writer if self._inside() else self._readers, call)

    async def _write(self, call: Callable[[], T]) -> T:
        self._check_open()
        if self._inside():
            return await _run(self._writer, call)
        async with self._writing:
            self._check_open()
            return await _run(self._writer, call)

    async def _each(self, make: Callable[[], Iterator[T]], size: int) -> AsyncIterator[T]:
        """What an iterator gives, so many at a time from a thread. Closing it closes the iterator."""
        self._check_open()
        executor = self._writer if self._inside() else self._readers
        made: list[Iterator[T]] = []
        # Who is cancelled while a thread is in the iterator may close it no sooner than that has ended.
        alone = threading.Lock()

        def some() -> list[T]:
            with alone:
                if not made:
                    made.append(make())
                return list(islice(made[0], size))

        def close() -> None:
            with alone:
                for iterator in made:
                    getattr(iterator, "close", int)()

        try:
            while items := await _run(executor, some):
                for item in items:
                    yield item
                self._check_open()
        finally:
            # By another thread where this collection's are gone.
            await _whole(None if self._closed else executor, close)


class AsyncTransaction:
    """Several calls, one atomic commit, with ``async with``; an error inside undoes them all."""

    def __init__(self, collection: AsyncCollection) -> None:
        self.collection = collection
        self.open = self._begun = False
        self._scope = collection._collection.transaction()

    async def __aenter__(self) -> AsyncCollection:
        collection = self.collection
        collection._check_open()
        if collection._inside():
            # Says that one is open already.
            await _run(collection._writer, self._begin)
        await collection._writing.acquire()
        try:
            try:
                await _whole(collection._writer, self._begin)
            except asyncio.CancelledError as cancelled:
                await _whole(collection._writer, partial(self._undo, cancelled))
                raise
        except BaseException:
            collection._writing.release()
            raise
        self.open = True
        _INSIDE.set((*_INSIDE.get(), self))
        return collection

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.open = False
        _INSIDE.set(tuple(each for each in _INSIDE.get() if each is not self))
        try:
            await _whole(self.collection._writer, lambda: self._scope.__exit__(kind, error, trace))
        finally:
            self.collection._writing.release()

    def _begin(self) -> None:
        self._scope.__enter__()
        self._begun = True

    def _undo(self, error: BaseException) -> None:
        """For a task that was cancelled while it began."""
        if self._begun:
            self._scope.__exit__(type(error), error, error.__traceback__)


async def _run(executor: Executor | None, call: Callable[[], T]) -> T:
    """Run in a thread. A call that is cancelled before its turn never runs; one that runs goes on to its end."""
    return await asyncio.get_running_loop().run_in_executor(executor, call)


async def _whole(executor: Executor | None, call: Callable[[], T]) -> T:
    """As ``_run``, to the end even where it is cancelled: what follows relies on it."""
    future = asyncio.ensure_future(_run(executor, call))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:
                continue
        if not future.cancelled():
            future.exception()
        raise


def _until(stop: threading.Event, batches: Iterable[T]) -> Iterator[T]:
    """What comes until nobody waits for it any more."""
    for batch in batches:
        if stop.is_set():
            return
        yield batch


def _fetched(batches: AsyncIterator[Any], loop: asyncio.AbstractEventLoop) -> Iterator[Any]:
    """What an asynchronous iterator gives, for a thread: it waits while the loop works."""
    end = object()

    async def following() -> Any:
        return await anext(batches, end)

    while (batch := asyncio.run_coroutine_threadsafe(following(), loop).result()) is not end:
        yield batch
