"""A language model writes on: what of a run is used, what is refused, and what the command prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning  # noqa: F401  it sets a variable when it is imported, which is no leak of a test
import torch

from scaledl import api
from scaledl.api import Drawing
from scaledl.cli import main
from scaledl.config import Config, replace
from scaledl.data import build_data
from scaledl.errors import UsageError
from scaledl.export import export_torchscript
from scaledl.models.structure import Model, new_model, save_model
from scaledl.run import Run
from scaledl.runtime.signature import Outputs

pytestmark = pytest.mark.unit

TEXT = "the cat sat on the mat.\nthe dog sat on the log.\n" * 20
GPT = {"family": "gpt", "width": 16, "heads": 2, "layers": 1}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def a_run(folder: Path, model: dict[str, Any], form: Any = "steps") -> tuple[Run, Model]:
    """A complete run on the characters of a text, with fresh weights that are not small."""
    (folder / "story.txt").write_text(TEXT)
    data = {"source": "text", "root": str(folder / "story.txt"), "text": {"tokenizer": "char", "max_length": 16}}
    config = replace(Config(), {"run.root": str(folder / "runs"), "run.name": "n", "data": data, "model": model})
    spec = build_data(config.data, config.run.seed).spec
    made = new_model(config.model, spec.inputs, Outputs(spec.vocabulary, form), seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.module.parameters():
            parameter.add_(torch.empty_like(parameter).normal_(0, 0.3, generator=generator))
    run = Run.create(Path(config.run.root), "n", "i", kind="train", config=config)
    run.begin()
    save_model(made, run.model_dir)
    run.record("model")
    run.finish("complete")
    return run, made


def test_writes_on_from_the_prompt_and_the_seed_decides(tmp_path: Path) -> None:
    a_run(tmp_path, GPT)
    root = tmp_path / "runs"
    made = api.generate("n", root, "the c", Drawing(tokens=30, seed=1))
    letters = made.completion.replace("[UNK]", "?")  # which this model has not learned to leave out
    assert (made.prompt, len(made.ids), len(letters)) == ("the c", 30, 30)
    assert set(letters) <= {*TEXT, "?"}
    assert api.generate("n", root, "the c", Drawing(tokens=30, seed=1)) == made
    assert api.generate("n", root, "the c", Drawing(tokens=30, seed=2)).ids != made.ids
    assert api.generate(None, root, "the c", Drawing(tokens=30, seed=1)) == made


def test_the_likeliest_tokens_are_the_models(tmp_path: Path) -> None:
    run, model = a_run(tmp_path, GPT)
    spec = build_data(run.config.data, run.config.run.seed).spec
    tokens = json.loads(spec.tokenizer)["model"]["vocab"]
    ids = torch.tensor([[tokens[letter] for letter in "the cat"]])
    for _ in range(12):  # beyond the 16 that the model can see
        with torch.no_grad():
            logits = model.module.eval()(ids[:, -16:])[:, 1:, -1]
        ids = torch.cat([ids, 1 + logits.argmax(1, keepdim=True)], 1)
    made = api.generate("n", tmp_path / "runs", "the cat", Drawing(tokens=12, temperature=0))
    assert list(made.ids) == ids[0, 7:].tolist()


def test_an_exported_file_writes_what_its_run_writes(tmp_path: Path) -> None:
    run, model = a_run(tmp_path, GPT)
    path, data = tmp_path / "model.ts", build_data(run.config.data, run.config.run.seed)
    task = replace(run.config, {"task.name": "language_modeling"}).task
    export_torchscript(model, data, path, config=run.config.export, source={}, task=task)
    drawing = Drawing(tokens=30, temperature=0)
    assert (
        api.generate(str(path), tmp_path, "the c", drawing).ids
        == api.generate(None, run.path.parents[1], "the c", drawing).ids
    )


def test_a_recurrent_model_in_one_direction_writes_too(tmp_path: Path) -> None:
    a_run(tmp_path, {"family": "gru", "hidden": 8, "embedding": 8})
    assert len(api.generate("n", tmp_path / "runs", "a", Drawing(tokens=20)).ids) == 20


@pytest.mark.parametrize(
    ("model", "form", "message"),
    [
        (
            {"family": "lstm", "bidirectional": True},
            "steps",
            "sees the tokens that it is to predict; allowed: gpt",
        ),
        ({"family": "transformer"}, "steps", "sees the tokens that it is to predict"),
        ({"family": "lstm"}, "vector", "no language model, which gives a logit of every token for what comes next"),
    ],
)
def test_what_is_no_language_model_is_refused(tmp_path: Path, model: dict[str, Any], form: str, message: str) -> None:
    a_run(tmp_path, model, form)
    with pytest.raises(UsageError, match=message):
        api.generate("n", tmp_path / "runs", "a", Drawing(tokens=5))


@pytest.mark.parametrize("prompt", ["", "\ud800"])
def test_a_prompt_without_a_token_is_refused(tmp_path: Path, prompt: str) -> None:
    a_run(tmp_path, GPT)
    with pytest.raises(UsageError, match="--prompt: "):
        api.generate("n", tmp_path / "runs", prompt, Drawing(tokens=5))


def test_the_command_prints_the_text_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a_run(tmp_path, GPT)
    command = ["generate", "n", "--root", str(tmp_path / "runs"), "--prompt", "the ", "--tokens", "8", "--top-k", "3"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert text == document["prompt"] + document["completion"] + "\n"
    assert (document["tokens"], document["top_k"], document["seed"]) == (8, 3, 0)
    assert len(document["ids"]) == 8


@pytest.mark.parametrize(
    ("flag", "value", "allowed"),
    [
        ("--temperature", "-1", "a number from 0 to 100"),
        ("--top-p", "nan", "a number from 0 to 1"),
        ("--top-k", "0", "whole numbers from 1"),
        ("--tokens", "0", "whole numbers from 1"),
        ("--seed", "x", "whole numbers from 0"),
    ],
)
def test_numbers_that_mean_nothing(flag: str, value: str, allowed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "n", "--prompt", "a", flag, value]) == 2
    error = capsys.readouterr().err
    assert f"{flag}: got {value!r}; allowed: {allowed}" in error
