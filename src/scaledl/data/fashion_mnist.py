"""Fashion-MNIST (Xiao, Rasul and Vollgraf 2017): 60,000 + 10,000 grey images of 28x28, ten kinds of clothing."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path

from scaledl.config.schema import DataConfig
from scaledl.data.arrays import RawData
from scaledl.data.download import cache_folder
from scaledl.data.idx import find_idx, read_idx
from scaledl.errors import UsageError, require_extra

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
TORCHVISION_LAYOUT = Path("FashionMNIST", "raw")
# SHA-256 of the decompressed files, in the order images, labels, test images, test labels.
CHECKSUMS = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
LABELS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
MANUAL = (
    "apt-get install dataset-fashion-mnist, or put the four files of "
    "https://github.com/zalandoresearch/fashion-mnist into a folder and set data.root to it"
)


def load_fashion_mnist(config: DataConfig) -> RawData:
    """Read the set from `config.root`, else the Debian package's folder, else torchvision's download.

    Raises:
        UsageError: files missing, damaged, not the published ones, or not to be had.
    """
    return read_folder(_find_folder(config))


def read_folder(folder: Path, checksums: Mapping[str, str] = CHECKSUMS) -> RawData:
    """Read the four files of a folder, plain or .gz, and verify each against its SHA-256."""
    images, labels, test_images, test_labels = (
        read_idx(_existing(folder, name), 3 if "images" in name else 1, sha256) for name, sha256 in checksums.items()
    )
    return RawData(images.unsqueeze(-1), labels.long(), test_images.unsqueeze(-1), test_labels.long(), LABELS)


def _existing(folder: Path, name: str) -> Path:
    path = find_idx(folder, name)
    assert path is not None, f"{name} has been found before"
    return path


def _missing(folder: Path) -> list[str]:
    return [name for name in CHECKSUMS if find_idx(folder, name) is None]


def _find_folder(config: DataConfig) -> Path:
    if config.root is not None:
        return _given_folder(Path(config.root).expanduser())
    cache = cache_folder()
    for folder in (DEBIAN_FOLDER, cache / TORCHVISION_LAYOUT):
        if not _missing(folder):
            return folder
    if not config.download:
        raise UsageError(
            f"data.download: got false, and Fashion-MNIST is neither in {DEBIAN_FOLDER} nor in {cache}; "
            f"fix: data.download=true, or {MANUAL}"
        )
    return _download(cache)


def _given_folder(root: Path) -> Path:
    for folder in (root, root / TORCHVISION_LAYOUT):
        if not _missing(folder):
            return folder
    raise UsageError(
        f"data.root: got {root}, {'which' if root.is_dir() else 'which is no folder and'} lacks "
        f"{', '.join(_missing(root))} (plain or .gz); fix: leave data.root out, or {MANUAL}"
    )


def _download(cache: Path) -> Path:
    require_extra("torchvision", "vision")
    from torchvision.datasets import FashionMNIST

    chatter = io.StringIO()  # torchvision draws progress bars and prints every mirror that fails
    try:
        with contextlib.redirect_stdout(chatter), contextlib.redirect_stderr(chatter):
            FashionMNIST(str(cache), train=True, download=True)
    except (OSError, RuntimeError) as error:
        raise UsageError(
            f"Fashion-MNIST: the download into {cache} failed ({error}); fix: try again, or {MANUAL}"
        ) from error
    folder = cache / TORCHVISION_LAYOUT
    if missing := _missing(folder):
        raise UsageError(f"Fashion-MNIST: after the download {folder} lacks {', '.join(missing)}; fix: {MANUAL}")
    return folder
