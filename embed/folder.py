"""A folder of pictures into a collection, and again: what is there already is not read twice."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import vecstore

from .asking import agreed_model
from .decode import MAX_PIXELS
from .errors import ImageError, shown
from .files import Found, as_id, path_of, pictures
from .ledger import Ledger
from .model import Batch, Batches, Model
from .progress import Line
from .reading import Failed, Read, Reader
from .registry import load

# A commit costs milliseconds and a kill loses what came after the last: about a second's work is between two.
BATCH = 256


@dataclass
class Report:
    """What a run over a folder did. ``seconds`` is the time of each stage, threads' time divided by their number.

    >>> Report(found=3, added=3, elapsed=2.0, seconds={"read": 0.1, "decode": 1.5}).bottleneck
    'decode'
    """

    found: int = 0
    added: int = 0
    changed: int = 0
    moved: int = 0
    unchanged: int = 0
    failed: int = 0
    pruned: int = 0
    elapsed: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Pictures a second, of those that were new or changed."""
        return (self.added + self.changed) / self.elapsed if self.elapsed else 0.0

    @property
    def bottleneck(self) -> str | None:
        """The stage that took longest."""
        return max(self.seconds, key=lambda stage: self.seconds[stage], default=None)


def index_folder(
    folder: str | os.PathLike[str],
    path: str | os.PathLike[str],
    model: str | Model = "classic",
    *,
    prune: bool = False,
    retry: bool = False,
    threads: int | None = None,
    max_pixels: int = MAX_PIXELS,
    thumbnails: bool = False,
    memory: str | int | None = "256MB",
    progress: bool | Callable[[int, int], None] | None = None,
) -> Report:
    """Every picture below a folder becomes a record: its whole path is the id, its file's facts are the metadata.

    The facts: ``path`` below the folder, ``folder`` (the last one, often a class), ``width``, ``height``, ``size``,
    and what the camera wrote: ``time``, ``camera``, ``gps``. With ``thumbnails``, a small JPEG of each lies in its
    record too, for pages that must not need the files.

    A second run reads what is new or has another size or time. A file that moved keeps its vector. With
    ``prune``, records of files that are gone are deleted: of those below the folder, and of those elsewhere whose content lies
    below it now, as after a folder was renamed; with ``retry``, files that failed are tried again although
    they look the same. Every some hundred files are one transaction, and a run that was stopped goes on behind the
    last. ``memory`` is what the collection may take for its graph; pictures that wait for the model take as much again
    at most. With ``progress=True`` a line in the terminal tells how far it is; a function is called with how many files
    are done, and how many there are.

    >>> import tempfile
    >>> from PIL import Image
    >>> place = tempfile.mkdtemp()
    >>> Image.new("RGB", (40, 30), "red").save(os.path.join(place, "red.png"))
    >>> report = index_folder(place, os.path.join(place, "all.vec"))
    >>> report.added, index_folder(place, os.path.join(place, "all.vec")).unchanged
    (1, 1)
    """
    root = os.path.abspath(folder)
    if not os.path.isdir(root):
        raise ImageError(f"{as_id(root)} is no folder")
    made = load(model) if isinstance(model, str) else model
    dim = None if os.path.exists(path) else made.dim
    with vecstore.open(path, dim=dim, memory=memory) as collection:
        agreed_model(collection, made)
        run = _Run(
            collection,
            root,
            made,
            Ledger(path),
            max_pixels=max_pixels,
            threads=threads or os.cpu_count() or 1,
            thumbnails=thumbnails,
        )
        return run.over(prune=prune, retry=retry, progress=progress)


class _Run:
    """One pass over a folder. The known rows are held as a few numbers each, pictures a window at a time."""

    def __init__(
        self,
        collection: vecstore.Collection,
        root: str,
        model: Model,
        ledger: Ledger,
        *,
        max_pixels: int,
        threads: int,
        thumbnails: bool,
    ) -> None:
        self.collection, self.root, self.model, self.ledger = collection, root, model, ledger
        self.report = Report(seconds=dict.fromkeys(("list", "read", "decode", "embed", "commit"), 0.0))
        self.known: dict[str, tuple[int, int]] = {}
        self.owner: dict[str, str] = {}
        for record in collection.scan(where={"content": {"$exists": True}}, vectors=False):
            row = record.metadata
            self.known[str(record.id)] = row["size"], row["mtime_ns"]
            self.owner[row["content"]] = str(record.id)
        self.bad = ledger.unchanged()
        self.reader = Reader(model, self.owner, max_pixels, threads, thumbnails)

    def over(self, *, prune: bool, retry: bool, progress: bool | Callable[[int, int], None] | None) -> Report:
        start = time.perf_counter()
        files = list(pictures(self.root))
        self.listed = {file.id for file in files}
        fresh = [file for file in files if not self._is_known(file, retry)]
        report = self.report
        report.found, report.seconds["list"] = len(files), time.perf_counter() - start
        line = Line() if progress is True else None
        try:
            if fresh:
                self._index(fresh, line, progress if callable(progress) else None)
        finally:
            if line is not None:
                line.clear()
        if prune:
            self._prune()
        report.elapsed = time.perf_counter() - start
        return report

    def _index(
        self, fresh: list[Found], line: Line | None, progress: Callable[[int, int], None] | None
    ) -> None:
        total, seconds = self.report.found, self.report.seconds
        done = total - len(fresh)
        batch: list[Read | Failed] = []
        with self.collection.bulk():
            with contextlib.closing(self.reader.ahead(fresh)) as read:
                for item in self._embedded(read):
                    batch.append(item)
                    if line is not None:
                        line.show(done + len(batch), total, seconds)
                    if len(batch) < BATCH and done + len(batch) < total:
                        continue
                    self._store(batch)
                    done += len(batch)
                    batch = []
                    if progress is not None:
                        progress(done, total)
            start = time.perf_counter()
        # The graph is linked behind the last batch.
        seconds["commit"] += time.perf_counter() - start

    def _is_known(self, file: Found, retry: bool) -> bool:
        state = file.size, file.mtime_ns
        if self.known.get(file.id) == state:
            self.report.unchanged += 1
            return True
        if not retry and self.bad.get(file.id) == state:
            self.report.failed += 1
            return True
        return False

    def _embedded(self, items: Iterable[Read | Failed]) -> Iterator[Read | Failed]:
        """The same files, as many at once through the model as it likes."""
        batches = Batches(self.model)
        for item in items:
            if isinstance(item, Failed) or item.prepared is None:
                yield item
                continue
            # The picture is let go here: only vectors wait for the commit.
            prepared, item.prepared = item.prepared, None
            start = self.model.clock()
            yield from self._with_vectors(batches.put(item, prepared), start)
        start = self.model.clock()
        yield from self._with_vectors(batches.end(), start)

    def _with_vectors(self, done: list[Batch], start: float) -> Iterator[Read | Failed]:
        self.report.seconds["embed"] += self.model.clock() - start
        for items, vectors in done:
            for item, vector in zip(items, vectors, strict=True):
                item.vector = vector
                if np.isfinite(vector).all() and vector.any():
                    yield item
                else:
                    reason = f"{shown(item.file.id)}: the model {self.model.name!r} makes no vector of it"
                    yield Failed(item.file, reason)

    # -- one transaction a batch

    def _store(self, batch: list[Read | Failed]) -> None:
        seconds = self.report.seconds
        sources = self._sources(batch)
        # A record that had this content may have another by now: then the file is read for its pixels after all.
        read_again = [
            self.reader.read(item.file, known=False)
            for item in batch
            if isinstance(item, Read) and item.vector is None and item.file.id not in sources
        ]
        batch = [
            item
            for item in batch
            if isinstance(item, Failed) or item.vector is not None or item.file.id in sources
        ]
        batch += self._embedded(read_again)
        read = [item for item in batch if isinstance(item, Read)]
        failed = {item.file: item.reason for item in batch if isinstance(item, Failed)}
        seconds["read"] += sum(item.seconds[0] for item in read) / self.reader.threads
        seconds["decode"] += sum(item.seconds[1] for item in read) / self.reader.threads
        start = time.perf_counter()
        fresh = [item for item in read if item.vector is not None]
        with self.collection.transaction():
            self._store_known([item for item in read if item.vector is None], sources)
            if fresh:
                vectors = np.stack([item.vector for item in fresh if item.vector is not None])
                self.collection.upsert([item.file.id for item in fresh], vectors, list(map(self._row, fresh)))
        for item in fresh:
            self._count(item.file.id)
            self.owner[item.content] = item.file.id
        healed = [item.file.id for item in read if item.file.id in self.bad]
        if failed or healed:
            self.ledger.change(failed, healed)
        self.report.failed += len(failed)
        self.report.failures.update((file.id, reason) for file, reason in failed.items())
        seconds["commit"] += time.perf_counter() - start

    def _row(self, item: Read) -> dict[str, Any]:
        file = item.file
        within = file.id[len(as_id(self.root)) :].lstrip(os.sep)
        return item.metadata | {
            "path": within.replace(os.sep, "/"),
            "folder": as_id(os.path.basename(os.path.dirname(file.path))),
            "size": file.size,
            "mtime_ns": file.mtime_ns,
            "content": item.content,
        }

    def _sources(self, batch: list[Read | Failed]) -> dict[str, vecstore.Record]:
        """The records that have these files' contents, as they are before the batch changes any."""
        items = [item for item in batch if isinstance(item, Read) and item.vector is None]
        records = self.collection.get([self.owner[item.content] for item in items])
        return {
            item.file.id: record
            for item, record in zip(items, records, strict=True)
            if record is not None and record.metadata.get("content") == item.content
        }

    def _store_known(self, items: list[Read], sources: dict[str, vecstore.Record]) -> None:
        """Files whose content a record has already: it is their own, or its vector is theirs too."""
        for item in items:
            id_, record = item.file.id, sources[item.file.id]
            source = str(record.id)
            self.collection.upsert(id_, record.vector, record.metadata | self._row(item))
            if source == id_:
                self.report.unchanged += 1
                continue
            self._count(id_, moved=source not in self.listed)
            if self._is_below(source) and source not in self.listed:
                self.collection.delete(source)
                self.known.pop(source, None)
                self.owner[item.content] = id_

    def _count(self, id_: str, *, moved: bool = False) -> None:
        if moved:
            self.report.moved += 1
        elif id_ in self.known:
            self.report.changed += 1
        else:
            self.report.added += 1

    def _is_below(self, id_: str) -> bool:
        return id_.startswith(as_id(self.root).rstrip(os.sep) + os.sep)

    def _prune(self) -> None:
        gone = [id_ for id_ in self.known if self._is_below(id_) and id_ not in self.listed]
        gone += self._moved_here()
        lost = [id_ for id_ in self.bad if self._is_below(id_) and id_ not in self.listed]
        if gone:
            self.report.pruned = self.collection.delete(gone)
        if lost:
            self.ledger.change({}, lost)

    def _moved_here(self) -> list[str]:
        """Records of files that are gone elsewhere, and whose content is below the folder. A disk may just not be mounted."""
        elsewhere = [id_ for id_ in self.known if not self._is_below(id_) and not os.path.lexists(path_of(id_))]
        if not elsewhere:
            return []
        facts = self.collection.scan(where={"content": {"$exists": True}}, vectors=False)
        content = {str(record.id): record.metadata["content"] for record in facts}
        here = {content[id_] for id_ in self.listed if id_ in content}
        return [id_ for id_ in elsewhere if content.get(id_) in here]
