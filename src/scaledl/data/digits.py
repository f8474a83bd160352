"""scikit-learn's digits: 1,797 images of 8x8, embedded in the package, no network."""

from __future__ import annotations

import torch

from scaledl.config.schema import DataConfig
from scaledl.data.arrays import RawData
from scaledl.data.split import stratified_split

TEST_FRACTION = 0.2
TEST_SEED = 20_240_229  # the test set is part of the source: the same for every run, whatever its seed
LABELS = tuple(str(digit) for digit in range(10))


def load_digits(config: DataConfig) -> RawData:
    """The digits, 0..16 brought to 0..255, with a fixed stratified 20 % as the test set. `config` is not used."""
    from sklearn.datasets import load_digits as load

    bunch = load()
    images = torch.from_numpy(bunch.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(-1)
    labels = torch.from_numpy(bunch.target).long()
    train, test = stratified_split(labels, TEST_FRACTION, TEST_SEED, LABELS, key="data.source")
    return RawData(images[train], labels[train], images[test], labels[test], LABELS)
