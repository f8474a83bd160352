"""Files of models of tables: rows by the names of their columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scaledl.config.schema import DataConfig, ExportConfig, MLPConfig, PrepareConfig
from scaledl.data import DataModule, build_data
from scaledl.data.prepare.run import prepare
from scaledl.errors import UsageError
from scaledl.export import export_torchscript
from scaledl.models.structure import Model, Structure, new_model
from scaledl.runtime import Predictor, load
from scaledl.runtime.columns import TableColumn, encode_rows
from scaledl.runtime.signature import Outputs

pytestmark = pytest.mark.unit

COLOURS = ("blue", "green", "red")


class Embedded(nn.Module):
    """One number and one code."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(count, 3), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.cat([x[:, :2], self.embedding(x[:, 2].long())], 1))
        return logits


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    rng = np.random.default_rng(0)
    rows = [f"{rng.normal(5, 3):.3f},{COLOURS[i % 3]},{rng.normal():.3f},{'ny'[i % 2]}" for i in range(90)]
    rows[7] = ",blue,0.5,n"
    (folder / "t.csv").write_text("size,colour,weight,label\n" + "\n".join(rows) + "\n")
    prepare(folder / "t.csv", folder / "set", PrepareConfig())
    return folder / "set"


def exported(table: Path, categories: str, path: Path) -> tuple[DataModule, Model, Predictor]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = build_data(
        DataConfig.model_validate({"source": "prepared", "root": str(table), "categories": categories}), 0
    )
    if categories == "embed":
        model = Model(Embedded(4).eval(), Structure("embedded", {}, data.spec.inputs, Outputs(2)))
    else:
        model = new_model(MLPConfig(family="mlp", hidden=[4]), data.spec.inputs, 2, 0)
    export_torchscript(model, data, path, config=ExportConfig(), source={})
    return data, model, load(path)


@pytest.mark.parametrize("categories", ["one_hot", "embed"])
def test_rows_by_name_give_what_encoded_rows_give(table: Path, tmp_path: Path, categories: str) -> None:
    data, model, predictor = exported(table, categories, tmp_path / "model.ts")
    rows = [
        {"size": "4.5", "colour": "red", "weight": 1, "label": "not used"},
        {"weight": 0.25, "colour": " blue ", "size": None},
        {"size": 2.0, "colour": "mauve", "weight": -1.5},
    ]
    fill = data.spec.columns[0].fill
    assert fill is not None
    spread = {"red": [0, 0, 1], "blue": [1, 0, 0], "mauve": [0, 0, 0]}
    codes = {"red": 3, "blue": 1, "mauve": 0}
    told = [(4.5, "red", 1), (fill, "blue", 0.25), (2.0, "mauve", -1.5)]
    encoded = torch.tensor(
        [[a, *spread[c], b] if categories == "one_hot" else [a, b, codes[c]] for a, c, b in told], dtype=torch.float32
    )
    assert torch.equal(predictor.predict(rows), predictor.predict(encoded))
    by_column = {name: [row[name] for row in rows] for name in ("size", "colour", "weight")}
    assert torch.equal(predictor.predict(by_column), predictor.predict(rows))
    mean, std = torch.tensor(data.spec.mean), torch.tensor(data.spec.std)
    with torch.no_grad():
        expected = model.module.eval()((encoded - mean) / std)
    assert torch.allclose(predictor.predict(rows), expected, atol=1e-6)


def test_the_file_says_what_its_columns_are(table: Path, tmp_path: Path) -> None:
    _, _, predictor = exported(table, "embed", tmp_path / "model.ts")
    assert predictor.manifest["input"]["categories"] == [4]
    columns = predictor.manifest["preprocessing"]["columns"]
    assert [column["name"] for column in columns] == ["size", "colour", "weight"]
    assert columns[1]["categories"] == list(COLOURS)
    with pytest.raises(UsageError, match="column 2 has other codes than whole numbers below 4"):
        predictor.predict([[1.0, 1.0, 4.0]])
    with pytest.raises(UsageError, match="column 2 has other codes"):
        predictor.predict([[1.0, 1.0, 0.5]])


def test_tables_of_scikit_learn_have_names_too(tmp_path: Path) -> None:
    data = build_data(DataConfig(source="iris"), 0)
    model = new_model(MLPConfig(family="mlp", hidden=[4]), data.spec.inputs, 3, 0)
    export_torchscript(model, data, tmp_path / "model.ts", config=ExportConfig(), source={})
    predictor = load(tmp_path / "model.ts")
    row = dict(zip((column.name for column in data.spec.columns), data.test.inputs[0].tolist(), strict=True))
    assert "petal length (cm)" in row
    assert torch.equal(predictor.predict([row]), predictor.predict(data.test.inputs[:1]))
    del row["petal length (cm)"]
    with pytest.raises(UsageError, match=r"row 0: column 'petal length \(cm\)' is missing; there are 'sepal length"):
        predictor.predict([row])


COLUMNS = [TableColumn("x", fill=1.5), TableColumn("c", ("1", "b")), TableColumn("y")]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"x": "", "c": 1.0, "y": 2}], [1.5, 1, 0, 2]),
        ([{"x": "n/a", "c": "b", "y": "2e1"}], [1.5, 0, 1, 20]),
        ([{"x": float("nan"), "c": None, "y": True}], None),
        ([{"x": np.float32(0.5), "c": np.int64(1), "y": np.int32(3)}], [0.5, 1, 0, 3]),
    ],
)
def test_cells_are_read_as_when_a_set_is_prepared(rows: list[dict[str, Any]], expected: list[float] | None) -> None:
    if expected is None:
        with pytest.raises(UsageError, match="row 0: column 'y' has 'True'; wanted a number"):
            encode_rows(rows, COLUMNS, codes=False)
        return
    assert encode_rows(rows, COLUMNS, codes=False).tolist() == [expected]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([{"x": 1, "c": 1, "y": None}], "row 0: column 'y' has no value; wanted a number, as none was missing"),
        ([{"x": 1, "c": 1, "y": "1_0"}], "column 'y' has '1_0'; wanted a number"),
        ([{"x": 1, "c": 1, "y": 1}, [1, 2]], "row 1 is a list; wanted a mapping of column names"),
        ({"x": [1, 2], "c": [1], "y": [1, 2]}, "columns of 1 and of 2 values"),
        ({"x": [1, 2]}, "column 'c' is missing; there are 'x'"),
    ],
)
def test_rows_that_cannot_be_used(rows: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        encode_rows(rows, COLUMNS, codes=True)
    with pytest.raises(UsageError, match="the file does not say what its columns are"):
        encode_rows(rows, [], codes=True)
