"""`scaledl data`: from a folder of pictures to a training on them, as a user types it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_breast_cancer

from scaledl.errors import UsageError
from scaledl.runtime import load

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

SMALL = ("model.family=mlp", "model.hidden=[32]", "trainer.precision=fp32", "data.batch_size=32")


Call = Callable[..., Any]


def folder_of_pictures(root: Path, each: int = 40, size: int = 16) -> Path:
    """Three classes that are easily told apart: bright on the left, on the right, above."""
    rng = np.random.default_rng(0)
    for name in ("left", "right", "above"):
        (root / name).mkdir(parents=True)
        for i in range(each):
            pixels = rng.integers(0, 90, (size, size)).astype(np.uint8)
            part = {"left": np.s_[:, : size // 2], "right": np.s_[:, size // 2 :], "above": np.s_[: size // 2]}[name]
            pixels[part] += 150
            Image.fromarray(pixels).save(root / name / f"{i:03d}.png")
    return root


def contents(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.is_file() and path.name not in (".source", "index.html")  # the page names its folder
    }


def test_from_pictures_to_a_training_and_back_to_the_labels(tmp_path: Path, call: Call) -> None:
    source = folder_of_pictures(tmp_path / "pictures")
    shutil.copy(source / "left/000.png", source / "left/again.png")
    done = call(tmp_path, "data", "prepare", "pictures", "--out", "sorted")
    assert done.code == 0, done.err
    assert "image 1x16x16, 3 classes" in done.out
    assert "left out  1: 1 x an exact copy" in done.out
    assert "scaledl train data.source=./sorted" in done.out
    assert (tmp_path / "sorted/index.html").exists()

    inspected = json.loads(call(tmp_path, "data", "inspect", "sorted", "--verify", "--json").out)
    assert inspected["labels"] == ["above", "left", "right"]
    assert inspected["verified"] is True

    trained = call(tmp_path, "train", "data.source=./sorted", "trainer.epochs=12", "run.name=p", "run.id=x", *SMALL)
    assert trained.code == 0, trained.err
    manifest = json.loads((tmp_path / "runs/p/x/manifest.json").read_text())
    assert manifest["data_fingerprint"] == inspected["fingerprint"]
    assert manifest["metrics"]["test_accuracy"] > 0.95
    assert call(tmp_path, "export", "p/x").code == 0

    preview = call(tmp_path, "data", "preview", "sorted", "data.augment.crop=2", "--output", "sheet.png")
    assert preview.code == 0, preview.err
    assert Image.open(tmp_path / "sheet.png").size[0] > 8 * 64

    stats = call(tmp_path, "data", "stats", "sorted").out
    assert "share of train" in stats


def test_an_audit_finds_labels_that_were_changed(tmp_path: Path, call: Call) -> None:
    source = folder_of_pictures(tmp_path / "pictures", each=100)
    for i in range(0, 100, 10):
        (source / f"left/{i:03d}.png").rename(source / f"right/from-left-{i:03d}.png")
    assert call(tmp_path, "data", "prepare", "pictures", "--out", "sorted").code == 0
    wanted = ("train", "data.source=./sorted", "trainer.epochs=6", "run.name=p", "run.id=x", *SMALL)
    assert call(tmp_path, *wanted).code == 0
    done = call(tmp_path, "data", "audit", "p/x", "--split", "train,val,test", "--json")
    assert done.code == 0, done.err
    suspects = json.loads(done.out)["suspects"]
    found = [one["key"] for one in suspects if one["key"].startswith("right/from-left-")]
    assert len(found) >= 4, suspects
    assert all(one["suggested"] == "left" for one in suspects[:5])
    assert "confidence" in call(tmp_path, "data", "audit", "p/x", "--split", "train,val,test").out


def test_a_killed_preparation_goes_on_and_ends_with_the_same_bytes(tmp_path: Path, call: Call) -> None:
    folder_of_pictures(tmp_path / "pictures", each=1500, size=160)
    words = ("data", "prepare", "pictures", "--out")
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", "scaledl.cli", *words, "out"], cwd=tmp_path, stdout=subprocess.DEVNULL
        )
        known = len(list((tmp_path / "out/.work").glob("*.npz")))
        while process.poll() is None and len(list((tmp_path / "out/.work").glob("*.npz"))) <= known:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if process.returncode == 0:
            break
        assert not (tmp_path / "out/dataset.json").exists()
    assert process.returncode == -signal.SIGKILL, "it was never killed in the middle"
    done = call(tmp_path, *words, "out")
    assert done.code == 0, done.err
    assert "going on: " in done.out
    assert call(tmp_path, *words, "whole").code == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_ctrl_c_says_so_and_leaves_no_data_set(tmp_path: Path, call: Call) -> None:
    folder_of_pictures(tmp_path / "pictures", each=1500, size=160)
    process = subprocess.Popen(
        [sys.executable, "-m", "scaledl.cli", "data", "prepare", "pictures", "--out", "out"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not list((tmp_path / "out").glob(".work/*.npz")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "error: interrupted"
    assert not (tmp_path / "out/dataset.json").exists()


def test_a_training_does_not_go_on_with_other_data(tmp_path: Path, call: Call) -> None:
    source = folder_of_pictures(tmp_path / "pictures")
    assert call(tmp_path, "data", "prepare", "pictures", "--out", "sorted").code == 0
    words = ("train", "data.source=./sorted", "run.name=p", "run.id=x", *SMALL)
    assert call(tmp_path, *words, "trainer.epochs=1").code == 0
    (source / "left/001.png").unlink()
    assert call(tmp_path, "data", "prepare", "pictures", "--out", "sorted", "--force").code == 0
    done = call(tmp_path, *words, "trainer.epochs=2", "--allow-changes")
    assert done.code == 2
    assert "is not what" in done.err
    assert "was trained on" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "nowhere", "--out", "o"], "nowhere: no such file or folder"),
        (["prepare", "pictures"], "--out: missing"),
        (["prepare", "pictures", "--out", "pictures/o"], "lies in the source"),
        (["prepare", "pictures", "--out", "o", "--size", "big"], "data.prepare.size (command line): got 'big'"),
        (["prepare", "pictures", "--out", "o", "data.prepare.sise=3"], "did you mean 'data.prepare.size'"),
        (["inspect", "pictures"], "pictures: no image in a folder of a class"),
        (["inspect", "pictures", "--verify"], "--verify: only for a prepared data set"),
        (["stats", "pictures"], "not prepared yet"),
        (["inspect", "fashion_mnis"], "no source of that name"),
        (["inspect", "digits", "--verify"], "--verify: only for a prepared data set"),
        (["preview", "digits", "--count", "0"], "--count"),
        (["audit"], "no run"),
        (["split"], "unknown action 'split'"),
    ],
)
def test_mistakes(tmp_path: Path, call: Call, arguments: list[str], message: str) -> None:
    (tmp_path / "pictures/a").mkdir(parents=True)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    done = call(tmp_path, "data", *arguments)
    assert done.code == 2, done.err
    assert message in done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_a_changed_byte_is_found(tmp_path: Path, call: Call) -> None:
    folder_of_pictures(tmp_path / "pictures", each=10)
    assert call(tmp_path, "data", "prepare", "pictures", "--out", "sorted").code == 0
    with (tmp_path / "sorted/train-images.npy").open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\0")
    done = call(tmp_path, "data", "inspect", "sorted", "--verify")
    assert done.code == 3
    assert "not the bytes that it was made with: train-images.npy" in done.err


def test_a_table_is_prepared_shown_and_trained_on(tmp_path: Path, call: Call) -> None:
    rows = "\n".join(f"{i},{i % 7 / 3},{'red' if i % 4 else 'blue'},{'yes' if i % 3 else 'no'}" for i in range(90))
    (tmp_path / "t.csv").write_text(f"id,size,colour,label\n{rows}\n")
    done = call(tmp_path, "data", "prepare", "t.csv", "--out", "t", "data.prepare.duplicates=keep")
    assert done.code == 0, done.err
    assert "table of 2 columns, 2 classes" in done.out
    assert "scaledl train data.source=./t model.family=mlp" in done.out
    assert "columns      size, colour" in call(tmp_path, "data", "inspect", "t", "--verify").out
    stats = call(tmp_path, "data", "stats", "t").out
    assert "2 categories" in stats
    document = json.loads(call(tmp_path, "data", "inspect", "t", "--json").out)
    assert document["rows"] == {"train": 65, "val": 7, "test": 18}
    refused = call(tmp_path, "train", "data.source=./t")
    assert refused.code == 2
    assert "model.family: got resnet, and an input of the data has the shape [3]; allowed: images" in refused.err
    drawn = call(tmp_path, "data", "preview", "t")
    assert drawn.code == 2
    assert "t is a table" in drawn.err
    trained = call(tmp_path, "train", "data.source=./t", *SMALL, "trainer.epochs=2")
    assert trained.code == 0, trained.err
    assert (tmp_path / "runs/mlp-t").is_dir()


def test_a_model_of_a_table_is_compressed_and_verified(tmp_path: Path, call: Call) -> None:
    epochs = ("optimizer.lr=0.01", "trainer.epochs=20", "data.augment.mixup=0.1")
    trained = call(tmp_path, "train", "data.source=breast_cancer", *SMALL, *epochs)
    assert trained.code == 0, trained.err
    done = call(tmp_path, "compress", "--method", "prune,qat")
    assert done.code == 0, done.err
    assert "(verified)" in done.out
    [path] = tmp_path.glob("runs/mlp-breast_cancer/*prune-qat*/exports/model.ts")
    bunch = load_breast_cancer()
    predictor = load(path)
    classes = predictor.predict(bunch.data).argmax(1).numpy()
    assert (predictor.engine, predictor.spec.shape) == ("x86", (30,))
    assert (classes == bunch.target).mean() > 0.9
    for odd in (bunch.data[:, :5], bunch.data[:0], bunch.data * np.nan):
        with pytest.raises(UsageError, match="inputs: "):
            predictor.predict(odd)


def test_series_of_the_archive_are_drawn_and_trained_on(tmp_path: Path, call: Call) -> None:
    rng = np.random.default_rng(0)
    head = ["@timeStamps false", "@univariate true", "@classLabel true slow fast", "@data"]
    (tmp_path / "Toy").mkdir()
    for name, count in (("TRAIN", 120), ("TEST", 40)):
        lines = []
        for i in range(count):
            values = np.sin(np.linspace(0, (6, 18)[i % 2], 40) + rng.uniform(0, 6)) + rng.normal(0, 0.1, 40)
            lines.append(",".join(f"{value:.4f}" for value in values) + f":{('slow', 'fast')[i % 2]}")
        (tmp_path / f"Toy/Toy_{name}.ts").write_text("\n".join([*head, *lines]) + "\n")
    series = ("data.source=ucr", "data.root=Toy", "data.augment.series.noise=0.1", "data.augment.series.warp=0.2")
    shown = call(tmp_path, "data", "preview", "ucr", *series[1:])
    assert shown.code == 0, shown.err
    assert Image.open(tmp_path / "preview.png").size[0] > 8 * 128
    epochs = ("optimizer.lr=0.01", "trainer.epochs=30")
    done = call(tmp_path, "train", *series, *SMALL, *epochs, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["metrics"]["test_accuracy"] > 0.8
