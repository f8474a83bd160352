"""From a config's section to the augmented values of a batch that holds no images."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from scaledl.config.schema import AugmentConfig, Section, SeriesAugmentConfig, TextAugmentConfig
from scaledl.data.augment import sequence, text
from scaledl.data.augment.images import Operation, PixelsFn
from scaledl.data.tokenizer import mask_id, special_ids
from scaledl.errors import UsageError
from scaledl.runtime.tokens import PADDING_ID

_ALLOWED = {
    "table": {"mixup"},
    "series": {"mixup", "series"},
    "text": {"text"},
    "image": set(AugmentConfig.model_fields) - {"series", "text"},
}


def build_values_fn(
    inputs: Tensor, standardize: Callable[[Tensor], Tensor], augment: AugmentConfig, seed: int
) -> PixelsFn:
    """What an augmented batch takes from inputs float32 [N, F] or [N, C, T]: standardised, then the operations."""
    operations = list(_operations(augment.series, seed)) if inputs.ndim == 3 else []

    def values(rows: Tensor, ids: Tensor, epoch: int) -> Tensor:
        x = standardize(inputs.index_select(0, rows))
        for operation in operations:
            x = operation(x, ids, epoch)
        return x

    return values


def build_tokens_fn(inputs: Tensor, tokenizer: str, augment: AugmentConfig, seed: int) -> PixelsFn:
    """What an augmented batch takes from token ids int32 [N, T]: int64 [B, T]. `tokenizer`: the JSON of theirs."""
    operations = list(_token_operations(augment.text, tokenizer, seed))

    def tokens(rows: Tensor, ids: Tensor, epoch: int) -> Tensor:
        x = inputs.index_select(0, rows).long()
        for operation in operations:
            x = operation(x, ids, epoch)
        return x

    return tokens


def check_augment(augment: AugmentConfig, modality: str, target: str = "class", *, codes: bool = False) -> None:
    """Raises UsageError naming what is on and does not exist for this modality, or would not fit such targets.

    `codes`: some inputs are codes of categories, between which there is nothing.
    """
    default = AugmentConfig()
    on = [name for name in AugmentConfig.model_fields if getattr(augment, name) != getattr(default, name)]
    odd = [name for name in on if name not in _ALLOWED[modality]]
    if odd:
        allowed = "operations of images" if modality == "image" else ", ".join(sorted(_ALLOWED[modality]))
        raise UsageError(
            f"data.augment.{odd[0]}: got {_shown(getattr(augment, odd[0]))}, and the data are of modality {modality}; "
            f"allowed there: {allowed}; fix: remove {', '.join(f'data.augment.{name}' for name in odd)}"
        )
    if codes and augment.mixup:
        raise UsageError(
            f"data.augment.mixup: got {augment.mixup:g} with data.categories=embed; allowed: 0, or one_hot: there is "
            "nothing between two codes"
        )
    _check_target(augment, target)


def _check_target(augment: AugmentConfig, target: str) -> None:
    """Raises UsageError for what would leave a label behind where its pixel, step or token goes."""
    moving = {"policy": augment.policy != "none"} if target == "mask" else {}
    if target == "tags":
        shifts = {f"series.{name}": bool(getattr(augment.series, name)) for name in ("crop", "warp", "repeat")}
        moving = shifts | {f"text.{name}": bool(getattr(augment.text, name)) for name in ("drop", "swap")}
    mixed = {name: bool(getattr(augment, name)) for name in ("mixup", "cutmix")}
    on = [name for name, is_on in (moving | (mixed if target in ("mask", "tags", "none") else {})).items() if is_on]
    if on:
        raise UsageError(
            f"data.augment.{on[0]}: is on, and what is to be learned of a sample is of target {target}, which it does "
            f"not go with; fix: remove {', '.join(f'data.augment.{name}' for name in on)}"
        )


def _shown(value: object) -> str:
    return str(value.model_dump(exclude_defaults=True)) if isinstance(value, Section) else str(value)


def _operations(series: SeriesAugmentConfig, seed: int) -> Iterator[Operation]:
    """Those that are on; the shape of time first, then what hides or disturbs values."""
    if series.crop:
        yield lambda x, ids, epoch: sequence.crop_time(x, ids, seed, epoch, series.crop)
    if series.warp:
        yield lambda x, ids, epoch: sequence.warp_time(x, ids, seed, epoch, series.warp)
    if series.repeat:
        yield lambda x, ids, epoch: sequence.repeat_steps(x, ids, seed, epoch, series.repeat)
    if series.noise:
        yield lambda x, ids, epoch: sequence.add_noise(x, ids, seed, epoch, series.noise)
    if series.mask:
        yield lambda x, ids, epoch: sequence.mask_steps(x, ids, seed, epoch, series.mask)


def _token_operations(config: TextAugmentConfig, tokenizer: str, seed: int) -> Iterator[Operation]:
    """Those that are on; what hides tokens comes last."""
    if config.drop == config.swap == config.mask == 0:
        return
    special, hidden = torch.tensor(special_ids(tokenizer), dtype=torch.int64), mask_id(tokenizer)

    def places(x: Tensor) -> dict[str, Tensor]:
        return {"lengths": (x != PADDING_ID).sum(1), "fixed": torch.isin(x, special.to(x.device))}

    if config.drop:
        yield lambda x, ids, epoch: text.drop_tokens(
            x, ids, seed, epoch, config.drop, padding_id=PADDING_ID, **places(x)
        )[0]
    if config.swap:
        yield lambda x, ids, epoch: text.swap_tokens(x, ids, seed, epoch, config.swap, **places(x))
    if config.mask:
        yield lambda x, ids, epoch: text.mask_spans(
            x, ids, seed, epoch, config.mask, mask_id=hidden, span=config.mask_span, **places(x)
        )
