"""A power cut at any moment leaves every acknowledged call, and the one in flight whole or not at all."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from faults import shim

pytestmark = pytest.mark.skipif(shim.missing() is not None, reason=str(shim.missing()))


def test_power_cuts():
    done = shim.run("power", "--images", 500, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "power: 500 images, 0 failures" in done.stdout


@pytest.mark.parametrize("ignored", ["files", "folders"])
def test_a_missing_sync_is_noticed(ignored):
    """The simulator itself: on a disk that forgets its syncs, acknowledged calls are lost, and it says so."""
    done = shim.run("power", "--images", 300, "--ignore", ignored, timeout=300)
    assert done.returncode == 1, done.stdout[-4000:]
    assert "FAILED" in done.stdout
