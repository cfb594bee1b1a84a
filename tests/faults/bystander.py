"""A writer is killed at each system call of its commit, while another process has the collection open and writes next.

    python -m faults.bystander FOLDER
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

import vecstore
from faults import shim

CHILD = """
import os, sys
sys.path.insert(0, sys.argv[1])
import vecstore
from faults.shim import Shim
with vecstore.open(sys.argv[2]) as c:
    assert len(c) > 0
    Shim().arm(os.path.dirname(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    c.add(sys.argv[5], [1.0, 2.0], {"by": "the killed"})
"""


def killed(path: Path, mode: int, at: int, id_: str) -> bool:
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent.parent), str(path), str(mode), str(at), id_]
    done = subprocess.run(command, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.returncode
    return done.returncode != 0


def in_file(path: Path, id_: str) -> bool:
    """Whether it is committed, whatever the lock file says: a copy has none."""
    copy = path.with_suffix(".copy")
    shutil.copyfile(path, copy)
    with vecstore.open(copy, mode="r") as c:
        return id_ in c


def main() -> int:
    folder = Path(sys.argv[1])
    kills = committed = turn = 0
    for mode in (shim.KILL_BEFORE, shim.KILL_HALF, shim.KILL_AFTER):
        path = folder / f"bystander-{mode}.vec"
        with vecstore.open(path, dim=2, metric="l2") as c, vecstore.open(path, mode="r") as reader:
            c.add("first", [0.0, 0.0])
            known = {"first"}
            # A commit is three to five calls, as its pages happen to lie.
            for at in [*range(1, 7)] * 3:
                turn += 1
                child, following = f"child {turn}", f"next {turn}"
                was_killed = killed(path, mode, at, child)
                kills += was_killed
                if in_file(path, child):
                    committed += was_killed
                    known.add(child)
                c.add(following, [float(turn), 0.0])
                known.add(following)
                found = {record.id for record in c}
                assert found == known, (mode, at, known ^ found)
                assert {record.id for record in reader} == known
                assert len(c.search(np.zeros(2), k=1000)) == len(known)
                report = c.verify()
                assert report.ok, (mode, at, report.problems[:3])
    assert committed, "some are killed when their commit is in the file"
    print(f"bystander: {kills} kills, {committed} behind their commit, 0 failures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
