"""A training as a batch job, and what comes after it: checked, rendered, submitted."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scaledl.config import Config
from scaledl.config.recipe import usual_recipe
from scaledl.console import get_console
from scaledl.errors import UsageError
from scaledl.launch.limits import warnings_of
from scaledl.launch.options import SlurmOptions, memory_bytes, time_seconds
from scaledl.launch.script import logic, own_directives, render
from scaledl.launch.slurm import require_sbatch, submit
from scaledl.plan.estimate import Estimate
from scaledl.plan.table import duration, size

JOB = "JOBID"  # in place of an id that is not known yet
_MEMORY_FILESYSTEMS = ("tmpfs", "ramfs", "devtmpfs")


@dataclass(frozen=True)
class Batch:
    """`arguments`: config file and overrides, as `scaledl train` takes them. `then`: the script to come after it."""

    config: Config
    arguments: Sequence[str]
    options: SlurmOptions
    made_by: str
    notes: Sequence[str] = ()
    then: str | None = None

    def check(self, *, submits: bool) -> None:
        """Raises UsageError for what cannot work; warns of what may not."""
        self.options.check()
        self.options.agree_with(self.config)
        if self.then and self.options.array:
            raise UsageError(f"--then {self.then}: cannot stand with --array, whose elements are runs of their own")
        if submits:
            require_sbatch()
        for warning in [
            *_invisible([Path.cwd(), *(Path(word) for word in self.arguments[:1] if Path(word).is_file())]),
            *warnings_of(self.options, own_directives(logic("train")).get("time")),
        ]:
            get_console().warn(warning)

    def script(self) -> str:
        return self._render("train", self.arguments, self._options, self.notes)

    def script_after(self, job: str) -> str:
        """The next job's, for the run that the job `job` makes. On one node: what it does is no matter of ranks."""
        assert self.then is not None
        options = replace(self._options, nodes=1, name=f"{self._options.name}-{self.then}"[:100])
        config = self.config
        run = f"{config.run.root}/{config.run.name or f'{config.model.family}-{config.data.word}'}"
        arguments = [f"{run}/{config.run.id or job}", *usual_recipe(config)]
        return self._render(self.then, arguments, options)

    def _render(self, name: str, arguments: Sequence[str], options: SlurmOptions, notes: Sequence[str] = ()) -> str:
        return render(
            logic(name),
            arguments,
            options.directives(),
            made_by=self.made_by,
            notes=notes,
            variables=_environment_of(Path(sys.prefix)),
        )

    def submit(self) -> list[str]:
        """The ids of the jobs, in the order in which they run."""
        jobs = [submit(self.script())]
        if self.then is not None:
            after = f"--dependency=afterok:{jobs[0]}"
            jobs.append(submit(self.script_after(jobs[0]), after, "--kill-on-invalid-dep=yes"))
        return jobs

    @property
    def _options(self) -> SlurmOptions:
        return replace(self.options, name=self.options.name or self.config.run.name or "scaledl")


def _environment_of(prefix: Path) -> dict[str, str]:
    """The environment that this command runs in, for the job."""
    is_one = (prefix / "bin/scaledl").exists() and (prefix / "bin/activate").exists()
    return {"SCALEDL_VENV": str(prefix)} if is_one else {}


def _invisible(paths: Sequence[Path]) -> list[str]:
    """What other nodes can hardly see."""
    mounts = _mounts()
    local = [path for path in paths if mounts.get(_mount_of(path.resolve(), mounts), "") in _MEMORY_FILESYSTEMS]
    return [f"{path} is in the memory of this machine: the nodes of the job will not see it" for path in local]


def _mounts() -> dict[Path, str]:
    try:
        lines = Path("/proc/self/mounts").read_text(errors="replace").splitlines()
    except OSError:
        return {}
    fields = [line.split() for line in lines]
    return {Path(words[1].replace("\\040", " ")): words[2] for words in fields if len(words) > 2}


def _mount_of(path: Path, mounts: dict[Path, str]) -> Path:
    return next((folder for folder in (path, *path.parents) if folder in mounts), Path("/"))


def notes_of(estimate: Estimate, options: SlurmOptions, *, device: str, precision: str) -> list[str]:
    """The plan's figures as lines of comment; warns where what is asked for is less."""
    memory, total = estimate.memory, estimate.time.total
    on_node = options.tasks * memory.host_peak
    where = "GPU memory" if device != "cpu" else "memory"
    if options.mem is not None and memory_bytes(options.mem) < on_node:
        get_console().warn(
            f"--mem {options.mem} is less than the {size(on_node)} that {options.tasks} rank(s) will take"
        )
    if options.time is not None and time_seconds(options.time) < total:
        again = "it will be requeued and go on from its checkpoint"
        get_console().warn(
            f"--time {options.time} is less than the {duration(total)} that the training may take: {again}"
        )
    notes = [
        f"Estimated by `scaledl plan` for {estimate.layout}: {size(memory.peak)} of {where} a rank, {size(on_node)} of "
        f"memory a node; {duration(total)} for {estimate.time.steps:,} steps.",
        f"Measured where the job was submitted ({device}, {precision}, {estimate.num_threads} thread(s) a rank).",
    ]
    if options.gpus and device == "cpu":
        held = sum(value for part, value in memory.parts.items() if part not in ("process", "data"))
        notes.append(f"There was no GPU: of this about {size(held)} will be in a GPU's memory, and it will be faster.")
    return notes


def shown(jobs: Sequence[str], log: Path | None) -> list[str]:
    """How to go on watching, and how to cancel."""
    file = shlex.quote(str(log)) if log else f"*-{jobs[0]}*.log"
    return [f"follow: tail -F {file}", f"cancel: scancel {' '.join(jobs)}"]
