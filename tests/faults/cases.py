"""Damaged files are opened in forked children, many cases in each; a signal or a hang is a finding too."""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import vecstore
from faults import workload
from faults.workload import Ids, Plan

BATCH = 50
SECONDS = 20
SPARE_BYTES = 2 << 30


@dataclass
class Base:
    """A sound file, its bytes, and the right answers to what the cases ask."""

    data: bytes
    model: Ids
    queries: np.ndarray
    answers: list[Any] = field(default_factory=list)
    history: list[Ids] = field(default_factory=list)
    older: bytes = b""


@dataclass
class Case:
    """A file to try: its bytes, and what is asked of it."""

    name: str
    base: Base
    data: bytes
    # Every answer must be right or an error; a crafted file with good checksums may say what it likes.
    strict: bool = True
    write: bool = False
    # An error must name this block.
    must_name: str | None = None
    # The file must be refused at once, or be entirely right.
    whole: bool = False
    # States of before are right answers too: the case turned the whole file back.
    earlier: bool = False


def make_base(folder: str, seed: int, shape: workload.Shape, steps: int, compact: bool = False) -> Base:
    kinds = {kind: share for kind, share in workload.KINDS.items() if kind not in ("compact", "backup")}
    kinds["long"] = 3
    plan = Plan(seed, steps, shape, kinds)
    path = os.path.join(folder, f"base-{seed}.vec")
    worker = workload.Worker(plan, path)
    older = b""
    for number in range(len(plan.steps)):
        worker.do(number)
        if number == steps * 3 // 4:
            worker.close()
            older = read(path)
    if compact:
        worker.open().compact()
    worker.close()
    model = plan.models[-1]
    base = Base(read(path), model, workload.vectors_of(shape, seed, 2), history=plan.models, older=older)
    with vecstore.open(path, mode="r", threads=1) as collection:
        base.answers = [ask(collection, base) for ask in QUESTIONS.values()]
        assert collection.verify().ok
        assert workload.state_of(collection) == model
    workload.remove(path)
    return base


def read(path: str) -> bytes:
    with open(path, "rb") as opened:
        return opened.read()


# -- what is asked of a file


def _get(collection: vecstore.Collection, base: Base) -> Any:
    found = collection.get([*base.model, "never there"])
    return [None if one is None else (one.id, one.vector.tobytes(), one.metadata) for one in found]


def _single(collection: vecstore.Collection, base: Base) -> Any:
    one = collection.get(next(iter(base.model)))
    return None if one is None else (one.id, one.vector.tobytes(), one.metadata)


def _search(collection: vecstore.Collection, base: Base) -> Any:
    return [[(hit.id, hit.distance, hit.metadata) for hit in hits] for hits in collection.search(base.queries, k=7)]


def _search_where(collection: vecstore.Collection, base: Base) -> Any:
    hits = collection.search(base.queries[0], k=5, where={"g": {"$lt": 4}})
    return [(hit.id, hit.distance, hit.metadata) for hit in hits]


def _scan(collection: vecstore.Collection, base: Base) -> Any:
    return workload.state_of(collection), len(collection)


QUESTIONS: dict[str, Callable[[vecstore.Collection, Base], Any]] = {
    "get": _get, "get one": _single, "search": _search, "search where": _search_where, "scan": _scan,
}  # fmt: skip


class Examination:
    """One case: the answers, compared; the errors, collected."""

    def __init__(self, case: Case, path: str) -> None:
        self.case = case
        self.path = path
        self.errors: list[str] = []
        self.problems: list[str] = []

    def run(self) -> tuple[list[str], bool]:
        """(what is wrong with how the library took it, whether it reported damage)."""
        with open(self.path, "wb") as opened:
            opened.write(self.case.data)
        refused = not self.guard("open", self.look)
        if refused and self.case.whole and not any(
            error.startswith(("CorruptionError", "NotACollectionError")) for error in self.errors
        ):
            self.problems.append(f"refused with {self.errors}")
        if not refused and self.case.whole and self.errors:
            self.problems.append(f"opened, and then {self.errors[:2]}")
        if self.case.write:
            self.guard("write", self.write)
        name = self.case.must_name
        if name is not None and not any(name in error for error in self.errors):
            self.problems.append(f"no error names {name}: {self.errors[:2]}")
        workload.remove(self.path)
        return self.problems, bool(self.errors)

    def guard(self, what: str, call: Callable[[], Any]) -> bool:
        try:
            call()
        except vecstore.VecstoreError as error:
            self.errors.append(f"{type(error).__name__}: {error}")
            return False
        except Exception as error:
            trace = error.__traceback__
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            where = f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}" if trace else ""
            self.problems.append(f"{what}: {type(error).__name__} in {where}: {str(error)[:200]}")
            return False
        return True

    def look(self) -> None:
        with vecstore.open(self.path, mode="r", threads=1, timeout=5) as collection:
            for place, name in enumerate(QUESTIONS):
                self.guard(name, lambda place=place, name=name: self.ask(collection, place, name))  # type: ignore[misc]
            self.guard("verify", lambda: self.errors.extend(collection.verify().problems))

    def ask(self, collection: vecstore.Collection, place: int, name: str) -> None:
        base = self.case.base
        found = QUESTIONS[name](collection, base)
        if not self.case.strict or found == base.answers[place]:
            return
        if self.case.earlier:
            if name == "scan" and found[0] not in base.history:
                self.problems.append("scan: neither this state nor an earlier one")
            return
        self.problems.append(f"{name}: a wrong answer")

    def write(self) -> None:
        with vecstore.open(self.path, threads=1, timeout=5) as collection:
            row = np.ones(collection.dim, dtype=np.uint8)
            collection.add("new", row, {"x": 1})
            if self.case.strict and collection.get("new").metadata != {"x": 1}:
                self.problems.append("a write is not there")
            collection.delete(["new", next(iter(self.case.base.model))])
        if self.case.strict:
            with vecstore.open(self.path, mode="r", threads=1) as collection:
                self.guard("after a write", lambda: self.after_write(collection))

    def after_write(self, collection: vecstore.Collection) -> None:
        first = next(iter(self.case.base.model))
        states = self.case.base.history if self.case.earlier else [self.case.base.model]
        wanted = [{key: value for key, value in state.items() if key != first} for state in states]
        if workload.state_of(collection) not in wanted:
            self.problems.append("a wrong state after a write")


# -- many of them


@dataclass
class Outcome:
    cases: int = 0
    noticed: int = 0
    failures: list[str] = field(default_factory=list)


def run_all(folder: str, cases: Sequence[Case], outcome: Outcome, report: int = 0) -> None:
    ticks = workload.progress(report, len(cases) + 1, "damaged files")
    next(ticks)
    at = 0
    while at < len(cases) and len(outcome.failures) < 30:
        results, status = _batch(folder, cases[at : at + BATCH], at)
        for case, (problems, noticed) in zip(cases[at:], results, strict=False):
            outcome.noticed += noticed
            outcome.failures += [f"{case.name}: {problem}" for problem in problems]
        at += len(results)
        if status:
            how = "it hangs" if -status == signal.SIGALRM else f"the process ended with {status}"
            outcome.failures.append(f"{cases[at].name}: {how}" if at < len(cases) else how)
            at += 1
        outcome.cases = outcome.cases + len(results) + bool(status)
        for _ in range(len(results)):
            next(ticks, None)


def _batch(folder: str, cases: Sequence[Case], first: int) -> tuple[list[tuple[list[str], bool]], int]:
    """The results of these cases, up to one that ended the child; the child's status."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        _limit_memory()
        for place, case in enumerate(cases):
            signal.alarm(SECONDS)
            result = Examination(case, os.path.join(folder, f"case-{first + place}.vec")).run()
            os.write(write_end, json.dumps(result).encode() + b"\n")
            gc.collect(0)
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        results = [json.loads(line) for line in pipe if line.endswith("\n")]
    return results, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _limit_memory() -> None:
    warnings.simplefilter("ignore")
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_BYTES, used + SPARE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
