"""Why these ranks cannot work together, read from what each of them reported. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from scaledl.config import changed_keys
from scaledl.config.errors import show
from scaledl.distributed.missing import ranks
from scaledl.distributed.network import interface_towards, is_loopback
from scaledl.distributed.report import GLOO_INTERFACE, Report

SKEW_SECONDS = 60.0
_MAX_KEYS = 5
_MAX_HOSTS = 4


def problems(reports: Sequence[Report]) -> list[str]:
    """Everything that is wrong, each with the ranks it is about and what to do."""
    found = [
        *different_configs(reports),
        *different_versions(reports),
        *different_code(reports),
        *missing_gpus(reports),
    ]
    loopback = on_loopback(reports)
    return [*found, loopback] if loopback else found


def different_configs(reports: Sequence[Report]) -> list[str]:
    first = reports[0]
    changes = {report.rank: changed_keys(first.config, report.config) for report in reports[1:]}
    keys = sorted({key for changed in changes.values() for key in changed})
    if not keys:
        return []
    parts = []
    for key in keys[:_MAX_KEYS]:
        was = next(changed[key][0] for changed in changes.values() if key in changed)
        values = {rank: show(changes.get(rank, {}).get(key, (was, was))[1]) for rank in range(len(reports))}
        parts.append(f"{key} is {_spread(reports, values)}")
    more = f", and {len(keys) - _MAX_KEYS} more keys" if len(keys) > _MAX_KEYS else ""
    return [f"the ranks have different configs: {'; '.join(parts)}{more}. Give all the same file and overrides"]


def different_versions(reports: Sequence[Report]) -> list[str]:
    names = sorted({name for report in reports for name in report.versions})
    different = [name for name in names if len({report.versions.get(name) for report in reports}) > 1]
    if not different:
        return []
    parts = []
    for name in different[:_MAX_KEYS]:
        values = {report.rank: report.versions.get(name, "not installed") for report in reports}
        parts.append(f"{name} is {_spread(reports, values)}")
    return [f"the ranks have different packages: {'; '.join(parts)}. Let all nodes use the same environment"]


def different_code(reports: Sequence[Report]) -> list[str]:
    if len({report.code for report in reports}) == 1:
        return []
    revisions = {report.rank: f" (git {report.revision[:12]})" if report.revision else "" for report in reports}
    shown = _spread(reports, {report.rank: report.code + revisions[report.rank] for report in reports})
    return [f"the ranks run different code of scaledl: {shown}. Let all nodes use the same installation"]


def missing_gpus(reports: Sequence[Report]) -> list[str]:
    without = [report for report in reports if not report.gpus]
    if not without or len(without) == len(reports):
        return []
    return [
        f"{_who(without)}: no GPU is visible, but the others have some. "
        "Look at nvidia-smi there, or train with trainer.accelerator=cpu"
    ]


def on_loopback(reports: Sequence[Report]) -> str | None:
    """Gloo binds to the address of the host's own name, or to the loopback where that is none: peers elsewhere are then
    told to connect to themselves, and hang."""
    if one_machine(reports):
        return None
    astray = [report for report in reports if report.gloo_interface is None and _is_astray(report)]
    if not astray:
        return None
    interfaces = {report.rank: _way_out(report, reports) for report in astray}
    names = sorted({name for name in interfaces.values() if name})
    name = names[0] if len(names) == 1 else "INTERFACE"
    shown = (
        ""
        if len(names) == 1
        else "".join(f", {interfaces[report.rank] or 'unknown'} on {report.host}" for report in astray[:_MAX_HOSTS])
    )
    return (
        f"{_who(astray)} would be reached under {_addresses(astray)}, the loopback, by ranks on other machines. "
        f"Set {GLOO_INTERFACE}={name} and NCCL_SOCKET_IFNAME={name}, the interface towards the other ranks{shown}; or "
        "let /etc/hosts give each host's own name its network address"
    )


def one_machine(reports: Sequence[Report]) -> bool:
    return len({report.machine for report in reports}) == 1


def skewed_clocks(reports: Sequence[Report]) -> list[str]:
    """Warnings about clocks that differ from rank 0's by more than a minute."""
    found: dict[str, float] = {}
    for report in reports:
        skew = report.time - reports[0].time
        if abs(skew) > SKEW_SECONDS:
            found.setdefault(report.host, skew)
    return [
        f"the clock of {host} is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} that of {reports[0].host}: "
        "times of files and logs will mislead; let the nodes use NTP"
        for host, skew in list(found.items())[:_MAX_HOSTS]
    ]


def _is_astray(report: Report) -> bool:
    return is_loopback(report.own) or is_loopback(report.master)


def _way_out(report: Report, reports: Sequence[Report]) -> str | None:
    """The interface that leads to the other ranks. On rank 0, which the master's address does not lead away from, it
    is looked up: this runs on rank 0."""
    if report.interface not in (None, "lo"):
        return report.interface
    if report.rank != 0:
        return None
    others = (other.towards for other in reports if other.towards and not is_loopback(other.towards))
    return next((name for name in map(interface_towards, others) if name not in (None, "lo")), None)


def _addresses(reports: Iterable[Report]) -> str:
    found = {report.own if is_loopback(report.own) else report.master for report in reports}
    return " and ".join(sorted(found)[:3])


def _spread(reports: Sequence[Report], values: Mapping[int, str]) -> str:
    """ "0.1 on rank 0 (n1), 0.2 on ranks 1, 2 (n2)", from rank -> text."""
    groups: dict[str, list[Report]] = {}
    for report in reports:
        groups.setdefault(values[report.rank], []).append(report)
    return ", ".join(f"{text} on {_who(members)}" for text, members in groups.items())


def _who(reports: Sequence[Report]) -> str:
    hosts = list(dict.fromkeys(report.host for report in reports))
    shown = ", ".join(hosts[:_MAX_HOSTS]) + (", …" if len(hosts) > _MAX_HOSTS else "")
    return f"{ranks([report.rank for report in reports])} ({shown})"
