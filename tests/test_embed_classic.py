"""The classic model: unit vectors, near for copies, far for others; hashes; every example in the docstrings."""

from __future__ import annotations

import doctest
import hashlib
import importlib
import io
import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image", reason="the extra `images` (Pillow) is not installed")

from vecstore import embed  # noqa: E402
from vecstore.embed.resize import resize  # noqa: E402


def drawn(seed: int) -> np.ndarray:
    """A picture of soft blobs and hard edges."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:120, :160]
    picture = np.zeros((120, 160, 3)) + random.integers(0, 256, 3)
    for _ in range(6):
        place, size = random.random(2) * (120, 160), random.random() * 40 + 10
        inside = (y - place[0]) ** 2 + (x - place[1]) ** 2 < size**2
        picture[inside] = random.integers(0, 256, 3)
    return picture.astype(np.uint8)


def test_vectors_are_of_length_one_and_do_not_depend_on_their_batch() -> None:
    model = embed.load("classic")
    pictures = [drawn(seed) for seed in range(70)] + [np.zeros((3, 3, 3), np.uint8), np.full((9, 9), 255, np.uint8)]
    vectors = model.images(pictures)
    assert vectors.shape == (72, model.dim)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(model.images(pictures[5:6])[0], vectors[5], atol=1e-6)
    assert model.images([]).shape == (0, model.dim)
    with pytest.raises(embed.ModelError, match="list"):
        model.images("a.jpg")


def test_altered_copies_are_nearest() -> None:
    model = embed.load("classic")
    originals = [drawn(seed) for seed in range(60)]
    vectors = model.images(originals)

    def low_quality(picture: np.ndarray) -> bytes:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=15)
        return file.getvalue()

    for alter in (
        low_quality,
        lambda picture: picture[6:-6, 8:-8],
        lambda picture: np.repeat(np.repeat(picture, 2, axis=0), 3, axis=1),
        lambda picture: np.asarray(Image.fromarray(picture).convert("L")),
    ):
        nearest = np.argmax(model.images(list(map(alter, originals))) @ vectors.T, axis=1)
        assert (nearest == np.arange(60)).mean() >= 0.95


def test_hashes_of_copies_are_near_and_of_mirror_images_too() -> None:
    one, other = embed.hashes(drawn(1)), embed.hashes(drawn(2))
    small, mirrored = embed.hashes(drawn(1)[::2, ::2]), embed.hashes(drawn(1)[:, ::-1])
    assert embed.differing_bits(one.perceptual, small.perceptual) <= 8
    assert embed.differing_bits(one.difference, small.difference) <= 8
    assert embed.differing_bits(one.perceptual, other.perceptual) > 12
    assert mirrored.perceptual == one.mirrored_perceptual
    assert mirrored.difference == one.mirrored_difference


def test_vectors_hashes_and_sizes_are_those_of_their_version() -> None:
    """Whoever makes this fail moves a version, for collections to notice: `features.VERSION` or `resize.VERSION`."""
    vectors = embed.load("classic").images([drawn(1), drawn(2)])
    seen = vectors @ np.cos(np.outer(np.arange(1024), np.arange(1, 6)))
    expected = [[-0.118505, -0.979364, 0.480424, -0.231203, 0.572108], [-0.764689, -0.106228, 0.011321, -0.5998, 0.249011]]
    np.testing.assert_allclose(seen, expected, atol=1e-5)
    hashes = 0xBB89A98ED0463B3A, 0x31B1B0C3C1E0D19, 0xEEDCFCDA85120C4A, 0x3070603030B07
    assert embed.hashes(drawn(1)) == embed.Hashes(*hashes)
    sizes = {(64, 64): "dcca3cbe900dd789", (200, 31): "296c9d8cb1dfe764", (7, 300): "fbd9b52d89bc9b19"}
    for size, digest in sizes.items():
        assert hashlib.sha256(resize(drawn(3), *size).tobytes()).hexdigest().startswith(digest)


def test_models_that_are_not_there() -> None:
    with pytest.raises(embed.ModelError, match="there is: classic"):
        embed.load("resnet-nope")


def test_names_are_sorted_and_torch_is_not_needed() -> None:
    assert embed.__all__ == sorted(embed.__all__)
    code = "import sys; from vecstore import embed; embed.load('classic'); print({'torch', 'PIL', 'numba'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(embed.__path__)])
def test_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(f"vecstore.embed.{name}")
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    assert doctest.testmod(module, optionflags=flags).failed == 0
