"""What networks of every kind share: pictures cut to size, a batch through the network at once, on a card or off it."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore import DeviceError

from .card import Card
from .cutting import Cut
from .devices import Device, processor
from .errors import ModelError, shown
from .features import unit
from .flight import Flight, Rows
from .jpegs import Jpeg, Whole, decoder, taken
from .model import Model

_ON_PROCESSOR = 64
# Larger pictures are cut by the threads that decode them: whole, they would take gigabytes of the card.
_LARGEST_SENT = 75_000_000


class Network(Model):
    """A model that torch computes. A kind of network says how it is made, how it cuts a picture, and what it computes.

    On the processor threads cut pictures with Pillow, as the weights' authors did. On a card pictures are sent as they are,
    JPEGs as their bytes where it can decode them, and cut there, to the same pixels but for a level of 255 here and there.
    """

    batch = _ON_PROCESSOR
    torch: Any
    device: Device
    # What the weights want to see.
    crop: tuple[int, int]
    # For black and white, as the weights know them.
    mean: Sequence[float]
    deviation: Sequence[float]
    # How a card cuts pictures; None where only Pillow can do what the weights want.
    cutting: Cut | None = None
    # The network on a card, while it is on one.
    flight: Flight | None = None
    # Whether a compiled network turned out to be quicker, and is used.
    compiled = False
    _network: Any

    @abstractmethod
    def fresh(self) -> Any:
        """The network as its file has it, on the processor, in float32."""

    @abstractmethod
    def cut(self, picture: Any) -> Any:
        """A picture of Pillow at the size that the weights were made for."""

    @abstractmethod
    def through(self, seen: Any) -> Any:
        """A batch (n, 3, h, w) to rows of numbers."""

    def lighter(self, network: Any) -> Any:
        """The same network with less to compute, where a kind of network knows how."""
        return network

    # -- where it runs

    def settle(self, device: Device, *, compile: bool = False, made: Any = None) -> None:
        """Make the network and put it on a device. A card that has no room for it is left, unless it was asked for."""
        self.device = device
        if not device.is_gpu:
            self._network = self._settled(made or self.fresh())
            return
        try:
            self.board(Card(self.torch), compile=compile, made=made)
        except RuntimeError as error:
            self._leave(error)

    def board(self, card: Card, *, compile: bool = False, made: Any = None) -> None:
        """Put the network on a card, with all that brings pictures there."""
        torch = self.torch
        self._network = self._settled(self.lighter((made or self.fresh()).eval()))
        self.flight = Flight(
            card,
            self.through,
            cut=self.cutting,
            crop=self.crop,
            mean=self.mean,
            deviation=self.deviation,
            dtype=self.device.dtype,
            decoder=None if self.cutting is None else decoder(torch, card),
        )
        if compile:
            self.compiled = self.flight.quicken(
                torch.compile(self.through, mode="max-autotune", dynamic=False)
            )
        self.batch = self.flight.batch

    def _settled(self, network: Any) -> Any:
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

    def _leave(self, error: BaseException) -> None:
        """Go on on the processor, with a warning; where the card was asked for by name, an error instead."""
        reason = shown(" ".join(str(error).split())[:300])
        if self.device.asked:
            raise DeviceError(
                f"the graphics card cannot compute {self.name!r} ({reason}), and device='cuda' was asked for: free its "
                "memory, or use device='auto' or 'cpu'"
            ) from None
        warnings.warn(
            f"the graphics card cannot compute {self.name!r}, the processor goes on with it: {reason}",
            RuntimeWarning,
            stacklevel=4,
        )
        self.flight, self.compiled, self.batch = None, False, _ON_PROCESSOR
        # From the file: on a card that was lost nothing can be read.
        self.settle(processor(self.torch))

    # -- pictures to vectors

    def undecoded(self, data: bytes, max_pixels: int) -> Any:
        """A JPEG as it is, where a card decodes it.

        One that has to grow is decoded here: decoders differ in how they spread colours between pixels, and there it would show.
        """
        flight = self.flight
        if flight is None or flight.decoder is None or flight.cut is None:
            return None
        jpeg = taken(data, max_pixels)
        return jpeg if jpeg is not None and min(jpeg.shape) >= flight.cut.least else None

    def prepare(self, rgb: NDArray[np.uint8]) -> Any:
        """The part that the network sees; for a card the whole picture, since it is cut there."""
        if self.flight is None:
            return self._cut(rgb)
        if self.cutting is None or rgb.nbytes > _LARGEST_SENT:
            return Whole(self._cut(rgb), ready=True)
        return Whole(rgb)

    def start(self, prepared: Sequence[Any]) -> Callable[[], Rows]:
        """Begin with a batch: on a card, the next one is made ready while this one is computed."""
        if self.flight is None:
            rows = self._computed(prepared)
            return lambda: rows
        try:
            landed = self.flight.start(prepared)
            self.batch = self.flight.batch
        except RuntimeError as error:
            self._leave(error)
            return self.start(prepared)

        def finish() -> Rows:
            try:
                return unit(landed())
            except RuntimeError as error:
                # The batch behind this one may have met the same error, and left the card already.
                if self.flight is not None:
                    self._leave(error)
                return self._computed(prepared)

        return finish

    def vectors(self, prepared: Sequence[Any]) -> Rows:
        """Prepared pictures to unit vectors."""
        return self.start(prepared)()

    def _computed(self, prepared: Sequence[Any]) -> Rows:
        """By the processor, also what was prepared for a card."""
        torch = self.torch
        ready = [self._seen(item) for item in prepared]
        found = []
        for place in range(0, len(ready), self.batch):
            with torch.inference_mode():
                # (n, h, w, 3) turned to (n, 3, h, w) lies in memory as channels_last wants it: nothing is copied.
                pixels = torch.from_numpy(np.stack(ready[place : place + self.batch])).permute(0, 3, 1, 2)
                mean = torch.tensor(self.mean)[:, None, None]
                deviation = torch.tensor(self.deviation)[:, None, None]
                seen = (pixels.float() / 255 - mean) / deviation
                seen = seen.to(dtype=self.device.dtype, memory_format=torch.channels_last)
                found.append(self._rows(seen))
        return np.concatenate(found)

    def _rows(self, seen: Any) -> Rows:
        try:
            rows = self.through(seen).float().flatten(1).numpy()
        except (self.torch.OutOfMemoryError, MemoryError):
            raise ModelError(
                f"{self.name!r} has not enough memory for {len(seen)} pictures at once: set its `batch` lower"
            ) from None
        return unit(np.ascontiguousarray(rows, np.float32))

    def _seen(self, item: Any) -> NDArray[np.uint8]:
        if isinstance(item, (Whole, Jpeg)):
            rgb = item.decoded(self.enough)
            return rgb if item.ready else self._cut(rgb)
        return np.asarray(item)

    def _cut(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        from PIL import Image

        return np.asarray(self.cut(Image.fromarray(rgb)))
