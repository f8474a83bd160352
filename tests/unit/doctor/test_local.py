"""What one process finds on its machine: tools that hang or are not there, variables that are wrong."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scaledl.doctor import machine, software, storage
from scaledl.doctor.check import Check, guarded, worst
from scaledl.doctor.processes import Asked, ask

pytestmark = pytest.mark.unit

Script = Callable[[str], None]


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """`scontrol("case $1 in …")` puts a scontrol that runs this into the path, alone."""

    def write(text: str) -> None:
        path = tmp_path / "bin" / "scontrol"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(path.parent))

    return write


GOOD = """case "$*" in
--version) echo slurm 23.02.1;;
ping) echo 'Slurmctld(primary) at c1 is UP';;
*show*job*) echo "JobId=1 Requeue=REQUEUE Restarts=0";;
esac"""


def test_questions_have_an_end(tmp_path: Path) -> None:
    marker = tmp_path / "child"
    code = f"import subprocess, sys; subprocess.run(['sh', '-c', 'echo $$ > {marker}; exec sleep 300'])"
    begin = time.monotonic()
    asked = Asked.python(code, 2)
    assert asked.answer() == (False, "no answer within 2 s")
    assert time.monotonic() - begin < 60
    child = int(marker.read_text())
    deadline = time.monotonic() + 5
    while Path(f"/proc/{child}/cmdline").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{child}/exe").exists(), "what the question started still runs"


def test_answers(tmp_path: Path) -> None:
    assert ask([sys.executable, "-c", "print(7)"], 30) == (True, "7\n")
    assert ask([sys.executable, "-c", "raise ImportError('no libcuda')"], 30) == (False, "ImportError: no libcuda")
    assert ask([str(tmp_path / "nothing")], 30) == (False, "No such file or directory")
    assert ask([sys.executable, "-c", "raise SystemExit(3)"], 30) == (False, "exit code 3")


def test_a_check_that_breaks_does_not_break_the_others() -> None:
    def broken() -> Check:
        raise ValueError("odd file")

    assert guarded("disk", broken).what == "could not be looked at: ValueError: odd file"


def test_the_worst_decides() -> None:
    fine, bad = Check("", "ok", "fine"), Check("", "fail", "bad", "repair")
    assert worst("x", [fine, fine]) == Check("x", "ok", "fine; fine")
    assert worst("x", [fine, Check("", "warn", "odd"), bad]) == Check("x", "fail", "odd; bad", "repair")


def test_slurm_that_is_well(scontrol: Script) -> None:
    scontrol(GOOD.replace("REQUEUE ", "1 "))
    assert software.slurm({"SLURM_JOB_ID": "1"}).what == "slurm 23.02.1; controller is up; job 1 may be requeued"


@pytest.mark.parametrize(
    ("script", "environ", "verdict", "said"),
    [
        (GOOD.replace("23.02.1", "21.08.8"), {}, "warn", "slurm 21.08.8 is older than what was tested"),
        (GOOD.replace("UP", "DOWN"), {}, "warn", "the controller is not there: Slurmctld(primary) at c1 is DOWN"),
        (GOOD.replace("UP", "DOWN"), {"SLURM_JOB_ID": "1"}, "fail", "the controller is not there"),
        (GOOD.replace("REQUEUE ", "0 "), {"SLURM_JOB_ID": "1"}, "warn", "job 1 may not be requeued"),
        ("echo no config >&2; exit 1", {}, "warn", "Slurm's tools are here, but do not work: no config"),
        ("echo no config >&2; exit 1", {"SLURM_JOB_ID": "1"}, "fail", "do not work: no config"),
        ("exec /bin/sleep 300", {}, "warn", "do not work: no answer within 0.5 s"),
    ],
)
def test_slurm_that_is_not(
    script: str, environ: dict[str, str], verdict: str, said: str, scontrol: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(software, "SLURM_SECONDS", 0.5 if "sleep" in script else 20.0)
    scontrol(script)
    check = software.slurm(environ)
    assert check.verdict == verdict
    assert said in check.what
    assert check.fix


def test_slurm_that_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert software.slurm({}) == Check("slurm", "ok", "not on this machine")
    assert software.slurm({"SLURM_JOB_ID": "7"}).what == "job 7, but there is no scontrol here (a container?)"


def test_ray_without_a_token_and_a_token_that_others_read(tmp_path: Path) -> None:
    def imported() -> Asked:
        return Asked([sys.executable, "-c", "print('\"2.60.0\"')"], 30)

    assert software.ray(imported(), {}, tmp_path) == Check("ray", "ok", "ray 2.60.0")
    check = software.ray(imported(), {"RAY_ADDRESS": "10.0.0.1:6379"}, tmp_path)
    assert (check.verdict, check.fix) == ("warn", "start Ray with RAY_AUTH_MODE=token on every node")
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("x")
    token.chmod(0o644)
    assert software.ray(imported(), {}, tmp_path).fix == f"chmod 600 {token}"
    token.chmod(0o600)
    assert software.ray(imported(), {"RAY_ADDRESS": "x", "RAY_AUTH_MODE": "token"}, tmp_path).verdict == "ok"
    assert software.ray(None, {}, tmp_path).verdict == "ok"


def test_a_package_that_does_not_import_fails() -> None:
    check = software.deepspeed(Asked([sys.executable, "-c", "raise OSError('no nvcc')"], 30))
    assert (check.verdict, check.what) == ("fail", "deepspeed is installed but does not import: OSError: no nvcc")
    assert software.deepspeed(None).verdict == "ok"


def test_a_torch_that_does_not_work_fails() -> None:
    check = machine.devices(Asked([sys.executable, "-c", "raise RuntimeError('CUDA error: 999')"], 30))
    assert (check.verdict, check.what) == ("fail", "PyTorch does not work here: RuntimeError: CUDA error: 999")
    answer = """print('{"cuda": "13.0", "gpus": [["H200", 150000000000], ["H200", 150000000000]]}')"""
    assert machine.devices(Asked([sys.executable, "-c", answer], 30)).what == "2 GPU(s): H200 (140 GiB)"


def test_cpus_that_srun_did_not_hand_on() -> None:
    allowed = len(os.sched_getaffinity(0))
    assert machine.processors({"SLURM_CPUS_PER_TASK": str(allowed)}).verdict == "ok"
    check = machine.processors({"SLURM_CPUS_PER_TASK": str(allowed + 6)})
    assert check.verdict == "warn"
    assert check.fix.startswith("export SRUN_CPUS_PER_TASK")


@pytest.mark.parametrize(
    ("variable", "value", "verdict"),
    [
        ("GLOO_SOCKET_IFNAME", "lo", "ok"),
        ("GLOO_SOCKET_IFNAME", "lo,eth77", "fail"),
        ("NCCL_SOCKET_IFNAME", "=lo", "ok"),
        ("NCCL_SOCKET_IFNAME", "^lo", "ok"),
        ("NCCL_SOCKET_IFNAME", "l", "ok"),
        ("NCCL_SOCKET_IFNAME", "ib77", "fail"),
    ],
)
def test_interfaces_that_variables_name(variable: str, value: str, verdict: str) -> None:
    check = machine.interfaces({variable: value})
    assert check.verdict == verdict
    assert (variable in check.what) == (verdict == "fail")


def test_this_machine_can_be_told_about(tmp_path: Path) -> None:
    for check in (machine.memory(), machine.limits(), storage.storage(tmp_path / "runs" / "deep")):
        assert check.verdict in ("ok", "warn")
        assert check.what
    assert list(tmp_path.iterdir()) == []


def test_a_slow_disk_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "BLOCK", 2**16)
    monkeypatch.setattr(storage, "SLOW_BYTES", 2**50)
    monkeypatch.setattr(storage, "SLOW_SYNC_SECONDS", 0.0)
    check = storage.storage(tmp_path)
    assert check.verdict == "warn"
    assert "writes only" in check.what
    assert "to sync a small file" in check.what
