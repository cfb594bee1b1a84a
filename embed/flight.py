"""Batches on their way through a card: sent, decoded and cut beside the batch that the network computes."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .card import Card
from .cutting import Cut
from .jpegs import Decoder, Jpeg, Whole

Rows = NDArray[np.float32]
Pictures = Sequence[Whole | Jpeg]

# More at once is no quicker, and a last batch that is not full wastes more.
MOST = 256
_PROBED = 8
# Of what is free: another process may be about to begin, and torch's own pieces do not fit to the last byte.
_SHARE = 0.5
# Decoded pictures take their bytes six times over while they are cut (as bytes, side by side, as numbers).
_PICTURES_SHARE = 1 / 32
_PICTURES_MOST = 512 << 20
# A compiled network must be so much quicker to be worth the seconds that compiling takes.
_WORTH = 1.05
_TIMED = 10


class Flight:
    """A network on a card, as a function from pictures of any size to rows of numbers, a few batches in the air.

    ``through`` takes a batch (n, 3, *crop) on the card in half precision. ``batch`` is how many pictures go at once: what the
    card has room for, and less once it turns out to have less.
    """

    def __init__(
        self,
        card: Card,
        through: Callable[[Any], Any],
        *,
        cut: Cut | None,
        crop: tuple[int, int],
        mean: Sequence[float],
        deviation: Sequence[float],
        dtype: Any,
        decoder: Decoder | None = None,
    ) -> None:
        torch = card.torch
        self.card, self.cut, self.decoder = card, cut, decoder
        self._plain = self.through = through
        self._crop, self._dtype = crop, dtype
        # (pixel / 255 - mean) / deviation, in one step.
        black, white = torch.tensor(mean, dtype=torch.float32), torch.tensor(deviation, dtype=torch.float32)
        self._scale = (1 / (255 * white))[:, None, None].to(card.name)
        self._shift = (-black / white)[:, None, None].to(card.name)
        # A compiled network is compiled for one size of batch.
        self._same_size = False
        self.batch = self._fitting()

    def start(self, pictures: Pictures) -> Callable[[], Rows]:
        """Queue pictures; what is returned waits for their rows. Where there is no room, fewer go at once, from then on."""
        parts: list[Callable[[], Rows]] = []
        place = 0
        while place < len(pictures):
            part = pictures[place : place + self.batch]
            try:
                parts.append(self._sent(part))
                place += len(part)
                continue
            except RuntimeError as error:
                if len(part) == 1 or not self.card.is_full(error):
                    raise
            # Not while the error is at hand: it holds on to all that was made on the way.
            self.batch = len(part) // 2
            self.through, self._same_size = self._plain, False
            self.card.clear()
        return lambda: np.concatenate([part() for part in parts])

    def quicken(self, compiled: Callable[[Any], Any]) -> bool:
        """Take a compiled network in place of the plain one if it is quicker here, by the clock; whether it was."""
        try:
            seconds = [self._seconds(run) for run in (self._plain, compiled)]
        except Exception:  # Compilers fail in many ways, and nothing is lost: the plain network is there.
            self.card.clear()
            return False
        faster = seconds[0] > _WORTH * seconds[1]
        if faster:
            self.through, self._same_size = compiled, True
        return faster

    # -- one batch

    def _sent(self, pictures: Pictures) -> Callable[[], Rows]:
        torch, card = self.card.torch, self.card
        count = len(pictures)
        # Pictures of one size are cut in one go.
        order = sorted(range(count), key=lambda place: (pictures[place].ready, pictures[place].shape))
        with torch.inference_mode():
            with card.beside():
                seen = self.empty(max(count, self.batch) if self._same_size else count)
                seen[count:] = 0
                start = 0
                for ready, pixels in self._groups([pictures[place] for place in order]):
                    numbers = (
                        pixels.to(torch.float32) if ready or self.cut is None else self.cut(torch, pixels)
                    )
                    seen[start : start + len(pixels)] = numbers.mul_(self._scale).add_(self._shift)
                    start += len(pixels)
            card.follow(seen)
            found = self.through(seen).float().flatten(1)
            home = card.pinned(found.shape, torch.float32)
            home.copy_(found, non_blocking=True)
            done = card.mark()

        def landed() -> Rows:
            done.synchronize()
            rows = np.empty((count, home.shape[1]), np.float32)
            rows[order] = home.numpy()[:count]
            return rows

        return landed

    def empty(self, count: int) -> Any:
        """Room on the card for so many pictures as the network sees them."""
        torch = self.card.torch
        shape = (count, 3, *self._crop)
        return torch.empty(shape, dtype=self._dtype, device=self.card.name, memory_format=torch.channels_last)

    def _groups(self, pictures: Pictures) -> Iterator[tuple[bool, Any]]:
        """Pixels (k, 3, h, w) on the card of pictures that have one size; no more of them at once than there is room for."""
        torch = self.card.torch
        for part in self._parts(pictures):
            pairs = zip(part, self._pixels(part), strict=True)
            for (ready, _), group in itertools.groupby(
                pairs, key=lambda pair: (pair[0].ready, pair[0].shape)
            ):
                yield ready, torch.stack([pixels for _, pixels in group])

    def _parts(self, pictures: Pictures) -> Iterator[Pictures]:
        room = min(self.card.room() * _PICTURES_SHARE, _PICTURES_MOST)
        part: list[Whole | Jpeg] = []
        held = 0
        for picture in pictures:
            size = 3 * picture.shape[0] * picture.shape[1]
            if part and held + size > room:
                yield part
                part, held = [], 0
            part.append(picture)
            held += size
        if part:
            yield part

    def _pixels(self, pictures: Pictures) -> list[Any]:
        """Each picture (3, h, w) as bytes on the card."""
        jpegs = [picture for picture in pictures if isinstance(picture, Jpeg)]
        if jpegs and self.decoder is None:
            decoded = iter([jpeg.decoded(None) for jpeg in jpegs])
        else:
            decoded = iter(self.decoder(jpegs) if self.decoder is not None else [])
        found = [next(decoded) if isinstance(picture, Jpeg) else picture.rgb for picture in pictures]
        sent = iter(self._arrays([pixels for pixels in found if isinstance(pixels, np.ndarray)]))
        return [next(sent) if isinstance(pixels, np.ndarray) else pixels for pixels in found]

    def _arrays(self, arrays: list[NDArray[np.uint8]]) -> list[Any]:
        """All in one piece of page-locked memory, and in one copy that nobody waits for."""
        if not arrays:
            return []
        ends = np.cumsum([array.size for array in arrays]).tolist()
        packed = self.card.pinned(ends[-1], self.card.torch.uint8)
        bytes_ = packed.numpy()
        for array, end in zip(arrays, ends, strict=True):
            bytes_[end - array.size : end] = array.ravel()
        there = packed.to(self.card.name, non_blocking=True)
        return [
            there[end - array.size : end].view(array.shape).permute(2, 0, 1)
            for array, end in zip(arrays, ends, strict=True)
        ]

    # -- how much at once, how fast

    def _fitting(self) -> int:
        """As many pictures at once as have room in a share of what is free; the first few also wake the libraries up."""
        torch = self.card.torch
        with torch.inference_mode():
            few = self.empty(_PROBED).zero_()
            self.through(few)
            taken = self.card.taken_by(lambda: self.through(few).float())
        each = taken / _PROBED + few.element_size() * few[0].numel()
        most = int(self.card.room() * _SHARE / max(each, 1))
        # A power of two: what libraries of matrix products like best.
        return min(MOST, 1 << max(0, most.bit_length() - 1))

    def _seconds(self, run: Callable[[Any], Any]) -> float:
        with self.card.torch.inference_mode():
            seen = self.empty(self.batch).zero_()
            for _ in range(3):
                run(seen)
            self.card.finish()
            start = time.perf_counter()
            for _ in range(_TIMED):
                run(seen)
            self.card.finish()
            return time.perf_counter() - start
