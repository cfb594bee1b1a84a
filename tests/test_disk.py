"""A full disk and failing calls: a typed error, the state before it readable, the next write fine."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import vecstore

sys.path.insert(0, str(Path(__file__).parent))

from faults import shim, workload


@pytest.mark.skipif(shim.missing() is not None, reason=str(shim.missing()))
def test_every_call_fails_in_turn():
    done = shim.run("disk", "--stride", 12, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "disk: 0 failures" in done.stdout


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MiB."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root on Linux")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(collection, rows):
    """Add rows until the disk is full; gives how many it took, and the error."""
    for start in range(0, 10_000, len(rows)):
        try:
            collection.add(range(start, start + len(rows)), rows * (start + 1))
        except vecstore.StorageFullError as error:
            return start, str(error)
    raise AssertionError("the disk was never full")


def test_a_full_disk(small_disk):
    path, filler = small_disk / "full.vec", small_disk / "filler"
    filler.write_bytes(bytes(1 << 20))
    rows = np.ones((20, 1000), dtype=np.float32)
    with vecstore.open(path, dim=1000, metric="l2") as collection:
        added, message = fill(collection, rows)
        assert added
        assert "disk is full" in message
        for _ in range(3):
            with pytest.raises(vecstore.StorageFullError):
                collection.add(range(added, added + 300), np.ones((300, 1000), dtype=np.float32))
        assert sorted(workload.state_of(collection)) == list(range(added))
        assert collection.verify().ok
        with pytest.raises(vecstore.StorageFullError):
            collection.backup(small_disk / "copy.vec")
        with pytest.raises(vecstore.StorageFullError):
            vecstore.open(small_disk / "another.vec", dim=1000).add(range(300), np.ones((300, 1000)))
        filler.unlink()
        collection.add(range(added, added + 20), rows)
        assert len(collection) == added + 20
        assert collection.verify().ok
    with vecstore.open(path, mode="r") as collection:
        assert sorted(workload.state_of(collection)) == list(range(added + 20))
