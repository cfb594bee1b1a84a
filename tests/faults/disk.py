"""Lets each call that writes fail in turn, and checks what the library says and keeps. Runs under the shim."""

from __future__ import annotations

import argparse
import errno
import os
import subprocess
import sys
import traceback

import vecstore
from faults import shim, workload
from faults.workload import SMALL, STAGED, Plan, Worker

FAULTS = {
    "full once": (shim.FAIL_ONCE, errno.ENOSPC),
    "full from then on": (shim.FAIL_ON, errno.ENOSPC),
    "quota": (shim.FAIL_ONCE, errno.EDQUOT),
    "failing": (shim.FAIL_ONCE, errno.EIO),
    "failing from then on": (shim.FAIL_ON, errno.EIO),
    "failing once written": (shim.LATE_ONCE, errno.EIO),
    "half a write": (shim.SHORT_ONCE, errno.ENOSPC),
}
TYPES = {
    errno.ENOSPC: vecstore.StorageFullError,
    errno.EDQUOT: vecstore.StorageFullError,
    errno.EIO: vecstore.StorageError,
}
# Every kind of call once, and enough deletions that blocks are freed and used again.
KINDS = ["add", "add_one", "upsert", "update", "long", "delete", "transaction", "compact"]
KINDS += ["graph", "add", "backup", "delete", "graph", "add", "compact", "delete_where"]
KINDS += ["index", "add", "index", "update", "index", "delete", "index", "add"]
BIG = ["add", "add", "delete", "upsert", "compact"]


def plan_of(kinds: list[str], seed: int, shape: workload.Shape) -> Plan:
    """One step of each of these kinds, in this order."""
    plan = Plan(seed, 1, shape)
    for kind in kinds:
        step, model = workload.Step(kind), dict(plan.models[-1])
        plan._fill(step, model)
        plan.steps.append(step)
        plan.models.append(model)
    return plan


class Trial:
    """The whole plan once, with one fault in it."""

    def __init__(self, plan: Plan, folder: str, fault: str, at: int) -> None:
        self.plan = plan
        self.path = os.path.join(folder, "disk.vec")
        self.mode, self.errno = FAULTS[fault]
        self.shim = shim.Shim()
        self.worker = Worker(plan, self.path)
        self.outside = Outside(plan, self.path)
        self.met = False
        self.shim.arm(folder, self.mode, at, self.errno)

    def run(self) -> tuple[list[str], bool]:
        """(problems, whether the fault was met at all)."""
        problems: list[str] = []
        for number in range(len(self.plan.steps)):
            problem = self.step(number)
            if problem is not None:
                problems.append(f"step {number} ({self.plan.steps[number].kind}): {problem}")
                break
        hit = self.met or self.shim.hits > 0
        self.shim.disarm()
        if not problems:
            self.worker.close()
            problem, _ = workload.check(self.path, [self.plan.models[-1]], may_be_missing=False)
            problem = problem or workload.check_leftovers(self.path, self.plan.shape.dim)
            problems += [] if problem is None else [f"at the end: {problem}"]
        return problems, hit

    def step(self, number: int) -> str | None:
        try:
            self.worker.do(number)
        except Exception as error:
            problem = self.failed(number, error)
            if problem is not None:
                return problem
            self.disarm()
            try:
                self.worker.do(number)
            except Exception as again:
                return f"done again without a fault: {_described(again)}"
        if self.shim.hits and self.mode == shim.FAIL_ON:
            self.disarm()
        return self.look(number + 1)

    def disarm(self) -> None:
        self.met = True
        self.shim.arm(os.path.dirname(self.path), shim.OFF)

    def failed(self, number: int, error: Exception) -> str | None:
        """Whether the error is the right one, and the state before is still there."""
        wanted = (vecstore.StorageFullError, vecstore.StorageError) if self.mode == shim.SHORT_ONCE else TYPES[self.errno]
        if not isinstance(error, wanted) or not isinstance(error, OSError):
            return f"raised {_described(error)}"
        if number == 0:
            return self.look(0) if os.path.exists(self.path) else None
        return self.look(number)

    def look(self, number: int) -> str | None:
        """Read the state of this number in this process, through the same handle, and in another one."""
        try:
            problem = workload.difference(workload.state_of(self.worker.open()), [self.plan.models[number]])
        except Exception as error:
            return f"reading after it: {_described(error)}"
        return problem or self.outside.look(number)


class Outside:
    """Another process, begun before this one opened anything."""

    def __init__(self, plan: Plan, path: str) -> None:
        asked, self._ask = os.pipe()
        self._answer, answer = os.pipe()
        if os.fork() == 0:
            os.close(self._ask)
            os.close(self._answer)
            while number := os.read(asked, 1):
                os.write(answer, (_look(plan, path, number[0]) or "").encode()[:3000] + b"\n")
            os._exit(0)
        os.close(asked)
        os.close(answer)

    def look(self, number: int) -> str | None:
        os.write(self._ask, bytes([number]))
        problem = os.read(self._answer, 4000).decode().strip()
        return f"in another process: {problem}" if problem else None


def _look(plan: Plan, path: str, number: int) -> str | None:
    try:
        with vecstore.open(path, mode="r", threads=1) as collection:
            problem = workload.difference(workload.state_of(collection), [plan.models[number]])
            if problem is None and not collection.verify().ok:
                problem = f"verify: {collection.verify().problems[:2]}"
            return problem
    except BaseException as error:
        return _described(error)


def _described(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" ({os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno})" if trace else ""
    return f"{type(error).__name__}: {error}{where}"


def trial(plan: Plan, folder: str, fault: str, at: int) -> tuple[list[str], bool]:
    """One trial in a child process; ended by a signal, it is a finding."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            problems, hit = Trial(plan, folder, fault, at).run()
        except BaseException:
            problems, hit = [traceback.format_exc()], True
        os.write(write, f"{int(hit)}\n{chr(30).join(problems)}".encode()[:60_000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status or not text:
        return [f"the process ended with {status}"], True
    hit, _, problems = text.partition("\n")
    return [part for part in problems.split(chr(30)) if part], hit == "1"


def campaign(folder: str, plan: Plan, fault: str, stride: int, failures: list[str]) -> int:
    """Fail the first call, the second, … until the plan passes without meeting the fault."""
    at = trials = 0
    while True:
        at += 1 if at == 0 else stride
        place = os.path.join(folder, f"{fault.replace(' ', '-')}-{at}")
        os.mkdir(place)
        problems, hit = trial(plan, place, fault, at)
        subprocess.run(["rm", "-rf", place], check=True)
        failures += [f"{fault}, call {at}: {problem}" for problem in problems]
        if not hit or len(failures) > 30:
            return trials
        trials += 1


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--stride", type=int, default=1, help="every so many calls only")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    workload.small_indexes()
    failures: list[str] = []
    for fault in FAULTS:
        small = campaign(options.folder, plan_of(KINDS, options.seed, SMALL), fault, options.stride, failures)
        big = campaign(options.folder, plan_of(BIG, options.seed, STAGED), fault, 7 * options.stride, failures)
        print(f"disk: {fault}: {small} and {big} calls failed in turn")
    for failure in failures:
        print("FAILED", failure[:700])
    print(f"disk: {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
