"""What a partition allows, held against what is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scaledl.errors import UsageError
from scaledl.launch.options import SlurmOptions, time_seconds
from scaledl.launch.slurm import partitions

_UNLIMITED = ("UNLIMITED", "INFINITE", "NONE", "")


def warnings_of(options: SlurmOptions, default_time: str | None) -> list[str]:
    """What will keep the job waiting. Raises UsageError for a partition that does not exist.

    Args:
        default_time: the script's own limit, where the options have none.
    """
    found = partitions()
    if not found:
        return []
    names = options.partition.split(",") if options.partition else _default(found)
    known = {fields.get("PartitionName", ""): fields for fields in found}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"--partition: got {unknown[0]!r}; allowed here: {', '.join(known)}")
    time = options.time or default_time
    seconds = time_seconds(time) if time else None
    problems = [_problems(known[name], options.nodes, seconds, time) for name in names]
    return problems[0] if len(problems) == 1 else []  # of several partitions Slurm takes one that fits


def _default(found: Sequence[Mapping[str, str]]) -> list[str]:
    return [fields["PartitionName"] for fields in found if fields.get("Default") == "YES"]


def _problems(fields: Mapping[str, str], nodes: int, seconds: int | None, time: str | None) -> list[str]:
    name, problems = fields["PartitionName"], []
    longest, most = fields.get("MaxTime", ""), fields.get("MaxNodes", "")
    if seconds is not None and longest not in _UNLIMITED and seconds > time_seconds(longest):
        problems.append(f"partition {name} allows at most {longest}, asked for is {time}: the job would wait for ever")
    if most.isdecimal() and nodes > int(most):
        problems.append(f"partition {name} allows at most {most} nodes, asked for are {nodes}")
    total = fields.get("TotalNodes", "")
    if total.isdecimal() and nodes > int(total):
        problems.append(f"partition {name} has {total} nodes, asked for are {nodes}")
    if fields.get("State", "UP") != "UP":
        problems.append(f"partition {name} is {fields['State']}")
    return problems
