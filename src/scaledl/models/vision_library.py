"""Image models of timm (Wightman 2019) and torchvision, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from scaledl.config.nearest import nearest
from scaledl.config.schema import ExternalConfig
from scaledl.errors import UsageError, require_extra
from scaledl.runtime.signature import Form, Inputs, Outputs

# Arguments that load files: of the network, or named in a saved model. That is what model.pretrained is for.
LOADING = frozenset(
    {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "checkpoint_path", "cache_dir"}
    | {"weights", "weights_backbone"}
)
_AUXILIARY_HEADS = ("googlenet", "inception_v3")


def build_timm(config: ExternalConfig, inputs: Inputs, outputs: Outputs) -> nn.Module:
    """[B, C, H, W] -> logits [B, K]. Raises UsageError for an unknown name, arguments, inputs or outputs."""
    require_extra("timm", "models")
    import timm

    _check(config, inputs, outputs, ("vector",))
    name = config.name.partition(":")[2]
    if ":" in name or not timm.is_model(name):
        raise _unknown(config, timm.list_models())
    given: dict[str, Any] = {"in_chans": inputs.shape[0], "num_classes": outputs.count}
    return made(config, lambda: timm.create_model(name, **given, **config.args))


def build_torchvision(config: ExternalConfig, inputs: Inputs, outputs: Outputs) -> nn.Module:
    """[B, C, H, W] -> logits [B, K], or [B, K, H, W] of a segmentation model. Raises UsageError as `build_timm`."""
    require_extra("torchvision", "vision")
    from torchvision import models

    classifying, segmenting = models.list_models(module=models), models.list_models(module=models.segmentation)
    name = config.name.partition(":")[2]
    if name not in (*classifying, *segmenting):
        raise _unknown(config, [*classifying, *segmenting])
    _check(config, inputs, outputs, ("pixels",) if name in segmenting else ("vector",))
    given: dict[str, Any] = {"weights": None, "num_classes": outputs.count}
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        given["weights_backbone"] = None  # its default is to download some
    if name in _AUXILIARY_HEADS:
        given |= {"aux_logits": False, "init_weights": True}
    module = made(config, lambda: models.get_model(name, **{**given, **config.args}))
    if inputs.shape[0] != 3:
        replace_first_convolution_(module, inputs.shape[0])
    return Segmentation(module) if name in segmenting else module


class Segmentation(nn.Module):
    """A model whose outputs are a dict of torchvision's, reduced to those of its main head."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> logits [B, K, H, W]."""
        outputs: dict[str, Tensor] = self.model(x)
        return outputs["out"]


def replace_first_convolution_(module: nn.Module, channels: int) -> None:
    """Put a fresh convolution for images of so many channels in the place of the first, which is made for three."""
    found = ((name, part) for name, part in module.named_modules() if isinstance(part, nn.Conv2d))
    name, first = next(found)
    sizes: Any = {key: getattr(first, key) for key in ("kernel_size", "stride", "padding")}
    fresh = nn.Conv2d(channels, first.out_channels, bias=first.bias is not None, **sizes)
    nn.init.kaiming_normal_(fresh.weight, mode="fan_out", nonlinearity="relu")
    module.set_submodule(name, fresh)


def made(config: ExternalConfig, make: Callable[[], Any]) -> nn.Module:
    """What `make` makes. Raises UsageError for arguments that the library refuses."""
    if loading := sorted(LOADING & config.args.keys()):
        raise UsageError(
            f"model.args: got {', '.join(loading)}; a model is built without files; for weights of the library set "
            f"model.pretrained={config.name.partition(':')[0]}"
        )
    try:
        module: nn.Module = make()
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise UsageError(f"model.args: {config.name} cannot be made with {config.args}: {error}") from error
    return module


def _check(config: ExternalConfig, inputs: Inputs, outputs: Outputs, forms: Sequence[Form]) -> None:
    if inputs.kind != "image":
        raise UsageError(
            f"model.name: {config.name} is a model for images; the data has {inputs.kind} inputs {list(inputs.shape)}"
        )
    if outputs.form not in forms:
        raise UsageError(
            f"model.name: {config.name} gives outputs of the form {', '.join(forms)}; the task needs {outputs.form}"
        )


def _unknown(config: ExternalConfig, names: Sequence[str]) -> UsageError:
    library, _, name = config.name.partition(":")
    close = nearest(name, names)
    hint = f"; did you mean '{library}:{close}'?" if close else ""
    return UsageError(f"model.name: {library} has no model {name!r}, it has {len(names)} others{hint}")
