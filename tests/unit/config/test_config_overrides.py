"""`key=value` on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaledl.config import Config, ConfigError, load_config, replace
from scaledl.config.schema import DistillConfig, MLPConfig, PruneConfig, ResNetConfig

pytestmark = pytest.mark.unit

STAGES = "compress.stages=[{method: prune, ratio: 0.2}, {method: qat}]"


def problems_of(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides)
    return [str(problem) for problem in caught.value.problems]


def test_values_are_yaml() -> None:
    config = load_config(
        None, ["optimizer.lr=3e-4", "trainer.compile=true", "optimizer={name: sgd}", "trainer.max_steps=7"]
    )
    assert (config.optimizer.name, config.optimizer.lr) == ("sgd", 3e-4)
    assert config.optimizer.settings() == {"weight_decay": 0.05, "momentum": 0.9, "nesterov": True}
    assert (config.trainer.compile, config.trainer.max_steps) == (True, 7)
    assert load_config(None, ["trainer.max_steps="]).trainer.max_steps is None


@pytest.mark.parametrize("path", ["a=b=c", "data #1", "a: b", "-x", "a\nb", "C:\\x", "~/x", "{a", "[x", "*", "é"])
def test_text_is_taken_as_it_stands_after_the_first_equals_sign(path: str) -> None:
    text = f'"{path}"' if path[0] in "{[*" else path
    assert load_config(None, [f"run.root={text}"]).run.root == path


@pytest.mark.parametrize(("text", "value"), [("4711", "4711"), ("007", "007"), ("1e3", "1e3"), ("'12'", "12")])
def test_numbers_are_text_where_text_is_wanted(text: str, value: str) -> None:
    assert load_config(None, [f"run.id={text}"]).run.id == value


def test_later_overrides_win_over_earlier_ones_and_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("trainer: {epochs: 3}")
    assert load_config(path, ["trainer.epochs=4", "trainer.epochs=5"]).trainer.epochs == 5


@pytest.mark.parametrize("order", [1, -1])
def test_another_family_drops_the_keys_of_the_old_one(tmp_path: Path, order: int) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("model: {family: resnet, depth: 8, width: 4}")
    config = load_config(path, ["model.family=mlp", "model.hidden=[3]"][::order])
    assert config.model == MLPConfig(family="mlp", hidden=[3])
    assert load_config(path, ["model.family=resnet", "model.width=5"]).model == ResNetConfig(depth=8, width=5)


def test_numbers_in_a_key_point_into_lists() -> None:
    config = load_config(None, [STAGES, "compress.stages.0.ratio=0.4", "export.latency_batch_sizes.1=32"])
    assert config.compress.stages[0] == PruneConfig(ratio=0.4)
    assert config.export.latency_batch_sizes == [1, 32]
    assert replace(config, {"compress.stages.0.method": "distill"}).compress.stages[0] == DistillConfig()


BAD = {
    "no equals sign": (
        ["optimizer.lr"],
        "command line: got 'optimizer.lr'; allowed: key=value; write optimizer.lr=VALUE",
    ),
    "second file": (["b.yaml"], "one config file is taken"),
    "empty key": (["=3"], "command line: got '=3'; allowed: key=value with a dotted key"),
    "empty part": (["optimizer..lr=3"], "command line: got 'optimizer..lr=3'"),
    "empty": ([""], "command line: got ''; allowed: key=value"),
    "very deep": (["a." * 5000 + "b=1"], "command line: got 'a.a."),
    "bare key": (["lr=0.1"], "lr (command line): unknown key; did you mean 'optimizer.lr'?"),
    "bare upper case": (["LR=0.1"], "LR (command line): unknown key; did you mean 'optimizer.lr'?"),
    "wrong case": (["optimizer.Lr=0.1"], "optimizer.Lr (command line): unknown key; did you mean 'optimizer.lr'?"),
    "hyphen": (["data.batch-size=1"], "did you mean 'data.batch_size'?"),
    "flag": (["--optimizer.lr=0.1"], "did you mean 'optimizer'?"),
    "typo": (
        ["trainer.epoch=1"],
        "trainer.epoch (command line): unknown key; did you mean 'trainer.epochs'? allowed: epochs",
    ),
    "other section": (["trainer.lr=1"], "trainer.lr (command line): unknown key; did you mean 'optimizer.lr'?"),
    "unknown section": (["optimiser.lr=1"], "optimiser (command line): unknown key; did you mean 'optimizer'?"),
    "like nothing": (["qqq=1"], "qqq (command line): unknown key; allowed: run, data, model"),
    "below a value": (
        ["optimizer.lr.x=1"],
        "optimizer.lr (command line): got {x: 1}; allowed: a number greater than 0",
    ),
    "section as value": (["optimizer=3"], "optimizer (command line): got 3; allowed: a section with the keys name, lr"),
    "base": (["base=x.yaml"], "base (command line): 'base' can stand in a config file only"),
    "tag": (["run.name=!!python/object/apply:os.system [ls]"], "run.name (command line): got the YAML tag"),
    "open bracket": (["model.hidden=[3"], "model.hidden (command line): got '[3', which is not valid YAML"),
    "duplicate": (["optimizer={lr: 1, lr: 2}"], "optimizer.lr (command line): key given twice"),
    "no entry": (
        [STAGES, "compress.stages.2.ratio=1"],
        "compress.stages.2 (command line): got entry '2'; allowed: 0 to 1",
    ),
    "no entries": (
        ["compress.stages.0.ratio=1"],
        "compress.stages has 0 entries; to set all of them: compress.stages=",
    ),
    "no index": ([STAGES, "compress.stages.first.ratio=1"], "got entry 'first'; allowed: 0 to 1"),
    "negative index": ([STAGES, "compress.stages.-1.ratio=1"], "got entry '-1'; allowed: 0 to 1"),
    "no list": (["model.family=mlp", "model.hidden.0=1"], "model.hidden (command line): got {0: 1}; allowed: a list"),
    "lone surrogate": (["run.root=\udcff"], "run.root (command line): got '\\udcff'; allowed: text"),
    "huge number": (
        [f"run.seed={'9' * 300}"],
        "got a whole number of about 300 digits; allowed: a whole number from 0",
    ),
}


@pytest.mark.parametrize(("overrides", "part"), BAD.values(), ids=BAD)
def test_bad_override_has_its_clear_error(overrides: list[str], part: str) -> None:
    problems = problems_of(*overrides)
    assert any(part in problem for problem in problems)
    assert all(len(problem) < 1000 for problem in problems)


def test_all_come_at_once() -> None:
    problems = problems_of("lr=1", "x", "optimizer.lr=0", "=", "trainer.epochs=0")
    assert len(problems) == 5


def outcome_of(overrides: list[str]) -> Config | ConfigError:
    """The config or its error; any other exception fails the test."""
    try:
        return load_config(None, overrides)
    except ConfigError as error:
        return error


@settings(deadline=None)
@given(st.lists(st.text(max_size=40), max_size=4))
def test_any_words_give_a_config_or_a_config_error(words: list[str]) -> None:
    outcome = outcome_of(words)
    if isinstance(outcome, ConfigError):
        assert len(outcome.problems) >= 1
        assert len(str(outcome).splitlines()) <= len(outcome.problems) + 1


KEYS = st.sampled_from(["optimizer.lr", "model", "compress.stages", "compress.stages.0", "run.name", "trainer.epochs"])
VALUES = st.text(alphabet="[]{}:,&*!#'\"-?.0123 abmethodprune\n\t\\", max_size=30)


@settings(deadline=None)
@given(st.lists(st.tuples(KEYS, VALUES), max_size=4))
def test_any_values_give_a_config_or_a_config_error(pairs: list[tuple[str, str]]) -> None:
    outcome = outcome_of([f"{key}={value}" for key, value in pairs])
    assert isinstance(outcome, Config) or outcome.problems


def test_replace_takes_dotted_keys_sections_and_mappings_in_any_order() -> None:
    config = load_config(None, [STAGES])
    changed = replace(
        config, {"model.hidden": [9], "model.family": "mlp", "compress.stages.0.ratio": 0.3, "data": {"batch_size": 5}}
    )
    assert changed.model == MLPConfig(family="mlp", hidden=[9])
    assert changed.compress.stages[0] == PruneConfig(ratio=0.3)
    assert changed.data.batch_size == 5
    assert replace(changed, {"compress": config.compress, "model": ResNetConfig(depth=8)}).model == ResNetConfig(
        depth=8
    )
    assert config == load_config(None, [STAGES])


def test_replace_validates() -> None:
    with pytest.raises(ConfigError) as caught:
        replace(Config(), {"optimizer.lr": -1, "lr": 2, "trainer.epochs": 1.5})
    assert {problem.key for problem in caught.value.problems} == {"optimizer.lr", "lr", "trainer.epochs"}
    assert "optimizer.lr (change): got -1; allowed: a number greater than 0" in str(caught.value)


def test_base_config_lies_below_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("trainer: {epochs: 3}")
    base = replace(Config(), {"run.name": "old", "trainer.epochs": 8, "data.batch_size": 9})
    config = load_config(path, ["data.eval_batch_size=2"], base=base)
    assert (config.run.name, config.trainer.epochs, config.data.batch_size, config.data.eval_batch_size) == (
        "old",
        3,
        9,
        2,
    )
