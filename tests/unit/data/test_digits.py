import hashlib

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits as sklearn_digits

from scaledl.config.schema import DataConfig
from scaledl.data.digits import load_digits

pytestmark = pytest.mark.unit


def test_digits_are_sklearns_in_bytes_with_a_stratified_test_set() -> None:
    raw = load_digits(DataConfig())
    assert raw.label_names == tuple("0123456789")
    assert raw.inputs.shape == (1438, 8, 8, 1)
    assert raw.test_inputs.shape == (359, 8, 8, 1)
    assert raw.inputs.dtype == torch.uint8
    assert (raw.inputs.min(), raw.inputs.max()) == (0, 255)
    bunch = sklearn_digits()
    expected = np.rint(bunch.images * 255 / 16).astype(np.uint8)

    def rows(images: np.ndarray, labels: np.ndarray) -> list[bytes]:
        return sorted(image.tobytes() + bytes([label]) for image, label in zip(images, labels, strict=True))

    images, labels = torch.cat([raw.inputs, raw.test_inputs]), torch.cat([raw.labels, raw.test_labels])
    assert rows(images.numpy(), labels.numpy()) == rows(expected, bunch.target)
    shares = torch.bincount(raw.test_labels) / torch.bincount(labels)
    assert (shares - 0.2).abs().max() < 0.005


def test_the_test_set_never_changes() -> None:
    raw = load_digits(DataConfig(val_fraction=0.5))
    digest = hashlib.sha256(raw.test_inputs.numpy().tobytes() + raw.test_labels.numpy().tobytes()).hexdigest()
    assert digest == "bff8044d05474a72b426fd92b1b729e9758069111caee44b7707b028198a8057"
