"""Batches of a data set in memory: no worker processes, no global random state, a position that can be saved."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Unpack

import torch
from torch import Tensor

from scaledl.config.schema import AugmentConfig
from scaledl.data.arrays import Arrays, Batch, DataSpec, build_normalizer
from scaledl.data.augment import Mix, build_masks_fn, build_pixels_fn, build_tokens_fn, build_values_fn, check_augment
from scaledl.data.balance import AGAIN, balanced_order, check_balanced
from scaledl.data.hashing import ORDER, generator
from scaledl.data.position import LoaderOptions, PositionedLoader
from scaledl.data.workers import prepared
from scaledl.errors import UsageError

InputsFn = Callable[[Tensor, Tensor, int], Tensor]
SamplesFn = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]


class BatchLoader(PositionedLoader):
    """Iterate over a split in batches.

    The order of an epoch is a permutation seeded by (seed, epoch), or the draws of `balanced_order`, cut into global
    batches, of which each rank takes a near-equal contiguous slice (a row that counts for nothing where it would be
    empty).
    """

    def __init__(self, arrays: Arrays, spec: DataSpec, batch_size: int, **options: Unpack[LoaderOptions]) -> None:
        """Raises UsageError for augmentation that inputs of this kind do not have, or classes to balance."""
        super().__init__(len(arrays), batch_size, **options)
        if self._balanced:
            check_balanced(spec)
        self._arrays = arrays
        self._samples_fn = build_samples_fn(arrays, spec, self._augment, self._seed)

    def _batches(self, starts: range, epoch: int) -> Iterable[Batch]:
        order = self._order(epoch)
        slices = (order[start : min(start + self.batch_size, self._end)] for start in starts)
        if self._num_workers and len(starts):
            return prepared(self.batch, list(slices), epoch, self._num_workers)
        return (self.batch(index, epoch) for index in slices)

    def _order(self, epoch: int) -> Tensor:
        if not self._shuffle:
            return torch.arange(self._size)
        if self._balanced:
            return balanced_order(self._arrays.labels, self._seed, epoch)
        return torch.randperm(self._size, generator=generator(self._seed, epoch, ORDER))

    def batch(self, index: Tensor, epoch: int) -> Batch:
        """This rank's slice of a global batch; where it is empty, one row without an id, which counts for nothing."""
        size = len(index)
        mine = index[size * self._rank // self._world_size : size * (self._rank + 1) // self._world_size]
        rows = draws = (mine if len(mine) else index[:1]).to(self._arrays.ids.device)
        if self._balanced:
            rows = draws % AGAIN
        ids = drawn_ids = self._arrays.ids.index_select(0, rows)
        if self._balanced:
            drawn_ids = ids + (draws - rows)  # another time in the same epoch a sample is augmented otherwise
        return Batch(*self._samples_fn(rows, drawn_ids, epoch), ids[: len(mine)])


def build_samples_fn(
    arrays: Arrays,
    spec: DataSpec,
    augment: AugmentConfig,
    seed: int,
    *,
    changing: bool = False,
    partner_fn: Callable[[Tensor], Tensor] | None = None,
) -> SamplesFn:
    """(rows, their ids, epoch) -> model inputs, and labels or shares of classes.

    Args:
        changing: the arrays do not hold the same samples at every call.
        partner_fn: rows -> those that they are mixed with, where these are not drawn among all.

    Raises:
        UsageError: augmentation that inputs or targets of this kind do not have.
    """
    check_augment(augment, spec.modality, spec.target, codes=bool(spec.categories))
    inputs_fn, finish = _build_inputs_fn(arrays, spec, augment, seed, changing=changing)
    if augment.mixup or augment.cutmix:
        _check_labels_to_mix(spec)
        num_classes = spec.num_classes if spec.target == "class" else 0
        mix = Mix(arrays, inputs_fn, augment, num_classes, seed, partner_fn)
        return lambda rows, ids, epoch: _first_finished(finish, *mix(rows, ids, epoch))
    labels_fn = _build_labels_fn(arrays, spec, augment, seed)
    return lambda rows, ids, epoch: (finish(inputs_fn(rows, ids, epoch)), labels_fn(rows, ids, epoch))


def _check_labels_to_mix(spec: DataSpec) -> None:
    if spec.target == "class" and spec.unlabeled:
        raise UsageError(
            f"data.augment.mixup, data.augment.cutmix: on, and {spec.unlabeled:,} training samples of {spec.source} "
            "have no label that could be mixed; allowed: 0"
        )


def _build_labels_fn(arrays: Arrays, spec: DataSpec, augment: AugmentConfig, seed: int) -> InputsFn:
    """What there is to learn of some rows: masks move with their images."""
    if spec.target == "mask":
        return build_masks_fn(arrays.labels, augment, seed)
    return lambda rows, ids, epoch: arrays.labels.index_select(0, rows)


def _build_inputs_fn(
    arrays: Arrays, spec: DataSpec, augment: AugmentConfig, seed: int, *, changing: bool
) -> tuple[InputsFn, Callable[[Tensor], Tensor]]:
    """Augmented inputs, and what makes them a model's: images are augmented as pixels, other values standardised, texts
    as token ids."""
    normalize = build_normalizer(spec, arrays.inputs)
    if spec.modality == "text":
        return build_tokens_fn(arrays.inputs, spec.tokenizer, augment, seed), lambda tokens: tokens
    if spec.modality == "image":
        return build_pixels_fn(arrays.inputs, augment, seed, changing=changing), normalize
    return build_values_fn(arrays.inputs, normalize, augment, seed), lambda values: values


def _first_finished(finish: Callable[[Tensor], Tensor], inputs: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    return finish(inputs), shares
