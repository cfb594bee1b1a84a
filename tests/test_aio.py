"""Collections in asyncio: the loop never waits, reads run side by side, writes in order, and transactions stay whole."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from vecstore import Collection
from vecstore.aio import AsyncCollection
from vecstore.errors import ClosedError, DuplicateIdError, InvalidArgumentError, InvalidFilterError

Test = Callable[[AsyncCollection], Coroutine[Any, Any, None]]


def run(path: str | Path, test: Test) -> None:
    async def main() -> None:
        async with vecstore.aopen(path, dim=2, metric="l2") as collection:
            await collection.add(range(10), [[n, 0] for n in range(10)], [{"n": n} for n in range(10)])
            await test(collection)

    asyncio.run(asyncio.wait_for(main(), timeout=60))


def test_everything_that_a_collection_can_is_there() -> None:
    for kind in Collection.__mro__[:-1]:
        for name, member in vars(kind).items():
            if name.startswith("_"):
                continue
            mine = inspect.getattr_static(AsyncCollection, name)
            assert inspect.getdoc(mine)
            if isinstance(member, property):
                assert isinstance(mine, property)
                continue
            theirs, ours = (inspect.signature(function).parameters for function in (member, mine))
            assert list(theirs) == list(ours), name
            assert [each.default for each in theirs.values()] == [each.default for each in ours.values()], (
                name
            )
            assert [each.kind for each in theirs.values()] == [each.kind for each in ours.values()], name


def test_each_call_answers_as_the_collection_itself(path: str, tmp_path: Path) -> None:
    async def test(c: AsyncCollection) -> None:
        inner = c._collection
        assert (c.path, c.settings, c.dim, c.metric, c.dtype) == (path, inner.settings, 2, "l2", "float32")
        assert repr(c) == f"AsyncCollection({path!r})"
        assert await c.upsert([0, 10], [[0, 0], [10, 0]], [{"n": 0}, {"n": 10}]) == 2
        assert await c.update(10, {"last": True}) == 1
        assert await c.count() == 11
        assert await c.contains(10)
        assert not await c.contains("x")
        assert (await c.get(10)).metadata == {"n": 10, "last": True}
        assert await c.search([0, 0], 3) == inner.search([0, 0], 3)
        assert await c.search(id=2, k=2, where={"n": {"$gt": 2}}) == inner.search(
            id=2, k=2, where={"n": {"$gt": 2}}
        )
        assert (await c.search([0, 0], k=3, group_by="n")).ids == [0, 1, 2]
        assert len(await c.search([0, 0], k=3, diversity=0.5)) == 3
        assert (await c.radius([0, 0], 1.5)).ids == [0, 1]
        assert (await c.recommend([3], k=2)).ids == [2, 4]
        assert (await c.combine([1, 3])).tolist() == [2, 0]
        assert [hit.id async for hit in c.stream([0, 0])] == list(range(11))
        assert [page.ids async for page in c.pages([0, 0], 6)] == [list(range(6)), list(range(6, 11))]
        assert len([pair async for pair in c.near_duplicates(1)]) == 10
        assert [len(batch.ids) async for batch in c.neighbours(2, batch_size=4)] == [4, 4, 3]
        assert [record.id async for record in c.scan(where={"n": {"$lt": 2}})] == [0, 1]
        assert [record.id async for record in c] == list(range(11))
        assert (await c.stats())["count"] == 11
        assert (await c.explain([0, 0]))["plan"] == "scan"
        assert await c.recall(sample=3) == 1.0
        assert (await c.verify()).ok
        assert await c.delete(where={"n": {"$gte": 9}}) == 2
        assert await c.extend(([n], [[n, 1]]) for n in range(20, 23)) == 3
        async with c.bulk() as many:
            assert await many.upsert(20, [20, 1]) == 1
        await c.create_index("n")
        assert list(await c.indexes()) == ["n"]
        assert await c.drop_index("n")
        await c.optimize()
        assert await c.compact() >= 0
        await c.backup(tmp_path / "copy.vec")
        assert len(vecstore.open(tmp_path / "copy.vec", mode="r")) == 12

    run(path, test)


def test_batches_may_come_from_the_loop(path: str) -> None:
    async def batches() -> AsyncIterator[Any]:
        for n in range(100, 105):
            await asyncio.sleep(0)
            yield [n], [[n, 0]], [{"n": n}]

    async def test(c: AsyncCollection) -> None:
        assert await c.extend(batches()) == 5
        assert await c.count() == 15

    run(path, test)


def test_who_is_cancelled_while_he_extends_goes_no_further(path: str) -> None:
    async def endless() -> AsyncIterator[Any]:
        n = 100
        while True:
            yield [n], [[n, 0]]
            n += 1
            await asyncio.sleep(0.001)

    async def test(c: AsyncCollection) -> None:
        task = asyncio.create_task(c.extend(endless()))
        while await c.count() < 15:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await c.add("behind it", [0, 0])
        count = await c.count()
        await asyncio.sleep(0.1)
        assert await c.count() == count

    run(path, test)


# -- the loop goes on


def test_the_loop_never_waits(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call is held up until the loop itself lets it go on."""
    go = threading.Event()
    for name in ("search", "add", "_scan"):
        real = getattr(Collection, name)

        def held(self: Any, *args: Any, real: Any = real, **options: Any) -> Any:
            assert go.wait(30), "the loop waited for the call"
            return real(self, *args, **options)

        monkeypatch.setattr(Collection, name, held)

    async def let(call: Any) -> Any:
        go.clear()
        task = asyncio.ensure_future(call)
        await asyncio.sleep(0.02)
        assert not task.done()
        go.set()
        return await task

    async def test(c: AsyncCollection) -> None:
        await let(c.search([0, 0]))
        await let(c.add("x", [0, 0]))

        async def first() -> Any:
            return await anext(c.scan())

        assert (await let(first())).id == 0

    go.set()
    run(path, test)


def test_reads_run_side_by_side(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(4)
    real = Collection.search

    def meet(self: Any, *args: Any, **options: Any) -> Any:
        together.wait(30)
        return real(self, *args, **options)

    monkeypatch.setattr(Collection, "search", meet)

    async def test(c: AsyncCollection) -> None:
        found = await asyncio.gather(*(c.search([n, 0], k=1) for n in range(4)))
        assert [hits.ids for hits in found] == [[0], [1], [2], [3]]

    run(path, test)


def test_writes_keep_their_order(path: str) -> None:
    async def test(c: AsyncCollection) -> None:
        await asyncio.gather(*(c.upsert("same", [n, 0], {"n": n}) for n in range(60)))
        assert (await c.get("same")).metadata == {"n": 59}

    run(path, test)


# -- transactions


def test_a_transaction_commits_whole_or_not_at_all(path: str) -> None:
    async def test(c: AsyncCollection) -> None:
        async with c.transaction() as inside:
            assert inside is c
            await c.add("a", [0, 0])
            assert await c.count() == 11
            assert [record.id async for record in c.scan() if record.id == "a"] == ["a"]
            assert len(vecstore.open(path, mode="r")) == 10
            await asyncio.gather(c.add("b", [0, 1]), c.add("c", [0, 2]))
        assert await c.count() == 13

        async def fail() -> None:
            async with c.transaction():
                await c.delete(where={})
                await c.add(["d", "d"], [[0, 0], [0, 0]])

        with pytest.raises(DuplicateIdError):
            await fail()
        assert await c.count() == 13
        with pytest.raises(InvalidArgumentError, match="open in this thread already"):
            async with c.transaction(), c.transaction():
                pass
        await c.add("after", [0, 0])

    run(path, test)


def test_others_wait_for_a_transaction_and_see_nothing_of_it(path: str) -> None:
    async def test(c: AsyncCollection) -> None:
        begun, other_done = asyncio.Event(), asyncio.Event()

        async def other() -> None:
            await begun.wait()
            assert await c.count() == 10
            await c.add("other", [0, 0])
            other_done.set()

        task = asyncio.create_task(other())

        async def mine() -> None:
            async with c.transaction():
                await c.add("mine", [0, 0])
                begun.set()
                await asyncio.sleep(0.1)
                assert not other_done.is_set()
                raise RuntimeError("undone")

        with pytest.raises(RuntimeError, match="undone"):
            await mine()
        await task
        assert await c.contains("other")
        assert not await c.contains("mine")

    run(path, test)


def test_a_task_that_outlives_a_transaction_is_outside(path: str) -> None:
    async def test(c: AsyncCollection) -> None:
        go = asyncio.Event()

        async def late() -> None:
            await go.wait()
            await c.add("late", [0, 0])

        async with c.transaction():
            task = asyncio.create_task(late())
            await c.add("in time", [0, 0])
        go.set()
        await task
        assert await c.count() == 12

    run(path, test)


@pytest.mark.parametrize("at", range(6))
def test_a_cancelled_transaction_is_undone_and_nobody_waits_for_ever(path: str, at: int) -> None:
    """Cancelled while it waits for its turn, begins, works, or commits."""

    async def test(c: AsyncCollection) -> None:
        async def work() -> None:
            async with c.transaction():
                await c.add("a", [0, 0])
                await asyncio.sleep(0.005)
                await c.add("b", [0, 0])

        task = asyncio.create_task(work())
        for _ in range(at):
            await asyncio.sleep(0.002)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):  # it may be done by now
            await task
        there = [await c.contains(name) for name in ("a", "b")]
        assert there in ([False, False], [True, True])
        await c.add("next", [0, 0])
        async with c.transaction():
            await c.add("and next", [0, 0])
        assert await c.contains("and next")

    run(path, test)


def test_two_collections_in_one_task(tmp_path: Path) -> None:
    async def test(c: AsyncCollection) -> None:
        async with (
            vecstore.aopen(tmp_path / "other.vec", dim=2) as other,
            c.transaction(),
            other.transaction(),
        ):
            await other.add("x", [1, 0])
            await c.add("x", [1, 0])
        assert await c.contains("x")

    run(tmp_path / "one.vec", test)


# -- iterators, errors, and the end


def test_an_iterator_that_is_left_lets_go_of_its_snapshot(path: str) -> None:
    async def test(c: AsyncCollection) -> None:
        records = c.scan(batch_size=1)
        assert (await anext(records)).id == 0
        pages = c.pages([0, 0], 2)
        await anext(pages)
        await c.delete(5)
        assert len((await c.stats())["held_snapshots"]) == 1
        await pages.aclose()  # type: ignore[attr-defined]
        await records.aclose()  # type: ignore[attr-defined]
        assert not (await c.stats())["held_snapshots"]

    run(path, test)


def test_closing_meanwhile(path: str) -> None:
    async def test(c: AsyncCollection) -> None:
        pages = c.pages([0, 0], 2)
        await anext(pages)
        async with c.transaction():
            with pytest.raises(InvalidArgumentError, match="inside of its transaction"):
                await c.close()
        await c.close()
        with pytest.raises(ClosedError):
            await anext(pages)

    run(path, test)


def test_errors_are_those_of_the_collection(path: str) -> None:
    async def test(c: AsyncCollection) -> None:
        with pytest.raises(DuplicateIdError):
            await c.add(1, [0, 0])
        with pytest.raises(InvalidFilterError):
            await c.search([0, 0], where={"a": {"$x": 1}})
        with pytest.raises(InvalidFilterError):
            await anext(c.scan(where=3))
        with pytest.raises(vecstore.DimensionError):
            await c.search(np.zeros(3))

    run(path, test)


def test_a_closed_collection_says_so(path: str) -> None:
    async def main() -> None:
        c = await vecstore.aopen(path, dim=2)
        pending = asyncio.create_task(c.add("a", [1, 0]))
        await asyncio.sleep(0)
        await c.close()
        await c.close()
        await pending
        assert repr(c) == f"AsyncCollection({path!r}, closed)"
        for call in (c.search([1, 0]), c.add("b", [1, 0]), c.count(), anext(c.scan())):
            with pytest.raises(ClosedError):
                await call
        with pytest.raises(ClosedError):
            async with c.transaction():
                pass
        async with await vecstore.aopen(path, mode="r") as again:
            assert await again.count() == 1
            with pytest.raises(vecstore.ReadOnlyError):
                await again.add("c", [1, 0])
            with pytest.raises(vecstore.ReadOnlyError):
                async with again.transaction():
                    pass
        with pytest.raises(vecstore.CollectionNotFoundError):
            await vecstore.aopen(path + "-none")

    asyncio.run(main())
