"""Every example that a reader sees must run: in docstrings and in the README."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest

import vecstore

FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
README = Path(__file__).parent.parent / "README.md"


def modules() -> list[str]:
    every = ["vecstore", *(module.name for module in pkgutil.walk_packages(vecstore.__path__, "vecstore."))]
    # Those left out run on import, or need a GPU or the images extra.
    return [name for name in every if not re.search(r"\.(__main__|cuda|embed)\b", name)]


@pytest.mark.parametrize("name", modules())
def test_docstrings(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testmod(importlib.import_module(name), optionflags=FLAGS)
    assert failed == 0
    if name == "vecstore.collection":
        assert tried > 20


@pytest.mark.skipif(not README.exists(), reason="there is no README yet")
def test_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Python blocks in order, as one program. A block after `<!-- not run -->` is left out."""
    monkeypatch.chdir(tmp_path)
    text = README.read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "readme"}
    ran = 0
    for block in re.finditer(r"(<!-- not run -->\s*)?```python\n(.*?)```", text, flags=re.DOTALL):
        if block[1]:
            continue
        first = text[: block.start(2)].count("\n")
        if ">>>" in block[2]:
            test = doctest.DocTestParser().get_doctest(block[2], names, "README", "README.md", first)
            runner = doctest.DocTestRunner(optionflags=FLAGS)
            runner.run(test, clear_globs=False)
            names.update(test.globs)
            assert runner.summarize().failed == 0
        else:
            code = compile("\n" * first + block[2], str(README), "exec")
            exec(code, names)
        ran += 1
    assert ran > 0
    for value in names.values():
        if isinstance(value, vecstore.Collection):
            value.close()
