"""Damaged and hostile files: every answer is right or an error of vecstore's, and no process is harmed."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from faults import shim

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="cases are forked, and /proc is read")


@pytest.mark.parametrize("part", ["flips", "meta", "stale", "cut", "hostile"])
def test_damage(part):
    done = shim.run("damage", "--parts", part, preload=False, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:]
    assert f"damage: {part}: " in done.stdout
