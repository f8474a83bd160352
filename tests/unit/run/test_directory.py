"""Run directories: creation, identity, attempts, state, recorded files."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scaledl.config import Config
from scaledl.errors import ScaledlError, UsageError
from scaledl.run import Run

pytestmark = pytest.mark.unit


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def make(root: Path, id: str | None = None, **arguments: Any) -> Run:
    return Run.create(root, "digits", id, config=Config(), **arguments)


def with_model(run: Run, content: str = "weights") -> Run:
    run.model_dir.mkdir()
    (run.model_dir / "weights.safetensors").write_text(content)
    run.record("model")
    return run


def rewrite_attempt(run: Run, **changes: Any) -> None:
    path = run.path / "attempt.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# Creation and identity


def test_create_writes_config_manifest_and_latest(root: Path) -> None:
    run = make(root)
    assert run.path.parent == root / "digits"
    assert run.config == Config()
    assert (root / "digits/latest").readlink() == Path(run.id)
    assert Run.open(root / "digits/latest").id == run.id
    assert sorted(path.name for path in run.path.iterdir()) == ["config.yaml", "manifest.json"]


def test_new_ids_sort_by_time_and_never_collide(root: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: make(root), range(40)))
    assert len({run.id for run in runs}) == 40
    later = [make(root).id for _ in range(5)]
    assert later == sorted(later)
    assert later[0] > max(run.id for run in runs)


def test_of_many_creators_of_one_id_one_wins(root: Path) -> None:
    def attempt(_: int) -> bool:
        try:
            make(root, "fixed")
        except UsageError as error:
            assert "exists" in str(error)  # noqa: PT017
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(16))) == 1
    assert not list((root / "digits").glob(".*"))


def test_open_or_create_gives_all_the_same_run(root: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: Run.open_or_create(root, "digits", "7", config=Config()), range(16)))
    assert len({run.manifest.created for run in found}) == 1


def test_open_or_create_refuses_another_kind(root: Path) -> None:
    make(root, "7")
    with pytest.raises(UsageError, match="is a train run, not a compress run"):
        Run.open_or_create(root, "digits", "7", kind="compress", config=Config())


def test_an_existing_id_is_refused_with_its_state(root: Path) -> None:
    make(root, "7").finish("preempted")
    with pytest.raises(UsageError, match="digits/7 exists and is preempted"):
        make(root, "7")


def test_a_foreign_folder_is_not_taken_over(root: Path) -> None:
    (root / "digits/7").mkdir(parents=True)
    (root / "digits/7/thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="exists and is not a run"):
        make(root, "7")
    assert (root / "digits/7/thesis.tex").read_text() == "x"


@pytest.mark.parametrize(
    "name", ["..", ".", "", "a/b", "/etc", "a\nb", "a\n", ".hidden", "-x", "latest", "x" * 101, "ä"]
)
def test_names_that_are_not_one_plain_folder_are_refused(root: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"run\.id"):
        make(root, name)
    with pytest.raises(UsageError, match=r"run\.name"):
        Run.create(root, name, config=Config())
    with pytest.raises(UsageError):
        Run.open_or_create(root, "digits", name, config=Config())
    assert not list(root.glob("*/*"))


def test_impossible_roots_are_usage_errors(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to("loop")
    for bad in (tmp_path / "file", tmp_path / "file/deeper", tmp_path / "loop", Path("/")):
        with pytest.raises(UsageError, match=r"run\.root"):
            make(bad)
    assert not Path("/digits").exists()


def test_a_dangling_latest_is_replaced(root: Path) -> None:
    (root / "digits").mkdir(parents=True)
    (root / "digits/latest").symlink_to("gone")
    run = make(root)
    assert (root / "digits/latest").resolve() == run.path.resolve()


def test_nested_is_created_then_opened(root: Path) -> None:
    run = make(root, "7", kind="compress")
    run.update(data_fingerprint="f" * 64)
    parent = with_model(make(root, "source")).as_parent()
    stage = run.nested("stages/01-distill", config=Config(), parents=[parent])
    assert stage.path == run.stages / "01-distill"
    assert (stage.kind, stage.label) == ("stage", "digits/7/stages/01-distill")
    assert stage.manifest.parents == (parent,)
    assert stage.manifest.data_fingerprint == "f" * 64
    stage.finish("complete")
    assert run.nested("stages/01-distill", config=Config()).state == "complete"
    for bad in ("../other", "stages/../../x", "/tmp/x"):
        with pytest.raises(UsageError):
            run.nested(bad, config=Config())


# Attempts


def test_begin_counts_attempts_and_takes_the_run(root: Path) -> None:
    run = make(root)
    assert run.begin() == 1
    run.finish("preempted")
    assert run.begin() == 2
    manifest = run.manifest
    assert (manifest.attempts, manifest.status) == (2, "running")
    assert (manifest.host, manifest.pid) == (socket.gethostname(), os.getpid())


def test_a_live_holder_is_named(root: Path) -> None:
    run = make(root)
    run.begin()
    with pytest.raises(UsageError) as caught:
        Run.open(run.path).begin()
    for part in (run.label, str(os.getpid()), socket.gethostname(), "since", "kill", "run.id"):
        assert part in str(caught.value)
    assert run.manifest.attempts == 1


def test_threads_that_begin_at_once_have_one_winner(root: Path) -> None:
    run = make(root)
    barrier = threading.Barrier(8)

    def attempt(_: int) -> bool:
        mine = Run.open(run.path)
        barrier.wait()
        try:
            mine.begin()
        except UsageError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(8))) == 1


def test_a_dead_holder_gives_way(root: Path) -> None:
    run = make(root)
    run.begin()
    rewrite_attempt(run, pid_start=1)  # the same pid, started at another time: another process
    assert Run.open(run.path).begin() == 2


def test_a_holder_on_another_machine_gives_way_when_silent(root: Path) -> None:
    run = make(root)
    run.begin()
    rewrite_attempt(run, host="node-7")
    with pytest.raises(UsageError, match="node-7"):
        Run.open(run.path).begin()
    silent = time.time() - 61
    os.utime(run.path / "heartbeat", (silent, silent))
    assert Run.open(run.path).begin() == 2


def test_a_requeued_slurm_job_takes_over_from_its_orphan(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    run = make(root)
    run.begin()
    with pytest.raises(UsageError, match="Slurm job 12"):
        Run.open(run.path).begin()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    newer = Run.open(run.path)
    assert newer.begin() == 2
    newer.check_token()
    for act in (run.check_token, lambda: run.update(seed=5), lambda: run.finish("complete")):
        with pytest.raises(ScaledlError, match=r"attempt 1 .* stops: attempt 2 has taken over"):
            act()
    assert newer.manifest.status == "running"


def test_another_rank_joins_the_attempt_and_stops_with_it(root: Path) -> None:
    run = make(root)
    run.begin()
    rank = Run.open(run.path)
    rank.check_token()
    rank.check_token()
    run.finish("preempted")
    rank.check_token()
    run.begin()
    with pytest.raises(ScaledlError, match="has taken over"):
        rank.check_token()


def test_a_removed_token_stops_the_attempt(root: Path) -> None:
    run = make(root)
    run.begin()
    (run.path / "attempt.json").unlink()
    with pytest.raises(ScaledlError, match="has lost"):
        run.check_token()


def test_begin_goes_on_from_a_damaged_token(root: Path) -> None:
    run = make(root)
    run.begin()
    (run.path / "attempt.json").write_text("{")
    assert Run.open(run.path).begin() == 2


def test_wall_time_adds_up_over_attempts(root: Path) -> None:
    run = make(root)
    run.update(wall_seconds=100.0)
    run.begin()
    time.sleep(0.02)
    run.finish("preempted")
    first = run.manifest.wall_seconds
    run.begin()
    run.finish("complete")
    assert 100.02 <= first <= run.manifest.wall_seconds < 110


def test_heartbeat_is_rate_limited(root: Path) -> None:
    run = make(root)
    run.begin()
    os.utime(run.path / "heartbeat", (0, 0))
    run.heartbeat()
    assert (run.path / "heartbeat").stat().st_mtime == 0


# State


def test_state_follows_the_process(root: Path) -> None:
    run = make(root)
    run.begin()
    assert run.state == "running"
    run.update(pid_start=1)
    assert run.state == "killed"
    run.finish("failed", error="loss is NaN")
    assert (run.state, run.manifest.error) == ("failed", "loss is NaN")


def test_state_on_another_machine_is_told_by_the_heartbeat(root: Path) -> None:
    run = make(root)
    run.begin()
    run.update(host="node-7")
    assert run.state == "running"
    os.utime(run.path / "heartbeat", (0, 0))
    assert run.state == "lost"
    (run.path / "heartbeat").unlink()
    assert run.state == "lost"


def test_state_after_a_reboot_is_killed(root: Path) -> None:
    run = make(root)
    run.update(boot_id="another boot")
    assert run.state == "killed"


# Changes and recorded files


def test_a_config_file_that_was_edited_is_refused(root: Path) -> None:
    run = make(root)
    file = run.path / "config.yaml"
    file.write_text(file.read_text().replace("\n  seed: 0", "\n  seed: 7", 1))
    with pytest.raises(UsageError, match=r"config\.yaml was edited .*digits/.*: run\.seed \(was 0, is 7\)\. Restore"):
        run.config  # noqa: B018


def test_update_takes_a_config(root: Path) -> None:
    run = make(root)
    changed = Config.model_validate({"run": {"seed": 9}})
    run.update(config=changed, world_size=2)
    assert run.config == changed
    assert run.manifest.config["run"]["seed"] == 9
    assert run.manifest.world_size == 2


def test_update_refuses_what_is_fixed(root: Path) -> None:
    run = make(root)
    with pytest.raises(AssertionError):
        run.update(id="other")


def test_finish_merges_metrics(root: Path) -> None:
    run = make(root)
    run.finish("preempted", loss=2, accuracy=0.5)
    run.finish("complete", loss=1)
    assert run.manifest.metrics == {"loss": 1.0, "accuracy": 0.5}


def test_concurrent_updates_lose_nothing(root: Path) -> None:
    run = make(root)
    for i in range(8):
        (run.path / f"file{i}").write_text(str(i))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: Run.open(run.path).record(f"file{i}"), range(8)))
    assert sorted(run.manifest.files) == [f"file{i}" for i in range(8)]


def test_record_and_verify(root: Path) -> None:
    run = with_model(make(root))
    (run.path / "report.html").write_text("x")
    run.record("report.html")
    run.verify_files()
    (run.path / "report.html").write_text("y")
    run.verify_files("model")
    with pytest.raises(UsageError, match=r"report\.html is damaged"):
        run.verify_files()
    (run.model_dir / "weights.safetensors").unlink()
    with pytest.raises(UsageError, match=r"weights\.safetensors is missing"):
        run.verify_files("model/")
    with pytest.raises(UsageError, match="no recorded file exports"):
        run.verify_files("exports")


def test_one_changed_byte_is_seen(root: Path) -> None:
    run = with_model(make(root), "w" * 10_000)
    path = run.model_dir / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(UsageError, match="damaged"):
        run.verify_files("model")


def test_recording_a_folder_again_forgets_what_is_gone(root: Path) -> None:
    run = with_model(make(root))
    (run.model_dir / "weights.safetensors").rename(run.model_dir / "other")
    (run.model_dir / ".x.tmp").write_text("temporary")
    (run.model_dir / "link").symlink_to("other")
    run.record("model")
    assert list(run.manifest.files) == ["model/other"]


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "missing"])
def test_only_files_of_the_run_are_recorded(root: Path, name: str) -> None:
    run = make(root)
    (root / "digits/outside").write_text("x")
    with pytest.raises(UsageError, match="not a file or folder of"):
        run.record(name)


def test_as_parent_is_the_content_of_the_model(root: Path) -> None:
    first, same, other = with_model(make(root)), with_model(make(root)), with_model(make(root), "else")
    assert first.as_parent().sha256 == same.as_parent().sha256 != other.as_parent().sha256
    assert replace(first.as_parent(), id=same.id, path=str(same.path)) == same.as_parent()
    with pytest.raises(UsageError, match="has no saved model"):
        make(root).as_parent()
