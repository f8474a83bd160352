"""From a config's section to the augmented values of a batch that holds no images."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from scaledl.config.schema import AugmentConfig, SeriesAugmentConfig
from scaledl.data.augment import sequence
from scaledl.data.augment.images import Operation, PixelsFn
from scaledl.errors import UsageError

_ALLOWED = {"table": {"mixup"}, "series": {"mixup", "series"}, "image": set(AugmentConfig.model_fields) - {"series"}}


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


def check_augment(augment: AugmentConfig, modality: str) -> None:
    """Raises UsageError naming what is on and does not exist for this modality."""
    default = AugmentConfig()
    on = [name for name in AugmentConfig.model_fields if getattr(augment, name) != getattr(default, name)]
    odd = [name for name in on if name not in _ALLOWED[modality]]
    if odd:
        allowed = "operations of images" if modality == "image" else ", ".join(sorted(_ALLOWED[modality]))
        raise UsageError(
            f"data.augment.{odd[0]}: got {_shown(getattr(augment, odd[0]))}, and the data are of modality {modality}; "
            f"allowed there: {allowed}; fix: remove {', '.join(f'data.augment.{name}' for name in odd)}"
        )


def _shown(value: object) -> str:
    return str(value.model_dump(exclude_defaults=True)) if isinstance(value, SeriesAugmentConfig) else str(value)


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
