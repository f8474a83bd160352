"""What a data set is in memory, and what a model has to know about it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from scaledl.data.memory import empty_batch
from scaledl.errors import UsageError
from scaledl.runtime.columns import TableColumn
from scaledl.runtime.signature import KINDS, Inputs, Kind

VALUES_AT_A_TIME = 1 << 18  # of a thread

Target = Literal["class", "classes", "numbers", "tags", "mask", "none"]
"""What a sample's label is.

class: one class, int64 [], in training NO_CLASS where there is none. classes: any of them, float32 [K] of 0 and 1.
numbers: float32 [K], NaN where one is not there. tags: a class for each step, int64 [T]; mask: for each pixel, int64
[H, W], which `Arrays` may hold as int16; both with IGNORED where there is none. none: nothing, int64 [], 0.
"""
IGNORED = -100
NO_CLASS = -1  # of a training sample without a label, where the target is class


@dataclass(frozen=True, eq=False)
class RawData:
    """A data set as its source gives it, before the validation split.

    Attributes:
        inputs: of the training: images uint8 [N, H, W, C], rows of a table float32 [N, F], or series float32 [N, C, T].
        labels: [N, ...], as `target` says; by default int64 [N], in 0..len(label_names)-1.
        test_inputs: as `inputs`, [M, ...].
        test_labels: as `labels`, [M, ...].
        label_names: one name for each class, or number; none where there is nothing to learn.
        target: what the labels are.
        columns: names of a table's columns, where it has such.
        val_inputs, val_labels: a validation split of its own, which is not taken out of the training set then.
        lengths: int64 [N], of training series, where some are shorter than T and have zeros behind them.
    """

    inputs: Tensor
    labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    label_names: tuple[str, ...]
    target: Target = "class"
    columns: tuple[str, ...] = ()
    val_inputs: Tensor | None = None
    val_labels: Tensor | None = None
    lengths: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Arrays:
    """One split.

    Attributes:
        inputs: uint8 [N, H, W, C], float32 [N, F] or [N, C, T], or token ids int32 [N, T]; contiguous, but for windows
            of a long text, which overlap in memory.
        labels: [N, ...], as the data's `Target` says; of classes int64 [N].
        ids: int64 [N]; a sample keeps its id in whatever split it lands.
    """

    inputs: Tensor
    labels: Tensor
    ids: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> Arrays:
        """The rows `index` (int64 [K]), copied, in that order."""
        return Arrays(*(values.index_select(0, index) for values in (self.inputs, self.labels, self.ids)))


class Batch(NamedTuple):
    """x: float32 [B, *in_shape], normalised, images in channels_last; of texts token ids, int64 [B, T].
    y: int64 [B], or the share of each class, float32 [B, K], where samples are mixed; other targets as `Target` says.
    ids: int64 [B].

    With one row and no id, the batch only keeps this rank in step with others that have samples; it counts for nothing.
    """

    x: Tensor
    y: Tensor
    ids: Tensor

    def contiguous(self) -> Batch:
        """With images channel by channel. `Tensor.contiguous` leaves those of one channel as they are, whose strides
        convolutions take for channels_last."""
        return self._replace(x=self.x.flatten(1).view(self.x.shape))


@dataclass(frozen=True)
class DataSpec:
    """What a model is built for, and what an artifact carries along.

    Attributes:
        source: name of the data source.
        in_shape: of one input: (C, H, W) of an image, (F,) of a row, (C, T) of a series, (T,) of a text.
        labels: names of the classes, or of the numbers that are to be predicted, in order.
        mean, std: of the training split, for each channel or column; of images in units where 255 is 1. None of texts.
        fingerprint: SHA-256 over every split's bytes, in order.
        kind: image, table, series or text; by default what `in_shape` says.
        target: what a sample's label is, see `Target`.
        tokenizer: of texts, the JSON of a Hugging Face tokenizer that cuts and pads them to T ids, with 0.
        vocabulary: of texts, how many token ids there are.
        moved: of texts, see `Inputs.moved`.
        categories: of tables, see `Inputs.categories`.
        columns: of tables, what they were before categories became other columns, where that is known.
        target_mean, target_std: of numbers that are to be predicted, of each over the training split; else empty.
        target_classes: of each of these numbers the names of the classes that it counts, where there are such.
        unlabeled: how many training samples have no class (NO_CLASS), or not all of their numbers (NaN).
    """

    source: str
    in_shape: tuple[int, ...]
    labels: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    kind: Kind | None = None
    target: Target = "class"
    tokenizer: str = ""
    vocabulary: int = 0
    moved: int = 0
    categories: tuple[int, ...] = ()
    columns: tuple[TableColumn, ...] = ()
    target_mean: tuple[float, ...] = ()
    target_std: tuple[float, ...] = ()
    target_classes: tuple[tuple[str, ...], ...] = ()
    unlabeled: int = 0

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    @property
    def modality(self) -> Kind:
        """table, series, image or text."""
        return self.kind or KINDS[len(self.in_shape)]

    @property
    def inputs(self) -> Inputs:
        """What a model gets."""
        return Inputs(self.modality, self.in_shape, self.vocabulary, self.categories, self.moved)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; tuples become lists."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DataSpec:
        """The reverse of `to_dict`. Raises UsageError when a field is missing or has the wrong form."""
        try:
            in_shape = tuple(int(size) for size in values["in_shape"])
            if len(in_shape) not in KINDS:
                raise ValueError(f"in_shape {list(in_shape)}")
            return cls(
                source=str(values["source"]),
                in_shape=in_shape,
                labels=tuple(str(label) for label in values["labels"]),
                mean=tuple(float(value) for value in values["mean"]),
                std=tuple(float(value) for value in values["std"]),
                fingerprint=str(values["fingerprint"]),
                kind=values.get("kind"),
                target=values.get("target", "class"),
                tokenizer=str(values.get("tokenizer", "")),
                vocabulary=int(values.get("vocabulary", 0)),
                moved=int(values.get("moved", 0)),
                categories=tuple(int(count) for count in values.get("categories", ())),
                columns=tuple(map(TableColumn.from_dict, values.get("columns", ()))),
                target_mean=tuple(float(value) for value in values.get("target_mean", ())),
                target_std=tuple(float(value) for value in values.get("target_std", ())),
                target_classes=tuple(tuple(map(str, names)) for names in values.get("target_classes", ())),
                unlabeled=int(values.get("unlabeled", 0)),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UsageError(f"data spec: not readable ({type(error).__name__}: {error})") from error


def statistics(inputs: Tensor, lengths: Tensor | None = None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel or column; a constant one gets a deviation of 1.

    Args:
        inputs: uint8 [N, H, W, C], float32 [N, F] or [N, C, T].
        lengths: int64 [N], steps of each series; what is behind them counts for nothing.
    """
    if inputs.dtype == torch.uint8:
        return channel_statistics(inputs)
    columns = inputs.transpose(0, 1)
    if lengths is not None:
        columns = columns[:, torch.arange(inputs.shape[2]) < lengths.unsqueeze(1)]
    columns = columns.reshape(inputs.shape[1], -1).double()
    deviations = columns.std(dim=1, correction=0)
    return tuple(columns.mean(dim=1).tolist()), tuple(torch.where(deviations > 1e-6, deviations, 1.0).tolist())


def number_statistics(labels: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each number that is to be predicted, float32 [N, K], over those that are there
    (not NaN); of a constant one 1."""
    columns = [column[~column.isnan()] for column in labels.double().unbind(1)]
    deviations = torch.stack([column.std(correction=0) for column in columns])
    means = torch.stack([column.mean() for column in columns])
    return tuple(means.tolist()), tuple(torch.where(deviations > 0, deviations, 1.0).tolist())


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


def fingerprint(splits: Mapping[str, Arrays], labels: tuple[str, ...], meaning: str = "") -> str:
    """SHA-256 over class names, what else says what the values mean (a tokenizer), then name, shape, inputs, labels and
    ids of every split in the mapping's order."""
    digest = hashlib.sha256((repr(labels) + meaning).encode())
    for name, split in splits.items():
        digest.update(f"{name} {tuple(split.inputs.shape)}".encode())
        for values in (split.inputs, split.labels, split.ids):
            for part in values.split(max(1, len(values) * VALUES_AT_A_TIME // max(1, values.numel()))):
                digest.update(part.contiguous().numpy().data)  # of windows that overlap, few at a time are copied
    return digest.hexdigest()


class Normalizer:
    """(x / 255 - mean) / std in float32, for one image size."""

    def __init__(self, spec: DataSpec, height: int, width: int, device: torch.device | None = None) -> None:
        self._shape = (height, width, len(spec.mean))
        # A row as long as an image: broadcasting over three channels alone would run three elements at a time.
        self._values = height * width * len(spec.mean)
        self._mean, self._std = (self._row(values, device) for values in (spec.mean, spec.std))

    def _row(self, values: Sequence[float], device: torch.device | None) -> Tensor | float:
        """A row as long as an image: broadcasting over three channels alone would run three elements at a time.

        A single number needs no row, and on a CPU gives the same bits.
        """
        tensor = torch.tensor(values, dtype=torch.float32, device=device)
        return (
            tensor.item()
            if len(values) == 1 and tensor.device.type == "cpu"
            else tensor.repeat(self._values // len(values))
        )

    def __call__(self, pixels: Tensor) -> Tensor:
        """[B, H, W, C] or [B, H, W * C], any strides -> float32 [B, C, H, W], channels_last.

        Pixels are uint8, or float32 0..255 that may be overwritten.
        """
        in_place = pixels.dtype == torch.float32 and pixels.is_contiguous()
        result = pixels if in_place else empty_batch(pixels.shape, pixels.device)
        size = self._at_a_time(pixels)
        parts = zip(pixels.split(size), result.split(size), strict=True) if len(pixels) > size else [(pixels, result)]
        for part, values in parts:
            if not in_place:
                values.copy_(part)
            values.view(-1, self._values).div_(255).sub_(self._mean).div_(self._std)
        return result.view(len(pixels), *self._shape).permute(0, 3, 1, 2)

    def _at_a_time(self, pixels: Tensor) -> int:
        """As many images as stay in the caches of a CPU from the first operation to the last."""
        values = VALUES_AT_A_TIME * torch.get_num_threads() if pixels.device.type == "cpu" else pixels.numel()
        return max(1, values // self._values)


class Standardizer:
    """(x - mean) / std in float32, for rows of a table or series."""

    def __init__(self, spec: DataSpec, device: torch.device | None = None) -> None:
        shape = (len(spec.mean), *[1] * (len(spec.in_shape) - 1))
        self._mean = torch.tensor(spec.mean, dtype=torch.float32, device=device).view(shape)
        self._std = torch.tensor(spec.std, dtype=torch.float32, device=device).view(shape)

    def __call__(self, values: Tensor) -> Tensor:
        """float32 [B, F] or [B, C, T] -> a new one of the same shape."""
        return (values - self._mean).div_(self._std)


def build_normalizer(spec: DataSpec, inputs: Tensor) -> Callable[[Tensor], Tensor]:
    """What brings inputs of this kind and size, on their device, to a model."""
    if spec.modality == "text":
        return Tensor.long
    if spec.modality == "image":
        height, width = inputs.shape[1:3]
        return Normalizer(spec, height, width, inputs.device)
    return Standardizer(spec, inputs.device)


def normalize(inputs: Tensor, spec: DataSpec) -> Tensor:
    """To model inputs: (x / 255 - mean) / std of pixels, (x - mean) / std of others.

    Args:
        inputs: uint8 [N, H, W, C], any height and width; float32 [N, F] or [N, C, T]; or token ids int32 [N, T].
        spec: mean and std, one value for each channel or column; of texts none.

    Returns:
        float32 [N, C, H, W], channels_last; int64 [N, T] of texts; else as `inputs`.
    """
    if spec.modality == "image":
        _, height, width, channels = inputs.shape
        assert channels == len(spec.mean), f"{channels} channels, statistics for {len(spec.mean)}"
        return Normalizer(spec, height, width)(inputs)
    return build_normalizer(spec, inputs)(inputs)
