"""A writer killed at any moment leaves every acknowledged call, and the one in flight whole or not at all."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from faults import shim

pytestmark = pytest.mark.skipif(shim.missing() is not None, reason=str(shim.missing()))


def test_kills():
    done = shim.run("kill", "--kills", 200, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "kill: 200 kills, 0 failures" in done.stdout


def test_who_has_the_file_open_goes_on_after_a_writer_was_killed():
    """Between LMDB's commit and its lock file too: the next writer once went on from the state before."""
    done = shim.run("bystander", timeout=300)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "0 failures" in done.stdout
