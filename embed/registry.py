"""Models by name."""

from __future__ import annotations

import difflib
import os
from typing import Any

from vecstore import DeviceError

from .classic import Classic
from .classifier import Classifier, classifier_names
from .clip import PREFIX as CLIP
from .clip import Clip
from .devices import CHOICES
from .errors import ModelError, shown
from .model import Model
from .plugins import plugin, plugin_names

# Set to anything but 0, nothing is fetched from a hub.
OFFLINE = "VECSTORE_OFFLINE"


def load(
    name: str = "classic",
    *,
    weights: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
    device: str = "auto",
    compile: bool = False,
) -> Model:
    """A model by its name.

    - ``"classic"`` needs neither torch nor weights;
    - any classifier of torchvision's registry (``"resnet50"``, ``"vit_b_16"`` …) needs the extra ``torch``;
    - ``"clip:MODEL"`` or ``"clip:MODEL/PRETRAINED"`` knows texts too, and needs the extra ``clip``;
    - whatever installed packages bring (see ``vecstore.embed.plugins``).

    Weights are taken from the hub's cache, or fetched into it; ``weights`` names a file instead. With ``offline``
    (or the environment's ``VECSTORE_OFFLINE``) nothing is fetched. Networks run on a graphics card where there is one, in
    half precision, unless ``device`` is ``"cpu"``; with ``"cuda"`` they run nowhere else. With ``compile``, torch compiles
    the network for the card, which takes a minute, and what it made is used if it is quicker by the clock.

    >>> load("classic").name
    'classic'
    >>> load("classy")
    Traceback (most recent call last):
    vecstore.embed.errors.ModelError: there is no model 'classy'; there is: classic, ... Did you mean classic?
    """
    if offline is None:
        offline = os.environ.get(OFFLINE, "0") not in ("", "0")
    if not isinstance(name, str):
        raise ModelError(f"a model is named by a text, not by {type(name).__name__}")
    if device not in CHOICES:
        raise DeviceError(f"device must be one of {', '.join(CHOICES)}, not {device!r}")
    options: dict[str, Any] = {"weights": weights, "offline": offline, "on": device, "compile": compile}
    if name.startswith(CLIP):
        return Clip(name, **options)
    made = Classic() if name == "classic" else plugin(name)
    if made is not None:
        if weights is not None:
            raise ModelError(f"the model {name!r} takes no file of weights, and {shown(weights)} was given")
        if device == "cuda" and name == "classic":
            raise DeviceError("the model 'classic' runs on the processor alone: device='cuda' is for networks")
        return made
    if name in classifier_names():
        return Classifier(name, **options)
    raise ModelError(_unknown(name))


def _unknown(name: str) -> str:
    brought, classifiers = plugin_names(), classifier_names()
    there = ["classic", *brought]
    if classifiers:
        there.append(f"{len(classifiers)} classifiers of torchvision such as resnet50")
    else:
        there.append("torchvision's classifiers such as resnet50, with pip install 'vecstore-db[torch]'")
    there.append(f"{CLIP}MODEL of open_clip")
    near = difflib.get_close_matches(name, ["classic", *brought, *classifiers], 1)
    guess = f". Did you mean {near[0]}?" if near else ""
    return f"there is no model '{shown(name)}'; there is: {', '.join(there)}{guess}"
