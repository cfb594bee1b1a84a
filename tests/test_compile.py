"""What the flags of kernels rest on: helpers hold no arrays of their own."""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import functools
import importlib
import pkgutil

import numpy as np
import pytest
from numba import types
from numba.core.errors import NumbaError

from vecstore.kernels import cpu
from vecstore.kernels.cpu import compile as compiling

ARRAY = types.float32[::1]


@pytest.fixture
def helpers(monkeypatch: pytest.MonkeyPatch) -> list:
    """Those that are made in a test, and no others."""
    found: list = []
    monkeypatch.setattr(compiling, "_HELPERS", found)
    return found


def test_a_helper_makes_no_array_and_returns_none_that_it_makes(helpers: list) -> None:
    @compiling.helper
    def fresh(count):
        return len(np.empty(count))

    @compiling.helper
    def behind(array):
        return array[1:]

    for each, given in ((fresh, types.int64), (behind, ARRAY)):
        with pytest.raises(NumbaError):
            each.compile((given,))


def test_a_helper_that_returns_what_it_was_given_is_refused(helpers: list) -> None:
    @compiling.helper
    def length(array):
        return len(array)

    @compiling.helper
    def itself(array):
        return array

    @compiling.helper
    def both(array):
        return len(array), array

    length.compile((ARRAY,))
    compiling.check_helpers()
    for each in (itself, both):
        helpers[:] = [each]
        each.compile((ARRAY,))
        with pytest.raises(TypeError, match="returns an array: it is a maker"):
            compiling.check_helpers()


def test_no_helper_calls_a_maker() -> None:
    """It would never let go of what that returns."""
    for module in pkgutil.iter_modules(cpu.__path__):
        importlib.import_module(f"{cpu.__name__}.{module.name}")
    makers = {id(each) for each in compiling._MAKERS}
    assert makers
    for each in compiling._HELPERS:
        function = each.py_func
        called = (function.__globals__.get(name) for name in function.__code__.co_names)
        assert not [other for other in called if id(other) in makers], function.__qualname__


def test_what_a_kernel_has_for_good_is_looked_at_once() -> None:
    def scaled(factors, vector, result):
        for j in range(len(vector)):
            result[j] = factors[0] * vector[j]

    reads, writes = compiling.reads, compiling.writes
    kernel = compiling.compiled(scaled, reads(types.float64), reads(types.float32), writes(types.float32))
    factors, vector = np.array([3.0, 5.0]), np.arange(4, dtype=np.float32)
    for part in (kernel, functools.partial(kernel, factors)):
        kept = () if isinstance(part, functools.partial) else (factors,)
        result = np.zeros(4, dtype=np.float32)
        compiling.trusting(part, *kept)(vector, result)
        assert result.tolist() == [0, 3, 6, 9]
    for wrong in (factors.astype(np.float32), factors[None], factors[::-1], 3.0):
        with pytest.raises(TypeError, match=r"scaled takes .* at place 0"):
            compiling.trusting(kernel, wrong)
    result.setflags(write=False)
    with pytest.raises(TypeError, match="at place 2"):
        compiling.trusting(kernel, factors, vector, result)
