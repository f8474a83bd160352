"""What the values of a config must be: every problem at once, in words that say how to mend it."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from pydantic import ValidationError

from scaledl.config import Config, ConfigError, Problem, config_keys, load_config, replace
from scaledl.config.registry import OPTIMIZERS, SOURCES
from scaledl.config.schema import CompressConfig, PruneConfig, PTQConfig, QATConfig, ResNetConfig, TrainerConfig
from scaledl.config.schema.data import COME_WITH_SCIKIT_LEARN

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def problems_of(text: str, *overrides: str) -> list[str]:
    Path("x.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config("x.yaml", overrides)
    return [str(problem) for problem in caught.value.problems]


FAMILY_NAMES = next(info.allowed for info in config_keys() if info.key == "model.family")
NUMBER = "a number greater than 0"
BAD_VALUES = [
    ("optimizer.lr", "0", f"got 0; allowed: {NUMBER}"),
    ("optimizer.lr", "-1", f"got -1; allowed: {NUMBER}"),
    ("optimizer.lr", ".nan", f"got nan; allowed: {NUMBER}; it must be finite"),
    ("optimizer.lr", ".inf", f"got inf; allowed: {NUMBER}; it must be finite"),
    ("optimizer.lr", "1e999", f"got inf; allowed: {NUMBER}"),
    ("optimizer.lr", "fast", f"got the text 'fast'; allowed: {NUMBER}"),
    ("optimizer.lr", "true", f"got true; allowed: {NUMBER}"),
    ("optimizer.lr", "[1]", f"got [1]; allowed: {NUMBER}"),
    ("optimizer.name", "adamm", f"got 'adamm'; allowed: one of {', '.join(OPTIMIZERS.names())}; did you mean 'adam'?"),
    ("optimizer.betas", "[0.9]", "got [0.9]; allowed: a list of 2: a number greater than 0 and less than 1"),
    ("optimizer.betas", "[0.9, 0.9, 0.9]", "got [0.9, 0.9, 0.9]; allowed: a list of 2"),
    ("data.batch_size", "0", "got 0; allowed: a whole number from 1 to 1000000"),
    ("data.batch_size", "64.0", "got 64.0; allowed: a whole number from 1 to 1000000; write 64"),
    ("data.batch_size", "64.5", "got 64.5; allowed: a whole number from 1 to 1000000"),
    ("data.batch_size", "true", "got true; allowed: a whole number"),
    ("data.val_fraction", "1", "got 1; allowed: a number greater than 0 and less than 1"),
    (
        "data.source",
        "digit",
        f"got 'digit'; allowed: one of {', '.join(SOURCES.names())}, or a folder of a "
        "prepared data set (with a slash: ./NAME), or one's own as path.to.module:name; did you mean 'digits'?",
    ),
    (
        "data.source",
        "os.system",
        f"got 'os.system'; allowed: one of {', '.join(SOURCES.names())}",
    ),
    (
        "data.source",
        "os:2",
        f"got 'os:2'; allowed: one of {', '.join(SOURCES.names())}",
    ),
    (
        "task.name",
        "Classification",
        "got 'Classification'; allowed: one of classification, ",
    ),
    ("task.label_smoothing", "1", "got 1; allowed: a number of at least 0 and less than 1"),
    ("model.family", "resnt", f"got 'resnt'; allowed: {FAMILY_NAMES}; did you mean 'resnet'?"),
    ("model.family", "[a]", f"got ['a']; allowed: {FAMILY_NAMES}"),
    ("model.depth", "21", "got 21; allowed: one of 8, 14, 18, 20, 32, 34, 44, 50, 56"),
    ("model.width", "-1", "got -1; allowed: a whole number from 1 to 1024 or null"),
    ("model.num_classes", "1", "got 1; allowed: a whole number from 2 to 1000000 or null"),
    ("trainer.precision", "fp16", "got 'fp16'; allowed: one of auto, fp32, bf16"),
    ("trainer.epochs", "-1", "got -1; allowed: a whole number from 1 to 1000000"),
    ("trainer.max_steps", "0", "got 0; allowed: a whole number of at least 1 or null"),
    ("trainer.ema_decay", "1", "got 1; allowed: a number greater than 0 and less than 1 or null"),
    ("run.name", "../x", "got '../x'; allowed: a name of at most 100 letters, digits"),
    ("run.name", "'a/b'", "got 'a/b'; allowed: a name"),
    ("run.id", "'a b'", "got 'a b'; allowed: a name"),
    ("run.root", "''", "got ''; allowed: text that is not empty"),
    ("run.root", "true", "got true; allowed: text that is not empty; put it in quotes"),
    ("run.seed", "-1", "got -1; allowed: a whole number from 0 to 2147483647"),
    ("export.latency_batch_sizes", "[]", "got []; allowed: a list of 1 to 8, each a whole number from 1 to 65536"),
    ("export.latency_batch_sizes", "3", "got 3; allowed: a list of 1 to 8"),
    ("export.format", "onnx", "got 'onnx'; allowed: torchscript"),
]


@pytest.mark.parametrize(("key", "value", "part"), BAD_VALUES)
def test_bad_value_says_key_line_got_and_allowed(key: str, value: str, part: str) -> None:
    section, name = key.split(".")
    problems = problems_of(f"# a comment\n{section}:\n  {name}: {value}\n")
    assert problems[0].startswith(f"{key} (x.yaml:3): {part}")
    assert len(problems) == 1


@pytest.mark.parametrize("source", sorted(COME_WITH_SCIKIT_LEARN))
def test_what_a_source_has_no_use_for_is_refused(source: str) -> None:
    [problem] = problems_of(f"data:\n  root: sets/x\n  source: {source}\n")
    assert problem == (
        f"data.root (x.yaml:2): got sets/x; allowed: null with data.source={source}, which comes with scikit-learn; "
        "change it or data.source (x.yaml:3)"
    )
    [problem] = problems_of("data:\n  source: mnist\n  args: {a: 1}\n")
    assert problem.startswith("data.args (x.yaml:3): got {'a': 1}; allowed: {} with data.source=mnist, which is no")


def test_another_source_leaves_the_folder_of_the_old_one_behind() -> None:
    old = replace(Config(), {"data": {"source": "ucr", "root": "sets/x"}})
    roots = [replace(old, {"data.source": source}).data.root for source in ("iris", "mnist")]
    assert roots == [None, "sets/x"]


STAGES = [
    ("{method: prune, ratio: 0}", "compress.stages.0.ratio", "got 0; allowed: a number greater than 0 and less than 1"),
    ("{method: prune, ratio: 1}", "compress.stages.0.ratio", "got 1; allowed: a number greater than 0 and less than 1"),
    ("{method: prune, ratio: -1}", "compress.stages.0.ratio", "got -1; allowed: a number greater than 0"),
    (
        "{method: prun}",
        "compress.stages.0.method",
        "got 'prun'; allowed: one of distill, prune, ptq, qat; did you mean 'prune'?",
    ),
    ("{ratio: 0.5}", "compress.stages.0.method", "got no method; allowed: one of distill, prune, ptq, qat"),
    (
        "prune",
        "compress.stages.0",
        "allowed: a section with method: distill or prune or ptq or qat; write {method: prune}",
    ),
    (
        "{method: qat, ratio: 0.5}",
        "compress.stages.0.ratio",
        "unknown key; it is a key of prune, and this section is of qat",
    ),
    ("{method: prune, ratoi: 0.5}", "compress.stages.0.ratoi", "unknown key; did you mean 'compress.stages.0.ratio'?"),
    (
        "{method: distill, student: {widht: 1}}",
        "compress.stages.0.student.widht",
        "did you mean 'compress.stages.0.student.width'?",
    ),
    (
        "{method: distill, student: {width: 0}}",
        "compress.stages.0.student.width",
        "got 0; allowed: a whole number from 1",
    ),
    (
        "{method: distill, student: {hidden: [1]}}",
        "compress.stages.0.student.hidden",
        ", and this section is of resnet",
    ),
    (
        "{method: distill, student: {family: mpl}}",
        "compress.stages.0.student.family",
        f"got 'mpl'; allowed: {FAMILY_NAMES}; did you mean 'mlp'?",
    ),
    ("{method: distill, student: 8}", "compress.stages.0.student", "got 8; allowed: a section or null"),
]


@pytest.mark.parametrize(("stage", "key", "part"), STAGES)
def test_bad_stage(stage: str, key: str, part: str) -> None:
    problems = problems_of(f"compress:\n  stages:\n    - {stage}\n")
    assert [problem for problem in problems if problem.startswith(f"{key} (x.yaml:3): ") and part in problem]
    assert len(problems) == 1


def test_student_is_of_the_runs_family_unless_it_names_its_own() -> None:
    student = "compress.stages=[{method: distill, student: {hidden: [3]}}]"
    assert load_config(None, ["model.family=mlp", student]).compress.stages[0].method == "distill"
    named = "compress.stages=[{method: distill, student: {family: mlp, hidden: [3]}}]"
    assert load_config(None, [named]).model.family == "resnet"


def test_key_of_the_other_family_is_said() -> None:
    problems = problems_of("model:\n  hidden: [3]\n")
    [problem] = problems
    assert problem.startswith("model.hidden (x.yaml:2): unknown key; it is a key of ")
    assert "mlp" in problem.partition(", and this section is of resnet; ")[0]
    assert problem.endswith(f"allowed: {', '.join(ResNetConfig.model_fields)}")


def test_order_that_cannot_work() -> None:
    problems = problems_of("compress:\n  stages: [{method: qat}, {method: prune}]\n")
    assert problems[0].startswith("compress.stages (x.yaml:2): got qat, prune; ")
    assert "'prune' cannot follow 'qat'" in problems[0]


def test_a_method_may_stand_twice() -> None:
    stages = "compress.stages=[{method: distill}, {method: prune}, {method: prune}, {method: distill}, {method: qat}]"
    assert len(load_config(None, [stages]).compress.stages) == 5


def test_values_that_contradict_each_other() -> None:
    text = "scheduler:\n  warmup_epochs: 5.5\ntrainer:\n  epochs: 5\n  accumulate: 9\n"
    assert problems_of(text, "data.batch_size=8") == [
        "trainer.accumulate (x.yaml:5): got 9; allowed: at most data.batch_size, which is 8: every micro-batch needs a "
        "sample; change it or data.batch_size (command line)",
        "scheduler.warmup_epochs (x.yaml:2): got 5.5; allowed: at most trainer.epochs, which is 5; "
        "change it or trainer.epochs (x.yaml:4)",
    ]


def test_accumulation_that_does_not_divide_the_batch_is_found_with_everything_else() -> None:
    assert problems_of("trainer: {accumulate: 3}\nscheduler: {warmup_epochs: 11}\n", "data.batch_size=8") == [
        "trainer.accumulate (x.yaml:1): got 3; allowed: a divisor of data.batch_size, which is 8: it is split into "
        "that many micro-batches; change it or data.batch_size (command line)",
        "scheduler.warmup_epochs (x.yaml:2): got 11; allowed: at most trainer.epochs, which is 10; "
        "change it or trainer.epochs (default)",
    ]
    assert load_config(None, ["trainer.accumulate=4", "data.batch_size=8"]).trainer.accumulate == 4


def test_contradictions_are_found_beside_wrong_values_but_never_through_them() -> None:
    text = (
        "optimizer: {lr: -1}\ntrainer: {accumulate: 200}\ncompress: {stages: [{method: qat, lr: 0}, {method: prune}]}\n"
    )
    keys = [problem.split(" ")[0] for problem in problems_of(text)]
    assert keys == ["optimizer.lr", "compress.stages.0.lr", "compress.stages", "trainer.accumulate"]
    through = problems_of("trainer: {epochs: -3}\nscheduler: {warmup_epochs: 50}\n")
    assert [problem.split(" ")[0] for problem in through] == ["trainer.epochs"]


def test_layout_of_the_message() -> None:
    Path("x.yaml").write_text("run: {}\noptimizer:\n  lr: -1\noptimiser: {}\n")
    with pytest.raises(ConfigError) as caught:
        load_config("x.yaml")
    lines = str(caught.value).splitlines()
    assert lines[0] == "config error: 2 problems"
    assert lines[1] == "  optimizer.lr (x.yaml:3): got -1; allowed: a number greater than 0"
    assert lines[2].startswith("  optimiser (x.yaml:4): unknown key; did you mean 'optimizer'?")
    assert len(lines) == 3


def test_problems_of_yaml_fields_and_overrides_come_together() -> None:
    text = "optimizer: {lr: -1}\nrun: {seed: 1, seed: 2}\nlr: 1\n"
    text += "compress: {stages: [{method: x}, {method: prune, lr: 0}]}\n"
    problems = problems_of(text, "data.batch_size=0", "oops")
    assert len(problems) == 7


def test_problem_is_a_value_and_the_error_survives_pickling() -> None:
    problem = Problem(key="optimizer.lr", origin="a.yaml:1", got="-1", allowed=NUMBER, fix="")
    error = pickle.loads(pickle.dumps(ConfigError([problem])))
    assert error.problems == (problem,)
    assert error.exit_code == 2
    assert str(error) == f"config error: optimizer.lr (a.yaml:1): got -1; allowed: {NUMBER}"


def test_sections_check_themselves_when_made_in_code() -> None:
    with pytest.raises(ValidationError, match="cannot follow"):
        CompressConfig(stages=[QATConfig(), PruneConfig()])
    with pytest.raises(ValidationError, match=r"at most data\.batch_size"):
        Config(trainer=TrainerConfig(accumulate=4000))
    with pytest.raises(ValidationError, match="frozen"):
        PTQConfig().samples = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (
            ["model.family=gpt", "model.heads=3"],
            "model.heads (command line): got 3; allowed: a divisor of model.width, which is 128",
        ),
        (
            ["model.family=vit", "model.width=64"],
            "model.heads (default): got 3; allowed: a divisor of model.width, which is 64: the heads share it evenly; "
            "change it or model.width (command line)",
        ),
        (
            ["model.family=lstm", "compress.stages=[{method: prune}, {method: qat}]"],
            "compress.stages.1.method (command line): got qat; allowed: ptq for lstm",
        ),
        (
            ["transfer.unfreeze_every_n_epochs=3"],
            "transfer.unfreeze_every_n_epochs (command line): got 3; allowed: null while transfer.freeze is empty",
        ),
        (
            ["transfer.freeze=['*']", "transfer.unfreeze={2: '*'}"],
            "transfer.unfreeze.2 (command line): got the text '*'; allowed: a list",
        ),
        (
            ["transfer.freeze=['*']", "transfer.unfreeze={two: ['*']}"],
            "transfer.unfreeze (command line): got the key 'two'; allowed: a section whose keys are numbers of epochs",
        ),
        (
            ["transfer.lora.rank=4", "trainer.strategy=deepspeed"],
            "transfer.lora.rank (command line): got 4; allowed: 0 with deepspeed",
        ),
    ],
)
def test_what_a_model_cannot_do_is_said_before_anything_starts(overrides: list[str], problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(None, overrides)
    assert problem in str(error.value)


def test_a_student_of_another_family_may_be_trained_for_int8() -> None:
    student = "{method: distill, student: {family: transformer}}"
    load_config(None, ["model.family=gru", f"compress.stages=[{student}, {{method: qat}}]"])
