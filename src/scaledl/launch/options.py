"""What a batch job is asked for, as typed values that are checked before anything is submitted."""

from __future__ import annotations

import re
from dataclasses import dataclass

from scaledl.config import Config
from scaledl.errors import UsageError

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,@+-]{0,199}")
_JOB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_ARRAY = re.compile(r"\d{1,7}(-\d{1,7}(:\d{1,7})?)?(,\d{1,7}(-\d{1,7}(:\d{1,7})?)?)*(%\d{1,7})?", re.ASCII)
_MEMORY = re.compile(r"(\d{1,12})([KMGT]?)", re.ASCII)
_CLOCK = re.compile(r"(?:(\d{1,4})-)?(\d{1,6})(?::(\d{1,2}))?(?::(\d{1,2}))?", re.ASCII)
_BYTES = {"K": 2**10, "": 2**20, "M": 2**20, "G": 2**30, "T": 2**40}
_TIMES = "minutes, hours:minutes:seconds or days-hours, such as 90, 04:00:00 or 2-12"
# With these Lightning takes a job for an interactive one.
_RESERVED_NAMES = ("bash", "interactive")


@dataclass(frozen=True)
class SlurmOptions:
    """`gpus`, `tasks`: on each node. `cpus`: of each rank. `time`, `mem` (of a node): as Slurm writes them.

    None: what the script says, else the cluster's default.
    """

    nodes: int = 1
    tasks: int = 1
    gpus: int = 0
    cpus: int | None = None
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    mem: str | None = None
    array: str | None = None
    name: str | None = None

    def check(self) -> None:
        """Raises UsageError for what sbatch would refuse, or would take for something else."""
        if self.time is not None:
            time_seconds(self.time)
        if self.mem is not None:
            memory_bytes(self.mem)
        for flag, value in (("--partition", self.partition), ("--account", self.account), ("--qos", self.qos)):
            if value is not None and not _WORD.fullmatch(value):
                raise UsageError(f"{flag}: got {value!r}; allowed: a name as `sinfo` and `sacctmgr` show it")
        if self.array is not None and not _ARRAY.fullmatch(self.array):
            raise UsageError(
                f"--array: got {self.array!r}; allowed: indices as sbatch takes them, such as 0-7 or 1,3%2"
            )
        if self.name is not None and (not _JOB_NAME.fullmatch(self.name) or self.name in _RESERVED_NAMES):
            raise UsageError(
                f"--name: got {self.name!r}; allowed: letters, digits, '.', '_', '-', and not "
                f"{' or '.join(_RESERVED_NAMES)}"
            )

    def agree_with(self, config: Config) -> None:
        """Raises UsageError where the config fixes another layout."""
        trainer = config.trainer
        for key, wanted, flag, given in (
            ("trainer.num_nodes", trainer.num_nodes, "--nodes", self.nodes),
            ("trainer.devices", trainer.devices, "--gpus" if self.gpus else "--tasks", self.tasks),
        ):
            if wanted not in ("auto", given):
                raise UsageError(f"{key}: the config says {wanted}, {flag} {given}; make them equal, or the key auto")

    def directives(self) -> dict[str, str]:
        """Options of sbatch, by their long names."""
        given = {
            "job-name": self.name,
            "nodes": self.nodes,
            "ntasks-per-node": self.tasks,
            "gpus-per-node": self.gpus or None,
            "cpus-per-task": self.cpus,
            "time": self.time,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "mem": self.mem,
            "array": self.array,
        }
        return {name: str(value) for name, value in given.items() if value is not None}


def time_seconds(text: str) -> int:
    """A time limit as sbatch(1) writes it. Raises UsageError.

    >>> [time_seconds(text) for text in ("90", "1:30", "04:00:00", "2-12", "1-00:30", "1-2:3:4")]
    [5400, 90, 14400, 216000, 88200, 93784]
    """
    match = _CLOCK.fullmatch(text)
    if match is None:
        raise UsageError(f"--time: got {text!r}; allowed: {_TIMES}")
    days, *rest = match.groups()
    numbers = [int(number) for number in rest if number is not None]
    if any(number > 59 for number in numbers[1:]):
        raise UsageError(f"--time: got {text!r}, whose minutes or seconds are above 59; allowed: {_TIMES}")
    hours, minutes, seconds = [*numbers, 0, 0][:3] if days or len(numbers) == 3 else [0, *numbers, 0][:3]
    total = ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
    if total < 60:
        raise UsageError(f"--time: got {text!r}, which is less than a minute; allowed: {_TIMES}")
    return total


def memory_bytes(text: str) -> int:
    """A size as sbatch(1) writes it, in MiB without a unit. Raises UsageError.

    >>> memory_bytes("16G"), memory_bytes("500")
    (17179869184, 524288000)
    """
    match = _MEMORY.fullmatch(text.upper())
    if match is None or not int(match[1]):
        raise UsageError(f"--mem: got {text!r}; allowed: a size of a node's memory, such as 16G; without a unit MiB")
    return int(match[1]) * _BYTES[match[2]]
