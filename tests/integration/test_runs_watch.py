"""`scaledl runs --watch` beside jobs that run, end and are removed."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

WATCH = [sys.executable, "-m", "scaledl.cli", "runs", "--watch", "--interval", "0.2"]
# A run that writes metrics until a file `stop` appears in its folder.
JOB = """\
import json, sys, time
from pathlib import Path
from scaledl.config import Config
from scaledl.distributed.status import RankStatus, write_status
from scaledl.run import Run

run = Run.create("runs", "job", sys.argv[1], config=Config())
run.begin()
step = 0
while not (run.path / "stop").exists():
    step += 10
    with run.metrics_file.open("a") as file:
        print(json.dumps({"kind": "train", "step": step, "epoch": 0, "loss": 1 / step, "total_steps": 5000}), file=file)
    for rank in (0, 1):
        write_status(run.path / "ranks", RankStatus("x", "running", step=step, rank=rank, host=f"n{rank}"))
    time.sleep(0.05)
run.finish("complete")
"""


class Jobs:
    """Jobs that run, and what watches them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[str]] = []

    def run(self, id: str) -> Path:
        self.processes.append(subprocess.Popen([sys.executable, "-c", JOB, id], cwd=self.folder, text=True))
        path = self.folder / "runs" / "job" / id
        wait_until((path / "ranks" / "rank-00001.status").exists)
        return path

    def watch(self, *arguments: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        process = subprocess.Popen([*WATCH, *arguments], cwd=self.folder, stdout=pipe, stderr=pipe, text=True)
        self.processes.append(process)
        return process

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    jobs = Jobs(tmp_path)
    yield jobs
    jobs.close()


def wait_until(condition: object, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def next_line(process: subprocess.Popen[str], pattern: str) -> str:
    """The next line that the pattern is found in."""
    assert process.stdout is not None
    for line in process.stdout:
        if re.search(pattern, line):
            return line
    raise AssertionError(process.communicate()[1])


def test_lines_until_nothing_runs_any_more(jobs: Jobs) -> None:
    first = jobs.run("a")
    process = jobs.watch()
    line = next_line(process, r"steps/s [1-9].*ETA \d")
    assert re.search(r"^job/a  running  attempt 1  step \d+/5000  epoch 1/10  loss 0\.\d{4}  ", line)
    assert re.search(r"  ranks 2/2  on n0 n1  seen 0:00 ago$", line)
    second = jobs.run("b")
    next_line(process, "^job/b  running")
    (first / "stop").touch()
    next_line(process, "^job/a  complete")
    (second / "stop").touch()
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    assert out.count("job/a") == 0, "said twice that it has ended"
    assert out.splitlines()[-1].startswith("job/b  complete")


def test_a_run_that_is_killed_and_one_that_is_removed(jobs: Jobs) -> None:
    jobs.run("a"), jobs.run("b")
    process = jobs.watch()
    next_line(process, "^job/b")
    for job in jobs.processes[:2]:
        job.kill()
        job.wait()
    shutil.rmtree(jobs.folder / "runs" / "job" / "b")
    next_line(process, "^job/a  killed")
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    assert "job/b" not in out


def test_without_a_job_it_waits_for_one(jobs: Jobs) -> None:
    process = jobs.watch()
    assert next_line(process, "") == "nothing runs in runs/\n"
    path = jobs.run("a")
    next_line(process, "^job/a  running")
    (path / "stop").touch()
    assert process.wait(20) == 0


@pytest.mark.parametrize("arguments", [[], ["--quiet"]])
def test_ctrl_c_ends_it(jobs: Jobs, arguments: list[str]) -> None:
    jobs.run("a")
    process = jobs.watch(*arguments)
    next_line(process, "^job/a")
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert process.communicate()[1] == ""


def test_a_reader_that_leaves_ends_it(jobs: Jobs) -> None:
    jobs.run("a")
    process = jobs.watch()
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(20) == 0


def test_once(jobs: Jobs) -> None:
    process = jobs.watch("--once")
    assert process.communicate(timeout=20) == ("nothing runs in runs/\n", "")
    jobs.run("a")
    out, err = jobs.watch("--once").communicate(timeout=20)
    assert err == ""
    header, _, row = out.splitlines()
    assert header.split()[:3] == ["run", "status", "attempt"]
    assert row.split()[:3] == ["job/a", "running", "1"]
    [found] = json.loads(jobs.watch("--once", "--json").communicate(timeout=20)[0])
    assert (found["label"], found["status"], found["total_steps"], found["hosts"]) == (
        "job/a",
        "running",
        5000,
        ["n0", "n1"],
    )
    assert found["steps_per_second"] > 0
    assert found["eta_seconds"] > 0


def test_a_table_on_a_terminal(jobs: Jobs) -> None:
    path = jobs.run("a")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(jobs.folder)
        os.execve(sys.executable, WATCH, {**os.environ, "TERM": "xterm", "COLUMNS": "160", "LINES": "40"})
    text = ""
    try:
        while text.count("job/a") < 3:
            assert select.select([terminal], [], [], 20)[0], text
            text += os.read(terminal, 65536).decode()
        (path / "stop").touch()
        text += read_all(terminal)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        os.close(terminal)
    assert "steps/s" in text
    assert "complete" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor stays hidden"


def test_ctrl_c_on_a_terminal(jobs: Jobs) -> None:
    jobs.run("a")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(jobs.folder)
        os.execve(sys.executable, WATCH, {**os.environ, "TERM": "xterm"})
    text = ""
    try:
        while "job/a" not in text:
            assert select.select([terminal], [], [], 20)[0], text
            text += os.read(terminal, 65536).decode()
        os.write(terminal, b"\x03")
        text += read_all(terminal)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        os.close(terminal)
    assert "Traceback" not in text


def read_all(terminal: int) -> str:
    text = b""
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # the other side is closed
            data = b""
        if not data:
            return text.decode()
        text += data


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--once"], ["--once", "--watch"]),
        (["--interval", "5"], ["--interval", "--watch"]),
        (["--watch", "--json"], ["--json", "--once"]),
        (["--watch", "--interval", "0"], ["--interval: got '0'", "0.2 to 3600"]),
        (["--watch", "--interval", "-1"], ["--interval"]),
        (["--watch", "--interval", "nan"], ["--interval: got 'nan'"]),
        (["--watch", "--interval", "1e9"], ["--interval: got '1e9'"]),
        (["--watch", "--root", "/dev/null"], ["--root: got '/dev/null'"]),
        (["--wacth"], ["did you mean '--watch'?"]),
    ],
)
def test_wrong_arguments(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scaledl.cli", "runs", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert done.stdout == ""
    assert all(word in done.stderr for word in words), done.stderr


def test_watching_imports_no_torch(jobs: Jobs) -> None:
    jobs.run("a")
    code = "import sys; from scaledl.cli import main; main(['runs', '--watch', '--once', '--json'])\n"
    code += "print(sorted({'torch', 'numpy', 'rich'} & sys.modules.keys()))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=jobs.folder, capture_output=True, text=True, timeout=20)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout
