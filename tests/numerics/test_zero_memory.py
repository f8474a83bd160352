"""What ZeRO-3 holds of a large model, as the kernel sees it: the benchmark's own measurement, on two real ranks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.numerics
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "memory.py"


def test_a_rank_holds_what_the_formula_says_and_its_peak_stays_near(tmp_path: Path) -> None:
    file = tmp_path / "memory.json"
    command = [sys.executable, str(BENCHMARK), "--case", "zero 3", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [found] = json.loads(file.read_text())["results"]
    assert found["against_formula"] == pytest.approx(1.0, abs=0.1), found
    assert found["peak_by_steady"] < 1.5, found
