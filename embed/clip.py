"""Networks that know pictures and texts, through open_clip: ``clip:MODEL`` or ``clip:MODEL/PRETRAINED``."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cutting import Cut
from .devices import device
from .errors import ModelError, shown
from .extras import needed
from .features import unit
from .network import Network
from .versions import libraries
from .weights import file_hash

PREFIX = "clip:"
# Which weights a bare name means: the first of these kinds that there are.
_PREFERRED = ("laion2b", "datacomp", "openai", "")
# What is done to a batch at once, not picture by picture.
_LATER = ("MaybeConvertMode", "ToTensor", "MaybeToTensor", "Normalize", "function")


class Clip(Network):
    """A model of open_clip. Its pictures and its texts lie in one space, so that a text finds pictures."""

    def __init__(
        self,
        name: str,
        *,
        weights: str | os.PathLike[str] | None = None,
        offline: bool = False,
        on: str = "auto",
        compile: bool = False,
    ) -> None:
        self.torch = needed("torch", "clip", f"the model {name!r}")
        self._clip = clip = needed("open_clip", "clip", f"the model {name!r}")
        there = device(self.torch, on)
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
        self._path, self._settings = path, settings
        found = file_hash(path)
        # The steps are told by the network itself, whose weights may want others than its kind does.
        made = self.fresh()
        seen = dict(made.visual.preprocess_cfg)
        size = seen.pop("size")
        seen.pop("mode", None)
        self.mean, self.deviation = seen["mean"], seen["std"]
        steps = clip.image_transform(size, is_train=False, **seen).transforms
        self._steps = [step for step in steps if type(step).__name__ not in _LATER]
        sides = [size] if isinstance(size, int) else list(size)
        self.crop = sides[0], sides[-1]
        self.cutting = _cutting(self._steps)
        self.enough = 2 * max(sides)
        self.dim = int(clip.get_model_config(self._kind)["embed_dim"])
        self._words: Any = None
        kind = f"{'x'.join(map(str, sides))}-{seen['interpolation']}-{seen['resize_mode']}"
        colour = "/".join(f"{number:g}" for number in (*self.mean, *self.deviation))
        self.fingerprint = f"{self.name} weights={found[:16]} resize={kind} colour={colour} unit"
        self.libraries = libraries("open_clip_torch", "torch", "torchvision", "pillow")
        self.settle(there, compile=compile, made=made)

    def fresh(self) -> Any:
        """As open_clip makes it, with the weights of its file."""
        return self._loaded(self._path, self._settings)

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
        if self._words is None:
            self._words = self._tokenizer()
        found = [np.zeros((0, self.dim), np.float32)]
        starts = range(0, len(texts), self.batch)
        found += [self._meanings(self._words(list(texts[start : start + self.batch]))) for start in starts]
        return np.concatenate(found)

    def _meanings(self, tokens: Any) -> NDArray[np.float32]:
        try:
            with self.torch.inference_mode():
                rows = self._network.encode_text(tokens.to(self.device.name)).float().cpu().numpy()
        except RuntimeError as error:
            if self.flight is None:
                raise
            self._leave(error)
            return self._meanings(tokens)
        return unit(np.ascontiguousarray(rows, np.float32))

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


def _cutting(steps: Sequence[Any]) -> Cut | None:
    """The same steps for a card; None where one of them is of another kind."""
    names = [type(step).__name__ for step in steps]
    if names not in (["Resize"], ["Resize", "CenterCrop"]):
        return None
    return Cut.of(steps[0].size, steps[-1].size, getattr(steps[0].interpolation, "value", ""))
