from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from scaledl.errors import UsageError
from scaledl.runtime import jit

pytestmark = pytest.mark.unit


def test_torch_still_has_torchscript() -> None:
    missing = [name for name in ("script", "freeze", "save", "load") if not hasattr(torch.jit, name)]
    assert not missing, f"torch {torch.__version__} took away torch.jit.{missing}: exported files need another format"


def test_round_trip_without_a_warning_and_without_a_filter_left_behind() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval()
    x = torch.randn(2, 1, 5, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        loaded = jit.load_bytes(jit.save_bytes(jit.script_and_freeze(module), {"a.txt": b"b"}))
        assert list(warnings.filters) == before
    assert torch.allclose(loaded(x), module(x), atol=1e-6)
    assert "batch_norm" not in str(loaded.inlined_graph)  # folded into the convolution


def test_an_attribute_in_the_place_of_a_function_that_is_gone_is_no_function() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3)).eval()
    torch.jit._builtins._register_builtin(module[0]._reversed_padding_repeated_twice, "aten::gone")
    x = torch.randn(2, 1, 5, 5)
    assert torch.equal(jit.script(module)(x), module(x))


def test_engine_is_set_inside_the_block_only() -> None:
    before = torch.backends.quantized.engine
    inside = []

    def fail() -> None:
        with jit.quantized_engine("x86"):
            inside.append(torch.backends.quantized.engine)
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fail()
    assert inside == ["x86"]
    assert torch.backends.quantized.engine == before
    with pytest.raises(UsageError, match="'abacus' is not available"), jit.quantized_engine("abacus"):
        pass
