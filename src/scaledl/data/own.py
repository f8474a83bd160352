"""Data of one's own: a function that gives them as our sources do, or a LightningDataModule.

Of a LightningDataModule the data sets behind its loaders are read once, in order, into memory. Batches, their order,
ranks, normalisation and augmentation are ours then, so that a training goes on exactly and an exported file knows how
raw inputs become a model's; and a sample has to be the same whenever it is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scaledl.config.imported import import_named
from scaledl.config.schema import DataConfig
from scaledl.data.arrays import RawData, Target
from scaledl.errors import UsageError

if TYPE_CHECKING:
    import pytorch_lightning as pl

_READ_TWICE = 8
_PIXEL_TOLERANCE = 1e-3  # of 255: floats k / 255 are bytes


def load_own(config: DataConfig) -> Any:
    """What `data.source: python.path:name` gives: RawData, or a DataModule that is ready.

    Raises UsageError for what cannot be imported, fails, or gives anything else.
    """
    import pytorch_lightning as pl

    where = f"data.source: {config.source}"
    found = import_named(config.source, where)
    try:
        if isinstance(found, type) and issubclass(found, pl.LightningDataModule):
            return _read(found(**config.args), where)
        return found(config)
    except UsageError:
        raise
    except Exception as error:  # whatever the user's code does
        raise UsageError(f"{where} failed: {type(error).__name__}: {error}") from error


def _read(module: pl.LightningDataModule, where: str) -> RawData:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module.prepare_data()
        module.setup("fit")
        train, val = _dataset(module, "train", where), _dataset(module, "val", where)
        module.setup("test")
        test = _dataset(module, "test", where)
        if train is None or test is None:
            missing = "train_dataloader" if train is None else "test_dataloader"
            raise UsageError(f"{where} has no {missing}; a training needs one, and so do its final figures")
        splits = {name: _stacked(split, f"{where}, {name}") for name, split in (("train", train), ("test", test))}
        held = None if val is None else _stacked(val, f"{where}, val")
    inputs, labels, target = splits["train"]
    names = _names([module, train], labels, target)
    return RawData(
        *(inputs, labels, *splits["test"][:2], names, target),
        val_inputs=None if held is None else held[0],
        val_labels=None if held is None else held[1],
    )


def _dataset(module: pl.LightningDataModule, split: str, where: str) -> Any:
    """What stands behind a loader; None where the module has no such loader."""
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    try:
        loader = getattr(module, f"{split}_dataloader")()
    except (MisconfigurationException, NotImplementedError):
        return None
    if isinstance(loader, list | tuple) and len(loader) == 1:
        loader = loader[0]
    if loader is None or isinstance(loader, list | tuple):
        return None
    dataset = getattr(loader, "dataset", None)
    if not (isinstance(dataset, Sized) and hasattr(dataset, "__getitem__")):
        raise UsageError(
            f"{where}: {split}_dataloader gives a {type(loader).__name__}; allowed: one DataLoader of a data set with "
            "__len__ and __getitem__"
        )
    return dataset


def _stacked(dataset: Any, where: str) -> tuple[Tensor, Tensor, Target]:
    """All samples of a data set: inputs and labels as `RawData` has them, and what the labels are."""
    samples = [_sample(dataset[number], number, where) for number in range(len(dataset))]
    if not samples:
        raise UsageError(f"{where}: has no samples")
    for number, sample in enumerate(samples[:_READ_TWICE]):
        again = _sample(dataset[number], number, where)
        if not (torch.equal(sample[0], again[0]) and torch.equal(sample[1], again[1])):
            raise UsageError(
                f"{where}: sample {number} is another each time it is read; random changes are for data.augment"
            )
    try:
        inputs, labels = (torch.stack(values) for values in zip(*samples, strict=True))
    except (RuntimeError, TypeError) as error:
        raise UsageError(f"{where}: samples are of several sizes: {error}") from error
    if labels.dtype == torch.int64:
        return _as_pixels(inputs, where), labels, "class"
    return _as_pixels(inputs, where), labels.float().reshape(len(labels), -1), "numbers"


def _sample(sample: Any, number: int, where: str) -> tuple[Tensor, Tensor]:
    """Inputs, images as [H, W, C], and the label, int64 [] or float32 [...]."""
    if not (isinstance(sample, Sequence) and len(sample) == 2) or isinstance(sample, Mapping | str):
        raise UsageError(f"{where}: sample {number} is a {type(sample).__name__}; allowed: a pair (inputs, label)")
    x, y = sample
    label = torch.as_tensor(y)
    if not label.is_floating_point():
        label = label.long()
        if label.ndim:
            raise UsageError(f"{where}: label {number} is {list(label.shape)}; allowed: one class, or numbers")
    if isinstance(x, Tensor):
        return x.detach().permute(1, 2, 0) if x.ndim == 3 else x.detach(), label
    values = torch.from_numpy(np.array(x))  # of an image of PIL, or an array
    return values.unsqueeze(-1) if values.ndim == 2 and values.dtype == torch.uint8 else values, label


def _as_pixels(inputs: Tensor, where: str) -> Tensor:
    """Images as bytes [N, H, W, C], where floats are bytes over 255; other inputs in float32."""
    if inputs.ndim != 4:
        return inputs.float().contiguous()
    if inputs.dtype == torch.uint8:
        return inputs.contiguous()
    scaled = inputs.float() * 255
    pixels = scaled.round()
    if (
        float((scaled - pixels).abs().max()) > _PIXEL_TOLERANCE
        or not 0 <= float(pixels.min()) <= float(pixels.max()) <= 255
    ):
        raise UsageError(
            f"{where}: images are {inputs.dtype} from {float(inputs.min()):.3g} to {float(inputs.max()):.3g}; allowed: "
            "bytes, or floats that are bytes / 255 (ToTensor); the training split's statistics normalise them"
        )
    return pixels.to(torch.uint8).contiguous()


def _names(owners: Sequence[Any], labels: Tensor, target: Target) -> tuple[str, ...]:
    """`classes` of the module or its data set, else numbers."""
    count = int(labels.max()) + 1 if target == "class" else labels.shape[1]
    for owner in owners:
        names = getattr(owner, "classes", None)
        if target == "class" and isinstance(names, Sequence) and len(names) >= count:
            return tuple(map(str, names))
    return tuple(map(str, range(count)))
