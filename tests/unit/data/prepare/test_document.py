"""A `dataset.json` from anywhere: whatever is missing or of another type, it is one message."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaledl.config.schema import PrepareConfig
from scaledl.data.prepare.run import prepare
from scaledl.data.prepare.store import parse_document
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit

MODALITIES = ("image", "table", "text", "series")
UNUSED = {"sizes", "lengths"}  # of the report and the reader alone
OTHERS: list[Any] = [None, [], {}, "", "x", -1, 10**400, 0.5, True, [None], [[]], {"a": []}, float("nan"), "\ud800"]
SOUND: dict[str, list[Any]] = {"plan": [{}, {"a": []}], "dropped": [{}], "notes": [[]]}


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """A sound one of each modality."""
    folder = tmp_path_factory.mktemp("documents")
    rng = np.random.default_rng(0)
    np.savez(folder / "i.npz", x=rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8), y=np.arange(40) % 2)
    rows = "\n".join(f"{value:.3f},{'rgb'[i % 3]},{'ny'[i % 2]}" for i, value in enumerate(rng.normal(size=60)))
    (folder / "t.csv").write_text(f"size,colour,label\n{rows}\n")
    texts = "\n".join(json.dumps({"text": f"text {i} {rng.random()}", "label": "ny"[i % 2]}) for i in range(60))
    (folder / "x.jsonl").write_text(texts + "\n")
    head = ["@timeStamps false", "@univariate true", "@classLabel true a b", "@data"]
    lines = [f"{i},{i % 7},{i % 3 + 0.5}:{'ab'[i % 2]}" for i in range(40)]
    (folder / "s.ts").write_text("\n".join([*head, *lines]) + "\n")
    settings: dict[str, dict[str, Any]] = {
        "i.npz": {"near_duplicates": "keep"},
        "t.csv": {},
        "x.jsonl": {"text": "text", "near_duplicates": "keep"},
        "s.ts": {},
    }
    made = [prepare(folder / name, folder / name[0], PrepareConfig(**given)) for name, given in settings.items()]
    return dict(zip(MODALITIES, made, strict=True))


def refused(document: Any) -> str:
    with pytest.raises(UsageError, match=r"dataset\.json: .*fix: ") as raised:
        parse_document(json.dumps(document).encode(), "dataset.json")
    return str(raised.value)


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_sound_one_is_taken_as_it_is(documents: dict[str, dict[str, Any]], modality: str) -> None:
    document = documents[modality]
    assert document["modality"] == modality
    assert parse_document(json.dumps(document).encode(), "dataset.json") == document


@pytest.mark.parametrize("modality", MODALITIES)
def test_no_field_may_be_missing_or_of_another_type(documents: dict[str, dict[str, Any]], modality: str) -> None:
    for name in documents[modality].keys() - UNUSED - {"format"}:
        without = {key: value for key, value in documents[modality].items() if key != name}
        assert f"is not whole ({name}" in refused(without)
        for other in OTHERS:
            sound = other in SOUND.get(name, ())
            if not sound:
                refused({**without, name: other})


@pytest.mark.parametrize(
    "path",
    [
        ("splits", "val"),
        ("splits", "test", "rows"),
        ("splits", "train", "sha256"),
        ("splits", "val", "sha256", "labels"),
        ("profile", "classes"),
        ("profile", "classes", "train"),
        ("columns", 0),
        ("columns", 0, "kind"),
        ("columns", 0, "mean"),
        ("columns", 0, "std"),
        ("columns", 1, "categories"),
        ("columns", 1, "name"),
    ],
)
def test_nor_may_what_lies_deeper(documents: dict[str, dict[str, Any]], path: tuple[Any, ...]) -> None:
    document = copy.deepcopy(documents["table"])
    inner: Any = document
    for key in path[:-1]:
        inner = inner[key]
    for other in (None, [], {}, -1, 1e999, "../x" * 16):
        if (path[-1], other) not in (("name", "../x" * 16), ("mean", -1)):
            inner[path[-1]] = other
            assert f"is not whole ({path[0]}" in refused(document)
    del inner[path[-1]]
    assert f"is not whole ({path[0]}" in refused(document)


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """A sound one of each kind of target that is no class."""
    folder = tmp_path_factory.mktemp("targets")
    rng = np.random.default_rng(0)
    rows = "\n".join(f"{value:.3f},{i / 7},{i % 2},{(i + 1) % 2}" for i, value in enumerate(rng.normal(size=70)))
    (folder / "t.csv").write_text(f"x,price,a,b\n{rows}\n")
    (folder / "t.conll").write_text("\n\n".join(f"word{i}\tA\nof\tB" for i in range(40)) + "\n")
    images = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    np.savez(folder / "m.npz", x=images, y=rng.integers(0, 2, (40, 8, 8)))
    settings: dict[str, tuple[str, dict[str, Any]]] = {
        "numbers": ("t.csv", {"label": "price"}),
        "classes": ("t.csv", {"targets": ["a", "b"]}),
        "none": ("t.csv", {"target": "none"}),
        "tags": ("t.conll", {"near_duplicates": "keep"}),
        "mask": ("m.npz", {"near_duplicates": "keep"}),
    }
    return {
        target: prepare(folder / name, folder / target, PrepareConfig(**given))
        for target, (name, given) in settings.items()
    }


TARGETS = ("numbers", "classes", "none", "tags", "mask")


@pytest.mark.parametrize("target", TARGETS)
def test_other_targets_are_taken_as_they_are_too(targets: dict[str, dict[str, Any]], target: str) -> None:
    document = targets[target]
    assert document["target"] == target
    assert parse_document(json.dumps(document).encode(), "dataset.json") == document
    for other in (None, "", "x", 3, [], {}, *({"mask", "tags", "numbers", "none"} - {target})):
        assert "is not whole (" in refused({**document, "target": other})


@pytest.mark.parametrize(
    ("target", "path", "wrong"),
    [
        ("numbers", ("targets",), [None, [], {}]),
        ("numbers", ("targets", 0, "std"), [0, -1, None, "1"]),
        ("numbers", ("targets", 0, "name"), ["other", None]),
        ("numbers", ("profile", "classes"), [None, {"train": [1]}]),
        ("tags", ("tags",), [None, 0, -1, "4"]),
        ("none", ("labels",), [None, ["a"]]),
        ("mask", ("labels",), [None, []]),
        ("classes", ("profile", "classes", "train"), [None, [1]]),
    ],
)
def test_what_other_targets_say_is_looked_at(
    targets: dict[str, dict[str, Any]], target: str, path: tuple[Any, ...], wrong: list[Any]
) -> None:
    for value in wrong:
        document = copy.deepcopy(targets[target])
        inner: Any = document
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        assert f"is not whole ({path[0]}" in refused(document)


@pytest.mark.parametrize("split", ["val", "test"])
def test_only_the_training_split_lies_in_shards(documents: dict[str, dict[str, Any]], split: str) -> None:
    for modality in ("image", "table", "text"):
        document = copy.deepcopy(documents[modality])
        document["splits"][split] = {"rows": 4, "shards": []}
        assert "is not whole (splits" in refused(document)


@pytest.mark.parametrize("modality", ["image", "table", "text"])
def test_the_list_of_shards_is_looked_at(documents: dict[str, dict[str, Any]], modality: str) -> None:
    document = copy.deepcopy(documents[modality])
    document["splits"]["train"] = {"rows": 4, "shards": []}
    assert "its list of shards is none" in refused(document)


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"a":' * 100_000, b"\xff", b"1" * 5000, b"", b"3", b"null"])
def test_what_is_no_document(data: bytes) -> None:
    with pytest.raises(UsageError, match=r"x: (cannot be read|format of) .*fix: prepare it again"):
        parse_document(data, "x")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(st.sampled_from(MODALITIES), st.data())
def test_anything_else_is_refused_in_words(documents: dict[str, dict[str, Any]], modality: str, data: Any) -> None:
    document = copy.deepcopy(documents[modality])
    inner: Any = document
    while isinstance(inner, dict | list) and inner:
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        key = data.draw(st.sampled_from(keys))
        if data.draw(st.booleans()) or not isinstance(inner[key], dict | list):
            inner[key] = data.draw(JSON)
            break
        inner = inner[key]
    try:
        parse_document(json.dumps(document).encode(), "dataset.json")
    except UsageError as error:
        assert str(error).startswith("dataset.json: ")  # noqa: PT017
