"""Networks as models. Their weights are made here and saved as a hub would have left them; nothing is fetched."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import warnings
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
from vecstore.embed.classifier import without_head  # noqa: E402
from vecstore.embed.devices import multiplies_bfloat16  # noqa: E402

# What bfloat16 on the processor may change; float32 changes nothing that counts.
NEAR = 2e-2 if multiplies_bfloat16(torch) else 1e-4


def random_network(name: str) -> Any:
    torch.manual_seed(5)
    options = {"image_size": 224} if name.startswith("vit_") else {}
    if name in ("googlenet", "inception_v3"):
        options = {"transform_input": True, "init_weights": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return models.get_model(name, weights=None, **options).eval()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Saves a random network in the hub's cache, and has the registry name that file."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("VECSTORE_OFFLINE", raising=False)
    folder = tmp_path / "home" / "hub" / "checkpoints"

    def save(name: str, change: Any = None) -> tuple[Any, Path]:
        network = random_network(name)
        folder.mkdir(parents=True, exist_ok=True)
        state = network.state_dict()
        torch.save(change(state) if change else state, folder / "new.pth")
        digest = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()
        path = folder / f"{name}-{digest[:8]}.pth"
        (folder / "new.pth").rename(path)
        value = models.get_model_weights(name).DEFAULT.value
        monkeypatch.setattr(value, "url", f"https://download.pytorch.org/models/{path.name}")
        return network, path

    return save


def photo(seed: int, height: int = 300, width: int = 400) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height)))


def unit(rows: Any) -> np.ndarray:
    rows = np.asarray(rows, dtype=np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


# One of each way in which torchvision writes its classifiers.
FAMILIES = (
    *(
        "alexnet",
        "convnext_tiny",
        "densenet121",
        "efficientnet_b0",
        "googlenet",
        "inception_v3",
        "mnasnet0_5",
    ),
    *(
        "mobilenet_v3_small",
        "regnet_y_400mf",
        "resnet18",
        "shufflenet_v2_x0_5",
        "squeezenet1_1",
        "swin_t",
        "vit_b_16",
    ),
)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_the_last_layer_would_have_been_given(name: str, hub: Any) -> None:
    """The part before the last layer, and that layer behind it, are the whole network again."""
    network, _ = hub(name)
    model = embed.load(name, offline=True)
    assert model.fingerprint.startswith(f"{name} weights=")
    pictures = [photo(1), photo(2, 500, 280)]
    vectors = model.images(pictures)
    assert vectors.shape == (2, model.dim)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    with torch.inference_mode():
        transform = models.get_model_weights(name).DEFAULT.transforms()
        seen = torch.stack([transform(Image.fromarray(picture)) for picture in pictures])
        kept: list[Any] = []
        if name == "squeezenet1_1":
            network.classifier[1] = torch.nn.Identity()
            kept.append(network(seen))
        else:
            linear = [layer for layer in network.modules() if isinstance(layer, torch.nn.Linear)][-1]
            linear.register_forward_hook(lambda layer, inputs, output: kept.append(inputs[0]))
            network(seen)
    np.testing.assert_allclose(vectors, unit(kept[0].numpy()), atol=NEAR)


def test_every_classifier_of_the_registry_has_a_last_layer() -> None:
    names = models.list_models(module=models)
    assert len(names) >= 80
    for name in names:
        if name.startswith("regnet"):  # These compute while they are made, and are large.
            continue
        options = {"image_size": 224} if name.startswith("vit_") else {}
        if name in ("googlenet", "inception_v3"):
            options = {"init_weights": False, "aux_logits": False}
        with torch.device("meta"):
            network = models.get_model(name, weights=None, **options).eval()
            _, dim = without_head(torch, network)
            with torch.inference_mode():
                assert network(torch.empty(2, 3, 224, 224)).shape == (2, dim), name


def test_vectors_do_not_depend_on_the_batch_or_the_run(hub: Any) -> None:
    hub("resnet18")
    model = embed.load("resnet18", offline=True)
    pictures = [photo(seed) for seed in range(9)]
    model.batch = 4
    in_fours = model.images(pictures)
    np.testing.assert_array_equal(in_fours, model.images(pictures))
    alone = np.concatenate([model.images([picture]) for picture in pictures])
    np.testing.assert_allclose(alone, in_fours, atol=NEAR / 4)
    assert model.images([]).shape == (0, 512)
    again = embed.load("resnet18", offline=True)
    assert again.fingerprint == model.fingerprint


def test_densenets_old_names_are_understood(hub: Any) -> None:
    def old(state: dict[str, Any]) -> dict[str, Any]:
        return {
            key.replace("norm1.", "norm.1.")
            .replace("norm2.", "norm.2.")
            .replace("conv1.", "conv.1.")
            .replace("conv2.", "conv.2.")
            if "denselayer" in key
            else key: tensor
            for key, tensor in state.items()
            if not key.endswith("num_batches_tracked")
        }

    hub("densenet121", old)
    assert embed.load("densenet121", offline=True).dim == 1024


def test_a_file_of_weights(hub: Any, tmp_path: Path) -> None:
    """Weights of one's own: another number of classes, and names as training in parallel writes them."""
    network = random_network("resnet18")
    network.fc = torch.nn.Linear(512, 7)
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in network.state_dict().items()}},
        tmp_path / "own.pt",
    )
    own = embed.load("resnet18", weights=tmp_path / "own.pt", offline=True)
    hub("resnet18")
    pictures = [photo(1)]
    np.testing.assert_array_equal(own.images(pictures), embed.load("resnet18").images(pictures))
    assert own.fingerprint != embed.load("resnet18").fingerprint
    torch.save(random_network("alexnet").state_dict(), tmp_path / "alexnet.pt")
    with pytest.raises(embed.ModelError, match=r"alexnet\.pt holds no weights of 'resnet18': it lacks"):
        embed.load("resnet18", weights=tmp_path / "alexnet.pt")
    with pytest.raises(embed.ModelError, match=r"no-such\.pt cannot be read"):
        embed.load("resnet18", weights="no-such.pt")
    with pytest.raises(embed.ModelError, match="takes no file"):
        embed.load("classic", weights=tmp_path / "own.pt")


class Harm:
    def __reduce__(self) -> Any:
        return print, ("code from a file of weights ran",)


def test_what_is_no_weights_is_refused_and_never_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"conv1.weight": Harm()}, tmp_path / "harm.pth")
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "empty.pth").touch()
    torch.save([1, 2], tmp_path / "list.pth")
    for name in ("harm", "text", "empty", "list"):
        with pytest.raises(embed.ModelError, match=f"{name}.pth"):
            embed.load("resnet18", weights=tmp_path / f"{name}.pth")
    assert "ran" not in capsys.readouterr().out


def test_the_hub_names_the_file_that_is_wanted(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, path = hub("mobilenet_v3_small")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(embed.ModelError, match=f"{path.name} is damaged"):
        embed.load("mobilenet_v3_small", offline=True)
    path.unlink()
    with pytest.raises(embed.ModelError, match=f"{path}.*offline.*https://.*--weights FILE"):
        embed.load("mobilenet_v3_small", offline=True)
    monkeypatch.setenv("VECSTORE_OFFLINE", "1")
    with pytest.raises(embed.ModelError, match="offline"):
        embed.load("mobilenet_v3_small")
    monkeypatch.setenv("VECSTORE_OFFLINE", "0")
    value = models.get_model_weights("mobilenet_v3_small").DEFAULT.value
    # A hub that is reached: fetched into the cache, and checked.
    (path.parent / "hub").mkdir()
    (path.parent / "hub" / path.name).write_bytes(whole)
    monkeypatch.setattr(value, "url", (path.parent / "hub" / path.name).as_uri())
    assert embed.load("mobilenet_v3_small").dim == 1024
    assert path.read_bytes() == whole
    path.unlink()
    (path.parent / "hub" / path.name).write_bytes(whole[:-1])
    with pytest.raises(embed.ModelError, match=r"cannot be fetched.*hash"):
        embed.load("mobilenet_v3_small")
    assert not path.exists()


def test_a_collection_made_by_a_network_is_asked_with_it(
    hub: Any, tmp_path: Path, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hub("resnet18")
    _, wanted = hub("mobilenet_v3_small")
    (tmp_path / "in").mkdir()
    for seed in range(5):
        Image.fromarray(photo(seed)).save(tmp_path / "in" / f"{seed}.png")
    assert main(["index", str(tmp_path / "in"), path, "--model", "resnet18", "--offline", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["added"] == 5
    hits = embed.search(path, image=tmp_path / "in" / "3.png", k=2)
    assert Path(str(hits.ids[0])).name == "3.png"
    assert hits.distances[0] < NEAR
    with vecstore.open(path, mode="r") as collection:
        assert collection.dim == 512
    with pytest.raises(
        embed.ModelError, match=r"made with the model 'resnet18 weights=.*'mobilenet_v3_small weights="
    ):
        embed.search(path, image=tmp_path / "in" / "3.png", model="mobilenet_v3_small")
    wanted.unlink()
    assert main(["index", str(tmp_path / "in"), path, "--model", "mobilenet_v3_small", "--offline"]) == 1
    assert str(wanted) in capsys.readouterr().err


def test_own_weights_on_the_command_line(
    hub: Any, tmp_path: Path, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, wanted = hub("resnet18")
    weights = tmp_path / "own.pt"
    wanted.rename(weights)
    (tmp_path / "in").mkdir()
    for seed in range(4):
        Image.fromarray(photo(seed)).save(tmp_path / "in" / f"{seed}.png")
    query = str(tmp_path / "in" / "2.png")
    assert main(["index", str(tmp_path / "in"), path, "--model", "resnet18", "--weights", str(weights)]) == 0
    capsys.readouterr()
    assert main(["search", path, query, "--model-weights", str(weights), "-k", "1", "--paths"]) == 0
    assert capsys.readouterr().out == query + "\n"
    assert main(["search", path, query, "--offline"]) == 1
    assert str(wanted) in capsys.readouterr().err


def test_devices() -> None:
    with pytest.raises(vecstore.DeviceError, match="auto, cpu, cuda"):
        embed.load("resnet18", device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(vecstore.DeviceError, match="no CUDA GPU"):
            embed.load("resnet18", device="cuda")


def test_names_that_are_near_are_guessed() -> None:
    with pytest.raises(
        embed.ModelError, match=r"no model 'resnet51'; there is: classic, .* Did you mean resnet50"
    ):
        embed.load("resnet51")


def test_without_torch_the_extra_is_named() -> None:
    code = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['torchvision'] = sys.modules['open_clip'] = None\n"
        "from vecstore import embed\n"
        "for name in ('resnet50', 'clip:ViT-B-32'):\n"
        "    try: embed.load(name)\n"
        "    except embed.ModelError as error: print(error)\n"
    )
    told = subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()
    assert "pip install 'vecstore-db[torch]'" in told[0]
    assert "pip install 'vecstore-db[clip]'" in told[1]


# -- other versions of the libraries


@pytest.fixture
def indexed(hub: Any, tmp_path: Path) -> tuple[Path, Path]:
    hub("resnet18")
    folder = tmp_path / "in"
    folder.mkdir()
    for seed in range(4):
        Image.fromarray(photo(seed)).save(folder / f"{seed}.png")
    embed.index_folder(folder, tmp_path / "r.vec", "resnet18")
    return folder, tmp_path / "r.vec"


def later(change: Any = None) -> Any:
    """The model as another version of torch would make it, which may compute something else."""
    model = embed.load("resnet18")
    model.libraries = "torch 99.1, torchvision 99.2, pillow 99.3"
    if change is not None:
        model.cut = change
    return model


def test_versions_are_kept_and_shown(
    indexed: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, path = indexed
    model = embed.load("resnet18")
    assert [part.split()[0] for part in model.libraries.split(", ")] == ["torch", "torchvision", "pillow"]
    assert torch.__version__.startswith(model.libraries.split(", ")[0].split()[1])
    assert main(["info", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["model"], told["libraries"]) == (model.fingerprint, model.libraries)
    assert main(["info", str(path)]) == 0
    assert model.libraries in capsys.readouterr().out
    assert embed.load("classic").libraries == ""


def test_versions_that_change_nothing_are_taken(indexed: tuple[Path, Path]) -> None:
    folder, path = indexed
    Image.fromarray(photo(9)).save(folder / "9.png")
    model = later()
    assert embed.search(path, image=folder / "1.png", model=model, k=1).ids == [str(folder / "1.png")]
    assert embed.index_folder(folder, path, model).added == 1
    with vecstore.open(path, mode="r") as pictures:
        assert pictures[str(folder / "9.png")].metadata["libraries"] == model.libraries
        assert pictures[str(folder / "1.png")].metadata["libraries"] == embed.load("resnet18").libraries


def test_versions_that_change_vectors_are_refused_by_name(indexed: tuple[Path, Path]) -> None:
    folder, path = indexed
    model = later(lambda picture: picture.resize((224, 224)).rotate(180))
    for ask in (
        lambda: embed.search(path, image=folder / "1.png", model=model),
        lambda: embed.index_folder(folder, path, model),
    ):
        with pytest.raises(embed.ModelError, match=r"with 'torch \d.*and with 'torch 99.1, .* other vectors"):
            ask()


def test_versions_that_nothing_can_be_compared_for_are_told(indexed: tuple[Path, Path]) -> None:
    folder, path = indexed
    Image.fromarray(photo(9)).save(folder / "0.png")
    for name in ("1.png", "2.png", "3.png"):
        (folder / name).unlink()
    model = later(lambda picture: picture.resize((224, 224)).rotate(180))
    with pytest.warns(RuntimeWarning, match=r"made by 'resnet18' with 'torch .*, and this is 'torch 99"):
        assert len(embed.search(path, image=photo(1), model=model)) == 4
    # Once is enough.
    assert len(embed.search(path, image=photo(1), model=model)) == 4
