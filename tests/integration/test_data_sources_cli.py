"""`scaledl data` on sources of every kind, from a look at them to a first training step."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytestmark = [pytest.mark.integration, pytest.mark.beside, pytest.mark.timeout(300)]

CONFIG = Path(__file__).parents[2] / "configs/imagenet-resnet50.yaml"
SYNSETS = ("n01440764", "n01443537", "n01484850")
SMALL = ("data.batch_size=16", "data.augment.crop=2", "model.depth=8", "model.width=8", "trainer.max_steps=2")
Call = Callable[..., Any]


def jpeg(seed: int, height: int = 40, width: int = 50) -> bytes:
    patches = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(patches).resize((width, height), Image.Resampling.BILINEAR).save(file, "JPEG", quality=90)
    return file.getvalue()


def imagenet(root: Path, each: int = 24) -> Path:
    """The layout of ILSVRC 2012 once its archives are unpacked, the validation images in folders of classes."""
    for i, synset in enumerate(SYNSETS):
        for split, count in (("train", each), ("val", 4)):
            (root / split / synset).mkdir(parents=True)
            for j in range(count):
                name = f"{synset}_{j}.JPEG" if split == "train" else f"ILSVRC2012_val_{10 * i + j:08d}.JPEG"
                (root / split / synset / name).write_bytes(jpeg(1000 * i + j + 500 * (split == "val")))
    return root


def files(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*"))


def test_imagenet_by_its_name_from_its_folders(tmp_path: Path, call: Call) -> None:
    imagenet(tmp_path / "ILSVRC")
    refused = call(tmp_path, "train", str(CONFIG), "data.root=ILSVRC")
    assert refused.code == 2
    assert "data.root: ILSVRC is not prepared yet. Prepare it once: scaledl data prepare ILSVRC --out" in refused.err
    assert "ILSVRC-prepared data.prepare.size=224 data.prepare.channels=3" in refused.err

    words = ("data", "prepare", "ILSVRC", str(CONFIG), "--out", "sets/imagenet", "--size", "32")
    done = call(tmp_path, *words, "data.prepare.test_fraction=0.1")
    assert done.code == 0, done.err
    assert "image 3x32x32, 3 classes" in done.out
    assert "12 val" in done.out

    trained = call(tmp_path, "train", str(CONFIG), "run.name=p", "run.id=x", *SMALL)
    assert trained.code == 0, trained.err
    manifest = json.loads((tmp_path / "runs/p/x/manifest.json").read_text())
    assert (
        manifest["data_fingerprint"] == json.loads((tmp_path / "sets/imagenet/dataset.json").read_text())["fingerprint"]
    )


def test_shards_of_imagenet_are_the_same_data_set(tmp_path: Path, call: Call) -> None:
    root = imagenet(tmp_path / "folders")
    (tmp_path / "shards").mkdir()
    for split in ("train", "val"):
        with tarfile.open(tmp_path / f"shards/imagenet-{split}-000000.tar", "w") as tar:
            for path in sorted((root / split).rglob("*.JPEG")):
                for name, content in (("jpg", path.read_bytes()), ("txt", path.parent.name.encode())):
                    info = tarfile.TarInfo(f"{path.stem}.{name}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    for source in ("folders", "shards"):
        done = call(tmp_path, "data", "prepare", source, "--out", f"{source}-out", "--size", "32")
        assert done.code == 0, done.err
    for name in ("val-images.npy", "val-labels.npy", "train-images.npy"):
        assert (tmp_path / "folders-out" / name).read_bytes() == (tmp_path / "shards-out" / name).read_bytes()


def test_a_look_at_a_source_writes_nothing(tmp_path: Path, call: Call) -> None:
    root = imagenet(tmp_path / "ILSVRC", each=6)
    (root / "train/n01440764/broken.JPEG").write_bytes(b"no picture")
    (root / "train/readme.txt").write_text("x")
    before = files(tmp_path)
    shown = call(tmp_path, "data", "inspect", "ILSVRC")
    assert shown.code == 0, shown.err
    assert "not prepared; image_folder, image" in shown.out
    assert "3: n01440764, n01443537, n01484850; 10 to 11 items of a class" in shown.out
    assert "19 train, 12 val" in shown.out
    assert "problems  2; the first:" in shown.out
    assert "train/n01440764/broken.JPEG: no image that is known" in shown.out
    assert "scaledl data prepare ILSVRC --out FOLDER" in shown.out
    document = json.loads(call(tmp_path, "data", "inspect", "ILSVRC", "--json").out)
    assert (document["prepared"], document["items"], document["num_problems"]) == (False, 31, 2)
    assert (document["height"], document["width"]) == ([40, 40], [50, 50])
    assert files(tmp_path) == before


def test_a_look_at_a_table(tmp_path: Path, call: Call) -> None:
    (tmp_path / "t.csv").write_text(
        "a,b,label\n" + "\n".join(f"{i},{i % 3},{'xy'[i % 2]}" for i in range(20)) + "\n5,6,\n"
    )
    shown = call(tmp_path, "data", "inspect", "t.csv", "data.prepare.exclude=[b]")
    assert shown.code == 0, shown.err
    assert "t.csv  not prepared; table\n" in shown.out
    assert "columns   1: a\nmissing   no values\n" in shown.out
    assert "scaledl data prepare t.csv --out FOLDER 'data.prepare.exclude=[b]'" in shown.out
    assert "2: x, y; 10 items of every class" in shown.out
    assert "t.csv:22: no label" in shown.out
    wrong = call(tmp_path, "data", "inspect", "t.csv", "data.prepare.label=c")
    assert wrong.code == 2
    assert "data.prepare.label: got 'c'" in wrong.err
