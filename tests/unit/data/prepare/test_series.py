"""Series become zero-padded float32 arrays and their lengths."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaledl.config.schema import PrepareConfig
from scaledl.data.prepare.run import prepare
from scaledl.data.prepare.series import read_ts
from scaledl.data.prepare.store import write_padded

pytestmark = pytest.mark.unit

CONFIG = PrepareConfig()
Case = tuple[Sequence[Sequence[float]], str]  # dimensions, class


def cases(count: int = 40, channels: int = 2, seed: int = 0) -> list[Case]:
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=(channels, 3 + i % 4)).round(4).tolist(), "ab"[i % 2]) for i in range(count)]


def ts_text(samples: Sequence[Case]) -> str:
    head = [
        "# Donn\u00e9es",
        "@problemName Toy",
        "@timeStamps false",
        f"@univariate {str(len(samples[0][0]) == 1).lower()}",
        *([f"@dimension {len(samples[0][0])}"] if len(samples[0][0]) > 1 else []),
        "@equalLength false",
        "@classLabel true " + " ".join(sorted({label for _, label in samples})),
        "@data",
    ]
    body = [":".join([*(",".join(map(repr, values)) for values in series), label]) for series, label in samples]
    return "\n".join([*head, *body]) + "\n"


def write_ts(path: Path, samples: Sequence[Case]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(ts_text(samples).encode("utf-8"))
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_back(out: Path, document: dict[str, Any], split: str) -> list[tuple[list[list[float]], str]]:
    series, lengths, labels = (
        np.load(out / f"{split}-{part}.npy", mmap_mode="r") for part in ("series", "lengths", "labels")
    )
    assert (series.dtype, lengths.dtype) == (np.float32, np.int64)
    assert not any(values[:, length:].any() for values, length in zip(series, lengths, strict=True))
    return [
        (values[:, :length].tolist(), document["labels"][label])
        for values, length, label in zip(series, lengths, labels, strict=True)
    ]


def single(samples: Sequence[Case]) -> list[tuple[list[list[float]], str]]:
    """As float32 holds them."""
    return [(np.array(series, np.float32).tolist(), label) for series, label in samples]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("named", ["Toy_TRAIN.ts", "Toy_TEST.ts", "."])
def test_both_files_are_found_from_either_and_from_the_folder(tmp_path: Path, channels: int, named: str) -> None:
    train, test = cases(30, channels), cases(10, channels, seed=1)
    write_ts(tmp_path / "s" / "Toy_TRAIN.ts", train)
    write_ts(tmp_path / "s" / "Toy_TEST.ts", test)
    document = prepare(tmp_path / "s" / named, tmp_path / "out", CONFIG)
    assert document["modality"] == "series"
    assert document["in_shape"] == [channels, 6]
    assert read_back(tmp_path / "out", document, "test") == single(test)
    kept = read_back(tmp_path / "out", document, "train") + read_back(tmp_path / "out", document, "val")
    assert sorted(kept) == sorted(single(train))
    assert {"min": 3, "max": 6}.items() <= document["lengths"].items()


def test_the_document_describes_each_dimension_of_the_training_split(tmp_path: Path) -> None:
    document = prepare(write_ts(tmp_path / "toy.ts", cases()), tmp_path / "out", CONFIG)
    train = read_back(tmp_path / "out", document, "train")
    values = np.concatenate([np.array(series[1], np.float64) for series, _ in train])
    second = document["columns"][1]
    assert second["name"] == "dimension 2"
    assert [second[key] for key in ("mean", "std", "min", "max")] == pytest.approx(
        [values.mean(), values.std(), values.min(), values.max()], rel=1e-5
    )


def test_the_old_tables_of_the_archive(tmp_path: Path) -> None:
    samples = cases(30, 1)
    for split, rows in (("TRAIN", samples[:20]), ("TEST", samples[20:])):
        text = [
            "\t".join([{"a": "1", "b": "-1"}[label], *map(repr, series[0]), *["NaN"] * (6 - len(series[0]))])
            for series, label in rows
        ]
        (tmp_path / f"Toy_{split}.tsv").write_text("\n".join([*text, "\t1.5\t2.5", "1\tNaN\t3"]) + "\n")
    document = prepare(tmp_path / "Toy_TRAIN.tsv", tmp_path / "out", CONFIG)
    assert document["dropped"] == {"a missing value (NaN)": 2, "no label": 2}
    assert document["labels"] == ["1", "-1"]
    found = [(series, {"1": "a", "-1": "b"}[label]) for series, label in read_back(tmp_path / "out", document, "test")]
    assert found == single(samples[20:])


def test_series_that_cannot_be_used_go_with_their_reason(tmp_path: Path) -> None:
    source = write_ts(tmp_path / "toy.ts", cases())
    with source.open("a") as file:
        file.write("1,?,3:1,2,3:a\n::a\n1,2:1:b\n1,inf:1,2:b\n1,1e39:1,2:b\n5,6:7,8:?\n9,9:9,9:a\n9.0,9:9,9e0:b\n")
    document = prepare(source, tmp_path / "out", PrepareConfig(max_dropped=0.5))
    found = {int(one["key"].partition(":")[2]) - 49: one["reason"] for one in lines(tmp_path / "out" / "dropped.jsonl")}
    several = "the same series has several labels: a, b"
    assert found == {
        0: "a missing value (NaN): dimension 1, step 2",
        1: "no values: its length is zero",
        2: "dimensions of different lengths: 1 and 2",
        3: "a value that is infinite as float32: dimension 1, step 2",
        4: "a value that is infinite as float32: dimension 1, step 2",
        5: "no label",
        6: several,
        7: several,
    }
    assert sum(document["dropped"].values()) == 8


def test_copies_across_the_files_stay_in_the_test_split(tmp_path: Path) -> None:
    train, test = cases(30), cases(10, seed=1)
    write_ts(tmp_path / "Toy_TRAIN.ts", [*train, test[2], test[2]])
    write_ts(tmp_path / "Toy_TEST.ts", test)
    document = prepare(tmp_path / "Toy_TEST.ts", tmp_path / "out", CONFIG)
    assert document["dropped"] == {"an exact copy": 2}
    assert len(read_back(tmp_path / "out", document, "test")) == 10


def test_the_same_series_give_the_same_bytes(tmp_path: Path) -> None:
    source = write_ts(tmp_path / "toy.ts", cases())
    first, second = (prepare(source, tmp_path / name, CONFIG) for name in "ab")
    assert first == second
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)


def test_an_interruption_while_series_are_written_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_ts(tmp_path / "toy.ts", cases())

    def interrupted(folder: Path, split: str, series: Any, shape: Any) -> None:
        if split == "test":
            raise KeyboardInterrupt
        write_padded(folder, split, series, shape)

    with monkeypatch.context() as patched:
        patched.setattr("scaledl.data.prepare.contents.write_padded", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(source, tmp_path / "out", CONFIG)
    assert not (tmp_path / "out" / "dataset.json").exists()
    assert prepare(source, tmp_path / "out", CONFIG) == prepare(source, tmp_path / "whole", CONFIG)


FLOATS = st.floats(allow_nan=False, allow_infinity=False)


@settings(deadline=None)
@given(
    st.integers(1, 4).flatmap(
        lambda channels: st.lists(
            st.tuples(
                st.lists(st.lists(FLOATS, max_size=5), min_size=channels, max_size=channels),
                st.text("abcXYZ019-.", min_size=1, max_size=4).filter(lambda name: name.lower() != "nan"),
            ),
            min_size=1,
            max_size=6,
        )
    )
)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, samples: list[Case]) -> None:
    path = write_ts(tmp_path_factory.mktemp("ts") / "toy.ts", samples)
    found, _ = read_ts(path, "")
    assert [item.label for item in found] == [label for _, label in samples]
    assert [[values.tolist() for values in item.content] for item in found] == [series for series, _ in samples]
