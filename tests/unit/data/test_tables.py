"""The embedded tables are scikit-learn's, with a test set that never changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import datasets

from scaledl.config.schema import DataConfig
from scaledl.data import build_data

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("name", "rows", "columns", "labels"),
    [
        ("iris", 150, 4, ("setosa", "versicolor", "virginica")),
        ("wine", 178, 13, ("class_0", "class_1", "class_2")),
        ("breast_cancer", 569, 30, ("malignant", "benign")),
    ],
)
def test_every_row_is_in_one_split(name: str, rows: int, columns: int, labels: tuple[str, ...]) -> None:
    data = build_data(DataConfig(source=name), seed=0)
    assert (data.spec.in_shape, data.spec.labels, data.spec.modality) == ((columns,), labels, "table")
    parts = [data.train, data.val, data.test]
    found = np.concatenate([torch.cat([p.inputs, p.labels[:, None]], dim=1).numpy() for p in parts])
    bunch = getattr(datasets, f"load_{name}")()
    expected = np.concatenate([bunch.data.astype(np.float32), bunch.target[:, None].astype(np.float32)], axis=1)
    assert len(found) == rows
    assert np.array_equal(np.unique(found, axis=0), np.unique(expected, axis=0))
    other = build_data(DataConfig(source=name), seed=1)
    assert torch.equal(data.test.inputs, other.test.inputs)
    assert not torch.equal(data.val.inputs, other.val.inputs)
