"""Models by name."""

from __future__ import annotations

from collections.abc import Callable

from .classic import Classic
from .errors import ModelError, shown
from .model import Model

# A kind of model that is found otherwise (by a prefix, in another package) is looked up in load(), after these.
_MODELS: dict[str, Callable[[], Model]] = {"classic": Classic}


def load(name: str = "classic") -> Model:
    """A model by its name.

    >>> load("classic").name
    'classic'
    >>> load("classy")
    Traceback (most recent call last):
    vecstore.embed.errors.ModelError: there is no model 'classy'; there is: classic
    """
    made = _MODELS.get(name) if isinstance(name, str) else None
    if made is None:
        raise ModelError(f"there is no model '{shown(name)}'; there is: {', '.join(sorted(_MODELS))}")
    return made()
