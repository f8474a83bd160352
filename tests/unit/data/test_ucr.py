"""A folder of the UCR archive is a source by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scaledl.config.schema import DataConfig
from scaledl.data import build_data
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit


def write(path: Path, count: int, seed: int, *, lengths: tuple[int, ...] = (6,), odd: str = "") -> list[list[float]]:
    rng = np.random.default_rng(seed)
    series = [rng.normal(size=lengths[i % len(lengths)]).round(4).tolist() for i in range(count)]
    head = ["@problemName Toy", "@timeStamps false", "@univariate true", "@classLabel true 1 2 10", "@data"]
    lines = [",".join(map(repr, values)) + f":{(1, 2, 10)[i % 3]}" for i, values in enumerate(series)]
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([*head, *lines, *([odd] if odd else [])]) + "\n")
    return series


def config(folder: Path | None) -> DataConfig:
    return DataConfig(source="ucr", root=None if folder is None else str(folder))


def test_its_own_splits_are_kept_and_shorter_series_padded(tmp_path: Path) -> None:
    write(tmp_path / "Toy/Toy_TRAIN.ts", 30, 0, lengths=(6, 4))
    test = write(tmp_path / "Toy/Toy_TEST.ts", 9, 1, lengths=(8, 3))
    data = build_data(config(tmp_path / "Toy"), seed=0)
    assert (data.spec.in_shape, data.spec.labels, data.spec.modality) == ((1, 8), ("1", "2", "10"), "series")
    assert (len(data.train), len(data.val), len(data.test)) == (27, 3, 9)
    for row, values in zip(data.test.inputs, test, strict=True):
        assert torch.equal(row[0], torch.tensor([*values, *[0.0] * (8 - len(values))]))
    assert data.test.labels.tolist() == [0, 1, 2] * 3


@pytest.mark.parametrize("settings", [{}, {"classes": ["2", "10"], "limit": 7}])
def test_statistics_are_those_of_the_steps_that_were_measured(tmp_path: Path, settings: dict[str, Any]) -> None:
    train = write(tmp_path / "Toy/Toy_TRAIN.ts", 30, 0, lengths=(50, 4, 9, 17))
    write(tmp_path / "Toy/Toy_TEST.ts", 9, 1, lengths=(60,))
    data = build_data(DataConfig(source="ucr", root=str(tmp_path / "Toy"), **settings), seed=0)
    known = {tuple(np.float32(values).tolist()): values for values in train}
    rows = [row[0].tolist() for row in data.train.inputs]
    mine = [values for row in rows for short, values in known.items() if row[: len(short)] == list(short)]
    assert len(mine) == len(rows) < 30
    every = np.concatenate(mine)
    assert np.allclose([*data.spec.mean, *data.spec.std], [every.mean(), every.std()], atol=1e-6)


def test_what_cannot_be_used_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data\.root: missing; with data\.source=ucr .*timeseriesclassification"):
        build_data(config(None), 0)
    with pytest.raises(UsageError, match=r"data\.root: got .*nowhere, which does not exist"):
        build_data(config(tmp_path / "nowhere"), 0)
    write(tmp_path / "Toy/Toy_TRAIN.ts", 30, 0)
    with pytest.raises(UsageError, match=r"needs NAME_TRAIN and NAME_TEST, and no others; fix: .*data prepare"):
        build_data(config(tmp_path / "Toy"), 0)
    write(tmp_path / "Toy/Toy_TEST.ts", 9, 1, odd="1,?,3:1")
    with pytest.raises(
        UsageError, match=r"1 series cannot be used, the first: Toy_TEST\.ts:15: a missing value.*prepare"
    ):
        build_data(config(tmp_path / "Toy"), 0)


def test_a_split_of_another_name_is_not_left_out_without_a_word(tmp_path: Path) -> None:
    for seed, name in enumerate(("TRAIN", "VAL", "TEST")):
        write(tmp_path / f"Toy/Toy_{name}.ts", 9, seed)
    with pytest.raises(UsageError, match="and no others"):
        build_data(config(tmp_path / "Toy"), 0)
