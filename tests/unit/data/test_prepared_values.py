"""Prepared tables and series as training takes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scaledl.config.schema import AugmentConfig, DataConfig, PrepareConfig
from scaledl.data import DataModule, DataSpec, build_data
from scaledl.data.prepare.run import prepare
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit

COLOURS = ("blue", "green", "red")


@pytest.fixture
def rows() -> list[tuple[float, str, str]]:
    rng = np.random.default_rng(0)
    return [(round(rng.normal(5, 3), 3), COLOURS[i % 3], "ny"[i % 2]) for i in range(120)]


@pytest.fixture
def table(tmp_path: Path, rows: list[tuple[float, str, str]]) -> Path:
    lines = "\n".join(f"{size},{colour},{label}" for size, colour, label in rows)
    (tmp_path / "t.csv").write_text(f"size,colour,label\n{lines}\n")
    prepare(tmp_path / "t.csv", tmp_path / "set", PrepareConfig())
    return tmp_path / "set"


def load(folder: Path, **keys: Any) -> DataModule:
    return build_data(DataConfig(source="prepared", root=str(folder), **keys), seed=0)


def test_a_table_has_a_column_for_each_number_and_each_category(
    table: Path, rows: list[tuple[float, str, str]]
) -> None:
    data = load(table)
    assert (data.spec.source, data.spec.in_shape, data.spec.modality) == ("set", (4,), "table")
    assert data.spec.mean[0] == pytest.approx(data.train.inputs[:, 0].mean().item(), rel=1e-5)
    assert data.spec.std[0] == pytest.approx(data.train.inputs[:, 0].std(correction=0).item(), rel=1e-5)
    assert (data.spec.mean[1:], data.spec.std[1:]) == ((0.0,) * 3, (1.0,) * 3)
    items = [json.loads(line) for line in (table / "items.jsonl").read_text().splitlines()]
    places = {"train": data.train, "val": data.val, "test": data.test}
    assert len(items) == 120
    for item in items:
        arrays = places[item["split"]]
        [place] = (arrays.ids == item["id"]).nonzero().flatten().tolist()
        size, colour, label = rows[int(item["key"].partition(":")[2]) - 2]
        expected = [np.float32(size), *(float(colour == one) for one in COLOURS)]
        assert arrays.inputs[place].tolist() == expected
        assert data.spec.labels[arrays.labels[place]] == label


def test_series_are_mapped(tmp_path: Path) -> None:
    head = ["@timeStamps false", "@univariate true", "@classLabel true a b", "@data"]
    for name, count in (("TRAIN", 40), ("TEST", 8)):
        lines = [f"{i},{i % 7},{i % 3 + 0.5}:{'ab'[i % 2]}" for i in range(count)]
        (tmp_path / f"Toy_{name}.ts").write_text("\n".join([*head, *lines]) + "\n")
    prepare(tmp_path / "Toy_TRAIN.ts", tmp_path / "set", PrepareConfig(duplicates="keep"))
    data = load(tmp_path / "set")
    assert (data.spec.in_shape, data.spec.modality) == ((1, 3), "series")
    assert data.test.inputs[:, 0].tolist() == [[float(i), i % 7, i % 3 + 0.5] for i in range(8)]
    assert data.spec.mean[0] == pytest.approx(data.train.inputs.mean().item(), rel=1e-5)


def test_arrays_of_another_shape_are_refused(table: Path) -> None:
    np.save(table / "train-features.npy", np.zeros((3, 2), np.float32))
    with pytest.raises(
        UsageError, match=r"train-features\.npy: holds float32 \(3, 2\) instead of float32 \(\d+, 2\); fix"
    ):
        load(table)


def test_batches_of_a_table_train_a_model(table: Path) -> None:
    [batch] = load(table).eval_loader("test", 100)
    assert batch.x.shape == (len(batch.y), 4)
    assert bool(batch.x.isfinite().all())
    assert set(batch.x[:, 1:].unique().tolist()) == {0.0, 1.0}
    assert torch.equal(batch.x[:, 1:].sum(1), torch.ones(len(batch.x)))


def test_categories_may_stay_codes(table: Path, rows: list[tuple[float, str, str]]) -> None:
    data, spread = load(table, categories="embed"), load(table)
    spec = data.spec
    assert (spec.in_shape, spec.categories, spread.spec.categories) == ((2,), (4,), ())
    assert spec.inputs.categories == (4,)
    assert (spec.mean[1], spec.std[1]) == (0.0, 1.0)
    assert spec.mean[0] == spread.spec.mean[0]
    names = [column.name for column in spec.columns]
    assert names == ["size", "colour"]
    assert spec.columns[1].categories == COLOURS
    batch = next(iter(data.eval_loader("train", 50)))
    assert torch.equal(batch.x[:, 1], data.train.inputs[:50, 1]), "codes are not standardised"
    codes = data.train.inputs[:, 1].long()
    assert torch.equal(torch.nn.functional.one_hot(codes, 4)[:, 1:].float(), spread.train.inputs[:, 1:])
    with pytest.raises(UsageError, match=r"data\.augment\.mixup: got 0\.2 with data\.categories=embed"):
        data.train_loader(4, AugmentConfig(mixup=0.2), seed=0)
    assert DataSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_a_table_of_numbers_has_nothing_to_embed(tmp_path: Path) -> None:
    lines = "\n".join(f"{i * 0.5},{i % 2}" for i in range(40))
    (tmp_path / "t.csv").write_text(f"x,label\n{lines}\n")
    prepare(tmp_path / "t.csv", tmp_path / "set", PrepareConfig())
    assert load(tmp_path / "set", categories="embed").spec == load(tmp_path / "set").spec
