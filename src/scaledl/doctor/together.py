"""The ranks of a job look at themselves, at what they share, and at the network between them. Rank 0 gathers it all."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaledl.config import Config
from scaledl.console import get_console
from scaledl.distributed.differences import one_machine
from scaledl.distributed.environment import ClusterSpec
from scaledl.distributed.exchange import Json, await_keys, put, settle
from scaledl.distributed.missing import describe_missing
from scaledl.distributed.rendezvous import open_store, part_of
from scaledl.distributed.report import GLOO_INTERFACE, Report, machine_id, report_of
from scaledl.distributed.shared_folder import left_probe, look_for, unseen
from scaledl.doctor.check import Check
from scaledl.doctor.links import ring_rounds
from scaledl.doctor.local import local_checks
from scaledl.doctor.ring import ANSWER_SECONDS, Pulse, leave_group, measure_links, reduce_for
from scaledl.doctor.verdict import compared, merged, pause_checks, reduce_check, ring_checks
from scaledl.errors import ScaledlError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

MEET_SECONDS = 120.0
LOCAL_SECONDS = 180.0
TOGETHER_SECONDS = 30.0
PARTING_SECONDS = 5.0


class Visit:
    """One rank's part. `checks` fills up on rank 0 only."""

    def __init__(self, spec: ClusterSpec, environ: Mapping[str, str], root: Path, seconds: float) -> None:
        self.spec, self.environ, self.root, self.seconds = spec, environ, root, seconds
        self.checks: list[Check] = []
        self._present: list[int] = []  # on rank 0: who answered the last question
        self._nccl = False
        self._store: Store = open_store(spec, MEET_SECONDS)

    def run(self) -> None:
        self._tell(f"{self.spec.world_size} ranks on {self.spec.num_nodes} node(s) are together; looking at each node")
        self._look_at_nodes()
        if self._compare():
            self._look_at_folder()
            self._tell(f"measuring the network between them, for about {self.seconds:g} s")
            try:
                self._measure()
            finally:
                leave_group()
        self._part()

    def _tell(self, text: str) -> None:
        if self.spec.rank == 0:
            get_console().info(text)

    def _settle(self, name: str, mine: Json, judge: Any, seconds: float) -> Json:
        who = {"node": self.spec.node_rank, "host": self.spec.host}

        def judge_present(found: dict[int, Json]) -> Json:
            self._present = list(found)
            return judge(found)

        return settle(
            self._store,
            f"doctor/{name}",
            self.spec.rank,
            self.spec.world_size,
            who | mine,
            judge_present,
            seconds,
            late_seconds=seconds,  # what came before may have taken rank 0 as long
        )

    def _part(self) -> None:
        """Rank 0 has the store, and leaves last."""
        if self.spec.rank:
            put(self._store, f"doctor/left/{self.spec.rank}", True)
        else:
            others = [f"doctor/left/{rank}" for rank in self._present if rank]
            await_keys(self._store, others, time.monotonic() + PARTING_SECONDS)

    def _look_at_nodes(self) -> None:
        """Once on each node, while its other ranks wait."""
        mine = local_checks(self.spec, self.environ, self.root) if self.spec.local_rank == 0 else []

        def judge(found: dict[int, Json]) -> None:
            per_host = {
                one["host"]: [Check(**check) for check in one["checks"]] for one in found.values() if one["checks"]
            }
            self.checks += merged(per_host)
            if len(found) < self.spec.world_size:
                raise ScaledlError(f"{describe_missing(self.spec, found)} did not answer within {LOCAL_SECONDS:g} s")

        self._settle("local", {"checks": [asdict(check) for check in mine]}, judge, LOCAL_SECONDS)

    def _compare(self) -> bool:
        """Whether the network can be measured: gloo would hang where a host's name is the loopback."""
        mine = asdict(replace(report_of(self.spec, Config(), _gpus()), time=time.time()))

        def judge(found: dict[int, Json]) -> Json:
            if len(found) < self.spec.world_size:
                raise ScaledlError(f"{describe_missing(self.spec, found)} did not answer within {TOGETHER_SECONDS:g} s")
            reports = [Report(**found[rank]["report"]) for rank in sorted(found)]
            checks = compared(reports)
            self.checks += checks
            nccl = all(one.gpus > self._local_rank(one, reports) for one in reports)
            reachable = not any(check.name == "host names" and check.verdict == "fail" for check in checks)
            return {"reachable": reachable, "one_machine": one_machine(reports), "nccl": nccl}

        verdict = self._settle("report", {"report": mine}, judge, TOGETHER_SECONDS)
        if verdict["one_machine"]:
            os.environ.setdefault(GLOO_INTERFACE, "lo")
        self._nccl = bool(verdict["nccl"])
        return bool(verdict["reachable"])

    @staticmethod
    def _local_rank(report: Report, reports: list[Report]) -> int:
        return [one.rank for one in reports if one.node == report.node].index(report.rank)

    def _look_at_folder(self) -> None:
        with left_probe(self.spec.rank, self.root) as probe:
            probe = self._settle("probe", {}, lambda found: probe, TOGETHER_SECONDS)
            if "problem" in probe:  # the check of the disk has told it
                return
            self._settle("folder", look_for(self.root, probe), self._judge_folder, TOGETHER_SECONDS)

    def _judge_folder(self, found: dict[int, Json]) -> None:
        blind = unseen(found)
        fix = "choose a folder that all nodes share, with run.root=PATH"
        well = f"{found[0]['folder']} is the same on all ranks"
        self.checks.append(Check("shared folder", "fail", blind, fix) if blind else Check("shared folder", "ok", well))

    def _measure(self) -> None:
        rounds = len(ring_rounds(self.spec.world_size))
        each = max(0.5, self.seconds / 2 / rounds)
        patience = rounds * each + 3 * ANSWER_SECONDS
        mine: Json = {"machine": machine_id()}
        with Pulse() as pulse:
            try:
                self._open_group()
                mine["links"] = measure_links(self.spec.rank, self.spec.world_size, each)
            except RuntimeError as error:
                mine |= {"links": [], "error": str(error).partition("\n")[0]}
            mine["still"] = pulse.longest

            def judge(found: dict[int, Json]) -> Json:
                checks = [*ring_checks(self.spec, found, patience), *pause_checks(self.spec, found)]
                errors = {rank: one["error"] for rank, one in found.items() if "error" in one}
                for rank, error in errors.items():
                    checks.insert(0, Check("links", "fail", f"rank {rank} ({found[rank]['host']}): {error}"))
                self.checks += checks
                return {"go_on": all(check.verdict != "fail" for check in checks)}

            if self._settle("links", mine, judge, patience)["go_on"]:
                pulse.longest = 0.0
                self._reduce(pulse)

    def _open_group(self) -> None:
        from torch import distributed

        distributed.init_process_group(
            "gloo",
            store=part_of(self._store, "doctor/group"),
            rank=self.spec.rank,
            world_size=self.spec.world_size,
            timeout=timedelta(seconds=ANSWER_SECONDS),
        )

    def _reduce(self, pulse: Pulse) -> None:
        mine: Json = {}
        try:
            mine["reduce"] = self._reduced()
        except RuntimeError as error:
            mine["reduce"] = {"error": str(error).partition("\n")[0][:200]}
        mine["still"] = pulse.longest
        patience = self.seconds + 2 * ANSWER_SECONDS

        def judge(found: dict[int, Json]) -> None:
            self.checks += [*pause_checks(self.spec, found), reduce_check(self.spec, found, patience)]

        self._settle("reduce", mine, judge, patience)

    def _reduced(self) -> dict[str, Any]:
        import torch
        from torch import distributed

        if not self._nccl:
            return reduce_for(self.seconds / 2, "gloo", None, torch.device("cpu"))
        device = torch.device("cuda", self.spec.local_rank)
        torch.cuda.set_device(device)
        group = distributed.new_group(backend="nccl", timeout=timedelta(seconds=10 * ANSWER_SECONDS))
        return reduce_for(self.seconds / 2, "nccl", group, device)


def _gpus() -> int:
    if not any(Path("/proc/driver/nvidia/gpus").glob("*")):
        return 0
    import torch

    return torch.cuda.device_count()
