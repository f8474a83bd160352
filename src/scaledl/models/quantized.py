"""The one adapter around torch.ao.quantization: prepare, freeze, convert; models that cannot be traced, layer by layer.

A quantized model is held and saved in its *prepared* form: BatchNorm folded into the convolutions, weights
(per channel, symmetric) and activations fake-quantized in float32, so that its outputs foretell the int8 file's.
Post-training and quantization-aware quantization differ only in how the ranges are found. The int8 module that
`convert` makes exists for export alone.

torch.ao.quantization is deprecated but still the only engine whose int8 TorchScript loads in a clean process; its
warnings are silenced here and nowhere else.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.ao.nn.intrinsic.qat as nniqat
import torch.nn.functional as F
from torch import nn
from torch.ao import quantization as tq
from torch.ao.quantization import quantize_fx

from scaledl.errors import ScaledlError, UsageError
from scaledl.models.external import library_of
from scaledl.models.int8_backend import backend_config, leaves, plain_norms_, without_dropout_
from scaledl.models.int8_layers import convert_layers_, prepare_layers_
from scaledl.models.int8_rnn import int8_rnns_
from scaledl.models.qconfigs import qconfig_mapping
from scaledl.models.structure import EXTERNAL, Model, Structure
from scaledl.models.vae import NUM_LATENT, VAE
from scaledl.runtime.signature import Inputs

Mode = Literal["qat", "ptq"]
_BY_LAYER = "layer"  # instead of a trace of the whole


def prepare_qat(model: Model, engine: str) -> Model:
    """A fake-quantized copy of `model` to be trained in float32; ranges follow moving averages."""
    return _prepare(model, "qat", engine)


def prepare_ptq(model: Model, engine: str) -> Model:
    """A copy of `model` to be calibrated (`calibrating`); activation ranges come from histograms."""
    return _prepare(model, "ptq", engine)


def is_quantized(structure: Structure) -> bool:
    """Whether int8 quantization is part of the structure; nothing structural may follow it."""
    return any(change["op"] == "quantize" for change in structure.history)


def without_quantization(structure: Structure) -> Structure:
    """The float structure that was quantized."""
    history = tuple(change for change in structure.history if change["op"] != "quantize")
    return dataclasses.replace(structure, history=history)


def engine_of(structure: Structure) -> str | None:
    """Kernels that the model was quantized for: "x86", "onednn", or None for a float model."""
    return next((change["engine"] for change in structure.history if change["op"] == "quantize"), None)


def replay_quantize(module: nn.Module, change: Mapping[str, Any], before: Structure) -> nn.Module:
    """Prepare a fresh `module` of the structure `before` the way that `change` records."""
    if change.get("by") == _BY_LAYER:
        with _engine(change["engine"]), _quietly():
            return prepare_layers_(module, change["mode"], change["engine"])
    return _prepare_module(module, change["mode"], change["engine"], before.inputs)


def convert(model: Model) -> nn.Module:
    """The true int8 module of a prepared model, on the CPU, in eval mode. `model` is left as it is.

    Raises ScaledlError when a range was never observed, since its int8 outputs would be meaningless.
    """
    engine = engine_of(model.structure)
    if engine is None:
        raise ScaledlError("a float model cannot be converted to int8; run the stage 'qat' or 'ptq' first")
    prepared = copy.deepcopy(model.module).cpu().eval()
    unseen = [name for name, module in prepared.named_modules() if _is_unseen(module)]
    if unseen:
        raise ScaledlError(
            f"{len(unseen)} quantization ranges were never observed ({unseen[0]}); "
            "train or calibrate the model before it is converted"
        )
    with _engine(engine), _quietly():
        if not isinstance(prepared, torch.fx.GraphModule):
            return convert_layers_(prepared)
        return int8_rnns_(quantize_fx.convert_fx(without_dropout_(prepared), backend_config=backend_config())).eval()


def freeze_observers_(module: nn.Module) -> None:
    """Keep the ranges as they are from now on; part of the state dict. `eval()` alone does not do it."""
    module.apply(tq.disable_observer)


def observe_(module: nn.Module) -> None:
    """Let the ranges follow the data again."""
    module.apply(tq.enable_observer)


def freeze_batchnorm_(module: nn.Module) -> None:
    """Keep running statistics from now on, folded BatchNorm included; an attribute, to be set again after loading."""
    module.apply(nniqat.freeze_bn_stats)
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.eval()


@contextmanager
def calibrating(module: nn.Module) -> Iterator[None]:
    """Within, forward passes in eval mode collect ranges and compute in float; afterwards ranges are frozen."""
    module.eval()
    module.apply(tq.disable_fake_quant)
    observe_(module)
    try:
        with _quietly():
            yield
    finally:
        module.apply(tq.enable_fake_quant)
        freeze_observers_(module)
        module.apply(_settle_)


def _prepare(model: Model, mode: Mode, engine: str) -> Model:
    if is_quantized(model.structure):
        raise UsageError("the model is quantized already; quantize the float model that it came from")
    change = {"op": "quantize", "mode": mode, "engine": engine}
    if model.structure.family == EXTERNAL and library_of(model.structure.config["name"]) == "hf":
        change["by"] = _BY_LAYER
    module = replay_quantize(copy.deepcopy(model.module), change, model.structure)
    if model.structure.family == EXTERNAL:
        _check_fixed(module, model.structure.inputs)
    return Model(module, model.structure.then(change))


def _check_fixed(prepared: nn.Module, inputs: Inputs) -> None:
    """Refuse a trace that still draws: dropout that asks for `training` in a function has been fixed as it was."""
    probe = copy.deepcopy(prepared).eval()
    probe.apply(tq.disable_fake_quant)
    probe.apply(tq.disable_observer)
    example = inputs.example(4)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            outputs = probe(example)
        except Exception as error:  # whatever a library's code does with layers of another kind
            raise UsageError(
                "the model cannot be quantized: with its layers in int8 it does not run, as where it computes with a "
                f"layer's weights by itself ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
            ) from error
        if not torch.equal(outputs, probe(example)):
            raise UsageError(
                "the model cannot be quantized: traced for it, its dropout cannot be turned off. Make it with "
                "model.args that leave such dropout out"
            )
        if any(_trains(node) for node in _calls(probe, F.batch_norm)):
            raise UsageError(
                "the model cannot be quantized: traced for it, its batch normalization goes on taking its statistics "
                "from each batch. Make it with model.args that have layers of torch's own kind, nn.BatchNorm2d"
            )


def _calls(module: nn.Module, function: Any) -> list[torch.fx.Node]:
    nodes = module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ()
    return [node for node in nodes if node.op == "call_function" and node.target is function]


def _trains(batch_norm: torch.fx.Node) -> bool:
    return bool(batch_norm.kwargs.get("training", batch_norm.args[5] if len(batch_norm.args) > 5 else False))


def _prepare_module(module: nn.Module, mode: str, engine: str, inputs: Inputs) -> nn.Module:
    mapping = qconfig_mapping(plain_norms_(module), mode, engine)
    example = (inputs.example(1),)
    try:
        with _engine(engine), _quietly():
            prepared = quantize_fx.prepare_qat_fx(
                module.train(), mapping, example, leaves(module), backend_config=backend_config()
            )
            if isinstance(module, VAE):
                prepared.meta[NUM_LATENT] = module.num_latent
            return _tied(prepared, module)
    except _TRACE_ERRORS as error:
        raise UsageError(
            f"{type(module).__name__} cannot be quantized, because its forward cannot be traced: {error}. "
            "Avoid control flow that depends on tensor values."
        ) from None


def _tied(prepared: nn.Module, module: nn.Module) -> nn.Module:
    """Parameters that are one in `module` are made one again; preparing gives every layer its own."""
    first: dict[int, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        same = first.setdefault(id(parameter), name)
        if same != name:
            owner, _, key = name.rpartition(".")
            setattr(prepared.get_submodule(owner), key, prepared.get_parameter(same))
    return prepared


# What torch.fx fails with, or a module that is given a proxy for a tensor.
_TRACE_ERRORS = (torch.fx.proxy.TraceError, NotImplementedError, TypeError, AttributeError, RuntimeError, IndexError)


@torch.no_grad()
def _settle_(module: nn.Module) -> None:
    """Compute scale and zero point now: the fused kind leaves them uninitialised until it first quantizes."""
    if not isinstance(module, tq.FakeQuantize) or _is_unseen(module):
        return
    if hasattr(module.activation_post_process, "min_val"):  # what has not, such as a sigmoid's, knows them beforehand
        channels = [1] * module.ch_axis + [module.activation_post_process.min_val.numel()]
        module(torch.zeros([*channels, 1] if module.is_per_channel else [1]))


def _is_unseen(module: nn.Module) -> bool:
    minimum = getattr(getattr(module, "activation_post_process", None), "min_val", None)
    return isinstance(minimum, torch.Tensor) and (minimum.numel() == 0 or not bool(minimum.isfinite().all()))


@contextmanager
def _engine(name: str) -> Iterator[None]:
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


@contextmanager
def _quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
