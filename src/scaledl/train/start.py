"""What a training starts from: a fresh model, or one that begins with learned weights, kept for later attempts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from scaledl.config import Config
from scaledl.config.imported import imports_of
from scaledl.console import get_console
from scaledl.data import DataSpec
from scaledl.errors import UsageError
from scaledl.models.ends import head_names
from scaledl.models.pretrained import Report
from scaledl.models.sources import begin_with_
from scaledl.models.structure import EXTERNAL, Model, load_model, save_model
from scaledl.run import Parent, Run, atomic_json
from scaledl.tasks.model import model_for, task_around
from scaledl.train.freezing import NEVER, plan_transfer
from scaledl.train.lora import lora_targets
from scaledl.train.own import check_own_steps, own_callbacks
from scaledl.train.precision import bf16_problem
from scaledl.train.settings import uses_gpu

START = "start"
REPORT = "pretrained.json"
_SHOWN = 3


@dataclass(frozen=True)
class Start:
    """The model, and of pretrained weights what became of them and the run that they are of."""

    model: Model
    report: Report | None = None
    parents: tuple[Parent, ...] = ()


def find_start(config: Config, spec: DataSpec, run: Path | None = None) -> Start:
    """What `config` trains: as it was kept in `run` by an earlier attempt, else made now.

    Raises UsageError when the model does not fit the data, or the weights of `model.pretrained` not the model.
    """
    if run is not None and (kept := _kept(run, config)) is not None:
        return Start(kept)
    model, source = model_for(config, spec), config.model.pretrained
    frozen = _never_learning(model, config)
    check_own_steps(config, model.module)
    task_around(model.module, config, spec)
    own_callbacks(config)
    _check_precision(model, config)
    if source is None:
        if "model.name" not in imports_of(config):  # a class of one's own may bring learned weights
            _warn_of_random(frozen, config)
        return Start(model)
    model, report, origin = begin_with_(
        *(model, source),
        head=config.transfer.head,
        labels=spec.labels,
        root=Path(config.run.root),
        seed=config.run.seed,
        tokenizer=spec.tokenizer,
    )
    _warn_of_random([name for name in (*report.replaced, *report.fresh) if name in frozen], config)
    return Start(model, report, () if origin is None else (origin.as_parent(),))


def keep_start(run: Run, start: Start) -> None:
    """Tell what was loaded, and keep it: later attempts need neither the source nor the network."""
    if start.report is None:
        return
    for line in start.report.lines():
        get_console().info(line)
    save_model(start.model, run.path / START)
    atomic_json(run.path / REPORT, start.report.to_json())
    run.record(START, REPORT)


def _check_precision(model: Model, config: Config) -> None:
    """Raises UsageError for another library's model that cannot run in bf16, where that is asked for. On GPUs, whose
    bf16 is not that of CPUs, the training tells."""
    asked = config.trainer.precision == "bf16" and config.model.family == EXTERNAL and not uses_gpu(config)
    if asked and (problem := bf16_problem(model)):
        raise UsageError(
            f"trainer.precision: got bf16, and {model.structure.config['name']} fails in it ({problem}); "
            "allowed: auto, fp32"
        )


def _never_learning(model: Model, config: Config) -> frozenset[str]:
    """Parameters that stay as they begin. Refuses patterns that match nothing before anything is written."""
    names, transfer = {name for name, _ in model.module.named_parameters()}, config.transfer
    if transfer.lora.rank:
        lora_targets(model.module, model.structure, transfer.lora)
        return frozenset(names - head_names(model.structure))
    begins = plan_transfer(model.module, model.structure, transfer).begins
    return frozenset(name for name, epoch in begins.items() if epoch == NEVER)


def _warn_of_random(frozen: Iterable[str], config: Config) -> None:
    """Of parameters that were not loaded and never learn."""
    names = sorted(frozen)
    if names:
        shown = ", ".join(names[:_SHOWN]) + (f", … ({len(names)} in all)" if len(names) > _SHOWN else "")
        key = "transfer.lora" if config.transfer.lora.rank else "transfer.freeze"
        others = "transfer.freeze instead of adapters" if config.transfer.lora.rank else "leave them out of it"
        fix = "model.pretrained loads learned ones" if config.model.pretrained is None else others
        get_console().warn(f"{key}: {shown} begin with random values and never learn; fix: {fix}")


def _kept(path: Path, config: Config) -> Model | None:
    if not (path / START).is_dir():
        return None
    run = Run.open(path)
    if not any(name.startswith(f"{START}/") for name in run.manifest.files):
        return None  # it was not written to its end
    run.verify_files(START)
    return load_model(path / START, trust="model.name" in imports_of(config))
