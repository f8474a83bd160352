"""The verbs as functions: what they refuse before anything is done, and what a failure leaves."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pydantic
import pytest
import pytorch_lightning  # noqa: F401  it sets a variable when it is imported, which is no leak of a test
import yaml

from scaledl import api
from scaledl.api import running
from scaledl.config import Config, portable, replace
from scaledl.config.schema import DataConfig
from scaledl.data import RawData, build_data
from scaledl.data.digits import load_digits
from scaledl.errors import ScaledlError, UsageError
from scaledl.models.quantized import calibrating, prepare_ptq
from scaledl.models.structure import load_model, new_model, save_model
from scaledl.run import Run
from scaledl.runtime import load

pytestmark = pytest.mark.unit

STAGES = [{"method": "ptq"}]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    model = {"family": "mlp", "hidden": [8]}
    changes = {"run.root": str(tmp_path / "runs"), "run.name": "n", "run.id": "i", "model": model}
    return replace(Config(), {**changes, "trainer.epochs": 1, "trainer.num_threads": 1, "trainer.precision": "fp32"})


def finished(config: Config) -> Run:
    """A complete run, which holds no real model."""
    run = Run.create(Path(config.run.root), "n", "i", config=config)
    run.begin()
    run.model_dir.mkdir()
    (run.model_dir / "weights.safetensors").write_bytes(b"not loaded by anything here")
    run.record("model")
    run.finish("complete", test_accuracy=0.5)
    return run


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"run.seed": 3}, r"run\.seed \(was 0, is 3\)"),
        ({"optimizer.lr": 0.5}, r"optimizer\.lr \(was 0\.001, is 0\.5\)"),
        ({"data.batch_size": 7, "trainer.epochs": 9}, r"data\.batch_size .*, trainer\.epochs "),
    ],
)
def test_another_config_under_the_same_id(config: Config, changes: dict[str, Any], text: str) -> None:
    finished(config)
    with pytest.raises(UsageError, match=text):
        api.train(replace(config, changes))


def test_a_run_of_an_older_scaledl_goes_on_although_its_config_has_fewer_keys(config: Config) -> None:
    run = api.train(config)
    newer = [("trainer", "profiler"), ("trainer", "limit_val_batches"), ("data", "limit"), ("run", "seed")]
    stored = yaml.safe_load((run.path / "config.yaml").read_text())
    manifest = json.loads((run.path / "manifest.json").read_text())
    for section, key in newer:
        stored.get(section, {}).pop(key, None)
        del manifest["config"][section][key]
    (run.path / "config.yaml").write_text(yaml.safe_dump(stored))
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    assert api.train(config) == run
    with pytest.raises(UsageError, match=r"changed: trainer\.epochs \(was 1, is 2\)\. "):
        api.train(replace(config, {"trainer.epochs": 2}))
    assert api.train(replace(config, {"trainer.epochs": 2}), allow_changes=True).manifest.attempts == 2


def test_a_recipe_keeps_its_id_when_keys_with_defaults_are_added(config: Config) -> None:
    run, recipe = api.train(config), replace(config, {"compress.stages": [{"method": "prune", "ratio": 0.25}]})
    known = running._recipe_id(run, run.as_parent(), recipe)
    newer = pydantic.create_model("Newer", __base__=type(recipe.trainer), added_later=(int, 3))
    later = recipe.model_copy(update={"trainer": newer(**recipe.trainer.model_dump())})
    assert later.trainer.model_dump()["added_later"] == 3
    assert running._recipe_id(run, run.as_parent(), later) == known
    other = replace(recipe, {"compress.stages.0.ratio": 0.5})
    assert running._recipe_id(run, run.as_parent(), other) != known


def test_one_batch_and_all_batches_have_ids_of_their_own() -> None:
    one = replace(Config(), {"trainer.limit_train_batches": 1})
    assert running._digest(one) != running._digest(Config())


def test_sections_of_defaults_alone_have_ids_of_their_own() -> None:
    """Their names are defaults as well."""
    families = [Config.model_validate({"model": {"family": family}}) for family in ("mlp", "vit", "resnet")]
    recipes = [replace(Config(), {"compress.stages": [{"method": method}]}) for method in ("prune", "qat")]
    assert len({running._digest(config) for config in (*families, *recipes)}) == 5


def test_changes_that_are_allowed_become_the_run_s_own(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    """More epochs than the run was complete with, at another rate and in smaller micro-batches."""
    run = api.train(config)
    changes = {"trainer.epochs": 2, "optimizer.lr": 0.01, "trainer.accumulate": 4}
    with pytest.raises(UsageError, match="--allow-changes goes on with them"):
        api.train(replace(config, changes))
    assert api.train(replace(config, changes), allow_changes=True) == run
    assert "goes on with another config: optimizer.lr (was 0.001, is 0.01), trainer.accumulate (was 1" in (
        capsys.readouterr().err
    )
    assert run.config.trainer.epochs == run.manifest.config["trainer"]["epochs"] == 2
    steps = [json.loads(line)["step"] for line in run.metrics_file.read_text().splitlines()]
    assert (run.manifest.attempts, max(steps)) == (2, 22)
    assert json.loads((run.checkpoints / "settings.json").read_text())["accumulate"] == 4


def test_what_changes_no_weight_may_change(config: Config) -> None:
    run = finished(config)
    free = {"trainer.keep_last": 5, "trainer.log_every_n_steps": 1, "compress.stages": STAGES, "data.download": False}
    assert api.train(replace(config, free)) == run


def test_a_complete_run_that_was_damaged_is_not_taken_for_complete(config: Config) -> None:
    (finished(config).model_dir / "weights.safetensors").write_bytes(b"changed")
    with pytest.raises(UsageError, match=r"weights\.safetensors"):
        api.train(config)


def test_other_data_fail_the_attempt_and_leave_a_report(config: Config) -> None:
    run = Run.create(Path(config.run.root), "n", "i", config=config)
    run.update(data_fingerprint="0" * 64)
    with pytest.raises(UsageError, match=r"data\.source: digits is not what .* instead of 000000000000"):
        api.train(config)
    assert run.manifest.status == "failed"
    assert "is not what" in (run.path / "report.html").read_text()


def test_a_report_that_cannot_be_written_hides_nothing(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(run: Run, root: Path) -> Path:
        raise ScaledlError("disk full")

    monkeypatch.setattr("scaledl.report.write_report", full)
    run = Run.create(Path(config.run.root), "n", "i", config=config)
    run.update(data_fingerprint="0" * 64)
    with pytest.raises(UsageError, match=r"data\.source"):
        api.train(config)
    assert "no report: disk full" in capsys.readouterr().err


def test_a_run_in_use_is_left_alone(config: Config) -> None:
    holder = Run.create(Path(config.run.root), "n", "i", config=config)
    holder.begin()
    with pytest.raises(UsageError, match="in use"):
        api.train(config)
    assert holder.state == "running"
    assert not (holder.path / "report.html").exists()
    holder.finish("failed")


def test_a_config_that_does_not_fit_its_data_leaves_no_run(config: Config) -> None:
    with pytest.raises(UsageError, match=r"model\.num_classes: got 7, the data has 10 classes"):
        api.train(replace(config, {"model.num_classes": 7}))
    assert not (Path(config.run.root) / "n").exists()


@pytest.fixture
def trained(config: Config) -> Run:
    return untrained(config)


def untrained(config: Config) -> Run:
    """A complete run with a real model, which never saw a sample."""
    data = build_data(config.data, config.run.seed)
    run = Run.create(Path(config.run.root), "n", "i", config=config)
    run.begin()
    run.update(data_fingerprint=data.spec.fingerprint)
    save_model(new_model(config.model, data.spec.in_shape, 10, 0), run.model_dir)
    run.record("model")
    run.finish("complete", test_accuracy=0.1)
    return run


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"run.seed": 1}, r"^run\.seed \(was 0, is 1\): "),
        ({"data.val_fraction": 0.2, "data.batch_size": 8}, r"^data\.val_fraction \(was 0\.1, is 0\.2\): "),
    ],
)
def test_compress_names_the_keys_that_change_the_data(
    config: Config, trained: Run, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(UsageError, match=text):
        api.compress(trained, replace(config, {**changes, "compress.stages": STAGES}))


def ids_of_trainings(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Of every run that is to be trained, and is not."""
    ids: list[str | None] = []

    def train(config: Config) -> Run:
        ids.append(config.run.id)
        raise UsageError("far enough")

    monkeypatch.setattr("scaledl.api.running.train", train)
    return ids


def test_one_training_serves_every_recipe(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = ids_of_trainings(monkeypatch)
    start = replace(config, {"run.id": None, "compress.stages": STAGES})
    two = [{"method": "prune"}, {"method": "qat"}]
    for changes in ({}, {"compress.stages": two}, {"export.latency_threads": 2}, {"run.seed": 1}):
        with pytest.raises(UsageError, match="far enough"):
            api.chain(replace(start, changes))
    assert ids[0] == ids[1] == ids[2] != ids[3]


def test_a_chain_goes_on_on_another_layout(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an id of its own, its id follows from the config: not from how many ranks happen to work on it."""
    ids = ids_of_trainings(monkeypatch)
    layouts = {"trainer.devices": 2, "trainer.strategy": "ddp", "trainer.hang_seconds": None, "data.num_workers": 1}
    for changes in ({}, layouts, {"optimizer.lr": 0.5}):
        with pytest.raises(UsageError, match="far enough"):
            api.chain(replace(config, {"run.id": None, "compress.stages": STAGES, **changes}))
    assert ids[0] == ids[1] != ids[2]


def test_a_quantized_run_is_evaluated_as_int8(config: Config, trained: Run, tmp_path: Path) -> None:
    run = Run.create(Path(config.run.root), "n", "q", kind="compress", config=replace(config, {"run.id": "q"}))
    run.begin()
    data = build_data(config.data, config.run.seed)
    prepared = prepare_ptq(load_model(trained.model_dir), "x86")
    with calibrating(prepared.module):
        prepared.module(next(iter(data.eval_loader("train", 64))).x)
    save_model(prepared, run.model_dir)
    run.record("model")
    run.finish("complete")
    converted, by_module, _ = api.evaluate(str(run.path), tmp_path)
    assert converted == f"{run.path} (converted to int8)"
    artifact, _ = api.export(run)
    exported, by_file, _ = api.evaluate(str(run.path), tmp_path)
    assert exported == str(artifact.path)
    assert by_file.loss == pytest.approx(by_module.loss, abs=1e-6)


def test_no_folder_of_this_machine_leaves_with_a_file(config: Config, tmp_path: Path) -> None:
    here = replace(config, {"data.source": "mnist", "data.root": str(tmp_path)})
    content = portable(here)
    assert str(tmp_path) not in str(content)
    assert Config.model_validate(content) == replace(here, {"run.root": "runs", "data.root": None})


def test_an_exported_file_carries_no_folder_and_finds_its_data(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_folder(config: DataConfig) -> RawData:
        if config.root != str(tmp_path):
            raise UsageError(f"data.root: got {config.root}")
        return load_digits(config)

    monkeypatch.setattr("scaledl.data.mnist.load_mnist", in_folder)
    run = untrained(replace(config, {"data.source": "mnist", "data.root": str(tmp_path)}))
    for path in (api.export(run)[0].path, api.export(run, tmp_path / "moved.ts")[0].path):
        source = load(path).manifest["source"]["config"]
        assert (source["run"]["root"], source["data"]["root"]) == ("runs", None)
        name, result, _ = api.evaluate(str(path), tmp_path / "runs")
        assert (name, result.count) == (str(path), 359)
    with pytest.raises(UsageError, match=r"data\.root: got None"):
        api.evaluate(str(path), tmp_path / "elsewhere")


@pytest.mark.parametrize("verb", ["compress", "chain"])
def test_no_recipe(config: Config, verb: str) -> None:
    with pytest.raises(UsageError, match="recipe"):
        api.chain(config) if verb == "chain" else api.compress(finished(config), config)


def test_compress_refuses_another_model_than_the_source(config: Config) -> None:
    source = finished(config)
    with pytest.raises(UsageError, match=r"model\.hidden \(was \[8\], is \[4\]\)"):
        api.compress(source, replace(config, {"model.hidden": [4], "compress.stages": STAGES}))
    assert [path.name for path in source.path.parent.iterdir() if not path.is_symlink()] == ["i"]


def test_compress_refuses_a_source_without_a_model(config: Config) -> None:
    source = Run.create(Path(config.run.root), "n", "i", config=config)
    with pytest.raises(UsageError, match="no saved model"):
        api.compress(source, replace(config, {"compress.stages": STAGES}))


def test_compress_refuses_a_run_of_another_source(config: Config) -> None:
    source = finished(config)
    asked = replace(config, {"compress.stages": STAGES, "run.id": "mine"})
    other = Run.create(Path(config.run.root), "n", "mine", kind="compress", config=asked)
    with pytest.raises(UsageError, match="made from another model"):
        api.compress(source, asked)
    assert other.manifest.attempts == 0


def test_export_refuses_what_it_cannot_write(config: Config, tmp_path: Path) -> None:
    run = finished(config)
    file = tmp_path / "there.ts"
    file.touch()
    for output, text in (
        (file, "--force"),
        (tmp_path, "is a folder"),
        (file / "x.ts", "is not a folder"),
        (Path("/proc/x.ts"), "cannot be written"),
    ):
        with pytest.raises(UsageError, match=text):
            api.export(run, output)
    assert file.read_bytes() == b""


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.ts"
    os.mkfifo(pipe)
    with pytest.raises(UsageError, match="a pipe or a device"):
        api.verify(pipe)
    with pytest.raises(UsageError, match="a pipe or a device"):
        api.evaluate(str(pipe), tmp_path)
    with pytest.raises(UsageError, match="a pipe or a device"):
        api.bench([str(pipe)], tmp_path, batch_sizes=[1], threads=1, rounds=3)


@pytest.mark.parametrize("target", ["a\0b", "x" * 5000])
def test_names_that_no_file_can_have(target: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        api.evaluate(target, tmp_path)
