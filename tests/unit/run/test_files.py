"""Atomic files: the old content or the new one, and nothing else in the folder."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scaledl.errors import ScaledlError, UsageError
from scaledl.run import atomic_file, atomic_json, atomic_write, remove_stale, sha256_file

pytestmark = pytest.mark.unit


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def write_half_and_raise(path: Path, error: BaseException) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text("half")
        raise error


def test_sha256_of_known_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_file(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_replaces_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    atomic_write(tmp_path / "deep/file", "one")
    atomic_write(tmp_path / "deep/file", b"two")
    assert (tmp_path / "deep/file").read_text() == "two"
    assert names(tmp_path / "deep") == ["file"]


def test_the_temporary_file_is_hidden_and_beside_the_target(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "model.bin") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".")
        assert temporary.name.endswith(".tmp")
        temporary.write_text("x")
        assert not (tmp_path / "model.bin").exists()


@pytest.mark.parametrize("error", [ValueError("own"), KeyboardInterrupt(), UsageError("said")])
def test_an_error_in_the_body_leaves_the_old_version_and_is_not_renamed(tmp_path: Path, error: BaseException) -> None:
    atomic_write(tmp_path / "file", "old")
    with pytest.raises(type(error)) as caught:
        write_half_and_raise(tmp_path / "file", error)
    assert caught.value is error
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
        (errno.EDQUOT, "quota"),
    ],
)
def test_storage_errors_say_what_where_and_what_is_left(tmp_path: Path, number: int, words: str) -> None:
    target = tmp_path / "last.ckpt"
    target.write_text("old")
    with pytest.raises(ScaledlError) as caught, atomic_file(target, what="checkpoint"):
        raise OSError(number, os.strerror(number))
    message = str(caught.value)
    assert caught.value.exit_code == 1
    for part in ("checkpoint", str(target), words, "free of", "the previous version is intact"):
        assert part in message
    target.unlink()
    with pytest.raises(ScaledlError, match="nothing was left behind"), atomic_file(target):
        raise OSError(number, os.strerror(number))


def test_a_full_disk_hidden_in_another_error_is_recognised(tmp_path: Path) -> None:
    with pytest.raises(ScaledlError, match="no space left"), atomic_file(tmp_path / "weights"):
        raise Exception("Error while serializing: I/O error: No space left on device (os error 28)")


def test_other_runtime_errors_are_not_called_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shape"), atomic_file(tmp_path / "weights"):
        raise RuntimeError("shape mismatch")


def test_impossible_places(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "file/x", tmp_path / "file/a/x", tmp_path / "loop/x", tmp_path / ("n" * 300)):
        with pytest.raises(ScaledlError, match="cannot write the file"):
            atomic_write(target, "x")
    with pytest.raises(ScaledlError, match="it is a folder"):
        atomic_write(tmp_path / "folder", "x")
    assert names(tmp_path) == ["file", "folder", "loop"]


def test_json_is_strict_where_python_is_not(tmp_path: Path) -> None:
    atomic_json(tmp_path / "x.json", {"a": float("nan"), "b": [float("inf"), 1.5], "é": True})
    text = (tmp_path / "x.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"a": None, "b": [None, 1.5], "é": True}


def test_temporary_files_of_dead_processes_are_removed_and_those_of_live_ones_kept(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from scaledl.run.files import temporary_beside\n"
        "temporary_beside(Path(sys.argv[1])).write_text('x'); folder = temporary_beside(Path(sys.argv[1]))\n"
        "folder.mkdir(); (folder / 'inside').touch()"
    )
    (tmp_path / "sub").mkdir()
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "sub/file")], check=True)
    (tmp_path / ".other.tmp").write_text("not ours")
    with atomic_file(tmp_path / "live") as temporary:
        temporary.write_text("x")
        assert len(remove_stale(tmp_path)) == 2
        assert temporary.exists()
    assert names(tmp_path) == [".other.tmp", "live", "sub"]
    assert names(tmp_path / "sub") == []
