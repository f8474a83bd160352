"""Keys of `data` that a set has no use for are refused, not ignored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaledl.config.schema import DataConfig, PrepareConfig, TextConfig
from scaledl.data import build_data
from scaledl.data.prepare.run import prepare
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    np.savez(folder / "a.npz", x=rng.integers(0, 255, (40, 8, 8, 1), dtype=np.uint8), y=np.arange(40) % 2)
    prepare(folder / "a.npz", folder / "set", PrepareConfig(near_duplicates="keep"))
    return folder / "set"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"val_fraction": 0.3},
            "data.val_fraction: got 0.3, and set has a validation split of its own; allowed: 0.1, which is the "
            "default; fix: leave it out, or prepare the set with data.prepare.val_fraction",
        ),
        (
            {"text": TextConfig(max_length=64)},
            "data.text.max_length: got 64, and set has no texts; allowed: 128, the default",
        ),
        (
            {"text": TextConfig(lowercase=True)},
            "data.text.lowercase: got true, and set has no texts; allowed: false, the default",
        ),
        ({"categories": "embed"}, "data.categories: got embed, and set is no table; allowed: one_hot"),
    ],
)
def test_a_key_without_use_is_refused(images: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        build_data(DataConfig(source="prepared", root=str(images), **keys), 0)
    assert str(caught.value) == message


@pytest.mark.parametrize("keys", [{"text": TextConfig(lowercase=True)}, {"categories": "embed"}])
def test_named_sources_too(keys: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"data\\.{next(iter(keys))}.*and digits (has no texts|is no table)"):
        build_data(DataConfig(source="digits", **keys), 0)


def test_what_is_of_use_stays() -> None:
    assert len(build_data(DataConfig(source="digits", val_fraction=0.2), 0).val) == 287
    assert build_data(DataConfig(source="iris", categories="embed"), 0).spec.in_shape == (4,)
