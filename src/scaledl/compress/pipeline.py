"""A chain of stages: each saved, exported and measured, and resumable within and between."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from scaledl.compress.distill import choose_student
from scaledl.compress.measure import Forward, describe_file, eager_forward, file_forward, with_latency
from scaledl.compress.rows import StageRow, format_rows, read_rows, summary, write_rows
from scaledl.compress.stage import StageContext, stage_key, stage_label
from scaledl.compress.students import structure_of
from scaledl.config import FREE_KEYS, Config, changed_keys, describe_changes, portable
from scaledl.config.registry import FORMATS, METHODS
from scaledl.config.schema import QUANTIZING, DistillConfig, Stage, order_problem
from scaledl.console import get_console
from scaledl.data import DataModule
from scaledl.distributed.preemption import stop_flag
from scaledl.errors import UsageError
from scaledl.models.qconfigs import check_engine, check_mode
from scaledl.models.quantized import is_quantized
from scaledl.models.run_tokenizer import keep_tokenizer
from scaledl.models.structure import Model, build, load_model, save_model
from scaledl.run import Parent, Run
from scaledl.tasks.own import settings_of, task_class

__all__ = ["StageRow", "check_chain", "format_rows", "read_rows", "run_chain"]

TABLE = "table.json"
START_ROW = "start"
EAGER_ROW = "start (eager)"
ARTIFACT = "exports/model.ts"
START_ARTIFACT = "exports/start.ts"


@dataclass(frozen=True)
class Chain:
    """What all stages of one chain share."""

    source: Run
    config: Config
    run: Run
    data: DataModule
    teacher: Model
    trust: bool

    @cached_property
    def eager(self) -> Forward:
        """The source model as it is."""
        return eager_forward(self.teacher)

    def stage_path(self, index: int, stage: Stage) -> str:
        """Folder of a stage, relative to the chain's run."""
        return f"stages/{index + 1:02d}-{stage.method}"


def run_chain(source: Run, config: Config, run: Run, data: DataModule, *, trust: bool = False) -> list[StageRow]:
    """Run every stage of `config.compress` from the model of `source`; stages that are complete are passed over.

    Leaves in `run`: stages/NN-method (each a run of its own), model/ (the last stage's), exports/start.ts (the source
    in float32, for comparison) and table.json. The caller begins and finishes `run`, exports and verifies its model.

    Raises UsageError for a recipe that cannot work, before anything is written, and for one that is not the recipe
    that the folder was started with.
    """
    chain = Chain(source, config, run, data, check_chain(source, config, data, trust=trust), trust)
    for index, stage in enumerate(config.compress.stages):
        _refuse_changes(chain, index, stage)
    _run_outside_inference_mode(chain.teacher)
    return _run_stages(chain)


def _run_outside_inference_mode(model: Model) -> None:
    """Some libraries keep tables of places for the whole process, which a training needs to be ordinary tensors."""
    with torch.no_grad():
        model.module(model.structure.inputs.example(1))


def check_chain(source: Run, config: Config, data: DataModule, *, trust: bool = False) -> Model:
    """The source's model, when the recipe can work on it. Writes nothing; raises UsageError."""
    stages = config.compress.stages
    if not stages:
        raise UsageError("compress.stages: empty; give a recipe such as --method distill,prune,qat")
    if problem := order_problem([stage.method for stage in stages]):
        raise UsageError(f"compress.stages: {problem}")
    source.verify_files("model")
    teacher = load_model(source.model_dir, trust=trust)
    if is_quantized(teacher.structure):
        raise UsageError(
            f"{source.path}: its model is quantized already, and a quantized model has a fixed structure; "
            "compress the training run that it came from"
        )
    _check_data(source, config, teacher, data)
    if any(stage.method in QUANTIZING for stage in stages):
        check_engine(config.export.engine)
    structure = teacher.structure
    for index, stage in enumerate(stages):
        if isinstance(stage, DistillConfig):
            structure = structure_of(choose_student(stage, teacher.structure, index).section, teacher.structure)
        elif stage.method in QUANTIZING:
            check_mode(build(structure, trust=True), stage.method, stage_key(index))
    return teacher


def _check_data(source: Run, config: Config, teacher: Model, data: DataModule) -> None:
    task = task_class(config.task.name)
    got = (task.outputs(data.spec, settings_of(task, config.task)).count, tuple(data.spec.in_shape))
    expected = (teacher.structure.outputs.count, teacher.structure.inputs.shape)
    if got != expected:
        what = "classes" if data.spec.target in ("class", "classes", "tags", "mask") else "outputs"
        raise UsageError(
            f"data.source: {data.spec.source} has {got[0]} {what} and inputs {got[1]}; the model of {source.path} was "
            f"made for {expected[0]} {what} and inputs {expected[1]}; use the data it was trained on"
        )


def _refuse_changes(chain: Chain, index: int, stage: Stage) -> None:
    path = chain.run.path / chain.stage_path(index, stage)
    if not path.exists():
        return
    old, new = _settings(Run.open(path).config, index), _settings(chain.config, index)
    changed = changed_keys(old, new, ignore=FREE_KEYS)
    if changed:
        raise UsageError(
            f"{path} was made with other settings: {describe_changes(changed)}. "
            f"Restore them, give the new recipe another run.id, or remove the folder {path}"
        )


def _settings(config: Config, index: int) -> dict[str, Any]:
    """All that a stage's result depends on: of the recipe only its own part."""
    stages = config.compress.stages
    own = stages[index].model_dump(mode="json") if index < len(stages) else {}
    return {**config.model_dump(mode="json", exclude={"compress"}), stage_key(index): own}


def _run_stages(chain: Chain) -> list[StageRow]:
    stages = chain.config.compress.stages
    rows = [_start_row(chain)]
    prior, skipped = chain.source, 0
    for index, stage in enumerate(stages):
        stage_run = _nested(chain, index, stage, prior)
        if _is_done(stage_run, index, stage):
            skipped += 1
        else:
            _run_stage(chain, index, stage, stage_run, prior, rows[0])
        rows += read_rows(stage_run.path / "row.json")
        prior = stage_run
    table = chain.run.path / TABLE
    if skipped == len(stages) and table.is_file() and chain.run.model_dir.is_dir():
        return read_rows(table)
    save_model(load_model(prior.model_dir, trust=chain.trust), chain.run.model_dir)
    keep_tokenizer(chain.run.model_dir, chain.data.spec.tokenizer)
    chain.run.record("model")
    stop_flag.raise_if_set("all stages are complete")
    write_rows(table, _measured(chain, rows))
    chain.run.record(TABLE)
    return read_rows(table)


def _start_row(chain: Chain) -> StageRow:
    path = chain.run.path / START_ARTIFACT
    if START_ARTIFACT in chain.run.manifest.files:
        chain.run.verify_files("exports")
    else:
        _export(chain, chain.teacher, chain.source, path)
        chain.run.record("exports")
    return describe_file(START_ROW, chain.teacher, path, START_ARTIFACT, chain.config, chain.data)


def _nested(chain: Chain, index: int, stage: Stage, prior: Run) -> Run:
    parents = tuple(dict.fromkeys((prior.as_parent(), chain.source.as_parent())))
    stage_run = chain.run.nested(chain.stage_path(index, stage), config=chain.config, parents=parents)
    _check_parent(stage_run, parents[0])
    return stage_run


def _check_parent(stage_run: Run, parent: Parent) -> None:
    recorded = stage_run.manifest.parents[0]
    if recorded.sha256 != parent.sha256:
        raise UsageError(
            f"{stage_run.path} was made from another model (of {recorded.name}/{recorded.id}, "
            f"{recorded.sha256[:12]}) than {parent.name}/{parent.id} now holds ({parent.sha256[:12]}); "
            "remove the folder to make it again"
        )


def _is_done(stage_run: Run, index: int, stage: Stage) -> bool:
    if stage_run.manifest.status != "complete":
        return False
    label = stage_label(index, stage.method)
    try:
        stage_run.verify_files()
    except UsageError as error:
        get_console().warn(f"{label}: made again: {error}")
        return False
    get_console().info(f"{label}: already complete")
    return True


def _run_stage(chain: Chain, index: int, stage: Stage, stage_run: Run, prior: Run, start: StageRow) -> None:
    label = stage_label(index, stage.method)
    stop_flag.raise_if_set(f"{label} had not begun")
    with stage_run.attempt():
        get_console().info(f"{label}: {stage_run.path}")
        context = StageContext(chain.config, stage, stage_run, chain.data, chain.teacher, index, chain.run, chain.trust)
        model = METHODS.resolve(stage.method)(load_model(prior.model_dir, trust=chain.trust), context)
        save_model(model, stage_run.model_dir)
        keep_tokenizer(stage_run.model_dir, chain.data.spec.tokenizer)
        stage_run.record("model")
        _export(chain, model, stage_run, stage_run.path / ARTIFACT)
        stage_run.record("exports")
        stop_flag.raise_if_set(f"{label} is trained and has yet to be measured")
        row = _describe(chain, label, model, stage_run)
        *shown, row = _measured(chain, [start, row])
        write_rows(stage_run.path / "row.json", [row])
        stage_run.record("row.json")
        stage_run.finish("complete", error=None, **row.metrics())
    get_console().info(summary(row, shown[0]))


def _describe(chain: Chain, label: str, model: Model, stage_run: Run) -> StageRow:
    path = stage_run.path / ARTIFACT
    file = path.relative_to(chain.run.path).as_posix()
    return describe_file(label, model, path, file, chain.config, chain.data)


def _export(chain: Chain, model: Model, origin: Run, path: Path) -> None:
    parent = origin.as_parent()
    source = {"name": parent.name, "id": parent.id, "sha256": parent.sha256,
              "config": portable(chain.config)}  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    export_fn = FORMATS.resolve(chain.config.export.format)
    export_fn(model, chain.data, path, config=chain.config.export, source=source, task=chain.config.task)


def _measured(chain: Chain, rows: list[StageRow]) -> list[StageRow]:
    """All rows, the start's eager module after the start, timed in turns."""
    weights = chain.source.model_dir / "weights.safetensors"
    eager = dataclasses.replace(rows[0], name=EAGER_ROW, size_bytes=weights.stat().st_size, file="")
    targets = {row.name: file_forward(chain.run.path / row.file, chain.config) for row in rows}
    inputs = chain.teacher.structure.inputs
    return with_latency([rows[0], eager, *rows[1:]], {**targets, EAGER_ROW: chain.eager}, inputs, chain.config)
