"""Data of one's own: a LightningDataModule, read once, or a function; with the bytes that our own sources have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning  # noqa: F401  (it sets a variable when it is first imported)
import torch

from scaledl.config.schema import DataConfig
from scaledl.data import DataModule, build_data
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def build(name: str, **args: Any) -> DataModule:
    return build_data(DataConfig(source=f"tests.own_modules:{name}", args=args), 0)


def test_a_lightning_datamodule_becomes_arrays_of_bytes() -> None:
    data, digits = build("Digits"), build_data(DataConfig(), 0)
    assert (len(data.train), len(data.val), len(data.test)) == (500, 100, 200)
    assert data.train.inputs.dtype == torch.uint8
    assert data.spec.in_shape == digits.spec.in_shape == (1, 8, 8)
    assert data.spec.labels[3] == "digit 3"
    every = torch.cat([data.val.inputs, data.train.inputs, data.test.inputs])
    known = {bytes(image.numpy().tobytes()) for image in torch.cat([digits.train.inputs, digits.val.inputs])}
    assert all(bytes(image.numpy().tobytes()) in known for image in every)
    ids = torch.cat([data.train.ids, data.val.ids, data.test.ids])
    assert len(ids.unique()) == 800
    assert build("Digits").spec.fingerprint == data.spec.fingerprint


def test_without_a_validation_split_one_is_taken_out() -> None:
    data = build("Digits", val=0)
    assert (len(data.train), len(data.val), len(data.test)) == (540, 60, 200)


def test_a_function_gives_what_sources_give() -> None:
    assert build("digits_as_a_function").spec.labels == build_data(DataConfig(), 0).spec.labels


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("Digits", {"noise": 0.1}, "sample 0 is another each time it is read; random changes are for data.augment"),
        ("Digits", {"nose": 1}, "failed: TypeError: .*nose"),
        ("Endless", {}, "allowed: one DataLoader of a data set with __len__"),
        ("nonsense", {}, "gives a int; allowed: RawData or DataModule"),
        ("Nose", {}, "cannot be imported"),
    ],
)
def test_what_cannot_be_read_is_refused(name: str, args: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(name, **args)


def test_normalised_images_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The statistics would be lost, and with them what an exported file has to do to raw inputs."""
    from tests import own_modules

    plain = own_modules.Samples.__getitem__
    monkeypatch.setattr(
        own_modules.Samples, "__getitem__", lambda self, i: (plain(self, i)[0] - 0.5, plain(self, i)[1])
    )
    with pytest.raises(UsageError, match=r"images are torch.float32 from -0.5 .* allowed: bytes, or floats"):
        build("Digits")


def test_rows_series_and_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests import own_modules

    def row(self: Any, index: int) -> Any:
        return self.images[index].flatten().numpy(), float(self.labels[index])

    monkeypatch.setattr(own_modules.Samples, "__getitem__", row)
    data = build("Digits")
    assert (data.spec.modality, data.spec.target, data.spec.in_shape) == ("table", "numbers", (64,))
    assert data.train.labels.shape == (500, 1)
