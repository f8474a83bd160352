"""What is to be learned, of every kind: from a source to the arrays that training takes, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from scaledl.api.datasets import changed_files, describe_data, survey_source
from scaledl.config import load_config
from scaledl.config.schema import DataConfig, PrepareConfig
from scaledl.data import DataModule, build_data
from scaledl.data.arrays import IGNORED
from scaledl.data.prepare.run import prepare
from scaledl.errors import UsageError
from scaledl.report import write_dataset_page
from scaledl.runtime.tokens import parse_tokenizer

pytestmark = pytest.mark.unit

SPLITS = ("train", "val", "test")


def made(source: Path | str, out: Path, **settings: Any) -> tuple[dict[str, Any], DataModule]:
    """The document, and what training takes; everything that looks at a set looks at it."""
    document = prepare(Path(source), out, PrepareConfig.model_validate(settings))
    assert write_dataset_page(out, document).exists()
    config = load_config(None, [f"data.source={out}/"])
    assert describe_data(config)["fingerprint"] == document["fingerprint"]
    assert changed_files(config) == []
    if not str(source).startswith("python:"):
        shown = survey_source(
            str(source), load_config(None, [f"data.prepare.{k}={json.dumps(v)}" for k, v in settings.items()])
        )
        assert shown["target"] == document.get("target", "class")
    return document, load(out)


def load(out: Path, **data: Any) -> DataModule:
    return build_data(DataConfig.model_validate({"source": "prepared", "root": str(out), **data}), seed=0)


def keys(out: Path) -> dict[int, str]:
    return {row["id"]: row["key"] for row in map(json.loads, (out / "items.jsonl").read_text().splitlines())}


def by_key(out: Path, data: DataModule) -> dict[str, torch.Tensor]:
    """The label of each item, by where it came from."""
    names = keys(out)
    parts = [getattr(data, split) for split in SPLITS]
    return {names[int(i)]: label for part in parts for i, label in zip(part.ids, part.labels, strict=True)}


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [{"size": round(rng.normal(), 4), "price": round(rng.normal(50, 9), 3), "age": i % 70} for i in range(90)]


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_column_of_quantities_is_a_number_to_predict(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    document, data = made(write_table(tmp_path / "t.csv", rows), tmp_path / "set", label="price")
    spec = data.spec
    assert (document["target"], spec.target, spec.labels, spec.in_shape) == ("numbers", "numbers", ("price",), (2,))
    assert data.train.labels.dtype == torch.float32
    found = by_key(tmp_path / "set", data)
    assert {key: label.item() for key, label in found.items()} == {
        f"t.csv:{i}": pytest.approx(row["price"]) for i, row in enumerate(rows, 2)
    }
    assert spec.target_mean == pytest.approx(data.train.labels.double().mean(0).tolist())
    assert spec.target_std == pytest.approx(data.train.labels.double().std(0, correction=0).tolist())
    assert document["profile"]["classes"] == {}
    assert data.class_counts() == ()
    batch = next(iter(data.eval_loader("val", 4)))
    assert (batch.y.dtype, batch.y.shape) == (torch.float32, (4, 1))


def test_whole_numbers_are_classes_unless_asked(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    source = write_table(tmp_path / "t.csv", [{**row, "age": row["age"] % 3} for row in rows])
    assert made(source, tmp_path / "a", label="age")[1].spec.labels == ("0", "1", "2")
    spec = made(source, tmp_path / "b", label="age", target="numbers")[1].spec
    assert (spec.target, spec.labels) == ("numbers", ("age",))


def test_several_columns_are_several_numbers(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    rows[3]["age"] = ""
    source = write_table(tmp_path / "t.csv", rows)
    document, data = made(source, tmp_path / "set", targets=["price", "age"])
    assert (data.spec.labels, data.spec.in_shape) == (("price", "age"), (1,))
    assert document["dropped"] == {"no label": 1}
    assert by_key(tmp_path / "set", data)["t.csv:2"].tolist() == pytest.approx([rows[0]["price"], rows[0]["age"]])
    with pytest.raises(UsageError, match=r"data\.prepare\.targets: got them and data\.prepare\.label=price"):
        prepare(source, tmp_path / "other", PrepareConfig(label="price", targets=["age"]))


def test_rows_that_are_measured_twice_stay(tmp_path: Path) -> None:
    rows = [{"x": i // 2, "y": i / 7} for i in range(120)] + [{"x": 0, "y": 0.0}]
    document, data = made(write_table(tmp_path / "t.csv", rows), tmp_path / "set")
    assert document["dropped"] == {"an exact copy": 1}
    assert sum(len(getattr(data, split)) for split in SPLITS) == 120


def test_columns_of_0_and_1_are_classes_any_of_which_a_sample_has(tmp_path: Path) -> None:
    rows = [{"x": i * 0.5, "red": i % 2, "big": int(i % 3 == 0)} for i in range(60)]
    document, data = made(write_table(tmp_path / "t.csv", rows), tmp_path / "set", targets=["red", "big"])
    assert (document["target"], data.spec.labels) == ("classes", ("red", "big"))
    found = by_key(tmp_path / "set", data)
    assert all(found[f"t.csv:{i + 2}"].tolist() == [row["red"], row["big"]] for i, row in enumerate(rows))
    assert data.class_counts() == tuple(data.train.labels.sum(0).int().tolist())
    assert document["profile"]["classes"]["train"] == list(data.class_counts())


def test_a_separator_splits_a_label(tmp_path: Path) -> None:
    names = ["a;b", ["b", "b;"], "", "c; a ;a"]
    lines = [json.dumps({"text": f"number {i}", "label": names[i % 4]}) for i in range(40)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    _, data = made(tmp_path / "t.jsonl", tmp_path / "set", text="text", labels_separator=";", near_duplicates="keep")
    assert (data.spec.target, data.spec.labels) == ("classes", ("a", "b", "c"))
    found = by_key(tmp_path / "set", data)
    assert [found[f"t.jsonl:{i}"].tolist() for i in range(1, 5)] == [[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 1]]


def test_a_list_of_labels_needs_no_separator(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"number {i}", "label": [["a", "b"], ["b"], []][i % 3]}) for i in range(40)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    _, data = made(tmp_path / "t.jsonl", tmp_path / "set", text="text", near_duplicates="keep")
    assert data.spec.target == "classes"
    assert by_key(tmp_path / "set", data)["t.jsonl:3"].tolist() == [0, 0]


SENTENCES = [
    (["Ada", "Lovelace", f"lives{i}", "in", "Bath", "."], ["B-PER", "I-PER", "O", "O", "B-LOC", "O"]) for i in range(20)
] + [([f"Nobody{i}", "sleeps"], ["O", "O"]) for i in range(20)]


def write_conll(path: Path, sentences: list[tuple[list[str], list[str]]], gap: str = "\t") -> Path:
    blocks = ["\n".join(f"{word}{gap}NN{gap}{tag}" for word, tag in zip(*one, strict=True)) for one in sentences]
    path.write_text("-DOCSTART- -X- O\n\n" + "\n\n".join(blocks) + "\n")
    return path


def write_tagged(tmp_path: Path, form: str) -> tuple[Path, dict[str, Any]]:
    if form == "conll":
        return write_conll(tmp_path / "t.conll", SENTENCES), {}
    rows = [{"words": words, "tags": tags} for words, tags in SENTENCES]
    if form == "lists":
        (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return tmp_path / "t.jsonl", {"text": "words", "label": "tags"}
    lines = [f"{' '.join(words)},{' '.join(tags)}" for words, tags in SENTENCES]
    (tmp_path / "t.csv").write_text("\n".join(["words,tags", *lines]) + "\n")
    return tmp_path / "t.csv", {"text": "words", "label": "tags", "target": "tags"}


@pytest.mark.parametrize("form", ["conll", "lists", "csv"])
def test_words_with_tags_become_tokens_with_tags(tmp_path: Path, form: str) -> None:
    source, settings = write_tagged(tmp_path, form)
    document, data = made(source, tmp_path / "set", near_duplicates="keep", **settings)
    assert (document["target"], document["tags"], data.spec.target) == ("tags", 6, "tags")
    assert data.spec.labels == ("B-LOC", "B-PER", "I-PER", "O")
    assert data.train.labels.shape == data.train.inputs.shape
    tokenizer = parse_tokenizer(data.spec.tokenizer, "spec")
    for row, tags in zip(data.train.inputs.tolist(), data.train.labels.tolist(), strict=True):
        said = [tokenizer.id_to_token(token) for token in row]
        names = ["" if tag == IGNORED else data.spec.labels[tag] for tag in tags]
        known = {"Ada": "B-PER", "Lovelace": "I-PER", "Bath": "B-LOC", "[PAD]": ""}
        assert all(name == known.get(word, "O") for word, name in zip(said, names, strict=True))
    assert document["profile"]["classes"]["train"] == list(data.class_counts())


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_a_words_first_token_has_its_tag(tmp_path: Path, kind: str) -> None:
    source, _ = write_tagged(tmp_path, "conll")
    prepare(source, tmp_path / "set", PrepareConfig(near_duplicates="keep"))
    data = load(tmp_path / "set", text={"tokenizer": kind, "vocabulary": 300})
    tokenizer = parse_tokenizer(data.spec.tokenizer, "spec")
    labels = data.spec.labels
    for row, tags in zip(data.train.inputs.tolist(), data.train.labels.tolist(), strict=True):
        text = tokenizer.decode(row)
        assert [labels[tag] for tag in tags if tag != IGNORED] == next(
            own for words, own in SENTENCES if " ".join(words) == text
        )
        starts = [place for place, tag in enumerate(tags) if tag != IGNORED]
        if kind == "char":
            assert starts == [place for place, letter in enumerate(text) if place == 0 or text[place - 1] == " "]


def test_a_tag_is_needed_for_each_word(tmp_path: Path) -> None:
    rows = [{"words": words, "tags": tags} for words, tags in SENTENCES]
    rows[5]["tags"] = ["O"]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    document, _ = made(tmp_path / "t.jsonl", tmp_path / "set", text="words", label="tags", near_duplicates="keep")
    assert document["dropped"] == {"not a tag for each": 1}
    (tmp_path / "odd.conll").write_text("word\tO\nalone\n")
    with pytest.raises(UsageError, match=r"odd\.conll: line 2 is 'alone'; wanted a word and its tag"):
        prepare(tmp_path / "odd.conll", tmp_path / "other", PrepareConfig())


def shapes(count: int, size: tuple[int, int] = (24, 30)) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pictures of noise with a bright rectangle, and where it is."""
    rng = np.random.default_rng(3)
    found = []
    for i in range(count):
        image, mask = rng.integers(0, 90, (*size, 3), dtype=np.uint8), np.zeros(size, np.uint8)
        top, left = rng.integers(0, size[0] - 9), rng.integers(0, size[1] - 9)
        image[top : top + 8, left : left + 9] = 255
        mask[top : top + 8, left : left + 9] = 1 + i % 2
        found.append((image, mask))
    return found


def write_masks(root: Path, pairs: list[tuple[np.ndarray, np.ndarray]], palette: bool = False) -> Path:
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for i, (image, mask) in enumerate(pairs):
        Image.fromarray(image).save(root / "images" / f"{i:02}.png")
        picture = Image.fromarray(mask)
        if palette:
            picture.putpalette(list(range(256)) * 3)
        picture.save(root / "masks" / f"{i:02}.png")
    return root


@pytest.mark.parametrize("palette", [False, True])
def test_masks_come_with_their_images(tmp_path: Path, palette: bool) -> None:
    pairs = shapes(30)
    pairs[4][1][0] = 255
    document, data = made(write_masks(tmp_path / "s", pairs, palette), tmp_path / "set")
    spec = data.spec
    assert (document["target"], spec.target, spec.labels, spec.in_shape) == (
        "mask",
        "mask",
        ("0", "1", "2"),
        (3, 24, 30),
    )
    assert data.train.labels.dtype == torch.int16
    names = keys(tmp_path / "set")
    for split in SPLITS:
        arrays = getattr(data, split)
        for image, mask, id in zip(arrays.inputs, arrays.labels, arrays.ids.tolist(), strict=True):
            number = int(names[id].split("/")[1][:2])
            assert np.array_equal(image, pairs[number][0])
            assert np.array_equal(np.where(mask == IGNORED, 255, mask), pairs[number][1])
    counts = {split: list(data.class_counts(split)) for split in SPLITS}
    assert document["profile"]["classes"] == counts
    assert sum(map(sum, counts.values())) == 30 * 24 * 30 - 30
    batch = next(iter(data.eval_loader("val", 2)))
    assert batch.y.dtype == torch.int64
    assert torch.equal(batch.y, data.val.labels[:2].long())


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_masks_become_as_large_as_their_images(tmp_path: Path, fit: str) -> None:
    document, data = made(write_masks(tmp_path / "s", shapes(30)), tmp_path / "set", size=12, fit=fit)
    assert data.train.labels.shape[1:] == (12, 12)
    assert ((data.train.labels == IGNORED).any() == (fit == "pad")).item()
    inside = data.train.inputs.float().mean(-1)
    assert inside[data.train.labels > 0].mean() > 3 * inside[data.train.labels == 0].mean(), "bright is the rectangle"
    assert document["in_shape"] == [3, 12, 12]


def test_masks_of_black_and_white_are_two_classes(tmp_path: Path) -> None:
    pairs = [(image, (mask > 0).astype(np.uint8) * 255) for image, mask in shapes(24)]
    assert made(write_masks(tmp_path / "s", pairs), tmp_path / "set")[1].spec.labels == ("0", "255")


def test_classes_of_masks_may_have_names(tmp_path: Path) -> None:
    root = write_masks(tmp_path / "s", shapes(24))
    (root / "classes.txt").write_text("nothing\nodd\neven\nnever\n")
    _, data = made(root, tmp_path / "set")
    assert data.spec.labels == ("nothing", "odd", "even", "never")
    assert data.class_counts()[3] == 0
    (root / "classes.txt").write_text("nothing\nodd\n")
    with pytest.raises(UsageError, match="masks hold 2, and there are 2 names"):
        prepare(root, tmp_path / "other", PrepareConfig())


def test_images_without_a_mask_that_fits_are_left_out(tmp_path: Path) -> None:
    root = write_masks(tmp_path / "s", shapes(24))
    (root / "masks/03.png").unlink()
    Image.new("L", (5, 5)).save(root / "masks/04.png")
    Image.new("RGB", (30, 24)).save(root / "masks/05.png")
    (root / "masks/06.png").write_bytes(b"\x89PNG")
    prepare(root, tmp_path / "set", PrepareConfig())
    dropped = {
        row["key"]: row["reason"] for row in map(json.loads, (tmp_path / "set/dropped.jsonl").read_text().splitlines())
    }
    assert {key: reason.partition(":")[0] for key, reason in dropped.items()} == {
        "images/03.png": "no mask",
        "images/04.png": "its mask is 5x5 pixels, it is 30x24",
        "images/05.png": "its mask",
        "images/06.png": "its mask",
    }
    with pytest.raises(UsageError, match=r"data\.prepare\.target: got class, and the source has masks"):
        prepare(root, tmp_path / "other", PrepareConfig(target="class"))


def test_nothing_to_learn_needs_no_label(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    document, data = made(write_table(tmp_path / "t.csv", rows), tmp_path / "table", target="none")
    assert (document["labels"], data.spec.target, data.spec.labels, data.spec.in_shape) == ([], "none", (), (3,))
    assert (data.train.labels == 0).all()
    (tmp_path / "texts").mkdir()
    for i in range(30):
        (tmp_path / f"texts/{i}.txt").write_text(f"story number {i} " * (i + 1))
    assert made(tmp_path / "texts", tmp_path / "set", target="none", near_duplicates="keep")[1].spec.target == "none"
    (tmp_path / "pictures").mkdir()
    for i, (image, _) in enumerate(shapes(24)):
        Image.fromarray(image).save(tmp_path / f"pictures/{i}.png")
    _, images = made(tmp_path / "pictures", tmp_path / "images", target="none")
    assert (images.spec.target, images.spec.modality) == ("none", "image")


def test_arrays_say_by_their_shape_what_is_learned(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (30, 8, 9, 3), dtype=np.uint8)
    series = rng.normal(size=(30, 2, 7)).astype(np.float32)
    cases: dict[str, tuple[np.ndarray, np.ndarray, Any, str]] = {
        "numbers": (images, rng.normal(size=30), torch.float32, "image"),
        "classes": (images, (rng.random((30, 4)) > 0.5).astype(int), torch.float32, "image"),
        "mask": (images, rng.integers(-1, 3, (30, 8, 9)), torch.int16, "image"),
        "tags": (series, rng.integers(0, 3, (30, 7)), torch.int64, "series"),
        "class": (rng.normal(size=(30, 5)), np.arange(30) % 2, torch.int64, "table"),
    }
    for target, (x, y, dtype, modality) in cases.items():
        np.savez(tmp_path / f"{target}.npz", x=x, y=y)
        _, data = made(tmp_path / f"{target}.npz", tmp_path / target, near_duplicates="keep")
        assert (data.spec.target, data.spec.modality, data.train.labels.dtype) == (target, modality, dtype)
        for key, label in by_key(tmp_path / target, data).items():
            own = y[int(key.split("[")[1][:-1])]
            assert np.allclose(np.where(label == IGNORED, -1, label), own)


@pytest.mark.parametrize(
    ("settings", "target"), [({"target": "tags"}, "tags"), ({"kind": "series"}, "tags"), ({}, "classes")]
)
def test_arrays_of_0_and_1_are_tags_where_the_config_says_so(
    tmp_path: Path, settings: dict[str, Any], target: str
) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", x=rng.normal(size=(30, 7)), y=rng.integers(0, 2, (30, 7)))
    _, data = made(tmp_path / "a.npz", tmp_path / "set", **settings)
    assert (data.spec.target, data.spec.modality) == (target, "series" if target == "tags" else "table")
    assert len(data.spec.labels) == (2 if target == "tags" else 7)


@pytest.mark.parametrize("shape", [(30, 2, 7), (30, 7)])
@pytest.mark.parametrize("target", ["class", "numbers"])
def test_arrays_are_series_where_the_config_says_so(tmp_path: Path, shape: tuple[int, ...], target: str) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=shape), rng.normal(size=30) if target == "numbers" else np.arange(30) % 2
    x[3] = np.nan
    np.savez(tmp_path / "a.npz", x=x, y=y)
    document, data = made(tmp_path / "a.npz", tmp_path / "set", kind="series")
    assert (document["plan"]["kind"], data.spec.modality, data.spec.target) == ("npz", "series", target)
    assert data.spec.in_shape == (shape[1] if len(shape) == 3 else 1, 7)
    assert document["splits"]["train"]["rows"] + len(data.val) + len(data.test) == 29
    assert "a.npz:x[3]" in (tmp_path / "set/dropped.jsonl").read_text()


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        (
            "series",
            (30, 8, 8, 3),
            r"kind: got series, and x of .* is float64 \(30, 8, 8, 3\); allowed: numbers \[N, C, T\]",
        ),
        ("table", (30, 2, 7), r"kind: got table, and x of .* is float64 \(30, 2, 7\); allowed: numbers \[N, F\]"),
        (
            "text",
            (30, 7),
            r"kind: got text, and .*a\.npz is an \.npz file; allowed: npz, series, table; fix: leave it out",
        ),
        (
            "auto",
            (30, 8, 7),
            r"expected 0\.\.255, or 0\.\.1 as floats; fix: data\.prepare\.kind=series, if these are series",
        ),
    ],
)
def test_arrays_that_are_not_what_the_config_says(
    tmp_path: Path, kind: Any, shape: tuple[int, ...], message: str
) -> None:
    np.savez(tmp_path / "a.npz", x=np.random.default_rng(0).normal(size=shape), y=np.arange(30) % 2)
    with pytest.raises(UsageError, match=message):
        prepare(tmp_path / "a.npz", tmp_path / "set", PrepareConfig(kind=kind))


def test_series_of_the_archive_may_have_numbers(tmp_path: Path) -> None:
    for name, count in (("TRAIN", 40), ("TEST", 12)):
        head = ["@timeStamps false", "@univariate true", "@targetLabel true", "@data"]
        lines = [f"{i},{i % 5},{count}:{i / 3}" for i in range(count)]
        (tmp_path / f"Toy_{name}.ts").write_text("\n".join([*head, *lines]) + "\n")
    _, data = made(tmp_path / "Toy_TRAIN.ts", tmp_path / "set")
    assert (data.spec.target, data.spec.labels, data.spec.in_shape) == ("numbers", ("value",), (1, 3))
    raw = build_data(DataConfig(source="ucr", root=str(tmp_path)), seed=0)
    assert raw.spec.target == "numbers"
    assert raw.test.labels.squeeze(1).tolist() == pytest.approx([i / 3 for i in range(12)])


def test_functions_give_every_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "every_kind.py").write_text(
        "import numpy as np\n"
        "rng = np.random.default_rng(0)\n"
        "def image(): return rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)\n"
        "def numbers(): return [{'x': {'a': i}, 'label': (i / 3, i)} for i in range(60)]\n"
        "def classes(): return [{'x': image(), 'label': {'a', 'b'} if i % 2 else ['b']} for i in range(30)]\n"
        "def mask(): return [{'x': image(), 'label': np.full((9, 9), i % 2)} for i in range(30)]\n"
        "def tags(): return [{'x': ['one', f'two{i}'], 'label': ['A', 'B']} for i in range(30)]\n"
        "def steps(): return [{'x': rng.normal(size=(1, 5)), 'label': np.arange(5) % 2} for i in range(30)]\n"
        "def some(): return [{'x': image(), 'label': np.full((9, 9), 1) if i else 1} for i in range(30)]\n"
    )
    monkeypatch.chdir(tmp_path)
    for name, target in (
        ("numbers", "numbers"),
        ("classes", "classes"),
        ("mask", "mask"),
        ("tags", "tags"),
        ("steps", "tags"),
    ):
        document, data = made(f"python:every_kind:{name}", tmp_path / name, near_duplicates="keep")
        assert document["target"] == data.spec.target == target
    assert data.train.labels[0].tolist() == [0, 1, 0, 1, 0]
    with pytest.raises(UsageError, match="29 of 30 samples have masks; expected all or none"):
        prepare(Path("python:every_kind:some"), tmp_path / "some", PrepareConfig())


def test_a_folder_of_fortunes_is_texts_of_the_files_classes(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    for name in ("wisdom", "science"):
        texts = [f"{name} says {i}\n  in two lines" for i in range(20)]
        (tmp_path / "f" / name).write_text("\n%\n".join(texts) + "\n%\n")
        (tmp_path / "f" / f"{name}.dat").write_bytes(b"\0")
    document, data = made(tmp_path / "f", tmp_path / "set", near_duplicates="keep")
    assert (document["modality"], data.spec.labels) == ("text", ("science", "wisdom"))
    assert sum(len(getattr(data, split)) for split in SPLITS) == 40
    assert keys(tmp_path / "set")[0].startswith(("wisdom:", "science:"))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"label": "word", "target": "numbers"}, "got numbers, and the label of t.csv:2 is 'w0'"),
        ({"targets": ["age", "price"], "target": "class"}, "got class, and t.csv:2 has several labels"),
        ({"targets": ["age", "price"], "target": "classes"}, "allowed for several classes: 0 and 1"),
        ({"targets": ["age", "absent"]}, "data.prepare.targets: got 'absent'"),
        ({"label": "age", "target": "mask"}, "got mask, and the source has a class for each item"),
        ({"label": "age", "target": "tags"}, "got tags, and the source has a class for each item"),
    ],
)
def test_what_cannot_be_learned_is_refused(
    tmp_path: Path, rows: list[dict[str, Any]], settings: dict[str, Any], reason: str
) -> None:
    source = write_table(tmp_path / "t.csv", [{**row, "word": f"w{i % 5}"} for i, row in enumerate(rows)])
    with pytest.raises(UsageError, match=reason):
        prepare(source, tmp_path / "set", PrepareConfig.model_validate(settings))
