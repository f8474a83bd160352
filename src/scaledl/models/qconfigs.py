"""Which layers of a model become int8, and how: FX quantization's settings, by the kinds of layers that it has."""

from __future__ import annotations

import torch
from torch import nn
from torch.ao import quantization as tq

from scaledl.errors import UsageError
from scaledl.models.int8_backend import is_leaf

REDUCE_RANGE: dict[str, bool] = {"x86": True, "onednn": False}  # x86: 0..127, else int16 sums saturate without VNNI
STATIC: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
WRONG_IN_INT8: tuple[type[nn.Module], ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
FUSED: tuple[type[nn.Module], ...] = (nn.ReLU, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # into those before
DYNAMIC: tuple[type[nn.Module], ...] = (nn.LSTM, nn.GRU)


def check_engine(engine: str) -> None:
    """Raise UsageError when this torch has no such int8 kernels."""
    usable = REDUCE_RANGE.keys() & set(torch.backends.quantized.supported_engines)
    if engine not in usable:
        raise UsageError(f"export.engine: got {engine!r}; allowed here: {', '.join(sorted(usable)) or 'none'}")


def check_mode(module: nn.Module, mode: str, key: str = "compress.stages") -> None:
    """Raise UsageError when `module` cannot be quantized in this way; `key` is the one to blame."""
    recurrent = next((type(layer).__name__ for layer in module.modules() if isinstance(layer, nn.RNNBase)), None)
    if mode == "qat" and recurrent is not None:
        raise UsageError(
            f"{key}: got 'qat' for a model with layers of the kind {recurrent}; allowed: 'ptq'. Their int8 form finds "
            "its ranges while it runs, so there are none that a training could learn"
        )


def qconfig_mapping(module: nn.Module, mode: str, engine: str) -> tq.QConfigMapping:
    """What becomes of the layers of `module`.

    Everything is quantized for ranges that are known beforehand, except in models with

    - LayerNorm: its outputs, sums and products have a few values that are far larger than all others, and int8 costs
      the accuracy (1 dB instead of 23 on a vision transformer): only linear and convolution layers are quantized;
    - recurrent layers: their ranges are found while they run, for each batch, and only they and linear layers are
      quantized.

    The weights of embeddings are int8 for each row, their outputs float. Transposed convolutions stay float: torch's
    int8 kernels for them give wrong numbers (below 0 dB) where inputs and outputs differ in number.
    """
    check_engine(engine)
    check_mode(module, mode)
    static = static_qconfig(mode, engine)
    mapping = tq.get_default_qat_qconfig_mapping(engine).set_global(static)
    kinds = {type(layer) for layer in module.modules()}
    if any(issubclass(kind, nn.LayerNorm | nn.RNNBase) for kind in kinds):
        mapping = tq.QConfigMapping().set_global(None)
        for kind in (*STATIC, *FUSED):
            mapping.set_object_type(kind, static)
        for kind in DYNAMIC:
            mapping.set_object_type(kind, tq.default_dynamic_qconfig)
    for kind in WRONG_IN_INT8:
        mapping.set_object_type(kind, None)
    for name, leaf in module.named_modules():
        for inner, _ in leaf.named_modules(prefix=name) if is_leaf(leaf) else ():
            mapping.set_module_name(inner, None)
    return mapping.set_object_type(nn.Embedding, tq.default_embedding_qat_qconfig)


def static_qconfig(mode: str, engine: str) -> tq.QConfig:
    """Weights per channel, symmetric; activations by moving averages (qat) or by histograms (ptq)."""
    qat: tq.QConfig = tq.get_default_qat_qconfig(engine)
    if mode == "qat":
        return qat
    if mode != "ptq":
        raise UsageError(f"unknown mode of quantization {mode!r}; known: qat, ptq")
    activation = tq.FakeQuantize.with_args(
        observer=tq.HistogramObserver, quant_min=0, quant_max=255, reduce_range=REDUCE_RANGE[engine]
    )
    return tq.QConfig(activation=activation, weight=qat.weight)
