"""plan, launch."""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import replace
from importlib.util import find_spec

from scaledl.commands.arguments import positive_ints, split_arguments
from scaledl.commands.output import command, print_json
from scaledl.config import Config, load_config
from scaledl.config import replace as set_keys
from scaledl.console import get_console
from scaledl.errors import Interrupted, ScaledlError, UsageError, require_extra
from scaledl.launch.batch import JOB, Batch, notes_of, shown
from scaledl.launch.follow import Follower
from scaledl.launch.options import SlurmOptions
from scaledl.launch.slurm import show_jobs
from scaledl.plan import Layout, layout, table
from scaledl.plan import plan as plan_layouts
from scaledl.plan.measure import Trial
from scaledl.run.machine import num_cpus


def plan(args: argparse.Namespace) -> None:
    path, overrides = split_arguments(args.args)
    config = load_config(path, overrides, space=False)
    bandwidth = _bandwidth(args.bandwidth)
    gpu, num_gpus = _gpus(config)
    own = layout.config_layout(config, num_gpus=num_gpus)
    asked = _asked(args, config, own)
    layouts = asked or [own, *_near(config, own)]
    if any(found.stage for found in layouts):
        require_extra("deepspeed", "deepspeed")
    forgive = None if asked else _leave_out
    found = plan_layouts(config, layouts, gpu=gpu, given_bandwidth=bandwidth, announce=_announce, forgive=forgive)
    if args.json:
        return print_json(table.to_json(found, config))
    console = get_console()
    console.table(*table.to_table(found))
    for line in table.origins(found, config):
        console.result(line)
    return None


def launch(args: argparse.Namespace) -> None:
    path, overrides = split_arguments(args.args)
    if path is None:
        raise UsageError("launch slurm: no config given; usage: scaledl launch slurm CONFIG.yaml [key=value ...]")
    config = load_config(path, overrides, space=False)
    options = _slurm_options(args, config)
    batch = Batch(config, [path, *overrides], options, command(*sys.argv[1:]), then=args.then)
    batch.check(submits=not args.dry_run)
    if not args.no_plan:
        batch = replace(batch, notes=_estimates(config, options))
    if args.dry_run:
        return _print_scripts(args, batch)
    jobs = batch.submit()
    if args.json:
        print_json({"jobs": jobs})
    else:
        get_console().result(f"submitted: job {jobs[0]}" + "".join(f", then job {job}" for job in jobs[1:]))
    return _follow(args, jobs)


def _slurm_options(args: argparse.Namespace, config: Config) -> SlurmOptions:
    def number(name: str) -> int | None:
        text = getattr(args, name)
        return None if text is None else positive_ints(f"--{name}", [text])[0]

    gpus = number("gpus")
    if gpus and args.tasks:
        raise UsageError("--tasks: cannot stand with --gpus, which gives each GPU a rank")
    devices = 1 if config.trainer.devices == "auto" else config.trainer.devices
    tasks = gpus or number("tasks") or devices
    words = {name: getattr(args, name) for name in ("time", "partition", "account", "qos", "mem", "array", "name")}
    return SlurmOptions(nodes=number("nodes") or 1, tasks=tasks, gpus=gpus or 0, cpus=number("cpus"), **words)


def _estimates(config: Config, options: SlurmOptions) -> list[str]:
    """For the script; a job is submitted also where the login node cannot train."""
    own = layout.config_layout(config, num_gpus=0)
    wanted = replace(own, num_nodes=options.nodes, devices=options.tasks)
    try:
        gpu, _ = _gpus(config)
        found = plan_layouts(_with_cpus(config, options), [wanted], gpu=gpu, announce=_announce)
    except ScaledlError as error:
        get_console().warn(f"no estimates: {error}")
        return []
    measured = found.measured
    return notes_of(found.estimates[0], options, device=measured.device, precision=measured.precision)


def _with_cpus(config: Config, options: SlurmOptions) -> Config:
    """As many threads as a rank of the job has CPUs, if there are so many here."""
    threads = config.trainer.num_threads or options.cpus
    return set_keys(config, {"trainer.num_threads": min(threads, num_cpus()) if threads else None})


def _print_scripts(args: argparse.Namespace, batch: Batch) -> None:
    scripts = [batch.script(), *([batch.script_after(JOB)] if batch.then else [])]
    if args.json:
        return print_json({"scripts": scripts})
    return get_console().result("\n".join(script.rstrip() for script in scripts))


def _follow(args: argparse.Namespace, jobs: list[str]) -> None:
    """Until the last job has ended. The job's failure is this command's, under the same exit code."""
    first = show_jobs(jobs[0]) or []
    hints = shown(jobs, first[0].log if len(first) == 1 else None)
    for hint in hints:
        get_console().info(hint)
    if args.no_follow:
        return
    try:
        for job in jobs:
            if code := Follower(job).until_ended():
                raise SystemExit(code)
    except KeyboardInterrupt:
        raise Interrupted(f"no longer following job {jobs[0]}, which goes on; {'; '.join(hints)}") from None


def _announce(trial: Trial) -> None:
    get_console().info(f"measuring a rank: {trial} ...")


def _leave_out(trial: Trial, error: ScaledlError) -> None:
    get_console().warn(f"left out: {trial}: {error}")


def _gpus(config: Config) -> tuple[bool, int]:
    """Whether ranks train on GPUs here, and how many there are."""
    if config.trainer.accelerator == "cpu":
        return False, 0
    import torch

    return torch.cuda.is_available(), torch.cuda.device_count()


def _asked(args: argparse.Namespace, config: Config, own: Layout) -> list[Layout]:
    """The layouts that the flags name; what they leave open is the config's. None without flags."""
    if not (args.nodes or args.devices or args.strategy or args.stage):
        return []
    nodes = positive_ints("--nodes", args.nodes.split(",")) if args.nodes else [own.num_nodes]
    devices = positive_ints("--devices", args.devices.split(",")) if args.devices else [own.devices]
    return [
        Layout(num_nodes, num_devices, stage, own.offload_optimizer, own.offload_parameters and stage == 3)
        if stage
        else Layout(num_nodes, num_devices)
        for num_nodes in nodes
        for num_devices in devices
        for stage in _stages(args, config, own)
    ]


def _near(config: Config, own: Layout) -> list[Layout]:
    """Neighbours nobody asked for: only those that the config and this environment allow."""
    samples = config.data.batch_size // config.trainer.accumulate
    most = 0 if find_spec("deepspeed") is None else 2 if config.trainer.ema_decay is not None else 3
    return [found for found in layout.neighbours(own) if found.world_size <= samples and found.stage <= most]


def _stages(args: argparse.Namespace, config: Config, own: Layout) -> list[int]:
    """ZeRO stages to estimate; 0 is DDP."""
    if args.strategy == "ddp":
        if args.stage:
            raise UsageError(f"--stage: got {args.stage} with --strategy ddp; allowed: --strategy deepspeed")
        return [0]
    stages = positive_ints("--stage", args.stage.split(",")) if args.stage else []
    if any(stage > 3 for stage in stages):
        raise UsageError(f"--stage: got {args.stage!r}; allowed: 1, 2, 3")
    if stages:
        return stages
    return [own.stage or config.trainer.deepspeed.stage] if args.strategy == "deepspeed" else [own.stage]


def _bandwidth(text: str | None) -> float | None:
    """GB/s to bytes a second."""
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"--bandwidth: got {text!r}; allowed: GB/s between ranks, such as 12.5 for 100 Gbit/s")
    return value * 1e9
