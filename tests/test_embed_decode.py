"""Pictures of every kind become the same RGB; what is none is refused with its name and a reason."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image", reason="the extra `images` (Pillow) is not installed")

from vecstore import VecstoreError, embed  # noqa: E402
from vecstore.embed.decode import decode, read_file  # noqa: E402
from vecstore.embed.resize import resize  # noqa: E402

COLOURS = np.random.default_rng(3).integers(0, 256, (5, 7, 3)).astype(np.uint8)


def saved(image: Any, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("turn", range(1, 9))
def test_orientation_is_undone(turn: int) -> None:
    from PIL import ImageOps

    image = Image.fromarray(COLOURS)
    exif = image.getexif()
    exif[0x0112] = turn
    data = saved(image, "PNG", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    found = decode(data)
    np.testing.assert_array_equal(found.rgb, expected)
    assert (found.height, found.width) == expected.shape[:2]


def test_sixteen_bits_keep_their_greys() -> None:
    deep = (np.arange(256, dtype=np.uint16) << 8).reshape(16, 16)
    for kind in ("PNG", "TIFF"):
        found = decode(saved(Image.fromarray(deep), kind)).rgb
        np.testing.assert_array_equal(found[..., 0], np.arange(256).reshape(16, 16))
    np.testing.assert_array_equal(decode(deep).rgb[..., 1], np.arange(256).reshape(16, 16))


def test_what_is_see_through_lies_over_white() -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = 0, 255, 51
    expected = [[255, 0, 204]]
    assert decode(rgba).rgb[..., 0].tolist() == expected
    assert decode(saved(Image.fromarray(rgba), "PNG")).rgb[..., 0].tolist() == expected
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([10, 20, 30])
    assert decode(saved(palette, "PNG", transparency=0)).rgb.tolist() == [[[255] * 3] * 2]
    assert decode(saved(palette, "PNG")).rgb.tolist() == [[[10, 20, 30]] * 2]


def test_other_kinds_of_colour() -> None:
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert np.abs(decode(saved(image, "JPEG")).rgb.astype(int) - [255, 0, 0]).max() < 6
    assert decode(saved(Image.new("1", (2, 2), 1), "PNG")).rgb.min() == 255
    frames = [Image.new("RGB", (4, 4), name) for name in ("red", "blue")]
    first = decode(saved(frames[0], "GIF", save_all=True, append_images=frames[1:])).rgb
    assert first[0, 0].tolist() == [255, 0, 0]


def test_a_jpeg_is_decoded_no_further_than_needed() -> None:
    y, x = np.mgrid[:900, :1200]
    smooth = np.stack((x * 255 // 1200, y * 255 // 900, (x + y) % 2100 * 255 // 2100), axis=2).astype(np.uint8)
    data = saved(Image.fromarray(smooth), "JPEG", quality=95)
    whole, part = decode(data), decode(data, enough=128)
    assert (part.width, part.height) == (1200, 900)
    assert 128 <= min(part.rgb.shape[:2]) < 300
    apart = resize(whole.rgb, 64, 64).astype(int) - resize(part.rgb, 64, 64)
    assert np.abs(apart).mean() < 1


def test_a_callers_image_is_left_alone() -> None:
    image = Image.open(io.BytesIO(saved(Image.fromarray(COLOURS), "JPEG")))
    decode(image, enough=1)
    assert image.size == (7, 5)


def test_what_is_no_picture_is_refused() -> None:
    whole = saved(Image.fromarray(np.repeat(COLOURS, 40, axis=0)), "PNG")
    for data, reason in (
        (b"", "0 bytes"),
        (b"hello", "no picture"),
        (whole[: len(whole) // 2], "cannot be decoded"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture"),
    ):
        with pytest.raises(embed.ImageError, match=reason) as caught:
            decode(data, name="bad\n.jpg")
        assert "bad\\n.jpg" in str(caught.value)
        assert isinstance(caught.value, VecstoreError)
        assert isinstance(caught.value, ValueError)
    for wrong in (7, None, np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2)), np.zeros((0, 2, 3), np.uint8)):
        with pytest.raises(embed.ImageError):
            decode(wrong)


def test_bombs_are_refused_by_their_header() -> None:
    with pytest.raises(embed.ImageError, match="pixels"):
        decode(saved(Image.new("1", (400, 300)), "PNG"), max_pixels=100_000)
    for side in (10_000, 20_000):
        with pytest.raises(embed.ImageError, match="pixels"):
            decode(saved(Image.new("1", (side, side)), "PNG"))


def test_only_plain_files_of_sensible_size_are_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse.jpg").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(embed.ImageError, match="bytes"):
        read_file(tmp_path / "sparse.jpg")
    with pytest.raises(embed.ImageError):
        read_file(tmp_path)
    with pytest.raises(embed.ImageError):
        read_file("nul\0.jpg")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.jpg")
        with pytest.raises(embed.ImageError, match="no plain file"):
            read_file(tmp_path / "pipe.jpg")


@pytest.mark.parametrize(("tall", "wide"), [(5, 7), (64, 64), (33, 65), (1, 1), (130, 3), (31, 37), (400, 301)])
def test_resizing_is_the_area_average_to_the_last_bit(tall: int, wide: int) -> None:
    def cover(old: int, new: int) -> np.ndarray:
        parts = [[max(0, min((i + 1) * old, (j + 1) * new) - max(i * old, j * new)) for j in range(old)] for i in range(new)]
        return np.array(parts, dtype=np.int64)

    picture = np.random.default_rng(tall).integers(0, 256, (tall, wide, 3))
    sums = np.einsum("ia,abc,jb->ijc", cover(tall, 8), picture, cover(wide, 9))
    expected = (2 * sums + tall * wide) // (2 * tall * wide)
    np.testing.assert_array_equal(resize(picture.astype(np.uint8), 8, 9), expected)


def test_what_phones_write_is_read_or_its_package_named(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    if "HEIF" not in Image.OPEN:
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "pillow_heif", None)
            with pytest.raises(embed.ImageError, match=r"a\.jpg is HEIC, .*vecstore-db\[heif\]"):
                decode(data, name="a.jpg")
    pytest.importorskip("pillow_heif", reason="the extra `heif` is not installed")
    with pytest.raises(embed.ImageError, match=r"a\.jpg"):
        decode(data, name="a.jpg")
    smooth = np.repeat(np.arange(0, 240, 5, dtype=np.uint8)[None], 64, axis=0)
    rgb = np.stack((smooth, smooth, smooth[:, ::-1]), axis=2)
    found = decode(saved(Image.fromarray(rgb), "HEIF", quality=95))
    assert (found.height, found.width) == (64, 48)
    assert np.abs(found.rgb.astype(int) - rgb).mean() < 4
