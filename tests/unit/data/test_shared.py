"""Data that the processes of a machine share: the same as built, once on the disk, never changed by a reader."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch

from scaledl.config.schema import DataConfig
from scaledl.data import DataModule, build_data
from scaledl.data.shared import FOLDER, shared_data

pytestmark = pytest.mark.unit

CONFIG = DataConfig()


def same(one: DataModule, other: DataModule) -> bool:
    splits = [(one.train, other.train), (one.val, other.val), (one.test, other.test)]
    return one.spec == other.spec and all(
        torch.equal(a.inputs, b.inputs) and torch.equal(a.labels, b.labels) and torch.equal(a.ids, b.ids)
        for a, b in splits
    )


def test_without_a_folder_they_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    assert same(shared_data(CONFIG, 0), build_data(CONFIG, 0))


def test_the_second_reader_maps_what_the_first_one_wrote(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    first = shared_data(CONFIG, 0)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    assert same(first, build_data(CONFIG, 0))
    first.train.inputs.zero_()  # a reader's own pages
    assert same(shared_data(CONFIG, 0), build_data(CONFIG, 0))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")} == written


def test_another_seed_or_split_is_another_copy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    other = CONFIG.model_copy(update={"val_fraction": 0.2})
    assert same(shared_data(CONFIG, 1), build_data(CONFIG, 1))
    assert same(shared_data(other, 1), build_data(other, 1))
    assert len(list(tmp_path.iterdir())) == 2


def test_what_decides_nothing_about_the_samples_shares_the_copy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    shared_data(CONFIG, 0)
    shared_data(CONFIG.model_copy(update={"batch_size": 7}), 0)
    assert len(list(tmp_path.iterdir())) == 1


def _fingerprint(_: int) -> str:
    return shared_data(CONFIG, 0).spec.fingerprint


def test_processes_that_come_at_once_write_it_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.map(_fingerprint, range(2), chunksize=1)
    assert found == [build_data(CONFIG, 0).spec.fingerprint] * 2
    assert len(list(tmp_path.iterdir())) == 1
