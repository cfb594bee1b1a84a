"""A seeded sequence of calls, and the state that each of them must leave."""

from __future__ import annotations

import glob
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np

import vecstore
from vecstore import config
from vecstore.storage.graph import NONE, drop_graph, write_graph
from vecstore.storage.session import Session
from vecstore.storage.store import live_slots

Ids = dict[Any, tuple[bytes, dict[str, Any]]]
KINDS = {
    "add": 24, "add_one": 14, "upsert": 12, "update": 12, "delete": 12, "delete_where": 5,
    "transaction": 12, "compact": 4, "backup": 3, "reopen": 3, "long": 2, "graph": 6, "index": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """What is created, and how large its calls are."""

    dim: int
    dtype: str
    metric: str
    rows: int
    memory: str | None = None


SMALL = Shape(dim=24, dtype="float32", metric="l2", rows=40)
WIDE = Shape(dim=700, dtype="float32", metric="cosine", rows=60)
# Rows of 64 KiB: a batch of 100 is staged once before its commit.
STAGED = Shape(dim=65_536, dtype="uint8", metric="l2", rows=140, memory="16MiB")


@dataclass
class Step:
    kind: str
    calls: list[tuple[Any, ...]] = field(default_factory=list)


class Plan:
    """Steps, and the model after each: ``models[i]`` holds once i steps are done. Step 0 creates the file."""

    def __init__(self, seed: int, length: int, shape: Shape = SMALL, kinds: dict[str, int] | None = None) -> None:
        self.shape = shape
        self._random = random.Random(seed)
        self._next_id = 0
        self.steps = [Step("create")]
        self.models: list[Ids] = [{}, {}]
        chosen = kinds or KINDS
        for kind in self._random.choices(list(chosen), list(chosen.values()), k=length - 1):
            step, model = Step(kind), dict(self.models[-1])
            self._fill(step, model)
            self.steps.append(step)
            self.models.append(model)

    def _fill(self, step: Step, model: Ids) -> None:
        pick = self._random
        if step.kind == "add":
            self._add(step, model, pick.randint(2, self.shape.rows))
        elif step.kind == "add_one":
            self._add(step, model, 1)
        elif step.kind == "long":
            self._add(step, model, 2, blob=pick.randint(20_000, 90_000))
        elif step.kind == "upsert":
            self._put(step, model, self._some(model, 8) + self._fresh(3), "upsert")
        elif step.kind == "update":
            self._update(step, model)
        elif step.kind == "delete":
            self._delete(step, model, self._some(model, max(1, len(model) // 3)))
        elif step.kind == "delete_where":
            group = pick.randrange(8)
            step.calls.append(("delete_where", group))
            for key in [key for key, (_, metadata) in model.items() if metadata.get("g") == group]:
                del model[key]
        elif step.kind == "graph":
            step.calls.append(("graph", pick.randrange(1 << 30)))
        elif step.kind == "index":
            step.calls.append(("index", pick.choice(["g", "n", "u", "blob"]), pick.random() < 0.7))
        elif step.kind == "transaction":
            self._add(step, model, pick.randint(1, 20))
            self._update(step, model)
            self._delete(step, model, self._some(model, 5))
            self._put(step, model, self._some(model, 3), "upsert")

    def _fresh(self, count: int) -> list[Any]:
        first, self._next_id = self._next_id, self._next_id + count
        return [f"text-{n}" if n % 3 else n for n in range(first, first + count)]

    def _some(self, model: Ids, count: int) -> list[Any]:
        return self._random.sample(sorted(model, key=str), min(count, len(model)))

    def _add(self, step: Step, model: Ids, count: int, blob: int = 0) -> None:
        self._put(step, model, self._fresh(count), "add", blob)

    def _put(self, step: Step, model: Ids, ids: list[Any], call: str, blob: int = 0) -> None:
        seed = self._random.randrange(1 << 30)
        rows = vectors_of(self.shape, seed, len(ids))
        metadata = [{"g": self._random.randrange(8), "n": seed + place} for place in range(len(ids))]
        for entry in metadata if blob else ():
            entry["blob"] = chr(97 + seed % 26) * blob
        step.calls.append((call, ids, seed, metadata))
        for key, row, entry in zip(ids, rows, metadata, strict=True):
            model[key] = (row.tobytes(), entry)

    def _update(self, step: Step, model: Ids) -> None:
        ids = self._some(model, 6)
        changes = [{"u": self._random.randrange(1000), "g": None if self._random.random() < 0.2 else 3} for _ in ids]
        step.calls.append(("update", ids, changes))
        for key, change in zip(ids, changes, strict=True):
            row, old = model[key]
            merged = {**old, **change}
            model[key] = (row, {name: value for name, value in merged.items() if value is not None})

    def _delete(self, step: Step, model: Ids, ids: list[Any]) -> None:
        step.calls.append(("delete", ids))
        for key in ids:
            del model[key]


def vectors_of(shape: Shape, seed: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if shape.dtype == "uint8":
        # One random row, shifted: wide rows must not cost the cases their time.
        base = rng.integers(0, 256, shape.dim, dtype=np.uint8)
        return np.stack([base + np.uint8(place) for place in range(count)]) if count else base[:0].reshape(0, shape.dim)
    return rng.standard_normal((count, shape.dim), dtype=np.float32)


def small_indexes() -> None:
    """Small collections read fields out of indexes too, and make them in several commits."""
    config.READ_INDEXED_FROM, config.INDEXED_AT_ONCE = 0, 40


def backup_path(path: str) -> str:
    return path + ".copy"


class Worker:
    """Does the steps of a plan on one path."""

    def __init__(self, plan: Plan, path: str) -> None:
        self.plan = plan
        self.path = path
        self.collection: vecstore.Collection | None = None

    def open(self) -> vecstore.Collection:
        if self.collection is None:
            self.collection = vecstore.open(self.path, memory=self.plan.shape.memory, threads=1, timeout=5)
        return self.collection

    def close(self) -> None:
        if self.collection is not None:
            self.collection.close()
            self.collection = None

    def do(self, number: int) -> None:
        step, shape = self.plan.steps[number], self.plan.shape
        if step.kind == "create":
            self.collection = vecstore.open(
                self.path, dim=shape.dim, dtype=shape.dtype, metric=shape.metric,
                memory=shape.memory, threads=1, timeout=5,
            )  # fmt: skip
        elif step.kind == "compact":
            self.open().compact()
        elif step.kind == "backup":
            self.open().backup(backup_path(self.path), overwrite=True)
        elif step.kind == "reopen":
            self.close()
            self.open()
        elif step.kind == "transaction":
            with self.open().transaction():
                self._calls(step)
        else:
            self._calls(step)

    def _calls(self, step: Step) -> None:
        collection = self.open()
        for name, *arguments in step.calls:
            if name in ("add", "upsert"):
                ids, seed, metadata = arguments
                getattr(collection, name)(ids, vectors_of(self.plan.shape, seed, len(ids)), metadata)
            elif name == "update":
                collection.update(*arguments)
            elif name == "delete":
                collection.delete(*arguments)
            elif name == "index":
                field, wanted = arguments
                (collection.create_index if wanted else collection.drop_index)(field)
            elif name == "graph":
                replace_graph(collection, *arguments)
            else:
                collection.delete(where={"g": arguments[0]})


def replace_graph(collection: vecstore.Collection, seed: int) -> None:
    """A graph of all records that means nothing: random edges and codes, of a name that no search knows."""
    with collection._file.writing(5.0):
        session = Session(collection._file, stage_bytes=4096)
        try:
            some_graph(session, seed)
            session.commit()
        finally:
            session.close()


def some_graph(session: Session, seed: int) -> dict[str, Any]:
    """Write it; gives what was written."""
    rng = np.random.default_rng(seed)
    slots = rng.permutation(live_slots(session))
    if not slots.size:
        drop_graph(session)
        return {}
    degree = int(rng.choice([1, 6, 47, 255]))
    # As many different steps ahead as there are, for each node the first few of them.
    steps = 1 + rng.permutation(slots.size - 1)[:degree]
    neighbors = np.full((slots.size, degree), NONE, dtype=np.uint32)
    neighbors[:, : steps.size] = (np.arange(slots.size)[:, None] + steps) % slots.size
    neighbors[np.arange(degree) >= rng.integers(0, degree + 1, slots.size)[:, None]] = NONE
    code_bytes = int(rng.choice([16, 64, 208]))
    written = {
        "slots": slots,
        "neighbors": neighbors,
        "codes": rng.integers(0, 256, (slots.size, code_bytes), dtype=np.uint8),
        "index": msgpack.packb({"noise": rng.bytes(int(rng.choice([1, 30_000])))}),
    }
    write_graph(
        session, **written, degree=degree, code_bytes=code_bytes, codec="noise", entries=1, seed=seed
    )
    return written


def state_of(collection: vecstore.Collection) -> Ids:
    return {record.id: (record.vector.tobytes(), record.metadata) for record in collection.scan()}


def difference(found: Ids, allowed: list[Ids]) -> str | None:
    """None if the state found is one of those allowed."""
    if any(found == model for model in allowed):
        return None
    words = []
    for model in allowed:
        missing = [key for key in model if key not in found]
        extra = [key for key in found if key not in model]
        other = [key for key in found if key in model and found[key] != model[key]]
        words.append(f"lacks {missing[:5]} ({len(missing)}), has too many {extra[:5]} ({len(extra)}), differs {other[:5]}")
    return f"{len(found)} records are no allowed state: " + "; or ".join(words)


def check(path: str, allowed: list[Ids], *, may_be_missing: bool, write: bool = True) -> tuple[str | None, int]:
    """(problem or None, which allowed state was found); -1 where there is no file."""
    if not os.path.lexists(path):
        return (None, -1) if may_be_missing else ("the file is gone", -1)
    try:
        with vecstore.open(path, threads=1, timeout=5) as collection:
            found = state_of(collection)
            problem = difference(found, allowed)
            if problem is not None:
                return problem, -1
            report = collection.verify()
            if not report.ok:
                return f"verify: {report.problems[:3]}", -1
            if write:
                problem = _write_one(collection, found)
            return problem, next(place for place, model in enumerate(allowed) if model == found)
    except Exception as error:
        return f"{type(error).__name__}: {error}", -1


def _write_one(collection: vecstore.Collection, before: Ids) -> str | None:
    row = np.full(collection.dim, 7, dtype=np.uint8)
    collection.add("probe", row, {"probe": 1})
    if collection["probe"].vector.tolist() != row.tolist() or len(collection) != len(before) + 1:
        return "a write after the fault is not there"
    collection.delete("probe")
    report = collection.verify()
    return None if report.ok else f"verify after a write: {report.problems[:3]}"


def leftovers(path: str) -> list[str]:
    folder, name = os.path.split(path)
    return glob.glob(os.path.join(glob.escape(folder), f".{glob.escape(name)}.*.new"))


def check_leftovers(path: str, dim: int) -> str | None:
    """What a killed process left goes with the next compaction or creation, once it is two seconds old."""
    for name in leftovers(path):
        os.utime(name, (time.time() - 60, time.time() - 60))
    if os.path.exists(path):
        with vecstore.open(path, threads=1, timeout=5) as collection:
            collection.compact()
    else:
        vecstore.open(path, dim=dim, mode="x").close()
        remove(path)
    left = leftovers(path)
    return f"left behind: {left}" if left else None


def remove(path: str) -> None:
    for name in (path, path + "-lock", *leftovers(path)):
        if os.path.lexists(name):
            os.unlink(name)


def progress(every: int, total: int, what: str) -> Iterator[None]:
    """One step at a time, with a line now and then."""
    start = time.monotonic()
    for done in range(1, total + 1):
        yield
        if every and done % every == 0:
            print(f"{what}: {done} of {total}, {time.monotonic() - start:.0f} s", flush=True)
