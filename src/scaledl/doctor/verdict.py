"""From what the ranks of a job found to the checks that are shown. Pure functions, on rank 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scaledl.distributed.differences import different_code, different_versions, missing_gpus, on_loopback, skewed_clocks
from scaledl.distributed.environment import ClusterSpec
from scaledl.distributed.exchange import Json
from scaledl.distributed.missing import describe_missing, ranks
from scaledl.distributed.report import Report
from scaledl.doctor.check import Check, Verdict
from scaledl.doctor.links import Link, rate, slow_links, slow_members

STILL_SECONDS = 1.0


def merged(per_host: Mapping[str, Sequence[Check]]) -> list[Check]:
    """One row for each check: the first host's where all are well, else what is not, host by host."""
    first = next(iter(per_host.values()), [])
    return [
        _merge(check, {host: checks[index] for host, checks in per_host.items()}) for index, check in enumerate(first)
    ]


def _merge(first: Check, per_host: Mapping[str, Check]) -> Check:
    wrong = {host: check for host, check in per_host.items() if check.verdict != "ok"}
    if not wrong:
        more = f" (and so on {len(per_host)} nodes)" if len(per_host) > 1 else ""
        return Check(first.name, "ok", first.what + more)
    verdict: Verdict = "fail" if any(check.verdict == "fail" for check in wrong.values()) else "warn"
    groups: dict[tuple[str, str], list[str]] = {}
    for host, check in wrong.items():
        groups.setdefault((check.what, check.fix), []).append(host)
    what = "; ".join(f"{', '.join(hosts)}: {what}" for (what, _), hosts in groups.items())
    return Check(first.name, verdict, what, "; ".join(dict.fromkeys(fix for _, fix in groups if fix)))


def compared(reports: Sequence[Report]) -> list[Check]:
    """What must be the same, or fit together, on all nodes."""
    alike = [*different_versions(reports), *different_code(reports), *missing_gpus(reports)]
    loopback, clocks = on_loopback(reports), skewed_clocks(reports)
    return [
        _split("same software", "fail", alike, "the same packages, code and kind of device on all ranks"),
        _split("host names", "fail", [loopback] if loopback else [], "each host is known to the others"),
        _split("clocks", "warn", clocks, "less than a minute apart"),
    ]


def _split(name: str, verdict: Verdict, problems: Sequence[str], well: str) -> Check:
    return Check(name, verdict, "; ".join(problems)) if problems else Check(name, "ok", well)


def ring_checks(spec: ClusterSpec, found: Mapping[int, Json], seconds: float) -> list[Check]:
    """`found`: what each rank that answered has measured; `seconds`: how long was waited for the others."""
    hosts = {rank: str(one["host"]) for rank, one in found.items()}
    links, broken = _links(found)
    checks = [Check("links", "fail", what, _leave_out(spec, names)) for what, names in _broken(broken, hosts)]
    if len(found) < spec.world_size:
        what = f"{describe_missing(spec, found)} did not answer within {seconds:.0f} s"
        checks.insert(0, Check("links", "fail", what, "look at that node and its network, or leave it out"))
    elif not checks:
        checks.append(_speeds(spec, links, found))
    return checks


def pause_checks(spec: ClusterSpec, found: Mapping[int, Json]) -> list[Check]:
    """Ranks whose process did not run for a while, for which all others wait."""
    checks = []
    for rank, one in found.items():
        if one["still"] > STILL_SECONDS:
            what = f"rank {rank} ({one['host']}) stood still for {one['still']:.1f} s"
            fix = _leave_out(spec, [one["host"]]) or "see what else runs there"
            checks.append(Check("pauses", "warn", what, fix))
    return checks


def reduce_check(spec: ClusterSpec, found: Mapping[int, Json], seconds: float) -> Check:
    hosts = {rank: str(one["host"]) for rank, one in found.items()}
    if len(found) < spec.world_size:
        what = f"{describe_missing(spec, found)} did not answer within {seconds:.0f} s"
        return Check("all-reduce", "fail", what, "look at that node and its network, or leave it out")
    wrong = {rank: one["reduce"]["error"] for rank, one in found.items() if "error" in one["reduce"]}
    if wrong:
        rank = next(iter(wrong))
        return Check(
            "all-reduce", "fail", f"rank {rank} ({hosts[rank]}): {wrong[rank]}", "try again; see the links above"
        )
    took = found[0]["reduce"]
    share = 2 * (spec.world_size - 1) / spec.world_size  # of the tensor, that a rank sends and receives in a ring
    return Check(
        "all-reduce",
        "ok",
        f"{took['bytes'] / 2**20:.0f} MiB over {took['backend']} among {spec.world_size} ranks: median "
        f"{1000 * took['median']:.1f} ms ({rate(share * took['bytes'] / took['median'])} each way), 95 % within "
        f"{1000 * took['p95']:.1f} ms, longest {1000 * took['longest']:.0f} ms of {took['count']}",
    )


def _links(found: Mapping[int, Json]) -> tuple[list[Link], list[dict[str, Any]]]:
    told = [link for one in found.values() for link in one["links"]]
    good = [Link(link["a"], link["b"], link["latency"], link["bandwidth"]) for link in told if "error" not in link]
    return good, [link for link in told if "error" in link]


def _broken(broken: Sequence[Mapping[str, Any]], hosts: Mapping[int, str]) -> list[tuple[str, list[str]]]:
    """The rank in most of the links that did not work; else the links."""
    pairs = sorted({(link["a"], link["b"]) for link in broken})
    counts = {rank: sum(rank in pair for pair in pairs) for pair in pairs for rank in pair}
    worst = max(counts.values(), default=0)
    suspects = [rank for rank, count in counts.items() if count == worst]
    if worst > 1 and len(suspects) == 1:
        name = hosts.get(suspects[0], "?")
        return [(f"rank {suspects[0]} ({name}) reached neither of its neighbours", [name])]
    return [
        (f"rank {a} ({hosts.get(a, '?')}) and rank {b} ({hosts.get(b, '?')}) do not reach each other", [])
        for a, b in pairs
    ]


def _speeds(spec: ClusterSpec, links: Sequence[Link], found: Mapping[int, Json]) -> Check:
    """Machines against machines; on a single one, ranks against ranks."""
    machines = {rank: str(one["machine"]) for rank, one in found.items()}
    if len(set(machines.values())) > 1:
        names = _unique_names(found)
        member = {rank: names[machine] for rank, machine in machines.items()}
    else:
        member = {rank: f"rank {rank}" for rank in found}
    nodes = slow_members(links, member)
    pairs = slow_links(links, member, nodes)
    told = [f"{name} is slow: {why}" for name, why in nodes.items()]
    told += [f"the link of {a} and {b} is slow: {why}" for (a, b), why in pairs.items()]
    if told:
        return Check("links", "warn", "; ".join(told), _leave_out(spec, list(nodes)) or "look at its cables and switch")
    between = [link for link in links if member[link.a] != member[link.b]] or list(links)
    slowest = min(between, key=lambda link: link.bandwidth)
    latest = max(between, key=lambda link: link.latency)
    return Check(
        "links",
        "ok",
        f"{len(between)} between neighbours: at least {rate(slowest.bandwidth)}, "
        f"at most {1000 * latest.latency:.2f} ms",
    )


def _unique_names(found: Mapping[int, Json]) -> dict[str, str]:
    """Machine -> the names of its nodes, which are several where one machine plays many."""
    names: dict[str, dict[str, None]] = {}
    for one in found.values():
        names.setdefault(str(one["machine"]), {})[str(one["host"])] = None
    joined = {machine: "+".join(hosts) for machine, hosts in names.items()}
    if len(set(joined.values())) == len(joined):
        return joined
    members = {machine: [rank for rank, one in found.items() if one["machine"] == machine] for machine in joined}
    return {machine: f"{name} ({ranks(members[machine])})" for machine, name in joined.items()}


def _leave_out(spec: ClusterSpec, names: Sequence[str]) -> str:
    known = [name for name in names if name in spec.nodes]
    return f"leave it out: sbatch --exclude={','.join(known)}" if known else ""
