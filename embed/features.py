"""What the classic model sees in a picture: colours by place, edges by place, and the coarse layout.

Every function takes a batch of pictures (n, SIDE, SIDE, 3) and gives (n, d) float32, each row of length 1,
or all zero where there is nothing to see (a plain colour has no edges).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[np.uint8]
Floats = NDArray[np.float32]

SIDE = 64
# Moves when a vector would.
VERSION = 1

_GRID = 4
_HUES, _DEPTHS, _GREYS = 8, 2, 6
_CELLS, _DIRECTIONS = 8, 9
# Contrasts below a few grey levels are noise: they should not be blown up to full length.
_LEAST_EDGE = 0.02
_LEAST_CONTRAST = 0.02


def unit(rows: Floats) -> Floats:
    """Rows of length 1; zero rows stay zero.

    >>> unit(np.array([[3, 4], [0, 0]], np.float32)).tolist()
    [[0.6..., 0.8...], [0.0, 0.0]]
    """
    length = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
    long: Floats = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
    return long


def _centred(histograms: Floats) -> Floats:
    """Counts are never negative, so any two rows are alike in that alone: it is taken out."""
    return unit(histograms - histograms.mean(axis=1, keepdims=True))


def luma(pictures: Pictures) -> Floats:
    """Brightness from 0 to 1.

    >>> luma(np.full((1, 1, 1, 3), 255, np.uint8)).tolist()
    [[[1.0]]]
    """
    whole = pictures.astype(np.int32) @ np.array([299, 587, 114], np.int32)
    return np.asarray(whole / np.float32(255_000), dtype=np.float32)


def colours(pictures: Pictures) -> Floats:
    """Histograms of HSV over a grid of cells; a pixel counts as a hue by its chroma, as a grey by the rest.

    >>> colours(np.zeros((2, SIDE, SIDE, 3), np.uint8)).shape
    (2, 352)
    """
    hue, chroma, value = _hsv(pictures)
    n = len(pictures)
    bins = _HUES * _DEPTHS + _GREYS
    step = SIDE // _GRID
    place = np.arange(SIDE) // step
    cell = (np.arange(n)[:, None, None] * _GRID + place[:, None]) * _GRID + place[None, :]
    found = np.zeros(n * _GRID * _GRID * bins)
    # A colour between two bins counts in both, so that a small change of light changes little.
    for hue_bin, hue_part in _between(hue * _HUES, _HUES, around=True):
        for depth_bin, depth_part in _between(value * (_DEPTHS - 1), _DEPTHS):
            place_of = cell * bins + hue_bin * _DEPTHS + depth_bin
            found += np.bincount(place_of.ravel(), (chroma * hue_part * depth_part).ravel(), found.size)
    for grey_bin, grey_part in _between(value * (_GREYS - 1), _GREYS):
        place_of = cell * bins + _HUES * _DEPTHS + grey_bin
        found += np.bincount(place_of.ravel(), ((1 - chroma) * grey_part).ravel(), found.size)
    return _centred(np.sqrt(found.reshape(n, -1)).astype(np.float32))


def edges(pictures: Pictures) -> Floats:
    """Histograms of gradients: how strong edges are in each direction, cell by cell, against the cells around.

    >>> edges(np.zeros((2, SIDE, SIDE, 3), np.uint8)).shape
    (2, 576)
    """
    light = np.sqrt(luma(pictures))
    n = len(light)
    across, down = np.zeros_like(light), np.zeros_like(light)
    across[:, :, 1:-1] = light[:, :, 2:] - light[:, :, :-2]
    down[:, 1:-1, :] = light[:, 2:, :] - light[:, :-2, :]
    strength = np.sqrt(across * across + down * down)
    angle = np.arctan2(down, across) / np.float32(np.pi)
    angle[angle < 0] += 1
    place = np.arange(SIDE) // (SIDE // _CELLS)
    cell = (np.arange(n)[:, None, None] * _CELLS + place[:, None]) * _CELLS + place[None, :]
    found = np.zeros(n * _CELLS * _CELLS * _DIRECTIONS)
    for direction, part in _between(angle * _DIRECTIONS, _DIRECTIONS, around=True):
        found += np.bincount((cell * _DIRECTIONS + direction).ravel(), (strength * part).ravel(), found.size)
    cells = found.reshape(n, _CELLS, _CELLS, _DIRECTIONS) / (SIDE // _CELLS) ** 2
    energy = np.pad((cells * cells).sum(axis=3), ((0, 0), (1, 1), (1, 1)), mode="edge")
    around = sum(energy[:, y : y + _CELLS, x : x + _CELLS] for y in range(3) for x in range(3)) / 9
    found = np.sqrt(cells / (np.sqrt(around)[..., None] + _LEAST_EDGE))
    return _centred(found.reshape(n, -1).astype(np.float32))


def layout(pictures: Pictures) -> Floats:
    """The picture at a few pixels, brightness and colour, against its mean.

    >>> layout(np.zeros((2, SIDE, SIDE, 3), np.uint8)).shape
    (2, 96)
    """
    n = len(pictures)
    light = _shrunk(luma(pictures)[..., None], 8).reshape(n, -1)
    red, green, blue = _planes(pictures)
    opponents = np.stack((red - green, (red + green) / 2 - blue), axis=3).astype(np.float32)
    tint = _shrunk(opponents, 4).reshape(n, -1)
    light -= light.mean(axis=1, keepdims=True)
    contrast = np.sqrt((light * light).mean(axis=1, keepdims=True)) + _LEAST_CONTRAST
    return unit(np.concatenate((light / contrast, tint / contrast), axis=1).astype(np.float32))


def _shrunk(planes: Floats, side: int) -> Floats:
    n, channels, step = len(planes), planes.shape[3], SIDE // side
    return np.asarray(planes.reshape(n, side, step, side, step, channels).mean(axis=(2, 4)), np.float32)


def _planes(pictures: Pictures) -> tuple[Floats, Floats, Floats]:
    """Red, green and blue from 0 to 1, each in one piece of memory: that is three times as quick to compute with."""
    red, green, blue = pictures.transpose(3, 0, 1, 2).astype(np.float32, order="C") / np.float32(255)
    return red, green, blue


def _hsv(pictures: Pictures) -> tuple[Floats, Floats, Floats]:
    """Hue, chroma and value, each from 0 to 1."""
    red, green, blue = _planes(pictures)
    value = np.maximum(np.maximum(red, green), blue)
    chroma = value - np.minimum(np.minimum(red, green), blue)
    is_red, is_green = value == red, value == green
    hue = np.where(is_red, green - blue, np.where(is_green, blue - red, red - green))
    np.divide(hue, chroma, out=hue, where=chroma > 0)
    hue += np.where(is_red, np.where(hue < 0, np.float32(6), np.float32(0)), np.where(is_green, np.float32(2), np.float32(4)))
    return (hue / np.float32(6)).astype(np.float32), chroma, value


def _between(
    places: Floats, bins: int, *, around: bool = False
) -> tuple[tuple[NDArray[np.int64], Floats], tuple[NDArray[np.int64], Floats]]:
    """The two bins beside each place, and how much of it falls to each."""
    low = places.astype(np.int64)
    part = places - low.astype(np.float32)
    high = low + 1
    if around:
        low[low >= bins] -= bins
        high[high >= bins] -= bins
    else:
        np.minimum(low, bins - 1, out=low)
        np.minimum(high, bins - 1, out=high)
    return (low, 1 - part), (high, part)
