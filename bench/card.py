"""Everything that a graphics card does, in one go: checked against the CPU, timed, and held against the card's limits.

    python bench/card.py [exact search build codes images] [--rows N] [--queries N] [--simulate]

Needs a card, numba-cuda and VECSTORE_DATA; prints the tables that belong into bench/README.md under the card's name. A part
that fails is told of at the end, and the others go on. `--simulate` runs the logic of all parts on tiny sizes in Numba's
simulator, on any machine; its times are none.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

# This file is not called after CUDA, since a module `cuda` beside it would hide NVIDIA's package of that name.
# Each part is a module with a function `run(bench)`.
PARTS = {
    "exact": "cuda_exact",
    "search": "cuda_search",
    "build": "cuda_build",
    "codes": "cuda_codes",
}
# And this is a script of its own, for a process of its own: networks want the card's memory to themselves.
IMAGES = "images"


def written() -> list[str]:
    folder = Path(__file__).resolve().parent
    return [*(name for name, module in PARTS.items() if (folder / f"{module}.py").exists()), IMAGES]


def networks(simulate: bool) -> None:
    command = [
        sys.executable,
        str(Path(__file__).with_name("cuda_images.py")),
        *(["--cpu", "resnet18"] if simulate else []),
    ]
    if subprocess.run(command).returncode:
        raise SystemExit("bench/cuda_images.py failed")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help=f"of {', '.join([*PARTS, IMAGES])}; all that are there by default",
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--simulate", action="store_true", help="tiny sizes in the simulator; no figures")
    asked = parser.parse_args(arguments)
    unknown = [part for part in asked.parts if part not in written()]
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(written())}")
    if asked.simulate:
        os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
        sys.setswitchinterval(1e-4)  # its threads take turns
        asked.rows, asked.queries, asked.rounds = 150, 5, 0

    from cuda_card import Bench, limits_of, markdown

    from vecstore.kernels.cuda import card as cards

    try:
        card = cards.find()
    except cards.CardError as error:
        print(f"No graphics card to measure: {error}. Nothing was measured.", file=sys.stderr)
        return 1
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        limits = limits_of(card, asked.simulate)
        bench = Bench(card, limits, Path(folder), asked.rows, asked.queries, asked.rounds, asked.simulate)
        for part in asked.parts or written():
            print(f"{part}:", flush=True)
            try:
                if part == IMAGES:
                    networks(asked.simulate)
                else:
                    importlib.import_module(PARTS[part]).run(bench)
            except (Exception, SystemExit):
                traceback.print_exc()
                failed.append(part)
    print(f"\n{card.name}, {card.total_bytes / 1e9:.0f} GB, {card.multiprocessors} multiprocessors; ", end="")
    print(f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}.")
    print(
        f"Measured limits: {limits.memory / 1e12:.2f} TB/s of memory, {limits.bus / 1e9:.1f} GB/s of the bus; ",
        end="",
    )
    print(f"by cores and clock {limits.product / 1e12:.1f} Tflop/s of float32.")
    if asked.simulate:
        print("SIMULATED: these are no figures.")
    print("\n" + markdown(("what", "measured", "to reach", "reached"), bench.lines))
    print(
        "\n"
        + markdown(("kernel", "time", "moved", "memory", "product", "binds", "of the limit"), bench.kernels)
    )
    if failed:
        print(f"\nFailed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
