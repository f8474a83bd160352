"""The contact sheet shows the pixels that a model is trained on."""

from __future__ import annotations

import numpy as np
import pytest

from scaledl.config import load_config
from scaledl.data import build_data
from scaledl.data.preview import contact_sheet

pytestmark = pytest.mark.unit


def test_the_sheet_shows_the_first_samples_of_the_epoch() -> None:
    config = load_config(None, ["data.source=digits", "data.augment.crop=1", "run.seed=3"])
    data = build_data(config.data, 3)
    sheet = contact_sheet(data, config, count=9, epoch=2)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (3 * 66 + 2, 3 * 66 + 2, 1)
    loader = data.train_loader(9, config.data.augment, 3)
    loader.set_epoch(2)
    x = next(iter(loader)).x
    pixels = ((x * data.spec.std[0] + data.spec.mean[0]) * 255).round()
    for i in range(9):
        y0, x0 = 2 + i // 3 * 66, 2 + i % 3 * 66
        shown = sheet[y0 : y0 + 64 : 8, x0 : x0 + 64 : 8, 0]
        assert np.array_equal(shown, pixels[i, 0].numpy())


def test_more_than_there_are_are_all() -> None:
    config = load_config(None, ["data.source=digits"])
    data = build_data(config.data, 0)
    assert contact_sheet(data, config, count=10_000, epoch=0).shape[0] == 36 * 66 + 2
