"""What a source holds, told without preparing it."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.unit.data.prepare.pictures import image_folder, picture, save

from scaledl.config.schema import PrepareConfig
from scaledl.data.prepare import arrow_files
from scaledl.data.prepare import survey as survey_module
from scaledl.data.prepare.run import prepare
from scaledl.data.prepare.survey import survey
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit


def test_images(tmp_path: Path) -> None:
    source = image_folder(tmp_path / "s", ("9", "10", "cat"), each=4)
    save(source / "cat/wide.png", picture(7, 24, 40))
    (source / "cat/text.png").write_bytes(b"text")
    (source / "stray.png").write_bytes(b"")
    before = sorted(tmp_path.rglob("*"))
    found = survey(source, PrepareConfig())
    assert list(found["classes"].items()) == [("9", 4), ("10", 4), ("cat", 6)]
    assert (found["kind"], found["modality"], found["items"], found["splits"]) == ("image_folder", "image", 14, {})
    assert (found["height"], found["width"], found["looked_at"]) == ([24, 24], [24, 40], 14)
    reasons = {problem["key"]: problem["reason"].partition(":")[0] for problem in found["problems"]}
    assert reasons == {
        "stray.png": "lies beside the classes' folders, so it has no label",
        "cat/text.png": "no image that is known",
    }
    assert sorted(tmp_path.rglob("*")) == before


def test_of_many_images_some_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_module, "_MOST_LOOKED_AT", 5)
    found = survey(image_folder(tmp_path / "s", each=12), PrepareConfig())
    assert (found["looked_at"], found["items"]) == (5, 24)


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(seed, 8, 8)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(("size", "groups", "looked_at"), [(10, 3, 12), (1, 12, 12), (60, 1, 12)])
def test_of_parquet_few_row_groups_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, groups: int, looked_at: int
) -> None:
    monkeypatch.setattr(survey_module, "_MOST_READ", 12)
    monkeypatch.setattr(survey_module, "_LEAST_GROUPS", 3)
    table = pa.table({"image": pa.array([png(i) for i in range(60)]), "label": [i % 2 for i in range(60)]})
    pq.write_table(table, tmp_path / "pets-00000-of-00001.parquet", row_group_size=size)
    read: list[int] = []
    real = arrow_files.RowGroups._read

    def counting(self: Any, path: Path, group: int) -> Any:
        read.append(group)
        return real(self, path, group)

    monkeypatch.setattr(arrow_files.RowGroups, "_read", counting)
    found = survey(tmp_path / "pets-00000-of-00001.parquet", PrepareConfig())
    assert (found["items"], found["looked_at"], len(read)) == (60, looked_at, groups)
    assert {0, 60 // size - 1} <= set(read)  # threads read them, in any order


def test_of_tar_shards_few_images_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_module, "_MOST_READ", 5)
    with tarfile.open(tmp_path / "pets.tar", "w") as tar:
        for name, content in [
            (f"{i}.{end}", png(i) if end == "png" else b"1") for i in range(9) for end in ("png", "cls")
        ]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    found = survey(tmp_path / "pets.tar", PrepareConfig())
    assert (found["items"], found["looked_at"]) == (9, 5)


def test_rows(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("a,label\n1,x\n2,\n")
    (tmp_path / "train.csv").write_text("a,label\n1,x\n2,y\n")
    found = survey(tmp_path, PrepareConfig())
    assert (found["modality"], found["columns"], found["splits"]) == ("table", ["a"], {"train": 2, "test": 1})
    assert found["problems"] == [{"key": "test.csv:3", "reason": "no label"}]


def test_nothing_to_look_at(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no image in a folder of a class"):
        survey(tmp_path, PrepareConfig())


def _numbered(path: Path, count: int) -> Path:
    path.write_text("a,b,label\n" + "".join(f"{i},{'' if i % 5 else i},{i}\n" for i in range(count)))
    return path


def test_a_table_says_its_columns_and_where_values_are_missing(tmp_path: Path) -> None:
    found = survey(_numbered(tmp_path / "t.csv", 10), PrepareConfig())
    assert (found["columns"], found["missing"], found["notes"]) == (["a", "b"], {"b": 8}, [])


def test_equal_rows_are_counted_as_they_would_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However they are written, in blocks of few rows, and with a column that numbers the rows."""
    monkeypatch.setattr("scaledl.data.prepare.cells._BLOCK_CELLS", 12)
    monkeypatch.setattr("scaledl.data.prepare.cells._LEAST_ROWS", 4)
    rows = [f"{i},{i % 10}.5,{'red' if i % 10 < 5 else 'blue'},{'xy'[i % 2]}" for i in range(40)]
    rows += ["40,0.50,red ,x", "41,3.5,red,x", "42,+7.5,blue,y", "43,99,red,x"]
    (tmp_path / "t.csv").write_text("id,size,colour,label\n" + "\n".join(rows) + "\n")
    found = survey(tmp_path / "t.csv", PrepareConfig())
    config = PrepareConfig(max_dropped=1.0, test_fraction=0, val_fraction=0)
    made = prepare(tmp_path / "t.csv", tmp_path / "set", config)["dropped"]
    assert found["copies"] == made["an exact copy"] == 9 * 3 + 2
    assert found["contradictions"] == made["the same row has several labels"] == 5
    assert survey(tmp_path / "t.csv", PrepareConfig(duplicates="keep"))["copies"] == 29
    assert survey(tmp_path / "t.csv", PrepareConfig(target="none"))["contradictions"] == 0


def test_equal_rows_with_other_numbers_are_no_copies(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,label\n" + "".join(f"{i % 5},{i % 3},{i}.5\n" for i in range(60)) * 2)
    found = survey(tmp_path / "t.csv", PrepareConfig(target="numbers"))
    assert (found["copies"], found["contradictions"]) == (60, 0)


def test_equal_texts_are_counted(tmp_path: Path) -> None:
    rows = [("good", "a"), ("good", "a"), ("bad", "b"), ("odd", "a"), ("odd", "b")]
    (tmp_path / "t.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    found = survey(tmp_path / "t.csv", PrepareConfig(text="text"))
    assert (found["copies"], found["contradictions"]) == (1, 2)


def test_a_table_that_cannot_be_prepared_is_shown_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,label\n" + "".join(f"{'x' if i == 7 else i},{i % 2}\n" for i in range(200)))
    found = survey(tmp_path / "t.csv", PrepareConfig())
    assert found["items"] == 200
    assert "copies" not in found
    assert found["notes"][0].startswith("copies cannot be counted: ")


def test_many_numbers_as_classes_are_doubted_unless_they_are_meant(tmp_path: Path) -> None:
    source = _numbered(tmp_path / "t.csv", 60)
    (note,) = survey(source, PrepareConfig())["notes"]
    assert note.startswith("60 classes, all of them numbers")
    assert "data.prepare.target=numbers" in note
    assert survey(source, PrepareConfig(target="class"))["notes"] == []
    assert survey(source, PrepareConfig(target="numbers"))["notes"] == []
