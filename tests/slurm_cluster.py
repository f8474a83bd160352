"""A real Slurm of a few nodes on this machine, beside any other: own munged, slurmctld and slurmds, ports and files."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

COMPONENTS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
START_SECONDS = 30.0
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
KEEP = ("PATH", "HOME", "LANG", "LC_ALL", "USER", "LOGNAME", "TMPDIR", "LD_LIBRARY_PATH")


class SlurmFailure(AssertionError):
    """Slurm did not do what a test waited for."""


@dataclass(frozen=True)
class Layout:
    """What kind of cluster. `preempt`: partitions low and high; low's jobs get their user signal, or only a SIGTERM."""

    nodes: tuple[str, ...] = ("n1", "n2")
    cpus: int = 2
    gpus: int = 0
    task_plugin: Literal["task/none", "task/affinity"] = "task/none"
    preempt: Literal["user signal", "term"] | None = None
    grace_seconds: int = 15


def missing_component() -> str | None:
    """The first program of Slurm that is not here, or None."""
    return next((name for name in COMPONENTS if _which(name) is None), None)


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SBIN}")


class SlurmCluster:
    """`with SlurmCluster(Layout()) as slurm:` brings it up in about two seconds and takes down all that it started."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        # munged refuses long paths, and slurmstepd writes here for the nodes.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        self.conf = self.folder / "slurm.conf"
        self.ports = dict(zip(("slurmctld", *layout.nodes), _free_ports(1 + len(layout.nodes)), strict=True))

    # Up and down

    def __enter__(self) -> SlurmCluster:
        try:
            self._write_files()
            self._start_munged()
            self.start_slurmctld()
            for node in self.layout.nodes:
                self.start_slurmd(node)
            self.wait_for_nodes(self.layout.nodes)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Kill every process that carries this cluster's SLURM_CONF: daemons, slurmstepds, jobs and what they left."""
        deadline = time.monotonic() + 10
        while (pids := self.processes()) and time.monotonic() < deadline:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        shutil.rmtree(self.folder, ignore_errors=True)
        if pids:
            raise SlurmFailure(f"processes of the cluster are left: {pids}")

    def _write_files(self) -> None:
        for name in ("munge", "state", "spool"):
            (self.folder / name).mkdir()
        key = self.folder / "munge" / "key"
        key.touch(mode=0o400)
        key.chmod(0o600)
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        self.conf.write_text(self._configuration())
        if self.layout.gpus:  # any device file makes a GPU, as far as Slurm can tell
            (self.folder / "gres.conf").write_text(f"Name=gpu File=/dev/tty[1-{self.layout.gpus}]\n")

    def _configuration(self) -> str:
        layout, folder, host = self.layout, self.folder, socket.gethostname().partition(".")[0]
        user = _user()
        preempt = layout.preempt is not None
        lines = [
            "ClusterName=test",
            f"SlurmctldHost={host}(127.0.0.1)",
            f"SlurmctldPort={self.ports['slurmctld']}",
            f"AuthInfo=socket={folder}/munge/socket",
            f"SlurmUser={user}",
            f"SlurmdUser={user}",
            f"StateSaveLocation={folder}/state",
            f"SlurmdSpoolDir={folder}/spool/%n",
            f"SlurmctldPidFile={folder}/slurmctld.pid",
            f"SlurmdPidFile={folder}/%n.pid",
            f"SlurmctldLogFile={folder}/slurmctld.log",
            f"SlurmdLogFile={folder}/%n.log",
            "ProctrackType=proctrack/linuxproc",
            f"TaskPlugin={layout.task_plugin}",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_CPU",
            "MpiDefault=none",
            "ReturnToService=2",
            "SlurmdParameters=config_overrides",
            "KillWait=5",
            "SlurmdTimeout=10",
            "MessageTimeout=10",
            "SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=1",
            "MailProg=/bin/true",
            *(["GresTypes=gpu"] if layout.gpus else []),
            *(self._node(node, host) for node in layout.nodes),
            *([] if not preempt else ["PreemptType=preempt/partition_prio", "PreemptMode=REQUEUE"]),
            *(["SlurmctldParameters=preempt_send_user_signal"] if layout.preempt == "user signal" else []),
            "PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1"
            + (f" PreemptMode=REQUEUE GraceTime={layout.grace_seconds}" if preempt else ""),
            "PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=9"
            + (" PreemptMode=OFF" if preempt else ""),
        ]
        return "\n".join(lines) + "\n"

    def _node(self, name: str, host: str) -> str:
        gpus = f" Gres=gpu:{self.layout.gpus}" if self.layout.gpus else ""
        address = f"NodeHostname={host} NodeAddr=127.0.0.1 Port={self.ports[name]}"
        return f"NodeName={name} {address} CPUs={self.layout.cpus} RealMemory=4000{gpus}"

    def _start_munged(self) -> None:
        folder = self.folder / "munge"
        files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self._daemon("munged", "--force", *(f"--{option}={folder / name}" for option, name in files.items()))

    def start_slurmctld(self) -> None:
        self._daemon("slurmctld", "-f", str(self.conf))

    def start_slurmd(self, node: str) -> None:
        self._daemon("slurmd", "-N", node, "-f", str(self.conf))

    def _daemon(self, name: str, *arguments: str) -> None:
        """It goes to the background by itself, so that it is nobody's child."""
        program = _which(name)
        assert program is not None, f"{name} is not installed"
        with (self.folder / f"{name}.start").open("a") as log:
            done = subprocess.run([program, *arguments], env=self.environment(), stdout=log, stderr=log, timeout=30)
        if done.returncode != 0:
            raise SlurmFailure(f"{name} did not start: {self._tail(f'{name}.start')}")

    def _tail(self, name: str) -> str:
        with suppress(OSError):
            return (self.folder / name).read_text(errors="replace")[-2000:]
        return ""

    def wait_for_nodes(self, nodes: Iterable[str], states: Sequence[str] = ("idle",)) -> None:
        wanted = set(nodes)

        def ready() -> bool:
            done = self.command("sinfo", "--noheader", "--Node", "--format=%N %T", check=False)
            found = dict(line.split() for line in done.stdout.splitlines())
            return all(found.get(node) in states for node in wanted)  # a star: it does not answer

        wait_until(ready, START_SECONDS, self._logs)

    def _logs(self) -> str:
        """The ends of the daemons' logs."""
        names = ("slurmctld.log", *(f"{node}.log" for node in self.layout.nodes))
        return "\n".join(f"{name}: {self._tail(name)}" for name in names)

    # Faults

    def stop_slurmctld(self) -> None:
        """It writes down what it knows: after a SIGKILL it may have forgotten the last jobs."""
        self._kill("slurmctld", signal.SIGTERM)

    def kill_slurmd(self, node: str) -> None:
        """Only the daemon: its slurmstepds, and so the ranks, run on."""
        self._kill(node, signal.SIGKILL)

    def _kill(self, name: str, signum: int) -> None:
        file = self.folder / f"{name}.pid"
        pid = int(file.read_text())
        os.kill(pid, signum)
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), 10)
        file.unlink(missing_ok=True)

    # Commands

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """For commands of Slurm and, since sbatch hands it on, for jobs. Ranks talk over loopback, with one thread."""
        kept = {name: os.environ[name] for name in KEEP if name in os.environ}
        kept["PATH"] = f"{kept.get('PATH', '')}:{SBIN}"
        fixed = {"SLURM_CONF": str(self.conf), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
        return {**kept, **fixed, "SCALEDL_VENV": str(Path(sys.executable).parent.parent), **(extra or {})}

    def command(
        self, *words: str, cwd: Path | None = None, env: Mapping[str, str] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            words, cwd=cwd, env=self.environment(env), capture_output=True, text=True, timeout=60, check=False
        )
        if check and done.returncode != 0:
            raise SlurmFailure(f"{shlex.join(words)} ended with {done.returncode}: {done.stderr.strip()}")
        return done

    def sbatch(
        self,
        script: str | Path,
        *arguments: str,
        cwd: Path,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> str:
        """Submit as a user does, from the project's folder; returns the job's id."""
        words = ("sbatch", "--parsable", *options, str(script), *arguments)
        return self.command(*words, cwd=cwd, env=env).stdout.strip().partition(";")[0]

    def cancel_all(self) -> None:
        """End all jobs and wait until the nodes are free again."""
        self.command("scancel", "--user", _user())
        time.sleep(0.1)
        self.command("scancel", "--user", _user(), "--signal=KILL", "--full")

        def gone() -> bool:
            return not self.command("squeue", "--noheader").stdout.strip()

        wait_until(gone, 30, lambda: self.command("squeue").stdout)

    def scontrol(self, *words: str) -> str:
        return self.command("scontrol", *words).stdout

    def scancel(self, job: str, *options: str) -> None:
        self.command("scancel", *options, job)

    def signal(self, job: str, name: str, *, batch: bool = False) -> None:
        """To all ranks, or to the batch script alone."""
        self.scancel(job, f"--signal={name}", *(["--batch"] if batch else []))

    def release(self, job: str, restart: int = 1) -> None:
        """Start this restart of a requeued job now; Slurm holds it back for two minutes.

        Not before its last attempt is wholly gone: slurmctld would take the news of that end for the new attempt's,
        and slurmd refuses a job in the second in which it ended one of that id.
        """
        self.wait_for_requeue(job, restart)
        number = self.info(job)["JobId"]
        wait_until(lambda: not self._titled(f"slurmstepd: [{number}.batch]"), 30, lambda: f"job {job} is still ending")
        self.scontrol("update", f"JobId={job}", "StartTime=now+2")

    def wait_for_requeue(self, job: str, restart: int = 1, timeout: float = 60.0) -> None:
        """Until the job waits for this restart."""
        wait_until(
            lambda: self.restarts(job) == restart or self.state(job) in OVER,
            timeout,
            lambda: f"job {job} is {self.info(job)}; its log:\n{self.log(job)}",
        )
        self.wait_for(job, "PENDING", timeout=timeout)

    def _titled(self, title: str) -> bool:
        """Whether a process of this cluster calls itself so."""
        for pid in self.processes():
            with suppress(OSError):
                if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(title.encode()):
                    return True
        return False

    # What is going on

    def info(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says; an array gives its first element."""
        lines = self.scontrol("--oneliner", "show", "job", job).splitlines()
        return dict(re.findall(r"(\S+?)=(.*?)(?= \S+?=|$)", lines[0]))

    def state(self, job: str) -> str:
        return self.info(job)["JobState"]

    def restarts(self, job: str) -> int:
        return int(self.info(job)["Restarts"])

    def exit_code(self, job: str) -> int:
        return int(self.info(job)["ExitCode"].partition(":")[0])

    def log(self, job: str) -> str:
        """All that the job wrote, over all its attempts."""
        path = Path(self.info(job)["StdOut"])
        return path.read_text(errors="replace") if path.exists() else ""

    def wait_for(self, job: str, *states: str, timeout: float = 60.0) -> str:
        """Until the job is in one of these states; returns which. Another state that is final fails at once."""
        found = ""

        def there() -> bool:
            nonlocal found
            found = self.state(job)
            if found not in states and found in OVER:
                raise SlurmFailure(
                    f"job {job} is {found}, not {' or '.join(states)}; {self.info(job)}; its log:\n{self.log(job)}"
                )
            return found in states

        wait_until(there, timeout, lambda: f"job {job} is {found}; its log:\n{self.log(job)}")
        return found

    def wait_for_log(self, job: str, text: str, timeout: float = 60.0) -> str:
        """Until the job's log has this in it; returns the log."""

        def there() -> bool:
            if text in self.log(job):
                return True
            if self.state(job) in OVER:
                raise SlurmFailure(f"job {job} is over without {text!r}; its log:\n{self.log(job)}")
            return False

        wait_until(there, timeout, lambda: f"no {text!r} from job {job}; its log:\n{self.log(job)}")
        return self.log(job)

    def processes(self, **variables: str) -> list[int]:
        """Living processes of this cluster that have these variables (SLURM_JOB_ID …) in their environment."""
        wanted = {f"{name}={value}".encode() for name, value in {"SLURM_CONF": str(self.conf), **variables}.items()}
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if wanted <= set((folder / "environ").read_bytes().split(b"\0")):
                    found.append(int(folder.name))
        return sorted(found)


def wait_until(condition: Callable[[], bool], timeout: float, otherwise: Callable[[], str] = str) -> None:
    """Look ten times a second; raise SlurmFailure with what `otherwise` tells when time is up."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise SlurmFailure(f"not within {timeout:g} s: {otherwise()}")
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    """Held all at once, so that they differ."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name
