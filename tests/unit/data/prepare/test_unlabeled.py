"""Samples without a label: left out, or kept for those who learn from them; and targets of which some are missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.data.prepare.pictures import image_folder

from scaledl.api.datasets import describe_data, survey_source
from scaledl.config import load_config
from scaledl.config.schema import DataConfig, PrepareConfig
from scaledl.data import DataModule, build_data
from scaledl.data.arrays import NO_CLASS
from scaledl.data.prepare.next_step import training_keys
from scaledl.data.prepare.run import prepare
from scaledl.data.stream.split import Stream
from scaledl.errors import UsageError
from scaledl.report import write_dataset_page
from scaledl.tasks.model import check_task, model_for

pytestmark = pytest.mark.unit

SPLITS = ("train", "val", "test")


def made(source: Path, out: Path, **settings: Any) -> tuple[dict[str, Any], DataModule]:
    document = prepare(source, out, PrepareConfig.model_validate(settings))
    assert write_dataset_page(out, document).exists()
    assert describe_data(load_config(None, [f"data.source={out}/"]))["fingerprint"] == document["fingerprint"]
    return document, build_data(DataConfig.model_validate({"source": "prepared", "root": str(out)}), seed=0)


def listed(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "items.jsonl").read_text().splitlines()]


def reasons(out: Path) -> list[str]:
    return [json.loads(line)["reason"] for line in (out / "dropped.jsonl").read_text().splitlines()]


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def people(count: int = 120, labelled: int = 40) -> list[dict[str, Any]]:
    """Rows of which the first have a label."""
    rng = np.random.default_rng(0)
    return [
        {"size": round(rng.normal(), 5), "label": "ab"[i % 2] if i < labelled else "", "day": i, "house": f"h{i % 20}"}
        for i in range(count)
    ]


def check(data: DataModule, document: dict[str, Any], without: int) -> None:
    """`without`: training samples that have no label."""
    assert document["unlabeled"] == data.spec.unlabeled == int((data.train.labels == NO_CLASS).sum()) == without
    assert data.val.labels.min() >= 0
    assert data.test.labels.min() >= 0
    assert sum(data.class_counts("train")) == len(data.train) - without
    assert document["profile"]["classes"]["train"] == list(data.class_counts("train"))
    assert training_keys(document)[-1] == "task.name=semi_supervised"


def test_rows_without_a_label_are_kept_to_train_with(tmp_path: Path) -> None:
    source = table(tmp_path / "t.csv", people())
    document, data = made(source, tmp_path / "set", unlabeled="keep", exclude=["day", "house"])
    check(data, document, 80)
    assert [len(getattr(data, split)) for split in SPLITS] == [108, 4, 8]  # 28 of 40 with a label, and 80 without
    assert data.class_counts("test") == (4, 4)
    assert {row["label"] for row in listed(tmp_path / "set") if row["split"] == "train"} == {"a", "b", None}
    assert "80" in (tmp_path / "set" / "index.html").read_text()
    found = survey_source(str(source), load_config(None, ["data.prepare.unlabeled=keep"]))
    assert (found["items"], found["unlabeled"], found["classes"]) == (120, 80, {"a": 20, "b": 20})


def test_they_are_left_out_by_default_and_the_message_says_how_to_keep_them(tmp_path: Path) -> None:
    source = table(tmp_path / "t.csv", people())
    with pytest.raises(UsageError, match=r"80 x no label.*or keep what has no label.*data\.prepare\.unlabeled=keep"):
        prepare(source, tmp_path / "set", PrepareConfig())
    document, data = made(source, tmp_path / "set", max_dropped=1.0)
    assert document["dropped"]["no label"] == 80
    assert "unlabeled" not in document
    assert data.spec.unlabeled == 0


def test_what_is_without_a_label_follows_its_group_and_its_time_out_of_the_training_split(tmp_path: Path) -> None:
    rows = people()
    source = table(tmp_path / "t.csv", rows)
    out = tmp_path / "group"
    document, data = made(source, out, unlabeled="keep", group="house", exclude=["day"], max_dropped=0.0)
    keys = {row["key"]: row["split"] for row in listed(out)}
    houses = {split: {rows[int(key[6:]) - 2]["house"] for key in keys if keys[key] == split} for split in SPLITS}
    assert not houses["train"] & (houses["val"] | houses["test"])
    check(data, document, 4 * len(houses["train"]))
    gone = [f"no label: and it belongs to what is in the {split} split" for split in ("test", "val")]
    assert set(reasons(out)) == set(gone)

    for i, row in enumerate(rows):  # a third of all days has labels
        row["label"] = "ab"[i // 3 % 2] if i % 3 == 0 else ""
    out = tmp_path / "time"
    document, data = made(table(source, rows), out, unlabeled="keep", time="day", exclude=["house"])
    days = {split: [int(row["key"][6:]) - 2 for row in listed(out) if row["split"] == split] for split in SPLITS}
    assert max(days["train"]) < min(days["val"]) <= max(days["val"]) < min(days["test"])
    assert len(days["test"]) == 8  # a fifth of those with labels
    check(data, document, sum(day % 3 > 0 for day in days["train"]))


def test_texts_without_a_label_follow_their_time_where_some_are_nearly_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{number}" for number in rng.integers(0, 900, 25)) for _ in range(120)]
    texts[11] = f"{texts[10]} again"
    rows = [{"text": text, "label": "ab"[i // 3 % 2] if i % 3 == 0 else None, "day": i} for i, text in enumerate(texts)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "set"
    document, data = made(tmp_path / "t.jsonl", out, unlabeled="keep", text="text", time="day", max_dropped=0.0)
    days = {split: [int(row["key"][8:]) - 1 for row in listed(out) if row["split"] == split] for split in SPLITS}
    assert max(days["train"]) < min(days["val"]) <= max(days["val"]) < min(days["test"])
    assert {10, 11} <= set(days["train"])
    check(data, document, sum(day % 3 > 0 for day in days["train"]))
    assert set(reasons(out)) == {f"no label: and it belongs to what is in the {split} split" for split in SPLITS[1:]}


def test_of_equal_samples_the_one_with_a_label_stays(tmp_path: Path) -> None:
    rows = people()
    rows += [{**rows[0], "label": ""}, {**rows[0], "label": ""}, {**rows[100]}]
    document, _ = made(table(tmp_path / "t.csv", rows), tmp_path / "set", unlabeled="keep", exclude=["day", "house"])
    assert document["dropped"] == {"an exact copy": 3}
    assert next(row for row in listed(tmp_path / "set") if row["key"] == "t.csv:2")["label"] == "a"


def test_validation_and_test_rows_of_the_source_need_a_label(tmp_path: Path) -> None:
    rows = [{**row, "part": ("train", "train", "test")[i % 3]} for i, row in enumerate(people())]
    out = tmp_path / "set"
    document, data = made(
        table(tmp_path / "t.csv", rows), out, unlabeled="keep", split="part", exclude=["day", "house"], max_dropped=0.5
    )
    assert document["dropped"] == {"no label": sum(i % 3 == 2 for i in range(40, 120))}
    check(data, document, sum(i % 3 < 2 for i in range(40, 120)))


@pytest.mark.parametrize("layout", ["beside the classes", "beside the splits", "in the training split"])
def test_a_folder_of_pictures_without_labels(tmp_path: Path, layout: str) -> None:
    root = tmp_path / "pictures"
    image_folder(root, ("cat", "dog", "Unlabeled"), each=15)
    if layout != "beside the classes":
        for part, count in (("train", 10), ("test", 5)):
            for name in ("cat", "dog"):
                (root / part / name).mkdir(parents=True)
                for file in sorted((root / name).iterdir())[:count]:
                    file.rename(root / part / name / file.name)
        for name in ("cat", "dog"):
            (root / name).rmdir()
    if layout == "in the training split":
        shutil.move(root / "Unlabeled", root / "train" / "unsup")
    document, data = made(root, tmp_path / "set", unlabeled="keep", near_duplicates="keep")
    assert data.spec.labels == ("cat", "dog")
    check(data, document, 15)
    with pytest.raises(UsageError, match=r"15 x no label"):
        prepare(root, tmp_path / "other", PrepareConfig())
    _, streamed = made(root, tmp_path / "shards", unlabeled="keep", shard_mb=1, near_duplicates="keep")
    assert isinstance(streamed.train, Stream)
    assert streamed.spec.unlabeled == 15
    order = streamed.train.by_id
    assert torch.equal(streamed.train.labels[order], data.train.labels)
    assert made(root, tmp_path / "none", target="none", near_duplicates="keep")[1].spec.target == "none"


def test_texts_of_jsonl_and_of_folders(tmp_path: Path) -> None:
    def words(i: int) -> str:
        return " ".join(f"w{(i * 37 + k * k * 11) % 97}" for k in range(9))

    rows = [{"text": words(i), "label": "ab"[i % 2] if i < 40 else None} for i in range(90)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings: dict[str, Any] = {"unlabeled": "keep", "near_duplicates": "keep"}
    document, data = made(tmp_path / "t.jsonl", tmp_path / "a", text="text", **settings)
    check(data, document, 50)
    for row in rows:
        folder = tmp_path / "reviews" / "train" / (row["label"] or "unsup")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{len(list(folder.iterdir()))}.txt").write_text(str(row["text"]))
    document, data = made(tmp_path / "reviews", tmp_path / "b", **settings)
    check(data, document, 50)


def test_arrays_say_it_by_minus_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.where(np.arange(60) < 30, np.arange(60) % 3, -1)
    np.savez(tmp_path / "a.npz", x=rng.integers(0, 255, (60, 8, 8), dtype=np.uint8), y=y)
    document, data = made(tmp_path / "a.npz", tmp_path / "set", unlabeled="keep", near_duplicates="keep")
    assert data.spec.labels == ("0", "1", "2")
    check(data, document, 30)


def arrays_of(path: Path, y: np.ndarray[Any, Any]) -> Path:
    x = np.random.default_rng(0).integers(0, 255, (len(y), 8, 8), dtype=np.uint8)
    np.savez(path, x=x, y=y)
    return path


def test_minus_one_in_arrays_is_no_label_however_these_are_treated(tmp_path: Path) -> None:
    source = arrays_of(tmp_path / "a.npz", np.where(np.arange(60) < 52, np.arange(60) % 3, -1))
    said = "8 labels are -1, which stands for no label (data.prepare.unlabeled)"
    document, data = made(source, tmp_path / "dropped", near_duplicates="keep")
    assert (data.spec.labels, document["notes"], document["dropped"]) == (("0", "1", "2"), [said], {"no label": 8})
    assert set(reasons(tmp_path / "dropped")) == {"no label: -1 stands for none"}
    document, data = made(source, tmp_path / "kept", near_duplicates="keep", unlabeled="keep")
    assert (data.spec.labels, document["notes"], document["unlabeled"]) == (("0", "1", "2"), [said], 8)
    assert survey_source(str(source), load_config(None, []))["notes"] == [said]
    assert made(source, tmp_path / "none", near_duplicates="keep", target="none")[0]["notes"] == []


def test_too_many_of_them_are_refused_with_a_way_out(tmp_path: Path) -> None:
    source = arrays_of(tmp_path / "a.npz", np.arange(60) % 3 - 1)
    with pytest.raises(UsageError, match=r"20 x no label.*or give -1 another number where it is a class.*=keep"):
        prepare(source, tmp_path / "set", PrepareConfig(near_duplicates="keep"))


@pytest.mark.parametrize("unlabeled", ["drop", "keep"])
def test_minus_one_beside_one_other_number_is_a_class(tmp_path: Path, unlabeled: str) -> None:
    source = arrays_of(tmp_path / "a.npz", np.arange(60) % 2 * 2 - 1)
    document, data = made(source, tmp_path / "set", near_duplicates="keep", unlabeled=unlabeled)
    assert set(data.spec.labels) == {"-1", "1"}
    assert document["notes"] == ["30 labels are -1, which is a class of its own here: there is one other number alone"]


@pytest.mark.parametrize("unlabeled", ["drop", "keep"])
def test_minus_one_in_a_cell_is_a_class_and_said_to_be_one(tmp_path: Path, unlabeled: str) -> None:
    rows = [{**row, "label": i % 3 - 1} for i, row in enumerate(people())]
    source = table(tmp_path / "t.csv", rows)
    document, data = made(source, tmp_path / "set", exclude=["day", "house"], unlabeled=unlabeled)
    assert set(data.spec.labels) == {"-1", "0", "1"}
    said = "which is a class of its own here: an empty cell says that there is no label (data.prepare.unlabeled)"
    assert document["notes"] == [f"40 labels are -1, {said}"]


def test_other_tasks_refuse_such_a_set_and_say_what_to_do(tmp_path: Path) -> None:
    _, data = made(table(tmp_path / "t.csv", people()), tmp_path / "set", unlabeled="keep", exclude=["day", "house"])
    config = load_config(None, [f"data.source={tmp_path}/set", "model.family=mlp"])
    message = (
        r"task\.name: got classification, and 80 training samples of data\.source .* have no label; allowed for them: "
        r"contrastive, .*semi_supervised; fix: one of these, or prepare the data with data\.prepare\.unlabeled=drop"
    )
    for refuse in (lambda: model_for(config, data.spec), lambda: check_task(config, data)):
        with pytest.raises(UsageError, match=message):
            refuse()
    config = load_config(None, [f"data.source={tmp_path}/set", "model.family=mlp", "task.name=semi_supervised"])
    check_task(config, data)
    for change, key in (("data.sampling=balanced", "data.sampling"), ("data.augment.mixup=0.2", "data.augment.mixup")):
        with pytest.raises(UsageError, match=f"{key}.*: "):
            check_task(load_config(None, [f"data.source={tmp_path}/set", "task.name=semi_supervised", change]), data)


def test_a_part_of_the_set_keeps_them_where_they_may_belong(tmp_path: Path) -> None:
    rows = [{**row, "label": row["label"] and "abc"[i % 3]} for i, row in enumerate(people())]
    made(table(tmp_path / "t.csv", rows), tmp_path / "set", unlabeled="keep", exclude=["day", "house"])
    config = {"source": "prepared", "root": str(tmp_path / "set")}
    for part, counts, unlabeled in (
        ({"limit": 3}, (3, 3, 3), 80),
        ({"classes": ["c", "a", "b"], "limit": 2}, (2, 2, 2), 80),
        ({"classes": ["b", "a"], "limit": 2}, (2, 2), 0),  # they may be of the third
    ):
        data = build_data(DataConfig.model_validate({**config, **part}), seed=0)
        assert (data.class_counts(), data.spec.unlabeled) == (counts, unlabeled)
        assert int((data.train.labels < 0).sum()) == unlabeled


def houses(count: int = 150) -> list[dict[str, Any]]:
    """Rooms, and three things to learn of each, of which some are missing."""
    rng = np.random.default_rng(1)
    rows = [{"rooms": round(rng.normal(), 4), "area": round(rng.normal(), 4)} for _ in range(count)]
    return [
        {
            **row,
            "price": "" if i % 5 == 1 else round(100 + 9 * row["rooms"], 3),
            "style": "" if i % 5 == 2 else "flat" if row["area"] < 0 else "house" if row["area"] < 0.7 else "castle",
            "garden": "" if i % 5 in (1, 2, 3) else "yes" if row["rooms"] > 0 else "no",
        }
        for i, row in enumerate(rows)
    ]


TARGETS = ["price", "style", "garden"]


def test_columns_of_several_kinds(tmp_path: Path) -> None:
    rows = houses()
    source = table(tmp_path / "t.csv", rows)
    document, data = made(source, tmp_path / "set", targets=TARGETS, unlabeled="keep")
    spec = data.spec
    assert (spec.target, spec.labels, spec.in_shape) == ("numbers", ("price", "style", "garden"), (2,))
    assert spec.target_classes == ((), ("castle", "flat", "house"), ("no", "yes"))
    absent = data.train.labels.isnan()
    assert document["unlabeled"] == spec.unlabeled == int(absent.any(1).sum()) > 0
    assert [one.get("missing", 0) for one in document["targets"]] == absent.sum(0).tolist()
    assert spec.target_mean == pytest.approx(data.train.labels.double().nanmean(0).tolist())
    for split in (data.train, data.val, data.test):
        for id, label in zip(split.ids.tolist(), split.labels, strict=True):
            row = rows[int(listed(tmp_path / "set")[id]["key"][6:]) - 2]
            known = [row["price"], *(names.index(row[key]) if row[key] else "" for key, names in NAMED)]
            assert [None if cell == "" else pytest.approx(cell) for cell in known] == [
                None if value != value else value for value in label.tolist()
            ]
    keys = training_keys(document)
    heads = {
        "price": {"kind": "numbers", "columns": ["price"]},
        "style": {"kind": "class", "columns": ["style"]},
        "garden": {"kind": "class", "columns": ["garden"]},
    }
    assert keys == ["model.family=mlp", "task.name=multi_task", f"task.heads={json.dumps(heads)}"]
    check_task(load_config(None, [f"data.source={tmp_path}/set", *keys]), data)
    dropped, _ = made(source, tmp_path / "whole", targets=TARGETS, max_dropped=1.0)
    assert dropped["dropped"] == {"no label": 90}
    assert "unlabeled" not in dropped


NAMED = (("style", ["castle", "flat", "house"]), ("garden", ["no", "yes"]))


def test_a_column_of_whole_numbers_can_be_one_of_classes(tmp_path: Path) -> None:
    rows = [{**row, "stars": i % 3 + 2} for i, row in enumerate(houses())]
    settings: dict[str, Any] = {"targets": ["price", "stars"], "exclude": ["style", "garden"], "unlabeled": "keep"}
    source = table(tmp_path / "t.csv", rows)
    assert made(source, tmp_path / "a", **settings)[1].spec.target_classes == ()
    spec = made(source, tmp_path / "b", **settings, categorical=["stars"])[1].spec
    assert spec.target_classes == ((), ("2", "3", "4"))


def test_a_column_that_a_split_has_nothing_of_is_named(tmp_path: Path) -> None:
    rows = [{**row, "stars": i if i == 7 else ""} for i, row in enumerate(houses())]
    with pytest.raises(UsageError, match=r"data\.prepare\.targets: no sample of the .* split has a value of 'stars'"):
        prepare(
            table(tmp_path / "t.csv", rows),
            tmp_path / "set",
            PrepareConfig(targets=["price", "stars"], exclude=["style", "garden"], unlabeled="keep"),
        )


def test_regression_wants_numbers_alone(tmp_path: Path) -> None:
    _, data = made(table(tmp_path / "t.csv", houses()), tmp_path / "set", targets=TARGETS, unlabeled="keep")
    config = load_config(None, [f"data.source={tmp_path}/set", "model.family=mlp", "task.name=regression"])
    message = (
        r"task\.name: got regression, and 'style' .* is one of the classes castle, flat, house; allowed: multi_task"
    )
    with pytest.raises(UsageError, match=message):
        model_for(config, data.spec)


def test_arrays_of_numbers_say_it_by_nan(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 3)).astype(np.float32), rng.normal(size=(80, 2)).astype(np.float32)
    y[::4, 0], y[1::4, 1], y[2] = np.nan, np.nan, np.nan
    np.savez(tmp_path / "a.npz", x=x, y=y)
    document, data = made(tmp_path / "a.npz", tmp_path / "set", unlabeled="keep")
    assert document["dropped"] == {"no label": 1}
    assert torch.equal(data.train.labels.isnan().any(1).sum(), torch.tensor(document["unlabeled"]))
