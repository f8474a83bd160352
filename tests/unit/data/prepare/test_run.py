"""A folder of images becomes a data set: the same bytes from the same input, whatever happens in between."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.data.prepare.pictures import image_folder, picture, save

from scaledl.config.schema import DataConfig, PrepareConfig
from scaledl.data import build_data
from scaledl.data.prepare import chunks as chunks_module
from scaledl.data.prepare.images import decode, decode_image
from scaledl.data.prepare.run import prepare
from scaledl.errors import ScaledlError, UsageError

pytestmark = pytest.mark.unit


def config(**settings: Any) -> PrepareConfig:
    return PrepareConfig.model_validate({"max_dropped": 1.0, **settings})


def contents(folder: Path) -> dict[str, str]:
    """Files that make the data set, by their bytes."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != ".source"
    }


def dropped(folder: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in (folder / "dropped.jsonl").read_text().splitlines()]
    return {row["key"]: row["reason"] + (f" of {row['of']}" if "of" in row else "") for row in rows}


def splits(folder: Path) -> dict[str, str]:
    return {row["key"]: row["split"] for row in map(json.loads, (folder / "items.jsonl").read_text().splitlines())}


def snapshot(folder: Path) -> dict[str, tuple[int, int, str]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_mode, os.path.realpath(path))
        for path in folder.rglob("*")
    }


def test_a_folder_of_classes(tmp_path: Path) -> None:
    source = image_folder(tmp_path / "animals", ("cat", "dog", "10", "9"), each=20)
    before = snapshot(source)
    document = prepare(source, tmp_path / "out", config())
    assert snapshot(source) == before
    assert document["labels"] == ["9", "10", "cat", "dog"]
    assert document["in_shape"] == [3, 24, 24]
    assert {split: part["rows"] for split, part in document["splits"].items()} == {"train": 56, "val": 8, "test": 16}
    assert document["profile"]["classes"] == {"train": [14] * 4, "val": [2] * 4, "test": [4] * 4}
    assert document["dropped"] == {}
    assert document["notes"] == []
    assert not (tmp_path / "out/.work").exists()


def test_training_maps_what_was_prepared(tmp_path: Path) -> None:
    source = image_folder(tmp_path / "animals", each=20)
    document = prepare(source, tmp_path / "out", config())
    data = build_data(DataConfig(source="prepared", root=str(tmp_path / "out")), seed=0)
    assert data.spec.fingerprint == document["fingerprint"]
    assert data.spec.labels == ("cat", "dog")
    rows = [json.loads(line) for line in (tmp_path / "out/items.jsonl").read_text().splitlines()]
    parts = {"train": data.train, "val": data.val, "test": data.test}
    assert sum(map(len, parts.values())) == len(rows) == 40
    for row in rows:
        arrays = parts[row["split"]]
        [place] = (arrays.ids == row["id"]).nonzero().flatten().tolist()
        assert data.spec.labels[arrays.labels[place]] == row["label"] == row["key"].split("/")[0]
        expected, _ = decode(source / row["key"], chunks_module.Target(24, 24, 3), config())
        assert np.array_equal(arrays.inputs[place].numpy(), expected)
    pixels = data.train.inputs.double() / 255
    assert np.allclose(data.spec.mean, pixels.mean((0, 1, 2)), atol=1e-9)
    assert np.allclose(data.spec.std, pixels.std((0, 1, 2), correction=0), atol=1e-9)


def test_the_splits_of_the_source_are_kept(tmp_path: Path) -> None:
    for i, split in enumerate(("train", "validation", "test")):
        image_folder(tmp_path / "s" / split, each=10, seed=i)
    document = prepare(tmp_path / "s", tmp_path / "out", config())
    assert [part["rows"] for part in document["splits"].values()] == [20, 20, 20]
    assert all(key.split("/")[0].startswith(split) for key, split in splits(tmp_path / "out").items())


def test_what_is_missing_is_cut_from_train(tmp_path: Path) -> None:
    image_folder(tmp_path / "s/train", each=20)
    image_folder(tmp_path / "s/val", each=5, seed=1)
    document = prepare(tmp_path / "s", tmp_path / "out", config(test_fraction=0.25))
    assert {split: part["rows"] for split, part in document["splits"].items()} == {"train": 30, "val": 10, "test": 10}


def test_exact_copies(tmp_path: Path) -> None:
    source = image_folder(tmp_path / "s/train", each=10).parent
    image_folder(source / "test", each=4, seed=1)
    shutil.copy(source / "test/cat/000.png", source / "train/cat/leak.png")
    shutil.copy(source / "train/cat/001.png", source / "train/cat/again.png")
    shutil.copy(source / "train/cat/002.png", source / "train/dog/other.png")
    save(source / "train/dog/format.bmp", picture(103))
    prepare(source, tmp_path / "out", config())
    two = "the same image has several labels: cat, dog"
    assert dropped(tmp_path / "out") == {
        "train/cat/leak.png": "an exact copy of test/cat/000.png",
        "train/cat/again.png": "an exact copy of train/cat/001.png",
        "train/cat/002.png": two,
        "train/dog/other.png": two,
        "train/dog/format.bmp": "an exact copy of train/dog/003.png",
    } or dropped(tmp_path / "out") == {
        "train/cat/leak.png": "an exact copy of test/cat/000.png",
        "train/cat/001.png": "an exact copy of train/cat/again.png",
        "train/cat/002.png": two,
        "train/dog/other.png": two,
        "train/dog/format.bmp": "an exact copy of train/dog/003.png",
    }
    assert prepare(source, tmp_path / "kept", config(duplicates="keep", near_duplicates="keep"))["dropped"] == {}


def near(source: Path, name: str, seed: int) -> None:
    save(source / name, picture(seed, 64, 64), quality=60)


def test_near_copies_across_splits_go_from_train(tmp_path: Path) -> None:
    source = tmp_path / "s"
    for split, first in (("train", 0), ("test", 50)):
        for i, name in enumerate(("cat", "dog")):
            for j in range(8):
                save(source / split / name / f"{j}.png", picture(first + 10 * i + j, 64, 64))
    near(source, "train/cat/leak.jpg", 50)
    near(source, "train/cat/twin.jpg", 3)
    prepare(source, tmp_path / "out", config())
    assert dropped(tmp_path / "out") == {
        "train/cat/leak.jpg": "looks the same as an image of the test split of test/cat/0.png"
    }
    prepare(source, tmp_path / "all", config(near_duplicates="drop"))
    assert set(dropped(tmp_path / "all")) & {"train/cat/twin.jpg", "train/cat/3.png"}
    assert prepare(source, tmp_path / "keep", config(near_duplicates="keep"))["dropped"] == {}


def test_all_copies_of_what_another_split_has_go_from_train(tmp_path: Path) -> None:
    source = image_folder(tmp_path / "s/train", each=10).parent
    image_folder(source / "val", each=4, seed=1)
    for name in ("train/cat/x.png", "train/cat/y.png"):
        shutil.copy(source / "val/cat/000.png", source / name)
    prepare(source, tmp_path / "out", config(duplicates="keep"))
    why = "looks the same as an image of the val split of val/cat/000.png"
    assert dropped(tmp_path / "out") == {"train/cat/x.png": why, "train/cat/y.png": why}


@pytest.mark.parametrize("seed", range(5))
def test_near_copies_stay_in_one_split(tmp_path: Path, seed: int) -> None:
    for i, name in enumerate(("cat", "dog")):
        for j in range(10):
            save(tmp_path / "s" / name / f"{j}.png", picture(10 * i + j, 64, 64))
            near(tmp_path / "s", f"{name}/{j}-near.jpg", 10 * i + j)
    prepare(tmp_path / "s", tmp_path / "out", config(seed=seed))
    found = splits(tmp_path / "out")
    assert len(found) == 40
    assert all(found[key] == found[key.replace(".png", "-near.jpg")] for key in found if key.endswith(".png"))
    assert set(found.values()) == {"train", "val", "test"}


# What stands in folders


def test_everything_strange_is_listed(tmp_path: Path) -> None:
    source = image_folder(tmp_path / "s", each=12)
    (tmp_path / "secret.png").write_bytes((source / "cat/000.png").read_bytes())
    (source / "cat/out.png").symlink_to(tmp_path / "secret.png")
    (source / "cat/gone.png").symlink_to("nowhere.png")
    (source / "cat/loop").symlink_to("..", target_is_directory=True)
    (source / "cat/inside.png").symlink_to("../dog/000.png")
    (source / "cat/notes.txt").write_text("x")
    (source / "cat/empty.png").write_bytes(b"")
    (source / "cat/.DS_Store").write_bytes(b"x")
    (source / "beside.png").write_bytes((source / "cat/001.png").read_bytes())
    os.mkfifo(source / "dog/pipe.png")
    save(source / "dog" / ("n" * 200 + "ü\n.png"), picture(777))
    document = prepare(source, tmp_path / "out", config())
    found = dropped(tmp_path / "out")
    assert found.pop("cat/notes.txt").startswith("no image by its name")
    assert found.pop("beside.png") in (
        "lies beside the classes' folders, so it has no label",
        "the same image has several labels: beside.png, cat",
    )
    assert found == {
        "cat/out.png": "a link out of the source's folder",
        "cat/gone.png": "a link to nothing",
        "cat/loop": "a link to a folder that it lies in",
        "cat/inside.png": "the same image has several labels: cat, dog",
        "dog/000.png": "the same image has several labels: cat, dog",
        "cat/empty.png": "empty file",
        "dog/pipe.png": "no regular file",
    }
    assert document["labels"] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "no such file or folder"),
        (lambda root: root.mkdir(), "no image in a folder of a class"),
        (lambda root: image_folder(root, ("cat",)), "one class only (cat)"),
        (lambda root: (root.mkdir(), (root / "a.png").write_bytes(b"")), "no image in a folder of a class"),
        (lambda root: save(root / "cat/a.png", picture(0)), "one class only"),
        (
            lambda root: (image_folder(root, each=5), save(root / "bird/a.png", picture(900))),
            "data.prepare.test_fraction: got a class with too few samples: 'bird' has 1",
        ),
        (
            lambda root: (image_folder(root / "train"), image_folder(root / "test", ("cat", "bird"), seed=1)),
            "bird in test but not in train",
        ),
        (lambda root: (image_folder(root / "train"), (root / "more").mkdir()), "beside them more"),
    ],
)
def test_sources_that_cannot_be_used(tmp_path: Path, make: Callable[[Path], Any], message: str) -> None:
    make(tmp_path / "s")
    with pytest.raises(UsageError) as caught:
        prepare(tmp_path / "s", tmp_path / "out", config())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out/dataset.json").exists()


def test_too_much_to_drop_makes_nothing(tmp_path: Path) -> None:
    source = image_folder(tmp_path / "s", each=8)
    for i in range(6):
        (source / f"cat/{i}.jpg").write_bytes(b"broken")
    with pytest.raises(UsageError) as caught:
        prepare(source, tmp_path / "out", config(max_dropped=0.2))
    assert (
        "data.prepare.max_dropped: 6 of 22 items would be dropped (6 x no image that is known; the first: cat/0.jpg"
        in str(caught.value)
    )
    assert not (tmp_path / "out/dataset.json").exists()


# Sizes and colours


def test_mixed_sizes_become_one_and_it_is_said(tmp_path: Path) -> None:
    for i in range(12):
        save(tmp_path / "s" / "ab"[i % 2] / f"{i}.png", picture(i, 30 + i, 40))
    document = prepare(tmp_path / "s", tmp_path / "out", config())
    assert document["in_shape"] == [3, 36, 36]
    assert document["notes"] == ["images of 40x30 to 40x41 pixels became 36x36 (data.prepare.size)"]
    assert document["sizes"] == {"height": [30, 36, 41], "width": [40, 40, 40]}


@pytest.mark.parametrize(("channels", "expected"), [("auto", 1), (1, 1), (3, 3)])
def test_grey_images(tmp_path: Path, channels: Any, expected: int) -> None:
    for i in range(12):
        save(tmp_path / "s" / "ab"[i % 2] / f"{i}.png", picture(i, channels=1))
    assert prepare(tmp_path / "s", tmp_path / "out", config(channels=channels))["in_shape"] == [expected, 24, 24]


# The same bytes


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    source = image_folder(tmp_path / "a/s", each=10)
    prepare(source, tmp_path / "one", config())
    shutil.copytree(source, tmp_path / "b/s")
    for path in (tmp_path / "b/s").rglob("*.png"):
        os.utime(path, (1, 1))
    prepare(tmp_path / "b/s", tmp_path / "two", config())
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("reads", [1, 20, 33, 60])
def test_an_interrupted_preparation_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: int, threads: int
) -> None:
    source = image_folder(tmp_path / "s", each=40)
    prepare(source, tmp_path / "whole", config())
    monkeypatch.setattr(chunks_module, "_MOST_ROWS", 16)
    monkeypatch.setattr(chunks_module, "num_cpus", lambda: threads)
    seen: list[Path] = []

    def counting(content: Path, *more: Any) -> Any:
        if len(seen) >= reads > 0:
            raise KeyboardInterrupt
        seen.append(content)
        return decode_image(content, *more)

    monkeypatch.setattr(chunks_module, "decode_image", counting)
    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path / "out", config())
    assert not (tmp_path / "out/dataset.json").exists()
    before, reads = len(seen), -1
    seen.clear()
    prepare(source, tmp_path / "out", config())
    if threads == 1:  # several are in several chunks, of which those before the interrupted one are kept
        assert len(seen) == 80 - before // 16 * 16
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_damaged_work_and_work_for_something_else_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = image_folder(tmp_path / "s", each=20)
    monkeypatch.setattr(chunks_module, "_MOST_ROWS", 16)
    prepare(source, tmp_path / "whole", config())
    interrupted(source, tmp_path / "out", monkeypatch, "scaledl.data.prepare.image_set.lay_out", config(seed=1))
    work = sorted((tmp_path / "out/.work").glob("*.np?"))
    assert [path.name for path in work] == ["000000.npz", "000001.npz", "000002.npz", "images.npy"]
    for path in work:
        shutil.copytree(tmp_path / "out", tmp_path / path.name)
        damaged = tmp_path / path.name / ".work" / path.name
        damaged.write_bytes(damaged.read_bytes()[:100])
        prepare(source, tmp_path / path.name, config())
        assert contents(tmp_path / path.name) == contents(tmp_path / "whole")


def interrupted(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, where: str, settings: PrepareConfig) -> None:
    """Prepare until a function is called."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(where, stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(source, out, settings)


MOMENTS = ("image_file.ImageFile.settle", "image_file.ImageFile._shrink", "image_file.os.truncate", "run.finish")


@pytest.mark.parametrize("moment", [f"scaledl.data.prepare.{name}" for name in MOMENTS])
@pytest.mark.parametrize("seed", [0, 1])
def test_interrupted_while_images_are_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, seed: int
) -> None:
    source = image_folder(tmp_path / "s", each=20)
    prepare(source, tmp_path / "whole", config())
    interrupted(source, tmp_path / "out", monkeypatch, moment, config(seed=seed))
    assert (tmp_path / "out/.work/moving").exists()
    if seed == 0:
        monkeypatch.setattr(chunks_module, "decode_image", None)  # nothing is read again
    prepare(source, tmp_path / "out", config())
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("moment", [f"scaledl.data.prepare.{name}" for name in MOMENTS])
def test_interrupted_while_images_are_moved_and_then_wanted_in_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    source = image_folder(tmp_path / "s", each=20)
    prepare(source, tmp_path / "whole", config(shard_mb=1))
    interrupted(source, tmp_path / "out", monkeypatch, moment, config())
    prepare(source, tmp_path / "out", config(shard_mb=1))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize(("change", "count"), [({"seed": 1}, 1), ({"seed": 1}, 4), ({"size": 20}, 3)])
def test_interrupted_while_what_was_begun_is_thrown_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, int], count: int
) -> None:
    source = image_folder(tmp_path / "s", each=20)
    monkeypatch.setattr(chunks_module, "_MOST_ROWS", 16)
    prepare(source, tmp_path / "whole", config())
    interrupted(source, tmp_path / "out", monkeypatch, "scaledl.data.prepare.image_file.os.truncate", config())
    names = sorted(path.name for path in (tmp_path / "out/.work").iterdir())
    assert names == ["000000.npz", "000001.npz", "000002.npz", "images.npy", "moving", "plan.json"]
    real, left = os.unlink, iter(range(count))

    def stops(path: str | Path, **options: Any) -> None:
        if Path(path).name in names and next(left, None) is None:
            raise KeyboardInterrupt
        real(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", stops)
        with pytest.raises(KeyboardInterrupt):
            prepare(source, tmp_path / "out", config(**change))
    prepare(source, tmp_path / "out", config())
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_killed_before_there_is_a_plan(tmp_path: Path) -> None:
    source = image_folder(tmp_path / "s", each=20)
    prepare(source, tmp_path / "whole", config())
    (tmp_path / "out/.work").mkdir(parents=True)
    (tmp_path / "out/.work/.plan.json.0a1b2c3d-1-1.0a1b2c3d.tmp").write_text("{")
    prepare(source, tmp_path / "out", config())
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_what_was_read_of_other_items_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = image_folder(tmp_path / "s", ("cat", "unlabeled", "zebra"), each=20)
    monkeypatch.setattr(chunks_module, "_MOST_ROWS", 16)
    prepare(source, tmp_path / "whole", config(unlabeled="keep"))
    with pytest.raises(UsageError, match=r"20 x no label.*data\.prepare\.unlabeled=keep"):
        prepare(source, tmp_path / "out", config(max_dropped=0.1))
    prepare(source, tmp_path / "out", config(unlabeled="keep"))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_what_was_lost_while_images_were_moved_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = image_folder(tmp_path / "s", each=20)
    prepare(source, tmp_path / "whole", config())
    for name in ("val-images.npy", ".work/000000.npz"):
        out = tmp_path / name.replace("/", "-")
        interrupted(source, out, monkeypatch, "scaledl.data.prepare.image_file.os.truncate", config())
        (out / name).unlink()
        prepare(source, out, config())
        assert contents(out) == contents(tmp_path / "whole")


def test_what_is_done_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = image_folder(tmp_path / "s", each=8)
    first = prepare(source, tmp_path / "out", config())
    monkeypatch.setattr(chunks_module, "decode_image", None)
    assert prepare(source, tmp_path / "out", config()) == first
    assert "is this data set already; nothing to do" in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"made otherwise \(settings differ\); add --force"):
        prepare(source, tmp_path / "out", config(seed=1))
    save(source / "cat/new.png", picture(555))
    with pytest.raises(UsageError, match="files of the source differ"):
        prepare(source, tmp_path / "out", config())
    monkeypatch.undo()
    assert prepare(source, tmp_path / "out", config(), force=True)["fingerprint"] != first["fingerprint"]


# Where it goes


def test_folders_that_are_not_for_a_data_set(tmp_path: Path) -> None:
    source = image_folder(tmp_path / "s", each=8)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("x")
    for out, message in (
        (source / "out", "lies in the source"),
        (tmp_path, "lies in the source or around it"),
        (tmp_path / "full", "holds other files (thesis.tex)"),
        (tmp_path / "full/thesis.tex", "which is a file"),
        (tmp_path / "full/thesis.tex/x", "cannot be made: Not a directory"),
    ):
        with pytest.raises(UsageError) as caught:
            prepare(source, out, config())
        assert message in str(caught.value)
    assert (tmp_path / "full/thesis.tex").read_text() == "x"


def test_two_at_once_in_one_folder(tmp_path: Path) -> None:
    source = image_folder(tmp_path / "s", each=8)
    (tmp_path / "out").mkdir()
    handle = os.open(tmp_path / "out", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        with pytest.raises(UsageError, match="another process prepares"):
            prepare(source, tmp_path / "out", config())
    finally:
        os.close(handle)
    prepare(source, tmp_path / "out", config())


def test_a_full_disk_leaves_no_data_set(tmp_path: Path, tmpfs: Callable[[str], Path]) -> None:
    source = image_folder(tmp_path / "s", each=200)
    disk = tmpfs("700k")
    with pytest.raises(ScaledlError, match="no space left on the disk"):
        prepare(source, disk / "out", config())
    assert not (disk / "out/dataset.json").exists()


def kept_size(error: ScaledlError, folder: Path, then: str) -> float:
    """MB that a message says are kept."""
    words = rf"so far, ([\d.]+) MB, is kept in {folder}: the same command {then}, and removing that folder gives"
    found = re.search(words, str(error))
    assert found, str(error)
    return float(found[1])


def used(folder: Path) -> float:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file()) / 1e6


def test_a_full_disk_says_what_is_kept_and_the_same_command_goes_on(
    tmp_path: Path, tmpfs: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, disk = image_folder(tmp_path / "s", each=200), tmpfs("4m")
    monkeypatch.setattr("scaledl.data.prepare.chunks._CHUNK_BYTES", 1 << 16)
    (disk / "filler").write_bytes(bytes(3_300_000))
    with pytest.raises(ScaledlError, match="no space left on the disk") as caught:
        prepare(source, disk / "out", config())
    assert kept_size(caught.value, disk / "out", "goes on from there") == pytest.approx(used(disk / "out"), rel=0.01)
    assert (disk / "out/.work/images.npy").exists()
    (disk / "filler").unlink()
    capsys.readouterr()
    document = prepare(source, disk / "out", config())
    assert re.search(r"going on: [1-9]\d* of 400 items were read before", "".join(capsys.readouterr()))
    assert document["fingerprint"] == prepare(source, tmp_path / "other", config())["fingerprint"]
    assert not (disk / "out/.work").exists()


def test_a_full_disk_while_a_set_is_made_anew_leaves_that_set(
    tmp_path: Path, tmpfs: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, disk = image_folder(tmp_path / "s", each=200), tmpfs("4m")
    monkeypatch.setattr("scaledl.data.prepare.chunks._CHUNK_BYTES", 1 << 16)
    known = prepare(source, disk / "out", config())
    room = shutil.disk_usage(disk).free
    (disk / "filler").write_bytes(bytes(max(0, room - 400_000)))
    with pytest.raises(ScaledlError, match="no space left on the disk") as caught:
        prepare(source, disk / "out", config(seed=1), force=True)
    size = kept_size(caught.value, disk / "out/.work", "goes on from there")
    assert size == pytest.approx(used(disk / "out/.work"), rel=0.01)
    shutil.rmtree(disk / "out/.work")
    assert prepare(source, disk / "out", config()) == known, "as if nothing had happened"


def test_a_full_disk_of_rows_says_that_they_begin_anew(tmp_path: Path, tmpfs: Callable[[str], Path]) -> None:
    disk = tmpfs("300k")
    rows = "".join(f"{i}.5,{i * i % 977},{i % 7},{'ab'[i % 2]}\n" for i in range(20_000))
    (tmp_path / "t.csv").write_text("x,y,z,label\n" + rows)
    with pytest.raises(ScaledlError, match="no space left on the disk") as caught:
        prepare(tmp_path / "t.csv", disk / "out", PrepareConfig())
    assert kept_size(caught.value, disk / "out", "begins anew") == pytest.approx(used(disk / "out"), abs=0.01)
    assert used(disk / "out") > 0.1


def test_a_data_set_whose_files_are_not_its_own(tmp_path: Path) -> None:
    source = image_folder(tmp_path / "s", each=8)
    prepare(source, tmp_path / "out", config())
    section = DataConfig(source="prepared", root=str(tmp_path / "out"))
    images = tmp_path / "out/train-images.npy"
    whole = images.read_bytes()
    for content, message in (
        (whole[:-1], "cannot be read"),
        (whole[:60], "cannot be read"),
        (b"", "cannot be read"),
        ((tmp_path / "out/val-images.npy").read_bytes(), "instead of uint8"),
    ):
        images.write_bytes(content)
        with pytest.raises(UsageError, match=message):
            build_data(section, 0)
    images.unlink()
    with pytest.raises(UsageError, match="missing"):
        build_data(section, 0)
    (tmp_path / "out/dataset.json").write_text('{"format": 99}')
    with pytest.raises(UsageError, match="format 99"):
        build_data(section, 0)
    (tmp_path / "out/dataset.json").write_text("{")
    with pytest.raises(UsageError, match="cannot be read"):
        build_data(section, 0)
    (tmp_path / "out/dataset.json").unlink()
    with pytest.raises(UsageError, match="no prepared data set"):
        build_data(section, 0)
    (tmp_path / "rows.csv").write_text("a,label\n1,x\n")
    with pytest.raises(UsageError, match=r"rows.csv: got a file; .*scaledl data prepare .*rows.csv --out DIR"):
        build_data(DataConfig(source="prepared", root=str(tmp_path / "rows.csv")), 0)


# .npz


@pytest.mark.parametrize(
    "names",
    [("x_train", "y_train", "x_test", "y_test"), ("train_images", "train_labels", "test_images", "test_labels")],
)
def test_npz_with_its_own_splits(tmp_path: Path, names: tuple[str, ...]) -> None:
    images = np.stack([picture(i, channels=1).squeeze(-1) for i in range(60)])
    labels = (np.arange(60) % 3)[:, None].astype(np.uint8)
    np.savez(tmp_path / "a.npz", **dict(zip(names, (images[:45], labels[:45], images[45:], labels[45:]), strict=True)))
    document = prepare(tmp_path / "a.npz", tmp_path / "out", config(val_fraction=0.2))
    assert {split: part["rows"] for split, part in document["splits"].items()} == {"train": 36, "val": 9, "test": 15}
    assert document["labels"] == ["0", "1", "2"]
    data = build_data(DataConfig(source="prepared", root=str(tmp_path / "out")), 0)
    assert np.array_equal(data.test.inputs.squeeze(-1).numpy(), images[45:])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "got arrays none"),
        ({"a": np.zeros(3)}, "got arrays a"),
        ({"x": np.zeros((4, 8, 8)), "y": np.zeros(3, int)}, "expected one label for each sample"),
        ({"x": np.zeros((4, 8, 8, 5)), "y": np.zeros(4, int)}, "expected [N, H, W]"),
        ({"x": np.zeros((4, 8)), "y": np.zeros(4, int)}, "no column is left to learn from"),
        ({"x": np.full((4, 8, 8), 300), "y": np.zeros(4, int)}, "values from 300 to 300"),
        ({"x": np.full((4, 8, 8), np.nan), "y": np.zeros(4, int)}, "values from nan"),
        ({"x": np.zeros((4, 8, 8), complex), "y": np.zeros(4, int)}, "expected numbers"),
        ({"x": np.zeros((4, 8, 8)), "y": np.zeros(4, complex)}, "expected whole numbers, floats or texts"),
        ({"x": np.zeros((4, 8, 8)), "y": np.full((4, 3), 2)}, "other values than 0 and 1"),
        ({"x": np.array([{}] * 4), "y": np.zeros(4, int)}, "cannot be read (Object arrays cannot be loaded"),
    ],
)
def test_npz_that_cannot_be_used(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UsageError) as caught:
        prepare(tmp_path / "a.npz", tmp_path / "out", config())
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


# What a reviewer found


def test_folders_of_these_names_that_are_not_ours_are_left_alone(tmp_path: Path) -> None:
    source = image_folder(tmp_path / "s", each=8)
    for name in (".work/thesis.txt", "dataset.json"):
        out = tmp_path / name.replace("/", "-")
        (out / name).parent.mkdir(parents=True)
        (out / name).write_text("mine")
        with pytest.raises(UsageError, match="holds other files"):
            prepare(source, out, config(), force=True)
        assert (out / name).read_text() == "mine"


def test_what_is_refused_leaves_the_set_that_was_there(tmp_path: Path) -> None:
    source = image_folder(tmp_path / "s", each=8)
    prepare(source, tmp_path / "out", config())
    before = contents(tmp_path / "out")
    (source / "cat/broken.png").write_bytes(b"x")
    with pytest.raises(UsageError, match="max_dropped"):
        prepare(source, tmp_path / "out", config(max_dropped=0.0), force=True)
    left = contents(tmp_path / "out")
    assert {name: left[name] for name in before} == before


def test_a_refused_preparation_does_not_decode_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = image_folder(tmp_path / "s", each=8)
    (source / "cat/broken.png").write_bytes(b"x")
    with pytest.raises(UsageError, match="max_dropped"):
        prepare(source, tmp_path / "out", config(max_dropped=0.0))
    monkeypatch.setattr(chunks_module, "decode_image", None)
    assert prepare(source, tmp_path / "out", config(seed=3))["dropped"] == {"no image that is known": 1}


@pytest.mark.parametrize("size", ["80k", "200k", "500k", "700k", "800k", "850k"])
def test_a_disk_that_is_full_at_any_moment_says_so(tmp_path: Path, tmpfs: Callable[[str], Path], size: str) -> None:
    source = image_folder(tmp_path / "s", each=200)
    disk = tmpfs(size)
    with pytest.raises(ScaledlError, match="no space left on the disk"):
        prepare(source, disk / "out", config())
    assert not (disk / "out/dataset.json").exists()
    assert not list((disk / "out").glob("*.tmp"))


def test_damaged_exif_is_no_exif(tmp_path: Path) -> None:
    source = image_folder(tmp_path / "s", each=12)
    save(source / "cat/exif.jpg", picture(900), quality=95, exif=b"Exif\0\0garbage that is no TIFF header")
    document = prepare(source, tmp_path / "out", config())
    assert document["dropped"] == {}
    assert "cat/exif.jpg" in splits(tmp_path / "out")


def test_a_class_without_training_images_is_refused(tmp_path: Path) -> None:
    images = np.stack([picture(i, channels=1).squeeze(-1) for i in range(60)])
    labels = np.arange(60) % 2
    labels[55] = 2
    parts = {"x_train": slice(0, 40), "x_val": slice(40, 50), "x_test": slice(50, 60)}
    arrays = {name: images[part] for name, part in parts.items()}
    np.savez(tmp_path / "a.npz", **arrays, **{name.replace("x", "y"): labels[part] for name, part in parts.items()})
    with pytest.raises(UsageError, match="classes '2' are in test but not in train"):
        prepare(tmp_path / "a.npz", tmp_path / "out", config())


def test_a_class_of_one_picture_in_many_files_says_what_is_the_matter(tmp_path: Path) -> None:
    source = image_folder(tmp_path / "s", each=12)
    for i in range(8):
        save(source / f"bird/{i}.jpg", picture(500, 64, 64), quality=90 - i)
    with pytest.raises(UsageError, match=r"near_duplicates: 'bird' has \d items that look the same"):
        prepare(source, tmp_path / "out", config())
    prepare(source, tmp_path / "kept", config(near_duplicates="keep"))


def test_a_missing_file_is_noticed(tmp_path: Path) -> None:
    source = image_folder(tmp_path / "s", each=8)
    prepare(source, tmp_path / "out", config())
    (tmp_path / "out/train-images.npy").unlink()
    with pytest.raises(UsageError, match="its own files differ"):
        prepare(source, tmp_path / "out", config())


def test_a_thousand_equal_pictures_are_no_million_pairs(tmp_path: Path) -> None:
    images = np.zeros((1200, 8, 8), np.uint8)
    images[:40] = np.stack([picture(i, 8, 8, 1).squeeze(-1) for i in range(40)])
    np.savez(tmp_path / "a.npz", x=images, y=np.arange(1200) % 2)
    document = prepare(tmp_path / "a.npz", tmp_path / "out", config(duplicates="keep"))
    found = splits(tmp_path / "out")
    assert len({found[f"a.npz:x[{row}]"] for row in range(40, 1200)}) == 1, "equal pictures stay together"
    assert document["dropped"] == {}
