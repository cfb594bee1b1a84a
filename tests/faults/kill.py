"""Kills a writer with SIGKILL at any moment, and checks what it left. Runs under the shim."""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
import traceback

from faults import shim, workload
from faults.workload import SMALL, STAGED, WIDE, Plan, Worker

STEPS = 60


def child(plan: Plan, path: str, first: int, pipe: int, arm: tuple[int, int] | None) -> None:
    """Do the steps from this one on, saying so before and after each; ends by the shim, the parent, or at the end."""
    try:
        worker = Worker(plan, path)
        if arm is not None:
            shim.Shim().arm(os.path.dirname(path), arm[0], arm[1])
        for number in range(first, len(plan.steps)):
            os.write(pipe, b"b")
            worker.do(number)
            os.write(pipe, b"d")
        worker.close()
    except BaseException:
        traceback.print_exc()
        os._exit(3)
    os._exit(0)


def run_child(plan: Plan, path: str, first: int, arm: tuple[int, int] | None, delay: float) -> tuple[int, int, int]:
    """(wait status, steps begun, steps done)."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        child(plan, path, first, write, arm)
    os.close(write)
    if arm is None:
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    marks = b""
    while part := os.read(read, 65_536):
        marks += part
    os.close(read)
    return status, marks.count(b"b"), marks.count(b"d")


def check_backup(plan: Plan, path: str, upto: int) -> str | None:
    """The copy is one whole state that was there at some time, or there is none."""
    copy = workload.backup_path(path)
    if not os.path.exists(copy):
        return None
    problem, _ = workload.check(copy, plan.models[: upto + 1], may_be_missing=True, write=False)
    return None if problem is None else f"the backup: {problem}"


class Campaign:
    def __init__(self, folder: str, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.kills = 0
        self.begun = 0
        self.in_flight: dict[str, int] = {}
        self.failures: list[str] = []

    def run(self, kills: int, report: int) -> None:
        ticks = workload.progress(report, kills, "kills")
        next(ticks)
        while self.kills < kills and len(self.failures) < 10:
            before = self.kills
            self.one_file(kills)
            for _ in range(self.kills - before):
                next(ticks, None)

    def one_file(self, most: int) -> None:
        """Kill again and again on one file, until its plan is done."""
        seed = self.random.randrange(1 << 30)
        shape = self.random.choices([SMALL, WIDE, STAGED], [12, 3, 1])[0]
        length = self.random.choice([2, STEPS, STEPS]) if shape is not STAGED else 8
        plan = Plan(seed, length, shape)
        path = os.path.join(self.folder, f"kill-{seed}.vec")
        done = 0
        while done < len(plan.steps) and self.kills < most:
            arm, delay = None, self.random.expovariate(1 / 0.04)
            if self.random.random() < 0.7:
                mode = self.random.choice([shim.KILL_BEFORE, shim.KILL_HALF, shim.KILL_AFTER])
                # A creation is a dozen calls, and comes once a file.
                arm = mode, self.random.randint(1, 60 if done else 14)
            status, begun, finished = run_child(plan, path, done, arm, delay)
            if os.WIFEXITED(status) and os.WEXITSTATUS(status):
                self.failures.append(f"seed {seed} step {done + finished}: the writer failed")
                return
            self.kills += os.WIFSIGNALED(status)
            after = self.check(plan, path, done, begun, finished)
            if isinstance(after, str):
                kind = plan.steps[min(done + finished, len(plan.steps) - 1)].kind
                self.failures.append(f"seed {seed} step {done + finished} ({kind}), armed {arm}: {after}")
                return
            done = after
        workload.remove(path)
        workload.remove(workload.backup_path(path))

    def check(self, plan: Plan, path: str, first: int, begun: int, finished: int) -> int | str:
        """The number of steps the file has seen, or what is wrong with it."""
        done, latest = first + finished, first + begun
        if latest > done:
            kind = plan.steps[done].kind
            self.in_flight[kind] = self.in_flight.get(kind, 0) + 1
        allowed = [plan.models[latest], plan.models[done]]
        problem, which = workload.check(path, allowed, may_be_missing=done == 0)
        problem = problem or check_backup(plan, path, latest)
        if problem is None and (workload.leftovers(path) or self.random.random() < 0.05):
            problem = workload.check_leftovers(path, plan.shape.dim)
        if problem is not None:
            return problem
        if which < 0:
            return 0
        # A step that only repeats what is there may be done again or not: compact, backup, reopen.
        return latest if which == 0 and latest > 0 else done


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=int, default=0)
    options = parser.parse_args()
    workload.small_indexes()
    campaign = Campaign(options.folder, options.seed)
    campaign.run(options.kills, options.report)
    for failure in campaign.failures:
        print("FAILED", failure)
    hit = ", ".join(f"{kind} {count}" for kind, count in sorted(campaign.in_flight.items()))
    print(f"kill: {campaign.kills} kills, {len(campaign.failures)} failures; in flight: {hit}")
    return 1 if campaign.failures else 0


if __name__ == "__main__":
    sys.exit(main())
