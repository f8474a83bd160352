"""What a node of Ray takes of its machine: folder, CPUs, GPUs, room for objects, and environment."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from scaledl.distributed.ray import _place
from scaledl.distributed.ray._environment import environment_of_node
from scaledl.distributed.ray._place import PrivateFolder, num_cpus, num_gpus, object_store, own_address
from scaledl.errors import ScaledlError, UsageError

pytestmark = pytest.mark.unit

MB = 1_000_000


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where folders are made; long paths are let through."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(_place, "LONGEST_BASE", 1000)
    return tmp_path


def test_a_folder_is_private_and_goes_with_all_that_is_in_it(base: Path) -> None:
    folder = PrivateFolder()
    assert folder.path.parent == base
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    token = folder.write_secret("token", "secret")
    assert (token.read_text(), stat.S_IMODE(token.stat().st_mode)) == ("secret", 0o600)
    (folder.path / "deep/er").mkdir(parents=True)
    folder.remove()
    assert list(base.iterdir()) == []


def test_folders_of_owners_that_are_gone_are_removed_and_no_others(base: Path) -> None:
    held = PrivateFolder()
    dead, new, foreign = base / "sdl-dead", base / "sdl-new", base / "sdl-foreign"
    for folder in (dead, new, foreign):
        folder.mkdir()
    for folder in (dead, new):
        (folder / "lock").touch()
    (base / "sdl-link").symlink_to(foreign)
    for folder in (dead, foreign, held.path):
        os.utime(folder, (0, time.time() - 100))
    PrivateFolder().remove()
    assert not dead.exists()
    assert all(folder.exists() for folder in (held.path, new, foreign))
    held.remove()


def test_what_cannot_be_removed_whole_stays_known(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = PrivateFolder()
    (folder.path / "r").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda path: (_ for _ in ()).throw(OSError("busy")))
        folder.remove()
    assert (folder.path / "lock").exists()
    os.utime(folder.path, (0, time.time() - 100))
    PrivateFolder().remove()
    assert list(base.iterdir()) == []


@pytest.mark.parametrize("given", ["", "/nowhere", "/tmp/" + "x" * 40])
def test_a_temporary_folder_that_cannot_serve_is_not_taken(
    given: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_place, "TEMPORARY", str(tmp_path)[:1])
    assert _place._base({"TMPDIR": given}) == Path("/")


def test_where_no_folder_can_be_made_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_place, "TEMPORARY", "/nowhere")
    with pytest.raises(UsageError, match="set TMPDIR to a folder that can, with a path of at most 30 bytes"):
        _place._base({})


@pytest.mark.parametrize(
    ("wanted", "shared", "size", "is_in_folder"),
    [
        (None, 10_000 * MB, 1000 * MB, False),
        (500 * MB, 10_000 * MB, 500 * MB, False),
        (9_000 * MB, 10_000 * MB, 2_000 * MB, False),
        (500 * MB, 125 * MB, 100 * MB, False),
        (500 * MB, 64 * MB, 80 * MB, True),
    ],
)
def test_the_object_store_is_small_and_fits(
    wanted: int | None, shared: int, size: int, is_in_folder: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_place, "_memory", lambda: 10_000 * MB)
    monkeypatch.setattr(_place, "_free", lambda folder: shared if folder == "/dev/shm" else 1000 * MB)
    assert object_store(wanted, tmp_path) == (size, tmp_path if is_in_folder else None)


def test_where_objects_have_no_room_both_places_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_place, "_free", lambda folder: 50 * MB)
    with pytest.raises(
        ScaledlError, match=r"/dev/shm has 50 MB free and .* 50 MB, but Ray needs 100 MB in one of them"
    ):
        object_store(None, tmp_path)


def test_cpus_and_gpus_are_those_that_slurm_gave() -> None:
    usable = len(os.sched_getaffinity(0))
    assert num_cpus({}) == num_cpus({"SLURM_CPUS_ON_NODE": str(usable + 1)}) == usable
    assert num_cpus({"SLURM_CPUS_ON_NODE": "1"}) == 1
    assert num_gpus({"SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "4"}) == 4
    assert num_gpus({"SLURM_JOB_ID": "7"}) == 0
    assert num_gpus({}) is None, "Ray counts"


def test_a_node_has_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_address(None) == own_address(own_address(None))
    monkeypatch.setattr(_place, "addresses_of", lambda name: ["127.0.0.1"])
    monkeypatch.setattr(_place, "address_towards", lambda target: None)
    assert own_address(None) == "127.0.0.1", "without any network"


def test_nothing_of_a_scheduler_or_a_launcher_reaches_a_node() -> None:
    own = {"PATH": "/bin", "PYTHONPATH": "src", "CUDA_VISIBLE_DEVICES": "0", "SCALEDL_RAY_LOGS": "1", "HOME": "/root"}
    foreign = ("SLURM_JOB_ID", "SLURMD_NODENAME", "SRUN_DEBUG", "RANK", "LOCAL_RANK", "MASTER_ADDR", "PMIX_RANK")
    more = ("TORCHELASTIC_RUN_ID", "SCALEDL_STATUS_DIR", "SCALEDL_LINK_FD", "RAY_ADDRESS", "RAY_AUTH_TOKEN")
    assert environment_of_node({**own, **dict.fromkeys((*foreign, *more), "1")}) == own
