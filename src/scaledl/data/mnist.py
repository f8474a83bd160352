"""MNIST (LeCun, Cortes and Burges 1998): 60,000 + 10,000 grey images of 28x28, ten digits."""

from __future__ import annotations

from collections.abc import Sequence

from scaledl.config.schema import DataConfig
from scaledl.data.arrays import RawData
from scaledl.data.download import PublishedFile, find_files
from scaledl.data.idx import read_idx

_MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
_SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
FILES = tuple(
    PublishedFile(name, sha256, [mirror + name for mirror in _MIRRORS], 10_000_000) for name, sha256 in _SHA256.items()
)
LABELS = tuple(str(digit) for digit in range(10))


def load_mnist(config: DataConfig, files: Sequence[PublishedFile] = FILES) -> RawData:
    """Raises UsageError: files missing, damaged, not the published ones, or not to be had."""
    images, labels, test_images, test_labels = (
        read_idx(path, 3 if "images" in path.name else 1) for path in find_files(config, "mnist", files)
    )
    return RawData(images.unsqueeze(-1), labels.long(), test_images.unsqueeze(-1), test_labels.long(), LABELS)
