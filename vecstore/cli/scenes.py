"""The demo's landscapes."""

from __future__ import annotations

from typing import Any

import numpy as np

from vecstore.cli.brushes import (
    H,
    Random,
    W,
    between,
    disc,
    glow,
    gradient,
    hills,
    hsv,
    land,
    mixed,
    painted,
    turned,
)


def sunset(random: Random) -> Any:
    hue = between(random, 0.0, 0.09)
    canvas = gradient(
        hsv(0.68 + hue, 0.6, 0.32),
        hsv(0.85 + hue, 0.55, 0.6),
        hsv(0.03 + hue, 0.8, 0.97),
        hsv(0.1 + hue / 2, 0.6, 1),
    )
    horizon = H * between(random, 0.58, 0.7)
    x, y, size = (
        W * between(random, 0.25, 0.75),
        horizon - H * between(random, 0.02, 0.2),
        between(random, 30, 54),
    )
    glow(canvas, x, y, size * 3.2, (255, 150, 60), 0.7)
    shine = np.arange(int(horizon), H)
    canvas[shine] = canvas[2 * int(horizon) - shine - 1 if 2 * int(horizon) >= H else shine[::-1]] * 0.62
    image, draw = painted(canvas)
    disc(draw, x, y, size, (255, 240, 200))
    draw.rectangle((0, horizon, W, H), fill=(*hsv(0.9 + hue, 0.7, 0.32), 150))
    for step in range(26):
        at = horizon + (step / 26) ** 1.5 * (H - horizon)
        half = size * between(random, 0.25, 1.1) * (1 + step / 16)
        draw.line((x - half, at, x + half, at), fill=(255, 214, 140, 150 - 4 * step), width=2 + step // 6)
    for _ in range(int(random.integers(2, 6))):
        cloud_x, cloud_y = W * random.random(), horizon * between(random, 0.1, 0.7)
        for _ in range(5):
            disc(
                draw,
                cloud_x + between(random, -90, 90),
                cloud_y,
                between(random, 50, 120),
                (255, 190, 160, 60),
                6,
            )
    return image


def mountains(random: Random) -> Any:
    hue = between(random, 0.52, 0.66)
    sky = hsv(hue, 0.35, 0.95)
    image, draw = painted(gradient(hsv(hue, 0.65, 0.8), sky, (246, 244, 240)))
    layers = int(random.integers(3, 6))
    for layer in range(layers):
        share = (layer + 1) / layers
        points, x = [], -80.0
        base = H * (0.42 + 0.4 * share)
        while x < W + 160:
            points += [
                (x, base + between(random, 0, 30)),
                (x + 60, base - between(random, 90, 230) * (1.15 - 0.7 * share)),
            ]
            x += between(random, 110, 210)
        colour = mixed(sky, hsv(hue + 0.03, 0.55, 0.25), 0.2 + 0.75 * share)
        draw.polygon([(0, H), (points[0][0], H), *points, (W, H)], fill=colour)
        if layer < layers - 1:
            for (left, foot), (peak_x, peak_y), (right, other) in zip(
                points[::2], points[1::2], points[2::2], strict=False
            ):
                cut = 0.3
                snow = [(peak_x, peak_y), (peak_x + (right - peak_x) * cut, peak_y + (other - peak_y) * cut),
                        (peak_x + 10, peak_y + (foot - peak_y) * cut * 0.7),
                        (peak_x + (left - peak_x) * cut, peak_y + (foot - peak_y) * cut)]  # fmt: skip
                draw.polygon(snow, fill=(255, 255, 255, 215))
    return image


def forest(random: Random) -> Any:
    hue = between(random, 0.24, 0.42)
    mist = hsv(hue + 0.03, 0.18, 0.93)
    image, draw = painted(gradient(hsv(hue + 0.12, 0.22, 0.95), mist, mist))
    for layer in range(4):
        share = (layer + 1) / 4
        colour = mixed(mist, hsv(hue, 0.75, 0.22), 0.12 + 0.85 * share)
        ground = H * (0.55 + 0.14 * layer)
        land(draw, hills(random, 0.45, ground, 30), colour)
        x = between(random, -20, 30)
        while x < W + 40:
            tall = between(random, 90, 150) * (0.6 + 0.8 * share)
            foot = ground + between(random, 4, 40)
            draw.rectangle((x - 3, foot - 20, x + 3, foot + 20), fill=mixed(colour, (60, 40, 20), 0.5))
            for tier in range(4):
                top = foot - tall + tier * tall * 0.2
                half = tall * (0.1 + 0.075 * tier)
                draw.polygon(
                    [(x, top), (x - half, top + tall * 0.36), (x + half, top + tall * 0.36)], fill=colour
                )
            x += between(random, 26, 62) * (0.6 + share)
    return image


def city(random: Random) -> Any:
    hue = between(random, 0.6, 0.78)
    canvas = gradient(hsv(hue, 0.8, 0.1), hsv(hue, 0.7, 0.24), hsv(hue + 0.08, 0.55, 0.5))
    glow(canvas, W * between(random, 0.1, 0.9), H * between(random, 0.12, 0.3), 60, (90, 90, 110))
    image, draw = painted(canvas)
    for _ in range(70):
        disc(
            draw,
            W * random.random(),
            H * 0.6 * random.random(),
            between(random, 0.8, 2),
            (255, 255, 240, 190),
        )
    lamp = hsv(between(random, 0.1, 0.15), 0.55, 1)
    for layer in range(3):
        x = between(random, -40, 0)
        while x < W:
            wide, tall = between(random, 44, 100), H * between(random, 0.2, 0.62) * (1 - 0.2 * layer)
            top = H - tall
            draw.rectangle((x, top, x + wide, H), fill=hsv(hue, 0.5, 0.26 - 0.08 * layer))
            if random.random() < 0.25:
                draw.line(
                    (x + wide / 2, top - 40, x + wide / 2, top),
                    fill=hsv(hue, 0.5, 0.26 - 0.08 * layer),
                    width=4,
                )
            for down in np.arange(top + 10, H - 8, 18).tolist():
                for right in np.arange(x + 8, x + wide - 12, 16).tolist():
                    if random.random() < 0.45:
                        draw.rectangle(
                            (right, down, right + 7, down + 9), fill=(*lamp, int(random.integers(90, 250)))
                        )
            x += wide + between(random, 0, 14)
    return image


def waves(random: Random) -> Any:
    hue = between(random, 0.5, 0.62)
    image, draw = painted(gradient(hsv(hue - 0.05, 0.25, 1), (252, 248, 238)))
    disc(
        draw,
        W * between(random, 0.15, 0.85),
        H * between(random, 0.12, 0.25),
        between(random, 26, 44),
        (255, 222, 130),
    )
    count = int(random.integers(5, 9))
    across = np.arange(W)
    for wave in range(count):
        share = wave / (count - 1)
        level = H * (0.36 + 0.56 * share)
        long, tall, shift = between(random, 70, 130) * (0.7 + share), 10 + 22 * share, random.random() * 9
        # Crests are sharper than troughs.
        outline = level - tall * (1 - 2 * np.abs(np.sin(across / long + shift)))
        colour = hsv(hue + 0.05 * share, 0.45 + 0.4 * share, 0.95 - 0.5 * share)
        land(draw, outline, colour)
        points = list(zip(across[::2].tolist(), (outline[::2] + 3).tolist(), strict=True))
        draw.line(points, fill=(255, 255, 255, 210), width=5)
    if random.random() < 0.6:
        x, y, size = W * between(random, 0.2, 0.8), H * 0.38, between(random, 26, 48)
        draw.polygon(turned([(-1, 0), (1, 0), (0.6, 0.4), (-0.6, 0.4)], x, y, 0, size), fill=(110, 60, 40))
        draw.polygon(turned([(0, -1.9), (0, -0.1), (1, -0.1)], x, y, 0, size), fill=(255, 255, 255))
        draw.polygon(
            turned([(-0.1, -1.6), (-0.1, -0.1), (-0.7, -0.1)], x, y, 0, size),
            fill=hsv(random.random(), 0.6, 0.95),
        )
    return image


def houses(random: Random) -> Any:
    sky = between(random, 0.5, 0.62)
    image, draw = painted(gradient(hsv(sky, 0.4, 0.96), hsv(sky, 0.12, 1)))
    land(draw, hills(random, 0.4, H * 0.72, 30), hsv(between(random, 0.24, 0.32), 0.5, 0.75))
    x = between(random, 10, 40)
    ground = H * 0.88
    while x < W - 70:
        wide, tall, hue = between(random, 90, 150), between(random, 120, 210), random.random()
        wall, roof = hsv(hue, 0.32, 0.97), hsv(between(random, -0.02, 0.07), 0.65, 0.65)
        top = ground - tall
        draw.rectangle((x, top, x + wide, ground), fill=wall)
        draw.polygon([(x - 10, top), (x + wide / 2, top - wide * 0.5), (x + wide + 10, top)], fill=roof)
        pane = hsv(0.56, 0.35, 0.75)
        for down in np.arange(top + 20, ground - 74, 52).tolist():
            for right in (x + wide * 0.18, x + wide * 0.6):
                draw.rectangle((right - 3, down - 3, right + 25, down + 33), fill=(255, 255, 255))
                draw.rectangle((right, down, right + 22, down + 30), fill=pane)
        draw.rectangle(
            (x + wide / 2 - 15, ground - 56, x + wide / 2 + 15, ground), fill=hsv(hue + 0.5, 0.6, 0.5)
        )
        x += wide + between(random, 4, 40)
    draw.rectangle((0, ground, W, H), fill=(150, 146, 140))
    return image
