"""Searches: what Ray Tune costs a trial, real trials against a plain script, busy slots, and epochs saved.

    python benchmarks/tune.py overhead   no-op trials a second; ours and a plain Ray Tune function, in turns
    python benchmarks/tune.py long       trials of ten seconds: what is added to them
    python benchmarks/tune.py digits     trials of configs/digits.yaml against a plain Ray Tune + Lightning script
    python benchmarks/tune.py nodes      two Ray nodes on this machine: how busy their slots are
    python benchmarks/tune.py slurm      `sbatch slurm/tune.sh` on two nodes of a Slurm on this machine: the same
    python benchmarks/tune.py growth     1,000 tiny trials: memory and file handles of the search
    python benchmarks/tune.py record DIR the table of learning curves from a search of benchmarks/curves.yaml
    python benchmarks/tune.py replay     searchers on that table: epochs until random search's best is reached

Each adds its figures to benchmarks/results/tune.json with `--json`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import tune as ray_tune

from environment import machine, one_line, versions
from scaledl.config import Config, Dimension, Point, Space, load_config, space_of
from scaledl.distributed.ray import local_ray
from scaledl.run import Run
from scaledl.tune.on_ray import REPORT, run_on_ray
from scaledl.tune.run import _order
from scaledl.tune.search import Search
from scaledl.tune.slots import Slots
from scaledl.tune.study import Study, Trial, read_study

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "tune.json"
CURVES = HERE / "curves.json.gz"
SLOTS = 2


class Noop(ray_tune.Trainable):
    """A trial that does nothing, in a worker that stays."""

    seconds = 0.0

    def setup(self, config: dict[str, Any]) -> None: ...

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return True

    def step(self) -> dict[str, Any]:
        time.sleep(self.seconds)
        metrics = {"val_accuracy": 0.5, "pid": float(os.getpid())}
        report = {"state": "complete", "metrics": metrics, "epochs": 1, "error": ""}
        return {REPORT: json.dumps(report), "done": True}


class Sleeper(Noop):
    """A trial of ten seconds."""

    seconds = 10.0


def plain_noop(config: dict[str, Any]) -> None:
    ray_tune.report({"val_accuracy": 0.5})


@contextmanager
def searching(config: Config) -> Iterator[Search]:
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(folder, "bench", kind="tune", config=config)
        space = space_of(config)
        yield Search(run, config, space, Study(run.path, config, space), config.tune.trials)


def our_noops(trials: int, worker: type[Noop] = Noop) -> dict[str, float]:
    """Trials a second between the first end and the last, and overall; `slots`: workers that had a fair share."""
    overrides = ["tune.space.optimizer.lr={loguniform: [1e-4, 1e-1]}", "tune.search=random", "tune.scheduler=none"]
    with searching(load_config(None, [*overrides, f"tune.trials={trials}"])) as search:
        began = time.time()
        _drive(search, worker, lambda assignment: "")
        done = search.study.own()
        ends = sorted(trial.ended for trial in done if trial.ended)
        pids = [trial.extra["pid"] for trial in done]
        fair = sum(pids.count(pid) > trials / SLOTS / 3 for pid in set(pids))
        first = min(trial.started for trial in done)
        return {
            "steady": (len(ends) - 1) / (ends[-1] - ends[0]),
            "overall": trials / (ends[-1] - began),
            "slots": fair,
            "seconds": ends[-1] - first,
            "from first begin": ends[-1] - ends[0] + worker.seconds,
        }


def _drive(search: Search, worker: Any, order_fn: Callable[[Any], str], slots: int = SLOTS) -> None:
    search.up()
    run_on_ray(search, order_fn, Slots(slots, 1, 0), on_tick=_nothing, stop_now=_never, worker=worker)


def _nothing() -> None: ...


def _never() -> bool:
    return False


def plain(function: Callable[[dict[str, Any]], None], trials: int, space: dict[str, Any]) -> dict[str, float]:
    """The same number of trials as a Ray Tune user's script runs them."""
    from ray.tune import RunConfig, TuneConfig, Tuner

    with tempfile.TemporaryDirectory() as folder:
        began = time.time()
        results = Tuner(
            ray_tune.with_resources(function, {"cpu": 1}),
            param_space=space,
            tune_config=TuneConfig(num_samples=trials),
            run_config=RunConfig(storage_path=folder, verbose=0),
        ).fit()
        ends = sorted(result.metrics["timestamp"] for result in results if result.metrics)
        assert len(ends) == trials
        return {
            "steady": (len(ends) - 1) / max(ends[-1] - ends[0], 1e-9),
            "overall": trials / (time.time() - began),
        }


def overhead(rounds: int = 3) -> dict[str, Any]:
    ours, theirs = [], []
    with local_ray(SLOTS):
        for _ in range(rounds):
            ours.append(our_noops(200))
            theirs.append(plain(plain_noop, 12, {"x": ray_tune.uniform(0, 1)}))
    pick = {name: statistics.median(figure[name] for figure in ours) for name in ("steady", "overall", "slots")}
    plain_rates = {name: statistics.median(figure[name] for figure in theirs) for name in ("steady", "overall")}
    return {"ours": pick, "plain function": plain_rates}


def long() -> dict[str, Any]:
    with local_ray(SLOTS):
        figures = our_noops(8, Sleeper)
    ideal = 8 / SLOTS * Sleeper.seconds
    return {
        "ideal": ideal,
        "added, workers up": figures["from first begin"] / ideal - 1,
        "added, with their start": figures["seconds"] / ideal - 1,
    }


def plain_digits(config: dict[str, Any]) -> None:
    """What a careful user writes: a LightningModule, DataLoaders and a callback that reports."""
    import pytorch_lightning as pl
    import torch
    import torch.nn.functional as F
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from torch.utils.data import DataLoader, TensorDataset

    from scaledl.config import load_config
    from scaledl.models.structure import new_model

    torch.set_num_threads(1)
    base = load_config(config["file"], config["overrides"])
    pixels, labels = load_digits(return_X_y=True)
    x = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    parts = train_test_split(x, torch.tensor(labels), test_size=0.1, random_state=0, stratify=labels)
    train, val = TensorDataset(parts[0], parts[2]), TensorDataset(parts[1], parts[3])
    model = new_model(base.model, (1, 8, 8), 10, 0).module
    epochs, batch = base.trainer.epochs, base.data.batch_size

    class Classifier(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, pair: Any, _: int) -> Any:
            return F.cross_entropy(self.model(pair[0]), pair[1], label_smoothing=base.task.label_smoothing)

        def validation_step(self, pair: Any, _: int) -> None:
            accuracy = (self.model(pair[0]).argmax(1) == pair[1]).float().mean()
            self.log("val_accuracy", accuracy, on_epoch=True)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(
                self.parameters(), lr=config["lr"], momentum=0.9, nesterov=True, weight_decay=5e-4
            )
            steps = epochs * len(loader)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config["lr"], total_steps=steps)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    class Report(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            ray_tune.report({"val_accuracy": float(trainer.callback_metrics["val_accuracy"])})

    loader = DataLoader(train, batch, shuffle=True)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        callbacks=[Report()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(Classifier(), loader, DataLoader(val, 512))


def digits(trials: int, overrides: list[str]) -> dict[str, Any]:
    """Ours twice: every trial to its end, and stopped early as by default. And the plain script, to its end."""
    from scaledl.tune.on_ray import Worker

    file = str(HERE.parent / "configs" / "digits.yaml")
    figures: dict[str, Any] = {}
    with local_ray(SLOTS):
        for name, count, more in (
            ("every trial to its end", trials, ["tune.scheduler=none", "tune.search=random"]),
            ("as by default", 64, []),
        ):
            with searching(load_config(file, [*overrides, *more, f"tune.trials={count}"])) as search:
                began = time.time()
                _drive(search, Worker, _orders(search))
                done = search.study.own()
                ends = sorted(trial.ended for trial in done if trial.ended)
                figures[name] = {
                    "trials": count,
                    "overall": count / (ends[-1] - began),
                    "steady": (len(ends) - 1) / (ends[-1] - ends[0]),
                    "epochs": sum(trial.epochs for trial in done),
                    "best": max(v for trial in done for v in trial.curve.values()),
                }
        space = {"lr": ray_tune.loguniform(1e-2, 1), "file": file, "overrides": overrides}
        figures["plain script"] = {"trials": trials, **plain(plain_digits, trials, space)}
    return figures


def _orders(search: Search) -> Callable[[Any], str]:
    return lambda assignment: _order(search, assignment, Slots(SLOTS, 1, 0), None)


def nodes() -> dict[str, Any]:
    """Two raylets of one CPU each."""
    from scaledl.tune.on_ray import Worker

    file = str(HERE.parent / "configs" / "digits.yaml")
    config = load_config(file, [*RESNET_8, "tune.trials=64"])
    with searching(config) as search, local_ray(1, num_nodes=2) as cluster:
        slots = Slots(cluster.cpus, 1, 0)
        _drive(search, Worker, _orders(search), slots.count)
        return _busy(search.study.own(), slots.count)


RESNET_8 = ("model.depth=8", "trainer.epochs=9", "tune.space.model.width=[8, 16]")


def _busy(trials: list[Trial], slots: int) -> dict[str, Any]:
    """Work is counted from the moment a worker begins a trial to the moment it is done, until the last one begins."""
    first, last_asked = min(trial.started for trial in trials), max(trial.started for trial in trials)
    work = sum(max(0.0, min(trial.ended or 0, last_asked) - trial.started) for trial in trials)
    busy = work / (last_asked - first) / slots
    return {"slots": slots, "until the queue is empty": busy, "work": sum(trial.seconds for trial in trials)}


def slurm() -> dict[str, Any]:
    """`sbatch slurm/tune.sh` on two nodes of one CPU each, of a Slurm on this machine."""
    sys.path.insert(0, str(HERE.parent))
    from tests.slurm_cluster import Layout, SlurmCluster

    with tempfile.TemporaryDirectory(prefix="ts-", dir="/tmp") as base, SlurmCluster(Layout(cpus=1)) as cluster:
        folder = Path(base)
        for name in ("configs", "launch", "slurm"):
            shutil.copytree(HERE.parent / name, folder / name)
        words = ("configs/digits.yaml", "--trials", "64", *RESNET_8)
        options = ("--nodes=2", "--cpus-per-task=1", "--time=30")
        job = cluster.sbatch("slurm/tune.sh", *words, cwd=folder, options=options, env={"TMPDIR": base})
        cluster.wait_for(job, "COMPLETED", timeout=900)
        run = Run.open(folder / "runs" / "digits" / job)
        return _busy(read_study(run.path, run.config, space_of(run.config)).own(), 2)


def growth() -> dict[str, Any]:
    """Resident memory and open files of the search's process, early and late in 1,000 trials."""
    marks: dict[int, tuple[float, int]] = {}
    overrides = ["tune.space.optimizer.lr={loguniform: [1e-4, 1e-1]}", "tune.search=random", "tune.scheduler=none"]
    with searching(load_config(None, [*overrides, "tune.trials=1000"])) as search, local_ray(SLOTS):

        def look() -> None:
            if search.num_ended % 100 == 0 and search.num_ended not in marks:
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                marks[search.num_ended] = (
                    pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
                    len([*Path("/proc/self/fd").iterdir()]),
                )

        search.up()
        run_on_ray(search, lambda assignment: "", Slots(SLOTS, 1, 0), on_tick=look, stop_now=_never, worker=Noop)
        rate = search.num_ended / search.up_seconds
    return {"MB and files at": {str(k): v for k, v in marks.items()}, "trials a second": rate}


def record(folder: Path) -> dict[str, Any]:
    """The curves of a search, as a table: names, one row of values and one of accuracies for each setting."""
    run = Run.open(folder)
    study = read_study(folder, run.config, space_of(run.config))
    done = [trial for trial in study.own() if trial.state == "complete"]
    names = [dimension.name for dimension in study.space.dimensions]
    rows = [[[t.point[n] for n in names], [round(v, 4) for v in t.curve.values()]] for t in done]
    document = {"config": run.config.model_dump(mode="json"), "names": names, "rows": rows}
    with gzip.GzipFile(CURVES, "wb", mtime=0) as file:
        file.write(json.dumps(document).encode())
    return {"settings": len(rows), "bytes": CURVES.stat().st_size}


class Table:
    """Recorded learning curves, asked as if they were trained."""

    def __init__(self) -> None:
        document = json.loads(gzip.decompress(CURVES.read_bytes()))
        self.config = Config.model_validate(document["config"])
        self.names: list[str] = document["names"]
        self.curves = {json.dumps(values): curve for values, curve in document["rows"]}
        columns = zip(*(values for values, _ in document["rows"]), strict=True)
        self.space = Space(
            tuple(
                Dimension(name, (name,), "choice", choices=tuple(_distinct(column)))
                for name, column in zip(self.names, columns, strict=True)
            )
        )

    def curve(self, point: Point) -> list[float]:
        return list(self.curves[json.dumps([point[name] for name in self.names])])


def _distinct(values: Any) -> list[Any]:
    found: dict[str, Any] = {}
    for value in values:
        found.setdefault(json.dumps(value), value)
    return list(found.values())


def replayed(table: Table, seed: int, goal: float | None, **tune: Any) -> tuple[int, float]:
    """Epochs until a full trial is within 0.2 points of `goal`, and the best accuracy by then.

    Without a goal: of 64 trials. Where the goal is never reached: of all settings.
    """
    changed = table.config.tune.model_copy(update={"trials": 400, "default_first": False, **tune})
    run_config = table.config.run.model_copy(update={"seed": seed})
    config = table.config.model_copy(update={"tune": changed, "run": run_config})
    total = config.trainer.epochs
    with tempfile.TemporaryDirectory() as folder:
        study = Study(Path(folder), config, table.space)
        epochs, best = 0, 0.0
        for _ in range(64 if goal is None else changed.trials):
            if study.is_exhausted:
                break
            number, point = study.ask()
            curve = table.curve(point)
            for epoch, value in enumerate(curve, start=1):
                epochs += 1
                if study.report(number, epoch, value) and epoch < total:
                    study.tell(number, "stopped")
                    break
            else:
                study.tell(number, "complete", [curve[-1]])
                best = max(best, curve[-1])
            if goal is not None and best >= goal - 0.002:
                return epochs, best
    return epochs, best


def replay() -> dict[str, Any]:
    table = Table()
    seeds = range(5)
    random_best, random_epochs = [], []
    for seed in seeds:
        epochs, best = replayed(table, 1000 + seed, None, search="random", scheduler="none")
        random_best.append(best)
        random_epochs.append(epochs)
    figures: dict[str, Any] = {"random": {"epochs": random_epochs, "best": random_best}, "settings": len(table.curves)}
    ways = {
        "asha + tpe": {"search": "tpe", "scheduler": "asha"},
        "hyperband + tpe (BOHB)": {"search": "tpe", "scheduler": "hyperband"},
        "asha + random": {"search": "random", "scheduler": "asha"},
        "median + tpe": {"search": "tpe", "scheduler": "median"},
        "tpe": {"search": "tpe", "scheduler": "none"},
    }
    for name, way in ways.items():
        found = [replayed(table, seed, goal, **way) for seed, goal in zip(seeds, random_best, strict=True)]
        ratios = [
            full / epochs if best >= goal - 0.002 else 0.0  # ASHA had stopped all that were good enough
            for full, goal, (epochs, best) in zip(random_epochs, random_best, found, strict=True)
        ]
        epochs = [epochs for epochs, _ in found]
        figures[name] = {"epochs": epochs, "ratios": ratios, "median": statistics.median(ratios)}
    return figures


WAYS: dict[str, Callable[[], dict[str, Any]]] = {
    "overhead": overhead,
    "long": long,
    "nodes": nodes,
    "slurm": slurm,
    "growth": growth,
    "replay": replay,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("overhead", "long", "digits", "nodes", "slurm", "growth", "record", "replay"))
    parser.add_argument("folder", nargs="?", type=Path, help="record: the search's directory")
    parser.add_argument("--trials", type=int, default=8, help="digits: trials that run to their end")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="digits: overrides for all ways"
    )
    parser.add_argument("--json", action="store_true", help=f"add the figures to {RESULTS.name}")
    args = parser.parse_args()
    here = machine()
    print(one_line(here))
    figures: dict[str, Any]
    if args.what == "record":
        figures = record(args.folder)
    elif args.what == "digits":
        figures = digits(args.trials, args.set)
    else:
        figures = WAYS[args.what]()
    print(json.dumps(figures, indent=2))
    if args.json:
        known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        command = f"python benchmarks/tune.py {args.what}"
        known[args.what] = {"command": command, "machine": here, "versions": versions(), **figures}
        RESULTS.write_text(json.dumps(known, indent=2) + "\n")


if __name__ == "__main__":
    main()
