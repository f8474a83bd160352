"""Which stages `compress` runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from scaledl.config import CompressConfig, ConfigError, load_config, parse_recipe
from scaledl.config.recipe import usual_recipe
from scaledl.config.schema import DistillConfig, PruneConfig, PTQConfig, QATConfig

pytestmark = pytest.mark.unit

NONE = CompressConfig()
CHAIN = CompressConfig(stages=[DistillConfig(epochs=7), PruneConfig(ratio=0.3), PruneConfig(ratio=0.6), QATConfig()])


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def message_of(
    methods: list[str] | None,
    recipe: str | None = None,
    overrides: tuple[str, ...] = (),
    default: CompressConfig = NONE,
) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_recipe(methods, recipe, overrides, default)
    return str(caught.value)


def test_named_methods_take_the_configs_settings_or_their_own() -> None:
    found, rest = parse_recipe(["distill", "prune", "ptq"], None, [], CHAIN)
    assert found.stages == [DistillConfig(epochs=7), PruneConfig(ratio=0.3), PTQConfig()]
    assert rest == []
    assert parse_recipe(["distill,prune", "qat"], None, [], NONE)[0].stages == [
        DistillConfig(),
        PruneConfig(),
        QATConfig(),
    ]


def test_without_names_the_config_is_the_chain() -> None:
    assert parse_recipe(None, None, [], CHAIN) == (CHAIN, [])


def test_overrides_for_a_method_a_stage_and_the_config() -> None:
    overrides = ["prune.ratio=0.5", "optimizer.lr=1", "stages.2.ratio=4e-1", "compress.stages.0.epochs=2", "x"]
    found, rest = parse_recipe(None, None, overrides, CHAIN)
    assert found.stages == [DistillConfig(epochs=2), PruneConfig(ratio=0.5), PruneConfig(ratio=0.4), QATConfig()]
    assert rest == ["optimizer.lr=1", "x"]


def test_whole_list_as_override() -> None:
    assert parse_recipe(None, None, ["compress.stages=[{method: ptq}]"], NONE)[0].stages == [PTQConfig()]


def test_recipe_file_with_stages_or_a_config() -> None:
    Path("r.yaml").write_text("stages:\n  - {method: prune, ratio: 0.25}\n  - method: qat\n")
    Path("c.yaml").write_text(
        "model: {width: 8}\ncompress:\n  stages:\n  - {method: prune, ratio: 0.25}\n  - method: qat\n"
    )
    expected = [PruneConfig(ratio=0.25), QATConfig()]
    for name in ("r.yaml", "c.yaml"):
        assert parse_recipe(None, name, [], CHAIN)[0].stages == expected
    assert parse_recipe(["prune"], "r.yaml", ["prune.epochs=1"], CHAIN)[0].stages == [PruneConfig(ratio=0.25, epochs=1)]


BAD = [
    (
        ["prun"],
        (),
        "--method (command line): got 'prun'; allowed: one or more of distill, prune, ptq, qat; did you mean 'prune'?",
    ),
    (["QAT"], (), "got 'QAT'; allowed: one or more of distill, prune, ptq, qat; did you mean 'qat'?"),
    ([""], (), "--method (command line): got ''"),
    (["os:system"], (), "--method (command line): got 'os:system'"),
    (None, (), "command line: got no stage; allowed: --method with one or more of distill"),
    ([], (), "command line: got no stage"),
    (
        ["qat", "prune"],
        (),
        "compress.stages (command line): got qat, prune; allowed: an order that can work; 'prune' cannot",
    ),
    (
        ["prune"],
        ("prune.ratio=0",),
        "prune.ratio (command line): got 0; allowed: a number greater than 0 and less than 1",
    ),
    (["prune"], ("prune.ratio=1",), "prune.ratio (command line): got 1; allowed"),
    (["prune"], ("prune.ratio=-1",), "prune.ratio (command line): got -1; allowed"),
    (["prune"], ("prune.ratoi=0.1",), "prune.ratoi (command line): unknown key; did you mean 'prune.ratio'?"),
    (["prune"], ("stages.0.ratio=x",), "stages.0.ratio (command line): got the text 'x'; allowed: a number"),
    (["prune"], ("stages.3.ratio=0.1",), "compress.stages.3 (command line): got entry '3'; allowed: 0 to 0"),
    (["prune"], ("qat.lr=1",), "qat.lr (command line): there is no qat stage in this chain; allowed: keys of prune"),
    (["prune"], ("prune=1",), "prune (command line): got 'prune'; allowed: a key of the stage, such as prune.epochs=1"),
    (["prune"], ("prune.ratio",), "command line: got 'prune.ratio'; allowed: key=value; write prune.ratio=VALUE"),
]


@pytest.mark.parametrize(("methods", "overrides", "part"), BAD)
def test_bad_recipe_has_its_clear_error(methods: list[str] | None, overrides: tuple[str, ...], part: str) -> None:
    assert part in message_of(methods, None, overrides)


def test_all_problems_at_once_and_none_twice() -> None:
    message = message_of(["prune", "prune", "qta"], None, ("prune.ratio=0", "qat.lr=1", "y.z"))
    assert message.startswith("config error: 3 problems")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("run: {}\n", "stages (r.yaml:1): got no stages; allowed: a list of stages such as"),
        ("- prune\n", "r.yaml:1: got a list at the top"),
        ("stages: []\n", "got no stage"),
        ("stages:\n- {method: prune, ratio: 2}\n", "compress.stages.0.ratio (r.yaml:2): got 2"),
        ("stages:\n- {method: prune}\nstage: 3\n", "(r.yaml:3): unknown key; did you mean 'compress.stages'?"),
        ("stages: 3\n", "compress.stages (r.yaml:1): got 3; allowed: a list"),
        ("stages:\n- {method: pruen}\n", "compress.stages.0.method (r.yaml:2): got 'pruen'"),
    ],
)
def test_bad_recipe_file(text: str, part: str) -> None:
    Path("r.yaml").write_text(text)
    assert part in message_of(None, "r.yaml")


def test_missing_recipe_file() -> None:
    Path("recipe.yaml").write_text("stages: []")
    assert "recip.yaml: no such file; did you mean 'recipe.yaml'?" in message_of(None, "recip.yaml")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([], ["--method", "distill,prune,qat"]),
        (["model.family=lstm"], ["--method", "distill,prune,ptq"]),
        (["model={family: external, name: 'timm:resnet18'}"], ["--method", "prune,qat"]),
        (["model={family: external, name: 'my.nets:Net'}"], ["--method", "prune,qat", "--trust"]),
        (["compress.stages=[{method: ptq}]", "task.loss=my.losses:mine"], ["--trust"]),
    ],
)
def test_the_usual_recipe_is_one_that_the_model_can_have(overrides: list[str], words: list[str]) -> None:
    assert usual_recipe(load_config(None, overrides)) == words
