"""Verbs that make runs: train, compress, chain."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scaledl.api.results import check_data, data_of, keep_result, publish, reported_attempt
from scaledl.config import FREE_KEYS, Config, changed_keys, describe_changes, replace
from scaledl.config.compare import BATCHES
from scaledl.config.shortened import shortened
from scaledl.console import get_console
from scaledl.distributed.ranks import current_ranks
from scaledl.errors import UsageError
from scaledl.run import Parent, Run, default_id

_ALLOW = "; --allow-changes goes on with them"
_FREE_IN_TRAINING = (*FREE_KEYS, "compress.", "export.")

# What changes where and how a result is made, not what it is.
_UNDECIDED: dict[str, Any] = {
    "run": {"id", "name", "root"},
    "data": {"root", "download", "num_workers"},
    "trainer": {
        *("strategy", "devices", "num_nodes", "deepspeed"),
        *("timeout_seconds", "hang_seconds", "max_nonfinite_steps"),
    },
    "tune": True,
}


def train(config: Config, *, allow_changes: bool = False) -> Run:
    """Train as `config` says and evaluate the result on the test split; a fixed run.id resumes.

    Args:
        allow_changes: go on also where the config is another than the one that the run was started with.

    Raises:
        UsageError: the id belongs to a run of another config or another dataset.
        Preempted, Interrupted: stopped by a signal after saving.
    """
    config = shortened(config)
    name = config.run.name or _default_name(config)
    id = default_id(config)
    if id is not None and (Path(config.run.root) / name / id).exists():
        run = _training_run(config, name, id, allow_changes)
        if run.state == "complete" and not _changes(run, config):
            return _already_complete(run)
    from scaledl.data import build_data
    from scaledl.tasks.model import check_task
    from scaledl.train import fit
    from scaledl.train.start import find_start, keep_start

    # A config that does not fit its data must leave no run behind: its id would refuse the corrected one.
    data = build_data(config.data, config.run.seed)
    check_task(config, data)
    start = find_start(config, data.spec, None if id is None else Path(config.run.root) / name / id)
    run = _training_run(config, name, id, allow_changes, start.parents)
    with reported_attempt(run, config):
        get_console().info(f"run {run.path}")
        if data.note:
            get_console().info(data.note)
        check_data(data, run, config)
        _take_over(run, config)
        run.update(data_fingerprint=data.spec.fingerprint, world_size=current_ranks().world_size)
        keep_start(run, start)
        result = fit(config, run, data, start.model)
        keep_result(run, result.model, data, result.metrics)
    return run


def _default_name(config: Config) -> str:
    """After the family and the data: the source, or the folder that was prepared or belongs to it."""
    root = config.data.root
    in_place = root is not None and config.data.source in ("prepared", "text", "ucr")
    named = Path(root or "").expanduser().resolve().name if in_place else ""
    words = re.sub(r"[^A-Za-z0-9_.-]+", "-", named).strip("-.")[:64]
    return f"{config.model.family}-{words or config.data.word}"


def compress(source: Run, config: Config, *, trust: bool = False) -> Run:
    """Run the recipe in `config.compress` on a complete run; export and verify the result.

    The new run lies beside its source unless `config.run.root` says otherwise. Its id follows from the source's model
    and the config, so that the same call goes on where it stopped; a `config.run.id` of its own is kept.

    Args:
        trust: import the code that the source names, where its model is one's own class.

    Raises:
        UsageError: no recipe, an order that cannot work, a student larger than its teacher.
        VerdictError: the exported file failed its verification.
    """
    if not config.compress.stages:
        raise UsageError("compress: no recipe; give --method distill,prune,qat or --recipe FILE")
    config = shortened(config)
    _refuse_other_model(source, config)
    parent = source.as_parent()
    config = replace(config, {"run.name": source.name, "run.id": _recipe_id(source, parent, config)})
    run = _compressed_before(config, parent)
    if run is not None and run.state == "complete":
        return _already_complete(run)
    from scaledl.compress import pipeline

    data = data_of(source, config)
    pipeline.check_chain(source, config, data, trust=trust)
    run = Run.open_or_create(
        Path(config.run.root), source.name, config.run.id, kind="compress", config=config, parents=(parent,)
    )
    with reported_attempt(run, config):
        get_console().info(f"compressing {source.path} -> {run.path}")
        run.update(data_fingerprint=data.spec.fingerprint, world_size=current_ranks().world_size)
        pipeline.run_chain(source, config, run, data, trust=trust)
        publish(run, data, trust=trust)
    return run


def chain(config: Config) -> tuple[Run, Run]:
    """Train and compress in one go; each part resumes or is taken from what is there."""
    if not config.compress.stages:
        raise UsageError(
            "compress.stages: empty; a chain needs a recipe: in the config, or as "
            "compress.stages='[{method: distill}, {method: prune}, {method: qat}]'"
        )
    if config.run.id is None:
        config = replace(config, {"run.id": default_id(config) or f"chain-{_training_digest(config)}"})
    trained = train(config)
    return trained, compress(trained, config, trust=True)  # what it names stands in the user's own config


def _training_run(
    config: Config, name: str, id: str | None, allow_changes: bool, parents: Sequence[Parent] = ()
) -> Run:
    run = Run.open_or_create(Path(config.run.root), name, id, kind="train", config=config, parents=parents)
    if not allow_changes:
        _refuse_changes(run, config, _FREE_IN_TRAINING)
    return run


def _changes(run: Run, config: Config) -> dict[str, tuple[Any, Any]]:
    return changed_keys(run.config, config, ignore=_FREE_IN_TRAINING)


def _take_over(run: Run, config: Config) -> None:
    """Let an allowed change become the run's own, and be chosen again what followed from the old value."""
    changed = _changes(run, config)
    if not changed:
        return
    get_console().warn(f"{run.path} goes on with another config: {describe_changes(changed)}")
    if changed.keys() & {f"trainer.{key}" for key in ("accumulate", "precision", "channels_last", "num_threads")}:
        from scaledl.train.settings import FILE

        (run.checkpoints / FILE).unlink(missing_ok=True)
    run.update(config=config)


def _already_complete(run: Run) -> Run:
    run.verify_files()
    get_console().info(f"{run.path}: already complete")
    return run


def _refuse_changes(run: Run, config: Config, free: Sequence[str]) -> None:
    changed = changed_keys(run.config, config, ignore=free)
    if changed:
        raise UsageError(
            f"{run.path} was started with another config; changed: {describe_changes(changed)}. "
            f"Give the run another --id, or restore these keys{_ALLOW if run.kind == 'train' else ''}"
        )


def _refuse_other_model(source: Run, config: Config) -> None:
    other = changed_keys({"model": source.config.model_dump()["model"]}, {"model": config.model_dump()["model"]})
    if other:
        raise UsageError(
            f"{describe_changes(other)}: a compression starts from the model of {source.path} as it is; "
            "a student's keys are distill.student.KEY=VALUE, another model needs its own `scaledl train`"
        )


def _compressed_before(config: Config, parent: Parent) -> Run | None:
    """The run of this id, when it is of the same recipe and the same model."""
    path = Path(config.run.root) / str(config.run.name) / str(config.run.id)
    if not path.exists():
        return None
    run = Run.open(path)
    if run.kind != "compress":
        raise UsageError(f"run {run.label} exists and is a {run.kind} run, not a compress run; take another --id")
    _refuse_changes(run, config, FREE_KEYS)
    if parent.sha256 not in [known.sha256 for known in run.manifest.parents]:
        raise UsageError(f"{run.path} was made from another model than {parent.path}; take another --id")
    return run


def _recipe_id(source: Run, parent: Parent, config: Config) -> str:
    if config.run.id not in (None, source.id, source.config.run.id):
        return str(config.run.id)
    methods = "-".join(stage.method for stage in config.compress.stages)
    return f"{source.id}-{methods}"[:91] + f"-{_digest(config, parent.sha256)}"


def _training_digest(config: Config) -> str:
    """The same for every recipe: it takes the trained model as it is."""
    default = Config()
    return _digest(config.model_copy(update={"compress": default.compress, "export": default.export}))


def _digest(config: Config, *more: str) -> str:
    """Of what decides the result: not of names, folders and the layout of ranks, so that another layout goes on; and
    not of values that are the default, so that keys which a newer scaledl has do not count."""
    chosen = [config.model.family, *(stage.method for stage in config.compress.stages)]  # defaults of their sections
    told = config.model_dump(mode="json", exclude=_UNDECIDED, exclude_defaults=True)
    single = [key for key, value in config.trainer if key.endswith(BATCHES) and type(value) is int and value == 1]
    content = json.dumps([chosen, {name: keys for name, keys in told.items() if keys}, *more, *single], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:8]
