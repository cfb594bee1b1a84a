"""The long runs of the fault tests: 2,000 kills, 10,000 power cuts, 10,000 hostile files.

python bench/long.py kill|power|damage|disk|soak|all [--seed N]

`soak` is a writer, two deleters and eight readers of one collection for ten minutes, one of them killed every few seconds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from faults import shim

RUNS = {
    "kill": ("kill", ["--kills", 2000, "--report", 200]),
    "power": ("power", ["--images", 10_000, "--report", 1000]),
    "damage": (
        "damage",
        ["--flips", 10_000, "--hostile", 10_000, "--meta-step", 3, "--bases", 10, "--report", 1000],
    ),
    "disk": ("disk", ["--stride", 1]),
    "soak": ("soak", ["--seconds", 600, "--picture", Path(__file__).parent / "soak.png"]),
}


def run(name: str, seed: int) -> bool:
    module, arguments = RUNS[name]
    done: subprocess.CompletedProcess[str] = shim.run(
        module, *arguments, "--seed", seed, preload=name not in ("damage", "soak"), stream=True
    )
    print(f"{name}: {'passed' if done.returncode == 0 else 'FAILED'}", flush=True)
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=[*RUNS, "all"])
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    chosen = list(RUNS) if options.what == "all" else [options.what]
    passed = [run(name, options.seed) for name in chosen]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
