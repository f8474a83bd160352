"""What a trial does with its config, and the figures that come of it. Data stay in the process for the next trial."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import torch

from scaledl.bench import count_macs, count_params, measure
from scaledl.checkpoint import scan
from scaledl.config import FREE_KEYS, Config, changed_keys, replace
from scaledl.config.registry import FORMATS
from scaledl.data import DataModule
from scaledl.data.shared import shared_data
from scaledl.evaluate import evaluate_split
from scaledl.models.quantized import without_quantization
from scaledl.models.structure import Model, build, load_model, save_model
from scaledl.run import Run, atomic_write
from scaledl.runtime.torchscript import load
from scaledl.train import fit
from scaledl.train.settings import FILE as SETTINGS
from scaledl.train.start import find_start, keep_start
from scaledl.tune.trial import Ended, Order, Watch

SHARED_SETTINGS = "settings"
OF_FILE = ("size_bytes", "latency_ms")
_data: dict[str, DataModule] = {}


def open_run(order: Order) -> Run:
    """The trial's own run, inside the search's."""
    config = Config.model_validate(order.config)
    search = Run.open(order.search)
    run = search.nested(order.folder, kind="trial", config=config)
    if changed_keys(run.config, config, ignore=FREE_KEYS):  # of a trial that a damaged journal has forgotten
        shutil.rmtree(run.path)
        run = search.nested(order.folder, kind="trial", config=config)
    return run


def work(order: Order, run: Run, watch: Watch) -> dict[str, float]:
    """Do the trial, or go on with it; returns its figures.

    Raises Ended when nobody waits for it any more; ScaledlError for what is wrong with the trial itself.
    """
    if run.state == "complete":  # its worker died before it could say so
        watch.recall(run.metrics_file, sys.maxsize)
        return dict(run.manifest.metrics)
    torch.set_num_threads(order.threads)
    config = run.config
    data = data_of(config)
    with run.attempt():
        try:
            metrics = WORK[order.verb](order, run, config, data, watch)
        except Ended:
            run.finish("preempted", error="stopped by the search")
            raise
        run.finish("complete", error=None, **metrics)
    return metrics


def data_of(config: Config) -> DataModule:
    """The data, loaded once: for this process, and where there is a folder for it, for all of this node."""
    key = json.dumps([config.data.samples(), config.run.seed])
    if key not in _data:
        _data.clear()
        _data[key] = shared_data(config.data, config.run.seed)
    return _data[key]


def train(order: Order, run: Run, config: Config, data: DataModule, watch: Watch) -> dict[str, float]:
    """One training; `watch` sees every epoch of it."""
    if order.parent and not scan(run.checkpoints):
        _begin_with(Path(order.parent), run)
    run.update(data_fingerprint=data.spec.fingerprint)
    kept = _share_settings(order, run, config)
    if found := scan(run.checkpoints):
        watch.recall(run.metrics_file, found[0][1].step)
    start = find_start(config, data.spec, run.path)
    keep_start(run, start)
    # A search ends most trials long before the steps that would pay a compilation back.
    eager = config if config.trainer.compile is True else replace(config, {"trainer.compile": False})
    result = fit(eager, run, data, start.model, callbacks=[watch], label=f"trial {order.number}")
    _keep_settings(kept, run)
    save_model(result.model, run.model_dir)
    run.record("model")
    return {**result.metrics, **_figures(order, run, result.model, config, data)}


def _share_settings(order: Order, run: Run, config: Config) -> Path:
    """What `auto` means is measured by the first trial of its kind and then taken over: trials are to be compared."""
    kind = config.model_dump(mode="json", include={"model": True, "data": {"batch_size"}, "trainer": True})
    digest = hashlib.sha256(json.dumps(kind, sort_keys=True).encode()).hexdigest()[:16]
    kept = Path(order.search, SHARED_SETTINGS, f"{digest}.json")
    if kept.exists() and not (run.checkpoints / SETTINGS).exists():
        run.checkpoints.mkdir(exist_ok=True)
        shutil.copyfile(kept, run.checkpoints / SETTINGS)
    return kept


def _keep_settings(kept: Path, run: Run) -> None:
    if not kept.exists() and (run.checkpoints / SETTINGS).exists():
        atomic_write(kept, (run.checkpoints / SETTINGS).read_bytes())


def _begin_with(parent: Path, run: Run) -> None:
    """Take over another trial's checkpoints, settings and curve."""
    shutil.copytree(parent / "checkpoints", run.checkpoints, ignore=shutil.ignore_patterns(".*"), dirs_exist_ok=True)
    shutil.copyfile(parent / "metrics.jsonl", run.metrics_file)


def compress(order: Order, run: Run, config: Config, data: DataModule, watch: Watch) -> dict[str, float]:
    """One chain, from the source's model; judged by its exported file on the validation split."""
    from scaledl.compress import pipeline

    source = Run.open(order.source)
    run.update(data_fingerprint=data.spec.fingerprint)
    pipeline.run_chain(source, config, run, data, trust=True)  # checked when the search began
    run.record("model")
    model = load_model(run.model_dir, trust=True)
    return _figures(order, run, model, config, data, of_file=True)


WORK = {"train": train, "compress": compress}


def _figures(
    order: Order, run: Run, model: Model, config: Config, data: DataModule, *, of_file: bool = False
) -> dict[str, float]:
    """What the objectives ask for beside the figures of the training."""
    found: dict[str, float] = {}
    if {"params", "macs"} & {*order.objectives}:
        module = build(without_quantization(model.structure), trust=True).eval()
        found["params"] = float(count_params(module))
        found["macs"] = float(count_macs(module, model.structure.inputs.example(1)))
    if of_file or {*OF_FILE} & {*order.objectives}:
        found |= _figures_of_file(order, run, model, config, data, scored=of_file)
    return found


def _figures_of_file(
    order: Order, run: Run, model: Model, config: Config, data: DataModule, *, scored: bool
) -> dict[str, float]:
    source = {"name": run.name, "id": run.id, "sha256": run.as_parent().sha256}
    path = run.exports / "model.ts"
    path.parent.mkdir(exist_ok=True)
    artifact = FORMATS.resolve(config.export.format)(
        model, data, path, config=config.export, source=source, task=config.task
    )
    found = {"size_bytes": float(artifact.size)}
    if scored:
        evaluation = evaluate_split(load(artifact.path).forward, data, config, "val")
        found |= {f"val_{name}": value for name, value in evaluation.metrics.items()}
    if "latency_ms" in order.objectives:
        size = min(config.export.latency_batch_sizes)
        forward = load(artifact.path, batch_sizes=[size]).forward
        results = measure(
            {"model": forward}, model.structure.inputs.example, [size], threads=config.export.latency_threads
        )
        found["latency_ms"] = results[0].minimum_ms
    torch.set_num_threads(order.threads)
    return found
