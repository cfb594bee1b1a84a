"""Models of open_clip: pictures and texts in one space. The weights are made here; nothing is fetched."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
open_clip = pytest.importorskip("open_clip", reason="the extra `clip` is not installed")
Image = pytest.importorskip("PIL.Image", reason="the extra `images` (Pillow) is not installed")

from vecstore import embed  # noqa: E402
from vecstore.embed.devices import Device  # noqa: E402

TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A small kind of model, and a file of weights for it."""
    (tmp_path / "vecstore-tiny.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(tmp_path / "vecstore-tiny.json")
    torch.manual_seed(3)
    network = open_clip.create_model("vecstore-tiny").eval()
    torch.save(network.state_dict(), tmp_path / "tiny.pt")
    return network, tmp_path / "tiny.pt"


def photo(seed: int, height: int = 90, width: int = 120) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height)))


def test_pictures_and_texts_are_as_open_clip_makes_them(tiny: Any) -> None:
    network, weights = tiny
    model = embed.load("clip:vecstore-tiny", weights=weights)
    assert (model.name, model.dim) == ("clip:vecstore-tiny", 32)
    pictures = [photo(1), photo(2, 300, 80)]
    transform = open_clip.image_transform(64, is_train=False, interpolation="bicubic")
    with torch.inference_mode():
        seen = torch.stack([transform(Image.fromarray(picture)) for picture in pictures])
        expected = torch.nn.functional.normalize(network.encode_image(seen)).numpy()
        words = open_clip.get_tokenizer("vecstore-tiny")(["a red shoe", "the sea"])
        said = torch.nn.functional.normalize(network.encode_text(words)).numpy()
    np.testing.assert_allclose(model.images(pictures), expected, atol=2e-2)
    np.testing.assert_allclose(model.texts(["a red shoe", "the sea"]), said, atol=2e-2)
    assert model.texts([]).shape == (0, 32)
    with pytest.raises(embed.ModelError, match="list"):
        model.texts("a red shoe")


def test_a_folder_is_asked_by_text(tiny: Any, tmp_path: Path, path: str) -> None:
    (tmp_path / "in").mkdir()
    for seed in range(4):
        Image.fromarray(photo(seed)).save(tmp_path / "in" / f"{seed}.png")
    model = embed.load("clip:vecstore-tiny", weights=tiny[1])
    assert embed.index_folder(tmp_path / "in", path, model).added == 4
    hits = embed.search(path, text="a red shoe", model=model)
    expected = 1 - model.images(sorted((tmp_path / "in").iterdir())) @ model.texts(["a red shoe"])[0]
    np.testing.assert_allclose(hits.distances, np.sort(expected), atol=1e-5)


def test_weights_in_the_hubs_cache(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Laid out as the Hugging Face hub does it, or as open_clip's own downloads."""
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    tags = {
        "laion2b_mine": {"hf_hub": "mine/tiny-clip/", "mean": (0.5, 0.5, 0.5), "quick_gelu": False},
        "openai": {"url": "https://example.org/tiny.pt"},
    }
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "vecstore-tiny", tags)
    with pytest.raises(
        embed.ModelError, match=r"mine/tiny-clip/open_clip_model.safetensors in .*hub, and offline"
    ):
        embed.load("clip:vecstore-tiny", offline=True)
    with pytest.raises(embed.ModelError, match=r"home/\.cache/clip/tiny\.pt, and offline"):
        embed.load("clip:vecstore-tiny/openai", offline=True)
    with pytest.raises(embed.ModelError, match=r"no weights 'nobodys' .*there is: laion2b_mine, openai"):
        embed.load("clip:vecstore-tiny/nobodys", offline=True)
    place = tmp_path / "hub" / "models--mine--tiny-clip"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("abc")
    (place / "snapshots" / "abc").mkdir(parents=True)
    from safetensors.torch import save_file

    save_file(tiny[0].state_dict(), place / "snapshots" / "abc" / "open_clip_model.safetensors")
    model = embed.load("clip:vecstore-tiny", offline=True)
    assert model.name == "clip:vecstore-tiny/laion2b_mine"
    assert "colour=0.5/0.5/0.5" in model.fingerprint
    (tmp_path / "home" / ".cache" / "clip").mkdir(parents=True)
    (tmp_path / "home" / ".cache" / "clip" / "tiny.pt").write_bytes(tiny[1].read_bytes())
    assert embed.load("clip:vecstore-tiny/openai", offline=True).dim == 32


def test_what_does_not_fit_is_refused(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(embed.ModelError, match="open_clip has no model 'ViT-B-33'; it has ViT-B-32"):
        embed.load("clip:ViT-B-33")
    torch.save({"visual.proj": torch.zeros(2, 2)}, tmp_path / "wrong.pt")
    with pytest.raises(embed.ModelError, match=r"wrong\.pt holds no weights of 'vecstore-tiny'"):
        embed.load("clip:vecstore-tiny", weights=tmp_path / "wrong.pt")
    with pytest.raises(embed.ModelError, match=r"none\.pt cannot be read"):
        embed.load("clip:vecstore-tiny", weights=tmp_path / "none.pt")


def test_on_a_card_pictures_are_cut_there_and_texts_follow(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the processor in a card's place: the same vectors, and the processor itself where the card fails."""
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "bench")
    bench = importlib.import_module("cuda_images")
    model = embed.load("clip:vecstore-tiny", weights=tiny[1], device="cpu")
    model.settle(Device("cpu", torch.float32))
    pictures, texts = [photo(1), photo(2, 300, 80), photo(3, 64, 64)], ["a red shoe", "the sea"]
    expected, said = model.images(pictures), model.texts(texts)
    model.board(bench.Processor(torch))
    assert model.cutting is not None
    np.testing.assert_allclose(model.images(pictures), expected, atol=2e-3)
    np.testing.assert_allclose(model.texts(texts), said, atol=1e-6)

    def lost(tokens: Any) -> Any:
        raise RuntimeError("CUDA error: unspecified launch failure")

    model._network.encode_text = lost
    with pytest.warns(RuntimeWarning, match="the processor goes on"):
        after = model.texts(texts)
    np.testing.assert_allclose(after, said, atol=2e-2)
    assert model.flight is None
