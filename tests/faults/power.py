"""Simulated power cuts: disk images rebuilt from a log of writes and syncs, each opened and checked.

What a completed sync covered is on the disk. Of the rest, any part may be: each write whole, not at all,
as zeros, or some of its sectors, whichever came first. A name lasts once its folder was synced.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import struct
import sys
import tempfile
import traceback
from dataclasses import dataclass, field
from typing import ClassVar

from faults import shim, workload
from faults.workload import SMALL, STAGED, WIDE, Ids, Plan, Worker

SECTOR = 512
WRITE, TRUNCATE, SYNC, SYNC_FOLDER, CREATE, LINK, RENAME, UNLINK, MARK = range(1, 10)
_HEAD = struct.Struct("<5Q")


@dataclass(frozen=True)
class Op:
    kind: int
    inode: int
    offset: int
    synced: bool
    data: bytes

    def names(self) -> tuple[str, str]:
        first, second = self.data.decode().split("\n")
        return os.path.basename(first), os.path.basename(second)


def read_log(path: str) -> list[Op]:
    """The operations; a file system may use an inode again, so each created file gets a number of its own."""
    ops: list[Op] = []
    numbers: dict[int, int] = {}
    with open(path, "rb") as log:
        while head := log.read(_HEAD.size):
            kind, inode, offset, synced, length = _HEAD.unpack(head)
            if kind == CREATE:
                numbers[inode] = -len(ops) - 1
            inode = numbers.get(inode, inode)
            ops.append(Op(kind, inode, offset, bool(synced), log.read(length)))
    return ops


@dataclass
class Disk:
    """What lasts of each file and of the folder, and what may last."""

    files: dict[int, bytearray] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    pending: dict[int, list[Op]] = field(default_factory=dict)
    pending_names: list[Op] = field(default_factory=list)
    # A kind of sync that does nothing, to see that its lack is noticed.
    ignores: ClassVar[int] = 0

    @classmethod
    def of_folder(cls, folder: str) -> Disk:
        disk = cls()
        for entry in os.scandir(folder):
            if not entry.name.endswith("-lock"):
                disk.names[entry.name] = entry.inode()
                with open(entry.path, "rb") as opened:
                    disk.files[entry.inode()] = bytearray(opened.read())
        return disk

    def take(self, op: Op) -> None:
        """The operation has returned."""
        if op.kind == self.ignores:
            return
        if op.kind == WRITE and op.synced:
            write(self.files.setdefault(op.inode, bytearray()), op.offset, op.data)
        elif op.kind in (WRITE, TRUNCATE):
            self.pending.setdefault(op.inode, []).append(op)
        elif op.kind == SYNC:
            for waiting in self.pending.pop(op.inode, []):
                apply(self.files.setdefault(op.inode, bytearray()), waiting)
        elif op.kind == SYNC_FOLDER:
            for waiting in self.pending_names:
                rename(self.names, waiting)
            self.pending_names = []
        elif op.kind != MARK:
            self.pending_names.append(op)

    def image(self, folder: str, in_flight: Op | None, pick: random.Random) -> None:
        """Write what one power cut may leave into a folder."""
        names, pending = dict(self.names), {inode: list(ops) for inode, ops in self.pending.items()}
        pending_names = list(self.pending_names)
        if in_flight is not None and in_flight.kind in (WRITE, TRUNCATE):
            pending.setdefault(in_flight.inode, []).append(in_flight)
        elif in_flight is not None and CREATE <= in_flight.kind < MARK:
            pending_names.append(in_flight)
        share = pick.choice((0.0, 0.5, 0.5, 0.9, 1.0))
        for op in pending_names:
            if pick.random() < share:
                rename(names, op)
        share = pick.choice((0.0, 0.2, 0.5, 0.5, 0.8, 0.97, 1.0))
        for name, inode in names.items():
            content = self.files.get(inode, bytearray())
            ops = pending.get(inode, [])
            if ops:
                content = bytearray(content)
                for op in ops:
                    apply_in_part(content, op, share, pick)
            with open(os.path.join(folder, name), "wb") as opened:
                opened.write(content)


def rename(names: dict[str, int], op: Op) -> None:
    first, second = op.names()
    if op.kind == CREATE:
        names[first] = op.inode
    elif op.kind == UNLINK:
        names.pop(first, None)
    else:
        names[second] = op.inode
        if op.kind == RENAME:
            names.pop(first, None)


def write(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def apply(content: bytearray, op: Op) -> None:
    if op.kind == WRITE:
        write(content, op.offset, op.data)
    elif len(content) > op.offset:
        del content[op.offset :]
    else:
        content.extend(bytes(op.offset - len(content)))


def apply_in_part(content: bytearray, op: Op, share: float, pick: random.Random) -> None:
    """An unsynced write: kept, dropped, zeros where the file grew, or some of its sectors."""
    chance = pick.random()
    if op.kind != WRITE or chance < 0.7:
        if pick.random() < share:
            apply(content, op)
    elif chance < 0.8:
        grown = op.offset + len(op.data)
        if len(content) < grown:
            content.extend(bytes(grown - len(content)))
    else:
        first, last = op.offset, op.offset + len(op.data)
        start = first
        while start < last:
            # Sectors in runs, so that a large write costs few steps.
            end = min(last, (start // SECTOR + 1 + int(pick.expovariate(0.2))) * SECTOR)
            if pick.random() < 0.5:
                write(content, start, op.data[start - first : end - first])
            start = end


# -- recording


def record(folder: str, log: str, work: object) -> int:
    """Do some work on a folder in a child process, logged; gives its exit status."""
    pid = os.fork()
    if pid == 0:
        try:
            watcher = shim.Shim()
            fd = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
            watcher.arm(folder, log=fd)
            work(watcher)  # type: ignore[operator]
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def do_plan(plan: Plan, path: str, watcher: shim.Shim) -> None:
    worker = Worker(plan, path)
    for number in range(len(plan.steps)):
        watcher.mark("b")
        worker.do(number)
        watcher.mark("d")
    worker.close()


def recover(path: str, dim: int, watcher: shim.Shim) -> None:
    """What a user does after the power is back: open, add, delete, compact."""
    import vecstore

    with vecstore.open(path, threads=1, timeout=5) as collection:
        row = [1] * dim
        watcher.mark("b")
        collection.add("after", row, {"x": 1})
        watcher.mark("d")
        watcher.mark("b")
        collection.add(["after2", "after3"], [row, row])
        watcher.mark("d")
        watcher.mark("b")
        collection.delete(["after", "after2", "after3"])
        watcher.mark("d")
        watcher.mark("b")
        collection.compact()
        watcher.mark("d")


def recovery_models(state: Ids, plan: Plan) -> list[Ids]:
    import numpy as np

    row = np.ones(plan.shape.dim, dtype=plan.shape.dtype).tobytes()
    one = {**state, "after": (row, {"x": 1})}
    three = {**one, "after2": (row, {}), "after3": (row, {})}
    return [state, one, three, state, state]


# -- the campaign


class Campaign:
    def __init__(self, folder: str, seed: int, total: int, report: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.total = total
        self.images = self.second = self.missing = 0
        self.failures: list[str] = []
        self._ticks = workload.progress(report, total + 1, "power cuts")
        next(self._ticks)

    def run(self) -> None:
        while not self.full():
            shape = self.random.choices([SMALL, WIDE, STAGED], [10, 3, 2])[0]
            seed = self.random.randrange(1 << 30)
            kinds = {"add": 2, "delete": 2, "upsert": 1, "compact": 1} if shape is STAGED else None
            plan = Plan(seed, 5 if shape is STAGED else 25, shape, kinds)
            self.one_plan(plan, seed, 12 if shape is STAGED else 50)

    def full(self) -> bool:
        return self.images >= self.total or len(self.failures) >= 10

    def one_plan(self, plan: Plan, seed: int, cuts: int) -> None:
        with tempfile.TemporaryDirectory(dir=self.folder) as place:
            work, log = os.path.join(place, "work"), os.path.join(place, "log")
            os.mkdir(work)
            path = os.path.join(work, "power.vec")
            if record(work, log, lambda watcher: do_plan(plan, path, watcher)):
                self.failures.append(f"seed {seed}: the workload itself failed")
                return
            ops = read_log(log)
            self.cut(Disk(), ops, plan, plan.models, f"seed {seed}", cuts, second=False)

    def cut(
        self, disk: Disk, ops: list[Op], plan: Plan, models: list[Ids], where: str, cuts: int, *, second: bool
    ) -> None:
        """Images at this many places of a log, the places in order so that the log is gone through once."""
        points = sorted(self.random.choices(range(len(ops) + 1), k=cuts))
        begun = done = at = 0
        for point in points:
            while at < point:
                disk.take(ops[at])
                if ops[at].kind == MARK:
                    begun, done = begun + (ops[at].data == b"b"), done + (ops[at].data == b"d")
                at += 1
            if self.full():
                return
            in_flight = ops[at] if at < len(ops) else None
            with tempfile.TemporaryDirectory(dir=self.folder) as folder:
                disk.image(folder, in_flight, self.random)
                name = f"{where}, cut {point} of {len(ops)}"
                self.image(folder, plan, models, begun, done, name, second)

    def image(
        self, folder: str, plan: Plan, models: list[Ids], begun: int, done: int, where: str, second: bool
    ) -> None:
        self.images += 1
        self.second += second
        next(self._ticks, None)
        path = os.path.join(folder, "power.vec")
        again = not second and self.random.random() < 0.12
        self.lock_file(path)
        copy = tempfile.mkdtemp(dir=self.folder) if again else None
        if copy is not None:
            shutil.copytree(folder, copy, dirs_exist_ok=True)
        first = 0 if second else 1
        allowed = [models[begun], models[done]]
        problem, which = workload.check(path, allowed, may_be_missing=not second and done < first)
        if problem is None and which < 0:
            self.missing += 1
        problem = problem or self.backup(path, plan.models if second else models[: begun + 1])
        if problem is None and self.random.random() < 0.1:
            problem = workload.check_leftovers(path, plan.shape.dim)
        if problem is not None:
            self.failures.append(f"{where}, {done} done, {begun} begun, second {second}: {problem}")
        elif copy is not None and which >= 0:
            self.again(copy, plan, allowed[which], where)
        if copy is not None:
            shutil.rmtree(copy)

    def lock_file(self, path: str) -> None:
        """LMDB's lock file was never synced: it may be absent, empty, or hold anything."""
        chance = self.random.random()
        if os.path.exists(path) and chance < 0.5:
            with open(path + "-lock", "wb") as opened:
                opened.write(b"" if chance < 0.1 else bytes(8192) if chance < 0.2 else self.random.randbytes(8192))

    def backup(self, path: str, models: list[Ids]) -> str | None:
        copy = workload.backup_path(path)
        if not os.path.exists(copy):
            return None
        problem, _ = workload.check(copy, models, may_be_missing=True, write=False)
        return None if problem is None else f"the backup: {problem}"

    def again(self, folder: str, plan: Plan, state: Ids, where: str) -> None:
        """The power goes a second time, while the file is opened and written to after the first."""
        path = os.path.join(folder, "power.vec")
        disk = Disk.of_folder(folder)
        handle, log = tempfile.mkstemp(dir=self.folder)
        os.close(handle)
        if record(folder, log, lambda watcher: recover(path, plan.shape.dim, watcher)):
            self.failures.append(f"{where}: writing after the cut failed")
        else:
            models = recovery_models(state, plan)
            self.cut(disk, read_log(log), plan, models, f"{where}, again", 5, second=True)
        os.unlink(log)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=int, default=0)
    parser.add_argument("--ignore", choices=["files", "folders"], help="a disk that syncs nothing: must fail")
    options = parser.parse_args()
    workload.small_indexes()
    Disk.ignores = {"files": SYNC, "folders": SYNC_FOLDER}.get(options.ignore, 0)
    campaign = Campaign(options.folder, options.seed, options.images, options.report)
    campaign.run()
    for failure in campaign.failures:
        print("FAILED", failure)
    print(
        f"power: {campaign.images} images, {len(campaign.failures)} failures; "
        f"{campaign.second} after a second cut, {campaign.missing} before the file had its name"
    )
    return 1 if campaign.failures else 0


if __name__ == "__main__":
    sys.exit(main())
