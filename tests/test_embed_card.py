"""The way of pictures through a graphics card, with the processor in the card's place.

What only a card can show is in bench/cuda_images.py.
"""

from __future__ import annotations

import importlib
import io
import subprocess
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
models = pytest.importorskip("torchvision.models", reason="the extra `torch` is not installed")
Image = pytest.importorskip("PIL.Image", reason="the extra `images` (Pillow) is not installed")

import vecstore  # noqa: E402
from vecstore import embed  # noqa: E402
from vecstore.cli import main  # noqa: E402
from vecstore.embed import devices, network  # noqa: E402
from vecstore.embed.card import Card  # noqa: E402
from vecstore.embed.devices import Device  # noqa: E402
from vecstore.embed.flight import Flight  # noqa: E402
from vecstore.embed.folding import folded  # noqa: E402
from vecstore.embed.jpegs import Jpeg, Whole  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))
try:
    bench = importlib.import_module("cuda_images")
finally:
    sys.path.pop(0)

# Of how far two pictures are apart: so much a picture's vector may move by the way it took.
NEAR = bench.NEAR
# Small, and with layers of every kind.
NAME = "shufflenet_v2_x0_5"


@pytest.fixture(scope="module", autouse=True)
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Random weights of a network where a hub would have left them."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        value = models.get_model_weights(NAME).DEFAULT.value
        patch.setenv("TORCH_HOME", str(home))
        patch.setattr(value, "url", value.url)
        bench.save_weights(NAME, home)
        # Networks this small wait for their threads longer than they compute.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


def on_processor() -> Any:
    """The model as it is without a card, with all bits."""
    model = embed.load(NAME, offline=True, device="cpu")
    model.settle(Device("cpu", torch.float32))
    return model


def boarded(card: Card | None = None, *, asked: bool = False) -> Any:
    """The model with the processor in a card's place."""
    model = embed.load(NAME, offline=True, device="cpu")
    model.device = Device("cpu", torch.float32, asked)
    model.board(card or bench.Processor(torch))
    return model


def photo(seed: int, tall: int = 300, wide: int = 400) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((wide, tall), Image.Resampling.BICUBIC))


def saved(rgb: Any, kind: str = "JPEG", **options: Any) -> bytes:
    written = io.BytesIO()
    (Image.fromarray(rgb) if isinstance(rgb, np.ndarray) else rgb).save(written, kind, **options)
    return written.getvalue()


def pixels_of(tensor: Any) -> Any:
    """What Pillow makes of a JPEG's bytes, as a card's decoder would give it."""
    return torch.from_numpy(embed.decode(bytes(tensor.numpy())).rgb.transpose(2, 0, 1).copy())


def turned(turn: int) -> Any:
    exif = Image.Exif()
    exif[0x0112] = turn
    return exif


def apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return 1 - (one.astype(np.float64) * other.astype(np.float64)).sum(axis=1)


# -- cutting

SHAPES = [
    (300, 400),
    (400, 300),
    (224, 224),
    (256, 256),
    (60, 80),
    (1000, 260),
    (257, 1900),
    (1536, 2048),
    (3, 5),
]


@pytest.mark.parametrize("name", [NAME, "vit_b_16", "efficientnet_b0", "convnext_tiny", "swin_t"])
def test_what_a_card_cuts_is_what_the_weights_transforms_cut(name: str) -> None:
    """A level of 255 at most, of few pixels: against the transforms on Pillow's pictures, as vectors without a card are made."""
    preset = models.get_model_weights(name).DEFAULT.transforms()
    change = importlib.import_module("torchvision.transforms.functional")
    cut = network.Cut.of(preset.resize_size, preset.crop_size, preset.interpolation.value)
    assert cut is not None
    for shape in SHAPES:
        rgb = (
            photo(7, *shape)
            if min(shape) > 9
            else np.random.default_rng(1).integers(0, 256, (*shape, 3)).astype(np.uint8)
        )
        grainy = np.clip(
            rgb.astype(int) + np.random.default_rng(2).integers(-40, 41, rgb.shape), 0, 255
        ).astype(np.uint8)
        image = Image.fromarray(grainy)
        resized = change.resize(image, preset.resize_size, interpolation=preset.interpolation)
        tall, wide = cut.sides(*shape)
        assert (tall, wide) == (resized.height, resized.width)
        pixels = torch.from_numpy(grainy).permute(2, 0, 1)[None]
        found = cut(torch, pixels)[0].permute(1, 2, 0).numpy()

        def away(whole: Any, found: np.ndarray = found) -> np.ndarray:
            return np.abs(found - np.asarray(change.center_crop(whole, preset.crop_size)).astype(int))

        # Pillow's two passes one by one, which is what it does itself unless a picture is tall.
        way = Image.Resampling[preset.interpolation.name]
        passed = away(image.resize((wide, shape[0]), way).resize((wide, tall), way))
        assert passed.max() <= 1, shape
        assert (passed > 0).mean() <= 0.02, shape
        # New versions go down first in tall ones: other pixels fall between two levels, and other bright ones are cut off.
        assert away(resized).mean() <= (0.35 if shape[0] > 2 * shape[1] else 0.02), shape
        assert away(resized).max() <= (8 if shape[0] > 2 * shape[1] else 1), shape
        # Normalised as the transforms do it.
        whole = preset(Image.fromarray(grainy))
        mean, deviation = (torch.tensor(numbers)[:, None, None] for numbers in (preset.mean, preset.std))
        seen = (cut(torch, pixels)[0] / 255 - mean) / deviation
        assert (seen - whole).abs().mean() <= 0.35 / 255 / min(preset.std), shape


def test_sizes_before_the_crop_are_torchvisions() -> None:
    resize = importlib.import_module("torchvision.transforms.functional")
    random = np.random.default_rng(0)
    for tall, wide in random.integers(1, 5000, (300, 2)).tolist():
        expected = resize._compute_resized_output_size((tall, wide), [232])
        assert list(network.Cut(232, (224, 224), "bilinear").sides(tall, wide)) == expected
    assert network.Cut((30, 20), (30, 20), "bicubic").sides(7, 900) == (30, 20)
    assert network.Cut.of([256], [224], "nearest") is None
    assert network.Cut.of([200], [224], "bilinear") is None


def test_pictures_of_one_size_are_cut_as_each_alone() -> None:
    cut = network.Cut(64, (56, 56), "bilinear")
    pixels = torch.from_numpy(np.stack([photo(seed, 90, 120) for seed in range(3)])).permute(0, 3, 1, 2)
    together = cut(torch, pixels)
    assert together.shape == (3, 3, 56, 56)
    for place in range(3):
        assert (cut(torch, pixels[place : place + 1])[0] - together[place]).abs().max() <= 1


# -- JPEGs


def decoder() -> Any:
    found = embed_jpegs().decoder(torch, bench.Processor(torch))
    if found is None:
        pytest.skip("torchvision was built without its decoders")
    return found


def embed_jpegs() -> Any:
    return importlib.import_module("vecstore.embed.jpegs")


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}])
def test_jpegs_are_decoded_upright(turn: int, options: dict[str, Any]) -> None:
    data = saved(photo(turn, 96, 128), quality=90, exif=turned(turn), **options)
    jpeg = embed_jpegs().taken(data, 10**8)
    expected = embed.decode(data).rgb
    assert jpeg.shape == expected.shape[:2]
    [pixels] = decoder()([jpeg])
    away = np.abs(pixels.permute(1, 2, 0).numpy().astype(int) - expected)
    assert away.mean() < 1


def test_what_a_card_might_read_differently_is_left_to_pillow() -> None:
    take = embed_jpegs().taken
    rgb = photo(1, 96, 128)
    whole = saved(rgb, quality=90)
    assert take(whole, 10**8).shape == (96, 128)
    assert take(saved(Image.fromarray(rgb).convert("L")), 10**8).shape == (96, 128)
    assert take(whole, 96 * 128 - 1) is None
    assert take(saved(Image.fromarray(rgb).convert("CMYK")), 10**8) is None
    assert take(saved(rgb, "PNG"), 10**8) is None
    assert take(b"", 10**8) is None
    for end in range(2, len(whole) - 2, 7):
        assert take(whole[:end], 10**8) is None
    # An orientation that only XMP tells of, one that is none, and colours that were not converted.
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="6"/></x:xmpmeta>'
    assert take(saved(rgb, xmp=xmp), 10**8) is None
    assert take(saved(rgb, exif=turned(77)), 10**8) is None
    adobe = whole[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00" + whole[2:]
    assert take(adobe, 10**8) is None


def test_damaged_headers_do_no_harm() -> None:
    random = np.random.default_rng(5)
    whole = np.frombuffer(saved(photo(1, 64, 96), quality=80, exif=turned(5)), np.uint8)
    kept = 0
    for _ in range(1500):
        damaged = whole.copy()
        damaged[random.integers(0, 700, 3)] = random.integers(0, 256, 3)
        jpeg = embed_jpegs().taken(damaged.tobytes(), 10**6)
        kept += jpeg is not None
        if jpeg is not None:
            assert 0 < jpeg.shape[0] * jpeg.shape[1] <= 10**6
    assert 0 < kept < 1500


def test_one_that_the_card_cannot_read_costs_no_other() -> None:
    jpegs = embed_jpegs()
    datas = [saved(photo(seed, 64, 96), quality=90) for seed in range(7)]
    taken = [jpegs.taken(data, 10**8) for data in datas]
    calls = []

    def run(tensors: list[Any]) -> list[Any]:
        calls.append(len(tensors))
        if any(bytes(tensor.numpy()) == datas[4] for tensor in tensors):
            raise RuntimeError("nvjpegDecode failed: 2")
        return [pixels_of(tensor) for tensor in tensors]

    found = jpegs.Decoder("test", torch, run, upright=True, card=bench.Processor(torch))(taken)
    assert [isinstance(one, np.ndarray) for one in found] == [place == 4 for place in range(7)]
    np.testing.assert_array_equal(found[4], embed.decode(datas[4]).rgb)
    assert len(calls) <= 7

    def full(tensors: list[Any]) -> list[Any]:
        raise RuntimeError("nvjpegDecode failed: 5")

    with pytest.raises(RuntimeError, match="5"):
        jpegs.Decoder("test", torch, full, upright=True, card=bench.Processor(torch))(taken)


def test_a_decoder_must_prove_itself() -> None:
    jpegs = embed_jpegs()

    def made(run: Callable[[list[Any]], list[Any]], *, upright: bool = True) -> bool:
        return bool(
            jpegs.Decoder("test", torch, run, upright=upright, card=bench.Processor(torch)).proves_itself()
        )

    def right(tensors: list[Any]) -> list[Any]:
        return [pixels_of(tensor) for tensor in tensors]

    assert made(right)
    assert not made(right, upright=False)  # turned twice
    assert not made(lambda tensors: [255 - pixels for pixels in right(tensors)])
    assert not made(lambda tensors: [pixels.flip(2) for pixels in right(tensors)])

    def broken(tensors: list[Any]) -> list[Any]:
        raise RuntimeError("decode_jpegs_cuda: torchvision not compiled with nvJPEG support")

    assert not made(broken)


def test_torchcodec_is_taken_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def decode_jpeg(tensors: list[Any], **options: Any) -> list[Any]:
        asked.update(options)
        return [pixels_of(tensor) for tensor in tensors]

    there = types.ModuleType("torchcodec.decoders")
    there.decode_jpeg = decode_jpeg  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchcodec", types.ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", there)
    assert decoder().name == "torchcodec"
    assert asked == {"mode": "RGB", "device": "cpu"}
    monkeypatch.delattr(there, "decode_jpeg")  # one that is older than its image decoders
    assert decoder().name == "torchvision"


# -- the network


@pytest.mark.parametrize("name", [NAME, "resnet18", "densenet121", "mobilenet_v3_small", "googlenet"])
def test_folding_changes_nothing_but_the_last_bits(name: str) -> None:
    torch.manual_seed(3)
    options = (
        {"init_weights": False, "aux_logits": False, "transform_input": True} if name == "googlenet" else {}
    )
    whole = models.get_model(name, weights=None, **options).eval()
    for layer in whole.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    seen = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        expected, found = whole(seen), folded(torch, whole)(seen)
    assert (expected - found).abs().max() <= 1e-4 * max(1.0, float(expected.abs().max()))


def test_folding_leaves_few_layers_behind() -> None:
    def norms(network: Any) -> int:
        return sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in network.modules())

    whole = models.resnet18(weights=None).eval()
    assert norms(whole) == 20
    light = folded(torch, whole)
    assert norms(light) == 0
    assert norms(whole) == 20

    plain = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1))
    assert folded(torch, plain) is plain

    class Decides(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.BatchNorm2d(3)

        def forward(self, seen: Any) -> Any:
            return seen if seen.sum() > 0 else -seen

    deciding = Decides()
    assert folded(torch, deciding) is deciding


def test_vectors_of_a_card_and_of_the_processor_are_found_together(tmp_path: Path, path: str) -> None:
    """Files of every kind by both ways; the distance is a small part of that between two pictures."""
    folder = tmp_path / "in"
    folder.mkdir()
    for seed in range(6):
        (folder / f"{seed}.jpg").write_bytes(saved(photo(seed, 375, 500), quality=88, exif=turned(1 + seed)))
    (folder / "large.jpg").write_bytes(saved(photo(6, 1800, 2400), quality=85))
    (folder / "progressive.jpg").write_bytes(saved(photo(7), progressive=True))
    (folder / "grey.jpg").write_bytes(saved(Image.fromarray(photo(8)).convert("L")))
    (folder / "four.jpg").write_bytes(saved(Image.fromarray(photo(9)).convert("CMYK")))
    (folder / "picture.png").write_bytes(saved(photo(10, 310, 250), "PNG"))
    (folder / "misnamed.jpg").write_bytes(saved(photo(11), "PNG"))
    paths = sorted(folder.iterdir())
    here, model = on_processor(), boarded()
    assert model.flight.decoder is not None
    assert model.fingerprint == here.fingerprint
    expected, found = here.images(paths), model.images(paths)
    usual = np.median(apart(expected, np.roll(expected, 1, axis=0)))
    assert apart(expected, found).max() <= NEAR * usual
    # One alone is as it is among others.
    np.testing.assert_allclose(model.images([paths[3]])[0], found[3], atol=1e-5)
    report = embed.index_folder(folder, path, model)
    assert (report.added, report.failed) == (len(paths), 0)
    embed.index_folder(folder, path + "2.vec", here)
    with vecstore.open(path, mode="r") as one, vecstore.open(path + "2.vec", mode="r") as other:
        for record in one:
            facts, same = (dict(each.metadata) for each in (record, other[record.id]))
            for facts_of_hashes in ("perceptual", "difference", "mirrored_perceptual", "mirrored_difference"):
                assert (
                    embed.differing_bits(
                        int(facts.pop(facts_of_hashes), 16), int(same.pop(facts_of_hashes), 16)
                    )
                    <= 4
                )
            assert facts == same
    for place, each in enumerate(paths):
        hits = embed.search(path, image=each, k=1, model=here, mirror=False)
        assert hits.ids == [str(each)]
        assert hits.distances[0] <= NEAR * usual, paths[place].name


def test_colours_that_a_decoder_spreads_in_another_way_move_vectors_little() -> None:
    """Decoders on cards repeat colours where libjpeg interpolates them: the largest difference there is between the two."""
    cut = network.Cut(256, (224, 224), "bilinear")
    torch.manual_seed(0)
    whole = models.resnet18(weights=None).eval()
    whole.fc = torch.nn.Identity()
    rows = []
    for seed in range(5):
        blocks = (
            np.random.default_rng(seed).integers(0, 256, (24, 32, 3)).repeat(16, 0).repeat(16, 1)[:375, :500]
        )
        picture = Image.fromarray(
            np.clip(photo(seed, 375, 500) * 0.6 + blocks * 0.4, 0, 255).astype(np.uint8)
        )
        light, blue, red = (
            Image.open(io.BytesIO(saved(picture, quality=90, subsampling=2))).convert("YCbCr").split()
        )
        halves = [plane.resize((250, 188), Image.Resampling.BOX) for plane in (blue, red)]
        sides = [
            [half.resize((500, 376), way).crop((0, 0, 500, 375)) for half in halves]
            for way in (Image.Resampling.BILINEAR, Image.Resampling.NEAREST)
        ]
        pixels = np.stack([np.asarray(Image.merge("YCbCr", [light, *each]).convert("RGB")) for each in sides])
        assert (pixels[0] != pixels[1]).mean() > 0.05
        with torch.inference_mode():
            rows.append(whole(cut(torch, torch.from_numpy(pixels).permute(0, 3, 1, 2)) / 128 - 1).numpy())
    spread, repeated = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in np.stack(rows, axis=1))
    usual = np.median(apart(spread, np.roll(spread, 1, axis=0)))
    assert apart(spread, repeated).max() <= NEAR * usual


# -- a card that is full, lost, shared


class Recording(bench.Processor):  # type: ignore[misc,name-defined]
    """Writes down what was asked of it, in order."""

    def __init__(self, torch: Any) -> None:
        super().__init__(torch)
        self.done: list[str] = []

    def beside(self) -> Any:
        self.done.append("beside")
        return super().beside()

    def pinned(self, shape: Any, dtype: Any) -> Any:
        self.done.append("pinned")
        return super().pinned(shape, dtype)

    def follow(self, tensor: Any) -> None:
        assert tensor.is_contiguous(memory_format=torch.channels_last)
        self.done.append("follow")

    def mark(self) -> Any:
        self.done.append("mark")
        return super().mark()

    def synchronize(self) -> None:
        self.done.append("landed")

    def clear(self) -> None:
        self.done.append("clear")


def test_a_batch_is_sent_before_the_one_before_it_has_landed() -> None:
    card = Recording(torch)
    model = boarded(card)
    model.batch = model.flight.batch = 3
    card.done.clear()
    model.images([photo(seed, 240, 240) for seed in range(9)])
    one = ["beside", "pinned", "follow", "pinned", "mark"]
    assert card.done == [*one, *one, "landed", *one, "landed", "landed"]


def test_batches_are_halved_where_there_is_no_room() -> None:
    card = Recording(torch)
    model = boarded(card)
    model.batch = model.flight.batch = 8
    through = model.flight.through
    seen = []

    def limited(batch: Any) -> Any:
        seen.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return through(batch)

    model.flight.through = model.flight._plain = limited
    pictures = [photo(seed, 240 + seed, 260) for seed in range(9)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = model.images(pictures)
    assert seen == [8, 4, 2, 2, 2, 2, 1]
    assert model.batch == 2
    assert card.done.count("clear") == 2
    np.testing.assert_allclose(found, boarded().images(pictures), atol=1e-5)


def test_a_card_without_any_room_is_left_with_one_warning() -> None:
    model = boarded()

    def never(batch: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model.flight.through = model.flight._plain = never
    jpegs = [saved(photo(seed)) for seed in range(5)]
    with pytest.warns(
        RuntimeWarning, match=rf"{NAME!r}, the processor goes on with it: CUDA out of memory"
    ) as told:
        found = model.images([*jpegs, photo(8)])
    assert len(told) == 1
    assert model.flight is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(found, model.images([*jpegs, photo(8)]))
    expected = embed.load(NAME, offline=True, device="cpu").images([*jpegs, photo(8)])
    np.testing.assert_array_equal(found, expected)
    strict = boarded(asked=True)
    strict.flight.through = strict.flight._plain = never
    with pytest.raises(vecstore.DeviceError, match=rf"cannot compute {NAME!r}.*'cuda' was asked for"):
        strict.images(jpegs)


class Lost(bench.Processor):  # type: ignore[misc,name-defined]
    """Falls off the bus behind so many batches: an error that comes when results are waited for, and with all that follows."""

    def __init__(self, torch: Any, after: int) -> None:
        super().__init__(torch)
        self.left = after

    def synchronize(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("CUDA error: unspecified launch failure")

    def pinned(self, shape: Any, dtype: Any) -> Any:
        if self.left < 0:
            raise RuntimeError("CUDA error: unspecified launch failure")
        return super().pinned(shape, dtype)


def test_a_card_that_is_lost_in_a_run_stops_nothing(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for seed in range(16):
        (folder / f"{seed:02}.jpg").write_bytes(saved(photo(seed, 260, 300)))
    model = boarded(Lost(torch, 2))
    model.batch = model.flight.batch = 4
    with pytest.warns(RuntimeWarning, match="unspecified launch failure") as told:
        report = embed.index_folder(folder, path, model)
    assert len(told) == 1
    assert (report.added, report.failed) == (16, 0)
    with vecstore.open(path, mode="r") as collection:
        assert collection.verify().ok
    here = on_processor()
    for seed in (0, 6, 9, 15):
        assert embed.search(path, image=folder / f"{seed:02}.jpg", k=1, model=here).ids == [
            str(folder / f"{seed:02}.jpg")
        ]
    strict = boarded(Lost(torch, 2), asked=True)
    strict.batch = strict.flight.batch = 4
    with pytest.raises(vecstore.DeviceError, match="unspecified launch failure"):
        embed.index_folder(folder, path + "2.vec", strict)
    with vecstore.open(path + "2.vec", mode="r") as collection:
        assert collection.verify().ok


def test_a_network_that_finds_no_room_at_all_is_made_on_the_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none(torch: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(network, "Card", none)
    monkeypatch.setattr(
        "vecstore.embed.classifier.device", lambda torch, on: Device("cuda", torch.float16, on == "cuda")
    )
    with pytest.warns(RuntimeWarning, match="the processor goes on"):
        model = embed.load(NAME, offline=True)
    assert model.images([photo(1)]).shape == (1, 1024)
    with pytest.raises(vecstore.DeviceError, match="free its memory"):
        embed.load(NAME, offline=True, device="cuda")


class Room(bench.Processor):  # type: ignore[misc,name-defined]
    def __init__(self, torch: Any, room: int, each: int) -> None:
        super().__init__(torch)
        self.free, self.each = room, each

    def room(self) -> int:
        return self.free

    def taken_by(self, run: Callable[[], Any]) -> int:
        assert run().dtype == torch.float32
        return 8 * self.each


def flight(card: Any, **options: Any) -> Flight:
    settings: dict[str, Any] = {"cut": network.Cut(8, (8, 8), "bilinear"), "crop": (8, 8), "mean": [0, 0, 0]}
    settings |= {"deviation": [1, 1, 1], "dtype": torch.float32}
    return Flight(card, lambda seen: seen.mean(dim=(2, 3)), **(settings | options))


@pytest.mark.parametrize(
    ("free", "each", "batch"),
    [(80 << 30, 30 << 20, 256), (1 << 30, 30 << 20, 16), (200 << 20, 90 << 20, 1), (1, 1 << 30, 1)],
)
def test_a_batch_is_what_half_of_the_free_memory_holds(free: int, each: int, batch: int) -> None:
    assert flight(Room(torch, free, each)).batch == batch


def test_pictures_of_any_size_go_through_in_order_and_within_their_room() -> None:
    """Rows come back in the order of the pictures, whatever was put beside what."""
    random = np.random.default_rng(0)
    shapes = [(8, 8), (30, 20), (20, 30), (8, 8), (100, 9), (30, 20), (16, 16)] * 3
    colours = random.integers(0, 256, (len(shapes), 3))
    pictures = [
        Whole(np.broadcast_to(colour, (*shape, 3)).astype(np.uint8))
        for shape, colour in zip(shapes, colours, strict=True)
    ]
    pictures[5] = Whole(np.broadcast_to(colours[5], (8, 8, 3)).astype(np.uint8), ready=True)
    for room in (1, 32 * 2000, 1 << 30):
        found = flight(Room(torch, room, 1)).start(pictures)()
        np.testing.assert_allclose(found * 255, colours, atol=0.01)
    assert flight(Room(torch, 1, 1)).batch == 1


def test_without_a_cut_of_its_own_a_card_gets_what_pillow_cut() -> None:
    model, here = boarded(), on_processor()
    model.cutting = None
    model.board(bench.Processor(torch))
    assert model.flight.decoder is None
    assert model.undecoded(saved(photo(1)), 10**8) is None
    pictures = [photo(1), photo(2, 500, 280)]
    np.testing.assert_allclose(model.images(pictures), here.images(pictures), atol=1e-5)


# -- compiled, where that is quicker


def test_a_compiled_network_is_used_where_it_is_quicker() -> None:
    import time

    made = flight(Room(torch, 1 << 20, 1 << 16))
    sizes: list[int] = []

    def slow(seen: Any) -> Any:
        time.sleep(0.02)
        return seen.mean(dim=(2, 3))

    def quick(seen: Any) -> Any:
        sizes.append(len(seen))
        return seen.mean(dim=(2, 3))

    def broken(seen: Any) -> Any:
        raise ImportError("no working C compiler")

    plain = made.through
    assert not made.quicken(slow)
    assert not made.quicken(broken)
    assert made.through is plain
    made.through = made._plain = slow
    assert made.quicken(quick)
    sizes.clear()
    pictures = [Whole(np.full((9, 9, 3), value, np.uint8)) for value in range(made.batch + 3)]
    found = made.start(pictures)()
    # It was compiled for one size: the last batch is filled up, and what fills it is no answer.
    assert sizes == [made.batch, made.batch]
    np.testing.assert_allclose(found[:, 0] * 255, np.arange(made.batch + 3), atol=0.01)


# -- what torch says of cards


def torch_with(there: bool, says: str | None = None) -> Any:
    def is_available() -> bool:
        if says:
            warnings.warn(says, UserWarning, stacklevel=1)
        return there

    cuda = types.SimpleNamespace(is_available=is_available)
    return types.SimpleNamespace(cuda=cuda, cpu=torch.cpu, float16=torch.float16, bfloat16=1, float32=2)


def test_a_driver_that_is_too_old_is_told_once() -> None:
    old = "CUDA initialization: The NVIDIA driver on your system is too old\n(found version 11040)"
    with pytest.raises(vecstore.DeviceError, match=r"no CUDA GPU \(CUDA initialization: .*too old \(found"):
        devices.device(torch_with(False, old), "cuda")
    with pytest.warns(RuntimeWarning, match="the graphics card is not used.*too old") as told:
        assert devices.device(torch_with(False, old)).name == "cpu"
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert devices.device(torch_with(False)).name == "cpu"
        assert devices.device(torch_with(False, old), "cpu").name == "cpu"
        assert devices.device(torch_with(True)) == Device("cuda", torch.float16)
        assert devices.device(torch_with(True), "cuda").asked


def test_a_card_is_asked_what_is_free_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VECSTORE_CUDA_MEMORY", raising=False)
    cuda = types.SimpleNamespace(
        Stream=object,
        mem_get_info=lambda: (6 * 10**9, 8 * 10**9),
        memory_reserved=lambda: 10**9,
        memory_allocated=lambda: 4 * 10**8,
    )
    card = Card(types.SimpleNamespace(cuda=cuda))
    assert card.room() == 66 * 10**8
    for text, room in (("2GB", 16 * 10**8), ("0.3 gb", 0), ("2 GiB", (2 << 30) - 4 * 10**8), ("9000000000", 66 * 10**8)):
        monkeypatch.setenv("VECSTORE_CUDA_MEMORY", text)
        assert card.room() == room
    monkeypatch.setenv("VECSTORE_CUDA_MEMORY", "plenty")
    with pytest.raises(vecstore.InvalidArgumentError, match="VECSTORE_CUDA_MEMORY must be a size"):
        card.room()


def test_only_what_says_so_is_full() -> None:
    card = bench.Processor(torch)
    assert card.is_full(torch.OutOfMemoryError("anything"))
    assert card.is_full(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    assert not card.is_full(RuntimeError("CUDA error: unspecified launch failure"))


# -- the benchmark


def test_the_benchmark_runs_without_a_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    value = models.get_model_weights(NAME).DEFAULT.value
    monkeypatch.setattr(value, "url", value.url)
    monkeypatch.setattr(bench, "DATA", tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert bench.main(["--cpu", NAME]) == 0
    told = capsys.readouterr().out
    assert "no figures of a card" in told
    assert f"| {NAME} |" in told
    if not torch.cuda.is_available():
        assert bench.main([]) == 0
        assert "nothing was measured" in capsys.readouterr().out
    row = {"name": "resnet50", "rates": {"compute": 7000.0}, "share": 0.7, "slowest": "decode", "apart": 0.5}
    assert len(bench.verdicts(row)) == 3
    assert not bench.verdicts(row | {"rates": {"compute": 9000.0}, "share": 0.9, "apart": 0.001})


def test_a_picture_sent_is_the_one_that_was_prepared() -> None:
    model = boarded()
    data = saved(photo(3))
    sent = model.undecoded(data, 10**8)
    assert isinstance(sent, Jpeg)
    assert sent.nbytes == len(data)
    assert isinstance(model.prepare(photo(3)), Whole)
    assert model.undecoded(saved(photo(3, 255, 400)), 10**8) is None  # it has to grow
    huge = np.zeros((5001, 5001, 3), np.uint8)
    cut = model.prepare(huge)
    assert (cut.ready, cut.shape) == (True, (224, 224))


# -- asked for by name


def test_a_device_is_asked_for_by_name(tmp_path: Path, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(saved(photo(1)))
    arguments = ["index", str(tmp_path / "in"), path, "--offline"]
    with pytest.raises(vecstore.DeviceError, match="auto, cpu, cuda"):
        embed.load("classic", device="gpu")
    assert main([*arguments, "--device", "cuda"]) == 1
    assert "'classic' runs on the processor alone" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert main([*arguments, "--model", NAME, "--device", "cuda"]) == 1
        assert "torch finds no CUDA GPU" in capsys.readouterr().err
    assert main([*arguments, "--model", NAME, "--device", "cpu"]) == 0


def test_a_warning_is_one_line_on_the_command_line() -> None:
    code = (
        "import warnings, vecstore.cli.pictures as pictures\n"
        "from vecstore.cli import main\n"
        "pictures.errors = lambda options: warnings.warn('the card is full', RuntimeWarning) or 0\n"
        "raise SystemExit(main(['errors', 'x.vec']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "vecstore: the card is full\n")
