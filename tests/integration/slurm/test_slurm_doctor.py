"""A rank's place and the doctor in a real Slurm: in a step, in a batch script, in the shell of an allocation."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.slurm_cluster import SlurmCluster

pytestmark = pytest.mark.integration

PLACE = """
import json, os
from dataclasses import asdict
from scaledl.distributed.environment import detect_cluster
from scaledl.errors import UsageError
try:
    print(json.dumps(asdict(detect_cluster(os.environ))))
except UsageError as error:
    print(json.dumps({"refused": str(error)}))
"""


def run(slurm: SlurmCluster, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=folder, env=slurm.environment(), capture_output=True, text=True, timeout=180)


@pytest.fixture
def place(tmp_path: Path) -> list[str]:
    """A command that prints the place it finds itself in."""
    (tmp_path / "place.py").write_text(PLACE)
    return [sys.executable, str(tmp_path / "place.py")]


def lines(text: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return sorted(found, key=lambda spec: spec.get("rank", -1))


def test_every_task_of_a_step_knows_its_place(slurm: SlurmCluster, place: list[str], tmp_path: Path) -> None:
    done = run(slurm, "srun", "-N2", "-n3", *place, folder=tmp_path)
    specs = lines(done.stdout)
    assert [(spec["rank"], spec["node_rank"], spec["local_rank"]) for spec in specs] == [
        (0, 0, 0),
        (1, 0, 1),
        (2, 1, 0),
    ]
    assert [spec["local_world_size"] for spec in specs] == [2, 2, 1]
    assert all(spec["nodes"] == ["n1", "n2"] and spec["master_addr"] == "n1" for spec in specs)
    assert len({spec["launch_id"] for spec in specs}) == 1


def test_two_steps_of_an_allocation_have_two_ids(slurm: SlurmCluster, place: list[str], tmp_path: Path) -> None:
    command = shlex.join(["srun", "-N1", "-n1", *place])
    done = run(slurm, "salloc", "-N2", "-n2", "bash", "-c", f"{command}; {command}", folder=tmp_path)
    first, second = lines(done.stdout)
    assert (first["world_size"], first["num_nodes"], first["job_id"]) == (1, 1, second["job_id"])
    assert first["launch_id"] != second["launch_id"]


@pytest.mark.parametrize("name", ["bash", "interactive", "train"])
def test_a_shell_in_an_allocation(slurm: SlurmCluster, place: list[str], tmp_path: Path, name: str) -> None:
    """One task is one process; several are not left idle."""
    alone = run(slurm, "salloc", "-n1", "-J", name, "bash", "-c", shlex.join(place), folder=tmp_path)
    [spec] = lines(alone.stdout)
    assert (spec["launcher"], spec["world_size"]) == ("none", 1)
    assert spec["job_id"]
    several = run(slurm, "salloc", "-N2", "-n2", "-J", name, "bash", "-c", shlex.join(place), folder=tmp_path)
    [answer] = lines(several.stdout)
    assert "not started by srun" in answer["refused"]


def test_the_doctor_in_a_step_looks_at_all_nodes(slurm: SlurmCluster, tmp_path: Path) -> None:
    program = str(Path(sys.executable).with_name("scaledl"))
    done = run(slurm, "srun", "-N2", "-n2", program, "doctor", "--json", "--seconds", "3", folder=tmp_path)
    found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert found["environment"]["what"].startswith("tasks of srun in job ")
    assert "controller is up" in found["slurm"]["what"]
    assert [found[name]["verdict"] for name in ("same software", "shared folder", "links", "all-reduce")] == ["ok"] * 4
    assert done.returncode == (1 if "fail" in [check["verdict"] for check in found.values()] else 0)
    assert list(tmp_path.iterdir()) == []
