"""What the classic model sees in a picture: colours by place, edges by place, and the coarse layout.

Every function takes a batch of pictures (n, SIDE, SIDE, 3) and gives (n, d) float32, each row of length 1,
or all zero where there is nothing to see (a plain colour has no edges).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[np.uint8]
Floats = NDArray[np.float32]
Whole = NDArray[np.int32]

SIDE = 64
# Moves when a vector would.
VERSION = 1

_GRID = 4
_HUES, _DEPTHS, _GREYS = 8, 2, 6
_CELLS, _DIRECTIONS = 8, 9
_LIGHTS, _TINTS = 8, 4
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


def parts(pictures: Pictures) -> tuple[Floats, Floats, Floats]:
    """Colours, edges and layout of each picture.

    >>> [rows.shape for rows in parts(np.zeros((2, SIDE, SIDE, 3), np.uint8))]
    [(2, 352), (2, 576), (2, 96)]
    """
    planes, light = _seen(pictures)
    return _colours(planes), _edges(light), _layout(planes, light)


def colours(pictures: Pictures) -> Floats:
    """Histograms of HSV over a grid of cells; a pixel counts as a hue by its chroma, as a grey by the rest.

    >>> colours(np.zeros((2, SIDE, SIDE, 3), np.uint8)).shape
    (2, 352)
    """
    return _colours(_seen(pictures)[0])


def edges(pictures: Pictures) -> Floats:
    """Histograms of gradients: how strong edges are in each direction, cell by cell, against the cells around.

    >>> edges(np.zeros((2, SIDE, SIDE, 3), np.uint8)).shape
    (2, 576)
    """
    return _edges(_seen(pictures)[1])


def layout(pictures: Pictures) -> Floats:
    """The picture at a few pixels, brightness and colour, against its mean.

    >>> layout(np.zeros((2, SIDE, SIDE, 3), np.uint8)).shape
    (2, 96)
    """
    return _layout(*_seen(pictures))


def _seen(pictures: Pictures) -> tuple[Floats, Floats]:
    """Red, green and blue, each in one piece of memory (three times as quick to compute with), and brightness, from 0 to 1."""
    planes = pictures.transpose(3, 0, 1, 2).astype(np.float32, order="C")
    red, green, blue = planes
    # Sums of whole numbers, which a float32 holds exactly.
    light = red * np.float32(299)
    light += green * np.float32(587)
    light += blue * np.float32(114)
    light /= np.float32(255_000)
    planes /= np.float32(255)
    return planes, light


def _colours(planes: Floats) -> Floats:
    hue, chroma, value = _hsv(*planes)
    n = len(hue)
    bins = _HUES * _DEPTHS + _GREYS
    cell = _cells(n, _GRID, bins)
    found = np.zeros(n * _GRID * _GRID * bins)
    depths = _between(value * np.float32(_DEPTHS - 1), _DEPTHS)
    # A colour between two bins counts in both, so that a small change of light changes little.
    for hue_bin, hue_part in _between(hue * np.float32(_HUES), _HUES, around=True):
        hue_part *= chroma
        hue_bin *= _DEPTHS
        hue_bin += cell
        for depth_bin, depth_part in depths:
            found += _counted(hue_bin + depth_bin, hue_part * depth_part, found.size)
    grey = np.float32(1) - chroma
    cell += _HUES * _DEPTHS
    for grey_bin, grey_part in _between(value * np.float32(_GREYS - 1), _GREYS):
        grey_bin += cell
        grey_part *= grey
        found += _counted(grey_bin, grey_part, found.size)
    return _centred(np.sqrt(found.reshape(n, -1)).astype(np.float32))


def _hsv(red: Floats, green: Floats, blue: Floats) -> tuple[Floats, Floats, Floats]:
    """Hue, chroma and value, each from 0 to 1."""
    value = np.maximum(np.maximum(red, green), blue)
    chroma = value - np.minimum(np.minimum(red, green), blue)
    # Which colour is strongest changes from pixel to pixel: multiplying by 0 and 1 takes a tenth of choosing.
    is_red = value == red
    is_green = (value == green) & ~is_red
    is_blue = ~(is_red | is_green)
    hue = (green - blue) * is_red
    hue += (blue - red) * is_green
    hue += (red - green) * is_blue
    np.divide(hue, chroma, out=hue, where=chroma > 0)
    hue += np.float32(6) * (is_red & (hue < 0))
    hue += np.float32(2) * is_green
    hue += np.float32(4) * is_blue
    hue /= np.float32(6)
    return hue, chroma, value


def _edges(light: Floats) -> Floats:
    n, light = len(light), np.sqrt(light)
    across, down = np.zeros_like(light), np.zeros_like(light)
    np.subtract(light[:, :, 2:], light[:, :, :-2], out=across[:, :, 1:-1])
    np.subtract(light[:, 2:, :], light[:, :-2, :], out=down[:, 1:-1, :])
    angle = np.arctan2(down, across)
    angle /= np.float32(np.pi)
    angle += angle < 0
    angle *= np.float32(_DIRECTIONS)
    across *= across
    down *= down
    across += down
    strength = np.sqrt(across, out=across)
    cell = _cells(n, _CELLS, _DIRECTIONS)
    found = np.zeros(n * _CELLS * _CELLS * _DIRECTIONS)
    for direction, part in _between(angle, _DIRECTIONS, around=True):
        direction += cell
        part *= strength
        found += _counted(direction, part, found.size)
    cells = found.reshape(n, _CELLS, _CELLS, _DIRECTIONS) / (SIDE // _CELLS) ** 2
    energy = np.pad((cells * cells).sum(axis=3), ((0, 0), (1, 1), (1, 1)), mode="edge")
    around = sum(energy[:, y : y + _CELLS, x : x + _CELLS] for y in range(3) for x in range(3)) / 9
    found = np.sqrt(cells / (np.sqrt(around)[..., None] + _LEAST_EDGE))
    return _centred(found.reshape(n, -1).astype(np.float32))


def _layout(planes: Floats, light: Floats) -> Floats:
    n = len(light)
    red, green, blue = planes
    step = SIDE // _LIGHTS
    # Neighbours are added in pairs, then pairs of pairs: as NumPy adds up eight in a row.
    rows = light.reshape(-1)
    while len(rows) > light.size // step:
        rows = rows[0::2] + rows[1::2]
    bright = rows.reshape(n, _LIGHTS, step, _LIGHTS).sum(axis=2).reshape(n, -1)
    bright /= np.float32(step * step)
    step = SIDE // _TINTS
    opponents = np.stack((red - green, (red + green) / np.float32(2) - blue)).reshape(2, n, _TINTS, step, _TINTS, step)
    # Turned so that what is added up comes first: then whole rows are added, one by one.
    tint = opponents.transpose(3, 5, 1, 2, 4, 0).reshape(step * step, -1).sum(axis=0).reshape(n, -1)
    tint /= np.float32(step * step)
    bright -= bright.mean(axis=1, keepdims=True)
    contrast = np.sqrt((bright * bright).mean(axis=1, keepdims=True)) + _LEAST_CONTRAST
    return unit(np.concatenate((bright / contrast, tint / contrast), axis=1).astype(np.float32))


def _cells(n: int, grid: int, bins: int) -> Whole:
    """The place of each pixel's first bin, where every cell of every picture has so many."""
    place = np.arange(SIDE, dtype=np.int32) // (SIDE // grid)
    picture = np.arange(n, dtype=np.int32)[:, None, None]
    return np.asarray(((picture * grid + place[:, None]) * grid + place[None, :]) * bins, np.int32)


def _counted(places: Whole, parts: Floats, bins: int) -> NDArray[np.float64]:
    return np.asarray(np.bincount(places.reshape(-1), parts.reshape(-1), bins), np.float64)


def _between(
    places: Floats, bins: int, *, around: bool = False
) -> tuple[tuple[Whole, Floats], tuple[Whole, Floats]]:
    """The two bins beside each place, and how much of it falls to each."""
    low = places.astype(np.int32)
    part = places - low.astype(np.float32)
    high = low + np.int32(1)
    for each in (low, high):
        if around:
            each -= np.int32(bins) * (each >= bins)
        else:
            np.minimum(each, np.int32(bins - 1), out=each)
    return (low, np.float32(1) - part), (high, part)
