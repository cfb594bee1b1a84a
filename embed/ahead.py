"""Work done in threads ahead of who takes its results, in order, and no farther ahead than memory allows."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")

# Enough that a model never waits for a slow file while others are ready.
AHEAD = 256
AT_ONCE = 8
# Models that cut pictures themselves are given whole ones: a dozen large photographs may wait for them.
HELD_BYTES = 256 << 20


def at_once(count: int, threads: int) -> int:
    """How many items a thread takes at a time: handed over one by one, a third of the time goes into waking one another.

    >>> at_once(1000, 2), at_once(5, 2)
    (8, 1)
    """
    return max(1, min(AT_ONCE, count // (4 * threads)))


def ahead(
    items: Iterable[Item],
    work: Callable[[Item], Made],
    *,
    threads: int,
    size: int,
    bytes_of: Callable[[Made], int],
    held: int = HELD_BYTES,
) -> Generator[Made, None, None]:
    """What ``work`` makes of each item, in order; threads take ``size`` items at a time. An error in one comes at its place.

    >>> list(ahead("abc", str.upper, threads=2, size=1, bytes_of=len))
    ['A', 'B', 'C']
    """
    room = _Room(held)
    source = iter(items)
    numbers = itertools.count()

    def part_of(number: int, part: list[Item]) -> list[Made]:
        made = []
        for item in part:
            made.append(work(item))
            room.take(number, bytes_of(made[-1]))
        return made

    with ThreadPoolExecutor(threads, "vecstore-read") as pool:
        waiting: deque[Future[list[Made]]] = deque()
        try:
            while True:
                while len(waiting) * size < AHEAD and (part := list(itertools.islice(source, size))):
                    waiting.append(pool.submit(part_of, next(numbers), part))
                if not waiting:
                    return
                made = waiting.popleft().result()
                room.give(sum(map(bytes_of, made)))
                yield from made
        finally:
            room.close()
            pool.shutdown(wait=True, cancel_futures=True)


class _Room:
    """How many bytes of pictures may wait. Those that are waited for always get in, so nothing waits for ever."""

    def __init__(self, most: int) -> None:
        self._most, self._held, self._next = most, 0, 0
        self._changed = threading.Condition()

    def take(self, number: int, size: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._held + size <= self._most or number <= self._next)
            self._held += size

    def give(self, size: int) -> None:
        with self._changed:
            self._held -= size
            self._next += 1
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._most = 1 << 62
            self._changed.notify_all()
