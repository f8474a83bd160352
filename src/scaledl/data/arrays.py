"""What a data set is in memory, and what a model has to know about it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scaledl.errors import UsageError


@dataclass(frozen=True, eq=False)
class RawData:
    """A data set as its source gives it, before the validation split.

    Attributes:
        images: uint8 [N, H, W, C], training images.
        labels: int64 [N], in 0..len(label_names)-1.
        test_images: uint8 [M, H, W, C].
        test_labels: int64 [M].
        label_names: one name for each class.
    """

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    label_names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Arrays:
    """One split.

    Attributes:
        images: uint8 [N, H, W, C], contiguous.
        labels: int64 [N].
        ids: int64 [N]; a sample keeps its id in whatever split it lands.
    """

    images: Tensor
    labels: Tensor
    ids: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> Arrays:
        """The rows `index` (int64 [K]), copied, in that order."""
        return Arrays(*(values.index_select(0, index) for values in (self.images, self.labels, self.ids)))


class Batch(NamedTuple):
    """x: float32 [B, C, H, W], normalised, channels_last. y: int64 [B]. ids: int64 [B].

    With one row and no id, the batch only keeps this rank in step with others that have samples; it counts for nothing.
    """

    x: Tensor
    y: Tensor
    ids: Tensor


@dataclass(frozen=True)
class DataSpec:
    """What a model is built for, and what an artifact carries along.

    Attributes:
        source: name of the data source.
        in_shape: (C, H, W) of one input.
        labels: names of the classes, in order.
        mean, std: per channel, of the training split, in units where 255 is 1.
        fingerprint: SHA-256 over every split's bytes, in order.
    """

    source: str
    in_shape: tuple[int, int, int]
    labels: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; tuples become lists."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DataSpec:
        """The reverse of `to_dict`. Raises UsageError when a field is missing or has the wrong form."""
        try:
            channels, height, width = (int(size) for size in values["in_shape"])
            return cls(
                source=str(values["source"]),
                in_shape=(channels, height, width),
                labels=tuple(str(label) for label in values["labels"]),
                mean=tuple(float(value) for value in values["mean"]),
                std=tuple(float(value) for value in values["std"]),
                fingerprint=str(values["fingerprint"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"data spec: not readable ({type(error).__name__}: {error})") from error


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, in units where 255 is 1.

    Taken from a histogram, so exact and independent of order. A constant channel gets a deviation of 1.

    Args:
        images: uint8 [N, H, W, C].
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in images.unbind(-1):
        share = torch.bincount(channel.reshape(-1), minlength=256).double() / channel.numel()
        mean = (share * values).sum()
        deviation = (share * (values - mean) ** 2).sum().sqrt().item()
        means.append(mean.item())
        deviations.append(deviation if deviation > 1e-6 else 1.0)
    return tuple(means), tuple(deviations)


def fingerprint(splits: Mapping[str, Arrays], labels: tuple[str, ...]) -> str:
    """SHA-256 over class names, then name, shape, pixels, labels and ids of every split in the mapping's order."""
    digest = hashlib.sha256(repr(labels).encode())
    for name, split in splits.items():
        digest.update(f"{name} {tuple(split.images.shape)}".encode())
        for values in (split.images, split.labels, split.ids):
            digest.update(values.contiguous().numpy().data)
    return digest.hexdigest()


class Normalizer:
    """(x / 255 - mean) / std in float32, for one image size."""

    def __init__(self, spec: DataSpec, height: int, width: int) -> None:
        self._shape = (height, width, len(spec.mean))
        # A row as long as an image: broadcasting over three channels alone would run three elements at a time.
        self._mean = torch.tensor(spec.mean, dtype=torch.float32).repeat(height * width)
        self._std = torch.tensor(spec.std, dtype=torch.float32).repeat(height * width)

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 [B, H, W, C] or [B, H, W * C], any strides -> float32 [B, C, H, W], channels_last."""
        rows = pixels.to(torch.float32, memory_format=torch.contiguous_format).reshape(len(pixels), len(self._mean))
        rows.div_(255).sub_(self._mean).div_(self._std)
        return rows.view(len(pixels), *self._shape).permute(0, 3, 1, 2)


def normalize(images: Tensor, spec: DataSpec) -> Tensor:
    """Pixels to model inputs: (x / 255 - mean) / std.

    Args:
        images: uint8 [N, H, W, C], any height and width.
        spec: mean and std, one value for each of the C channels.

    Returns:
        float32 [N, C, H, W], channels_last.
    """
    _, height, width, channels = images.shape
    assert channels == len(spec.mean), f"{channels} channels, statistics for {len(spec.mean)}"
    return Normalizer(spec, height, width)(images)
