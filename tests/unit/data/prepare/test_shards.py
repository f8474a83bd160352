"""A training split in shards: the same samples as in arrays, the same bytes from the same input."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.unit.data.prepare.pictures import image_folder
from tests.unit.data.stream.sets import config_of, document_of, prepare_set

from scaledl.config.schema import PrepareConfig
from scaledl.data import build_data
from scaledl.data.prepare import chunks
from scaledl.data.prepare.run import prepare
from scaledl.data.prepared import check_files

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("shards")
    prepare_set(folder / "shards")
    prepare_set(folder / "arrays", shard_mb=0)
    return folder / "shards/set", folder / "arrays/set"


def contents(folder: Path) -> dict[str, str]:
    skipped = (".source", "index.html")  # which name the place
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.name not in skipped)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_the_samples_are_those_of_arrays(both: tuple[Path, Path]) -> None:
    shards, arrays = (build_data(config_of(folder), seed=0) for folder in both)
    order = shards.train.ids.argsort()
    whole = np.concatenate([shards.train.open(number).parts["images"].numpy() for number in range(2)])
    assert (whole[order] == arrays.train.inputs.numpy()).all()
    assert shards.train.ids[order].tolist() == arrays.train.ids.tolist()
    assert shards.train.labels[order].tolist() == arrays.train.labels.tolist()
    assert (shards.spec.mean, shards.spec.std) == (arrays.spec.mean, arrays.spec.std)
    assert not (both[0] / "train-images.npy").exists()


def test_a_shard_is_a_fair_sample(both: tuple[Path, Path]) -> None:
    train = build_data(config_of(both[0]), seed=0).train
    first = train.open(0)
    assert first.parts["labels"].bincount(minlength=4).min() > len(first) / 8
    assert abs(first.parts["ids"].double().mean() - train.ids.double().mean()) < 25


def test_shards_are_about_as_large_as_asked(both: tuple[Path, Path]) -> None:
    about = document_of(both[0])["splits"]["train"]
    assert sum(shard["rows"] for shard in about["shards"]) == about["rows"] == 288
    for shard in about["shards"]:
        assert (both[0] / shard["name"]).stat().st_size == shard["bytes"] <= 1.01e6


def test_the_same_input_gives_the_same_bytes(both: tuple[Path, Path], tmp_path: Path) -> None:
    prepare_set(tmp_path)
    assert contents(tmp_path / "set") == contents(both[0])


def test_an_interrupted_preparation_goes_on(
    both: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, written = shutil.rmtree, list[object]()
    monkeypatch.setattr(chunks, "_CHUNK_BYTES", 300_000)

    def stop(*args: object) -> None:
        written.append(args)
        if len(written) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("scaledl.data.prepare.shards.sha256_file", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare_set(tmp_path)
    assert not (tmp_path / "set/dataset.json").exists()
    prepare_set(tmp_path)
    assert contents(tmp_path / "set") == contents(both[0])
    real(tmp_path / "set")


def test_grey_images_and_small_sets(tmp_path: Path) -> None:
    source = image_folder(tmp_path / "animals", each=20)
    document = prepare(source, tmp_path / "set", PrepareConfig(channels=1, shard_mb=64, max_dropped=1.0))
    assert len(document["splits"]["train"]["shards"]) == 1
    assert build_data(config_of(tmp_path / "set"), seed=0).train.open(0).parts["images"].shape[3] == 1


def test_changed_bytes_are_found_and_force_leaves_no_old_shards(both: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "set"
    prepare_set(tmp_path)
    data = bytearray((folder / "train-00001.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "train-00001.safetensors").write_bytes(data)
    assert check_files(folder, document_of(folder)) == ["train-00001.safetensors"]
    prepare(tmp_path / "source.npz", folder, PrepareConfig(near_duplicates="keep"), force=True)
    assert not list(folder.glob("*.safetensors"))
    assert json.loads((folder / "dataset.json").read_bytes())["splits"]["train"].keys() == {"rows", "sha256"}
