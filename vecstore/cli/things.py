"""The demo's pictures of things."""

from __future__ import annotations

import math
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
    hsv,
    leaf,
    mixed,
    painted,
    turned,
)


def balloons(random: Random) -> Any:
    hue = between(random, 0.5, 0.6)
    image, draw = painted(gradient(hsv(hue, 0.55, 0.92), hsv(hue, 0.18, 1)))
    for _ in range(4):
        x, y = W * random.random(), H * random.random()
        for _ in range(7):
            disc(
                draw,
                x + between(random, -70, 70),
                y + between(random, -12, 12),
                between(random, 26, 52),
                (255, 255, 255, 90),
            )
    for _ in range(int(random.integers(3, 7))):
        x, y, size = (
            W * between(random, 0.1, 0.9),
            H * between(random, 0.15, 0.65),
            between(random, 38, 84),
        )
        one, stripes = random.random(), int(random.integers(2, 5))
        body = hsv(one, 0.75, 0.95)
        draw.polygon([(x - size * 0.86, y + size * 0.5), (x + size * 0.86, y + size * 0.5), (x + size * 0.2, y + size * 1.45),
                      (x - size * 0.2, y + size * 1.45)], fill=body)  # fmt: skip
        disc(draw, x, y, size, body)
        for stripe in range(stripes):
            half = size * (1 - (2 * stripe + 1) / (2 * stripes))
            disc(draw, x, y, half, hsv(one + 0.12 + 0.4 * (stripe % 2), 0.6, 1), size)
        for side in (-0.17, 0.17):
            draw.line(
                (x + side * size, y + size * 1.4, x + side * size, y + size * 1.75),
                fill=(90, 60, 40),
                width=2,
            )
        draw.rectangle((x - size * 0.2, y + size * 1.72, x + size * 0.2, y + size * 2), fill=(122, 78, 44))
    return image


def fish(random: Random) -> Any:
    hue = between(random, 0.48, 0.58)
    canvas = gradient(hsv(hue, 0.55, 0.85), hsv(hue + 0.03, 0.8, 0.55), hsv(hue + 0.06, 0.85, 0.28))
    for _ in range(4):
        glow(canvas, W * random.random(), -20, between(random, 60, 130), (60, 80, 70), 0.8)
    image, draw = painted(canvas)
    for _ in range(int(random.integers(4, 10))):
        x = W * random.random()
        for piece in range(16):
            sway = math.sin(piece / 3 + x) * 10
            disc(
                draw,
                x + sway,
                H - piece * 9,
                8 - piece * 0.4,
                hsv(between(random, 0.3, 0.36), 0.7, 0.4),
                12,
            )
    for _ in range(int(random.integers(3, 9))):
        x, y, size = (
            W * between(random, 0.08, 0.92),
            H * between(random, 0.12, 0.8),
            between(random, 26, 70),
        )
        way = 1 if random.random() < 0.5 else -1
        one = between(random, -0.06, 0.17)
        tail = [(-0.8, 0), (-1.55, -0.55), (-1.35, 0), (-1.55, 0.55)]
        draw.polygon([(x + a * size * way, y + b * size) for a, b in tail], fill=hsv(one + 0.04, 0.85, 0.9))
        fin = [(-0.3, -0.35), (0.3, -0.45), (-0.25, -0.85)]
        draw.polygon([(x + a * size * way, y + b * size) for a, b in fin], fill=hsv(one + 0.04, 0.85, 0.9))
        disc(draw, x, y, size, hsv(one, 0.85, 1), size * 0.55)
        for band in (-0.3, 0.15):
            disc(draw, x + band * size * way, y, size * 0.09, (255, 255, 255, 220), size * 0.45)
        disc(draw, x + 0.62 * size * way, y - 0.1 * size, size * 0.13, (255, 255, 255))
        disc(draw, x + 0.65 * size * way, y - 0.1 * size, size * 0.07, (20, 20, 30))
    for _ in range(16):
        x, y, size = W * random.random(), H * random.random(), between(random, 3, 9)
        draw.ellipse((x - size, y - size, x + size, y + size), outline=(255, 255, 255, 150), width=2)
    return image


def flowers(random: Random) -> Any:
    hue = between(random, 0.22, 0.34)
    image, draw = painted(gradient(hsv(hue, 0.35, 0.95), hsv(hue, 0.6, 0.7), hsv(hue, 0.75, 0.4)))
    one = random.random()
    for _ in range(60):
        x, y = W * random.random(), H * between(random, 0.5, 1.1)
        leaf(
            draw,
            x,
            y,
            -math.pi / 2 + between(random, -0.5, 0.5),
            between(random, 60, 150),
            12,
            (*hsv(hue, 0.8, 0.45), 170),
        )
    for _ in range(int(random.integers(3, 8))):
        x, y, size = (
            W * between(random, 0.1, 0.9),
            H * between(random, 0.2, 0.75),
            between(random, 44, 96),
        )
        draw.line((x, y, x + between(random, -20, 20), H), fill=hsv(hue, 0.75, 0.35), width=7)
        petals, turn = int(random.integers(6, 13)), random.random()
        for ring, share in ((1.0, 0.0), (0.66, 0.25)):
            for place in range(petals):
                angle = 2 * math.pi * (place + turn + ring / 2) / petals
                colour = mixed(hsv(one + between(random, -0.03, 0.03), 0.62, 0.97), (255, 255, 255), share)
                leaf(draw, x, y, angle, size * ring, size * 3.4 / petals, colour)
        disc(draw, x, y, size * 0.24, hsv(0.12, 0.85, 0.95))
        disc(draw, x, y, size * 0.13, hsv(0.08, 0.8, 0.6))
    return image


def planets(random: Random) -> Any:
    canvas = np.zeros((H, W, 3)) + np.array(hsv(between(random, 0.6, 0.85), 0.7, 0.07))
    for _ in range(3):
        cloud = hsv(random.random(), 0.7, 0.5)
        glow(canvas, W * random.random(), H * random.random(), between(random, 70, 170), cloud, 0.45)
    image, draw = painted(canvas)
    for _ in range(150):
        disc(
            draw,
            W * random.random(),
            H * random.random(),
            between(random, 0.7, 2.4),
            (255, 255, 255, int(random.integers(90, 255))),
        )
    for place in range(int(random.integers(1, 4))):
        x, y, size = (
            W * between(random, 0.15, 0.85),
            H * between(random, 0.2, 0.8),
            between(random, 40, 120) / (1 + place),
        )
        hue, shift, waves = random.random(), between(random, 0, 0.12), between(random, 3, 9)
        reach = int(size)
        down, across = np.mgrid[-reach : reach + 1, -reach : reach + 1] / size
        depth = np.sqrt(np.clip(1 - down**2 - across**2, 0, 1))
        light = np.clip(across * -0.55 + down * -0.45 + depth * 0.75, 0.05, 1)
        bands = 0.5 + 0.5 * np.sin(down * waves * 2 + np.sin(across * 3) * 0.7)
        low, high = np.array(hsv(hue, 0.7, 0.75)), np.array(hsv(hue + shift, 0.35, 1))
        ball = (low + (high - low) * bands[..., None]) * light[..., None]
        from PIL import Image

        mask = Image.fromarray(
            (np.clip((1 - np.hypot(down, across)) * size / 2, 0, 1) * 255).astype(np.uint8)
        )
        image.paste(Image.fromarray(ball.astype(np.uint8)), (int(x) - reach, int(y) - reach), mask)
        if random.random() < 0.5:
            draw.arc(
                (x - size * 1.8, y - size * 0.5, x + size * 1.8, y + size * 0.5),
                -20,
                200,
                fill=hsv(hue, 0.25, 0.9),
                width=6,
            )
    return image


def butterflies(random: Random) -> Any:
    ground = between(random, 0.1, 0.45)
    image, draw = painted(gradient(hsv(ground, 0.12, 1), hsv(ground + 0.05, 0.32, 0.95)))
    for _ in range(int(random.integers(1, 5))):
        x, y, size = (
            W * between(random, 0.2, 0.8),
            H * between(random, 0.25, 0.75),
            between(random, 60, 130),
        )
        hue, lean = random.random(), between(random, -0.6, 0.6)
        rim, inner = hsv(hue, 0.8, 0.35), hsv(hue, 0.75, 1)
        for side in (-1, 1):
            for angle, long in ((-0.65, 1.25), (0.6, 0.9)):
                turn = lean + (angle if side > 0 else math.pi - angle)
                leaf(draw, x, y, turn, size * long, size * long * 0.85, rim)
                leaf(draw, x, y, turn, size * long * 0.86, size * long * 0.62, inner)
                away = size * long * 0.6
                disc(
                    draw,
                    x + away * math.cos(turn),
                    y + away * math.sin(turn),
                    size * 0.11,
                    (255, 255, 255, 230),
                )
        leaf(
            draw,
            x - math.sin(-lean) * size * -0.4,
            y - size * 0.42,
            math.pi / 2 + lean * 0.6,
            size * 0.95,
            15,
            (40, 30, 30),
        )
        for feeler in (-0.35, 0.35):
            top = turned([(0, -0.35), (feeler, -0.95)], x, y, lean, size)
            draw.line(top, fill=(40, 30, 30), width=3)
    return image


def tiles(random: Random) -> Any:
    hue, count = random.random(), int(random.integers(4, 8))
    one, light, other, dark = (
        hsv(hue + offset, depth, value)
        for offset, depth, value in ((0, 0.6, 0.9), (0.08, 0.25, 1), (0.45, 0.6, 0.7), (0, 0.8, 0.35))
    )
    image, draw = painted(gradient(light, light))
    size, way = W / count, int(random.integers(3))
    for row in range(int(H / size) + 1):
        for column in range(count):
            x, y, even = column * size, row * size, (row + column) % 2 == 0
            if way == 0:
                draw.pieslice(
                    (x - size, y - size, x + size, y + size), 0, 90, fill=one if even and row % 2 else other
                )
                draw.pieslice((x, y, x + 2 * size, y + 2 * size), 180, 270, fill=dark)
            elif way == 1:
                draw.polygon([(x, y), (x + size, y), (x, y + size)], fill=other if even else one)
                disc(draw, x + size / 2, y + size / 2, size * 0.2, dark)
            else:
                draw.rectangle((x, y, x + size, y + size), fill=light if even else one)
                disc(draw, x + size / 2, y + size / 2, size * 0.32, dark if even else other)
    return image
