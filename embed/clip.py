"""Networks that know pictures and texts, through open_clip: ``clip:MODEL`` or ``clip:MODEL/PRETRAINED``."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .devices import device
from .errors import ModelError, shown
from .extras import needed
from .features import unit
from .network import Network
from .weights import file_hash

PREFIX = "clip:"
# Which weights a bare name means: the first of these kinds that there are.
_PREFERRED = ("laion2b", "datacomp", "openai", "")
# What is done to a batch at once, not picture by picture.
_LATER = ("MaybeConvertMode", "ToTensor", "MaybeToTensor", "Normalize", "function")
# Steps that also take pictures which lie on a GPU.
_ON_TENSORS = ("Resize", "CenterCrop")


class Clip(Network):
    """A model of open_clip. Its pictures and its texts lie in one space, so that a text finds pictures."""

    def __init__(
        self,
        name: str,
        *,
        weights: str | os.PathLike[str] | None = None,
        offline: bool = False,
        on: str = "auto",
    ) -> None:
        self.torch = needed("torch", "clip", f"the model {name!r}")
        self._clip = clip = needed("open_clip", "clip", f"the model {name!r}")
        self.device = device(self.torch, on)
        self._kind, _, tag = name.removeprefix(PREFIX).partition("/")
        if self._kind not in clip.list_models():
            near = difflib.get_close_matches(self._kind, clip.list_models(), 3, 0.3)
            raise ModelError(
                f"open_clip has no model {shown(self._kind)!r}; it has {', '.join(near)} and others"
            )
        settings: dict[str, Any] = {}
        if weights is None:
            tag = _tag(clip, self._kind, tag)
            settings = clip.get_pretrained_cfg(self._kind, tag)
            path = _file(clip, f"{PREFIX}{self._kind}/{tag}", settings, offline)
        else:
            path = os.fspath(weights)
        self.name = f"{PREFIX}{self._kind}" + (f"/{tag}" if tag else "")
        found = file_hash(path)
        self._network = self._settle(self._loaded(path, settings))
        seen = dict(self._network.visual.preprocess_cfg)
        size = seen.pop("size")
        seen.pop("mode", None)
        self.mean, self.deviation = seen["mean"], seen["std"]
        steps = clip.image_transform(size, is_train=False, **seen).transforms
        self._steps = [step for step in steps if type(step).__name__ not in _LATER]
        self.cuts_there = self.device.is_gpu and all(
            type(step).__name__ in _ON_TENSORS for step in self._steps
        )
        sides = [size] if isinstance(size, int) else list(size)
        self.enough = 2 * max(sides)
        self.dim = int(clip.get_model_config(self._kind)["embed_dim"])
        self._words: Any = None
        kind = f"{'x'.join(map(str, sides))}-{seen['interpolation']}-{seen['resize_mode']}"
        colour = "/".join(f"{number:g}" for number in (*self.mean, *self.deviation))
        self.fingerprint = f"{self.name} weights={found[:16]} resize={kind} colour={colour} unit"

    def cut(self, picture: Any) -> Any:
        """As the weights' own transforms do it."""
        for step in self._steps:
            picture = step(picture)
        return picture

    def through(self, seen: Any) -> Any:
        """Where the pictures lie in the space that texts share."""
        return self._network.encode_image(seen)

    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Texts to unit vectors beside those of pictures."""
        if isinstance(texts, str):
            raise ModelError("texts() takes a list of texts: write [text] for one")
        torch = self.torch
        if self._words is None:
            self._words = self._tokenizer()
        found = [np.zeros((0, self.dim), np.float32)]
        with torch.inference_mode():
            for place in range(0, len(texts), self.batch):
                tokens = self._words(list(texts[place : place + self.batch])).to(self.device.name)
                rows = self._network.encode_text(tokens).float().cpu().numpy()
                found.append(unit(np.ascontiguousarray(rows, np.float32)))
        return np.concatenate(found)

    def _tokenizer(self) -> Any:
        try:
            return self._clip.get_tokenizer(self._kind)
        except (
            Exception
        ) as error:  # A hub's libraries fail in many ways; which files they wanted is in the text.
            raise ModelError(f"{self.name!r} lacks its tokenizer: {shown(error)}") from None

    def _loaded(self, path: str, settings: dict[str, Any]) -> Any:
        known = ("mean", "std", "interpolation", "resize_mode")
        try:
            return self._clip.create_model(
                self._kind,
                pretrained=path,
                pretrained_image=False,
                pretrained_text=False,
                weights_only=True,
                force_quick_gelu=bool(settings.get("quick_gelu", False)),
                force_preprocess_cfg={key: settings[key] for key in known if key in settings},
            )
        except Exception as error:  # Of any kind: the file is what was asked for, and it does not fit.
            reason = " ".join(str(error).split())[:300]
            raise ModelError(f"{shown(path)} holds no weights of {self._kind!r}: {shown(reason)}") from None


def _tag(clip: Any, kind: str, wanted: str) -> str:
    tags = list(clip.list_pretrained_tags_by_model(kind))
    if wanted in tags:
        return wanted
    if wanted or not tags:
        there = ", ".join(tags) or "no weights that can be fetched: name a file (weights=…, --weights FILE)"
        raise ModelError(f"open_clip has no weights {shown(wanted)!r} of {kind!r}; there is: {there}")
    return str(next(tag for start in _PREFERRED for tag in tags if tag.startswith(start)))


def _file(clip: Any, called: str, settings: dict[str, Any], offline: bool) -> str:
    """The file of some weights, from a cache or fetched."""
    where, found = _cached(settings)
    if found is not None:
        return found
    wanted = f"the model {called!r} needs the weights {where}"
    instead = "name a file instead (weights=…, --weights FILE)"
    if offline:
        raise ModelError(f"{wanted}, and offline nothing is fetched: {instead}")
    try:
        return str(clip.download_pretrained(settings))
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{wanted}, and they cannot be fetched ({shown(reason)}): {instead}") from None


def _cached(settings: dict[str, Any]) -> tuple[str, str | None]:
    """Where the file of some weights is looked for, and the file if it is there."""
    hub, url = settings.get("hf_hub", ""), settings.get("url", "")
    if hub:
        find = needed("huggingface_hub", "clip", "weights of the Hugging Face hub")
        repository, name = os.path.split(hub)
        # open_clip takes the safe form of a file where there is one.
        safe = os.path.splitext(name)[0] + ".safetensors" if name else "open_clip_model.safetensors"
        wanted = dict.fromkeys((safe, "open_clip_model.safetensors", name or "open_clip_pytorch_model.bin"))
        for each in wanted:
            found = find.try_to_load_from_cache(repository, each)
            if isinstance(found, str):
                return found, found
        return f"{repository}/{safe} in {find.constants.HF_HUB_CACHE}", None
    path = os.path.join(os.path.expanduser("~/.cache/clip"), os.path.basename(url))
    return shown(path), path if os.path.isfile(path) else None
