"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 colour images of 32x32, from the binary archives.

The better known archives hold pickles, which are programs.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scaledl.config.schema import DataConfig
from scaledl.data.arrays import RawData
from scaledl.data.download import PublishedFile, find_files
from scaledl.errors import UsageError

SIDE = 32
_SITE = "https://www.cs.toronto.edu/~kriz/"


@dataclass(frozen=True)
class Layout:
    """An archive: names of its parts, label bytes before each image, and which of them is the class."""

    archive: PublishedFile
    folder: str
    train: Sequence[str]
    test: str
    names: str
    label_bytes: int


CIFAR10 = Layout(
    PublishedFile(
        "cifar-10-binary.tar.gz",
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        [f"{_SITE}cifar-10-binary.tar.gz"],
        180_000_000,
    ),
    "cifar-10-batches-bin",
    [f"data_batch_{i}.bin" for i in range(1, 6)],
    "test_batch.bin",
    "batches.meta.txt",
    1,
)
CIFAR100 = Layout(
    PublishedFile(
        "cifar-100-binary.tar.gz",
        "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        [f"{_SITE}cifar-100-binary.tar.gz"],
        180_000_000,
    ),
    "cifar-100-binary",
    ["train.bin"],
    "test.bin",
    "fine_label_names.txt",
    2,  # the first is one of twenty groups
)


def load_cifar10(config: DataConfig, layout: Layout = CIFAR10) -> RawData:
    """Raises UsageError: the archive is missing, damaged, not the published one, or not to be had."""
    return _load(config, "cifar10", layout)


def load_cifar100(config: DataConfig, layout: Layout = CIFAR100) -> RawData:
    """The hundred fine classes. Raises as `load_cifar10`."""
    return _load(config, "cifar100", layout)


def _load(config: DataConfig, name: str, layout: Layout) -> RawData:
    [path] = find_files(config, name, [layout.archive])
    parts = _read(path, layout)
    names = tuple(parts[layout.names].decode("ascii").split())
    train = [_images(path, part, parts[part], layout.label_bytes) for part in layout.train]
    images, labels = (torch.cat(tensors) for tensors in zip(*train, strict=True))
    return RawData(images, labels, *_images(path, layout.test, parts[layout.test], layout.label_bytes), names)


def _read(path: Path, layout: Layout) -> dict[str, bytes]:
    """The wanted members, read from the archive; nothing is unpacked to the disk."""
    parts: dict[str, bytes] = {}
    wanted = {f"{layout.folder}/{name}": name for name in (*layout.train, layout.test, layout.names)}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                file = archive.extractfile(member) if name in wanted and member.isfile() else None
                if file is not None:
                    parts[wanted[name]] = file.read()
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise UsageError(f"{path}: cannot be read ({error}); fix: delete it and start again") from error
    if missing := set(wanted.values()) - set(parts):
        raise UsageError(f"{path}: lacks {', '.join(sorted(missing))}; fix: delete it and start again")
    return parts


def _images(path: Path, name: str, content: bytes, label_bytes: int) -> tuple[Tensor, Tensor]:
    """uint8 [N, 32, 32, 3] and int64 [N]: rows of label bytes, then red, green and blue planes."""
    width = label_bytes + 3 * SIDE * SIDE
    if not content or len(content) % width:
        raise UsageError(f"{path}: {name} has {len(content)} bytes, no whole number of images of {width}")
    rows = np.frombuffer(content, np.uint8).reshape(-1, width)
    planes = rows[:, label_bytes:].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    labels = rows[:, label_bytes - 1].astype(np.int64)
    return torch.from_numpy(np.ascontiguousarray(planes)), torch.from_numpy(labels)
