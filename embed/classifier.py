"""Any classifier of torchvision's registry as a model of pictures: what its last layer would have looked at."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from typing import Any

from .cutting import Cut
from .devices import device
from .errors import ModelError, shown
from .extras import needed
from .folding import folded
from .network import Network
from .versions import libraries
from .weights import file_hash, hub_file, read_weights

# Moves when a vector would.
VERSION = 1

# densenet's files are older than its code: `norm.1` there is `norm1` here.
_OLD_NAME = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)")
# Layers of inception and googlenet that only training looks at.
_TRAINING = ("AuxLogits.", "aux1.", "aux2.")
# These two were trained elsewhere, with other numbers for black and white.
_ELSEWHERE = {"googlenet", "inception_v3"}


def classifier_names() -> list[str]:
    """The names in torchvision's registry; none where torchvision is missing.

    >>> "resnet-nope" in classifier_names()
    False
    """
    try:
        models = needed("torchvision.models", "torch", "its registry")
    except ModelError:
        return []
    return list(models.list_models(module=models))


class Classifier(Network):
    """A network of torchvision without its last layer, its weights' own preprocessing before it."""

    def __init__(
        self,
        name: str,
        *,
        weights: str | os.PathLike[str] | None = None,
        offline: bool = False,
        on: str = "auto",
        compile: bool = False,
    ) -> None:
        called = f"the model {name!r}"
        self.torch = needed("torch", "torch", called)
        self._models = models = needed("torchvision.models", "torch", called)
        self._change = needed("torchvision.transforms.functional", "torch", called)
        self.name = name
        hub = models.get_model_weights(name).DEFAULT
        # Before the weights are read: a device that is not there should be told at once.
        there = device(self.torch, on)
        path = hub_file(self.torch, hub.url, name, offline=offline) if weights is None else os.fspath(weights)
        self._path = path
        self._preset = preset = _checked(hub.transforms(), name)
        self.mean, self.deviation = preset.mean, preset.std
        self.cutting = Cut.of(preset.resize_size, preset.crop_size, preset.interpolation.value)
        self.crop = preset.crop_size[0], preset.crop_size[-1]
        found = file_hash(path)
        # Averaging hides what a decoder that stops early does to single pixels.
        self.enough = 2 * max(preset.resize_size)
        self.fingerprint = f"{name} weights={found[:16]} {_told(preset)} features={VERSION} unit"
        self.libraries = libraries("torch", "torchvision", "pillow")
        self.settle(there, compile=compile)

    def fresh(self) -> Any:
        """Without its last layer, with the weights of its file."""
        network, self.dim = _loaded(self.torch, self._models, self.name, self._path, self.crop[0])
        return network

    def lighter(self, network: Any) -> Any:
        """Without the layers that the ones before them can do as well."""
        return folded(self.torch, network)

    def cut(self, picture: Any) -> Any:
        """As the weights' own transforms do it."""
        preset, change = self._preset, self._change
        picture = change.resize(
            picture, preset.resize_size, interpolation=preset.interpolation, antialias=preset.antialias
        )
        return change.center_crop(picture, preset.crop_size)

    def through(self, seen: Any) -> Any:
        """What the last layer would have been given."""
        return self._network(seen)


def _checked(preset: Any, name: str) -> Any:
    parts = ("resize_size", "crop_size", "interpolation", "antialias", "mean", "std")
    missing = [part for part in parts if not hasattr(preset, part)]
    if missing:
        raise ModelError(
            f"the weights of {name!r} come with transforms of another kind ({type(preset).__name__} without "
            f"{', '.join(missing)}): this version of torchvision is not supported, write to its authors or ours"
        )
    return preset


def _told(preset: Any) -> str:
    size = "x".join(map(str, preset.resize_size))
    crop = "x".join(map(str, preset.crop_size))
    colour = "/".join(f"{number:g}" for number in (*preset.mean, *preset.std))
    return f"resize={size}-{preset.interpolation.value} crop={crop} colour={colour}"


def _loaded(torch: Any, models: Any, name: str, path: str, side: int) -> tuple[Any, int]:
    """The network without its last layer, with the weights of a file; and how many numbers it gives."""
    network = _bare(torch, models, name, side)
    head, dim = without_head(torch, network)
    read = read_weights(torch, path)
    expected = network.state_dict()
    state = OrderedDict[str, Any]()
    state._metadata = getattr(read, "_metadata", expected._metadata)  # type: ignore[attr-defined]
    for key, tensor in read.items():
        old = _OLD_NAME.fullmatch(key)
        if not key.startswith((head + ".", *_TRAINING)):
            state[old[1] + old[2] if old else key] = tensor
    missing, odd = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    # Counters of batches seen in training are missing from old files, and mean nothing here.
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    wrong = [key for key in expected.keys() & state.keys() if expected[key].shape != state[key].shape]
    for trouble, keys in (("lacks", missing), ("has", odd), ("has in another shape", sorted(wrong))):
        if keys:
            raise ModelError(
                f"{shown(path)} holds no weights of {name!r}: it {trouble} {len(keys)} of them, the first is {shown(keys[0])}"
            )
    for key in expected.keys() - state.keys():
        state[key] = torch.zeros((), dtype=torch.int64)
    network.load_state_dict(state, assign=True)
    return network, dim


def _bare(torch: Any, models: Any, name: str, side: int) -> Any:
    options: dict[str, Any] = {"weights": None}
    if name in _ELSEWHERE:
        options |= {"transform_input": True, "aux_logits": False, "init_weights": False}
    if name.startswith("vit_"):
        options["image_size"] = side
    try:
        # Made without memory: the file's tensors become the weights, and no time goes into random ones.
        with torch.device("meta"):
            return models.get_model(name, **options)
    except NotImplementedError:  # regnet computes with tensors while it is made
        return models.get_model(name, **options)


def without_head(torch: Any, network: Any) -> tuple[str, int]:
    """Put nothing in the place of a classifier's last layer: that layer's name, and how many numbers it was given.

    It is the last linear layer that a network names; squeezenet's is a convolution over single pixels.
    """
    name, last = [
        (name, layer)
        for name, layer in network.named_modules()
        if isinstance(layer, torch.nn.Linear)
        or (isinstance(layer, torch.nn.Conv2d) and layer.kernel_size == (1, 1))
    ][-1]
    above, _, own = name.rpartition(".")
    setattr(network.get_submodule(above), own, torch.nn.Identity())
    return name, int(last.in_features if isinstance(last, torch.nn.Linear) else last.in_channels)
