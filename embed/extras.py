"""What is imported only when it is asked for, and what to install where it is missing."""

from __future__ import annotations

import importlib
from typing import Any

from .errors import ModelError


def needed(module: str, extra: str, what: str) -> Any:
    """A module of an extra; where it is missing, an error that says which extra brings it.

    >>> needed("math", "torch", "this").pi
    3.14...
    >>> needed("no_such_module", "torch", "the model 'resnet18'")
    Traceback (most recent call last):
    vecstore.embed.errors.ModelError: the model 'resnet18' needs no_such_module: pip install 'vecstore-db[torch]'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        top = module.partition(".")[0]
        missing = error.name or top
        if missing.partition(".")[0] != top:
            top = f"{top}, which needs {missing}"
        raise ModelError(f"{what} needs {top}: pip install 'vecstore-db[{extra}]'") from None
