"""Keys of `data` that are set although the data that were found have no use for them."""

from __future__ import annotations

from collections.abc import Iterator

from scaledl.config.schema import DataConfig
from scaledl.config.schema.conflict import written
from scaledl.data.arrays import DataSpec
from scaledl.errors import UsageError


def check_used(config: DataConfig, spec: DataSpec, *, has_val: bool) -> None:
    """Raises UsageError for the first of them.

    has_val: whether the source has a validation split of its own.
    """
    if problem := next(_problems(config, spec, has_val=has_val), None):
        raise UsageError(problem)


def _problems(config: DataConfig, spec: DataSpec, *, has_val: bool) -> Iterator[str]:
    default = DataConfig()
    if has_val and config.val_fraction != default.val_fraction:
        yield (
            f"data.val_fraction: got {config.val_fraction:g}, and {spec.source} has a validation split of its own; "
            f"allowed: {default.val_fraction:g}, which is the default; fix: leave it out"
            + (", or prepare the set with data.prepare.val_fraction" if config.source == "prepared" else "")
        )
    if not spec.tokenizer and ":" not in config.source:
        for key, value in config.text:
            usual = getattr(default.text, key)
            if value != usual:
                words = f"got {written(value)}, and {spec.source} has no texts; allowed: {written(usual)}, the default"
                yield f"data.text.{key}: {words}"
    if len(spec.in_shape) != 1 and config.categories != default.categories and ":" not in config.source:
        yield (
            f"data.categories: got {config.categories}, and {spec.source} is no table; allowed: {default.categories}"
        )
