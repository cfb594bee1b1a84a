"""What networks of every kind share: pictures cut to size by threads, a batch through the network at once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .devices import Device
from .errors import ModelError
from .features import unit
from .model import Model


class Network(Model):
    """A model that torch computes. A kind of network says how it cuts a picture, and what it makes of a batch.

    On the processor threads cut pictures with Pillow, as the weights' authors did. On a GPU pictures are sent as
    they are, all of a batch in one pinned buffer, and resized there.
    """

    batch = 64
    device: Device
    # For black and white, as the weights know them.
    mean: Sequence[float]
    deviation: Sequence[float]
    torch: Any
    # Whether pictures are cut where the network runs.
    cuts_there: bool

    @abstractmethod
    def cut(self, picture: Any) -> Any:
        """A picture (of Pillow, or a tensor) at the size that the weights were made for."""

    @abstractmethod
    def through(self, seen: Any) -> Any:
        """A batch (n, 3, h, w) to rows of numbers."""

    def prepare(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The part that the network sees; on a GPU the whole picture, since it is resized there."""
        if self.cuts_there:
            return rgb
        from PIL import Image

        return np.asarray(self.cut(Image.fromarray(rgb)))

    def vectors(self, prepared: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Prepared pictures to unit vectors."""
        torch = self.torch
        with torch.inference_mode():
            pixels = self._cut_there(prepared) if self.cuts_there else self._stacked(prepared)
            mean = torch.tensor(self.mean, device=pixels.device)[:, None, None]
            deviation = torch.tensor(self.deviation, device=pixels.device)[:, None, None]
            seen = (pixels.float() / 255 - mean) / deviation
            seen = seen.to(dtype=self.device.dtype, memory_format=torch.channels_last)
            return self._rows(lambda: self.through(seen))

    def _rows(self, compute: Any) -> NDArray[np.float32]:
        try:
            found = compute().float().flatten(1).cpu().numpy()
        except (self.torch.OutOfMemoryError, MemoryError):
            raise ModelError(
                f"{self.name!r} has not enough memory for {self.batch} pictures at once: set its `batch` lower"
            ) from None
        return unit(np.ascontiguousarray(found, np.float32))

    def _stacked(self, prepared: Sequence[NDArray[Any]]) -> Any:
        # (n, h, w, 3) turned to (n, 3, h, w) lies in memory as channels_last wants it: nothing is copied.
        return self.torch.from_numpy(np.stack(prepared)).permute(0, 3, 1, 2)

    def _cut_there(self, pictures: Sequence[NDArray[Any]]) -> Any:
        torch = self.torch
        ends = np.cumsum([picture.size for picture in pictures]).tolist()
        packed = torch.empty(ends[-1], dtype=torch.uint8, pin_memory=self.device.is_gpu)
        bytes_ = packed.numpy()
        for picture, end in zip(pictures, ends, strict=True):
            bytes_[end - picture.size : end] = picture.ravel()
        there = packed.to(self.device.name, non_blocking=True)
        return torch.stack(
            [
                self.cut(there[end - picture.size : end].view(picture.shape).permute(2, 0, 1))
                for picture, end in zip(pictures, ends, strict=True)
            ]
        )

    def _settle(self, network: Any) -> Any:
        """A network on its device, in its type; only running means keep all their bits."""
        torch = self.torch
        network = network.eval().requires_grad_(False)
        network = network.to(
            device=self.device.name, dtype=self.device.dtype, memory_format=torch.channels_last
        )
        for layer in network.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.float()
        return network
