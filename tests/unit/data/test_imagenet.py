"""ImageNet by its name: a prepared set, or the command that makes one."""

from __future__ import annotations

import shlex
import uuid
from pathlib import Path
from typing import Any

import fsspec
import pytest
from tests.unit.data.prepare.pictures import image_folder

from scaledl.config.schema import DataConfig, PrepareConfig, StreamConfig
from scaledl.data import build_data
from scaledl.data.prepare.run import prepare
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit


def config(root: Path | None, **settings: Any) -> DataConfig:
    return DataConfig(source="imagenet", root=None if root is None else str(root), prepare=PrepareConfig(**settings))


def test_a_prepared_set_is_taken(tmp_path: Path) -> None:
    document = prepare(image_folder(tmp_path / "s"), tmp_path / "out", PrepareConfig())
    assert build_data(config(tmp_path / "out"), seed=0).spec.fingerprint == document["fingerprint"]


def test_a_prepared_set_behind_a_url_is_taken(tmp_path: Path) -> None:
    document = prepare(image_folder(tmp_path / "s"), tmp_path / "out", PrepareConfig())
    files, name = fsspec.filesystem("memory"), f"/{uuid.uuid4().hex}"
    stream = StreamConfig(cache=str(tmp_path / "cache"))
    far = DataConfig(source="imagenet", root=f"memory:/{name}", stream=stream)
    with pytest.raises(UsageError, match=rf"memory:/{name}/dataset\.json: missing"):
        build_data(far, seed=0)
    files.put(str(tmp_path / "out"), name, recursive=True)
    try:
        assert build_data(far, seed=0).spec.fingerprint == document["fingerprint"]
    finally:
        files.rm(name, recursive=True)


def test_an_unprepared_folder_is_answered_with_the_command(tmp_path: Path) -> None:
    root = tmp_path / "Image Net"
    (root / "train").mkdir(parents=True)
    with pytest.raises(UsageError, match="is not prepared yet") as caught:
        build_data(config(root, size=64, test_fraction=0.02), seed=0)
    words = shlex.split(str(caught.value).split("Prepare it once: ")[1].split(";")[0])
    assert words[:6] == ["scaledl", "data", "prepare", str(root), "--out", str(tmp_path / "Image Net-prepared")]
    assert words[6:] == ["data.prepare.size=64", "data.prepare.channels=3", "data.prepare.test_fraction=0.02"]
    assert list(tmp_path.iterdir()) == [root]


@pytest.mark.parametrize(("name", "message"), [(None, "data.root: missing.*image-net.org"), ("x", "no such folder")])
def test_nothing_to_take(tmp_path: Path, name: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        build_data(config(tmp_path / name if name else None), seed=0)
    assert "scaledl data prepare FOLDER --out" in str(caught.value)
