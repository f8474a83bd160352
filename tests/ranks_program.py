"""One rank, run as a program by `tests/conftest.py: together`. Rank 0 reads a training from every line of its input.

The keys of a plan: config (dotted keys over BASE), stop (rank, step, signal), spoil (rank, steps, kind), ledger,
inspect.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from scaledl.distributed.preemption import stop_flag

stop_flag.install()

import torch  # noqa: E402
from torch import distributed  # noqa: E402

from scaledl.config import Config, replace  # noqa: E402
from scaledl.distributed import near as shared_memory  # noqa: E402
from scaledl.distributed.environment import ClusterSpec  # noqa: E402
from scaledl.distributed.ranks import Ranks, as_current, current_ranks, join  # noqa: E402
from scaledl.errors import ScaledlError  # noqa: E402
from scaledl.tasks.base import Task  # noqa: E402
from scaledl.tasks.classification import ClassificationTask  # noqa: E402
from scaledl.tasks.contrastive import ContrastiveTask  # noqa: E402

BASE = {
    "model": {"family": "mlp", "hidden": [16]},
    "data": {"batch_size": 250, "augment": {"crop": 1}},
    "trainer": {"epochs": 3, "precision": "fp32", "num_threads": 1, "log_every_n_steps": 4},
}


PLAN: dict[str, Any] = {}
NEAR: dict[str, Any] = {}  # what ranks of this machine share, while a plan does without


def main(rank: int, world_size: int, port: int) -> int:
    torch.set_num_threads(1)
    ranks = come_together(rank, world_size, port)
    watch()
    with as_current(ranks):
        if rank:
            from scaledl.train.follow import FIT, follow_fit

            return ranks.follow({FIT: follow_fit, "plan": begin})
        try:
            for line in sys.stdin:
                message = json.loads(line)
                begin(message)
                ranks.call("plan", message)
                print(json.dumps(lead(Path(message["folder"]), message["plan"])), flush=True)
        finally:
            ranks.close(0)
    return 0


def begin(message: dict[str, Any]) -> None:
    """Another training of the same processes."""
    stop_flag.clear()
    PLAN.clear()
    PLAN.update(message["plan"], folder=Path(message["folder"]))
    ranks = current_ranks()
    near = NEAR.setdefault("near", ranks.near)
    ranks.near = None if PLAN.get("sockets") else near  # as on several machines
    shared_memory.FOLDER = Path("/missing" if PLAN.get("no room") else "/dev/shm")
    if PLAN.get("norms"):
        ClassificationTask.on_after_backward = write_norm  # type: ignore[method-assign]
    elif "on_after_backward" in vars(ClassificationTask):
        del ClassificationTask.on_after_backward


def come_together(rank: int, world_size: int, port: int) -> Ranks:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    spec = ClusterSpec("env", rank, rank, 0, world_size, world_size, 1, (), "127.0.0.1", port, "test", None, 0)
    if world_size == 1:
        store: Any = distributed.HashStore()
    else:
        store = distributed.TCPStore("127.0.0.1", port, world_size, rank == 0, timedelta(seconds=60))
    return join(spec, store, backend="gloo", device=None, timeout_seconds=60)


def lead(folder: Path, plan: dict[str, Any]) -> tuple[int, str]:
    from scaledl.data import build_data
    from scaledl.models.structure import new_model
    from scaledl.run import Run
    from scaledl.train import fit

    config = replace(Config.model_validate(BASE), plan.get("config", {}))
    data = build_data(config.data, config.run.seed)
    run = Run.open_or_create(folder, "t", "one", kind="train", config=config)
    try:
        with run.attempt():
            model = new_model(config.model, data.spec.in_shape, data.spec.num_classes, config.run.seed)
            result = fit(config, run, data, model)
            run.finish("complete")
    except ScaledlError as error:
        return error.exit_code, f"{type(error).__name__}: {error}"
    torch.save(result.model.module.state_dict(), folder / "weights.pt")
    (folder / "metrics.json").write_text(json.dumps(result.metrics))
    return 0, ""


def watch() -> None:
    """Hooks into the task of every rank: a ledger of sample ids, signals and faults at given steps."""
    plain_step, plain_optimizer_step = ClassificationTask.step, Task.optimizer_step

    def step(self: Any, batch: Any) -> Any:
        if self.training:
            spoil(self, batch, PLAN.get("spoil"))
            if PLAN.get("ledger"):
                line = {"epoch": self.current_epoch, "step": self.global_step, "ids": batch.ids.tolist()}
                with (PLAN["folder"] / f"ledger-{self.ranks.rank}.jsonl").open("a") as file:
                    file.write(json.dumps(line) + "\n")
        result = plain_step(self, batch)
        if self.training and hit(self, PLAN.get("spoil")) and PLAN["spoil"]["kind"] == "nan":
            result = {**result, "loss": result["loss"] * float("nan")}
        if fault_in_backward(self, batch, PLAN.get("spoil")):
            result["loss"].register_hook(run_out_of_memory)
        return result

    def optimizer_step(self: Any, *arguments: Any) -> None:
        plain_optimizer_step(self, *arguments)
        stop = PLAN.get("stop")
        if stop and (self.ranks.rank, self.global_step + 1) == (stop["rank"], stop["step"]):
            os.kill(os.getpid(), signal.Signals[stop["signal"]])

    def on_train_epoch_end(self: Any) -> None:
        if PLAN.get("inspect"):
            found = inspect(self.trainer.strategy, self)
            (PLAN["folder"] / f"inspect-{self.ranks.rank}.json").write_text(json.dumps(found))

    plain_contrastive_step = ContrastiveTask.step

    def contrastive_step(self: Any, batch: Any) -> Any:
        hook = self.model.register_forward_pre_hook(lambda *_: spoil(self, batch, PLAN.get("spoil")))
        try:
            return plain_contrastive_step(self, batch)
        finally:
            hook.remove()

    ClassificationTask.step = step  # type: ignore[method-assign]
    ContrastiveTask.step = contrastive_step  # type: ignore[method-assign]
    Task.optimizer_step = optimizer_step  # type: ignore[method-assign]
    Task.on_train_epoch_end = on_train_epoch_end  # type: ignore[method-assign]


def hit(task: Any, fault: dict[str, Any] | None) -> bool:
    return fault is not None and task.ranks.rank == fault["rank"] and task.global_step in fault.get("steps", [])


def spoil(task: Any, batch: Any, fault: dict[str, Any] | None) -> None:
    if fault and fault["kind"] == "oom" and task.ranks.rank == fault["rank"] and len(batch.y) > fault["above"]:
        raise torch.OutOfMemoryError("CUDA out of memory (made up by the test)")
    if hit(task, fault) and fault and fault["kind"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if hit(task, fault) and fault and fault["kind"] == "raise":
        raise ValueError("made up by the test")


def write_norm(task: Any) -> None:
    """What a hook of the user's sees of the gradients."""
    norm = sum(float(parameter.grad.square().sum()) for parameter in task.parameters())
    with (PLAN["folder"] / f"norms-{task.ranks.rank}.txt").open("a") as file:
        file.write(f"{norm!r}\n")


def fault_in_backward(task: Any, batch: Any, fault: dict[str, Any] | None) -> bool:
    return bool(
        fault
        and fault["kind"] == "oom in backward"
        and task.training
        and task.ranks.rank == fault["rank"]
        and len(batch.y) > fault["above"]
    )


def run_out_of_memory(gradient: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory (made up by the test)")


def inspect(strategy: Any, task: Any) -> dict[str, Any]:
    engine = strategy.model
    found = {
        "engine": f"{type(engine).__module__}.{type(engine).__name__}",
        "near": getattr(strategy, "_gradients", None) is not None,
    }
    zero = getattr(engine, "optimizer", None)
    if zero is None:
        return found
    states = [value for state in zero.optimizer.state.values() for value in state.values()]
    shards = [parameter.ds_tensor for parameter in task.parameters() if hasattr(parameter, "ds_tensor")]
    return {
        **found,
        "optimizer": type(zero).__name__,
        "stage": engine.zero_optimization_stage(),
        "parameters": sum(getattr(p, "ds_numel", p.numel()) for p in task.parameters()),
        "state_bytes": sum(value.nbytes for value in states if value.dim()),
        "shard_bytes": sum(shard.nbytes for shard in shards),
    }


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:4])))
