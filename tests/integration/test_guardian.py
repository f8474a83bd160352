"""Guardians beside real ranks that tick, hang, fail and are killed. The ranks are small programs without torch."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from scaledl.distributed.cause import publish_cause
from scaledl.distributed.status import RankStatus, read_status, read_statuses, status_path, write_status

pytestmark = pytest.mark.integration

# Runs its argument as a rank. With LAUNCH it starts itself as that many ranks, with NODE it is guarded by a fork.
PROGRAM = """\
import ctypes, os, signal, subprocess, sys, threading, time
from pathlib import Path
from scaledl.distributed import guardian
from scaledl.distributed.preemption import stop_flag

guardian.LEAVE_SECONDS = float(os.environ.get("LEAVE_SECONDS", "1"))  # for most tests not the real time
stop_flag.install()
if os.environ.get("LAUNCH"):
    from scaledl.distributed.local import launch
    count = int(os.environ.pop("LAUNCH"))
    sys.exit(launch([sys.executable, *sys.argv], count))

rank, folder = int(os.environ["RANK"]), Path(os.environ["RANKS"])
if os.environ.get("NODE"):
    from scaledl.distributed.environment import ClusterSpec
    world = int(os.environ["WORLD_SIZE"])
    link = guardian.guard(ClusterSpec(
        launcher="env", rank=rank, local_rank=0, node_rank=rank, world_size=world, local_world_size=1,
        num_nodes=world, nodes=("n1", "n2", "n3")[:world], master_addr="127.0.0.1", master_port=None,
        launch_id=os.environ["SCALEDL_LAUNCH_ID"], job_id=None, restart=0))
else:
    from scaledl.distributed.link import current_link
    link = current_link()

def begin(hang_seconds=None, step=None):
    link.announce(folder, 2, hang_seconds, step=step)
    link.phase("train")

def leave(code, status, message=""):
    link.final(status, message)
    sys.exit(code)

def check():
    if stop_flag.signum == signal.SIGINT:
        leave(130, "interrupted")
    if stop_flag.signum:
        leave(75, "preempted", "saved at a step")

def train(first=1, last=10**9):
    for step in range(first, last):
        link.tick(step)
        time.sleep(0.01)
        check()

def hang_in_native_code():
    native = ctypes.PyDLL(None)  # keeps the interpreter's lock: no thread and no handler of Python runs
    while True:
        native.pause()

def mark(name):
    (folder.parent / name).write_text(str(os.getpid()))

exec(sys.argv[1])
"""


class Job:
    """Starts guardians over one folder of status files, and leaves none of their processes behind."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ranks = path / "run" / "ranks"
        self.program = path / "rank.py"
        self.program.write_text(PROGRAM)
        (path / "run").mkdir()
        self.started: list[subprocess.Popen[str]] = []

    def start(self, code: str, **variables: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "RANKS": str(self.ranks), "RANK": "0", "SCALEDL_LAUNCH_ID": "this", **variables}
        environment = {name: value for name, value in environment.items() if value}
        process = subprocess.Popen(
            [sys.executable, str(self.program), code],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def guarded(self, code: str, rank: int = 0, world_size: int = 1, **variables: str) -> subprocess.Popen[str]:
        """One rank on a node of its own."""
        return self.start(code, NODE="yes", RANK=str(rank), WORLD_SIZE=str(world_size), **variables)

    def launched(self, code: str, num_ranks: int = 2, **variables: str) -> subprocess.Popen[str]:
        """As many ranks under one guardian."""
        return self.start(code, LAUNCH=str(num_ranks), **variables)

    def status(self, rank: int = 0) -> RankStatus:
        found = read_status(status_path(self.ranks, rank))
        assert found is not None, sorted(self.ranks.iterdir())
        return found

    def wait_for(self, status: str, rank: int = 0) -> RankStatus:
        path = status_path(self.ranks, rank)
        wait_until(lambda: (found := read_status(path)) is not None and found.status == status)
        return self.status(rank)

    def wait_for_mark(self, name: str) -> int:
        path = self.path / "run" / name
        wait_until(lambda: path.is_file() and path.read_text() != "")
        return int(path.read_text())

    def close(self) -> None:
        for process in self.started:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def ended(process: subprocess.Popen[str], seconds: float = 20) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def is_gone(pid: int) -> bool:
    """Not even a zombie is left."""
    return not Path(f"/proc/{pid}").exists()


def is_dead(pid: int) -> bool:
    """Gone, but for what its new parent has not yet asked for."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    return True


def errors(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error:")]


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    job = Job(tmp_path)
    yield job
    job.close()


# How one rank ends


@pytest.mark.parametrize(
    ("code", "status"),
    [(0, "complete"), (1, "failed"), (2, "refused"), (3, "refused"), (75, "preempted"), (130, "interrupted")],
)
def test_the_exit_code_goes_through_and_is_written_down(job: Job, code: int, status: str) -> None:
    process = job.guarded(f"begin(step=300); train(301, 304); sys.exit({code})")
    assert ended(process) == (code, "", "")
    found = job.status()
    assert (found.status, found.exit, found.signal) == (status, code, "")
    assert (found.launch, found.host, found.attempt, found.start_step) == ("this", "n1", 2, 300)
    assert found.pid != process.pid
    assert is_gone(found.pid)


def test_the_last_word_of_a_rank_is_kept(job: Job) -> None:
    process = job.guarded("begin(); train(1, 4); leave(1, 'failed', 'no space\\nleft')")
    assert ended(process) == (1, "", "")
    assert (job.status().status, job.status().message, job.status().step) == ("failed", "no space left", 3)
    assert job.status().start_step == 1


def test_a_rank_that_is_killed(job: Job) -> None:
    process = job.guarded("begin(); train()")
    pid = job.wait_for("running").pid
    os.kill(pid, signal.SIGKILL)
    code, _, err = ended(process)
    assert code == 137
    assert err.startswith(
        f"error: rank 0 on n1 (process {pid}) was killed by SIGKILL (signal 9), perhaps by the out-of-memory killer. "
    )
    assert len(err.splitlines()) == 1
    assert (job.status().status, job.status().signal, job.status().exit) == ("killed", "SIGKILL", 137)


def test_a_crash_in_native_code(job: Job) -> None:
    code, _, err = ended(job.guarded("begin(); os.kill(os.getpid(), signal.SIGSEGV)"))
    assert code == 139
    assert "was killed by SIGSEGV (signal 11), a crash in native code" in err


def test_output_is_written_once_and_in_order(job: Job) -> None:
    source = "print('after', flush=True)"
    before = "print('before', end=' ')\nfrom scaledl.distributed.preemption import stop_flag"
    job.program.write_text(before + PROGRAM.removeprefix("import").join(["\nimport", ""]))
    assert ended(job.guarded(source)) == (0, "before after\n", "")


# Signals


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
def test_stop_signals_that_reach_only_the_guardian(job: Job, signum: int) -> None:
    process = job.guarded("begin(); train()")
    job.wait_for("running")
    os.kill(process.pid, signum)
    assert ended(process) == (75, "", "")
    assert (job.status().status, job.status().message) == ("preempted", "saved at a step")


def test_stop_signals_that_reach_every_process(job: Job) -> None:
    process = job.launched("begin(); train()")
    job.wait_for("running", 0), job.wait_for("running", 1)
    os.killpg(process.pid, signal.SIGTERM)
    assert ended(process) == (75, "", "")
    assert [status.status for status in read_statuses(job.ranks)] == ["preempted", "preempted"]


@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_ctrl_c_without_a_terminal(job: Job, send: Callable[[int, int], None]) -> None:
    process = job.guarded("begin(); train()")
    job.wait_for("running")
    send(process.pid, signal.SIGINT)
    assert ended(process) == (130, "", "")
    assert (job.status().status, job.status().exit) == ("interrupted", 130)


def test_ctrl_c_on_a_terminal(job: Job) -> None:
    environment = {**os.environ, "RANKS": str(job.ranks), "LAUNCH": "2"}
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, [sys.executable, str(job.program), "begin(); train()"], environment)
    try:
        ranks = [job.wait_for("running", rank).pid for rank in (0, 1)]
        os.write(terminal, b"\x03")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    finally:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
        os.close(terminal)
    assert [status.status for status in read_statuses(job.ranks)] == ["interrupted", "interrupted"]
    assert all(map(is_gone, ranks))


def test_the_third_ctrl_c_waits_for_nothing(job: Job) -> None:
    process = job.guarded("begin(); hang_in_native_code()")
    job.wait_for("running")
    for _ in range(3):
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.7)
    code, _, err = ended(process)
    assert (code, err) == (130, "")
    assert job.status().status == "interrupted"


def test_a_signal_that_the_rank_does_not_handle_ends_it_as_without_a_guardian(job: Job) -> None:
    process = job.guarded("begin(); train()")
    job.wait_for("running")
    os.kill(process.pid, signal.SIGUSR2)
    assert ended(process)[0] == 128 + signal.SIGUSR2
    assert (job.status().status, job.status().signal) == ("killed", "SIGUSR2")


def test_a_stop_signal_before_the_rank_can_catch_it(job: Job) -> None:
    """As while Python starts."""
    code = "signal.signal(signal.SIGTERM, signal.SIG_DFL); mark('up'); time.sleep(100)"
    process = job.guarded(code, SCALEDL_STATUS_DIR=str(job.ranks))
    job.wait_for_mark("up")
    job.wait_for("starting")  # the guardian's words: it may come to them later than the rank to its own
    os.kill(process.pid, signal.SIGTERM)
    assert ended(process)[0] == 143
    assert (job.status().status, job.status().signal) == ("preempted", "SIGTERM")


def test_a_stop_signal_while_the_interpreter_ends(job: Job) -> None:
    """Python has put its own handlers back by then."""
    code = "begin(); link.final('complete'); signal.signal(signal.SIGTERM, signal.SIG_DFL); mark('up'); time.sleep(100)"
    process = job.guarded(code)
    os.kill(job.wait_for_mark("up"), signal.SIGTERM)
    assert ended(process) == (0, "", "")
    assert job.status().status == "complete"


# None is left behind


@pytest.mark.parametrize("start", ["guarded", "launched"])
def test_a_killed_guardian_leaves_no_orphan(job: Job, start: str) -> None:
    process = getattr(job, start)("begin(); train()")
    pid = job.wait_for("running").pid
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: is_dead(pid), seconds=5)


def test_a_rank_that_has_ended_is_no_zombie(job: Job) -> None:
    process = job.launched("begin(); rank == 0 and train(1, 3) or rank == 1 and train()")
    pid = job.wait_for("complete", 0).pid
    assert is_gone(pid)
    job.wait_for("running", 1)
    os.kill(process.pid, signal.SIGTERM)
    assert ended(process)[0] == 75


def test_descriptors_and_variables_stay_with_the_rank(job: Job) -> None:
    code = """
before = set(os.listdir("/proc/self/fd"))
listing = [sys.executable, "-c", "import os; print(sorted(map(int, os.listdir('/proc/self/fd')))[:-1])"]
print(len(before), "SCALEDL_LINK_FD" in os.environ, flush=True)
subprocess.run(listing, close_fds=False)
pid = os.fork()
if pid == 0:
    print(len(os.listdir("/proc/self/fd")), link.guarded, flush=True)
    link.tick(1), link.phase("x"), link.final("failed", "a worker's word")
    os._exit(0)
os.waitpid(pid, 0)
leave(0, "complete")
"""
    for process in (job.guarded(code), job.launched(code, 1)):
        code_of_exit, out, err = ended(process)
        assert (code_of_exit, err) == (0, "")
        # standard streams, the link, and the listing itself; without the link in children
        assert out.splitlines() == ["5 False", "[0, 1, 2]", "4 False"]


# Ranks that wait for the dead


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_all_of_this_machine(job: Job, victim: int) -> None:
    code = "begin(); train() if rank == 1 else hang_in_native_code()"
    process = job.launched(code, LEAVE_SECONDS="5")
    pids = [job.wait_for("running", rank).pid for rank in (0, 1)]
    started = time.monotonic()
    os.kill(pids[victim], signal.SIGKILL)
    code, _, err = ended(process)
    assert time.monotonic() - started < 15
    assert code == 137
    assert all(map(is_gone, pids))
    assert len(err.splitlines()) == 1
    assert f"error: rank {victim} on " in err
    assert f"(process {pids[victim]}) was killed by SIGKILL (signal 9)" in err
    assert "all ranks stop" in err
    assert job.status(victim).status == "killed"
    other = job.status(1 - victim)
    assert other.status == "stopped"
    assert other.message.startswith(f"stopped because rank {victim} on ")


def test_a_killed_rank_ends_all_nodes(job: Job) -> None:
    nodes = [job.guarded("begin(); train()", rank, 2, LEAVE_SECONDS="5") for rank in (0, 1)]
    pids = [job.wait_for("running", rank).pid for rank in (0, 1)]
    started = time.monotonic()
    os.kill(pids[1], signal.SIGKILL)
    first, second = (ended(node) for node in nodes)
    assert time.monotonic() - started < 15
    assert (first[0], second[0]) == (1, 137)
    assert errors(first[2]) == []
    assert len(errors(second[2])) == 1
    assert f"error: rank 1 on n2 (process {pids[1]}) was killed by SIGKILL (signal 9)" in second[2]
    assert (job.status(1).status, job.status(1).signal, job.status(1).exit) == ("killed", "SIGKILL", 137)
    assert (job.status(0).status, job.status(0).signal) == ("stopped", "SIGKILL")
    assert "rank 1 on n2" in job.status(0).message
    assert all(map(is_gone, pids))


def test_a_rank_whose_collective_breaks_is_not_the_cause(job: Job) -> None:
    """It fails within the second in which its guardian hears of the rank that was killed."""
    breaks = "begin(); path = folder.parent / 'broken'\nwhile not path.exists(): time.sleep(0.01)\nsys.exit(1)"
    nodes = [job.guarded(breaks, 0, 2), job.guarded("begin(); train()", 1, 2)]
    pids = [job.wait_for("running", rank).pid for rank in (0, 1)]
    (job.path / "run" / "broken").touch()
    wait_until(lambda: is_gone(pids[0]))
    os.kill(pids[1], signal.SIGKILL)
    first, second = (ended(node) for node in nodes)
    assert (first[0], first[2], second[0]) == (1, "", 137)
    assert "rank 1 on n2" in second[2]
    assert (job.status(0).status, job.status(0).exit, job.status(1).status) == ("stopped", 1, "killed")


@pytest.mark.parametrize("how", ["sys.exit(1)", "os._exit(7)", "raise ValueError('x')"])
def test_a_rank_that_fails_without_a_word_ends_all(job: Job, how: str) -> None:
    process = job.launched(f"begin()\nif rank == 1: {how}\nhang_in_native_code()")
    code, _, err = ended(process)
    assert code == (7 if "7" in how else 1)
    assert len(errors(err)) == 1
    assert f"failed (exit code {code}); all ranks stop" in err
    assert [status.status for status in read_statuses(job.ranks)] == ["stopped", "failed"]


def test_a_rank_that_told_why_it_failed_is_repeated_only_where_others_must_be_ended(job: Job) -> None:
    told = "begin()\nif rank == 1: leave(1, 'failed', 'no space left')\n"
    code, _, err = ended(job.launched(told + "train(1, 50); leave(1, 'stopped', 'rank 1 failed')"))
    assert (code, err) == (1, "")
    code, _, err = ended(job.launched(told + "hang_in_native_code()"))
    assert code == 1
    assert len(errors(err)) == 1
    assert "failed (exit code 1): no space left; all ranks stop" in err


def test_a_failed_rank_that_does_not_come_to_its_end(job: Job) -> None:
    code, _, _ = ended(job.launched("begin()\nif rank == 1: link.final('failed', 'broken')\nhang_in_native_code()"))
    assert code == 1
    assert [status.status for status in read_statuses(job.ranks)] == ["stopped", "failed"]


def test_followers_that_leave_with_the_code_of_rank_0_are_no_cause(job: Job) -> None:
    code = "begin(); leave(2, 'stopped') if rank == 1 else None\ntime.sleep(2); leave(2, 'refused', 'bad config')"
    assert ended(job.launched(code)) == (2, "", "")
    found = read_statuses(job.ranks)
    assert [(status.status, status.message) for status in found] == [("refused", "bad config"), ("stopped", "")]


def test_a_rank_that_leaves_alone_asks_the_others_to_leave(job: Job) -> None:
    nodes = [job.guarded("begin(); train()", rank, 2) for rank in (0, 1)]
    pids = [job.wait_for("running", rank).pid for rank in (0, 1)]
    os.kill(pids[1], signal.SIGTERM)
    assert [ended(node) for node in nodes] == [(75, "", ""), (75, "", "")]
    assert [status.status for status in read_statuses(job.ranks)] == ["preempted", "preempted"]


def test_a_finished_rank_disturbs_nobody(job: Job) -> None:
    nodes = [job.guarded("begin(); train(1, 400)", 0, 2), job.guarded("begin(); train(1, 3)", 1, 2)]
    assert [ended(node) for node in nodes] == [(0, "", ""), (0, "", "")]


def test_files_of_another_launch_mean_nothing(job: Job) -> None:
    old = RankStatus("earlier", "killed", rank=1, host="n2", pid=1, signal="SIGKILL", exit=137)
    write_status(job.ranks, old)
    publish_cause(job.ranks, old)
    process = job.guarded("begin(); train(1, 300); leave(0, 'complete')", 0, 2)
    assert ended(process) == (0, "", "")
    assert job.status(0).status == "complete"
    assert read_statuses(job.ranks, "this") == [job.status(0)]
    assert not list(job.ranks.glob("cause-*"))


# Hanging ranks


@pytest.mark.parametrize("how", ["hang_in_native_code()", "threading.Lock().acquire() or threading.Event().wait()"])
def test_a_hanging_rank_shows_its_stack_and_is_ended(job: Job, how: str) -> None:
    code = f"def stuck_here():\n    lock = threading.Lock(); lock.acquire(); {how}; lock.acquire()\n"
    code += "begin(hang_seconds=1); train(1, 20); stuck_here()"
    process = job.guarded(code)
    exit_code, _, err = ended(process)
    assert exit_code == 1
    assert len(errors(err)) == 1
    assert "error: rank 0 on n1" in err
    assert re.search(r"hangs: no progress for [1-9]\d* s after step \d+, in phase train\. ", err)
    assert re.search(r"^stack of rank 0 on n1 \(no progress for [1-9]\d* s\):$", err, re.MULTILINE)
    assert "in stuck_here\n" in err
    assert job.status().status == "hung"
    assert is_gone(job.status().pid)


def test_a_hang_shows_the_stacks_of_all_nodes(job: Job) -> None:
    code = "def in_rank_{0}():\n    hang_in_native_code()\nbegin(hang_seconds={1}); train(1, 5); in_rank_{0}()"
    nodes = [job.guarded(code.format(0, 100), 0, 2), job.guarded(code.format(1, 2), 1, 2)]
    (code0, _, err0), (code1, _, err1) = (ended(node) for node in nodes)
    assert (code0, code1) == (1, 1)
    assert (errors(err0), len(errors(err1))) == ([], 1)
    assert "stack of rank 0 on n1" in err0
    assert "in in_rank_0\n" in err0
    assert "stack of rank 1 on n2" in err1
    assert "in in_rank_1\n" in err1
    assert [status.status for status in read_statuses(job.ranks)] == ["stopped", "hung"]


def test_stacks_of_ranks_under_one_guardian_do_not_mix(job: Job) -> None:
    code = "threads = [threading.Thread(target=time.sleep, args=(100,), daemon=True) for _ in range(20)]\n"
    code += "[thread.start() for thread in threads]; begin(hang_seconds=1); train(1, 5); time.sleep(100)"
    exit_code, _, err = ended(job.launched(code))
    assert exit_code == 1
    parts = err.split("stack of rank ")
    assert [part.count("most recent call first") for part in parts] == [0, 21, 21]
    assert [status.status for status in read_statuses(job.ranks)].count("hung") == 1


def test_a_stopped_rank_hangs_too(job: Job) -> None:
    process = job.launched("begin(hang_seconds=1 if rank == 1 else None); train()")
    os.kill(job.wait_for("running", 1).pid, signal.SIGSTOP)
    code, _, err = ended(process)
    assert code == 1
    assert "error: rank 1 on " in err
    assert err.count("in train\n") == 2
    assert "stack of rank 0 on " in err
    assert re.search(r"stack of rank 1 on .* \(no progress for [1-9]\d* s\):", err)


@pytest.mark.parametrize("phase", ["setup", "idle"])
def test_some_phases_are_not_watched(job: Job, phase: str) -> None:
    code = f"begin(hang_seconds=0.5); link.phase({phase!r}); time.sleep(2); leave(0, 'complete')"
    assert ended(job.guarded(code)) == (0, "", "")


def test_progress_is_a_tick_or_another_phase(job: Job) -> None:
    code = "begin(hang_seconds=1.8)\nfor phase in ('train', 'validate') * 2: link.phase(phase); time.sleep(0.6)\n"
    code += "for _ in range(4): link.tick(7); time.sleep(0.6)\nleave(0, 'complete')"
    assert ended(job.guarded(code)) == (0, "", "")


def test_a_guardian_that_was_stopped_itself_sees_no_hang(job: Job) -> None:
    """As by `scontrol suspend`; the rank goes on a little later."""
    process = job.guarded("begin(hang_seconds=2); train()")
    pid = job.wait_for("running").pid
    os.kill(pid, signal.SIGSTOP), os.kill(process.pid, signal.SIGSTOP)
    time.sleep(5)
    os.kill(process.pid, signal.SIGCONT)
    time.sleep(1)
    os.kill(pid, signal.SIGCONT)
    time.sleep(1)
    os.kill(process.pid, signal.SIGTERM)
    assert ended(process) == (75, "", "")


# Where it writes


def test_steps_are_written_every_two_seconds(job: Job) -> None:
    process = job.guarded("begin(); train()")
    first = job.wait_for("running")
    wait_until(lambda: job.status().step > first.step + 100)
    assert job.status().time > first.time
    os.kill(process.pid, signal.SIGTERM)
    assert ended(process)[0] == 75


def test_the_folder_of_a_batch_script_and_that_of_the_run(job: Job) -> None:
    folder = job.path / "slurm"
    process = job.guarded("begin(); train(1, 3); leave(0, 'complete')", SCALEDL_STATUS_DIR=str(folder))
    assert ended(process)[0] == 0
    assert read_statuses(folder) == read_statuses(job.ranks)
    assert read_statuses(folder)[0].status == "complete"


def test_trainings_of_a_chain_one_after_the_other(job: Job) -> None:
    code = "begin(); train(1, 9); folder = folder.parent / 'stages' / 'ranks'; begin(); train(1, 3); os._exit(1)"
    assert ended(job.guarded(code))[0] == 1
    assert job.status().status == "failed"
    assert read_statuses(job.path / "run" / "stages" / "ranks")[0].status == "failed"


def test_a_full_disk_costs_one_warning(job: Job, tmpfs: Callable[[str], Path]) -> None:
    full = tmpfs("64k")
    with suppress(OSError):
        (full / "ballast").write_bytes(b"x" * (1 << 20))
    process = job.guarded("begin(); train(1, 300); leave(0, 'complete')", RANKS=str(full / "ranks"))
    code, _, err = ended(process)
    assert code == 0
    assert err.count("warning: cannot write the rank's status") == 1
    assert len(err.splitlines()) == 1


def test_a_run_that_is_removed_is_not_made_again(job: Job) -> None:
    process = job.guarded("begin(); train()")
    job.wait_for("running")
    subprocess.run(["rm", "-r", str(job.path / "run")], check=True)
    time.sleep(2.5)
    os.kill(process.pid, signal.SIGTERM)
    assert ended(process) == (75, "", "")
    assert not (job.path / "run").exists()


def test_closed_outputs_change_nothing(job: Job) -> None:
    process = job.launched("begin(); train()")
    pids = [job.wait_for("running", rank).pid for rank in (0, 1)]
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close(), process.stderr.close()
    os.kill(pids[1], signal.SIGKILL)
    assert process.wait(15) == 137
    assert [status.status for status in read_statuses(job.ranks)] == ["stopped", "killed"]


def test_a_reader_that_does_not_read_keeps_nobody(job: Job) -> None:
    code = "threading.Thread(target=os.write, args=(2, b'x' * (1 << 20)), daemon=True).start()\n"
    code += "begin(hang_seconds=1); train(1, 20); time.sleep(100)"
    process = job.guarded(code)
    assert process.wait(20) == 1
    assert job.status().status == "hung"


@pytest.mark.parametrize("variables", [{"NODE": "yes", "WORLD_SIZE": "1"}, {"LAUNCH": "1"}])
def test_no_outputs_at_all(job: Job, variables: dict[str, str]) -> None:
    environment = {**os.environ, "RANKS": str(job.ranks), "RANK": "0", "SCALEDL_LAUNCH_ID": "this", **variables}
    command = 'exec "$0" "$@" <&- >&- 2>&-'
    code = "begin(hang_seconds=1); train(1, 3); hang_in_native_code()"
    arguments = ["bash", "-c", command, sys.executable, str(job.program), code]
    assert subprocess.run(arguments, env=environment, timeout=20).returncode == 1
    assert job.status().status == "hung"


# Launching


def test_what_a_launched_rank_finds_in_its_environment(job: Job) -> None:
    names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "OMP_NUM_THREADS"]
    code = f"(folder.parent / str(rank)).write_text(' '.join(os.environ[name] for name in {names!r}))\n"
    code += "(folder.parent / f'id{rank}').write_text(os.environ['SCALEDL_LAUNCH_ID'] + os.environ['MASTER_PORT'])"
    assert ended(job.launched(code, 2, OMP_NUM_THREADS="3")) == (0, "", "")
    run = job.path / "run"
    assert [(run / str(rank)).read_text() for rank in (0, 1)] == ["0 0 2 2 0 127.0.0.1 3", "1 1 2 2 0 127.0.0.1 3"]
    assert (run / "id0").read_text() == (run / "id1").read_text()
    assert ended(job.launched(code, 2, OMP_NUM_THREADS="")) == (0, "", "")
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert (run / "1").read_text().split()[-1] == str(share)


def run_python(code: str, *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def test_the_command_starts_itself() -> None:
    code = "import sys; from scaledl.distributed.local import launch_local; sys.exit(launch_local(2, sys.argv[1:]))"
    assert run_python(code, "--version") == (0, run_python(code, "--version")[1], "")
    version, again = run_python(code, "--version")[1].splitlines()
    assert version == again
    exit_code, _, err = run_python(code, "trian")
    assert exit_code == 2
    assert err.count("unknown verb 'trian'") == 2


def test_a_rank_that_cannot_be_started() -> None:
    code = "from scaledl.distributed.local import launch; launch(['/nowhere/python'], 2)"
    assert "ScaledlError: rank 0 could not be started: No such file or directory" in run_python(code)[2]


def test_guardians_import_no_torch() -> None:
    code = "import sys, scaledl.distributed.local; print(sorted({'torch', 'numpy', 'pydantic'} & sys.modules.keys()))"
    assert run_python(code) == (0, "[]\n", "")
