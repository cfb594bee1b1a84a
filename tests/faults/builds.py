"""Graphs that are really built, while writers die and disks fail. Runs under the shim."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable

import numpy as np

import vecstore
from faults import disk, kill, shim, workload
from faults.workload import Ids, Plan, Shape
from vecstore import config

ROWS = Shape(dim=24, dtype="float32", metric="l2", rows=300)
KINDS = {"add": 10, "upsert": 2, "delete": 3, "update": 1, "transaction": 1, "compact": 1}
LEAST = 250
# Small collections get graphs too, and every few changes a commit of upkeep.
SMALL = {
    "GRAPH_FROM": LEAST, "GRAPH_FROM_BYTES": 0, "LINKED_FROM": 8, "LINKED_AT_ONCE": 40, "SWEPT_FROM": 100, "SWEPT_AT_ONCE": 200,
}  # fmt: skip


def prepare() -> None:
    """Kernels are compiled before anybody forks."""
    np.seterr(all="ignore")
    for name, value in SMALL.items():
        setattr(config, name, value)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "warm.vec")
        fill(path, 0, 300)
        with vecstore.open(path, threads=1) as collection:
            assert answers(collection, workload.state_of(collection)) is None


def vectors(seed: int, count: int) -> np.ndarray:
    random_ = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((10, ROWS.dim))
    near = centres[random_.integers(0, 10, count)] + 0.4 * random_.standard_normal((count, ROWS.dim))
    return near.astype(np.float32)


def fill(path: str, seed: int, count: int) -> None:
    """So many records: most are in the graph since it was built, and the last were linked later."""
    rows, built = vectors(seed, count), count - count // 10
    with vecstore.open(path, dim=ROWS.dim, metric=ROWS.metric, threads=1) as collection:
        for part in (range(built), range(built, count)):
            collection.add(part, rows[part.start : part.stop], [{"g": n % 8} for n in part])


# -- what must hold of every file


def answers(collection: vecstore.Collection, found: Ids) -> str | None:
    """Whether searches find most of what is nearest, each hit at its own distance."""
    if not found:
        return None
    ids, rows = list(found), np.stack([np.frombuffer(row, dtype=np.float32) for row, _ in found.values()])
    queries = vectors(len(ids), 12)
    apart = np.sqrt(np.square(rows[None].astype(np.float64) - queries[:, None]).sum(axis=2))
    k, within = min(10, len(ids)), 0
    for query, truth in zip(queries, apart, strict=True):
        hits = collection.search(query, k=k)
        if len(hits) != k or len(set(hits.ids)) != k:
            return f"{len(hits)} hits, and {k} were asked for"
        known = dict(zip(ids, truth.tolist(), strict=True))
        if not np.allclose(hits.distances, [known.get(id_, -1) for id_ in hits.ids], rtol=1e-6, atol=1e-6):
            return "a hit's distance is not its own"
        within += int((hits.distances <= np.sort(truth)[k - 1] + 1e-6).sum())
    share = within / (k * len(queries))
    return None if share >= 0.8 else f"only {share:.2f} of the true neighbours"


def check(path: str, allowed: list[Ids]) -> str | None:
    """The state is one of those allowed, the file is sound, and the next write builds what is due."""
    try:
        with vecstore.open(path, threads=1, timeout=5) as collection:
            found = workload.state_of(collection)
            problem = workload.difference(found, allowed) or answers(collection, found)
            if problem is not None:
                return problem
            collection.add("probe", vectors(1, 1)[0])
            stats = collection.stats()
            if len(collection) >= LEAST and (stats["pending"] >= config.LINKED_FROM or not stats["nodes"]):
                return f"the next write linked nothing: {stats['nodes']} nodes, {stats['pending']} pending"
            collection.optimize()
            if len(collection) >= LEAST and collection.stats()["pending"]:
                return "optimize() left records pending"
            collection.delete("probe")
            report = collection.verify()
            return answers(collection, found) or (None if report.ok else f"verify: {report.problems[:3]}")
    except Exception as error:
        return f"{type(error).__name__}: {error}"


# -- kill: a writer dies at any moment of its adding and building


def kills(folder: str, count: int, seed: int) -> list[str]:
    pick = random.Random(seed)
    failures: list[str] = []
    done = building = 0
    while done < count and len(failures) < 5:
        plan = Plan(pick.randrange(1 << 30), 12, ROWS, KINDS)
        path = os.path.join(folder, f"kill-{plan.steps[1].kind}-{done}.vec")
        with vecstore.open(path, dim=ROWS.dim, metric=ROWS.metric):
            at = 1
        while at < len(plan.steps) and done < count:
            arm = None
            if pick.random() < 0.7:
                arm = pick.choice([shim.KILL_BEFORE, shim.KILL_HALF, shim.KILL_AFTER]), pick.randint(1, 50)
            status, begun, finished = kill.run_child(plan, path, at, arm, pick.expovariate(1 / 0.15))
            if os.WIFEXITED(status) and os.WEXITSTATUS(status):
                return [*failures, f"seed {plan.steps}: the writer failed"]
            done += os.WIFSIGNALED(status)
            latest, known = at + begun, at + finished
            if latest > known:
                # Its own commit is made and its build is not: what building leaves undone is all that is missing.
                with vecstore.open(path, mode="r", threads=1) as collection:
                    ended = workload.state_of(collection) == plan.models[latest] != plan.models[known]
                building += ended
            problem = check(path, [plan.models[latest], plan.models[known]])
            if problem is not None:
                failures.append(f"step {known} ({plan.steps[min(known, len(plan.steps) - 1)].kind}), armed {arm}: {problem}")
                break
            with vecstore.open(path, mode="r", threads=1) as collection:
                at = latest if workload.state_of(collection) == plan.models[latest] else known
        workload.remove(path)
    print(f"builds: kill: {done} kills, {building} behind the commit, {len(failures)} failures")
    return failures if building else [*failures, "no kill met a build"]


# -- disk: each call that writes fails in turn, in the commit of the call itself and in that of the build


def disks(folder: str, faults: list[str]) -> list[str]:
    path = os.path.join(folder, "base.vec")
    fill(path, 5, LEAST - 1)
    with vecstore.open(path, mode="r", threads=1) as collection:
        before = workload.state_of(collection)
    failures: list[str] = []
    for fault in faults:
        raised = swallowed = 0
        for at in range(1, 400):
            how = in_child(lambda fault=fault, at=at: one_fault(folder, path, before, fault, at))  # type: ignore[misc]
            if how == "no fault was met":
                break
            raised += how == "raised"
            swallowed += how == "swallowed"
            if how not in ("raised", "swallowed"):
                failures.append(f"{fault}, call {at}: {how}")
        if not raised or not swallowed:
            failures.append(f"{fault}: {raised} raised, {swallowed} swallowed: one kind was never met")
        print(f"builds: disk: {fault}: {raised} raised, {swallowed} swallowed")
    return failures


def one_fault(folder: str, base: str, before: Ids, fault: str, at: int) -> str:
    mode, number = disk.FAULTS[fault]
    place = tempfile.mkdtemp(dir=folder)
    path = os.path.join(place, "disk.vec")
    shutil.copy(base, path)
    own = shim.Shim()
    rows = vectors(9, 40)
    after = {**before, **{1000 + n: (row.tobytes(), {"new": n}) for n, row in enumerate(rows)}}
    with vecstore.open(path, threads=1, timeout=5) as collection:
        own.arm(place, mode, at, number)
        how = "swallowed"
        try:
            collection.add(range(1000, 1040), rows, [{"new": n} for n in range(40)])
        except (vecstore.StorageError, vecstore.StorageFullError):
            how = "raised"
        met = own.hits > 0
        own.disarm()
        if not met:
            return "no fault was met"
        now = before if how == "raised" else after
        if workload.state_of(collection) != now:
            return f"{how}, and the same handle reads another state"
    problem = check(path, [now])
    shutil.rmtree(place)
    return how if problem is None else f"{how}: {problem}"


def in_child(work: Callable[[], str]) -> str:
    """What it says, from a forked process."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            said = work()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write, said.encode()[:4000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return f"the process ended with {status}" if status else said


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--part", choices=["kill", "disk"], required=True)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", nargs="*", choices=list(disk.FAULTS), default=list(disk.FAULTS))
    options = parser.parse_args()
    prepare()
    if options.part == "disk":
        failures = disks(options.folder, options.faults)
    else:
        failures = kills(options.folder, options.kills, options.seed)
    for failure in failures:
        print("FAILED", failure[:600])
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
