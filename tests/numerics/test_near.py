"""Ranks that share a machine: sums, numbers and failures through its memory. Real processes."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scaledl.distributed.local import free_port

pytestmark = pytest.mark.numerics
if platform.machine() != "x86_64":
    pytest.skip("ranks share memory on x86 only", allow_module_level=True)
PROGRAM = Path(__file__).parents[1] / "near_program.py"


def run(world_size: int, folder: Path, what: str) -> None:
    port = str(free_port())
    command = [sys.executable, str(PROGRAM)]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(world_size), port, str(folder), what],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world_size)
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * world_size, errors


@pytest.fixture(autouse=True)
def no_files_stay() -> Any:
    before = set(Path("/dev/shm").glob("scaledl-*"))
    yield
    assert set(Path("/dev/shm").glob("scaledl-*")) <= before


@pytest.mark.parametrize("world_size", [2, 3])
def test_gradients_are_the_sums_in_the_order_of_ranks(world_size: int, tmp_path: Path) -> None:
    run(world_size, tmp_path, "sums")
    for private in (0, 1):
        for number in range(5):
            files = [tmp_path / f"{private}-{number}-{rank}.pt" for rank in range(world_size)]
            found = [torch.load(file, weights_only=True) for file in files]
            for place, parts in enumerate(zip(*(rank["before"] for rank in found), strict=True)):
                there = [part for part in parts if part is not None]
                for rank in found:
                    got = rank["after"][place]
                    if not there:
                        assert got is None
                        continue
                    expected = there[0]
                    for part in there[1:]:
                        expected = expected + part
                    assert torch.equal(got, expected), (private, number, place)
                    assert got.stride() == found[0]["after"][place].stride()
            for rank in found:
                assert all(bool((buffer == 10 * number).all()) for buffer in rank["buffers"]), "those of rank 0"


def test_numbers_are_the_largest_of_all(tmp_path: Path) -> None:
    run(3, tmp_path, "numbers")
    expected = [[step + 2, -step, step % 3] for step in range(300)]
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)] == [expected] * 3


def test_buffers_that_take_shape_are_followed(tmp_path: Path) -> None:
    run(2, tmp_path, "observers")
    assert all(torch.equal(torch.load(tmp_path / f"{rank}.pt", weights_only=True), torch.ones(3)) for rank in range(2))


def test_where_there_is_no_room_no_rank_has_a_region(tmpfs: Callable[[str], Path]) -> None:
    folder = tmpfs("4m")
    run(2, folder, "no_room")
    assert [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)] == [[True, False]] * 2
    assert not list(folder.glob("scaledl-*"))


def test_a_rank_that_does_not_come_is_waited_for_so_long(tmp_path: Path) -> None:
    run(2, tmp_path, "absent")
    assert "timed out waiting 1 s" in json.loads((tmp_path / "0.json").read_text())


def test_a_rank_that_failed_is_not_waited_for(tmp_path: Path) -> None:
    run(2, tmp_path, "failed")
    assert "rank 1" in (told := json.loads((tmp_path / "0.json").read_text()))
    assert "ValueError: on purpose" in told
