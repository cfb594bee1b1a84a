"""Files of weights: found in the hub's cache or fetched into it, checked by their hash, read as numbers alone."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections import OrderedDict
from typing import Any
from urllib.parse import urlparse

from .errors import ModelError, shown

# How the hub names its files: NAME-HASH.pth, with the first digits of the SHA-256 of what they hold.
_NAMED_HASH = re.compile(r"-([0-9a-f]{8,64})\.")
# Checkpoints of training wrap the weights, and their names.
_WRAPPERS = ("state_dict", "model", "model_state_dict")
_PREFIXES = ("module.", "_orig_mod.")


def hub_file(torch: Any, url: str, called: str, *, offline: bool) -> str:
    """The path of a file of the hub, from its cache (``$TORCH_HOME/hub/checkpoints``) or fetched; its hash is right."""
    name = os.path.basename(urlparse(url).path)
    folder = os.path.join(torch.hub.get_dir(), "checkpoints")
    path = os.path.join(folder, name)
    match = _NAMED_HASH.search(name)
    prefix = match[1] if match else None
    if not os.path.exists(path):
        wanted = f"the model {called!r} needs the weights {shown(path)}"
        instead = (
            f"fetch {url} on another machine and put it there, or name a file (weights=…, --weights FILE)"
        )
        if offline:
            raise ModelError(f"{wanted}, and offline nothing is fetched: {instead}")
        try:
            os.makedirs(folder, exist_ok=True)
            torch.hub.download_url_to_file(url, path, prefix, progress=sys.stderr.isatty())
        except (OSError, RuntimeError) as error:
            raise ModelError(f"{wanted}, and they cannot be fetched ({shown(error)}): {instead}") from None
    found = file_hash(path)
    if prefix is not None and not found.startswith(prefix):
        raise ModelError(
            f"{shown(path)} is damaged: its name says that its SHA-256 begins with {prefix}, and it begins with "
            f"{found[: len(prefix)]}; delete it, and it is fetched again"
        )
    return path


def file_hash(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of what a file holds.

    >>> file_hash("nowhere.pth")
    Traceback (most recent call last):
    vecstore.embed.errors.ModelError: the weights nowhere.pth cannot be read: No such file or directory
    """
    found = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while part := file.read(1 << 20):
                found.update(part)
    except OSError as error:
        raise ModelError(f"the weights {shown(path)} cannot be read: {error.strerror}") from None
    return found.hexdigest()


def read_weights(torch: Any, path: str | os.PathLike[str]) -> OrderedDict[str, Any]:
    """Name -> tensor of a file that torch saved. Nothing in it is run: ``weights_only``."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"the weights {shown(path)} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # What damage raises is of any kind; nothing in the file was run.
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{shown(path)} holds no weights that torch can read safely: {shown(reason)}"
        ) from None
    for wrapper in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelError(f"{shown(path)} holds no weights: names with a tensor each were expected")
    found = OrderedDict((_plain(str(name)), tensor) for name, tensor in state.items())
    if hasattr(state, "_metadata"):  # The versions of the layers, which some of them ask for.
        found._metadata = state._metadata  # type: ignore[attr-defined]
    return found


def _plain(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name
