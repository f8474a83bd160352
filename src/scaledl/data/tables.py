"""scikit-learn's embedded tables: no files, no network."""

from __future__ import annotations

import torch

from scaledl.config.schema import DataConfig
from scaledl.data.arrays import RawData
from scaledl.data.split import plain_split, stratified_split

TEST_FRACTION = 0.2
TEST_SEED = 20_240_229  # as of digits: the test set is part of the source


def load_iris(config: DataConfig) -> RawData:
    """150 flowers, 4 columns, 3 species (Fisher 1936). `config` is not used."""
    return _load("iris")


def load_wine(config: DataConfig) -> RawData:
    """178 wines, 13 columns, 3 cultivars (Forina et al. 1991). `config` is not used."""
    return _load("wine")


def load_breast_cancer(config: DataConfig) -> RawData:
    """569 tumours, 30 columns, malignant or benign (Street, Wolberg and Mangasarian 1993). `config` is not used."""
    return _load("breast_cancer")


def load_diabetes(config: DataConfig) -> RawData:
    """442 patients, 10 columns; how far the disease has got after a year, a number (Efron et al. 2004).

    `config` is not used.
    """
    from sklearn import datasets

    bunch = datasets.load_diabetes(scaled=False)
    features, labels = torch.from_numpy(bunch.data).float(), torch.from_numpy(bunch.target).float().unsqueeze(1)
    train, test = plain_split(len(labels), TEST_FRACTION, TEST_SEED)
    columns = tuple(map(str, bunch.feature_names))
    return RawData(features[train], labels[train], features[test], labels[test], ("progression",), "numbers", columns)


def _load(name: str) -> RawData:
    """All rows, with a fixed stratified 20 % as the test set."""
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    features = torch.from_numpy(bunch.data).float()
    labels = torch.from_numpy(bunch.target).long()
    names = tuple(map(str, bunch.target_names))
    train, test = stratified_split(labels, TEST_FRACTION, TEST_SEED, names, key="data.source")
    columns = tuple(map(str, bunch.feature_names))
    return RawData(features[train], labels[train], features[test], labels[test], names, columns=columns)
