"""How a collection is looked at and cared for: what it holds, how a search is done, and upkeep, which writes do as they go."""

from __future__ import annotations

import os
import time
from typing import Any

from vecstore import inputs, order
from vecstore.config import DEFAULT_K
from vecstore.errors import CorruptionError, InvalidArgumentError
from vecstore.indexes import Indexing
from vecstore.planner import Asked
from vecstore.query import answers
from vecstore.query.where import parse
from vecstore.report import build_progress, plan, stats
from vecstore.storage import replace, store
from vecstore.storage.environment import translated
from vecstore.storage.session import Session
from vecstore.storage.verify import verify
from vecstore.types import VerifyReport


class Caring(Indexing):
    """What ``Collection`` offers beside reading and writing."""

    def stats(self) -> dict[str, Any]:
        """Counts, sizes and what waits to be done.

        >>> import vecstore
        >>> with vecstore.open("st.vec", dim=2) as st:
        ...     st.stats()["count"]
        0
        """
        with self._view() as blocks:
            drift = self._graph.drift(blocks)
            return stats(blocks, self._file, self._fields, self._graph.nbytes, drift, self._device)

    def explain(
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
        """How a search is done and what it costs: the plan, distances, blocks, and the time of each stage.

        >>> import vecstore
        >>> with vecstore.open("x.vec", dim=2) as x:
        ...     _ = x.add("a", [1, 0])
        ...     x.explain([1, 0])["plan"]
        'scan'
        """
        limit = inputs.check_limits(k, radius, recall, search_list)
        start = time.perf_counter()
        filter_ = None if where is None else parse(where)
        queries, _ = inputs.check_queries(query, self._settings)
        asked = Asked(limit, radius, filter_, recall, search_list, exact, self._threads)
        with self._view() as blocks:
            stages = {"prepare": time.perf_counter() - start}
            start = time.perf_counter()
            mask = self._planner.candidates(blocks, asked)
            stages["filter"] = time.perf_counter() - start
            start = time.perf_counter()
            found, effort = order.answer(self._planner, blocks, queries, None, asked)
            stages["scan" if effort is None else "walk"] = time.perf_counter() - start
            start = time.perf_counter()
            hits = answers.hits_of(blocks, found)
            stages["records"] = time.perf_counter() - start
            return plan(blocks, mask, len(queries), sum(map(len, hits)), stages, effort)

    def recall(self, sample: int = 100, k: int = DEFAULT_K) -> float:
        """The share of true neighbours that ``search`` finds, measured on stored vectors of this collection.

        >>> import vecstore
        >>> with vecstore.open("rc.vec", dim=2) as rc:
        ...     _ = rc.add([1, 2], [[1, 0], [0, 1]])
        ...     rc.recall(sample=2, k=1)
        1.0
        """
        count, k = inputs.check_k(sample, "sample"), inputs.check_k(k)
        with self._view() as blocks:
            found = self._planner.recall(blocks, count, k)
        return 1.0 if found is None else found

    def verify(self, raise_on_error: bool = False) -> VerifyReport:
        """Check every checksum, every id and every record.

        >>> import vecstore
        >>> with vecstore.open("v.vec", dim=2) as v:
        ...     v.verify().ok
        True
        """
        self._check_open()
        with self._file.snapshot() as state:
            report = verify(state)
        if raise_on_error and report.problems:
            more = f" (and {len(report.problems) - 1} more problems)" if len(report.problems) > 1 else ""
            raise CorruptionError(report.problems[0] + more)
        return report

    def optimize(self, budget_seconds: float | None = None) -> None:
        """Do waiting upkeep now. Never needed: writes do it as they go.

        >>> import vecstore
        >>> with vecstore.open("o.vec", dim=2) as o:
        ...     o.optimize()
        """
        self._check_writable()
        end = None if budget_seconds is None else time.monotonic() + budget_seconds
        with self._file.writing(self._timeout):
            self._purge(end)
            self._wanted_indexes()
            self._make_indexes(end)
            self._link(end, all_of_it=True)

    def compact(self) -> int:
        """Give free space back to the file system; gives how many bytes. Readers keep their snapshots.

        In a collection that is searched by its graph, records then lie beside their neighbours: fewer pages
        are read for a search, and iterating gives another order.

        >>> import vecstore
        >>> with vecstore.open("c.vec", dim=2) as c:
        ...     _ = c.add([1, 2], [[1, 0], [0, 1]]), c.delete(1)
        ...     c.compact() >= 0
        True
        """
        self._check_writable()
        with self._file.writing(self._timeout):
            before = os.path.getsize(self.path)
            replace.compact(self._file, self._graph.arranged)
            self._link(all_of_it=True)
            return before - os.path.getsize(self.path)

    def backup(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """A consistent, dense copy under another path, while others write.

        >>> import vecstore
        >>> with vecstore.open("b.vec", dim=2) as b:
        ...     _ = b.add("a", [1, 0])
        ...     b.backup("b-copy.vec")
        >>> vecstore.open("b-copy.vec", mode="r")["a"].vector.tolist()
        [1.0, 0.0]
        """
        self._check_open()
        target = inputs.check_path(path)
        if target == self.path:
            raise InvalidArgumentError("a backup needs another path than the collection's own")
        with self._file.snapshot() as state, translated(target, "writing the backup"):
            replace.copy(state, target, overwrite=overwrite)

    def _purge(self, end: float | None = None) -> None:
        """Bring the share of dead rows and bytes within its bound."""
        self._in_slices(store.purge, end)

    def _link(self, end: float | None = None, *, all_of_it: bool = False) -> None:
        """Build the graph anew if it is worn; else link what is pending and sweep what is owed."""

        def tend(session: Session) -> bool:
            with build_progress() as progress:
                return self._graph.tend(session, progress, all_of_it=all_of_it)

        self._in_slices(tend, end)
