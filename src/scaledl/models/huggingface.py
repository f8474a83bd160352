"""Models of Hugging Face transformers (Wolf et al. 2020), for texts and images, behind plain inputs and outputs.

The library's config becomes part of ours (`model.architecture`), so that a saved model is built again without the
network or a folder. Code from the hub (`trust_remote_code`) is never run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scaledl.config.schema import ExternalConfig
from scaledl.errors import UsageError, require_extra
from scaledl.runtime.signature import Inputs, Outputs
from scaledl.runtime.tokens import IMPOSSIBLE

PADDING_ID = 0
SECONDS = 5.0  # that a server has to answer
# Of a config: where it came from, code and kernels to fetch, names of classes; and types that our precision decides.
_LEFT_OUT = (
    *(
        "_name_or_path",
        "transformers_version",
        "architectures",
        "auto_map",
        "quantization_config",
        "id2label",
        "label2id",
    ),
    *("_attn_implementation", "_attn_implementation_internal", "attn_implementation", "experts_implementation"),
    *("_experts_implementation", "_experts_implementation_internal", "dtype", "torch_dtype", "_commit_hash"),
)


class TextModel(nn.Module):
    """Token ids in, plain logits out.

    Args:
        padding: the id that the library's model pads with.
        moved: `Inputs.moved` where the model's own ids are to be put back, else 0.
        tokens: how many token ids the data have, of a model whose logits are those of tokens; else 0.
    """

    order: Tensor

    def __init__(self, model: nn.Module, *, steps: bool, padding: int = 0, moved: int = 0, tokens: int = 0) -> None:
        super().__init__()
        self.model = model
        self.steps = steps
        self.padding = padding
        self.moved = moved
        self.tokens = tokens if moved else 0
        order = torch.arange(self.tokens)
        if self.tokens:
            order[PADDING_ID], order[moved] = padding, PADDING_ID
        self.register_buffer("order", order, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """int64 [B, T], 0 is padding -> logits [B, K], or [B, K, T] for each step."""
        mask = (ids != PADDING_ID).long()
        if self.moved:
            theirs = torch.where(ids == self.moved, torch.full_like(ids, PADDING_ID), ids)
            ids = torch.where(mask == 0, torch.full_like(ids, self.padding), theirs)
        logits: Tensor = self.model(input_ids=ids, attention_mask=mask).logits
        if self.tokens:
            logits = self._of_our_ids(logits)
        return logits.transpose(1, 2) if self.steps else logits

    def _of_our_ids(self, logits: Tensor) -> Tensor:
        """A padding token that the model does not know is as good as impossible."""
        ours = logits.index_select(-1, self.order)
        if self.padding == self.moved:
            return ours
        return torch.cat([torch.full_like(ours[..., :1], IMPOSSIBLE), ours[..., 1:]], dim=-1)


class ImageModel(nn.Module):
    """Images in, plain logits out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> logits [B, K]."""
        logits: Tensor = self.model(pixel_values=x).logits
        return logits


def build_huggingface(config: ExternalConfig, inputs: Inputs, outputs: Outputs) -> nn.Module:
    """The model of `config.architecture`, or of what the name stands for, with fresh weights.

    Raises UsageError for an architecture that the library does not have, or has no such model of.
    """
    if config.architecture is None:
        config = config.model_copy(update={"architecture": find_architecture(config, inputs, outputs)})
    with quiet():
        library_config = config_of(config, outputs)
        make = model_class(library_config, inputs, outputs, config.name)
        try:
            model: nn.Module = make.from_config(library_config, dtype=torch.float32, trust_remote_code=False)
        except (TypeError, ValueError, RuntimeError, AttributeError, ImportError) as error:
            raise UsageError(f"model.name: {config.name} cannot be made: {error}") from error
    return wrapped(model, library_config, inputs, outputs)


def wrapped(model: nn.Module, library_config: Any, inputs: Inputs, outputs: Outputs) -> nn.Module:
    """A model that pads with 0 was made for the ids as they are."""
    if inputs.kind != "text":
        return ImageModel(model)
    padding = int(library_config.pad_token_id or PADDING_ID)
    return TextModel(
        model,
        steps=outputs.form == "steps",
        padding=padding,
        moved=inputs.moved if padding != PADDING_ID else 0,
        tokens=outputs.count if outputs.form == "steps" and outputs.count == inputs.vocabulary else 0,
    )


def find_architecture(config: ExternalConfig, inputs: Inputs, outputs: Outputs) -> dict[str, Any]:
    """The library's config as plain values: of a folder, a kind of model, or a name of the hub.

    Raises UsageError when there is none, or it does not fit the data.
    """
    require_extra("transformers", "models")
    name = config.name.partition(":")[2]
    with quiet():
        found = _found(name, config.args, inputs)
        if hasattr(found, "num_labels"):
            found.num_labels = outputs.count
        _check(found, config.name, inputs, ours=_is_kind(name))
        plain = {key: value for key, value in found.to_dict().items() if key not in _LEFT_OUT}
    plain |= {"model_type": found.model_type, "num_labels": outputs.count}
    return dict(json.loads(json.dumps(plain)))  # as it comes back from a file


def _found(name: str, args: dict[str, Any], inputs: Inputs) -> Any:
    from transformers import AutoConfig

    folder = Path(name).expanduser()
    if _is_kind(name):
        return _of_kind(name, args, inputs)
    options = {"trust_remote_code": False, "local_files_only": folder.is_dir(), "return_unused_kwargs": True}
    try:
        with nullcontext() if folder.is_dir() else reaching_hub():
            found, unused = AutoConfig.from_pretrained(str(folder) if folder.is_dir() else name, **options, **args)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"model.name: got hf:{name}; allowed: a name of the hub, a folder with config.json, or a kind of model "
            "such as hf:bert; fix: without the network, a name whose files are in HF_HOME, or a folder "
            f"({' '.join(str(error).split())[:300]})"
        ) from error
    if unused := sorted(unused.keys() & args.keys()):
        raise UsageError(f"model.args: got {', '.join(unused)}; allowed: settings of the config of hf:{name}")
    return found


def _is_kind(name: str) -> bool:
    from transformers import CONFIG_MAPPING

    return not Path(name).expanduser().is_dir() and name in CONFIG_MAPPING


def _of_kind(name: str, args: dict[str, Any], inputs: Inputs) -> Any:
    """The library's defaults for this kind of model, made for the data, with `args` over them."""
    from transformers import AutoConfig

    found = AutoConfig.for_model(name)
    size = {"vocab_size": inputs.vocabulary, "pad_token_id": PADDING_ID, "bos_token_id": None, "eos_token_id": None}
    image = {"num_channels": inputs.shape[0], "image_size": inputs.shape[-1]}
    given = {**(size if inputs.kind == "text" else image), **args}
    if unknown := sorted(key for key in args if not hasattr(found, key)):
        raise UsageError(f"model.args: got {', '.join(unknown)}; allowed: settings of {type(found).__name__}")
    try:
        return AutoConfig.for_model(name, **{key: value for key, value in given.items() if hasattr(found, key)})
    except (TypeError, ValueError) as error:
        raise UsageError(f"model.args: hf:{name} cannot be made with {args}: {error}") from error


def config_of(config: ExternalConfig, outputs: Outputs) -> Any:
    """The library's config that `model.architecture` holds. Raises UsageError for a kind that it does not have."""
    require_extra("transformers", "models")
    architecture = {**(config.architecture or {}), "num_labels": outputs.count}
    from transformers import CONFIG_MAPPING

    kind = str(architecture.get("model_type"))
    if kind not in CONFIG_MAPPING:
        raise UsageError(f"model.architecture: model_type is {kind!r}, which this transformers does not have")
    plain = {key: value for key, value in architecture.items() if key not in _LEFT_OUT}
    return CONFIG_MAPPING[kind].from_dict(plain)


def model_class(library_config: Any, inputs: Inputs, outputs: Outputs, name: str) -> Any:
    """The library's class that makes a model for this kind of inputs and outputs. Raises UsageError for others."""
    import transformers

    causal, masked = transformers.MODEL_FOR_CAUSAL_LM_MAPPING, transformers.MODEL_FOR_MASKED_LM_MAPPING
    kind = type(library_config)
    if inputs.kind == "image" and outputs.form == "vector":
        return transformers.AutoModelForImageClassification
    if inputs.kind == "text" and outputs.form == "vector":
        return transformers.AutoModelForSequenceClassification
    if inputs.kind == "text" and outputs.form == "steps":
        if outputs.count != inputs.vocabulary:
            return transformers.AutoModelForTokenClassification
        if kind in masked or kind in causal:
            return transformers.AutoModelForMaskedLM if kind in masked else transformers.AutoModelForCausalLM
    raise UsageError(
        f"model.name: {name} is for images or texts, and for classes, tags or tokens; the data has {inputs.kind} "
        f"inputs and the task needs outputs of the form {outputs.form!r}"
    )


def _check(found: Any, name: str, inputs: Inputs, *, ours: bool) -> None:
    """Refuse a model that would take ids for others than they are. `ours`: made for the data, as a kind is."""
    if inputs.kind != "text":
        return
    vocabulary, padding = getattr(found, "vocab_size", None), getattr(found, "pad_token_id", None)
    added = inputs.moved > 0 and inputs.moved == inputs.vocabulary - 1 != padding  # our tokenizer's padding is new
    needed = inputs.vocabulary - added if not ours else inputs.vocabulary
    if vocabulary is not None and vocabulary < needed:
        raise UsageError(
            f"model.name: {name} knows {vocabulary} tokens and the data has {needed}; take its own "
            f"tokenizer, or model.args={{vocab_size: {needed}}} for a model without pretrained weights"
        )
    no_padding = padding is None or padding < 0 or (padding == PADDING_ID and added and not ours)  # 0 is a word's
    if no_padding:
        found.pad_token_id = _padding_of(found, inputs)
    elif padding != inputs.moved and not added and not (ours and padding == PADDING_ID):
        raise UsageError(
            f"model.name: {name} pads with token {padding}, and the tokenizer of the data with {inputs.moved}; "
            f"allowed: its own tokenizer, data.text.tokenizer=FOLDER/tokenizer.json, or model.args={{pad_token_id: "
            f"{inputs.moved}}} for a model without pretrained weights"
        )


def _padding_of(found: Any, inputs: Inputs) -> int:
    """The id for the padding of a model that knows none: what ends a text, which no text has within."""
    if not inputs.moved:
        return PADDING_ID
    end = getattr(found, "eos_token_id", None)
    end = end[0] if isinstance(end, list) and end else end
    return end if isinstance(end, int) and 0 < end < found.vocab_size else found.vocab_size - 1


@contextmanager
def reaching_hub() -> Iterator[None]:
    """Where the hub does not answer, its cache alone is looked at: at once, and not after a minute of retries."""
    from huggingface_hub import constants, get_session

    before = constants.HF_HUB_OFFLINE
    if not before:
        try:
            get_session().head(constants.ENDPOINT, timeout=SECONDS)
        except Exception:  # whatever the network, a proxy or a wrong address do
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back what the library has to say of configs, and its bars; errors come through as exceptions."""
    from transformers.utils import logging as library_logging

    logging: Any = library_logging
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
