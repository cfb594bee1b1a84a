"""A folder of pictures into a collection, and again: what is there already is not read twice."""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

import vecstore

from .asking import agreed_model
from .decode import MAX_PIXELS, decode, read_file
from .errors import ImageError
from .exif import described
from .files import Found, as_id, pictures
from .hashes import hashes_of
from .ledger import Ledger
from .model import Model
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


@dataclass
class _Read:
    """What the threads made of a file: prepared pixels, or none where its content is known already."""

    file: Found
    content: str
    metadata: dict[str, Any]
    prepared: Any
    seconds: tuple[float, float]


def index_folder(
    folder: str | os.PathLike[str],
    path: str | os.PathLike[str],
    model: str | Model = "classic",
    *,
    prune: bool = False,
    retry: bool = False,
    threads: int | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Every picture below a folder becomes a record: its whole path is the id, its file's facts are the metadata.

    A second run reads what is new or has another size or time. A file that moved keeps its vector. With
    ``prune``, records of files that are gone are deleted; with ``retry``, files that failed are tried again although
    they look the same. ``progress`` is called with how many files are done, and how many there are.

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
    with vecstore.open(path, dim=dim) as collection:
        agreed_model(collection, made)
        run = _Run(collection, root, made, Ledger(path), max_pixels)
        return run.over(prune, retry, threads or os.cpu_count() or 1, progress)


class _Run:
    """One pass over a folder. The known rows are held as a few numbers each, pictures a window at a time."""

    def __init__(
        self, collection: vecstore.Collection, root: str, model: Model, ledger: Ledger, max_pixels: int
    ) -> None:
        self.collection, self.root, self.model = collection, root, model
        self.ledger, self.max_pixels = ledger, max_pixels
        self.report = Report(seconds=dict.fromkeys(("list", "read", "decode", "embed", "commit"), 0.0))
        self.known: dict[str, tuple[int, int]] = {}
        self.owner: dict[str, str] = {}
        for record in collection.scan(where={"content": {"$exists": True}}, vectors=False):
            row = record.metadata
            self.known[str(record.id)] = row["size"], row["mtime_ns"]
            self.owner[row["content"]] = str(record.id)
        self.bad = ledger.unchanged()

    def over(
        self, prune: bool, retry: bool, threads: int, progress: Callable[[int, int], None] | None
    ) -> Report:
        start = time.perf_counter()
        files = list(pictures(self.root))
        self.listed = {file.id for file in files}
        fresh = [file for file in files if not self._is_known(file, retry)]
        report = self.report
        report.found, report.seconds["list"] = len(files), time.perf_counter() - start
        done = len(files) - len(fresh)
        for batch in _batches(self._read_ahead(fresh, threads), BATCH):
            self._store(batch, threads)
            done += len(batch)
            if progress is not None:
                progress(done, len(files))
        if prune:
            self._prune()
        report.elapsed = time.perf_counter() - start
        return report

    def _is_known(self, file: Found, retry: bool) -> bool:
        state = file.size, file.mtime_ns
        if self.known.get(file.id) == state:
            self.report.unchanged += 1
            return True
        if not retry and self.bad.get(file.id) == state:
            self.report.failed += 1
            return True
        return False

    # -- in threads

    def _read_ahead(self, files: list[Found], threads: int) -> Iterator[_Read | tuple[Found, str]]:
        """Files in order, read and decoded by threads, at most a batch ahead: memory stays flat."""
        with ThreadPoolExecutor(threads) as pool:
            waiting: deque[Future[_Read | tuple[Found, str]]] = deque()
            try:
                for file in files:
                    waiting.append(pool.submit(self._read, file))
                    if len(waiting) >= BATCH:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _read(self, file: Found, known: bool = True) -> _Read | tuple[Found, str]:
        try:
            start = time.perf_counter()
            data = read_file(file.path)
            read = time.perf_counter() - start
            # The processor's own time: waiting for another thread is no work of this one.
            start = time.thread_time()
            content = hashlib.sha256(data).hexdigest()
            if known and content in self.owner:
                return _Read(file, content, {}, None, (read, time.thread_time() - start))
            picture = decode(
                data, enough=self.model.enough, max_pixels=self.max_pixels, name=file.path
            )
            prepared = self.model.prepare(picture.rgb)
            hashed = hashes_of(picture.rgb)
        except ImageError as error:
            return file, str(error)
        metadata = {
            "width": picture.width,
            "height": picture.height,
            **described(picture.exif),
            "perceptual": f"{hashed.perceptual:016x}",
            "difference": f"{hashed.difference:016x}",
            "mirrored_perceptual": f"{hashed.mirrored_perceptual:016x}",
            "mirrored_difference": f"{hashed.mirrored_difference:016x}",
            "model": self.model.fingerprint,
        }
        return _Read(file, content, metadata, prepared, (read, time.thread_time() - start))

    # -- one transaction a batch

    def _store(self, batch: list[_Read | tuple[Found, str]], threads: int) -> None:
        sources = self._sources(batch)
        # A record that had this content may have another by now: then the file is read for its pixels after all.
        batch = [
            self._read(item.file, known=False)
            if isinstance(item, _Read) and item.prepared is None and item.file.id not in sources
            else item
            for item in batch
        ]
        read = [item for item in batch if isinstance(item, _Read)]
        failed = dict(item for item in batch if not isinstance(item, _Read))
        seconds = self.report.seconds
        seconds["read"] += sum(item.seconds[0] for item in read) / threads
        seconds["decode"] += sum(item.seconds[1] for item in read) / threads
        start = time.perf_counter()
        fresh = [item for item in read if item.prepared is not None]
        vectors = self._vectors(fresh)
        seconds["embed"] += time.perf_counter() - start
        start = time.perf_counter()
        with self.collection.transaction():
            self._store_known([item for item in read if item.prepared is None], sources)
            if fresh:
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

    def _vectors(self, items: list[_Read]) -> NDArray[np.float32]:
        size = self.model.batch
        parts = [items[place : place + size] for place in range(0, len(items), size)]
        found = [self.model.vectors([item.prepared for item in part]) for part in parts]
        return np.concatenate(found) if found else np.zeros((0, self.model.dim), np.float32)

    def _row(self, item: _Read) -> dict[str, Any]:
        file = item.file
        within = as_id(os.path.relpath(file.path, self.root))
        return item.metadata | {
            "path": within.replace(os.sep, "/"),
            "folder": as_id(os.path.basename(os.path.dirname(file.path))),
            "size": file.size,
            "mtime_ns": file.mtime_ns,
            "content": item.content,
        }

    def _sources(self, batch: list[_Read | tuple[Found, str]]) -> dict[str, vecstore.Record]:
        """The records that have these files' contents, as they are before the batch changes any."""
        items = [item for item in batch if isinstance(item, _Read) and item.prepared is None]
        records = self.collection.get([self.owner[item.content] for item in items])
        return {
            item.file.id: record
            for item, record in zip(items, records, strict=True)
            if record is not None and record.metadata.get("content") == item.content
        }

    def _store_known(self, items: list[_Read], sources: dict[str, vecstore.Record]) -> None:
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
        lost = [id_ for id_ in self.bad if self._is_below(id_) and id_ not in self.listed]
        if gone:
            self.report.pruned = self.collection.delete(gone)
        if lost:
            self.ledger.change({}, lost)


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
