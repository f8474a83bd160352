"""Data sets as `datasets` saves them, and as the hub has them, read with pyarrow alone."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.unit.data.prepare.pictures import picture

from scaledl.config.schema import PrepareConfig
from scaledl.data.prepare import chunks as chunks_module
from scaledl.data.prepare.images import decode_image
from scaledl.data.prepare.run import prepare
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
NAMES = ["cat", "dog"]


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(seed, 16, 16)).save(file, "PNG")
    return file.getvalue()


def features(**classes: Sequence[str]) -> dict[str, Any]:
    return {name: {"names": list(names), "_type": "ClassLabel"} for name, names in classes.items()}


def images(count: int, first: int = 0, *, described: bool = True) -> pa.Table:
    cells = [{"bytes": png(i), "path": f"{i}.png"} for i in range(first, first + count)]
    table = pa.table({"image": pa.array(cells, IMAGE), "label": pa.array([i % 2 for i in range(count)], pa.int64())})
    return with_features(table, {"image": {"_type": "Image"}, **features(label=NAMES)}) if described else table


def with_features(table: pa.Table, found: dict[str, Any]) -> pa.Table:
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": found}})})


def save_to_disk(folder: Path, table: pa.Table, shards: int = 1, **state: Any) -> Path:
    """As Dataset.save_to_disk of datasets 5.2 does."""
    folder.mkdir(parents=True)
    names = [f"data-{i:05d}-of-{shards:05d}.arrow" for i in range(shards)]
    for i, name in enumerate(names):
        rows = np.array_split(np.arange(len(table)), shards)[i]
        part = table.slice(rows[0], len(rows))
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, part.schema) as stream:
            stream.write_table(part, max_chunksize=7)
    metadata = json.loads(table.schema.metadata[b"huggingface"])["info"] if table.schema.metadata else {}
    (folder / "dataset_info.json").write_text(json.dumps(metadata))
    files = [{"filename": name} for name in names]
    (folder / "state.json").write_text(json.dumps({"_data_files": files, "_split": None, **state}))
    return folder


def hub(folder: Path, group: int = 7, **tables: pa.Table) -> Path:
    (folder / "data").mkdir(parents=True)
    for split, table in tables.items():
        pq.write_table(table, folder / f"data/{split}-00000-of-00001.parquet", row_group_size=group)
    return folder


def made(tmp_path: Path, source: Path, **settings: Any) -> dict[str, Any]:
    return prepare(source, tmp_path / "out", PrepareConfig.model_validate({"max_dropped": 1.0, **settings}))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def rows(document: dict[str, Any]) -> dict[str, int]:
    return {split: part["rows"] for split, part in document["splits"].items()}


def test_a_dict_of_splits_that_was_saved(tmp_path: Path) -> None:
    root = tmp_path / "pets"
    save_to_disk(root / "train", images(20), shards=2)
    save_to_disk(root / "validation", images(6, first=100))
    save_to_disk(root / "test", images(8, first=200))
    (root / "dataset_dict.json").write_text('{"splits": ["train", "validation", "test"]}')
    document = made(tmp_path, root)
    assert document["labels"] == NAMES
    assert document["plan"]["kind"] == "huggingface"
    assert rows(document) == {"train": 20, "val": 6, "test": 8}
    np.testing.assert_array_equal(np.load(tmp_path / "out/test-images.npy")[5], picture(205, 16, 16))
    np.testing.assert_array_equal(np.load(tmp_path / "out/train-labels.npy"), [i % 2 for i in range(20)])
    keys = [row["key"] for row in lines(tmp_path / "out/items.jsonl")]
    assert keys[10] == "train/data-00001-of-00002.arrow:1"


def test_one_data_set_that_was_saved_and_one_of_the_cache(tmp_path: Path) -> None:
    document = made(tmp_path, save_to_disk(tmp_path / "pets", images(20)))
    assert rows(document) == {"train": 14, "val": 2, "test": 4}
    folder = save_to_disk(tmp_path / "cache", images(20))
    (folder / "state.json").unlink()
    (folder / "data-00000-of-00001.arrow").rename(folder / "pets-train.arrow")
    (folder / "cache-0123.arrow").write_bytes(b"of a map that was made once")
    assert rows(prepare(folder, tmp_path / "other", PrepareConfig())) == rows(document)


@pytest.mark.parametrize("group", [3, 1000])
def test_parquet_as_the_hub_has_it(tmp_path: Path, group: int) -> None:
    document = made(tmp_path, hub(tmp_path / "pets", group, train=images(20), test=images(8, first=200)))
    assert document["labels"] == NAMES
    assert rows(document) == {"train": 18, "val": 2, "test": 8}
    np.testing.assert_array_equal(np.load(tmp_path / "out/test-images.npy")[5], picture(205, 16, 16))
    assert lines(tmp_path / "out/items.jsonl")[-1]["key"] == "data/test-00000-of-00001.parquet:8"


def test_one_parquet_file_without_a_description(tmp_path: Path) -> None:
    pq.write_table(images(20, described=False), tmp_path / "some.parquet")
    assert made(tmp_path, tmp_path / "some.parquet")["labels"] == ["0", "1"]


def test_images_that_cannot_be_used_are_left_out(tmp_path: Path) -> None:
    table = images(20).to_pydict()
    table["image"][3] = {"bytes": None, "path": "/etc/passwd"}
    table["image"][4] = None
    table["image"][5] = {"bytes": b"", "path": None}
    table["image"][6] = {"bytes": png(6)[:60], "path": None}
    table["label"][7], table["label"][8], table["label"][9] = -1, None, 2
    found = with_features(
        pa.table({"image": pa.array(table["image"], IMAGE), "label": table["label"]}), features(label=NAMES)
    )
    for name, source in (("arrow", save_to_disk(tmp_path / "a", found)), ("parquet", hub(tmp_path / "b", train=found))):
        prepare(source, tmp_path / name, PrepareConfig(max_dropped=1))
        reasons = {int(row["key"].split(":")[1]): row["reason"] for row in lines(tmp_path / name / "dropped.jsonl")}
        assert [reasons[row] for row in (4, 5)] == ["cannot be read: the data set has no bytes of it"] * 2
        assert reasons[6] == "empty file"
        assert reasons[7].startswith(("damaged", "no image"))
        assert [reasons[row] for row in (8, 9, 10)] == ["no label"] * 3
        assert len(reasons) == 7


def test_texts(tmp_path: Path) -> None:
    table = pa.table({"text": [f"text {i}" for i in range(20)], "label": [i % 2 for i in range(20)]})
    document = made(tmp_path, save_to_disk(tmp_path / "texts", with_features(table, features(label=["bad", "good"]))))
    assert (document["modality"], document["labels"]) == ("text", ["bad", "good"])
    assert np.load(tmp_path / "out/train-bytes.npy").tobytes().startswith(b"text ")


def test_one_text_column_of_several_is_named(tmp_path: Path) -> None:
    columns = {"title": ["t"] * 20, "body": [f"text {i}" for i in range(20)], "label": [i % 2 for i in range(20)]}
    document = made(tmp_path, hub(tmp_path / "texts", train=pa.table(columns)), text="body")
    assert document["modality"] == "text"


def test_numbers_make_a_table(tmp_path: Path) -> None:
    columns = {"size": [i / 7 for i in range(20)], "kind": [i % 3 for i in range(20)], "kept": [0] * 20}
    table = pa.table({**columns, "animal": [i % 2 for i in range(20)]})
    table = with_features(table, features(kind=["a", "b", "c"], animal=NAMES))
    document = made(tmp_path, save_to_disk(tmp_path / "t", table), label="animal", exclude=["kept"])
    assert (document["modality"], document["labels"]) == ("table", NAMES)
    assert [(one["name"], one["kind"]) for one in document["columns"]] == [("size", "numeric"), ("kind", "category")]


def test_a_split_column_and_another_label(tmp_path: Path) -> None:
    table = images(20).append_column("part", pa.array((["train"] * 4 + ["test"]) * 4))
    table = table.append_column("breed", pa.array(["x", "y", "y", "x"] * 5))
    source = save_to_disk(tmp_path / "pets", table)
    document = made(tmp_path, source, split="part", label="breed")
    assert document["labels"] == ["x", "y"]
    assert rows(document)["test"] == 4
    with pytest.raises(UsageError, match="made otherwise"):
        made(tmp_path, source, split="part")


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_an_interrupted_preparation_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    table = images(60)
    source = save_to_disk(tmp_path / "p", table) if kind == "arrow" else hub(tmp_path / "p", train=table)
    prepare(source, tmp_path / "whole", PrepareConfig())
    monkeypatch.setattr(chunks_module, "_MOST_ROWS", 16)
    seen: list[Any] = []

    def counting(content: Any, *more: Any) -> Any:
        if len(seen) == 40:
            raise KeyboardInterrupt
        seen.append(content)
        return decode_image(content, *more)

    monkeypatch.setattr(chunks_module, "decode_image", counting)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path, source)
    assert not (tmp_path / "out/dataset.json").exists()
    monkeypatch.setattr(chunks_module, "decode_image", decode_image)
    made(tmp_path, source, max_dropped=0.2)
    for path in (tmp_path / "whole").glob("*.np?"):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()


def damaged_state(folder: Path, *names: Any) -> Path:
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    return folder


@pytest.mark.parametrize("name", ["../outside.arrow", "/etc/passwd", "missing.arrow", "", ".", "..", 7])
def test_a_state_that_names_other_files(tmp_path: Path, name: Any) -> None:
    (tmp_path / "outside.arrow").write_bytes(b"")
    with pytest.raises(UsageError, match=r"state\.json: names no files, or such as are not there"):
        made(tmp_path, damaged_state(save_to_disk(tmp_path / "pets", images(4)), name))


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"splits": []}',
        '{"splits": ["../x"]}',
        '{"splits": [".."]}',
        '{"splits": [""]}',
        '{"splits": "train"}',
        "[" * 99999,
    ],
)
def test_a_damaged_description(tmp_path: Path, text: str) -> None:
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets/dataset_dict.json").write_text(text)
    with pytest.raises(UsageError, match=r"dataset_dict\.json: "):
        made(tmp_path, tmp_path / "pets")


@pytest.mark.parametrize("part", [0.0, 0.02, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_a_file_that_is_cut_short(tmp_path: Path, kind: str, part: float) -> None:
    table = images(20)
    source = save_to_disk(tmp_path / "p", table) if kind == "arrow" else hub(tmp_path / "p", train=table)
    path = next(source.rglob(f"*.{kind}"))
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(UsageError, match=rf"\.{kind}: cannot be read"):
        made(tmp_path, source)
    assert not (tmp_path / "out").exists()


def test_mistakes(tmp_path: Path) -> None:
    several = images(4).append_column("mask", images(4)["image"]).append_column("depth", images(4)["image"])
    several = several.rename_columns(["left", "label", "mask", "depth"])
    for name, source, settings, message in (
        ("a", several, {}, "several columns hold images: 'left', 'mask', 'depth'"),
        ("b", images(4), {"group": "label"}, "data.prepare.group: got 'label', but"),
        ("c", images(4), {"label": "breed"}, "data.prepare.label: got 'breed'"),
        ("d", images(4).drop_columns(["label"]), {}, "data.prepare.label: missing"),
        ("e", images(4), {"text": "image"}, "has values of type struct"),
    ):
        with pytest.raises(UsageError) as caught:
            made(tmp_path, save_to_disk(tmp_path / name, source), **settings)
        assert message in str(caught.value)
    both = hub(tmp_path / "both", train=images(4), test=images(4).drop_columns(["label"]))
    with pytest.raises(UsageError, match="differ in columns: 'label'"):
        made(tmp_path, both)


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_each_file_has_its_own_numbers_of_classes(tmp_path: Path, kind: str) -> None:
    train, test = images(20), with_features(images(8, first=200), features(label=NAMES[::-1]))
    root = tmp_path / "pets"
    if kind == "parquet":
        hub(root, train=train, test=test)
    else:
        save_to_disk(root / "train", train)
        save_to_disk(root / "test", test)
        (root / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    made(tmp_path, root)
    labels = {row["id"]: row["label"] for row in lines(tmp_path / "out/items.jsonl") if row["split"] == "test"}
    assert [labels[number] for number in sorted(labels)] == ["dog", "cat"] * 4


def test_names_of_classes_in_some_files_only(tmp_path: Path) -> None:
    source = hub(tmp_path / "pets", train=images(20), test=images(8, first=200, described=False))
    with pytest.raises(UsageError, match=r"only one of data/test-0.*\.parquet and data/train-0.* 'label'"):
        made(tmp_path, source)


def test_other_names_of_classes_are_another_source(tmp_path: Path) -> None:
    source = save_to_disk(tmp_path / "pets", images(20))
    made(tmp_path, source)
    info = source / "dataset_info.json"
    info.write_text(info.read_text().replace("cat", "cow"))
    with pytest.raises(UsageError, match=r"made otherwise \(files of the source differ"):
        made(tmp_path, source)
    assert prepare(source, tmp_path / "out", PrepareConfig(max_dropped=1), force=True)["labels"] == ["cow", "dog"]


@pytest.mark.parametrize("name", ["pets/train/data-00000-of-00001.arrow", "pets/train"])
def test_a_description_that_names_a_link(tmp_path: Path, name: str) -> None:
    save_to_disk(tmp_path / "pets/train", images(20))
    (tmp_path / "pets/dataset_dict.json").write_text('{"splits": ["train"]}')
    (tmp_path / name).rename(tmp_path / "outside")
    (tmp_path / name).symlink_to(tmp_path / "outside")
    with pytest.raises(UsageError, match="is a link out of the source's folder"):
        made(tmp_path, tmp_path / "pets")
