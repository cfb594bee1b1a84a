"""The graph on other processors: the same edges, the same answers, and machine code for ARM.

What is compiled here is compiled anew where nothing is cached, so the processes run side by side.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

X86 = platform.machine().lower() in ("x86_64", "amd64")
HASWELL = "+sse4.2,+popcnt,+lzcnt,+bmi,+bmi2,+avx,+avx2,+fma,+f16c"
TESTS = Path(__file__).parent

# Small whole numbers, so that no sum is rounded, in whatever order it is made: edges are equal to the last.
BUILD = """
import hashlib, json, sys, tempfile
import numpy as np
import pytest
import vecstore
from vecstore import config
from vecstore.kernels import dispatch
from vecstore.storage import graph

if len(sys.argv) > 1 and pytest.main(sys.argv[1:]):
    raise SystemExit("its tests fail")
# So few are searched for to calibrate that they are compared without kernels.
config.GRAPH_FROM, config.GRAPH_FROM_BYTES, config.HELD_OUT = 400, 0, 50
random = np.random.default_rng(1)
centres = random.integers(-40, 40, (20, 24))
data, queries = (centres[random.integers(0, 20, n)] + random.integers(-9, 10, (n, 24)) for n in (1500, 50))
told = {"target": str(dispatch.cpu_target())}
with tempfile.TemporaryDirectory() as folder, vecstore.open(folder + "/c.vec", dim=24, metric="l2") as c:
    c.add(np.arange(1500), data, [{"n": n} for n in range(1500)])
    with c._view() as blocks:
        slots = graph.graph_slots(blocks)
        # Which vectors are sampled goes by the file's own seed; which leaders there are does not matter here.
        told["nodes"] = sorted(slots.tolist()) == list(range(1500))
    truth, found = (c.search(queries, k=10, **how) for how in ({"exact": True}, {"search_list": 500}))
    assert c.explain(queries[0], k=10, search_list=500)["plan"] == "graph"
    told["distances"] = found.distances.tolist()
    told["missed"] = int((found.distances > truth.distances).sum())
    told["of those chosen"] = c.search(queries, k=10, search_list=500, where={"n": {"$lt": 1400}}).distances.tolist()
    told["walked"] = float((c.search(queries, k=10).distances <= truth.distances[:, -1:]).mean())
from concurrent.futures import ThreadPoolExecutor
from vecstore.index.build import Plan, build
with ThreadPoolExecutor(1) as pool:
    built = build(data.astype(np.float32), Plan(seed=3), 1, pool, lambda share: None)
told["built"] = [hashlib.sha256(each.astype(np.int64).tobytes()).hexdigest() for each in built]
print(json.dumps(told))
"""

# Numba compiles for this machine first, so no instruction of its own may be in the code.
ARM = """
import platform
platform.machine = lambda: "aarch64"
import re
import llvmlite.binding as llvm
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
try:
    target = llvm.Target.from_triple("aarch64-linux-gnu")
except RuntimeError:
    print("no target")
    raise SystemExit
from vecstore.kernels import dispatch
from vecstore.kernels.cpu import checksum, fetch, marks, verify
assert dispatch.cpu_target() == dispatch.CpuTarget(4, 6, 4, True)
cpu = dispatch.cpu()
machine = target.create_target_machine(cpu="generic", features="+neon", opt=3, reloc="pic")
kernels = {
    "walk": cpu.beam.search("float32"),
    "walk of bits": cpu.beam.search("binary"),
    "walk for one": cpu.beam.search_one("float32"),
    "walk for one of bits": cpu.beam.search_one("binary"),
    "walk for the chosen": cpu.among.search("float32"),
    "look into bundles": cpu.bundles.search("float32"),
    "bundles": cpu.bundles.make(),
    "count of the chosen": cpu.chosen.count(),
    "words of the chosen": cpu.chosen.put(),
    "scan of the chosen": cpu.chosen.scan("float32"),
    "nodes of the chosen": cpu.chosen.nodes_of(),
    "nearest": cpu.gram.nearest(),
    "leaf": cpu.leaf.leaf_edges(),
    "join": cpu.join.join("l2", "uint8"),
    "join of bits": cpu.join.join("hamming", "binary"),
    "collect": cpu.prune.collect(),
    "prune": cpu.prune.prune_all(),
    "turn round": cpu.prune.turn_round(),
    "chain": cpu.order.chain_cells(),
    "connect": cpu.order.connect(),
    "mend": cpu.knit.mend(),
    "weigh": cpu.knit.weigh(),
    "lines of later edges": cpu.later.append(),
    "merge": cpu.merge.merge(),
    "spread": cpu.merge.spread(),
    "page sums": checksum.page_sums(),
    "verify": verify.first_not_whole(),
    "fetch": fetch.fetch(),
    "pick": cpu.pick.pick(),
    "agree": cpu.pick.agree(),
    "mark rows": marks.mark_rows(),
    "list rows": marks.list_rows(),
}
for name, kernel in kernels.items():
    [text] = getattr(kernel, "func", kernel).inspect_llvm().values()
    # The count of references in Numba's runtime, which LLVM has fitted to x86 already.
    text = re.sub(r"tail call i8 @llvm.x86.atomic.sub.cc.*", "add i8 0, 0", text)
    text = re.sub(r"declare .*@llvm.x86.atomic.sub.cc.*", "", text)
    assert "llvm.x86" not in text, name
    text = re.sub(r"target (triple|datalayout) = .*", "", text)
    text = re.sub(r'"(target-cpu|target-features)"="[^"]*"', "", text)
    module = llvm.parse_assembly(text)
    module.triple, module.data_layout = "aarch64-linux-gnu", str(machine.target_data)
    module.verify()
    code = machine.emit_object(module)
    assert code[:4] == b"\\x7fELF" and int.from_bytes(code[18:20], "little") == 183, name
    for called in (b"__extendhfsf2", b"__gnu_h2f", b"fmaf", b"sqrtf", b"rintf", b"__popcount", b"__divti3"):
        assert called not in code, (name, called)
    print(name, len(code))
"""

SUITE = [
    "-q", "-x", "-p", "no:cacheprovider", "-k", "not pool", "--rootdir", str(TESTS.parent),
    "-c", str(TESTS.parent / "pyproject.toml"), str(TESTS / "test_graph_kernels.py"),
]  # fmt: skip


def has_avx2() -> bool:
    from vecstore.kernels import dispatch

    return X86 and {"avx2", "fma", "f16c"} <= dispatch.cpu_features()


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """All of them, begun at once; each test waits for its own."""
    old = {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": "+sse4.2,+popcnt"}
    wanted = {"own": ([BUILD], {}), "generic": ([BUILD, *SUITE], {"NUMBA_CPU_NAME": "generic"})}
    if has_avx2():
        wanted["avx2"] = [BUILD, *SUITE], {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": HASWELL}
    if X86:
        # In a cache of its own: these kernels have ARM's shapes and go by an Intel processor's name.
        wanted["arm"] = [ARM], {**old, "NUMBA_CACHE_DIR": str(tmp_path_factory.mktemp("arm"))}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    running = {
        name: subprocess.Popen(
            [sys.executable, "-c", *arguments], env=clean | settings, stdout=-1, stderr=-1, text=True
        )
        for name, (arguments, settings) in wanted.items()
    }
    yield running
    for process in running.values():
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def printed(processes: dict[str, Any]) -> Any:
    """What one of them printed, once it is done."""
    known: dict[str, str] = {}

    def wait(name: str) -> str:
        if name not in processes:
            pytest.skip("not on this processor")
        if name not in known:
            output, errors = processes[name].communicate(timeout=300)
            assert processes[name].returncode == 0, output[-4000:] + errors[-4000:]
            known[name] = output
        return known[name]

    return wait


@pytest.mark.parametrize("name", ["generic", "avx2"])
def test_elsewhere_the_same_graph_is_built_and_the_same_is_found(printed: Any, name: str) -> None:
    output = printed(name)
    told, own = (json.loads(text.splitlines()[-1]) for text in (output, printed("own")))
    assert " passed" in output
    assert told["target"] != own["target"] or name == "avx2"
    assert told["built"] == own["built"]
    assert told["nodes"]
    assert told["walked"] >= 0.9
    assert told["missed"] == own["missed"] == 0
    assert told["distances"] == own["distances"]
    assert told["of those chosen"] == own["of those chosen"]


@pytest.mark.skipif(not X86, reason="cross-compiles from x86-64")
def test_the_kernels_compile_for_arm(printed: Any) -> None:
    output = printed("arm")
    if "no target" in output:
        pytest.skip("this llvmlite has no aarch64 target")
    assert len(output.splitlines()) == 32
