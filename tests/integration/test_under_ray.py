"""`scaledl train` as the ranks that actors of a real Ray start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.integration.conftest import run_command

pytestmark = pytest.mark.integration
PROGRAM = Path(__file__).with_name("ray_program.py")


def test_actors_of_ray_are_ranks_and_the_job_around_them_is_not_asked(
    empty: Path, cannot: Callable[[str], None]
) -> None:
    if find_spec("ray") is None:
        cannot("ray is not installed: pip install 'scaledl[tune]'")
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(empty), "tiny.yaml"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    [line] = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    ranks = json.loads(line.removeprefix("RESULT "))
    assert [rank["code"] for rank in ranks] == [0, 0], ranks
    assert ranks[1]["out"] == "", "rank 0 speaks"
    [manifest] = empty.glob("runs/*/latest/manifest.json")
    assert manifest.parent.resolve().name != "7", "several workers are in one job"
    found = json.loads(manifest.read_text())
    assert (found["status"], found["world_size"]) == ("complete", 2)
    alone = run_command(empty, "train", "tiny.yaml", "run.id=alone")
    assert alone.code == 0, alone.err
    [other] = empty.glob("runs/*/alone/manifest.json")
    assert json.loads(other.read_text())["metrics"] == pytest.approx(found["metrics"], abs=1e-5)
