"""A config written as YAML reads back equal, whatever is in it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaledl.config import Config, dump_yaml, load_config, replace
from scaledl.config.scalars import resolve_scalar
from scaledl.config.yaml_source import parse_yaml

pytestmark = pytest.mark.unit

tricky = st.sampled_from(
    [
        "1e-3",
        "0o17",
        "017",
        "1_000",
        "no",
        "on",
        "null",
        "~",
        "true",
        "1:30",
        "2026-11-23",
        "<<",
        "=",
        " a",
        "a ",
        "a: b",
        "#x",
        "- a",
        "'",
        '"',
        "a\nb",
        "\ttab",
        "é",
        "\u2028",
        "\x85",
        "!x",
        "&a",
        "*a",
        ".inf",
        "0x1f",
        "%",
        "@",
        "x" * 300,
    ]
)
texts = tricky | st.text(min_size=1, max_size=30)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", fullmatch=True)
positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
shares = st.floats(min_value=0, max_value=1, exclude_min=True, exclude_max=True)
students = st.none() | st.fixed_dictionaries(
    {}, optional={"depth": st.sampled_from([8, 20]), "width": st.integers(1, 64)}
)
stages = st.one_of(
    st.fixed_dictionaries({"method": st.just("distill"), "student": students, "temperature": positive}),
    st.fixed_dictionaries({"method": st.just("prune"), "ratio": shares, "lr": st.none() | positive}),
)
models = st.one_of(
    st.fixed_dictionaries(
        {"family": st.just("resnet"), "depth": st.sampled_from([8, 20, 56]), "width": st.none() | st.integers(1, 1024)}
    ),
    st.fixed_dictionaries({"family": st.just("mlp"), "hidden": st.lists(st.integers(1, 65536), max_size=5)}),
)
resnets = st.just({"family": "resnet"})
last = st.sampled_from([[], [{"method": "qat"}], [{"method": "ptq", "samples": 9}]])
common: dict[str, st.SearchStrategy[Any]] = {
    "run.name": st.none() | names,
    "run.id": st.none() | names,
    "run.root": texts,
    "run.seed": st.integers(0, 2**31 - 1),
    "data.stream.cache": st.none() | texts,
    "optimizer.lr": positive,
    "optimizer.betas": st.tuples(shares, shares),
    "trainer.channels_last": st.booleans() | st.just("auto"),
    "trainer.gradient_clip": st.none() | positive,
}


@st.composite
def configs(draw: st.DrawFn) -> Config:
    chain = draw(st.lists(stages, max_size=3))
    # a student with ResNet keys belongs to a ResNet
    has_student = any(stage.get("student") for stage in chain)
    model = draw(resnets if has_student else models)
    changes = draw(st.fixed_dictionaries({}, optional=common))
    return replace(Config(), changes | {"model": model, "compress.stages": [*chain, *draw(last)]})


@settings(deadline=None)
@given(configs())
def test_dump_reads_back_equal(tmp_path_factory: pytest.TempPathFactory, config: Config) -> None:
    path = tmp_path_factory.getbasetemp() / "roundtrip.yaml"
    text = dump_yaml(config)
    path.write_text(text, encoding="utf-8", newline="")
    assert load_config(path) == config
    assert dump_yaml(load_config(path)) == text


def test_dump_is_plain_and_complete() -> None:
    text = dump_yaml(Config())
    assert text.startswith("run:\n  name: null\n")
    assert "  objectives: {}\n" in text
    assert "&" not in text


@given(st.text(max_size=20))
def test_scalars_never_fail(text: str) -> None:
    value = resolve_scalar(text)
    assert value is None or isinstance(value, str | int | float)


@given(st.floats(allow_nan=False))
def test_a_number_is_read_as_python_writes_it(value: float) -> None:
    text = repr(value).replace("inf", ".inf") if math.isinf(value) else repr(value)
    assert resolve_scalar(text) == value


def test_every_line_is_known() -> None:
    node, problems = parse_yaml("a:\n  b: 1\n  c:\n  - d\n  - e: 2\n", str)
    assert node is not None
    assert not problems
    assert node.value["a"].origin == "1"
    assert [child.origin for child in node.value["a"].value["c"].value] == ["4", "5"]
    assert node.value["a"].value["b"].origin == "2"


def test_example_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(dump_yaml(load_config(None, ["run.name=1e5", "data.stream.cache=no", "run.root=0o17"])))
    config = load_config(path)
    assert (config.run.name, config.data.stream.cache, config.run.root) == ("1e5", "no", "0o17")
