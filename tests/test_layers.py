"""Imports go downward only, and nothing heavy is loaded before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent

# Each layer, and those that it may import from.
ALLOWED = {
    "top": {"top", "collection", "query", "index", "storage", "kernels", "device", "base"},
    "cli": {"cli", "embed", "public", "base"},
    "embed": {"embed", "public"},
    "collection": {"collection", "query", "index", "storage", "kernels", "device", "base"},
    "query": {"query", "storage", "kernels", "device", "base"},
    "index": {"index", "kernels", "device", "base"},
    "storage": {"storage", "kernels", "base"},
    "device": {"device", "kernels", "base"},
    "kernels": {"kernels"},
    "base": {"base"},
}
BASE = {"config", "errors", "frames", "types"}


def layer(module: str) -> str:
    parts = module.split(".")
    if len(parts) == 1:
        return "public"
    if parts[1] in ("cli", "embed", "query", "index", "storage", "kernels"):
        return parts[1]
    if parts[1] == "__main__":
        return "cli"
    if parts[1] == "device":
        return "device"
    return "base" if parts[1] in BASE else "collection"


def sources() -> Iterator[tuple[str, Path]]:
    for folder, package in (
        ("vecstore", "vecstore"),
        ("kernels", "vecstore.kernels"),
        ("embed", "vecstore.embed"),
    ):
        for path in (ROOT / folder).rglob("*.py"):
            inside = path.relative_to(ROOT / folder).with_suffix("").parts
            yield ".".join([package, *(part for part in inside if part != "__init__")]), path


def imports(module: str, path: Path) -> Iterator[str]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            # `from vecstore import errors` imports a module, not a public name.
            for name in node.names:
                whole = f"{base}.{name.name}"
                yield whole if any(whole == known for known, _ in sources()) else base


def test_imports_go_downward() -> None:
    breaches = [
        f"{module} imports {imported}"
        for module, path in sources()
        for imported in imports(module, path)
        if imported.split(".")[0] == "vecstore"
        and layer(imported) not in ALLOWED["top" if module == "vecstore" else layer(module)]
    ]
    assert not breaches


def test_only_storage_knows_lmdb_and_only_kernels_know_numba() -> None:
    for module, path in sources():
        tops = {name.split(".")[0] for name in imports(module, path)}
        assert "lmdb" not in tops or layer(module) == "storage", module
        assert not tops & {"numba", "llvmlite"} or layer(module) == "kernels", module
        assert not tops & {"kernels", "embed", "pickle"}, module


def test_importing_opening_and_getting_load_neither_numba_nor_torch(tmp_path: Path) -> None:
    code = (
        "import sys, vecstore\n"
        "c = vecstore.open('i.vec', dim=2); c.add('a', [1, 0], {'n': 1}); c.get('a'); c.search([1, 0], where={'n': 1})\n"
        "c.update('a', {'n': 2}); c.delete('a'); c.verify(); c.compact(); c.close()\n"
        "print(sorted({'numba', 'torch', 'llvmlite', 'PIL', 'pandas', 'polars', 'pyarrow', 'asyncio'} & set(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr


def test_no_file_loads_pickles_or_runs_texts() -> None:
    for module, path in sources():
        text = path.read_text(encoding="utf-8")
        assert "allow_pickle=True" not in text, module
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), module
