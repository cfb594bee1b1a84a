"""`device=`: what is found where there is a card or none, and how one that fails is done without."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from vecstore.device import Device
from vecstore.kernels import dispatch
from vecstore.kernels.cuda import card as cards
from vecstore.kernels.cuda.card import Card, CardError, NoCardError


@pytest.fixture(autouse=True)
def _no_card_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "_found", None)
    monkeypatch.delenv("VECSTORE_CUDA_MEMORY", raising=False)


# -- a card that is none


class DriverError(Exception):
    """What CUDA raises, by the name of its module."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


DriverError.__module__ = "numba.cuda.cudadrv.driver"


class Memory:
    """A context on a card of so many bytes."""

    def __init__(self, total: int, free: int) -> None:
        self.total, self.free = total, free
        self.deallocations = self
        self.cleared = 0

    def clear(self) -> None:
        self.cleared += 1

    def get_memory_info(self) -> Memory:
        return self


class Array:
    def __init__(self, size: int) -> None:
        self.size = size


def fake(free: int = 10 << 30, capability: tuple[int, int] = (9, 0)) -> Any:
    """As much of numba.cuda as a card asks for."""
    memory = Memory(80 << 30, free)
    module: Any = types.ModuleType("cuda")
    module.memory = memory
    module.get_current_device = lambda: types.SimpleNamespace(
        name=b"Test card", MULTIPROCESSOR_COUNT=132, compute_capability=capability
    )
    module.current_context = lambda: memory

    def device_array(shape: Any, dtype: Any) -> Array:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if size > memory.free:
            raise DriverError(2, "Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY")
        memory.free -= size
        return Array(size)

    module.device_array = device_array
    return module


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = fake()
    monkeypatch.setattr(cards, "simulated", lambda: False)
    monkeypatch.setattr(cards, "_check_driver", lambda: None)
    monkeypatch.setattr(cards, "_numba", lambda: module)
    return module


# -- finding one


def test_importing_starts_no_cuda(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np, vecstore\n"
        "from vecstore.kernels import dispatch\n"
        "c = vecstore.open('i.vec', dim=64, metric='l2')\n"
        "c.add(range(3000), np.random.default_rng(0).random((3000, 64)))\n"
        "c.search(np.zeros((50, 64)), k=3, exact=True)\n"
        "assert 'numba' in sys.modules and 'numba.cuda' not in sys.modules\n"
        "assert 'vecstore.kernels.cuda.tile' not in sys.modules\n"
        "dispatch.cuda()\n"
        "from numba.cuda.cudadrv import driver\n"
        "assert driver.driver.pid is None\n"
        "print('done', c.stats()['device'], c.stats()['device_memory_bytes'])\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "NUMBA_ENABLE_CUDASIM"}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert run.stdout.strip() == "done cpu 0", run.stderr


def test_cpu_never_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "find", lambda: pytest.fail("it looked"))
    device = Device("cpu")
    assert device.card() is None
    assert not device.possible
    assert device.name == "cpu"


def test_auto_looks_once_and_says_nothing_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []

    def find() -> Card:
        looked.append(1)
        raise NoCardError("no driver")

    monkeypatch.setattr(cards, "find", find)
    device = Device("auto")
    assert device.possible
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert device.card() is None
        assert device.card() is None
    assert looked == [1]
    assert not device.possible


def test_a_driver_that_is_too_old_is_told_of_once(monkeypatch: pytest.MonkeyPatch, fake_cuda: Any) -> None:
    def refuse() -> Any:
        raise DriverError(803, "Call to cuInit results in CUDA_ERROR_SYSTEM_DRIVER_MISMATCH")

    monkeypatch.setattr(cards, "_numba", refuse)
    device = Device("auto")
    with pytest.warns(RuntimeWarning, match=r"CPU.*DRIVER_MISMATCH") as caught:
        assert device.card() is None
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert device.attempt(lambda card: 1, lambda: 2) == 2
    with pytest.raises(vecstore.DeviceError, match=r"DRIVER_MISMATCH.*auto"):
        Device("cuda").card()


def test_a_driver_without_a_card_is_no_card(monkeypatch: pytest.MonkeyPatch, fake_cuda: Any) -> None:
    def refuse() -> Any:
        raise DriverError(100, "Call to cuInit results in CUDA_ERROR_NO_DEVICE")

    monkeypatch.setattr(cards, "_numba", refuse)
    with pytest.raises(NoCardError):
        cards.find()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Device("auto").card() is None


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "simulated", lambda: False)

    def missing(name: str) -> Any:
        raise OSError(name)

    monkeypatch.setattr(cards.ctypes, "CDLL", missing)
    with pytest.raises(NoCardError, match="driver"):
        cards.find()


def test_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "simulated", lambda: False)
    monkeypatch.setattr(cards.ctypes, "CDLL", lambda name: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NoCardError, match=r"pip install 'vecstore-db\[cuda\]'"):
        cards.find()


def test_a_card_that_is_too_old(monkeypatch: pytest.MonkeyPatch, fake_cuda: Any) -> None:
    monkeypatch.setattr(cards, "_numba", lambda: fake(capability=(5, 2)))
    with pytest.raises(CardError, match=r"Test card is too old .*5\.2"):
        cards.find()


def test_a_forked_child_is_refused(monkeypatch: pytest.MonkeyPatch, fake_cuda: Any) -> None:
    assert cards.find() is cards.find()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(CardError, match=r"forked.*spawn"):
        cards.find()


# -- its memory


def test_a_process_takes_a_share_of_what_is_free(fake_cuda: Any) -> None:
    card = cards.find()
    assert card.name == "Test card"
    assert card.multiprocessors == 132
    assert card.budget == int(0.8 * ((10 << 30) - cards.SPARE))
    assert card.room() == card.budget
    # Another process takes most of it: what is free now is what there is.
    fake_cuda.memory.free = 1 << 30
    assert card.room() == (1 << 30) - cards.SPARE
    assert fake_cuda.memory.cleared > 0
    fake_cuda.memory.free = 0
    assert card.room() == 0


def test_the_budget_can_be_set(monkeypatch: pytest.MonkeyPatch, fake_cuda: Any) -> None:
    monkeypatch.setenv("VECSTORE_CUDA_MEMORY", "2GB")
    found = Device("cuda").card()
    assert found is not None
    assert found.budget == 2_000_000_000
    kept = found.empty(1_500_000_000, np.uint8)
    with pytest.raises(CardError, match=r"1,000 MB more do not fit: 1,500 of 2,000 MB on Test card"):
        found.empty(1_000_000_000, np.uint8)
    found.release(kept)
    monkeypatch.setenv("VECSTORE_CUDA_MEMORY", "plenty")
    with pytest.raises(vecstore.InvalidArgumentError, match="VECSTORE_CUDA_MEMORY"):
        Device("cuda").card()


def test_two_processes_that_want_all_of_it(fake_cuda: Any) -> None:
    """Within the budget, and yet not there: the other process was quicker."""
    card = cards.find()
    fake_cuda.memory.free = 1 << 20
    with pytest.raises(CardError, match=r"out of memory.*another process") as caught:
        card.empty(2 << 20, np.uint8)
    assert isinstance(caught.value.__cause__, DriverError)
    assert card.held == 0


def test_a_lost_card_is_a_card_error_and_a_mistake_is_not(fake_cuda: Any) -> None:
    card = cards.find()
    with pytest.raises(CardError, match="Test card failed: CUDA_ERROR_ECC_UNCORRECTABLE"), card.working():
        raise DriverError(214, "CUDA_ERROR_ECC_UNCORRECTABLE")
    with pytest.raises(ZeroDivisionError), card.working():
        1 // 0  # noqa: B018


# -- a collection's


def test_open_names_the_devices(path: str, opened: Any) -> None:
    with pytest.raises(vecstore.InvalidArgumentError, match=r"auto.*cpu.*cuda"):
        vecstore.open(path, dim=2, device="gpu")
    for device in ("auto", "cpu"):
        c = opened(dim=2, device=device)
        c.upsert("a", [1, 0])
        assert c.stats()["device"] == "cpu"


def test_cuda_is_refused_before_anything_is_created(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def find() -> Card:
        raise NoCardError("no driver")

    monkeypatch.setattr(cards, "find", find)
    with pytest.raises(vecstore.DeviceError, match=r"no driver.*cpu"):
        vecstore.open(path, dim=2, device="cuda")
    assert not os.path.exists(path)


def test_dispatch_names_every_twin() -> None:
    if importlib.util.find_spec("numba.cuda") is None:
        pytest.skip("numba-cuda is not installed")
    modules = {path.stem for path in Path(cards.__file__).parent.glob("*.py")} - {"__init__"}
    assert set(dispatch._CUDA) <= modules
    for name in dispatch._CUDA:
        assert getattr(dispatch.cuda(), name).__name__ == f"vecstore.kernels.cuda.{name}"
