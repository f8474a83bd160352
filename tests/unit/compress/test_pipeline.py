"""Chains of stages on real data, small enough for one thread: what they leave, skip, refuse and resume."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from scaledl.compress import stage as stage_module
from scaledl.compress.pipeline import check_chain, read_rows, run_chain
from scaledl.compress.rows import StageRow
from scaledl.config import Config, replace
from scaledl.config.schema import CompressConfig, PruneConfig, QATConfig
from scaledl.data import DataModule, build_data
from scaledl.errors import UsageError
from scaledl.evaluate import evaluate_split
from scaledl.models.quantized import prepare_ptq
from scaledl.models.structure import Model, load_model, new_model, save_model
from scaledl.run import Run
from scaledl.runtime import load
from scaledl.train import fit

pytestmark = pytest.mark.unit

RESNET = {"family": "resnet", "depth": 8, "width": 8}
RECIPE = [
    {"method": "distill", "epochs": 2},
    {"method": "prune", "round_to": 2, "epochs": 1},
    {"method": "qat", "epochs": 1},
]


def make_config(root: Path, recipe: list[dict[str, Any]] = RECIPE, **changes: Any) -> Config:
    return replace(
        Config(),
        {
            "run.root": str(root),
            "model": RESNET,
            "data.batch_size": 256,
            "trainer.epochs": 3,
            "trainer.precision": "fp32",
            "trainer.num_threads": 1,
            "optimizer.lr": 0.01,
            "export.latency_batch_sizes": [1],
            "compress.stages": recipe,
            **changes,
        },
    )


@pytest.fixture(scope="module")
def data() -> DataModule:
    torch.set_num_threads(1)
    return build_data(Config().data, seed=0)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, data: DataModule) -> Run:
    root = tmp_path_factory.mktemp("source")
    config = make_config(root)
    run = Run.create(root, "teacher", "1", config=config)
    run.begin()
    model = new_model(config.model, data.spec.in_shape, data.spec.num_classes, seed=0)
    keep(run, fit(config, run, data, model).model)
    return run


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, source: Run, data: DataModule) -> Run:
    """A finished chain of all three training methods; tests only read it."""
    root = tmp_path_factory.mktemp("chain")
    run = new_chain(root)
    run_chain(source, run.config, run, data)
    return run


def keep(run: Run, model: Model) -> None:
    save_model(model, run.model_dir)
    run.record("model")
    run.finish("complete")


def new_chain(root: Path, recipe: list[dict[str, Any]] = RECIPE, **changes: Any) -> Run:
    run = Run.create(root, "teacher", "chain", kind="compress", config=make_config(root, recipe, **changes))
    run.begin()
    return run


def stage_run(run: Run, name: str) -> Run:
    return Run.open(run.stages / name)


def digests(directory: Path) -> dict[str, str]:
    return {
        str(p.relative_to(directory)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(directory.rglob("*"))
        if p.is_file()
    }


def test_every_stage_is_a_run_with_model_and_export(chain: Run, source: Run) -> None:
    names = ["01-distill", "02-prune", "03-qat"]
    assert sorted(p.name for p in chain.stages.iterdir()) == names
    prior = source
    for name in names:
        run = stage_run(chain, name)
        assert (run.kind, run.manifest.status) == ("stage", "complete")
        run.verify_files()
        for file in ("start/structure.json", "model/weights.safetensors", "exports/model.ts", "row.json"):
            assert file in run.manifest.files
        assert run.manifest.parents[0] == prior.as_parent()
        assert run.manifest.metrics["test_accuracy"] > 0.1
        prior = run


def test_the_chains_model_is_the_last_stages(chain: Run) -> None:
    assert digests(chain.model_dir) == digests(chain.stages / "03-qat" / "model")
    chain.verify_files("model")
    chain.verify_files("table.json")


def test_history_grows_from_stage_to_stage(chain: Run) -> None:
    history = [
        [change["op"] for change in load_model(chain.stages / name / "model").structure.history]
        for name in ("01-distill", "02-prune", "03-qat")
    ]
    assert history == [[], ["resize"], ["resize", "quantize"]]


def test_the_table_holds_what_the_files_are(chain: Run, source: Run, data: DataModule) -> None:
    rows = read_rows(chain.path / "table.json")
    names = ["start", "start (eager)", "stage 1 distill", "stage 2 prune", "stage 3 qat"]
    assert [row.name for row in rows] == names
    for row in rows:
        assert row.latency_ms[1] > 0
        if not row.file:
            continue
        path = chain.path / row.file
        assert row.size_bytes == path.stat().st_size
        result = evaluate_split(load(path).predict, data, chain.config, "test")
        assert (row.metric, row.score) == ("accuracy", result.accuracy)
    assert rows[0].params == sum(p.numel() for p in load_model(source.model_dir).module.parameters())
    assert rows[1].size_bytes == (source.model_dir / "weights.safetensors").stat().st_size
    assert rows[0].params > rows[2].params > rows[3].params == rows[4].params
    assert rows[0].macs > rows[2].macs > rows[3].macs == rows[4].macs
    assert load(chain.path / rows[4].file).engine == "x86"
    assert load(chain.path / rows[3].file).engine is None


def test_the_trained_result_has_its_ranges_frozen(chain: Run) -> None:
    module = load_model(chain.model_dir).module
    before = {k: v.clone() for k, v in module.state_dict().items()}
    enabled = [v for k, v in before.items() if k.endswith("observer_enabled")]
    assert enabled
    assert not any(bool(v.any()) for v in enabled)
    module(torch.randn(8, 1, 8, 8) * 100)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


def test_the_same_command_again_does_nothing(
    chain: Run, source: Run, data: DataModule, capfd: pytest.CaptureFixture[str]
) -> None:
    before = digests(chain.stages), (chain.path / "table.json").read_bytes()
    rows = run_chain(source, chain.config, chain, data)
    assert (digests(chain.stages), (chain.path / "table.json").read_bytes()) == before
    assert rows == read_rows(chain.path / "table.json")
    output = "".join(capfd.readouterr())
    for label in ("stage 1 distill", "stage 2 prune", "stage 3 qat"):
        assert f"{label}: already complete" in output


def test_a_changed_recipe_is_refused_by_key_and_value(chain: Run, source: Run, data: DataModule) -> None:
    recipe = [RECIPE[0], {**RECIPE[1], "ratio": 0.25}, RECIPE[2]]
    changed = make_config(Path(chain.config.run.root), recipe)
    with pytest.raises(UsageError, match=r"02-prune was .*compress\.stages\[1\]\.ratio \(was 0\.5, is 0\.25\)"):
        run_chain(source, changed, chain, data)
    changed = replace(chain.config, {"optimizer.lr": 0.5})
    with pytest.raises(UsageError, match=r"01-distill was .*optimizer\.lr \(was 0\.01, is 0\.5\)"):
        run_chain(source, changed, chain, data)


def test_settings_that_change_no_result_may_change(chain: Run, source: Run, data: DataModule) -> None:
    changed = replace(chain.config, {"trainer.keep_last": 7, "run.name": "other"})
    assert len(run_chain(source, changed, chain, data)) == 5


class Stop(pl.Callback):
    """Ends the process's work in the middle, as a crash would, right after a checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("stopped here")


@pytest.mark.parametrize("method", ["prune", "qat"])
def test_a_stage_that_was_cut_off_ends_with_the_same_bits(
    method: str, source: Run, data: DataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = [{"method": method, "epochs": 2, **({"round_to": 2} if method == "prune" else {})}]
    whole = new_chain(tmp_path / "whole", recipe)
    run_chain(source, whole.config, whole, data)

    cut = new_chain(tmp_path / "cut", recipe, **{"trainer.checkpoint_every_n_steps": 1})
    steps = -(-len(data.train) // 256)
    for step in (2, steps + 2):

        def stopping(*args: Any, step: int = step, callbacks: Any = (), **kwargs: Any) -> Any:
            return fit(*args, callbacks=[*callbacks, Stop(step)], **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(stage_module, "fit", stopping)
            with pytest.raises(RuntimeError, match="stopped here"):
                run_chain(source, cut.config, cut, data)
        assert stage_run(cut, f"01-{method}").manifest.status == "failed"
        assert list((cut.stages / f"01-{method}" / "checkpoints").glob("*.ckpt"))
    run_chain(source, cut.config, cut, data)
    assert stage_run(cut, f"01-{method}").manifest.attempts == 3
    assert digests(cut.model_dir) == digests(whole.model_dir)


DAMAGED = [[{"method": "ptq", "samples": 64}], [{"method": "prune", "round_to": 2, "epochs": 1}]]


@pytest.mark.parametrize("recipe", DAMAGED, ids=lambda recipe: recipe[0]["method"])
def test_a_damaged_stage_is_made_again(
    recipe: list[dict[str, Any]], source: Run, data: DataModule, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = new_chain(tmp_path, recipe)
    run_chain(source, run.config, run, data)
    expected = digests(run.model_dir)
    artifact = next(run.stages.glob("01-*/exports/model.ts"))
    artifact.write_bytes(artifact.read_bytes()[:-1])
    run_chain(source, run.config, run, data)
    method = recipe[0]["method"]
    assert f"stage 1 {method}: made again" in "".join(capfd.readouterr())
    stage_run(run, f"01-{method}").verify_files()
    assert digests(run.model_dir) == expected


def test_ptq_calibrates_on_the_training_split_alone(
    source: Run, data: DataModule, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = new_chain(tmp_path, [{"method": "ptq", "samples": 10_000_000}])
    rows = run_chain(source, run.config, run, data)
    assert f"calibrated on {len(data.train):,} training samples" in "".join(capfd.readouterr())
    assert abs(rows[0].score - rows[-1].score) < 0.05
    assert not list(run.stages.rglob("*.ckpt"))
    assert load_model(run.model_dir).structure.history[-1]["mode"] == "ptq"


def test_a_replaced_source_is_noticed(source: Run, data: DataModule, tmp_path: Path) -> None:
    run = new_chain(tmp_path, [{"method": "ptq", "samples": 64}])
    run_chain(source, run.config, run, data)
    other = Run.create(tmp_path, "other", "1", config=source.config)
    keep(other, new_model(source.config.model, data.spec.in_shape, 10, seed=5))
    with pytest.raises(UsageError, match="01-ptq was made from another model"):
        run_chain(other, run.config, run, data)


# Recipes that cannot work: refused before anything is written.


def recipe_of(*stages: Any) -> CompressConfig:
    return CompressConfig.model_construct(stages=list(stages))


IMPOSSIBLE = {
    "empty": ({"stages": []}, r"compress\.stages: empty"),
    "order": ({"stages": [{"method": "qat"}, {"method": "prune"}]}, "'prune' cannot follow 'qat'"),
    "larger student": ({"stages": [{"method": "distill", "student": {"depth": 56}}]}, "multiply-accumulates; allowed"),
    "other classes": (
        {"stages": [{"method": "distill", "student": {"depth": 8, "num_classes": 3}}]},
        r"compress\.stages\[0\]\.student\.num_classes: got 3; allowed: 10",
    ),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_a_recipe_that_cannot_work_writes_nothing(case: str, source: Run, data: DataModule, tmp_path: Path) -> None:
    compress, message = IMPOSSIBLE[case]
    run = new_chain(tmp_path)
    config = run.config.model_copy(update={"compress": unchecked(compress["stages"])})
    before = digests(tmp_path)
    with pytest.raises(UsageError, match=message):
        run_chain(source, config, run, data)
    assert digests(tmp_path) == before


def unchecked(stages: list[dict[str, Any]]) -> CompressConfig:
    """A recipe that the config's own check of the order has not seen."""
    parsed = [CompressConfig.model_validate({"stages": [stage]}).stages[0] for stage in stages]
    return recipe_of(*parsed)


def test_a_quantized_source_is_refused(source: Run, data: DataModule, tmp_path: Path) -> None:
    run = Run.create(tmp_path, "int8", "1", config=source.config)
    keep(run, prepare_ptq(load_model(source.model_dir), "x86"))
    config = source.config.model_copy(update={"compress": recipe_of(PruneConfig())})
    with pytest.raises(UsageError, match="its model is quantized already"):
        check_chain(run, config, data)


def test_other_data_than_the_models_is_refused(source: Run, data: DataModule, tmp_path: Path) -> None:
    run = Run.create(tmp_path, "three", "1", config=source.config)
    keep(run, new_model(source.config.model, (3, 8, 8), 10, seed=0))
    config = source.config.model_copy(update={"compress": recipe_of(QATConfig())})
    with pytest.raises(UsageError, match=r"digits has 10 classes and inputs \(1, 8, 8\)"):
        check_chain(run, config, data)


def test_a_damaged_source_is_refused(source: Run, data: DataModule, tmp_path: Path) -> None:
    run = Run.create(tmp_path, "damaged", "1", config=source.config)
    keep(run, load_model(source.model_dir))
    (run.model_dir / "weights.safetensors").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"weights\.safetensors is damaged"):
        check_chain(run, source.config, data)


def test_the_table_is_the_documented_json(chain: Run) -> None:
    content = json.loads((chain.path / "table.json").read_text())
    assert content["schema_version"] == 1
    assert [StageRow.from_json(row) for row in content["rows"]] == read_rows(chain.path / "table.json")
    assert list(content["rows"][0]["latency_ms"]) == ["1"]


def test_tables_that_a_library_keeps_for_the_process_do_not_hinder_training(
    tmp_path: Path, data: DataModule, cannot: Callable[[str], None]
) -> None:
    """BEiT makes its index of places once; what is made where the source is measured cannot be learned with."""
    if find_spec("transformers") is None:
        cannot("transformers is not installed")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    args = {**sizes, "patch_size": 4, "use_relative_position_bias": True}
    changes = {"model": {"family": "external", "name": "hf:beit", "args": args}, "data.limit": 10}
    recipe = [{"method": "prune", "round_to": 4, "epochs": 1}]
    source = Run.create(tmp_path, "beit", "1", config=make_config(tmp_path, recipe, **changes))
    source.begin()
    keep(source, new_model(source.config.model, data.spec.in_shape, data.spec.num_classes, seed=0))
    run = Run.create(tmp_path, "beit", "chain", kind="compress", config=source.config)
    run.begin()
    rows = run_chain(source, run.config, run, build_data(run.config.data, seed=0))
    assert rows[-1].params < rows[0].params
