"""A language model writes on: of a run or of an exported file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scaledl.api.files import ANY_KIND, is_file, result_of
from scaledl.api.results import data_of
from scaledl.config.imported import check_trusted
from scaledl.errors import UsageError
from scaledl.run import find_run

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor


@dataclass(frozen=True)
class Drawing:
    """How tokens are drawn, see `models.generation.generate`; the same seed draws the same."""

    tokens: int = 100
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Continuation:
    """What a language model made of a prompt. `ids` are the new tokens, `completion` is their text."""

    target: str
    prompt: str
    completion: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class _Writer:
    """A language model with what turns texts into its tokens."""

    name: str
    forward: Callable[[Tensor], Tensor]
    tokenizer: str
    vocabulary: int
    context: int


def generate(target: str | None, root: Path, prompt: str, drawing: Drawing, *, trust: bool = False) -> Continuation:
    """Let the model of a run, by default the newest training run, or an exported file go on with `prompt`.

    Raises UsageError for a model that does not predict the next token, or a prompt without a token.
    """
    is_path = target is not None and is_file(target)
    writer = _of_file(str(target), trust) if is_path else _of_run(target, root, trust)
    tokenizer = _tokenizer(writer)
    given = _tokens(tokenizer, prompt)
    written = _written(writer, given, drawing)
    return Continuation(writer.name, prompt, _completion(tokenizer, given, written), tuple(written[len(given) :]))


def _tokenizer(writer: _Writer) -> Tokenizer:
    from scaledl.runtime.tokens import parse_tokenizer

    tokenizer = parse_tokenizer(writer.tokenizer, f"{writer.name}: its tokenizer")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _tokens(tokenizer: Tokenizer, prompt: str) -> list[int]:
    from scaledl.runtime.tokens import text_problem

    if problem := text_problem(prompt):
        raise UsageError(f"--prompt: {problem}")
    ids: list[int] = tokenizer.encode(prompt, add_special_tokens=False).ids
    if not ids:
        raise UsageError(f"--prompt: got {prompt!r}, which has no token; allowed: a text of at least one")
    return ids


def _written(writer: _Writer, given: list[int], drawing: Drawing) -> list[int]:
    """The tokens of the prompt and those after it."""
    import torch

    from scaledl.models.generation import generate as generate_ids

    ids = torch.tensor([given])
    with torch.inference_mode():
        shape = list(writer.forward(ids[:, -writer.context :]).shape[1:])
    if shape != [writer.vocabulary, min(len(given), writer.context)]:
        raise _no_language_model(writer.name)
    made = generate_ids(
        writer.forward,
        ids,
        drawing.tokens,
        context=writer.context,
        temperature=drawing.temperature,
        top_k=drawing.top_k,
        top_p=drawing.top_p,
        generator=torch.Generator().manual_seed(drawing.seed),
    )
    return made[0].tolist()


def _completion(tokenizer: Tokenizer, given: list[int], written: list[int]) -> str:
    """The text of what was written after the prompt: as a part of the whole, where tokens decide on spaces."""
    text, start = tokenizer.decode(written), tokenizer.decode(given)
    return text[len(start) :] if text.startswith(start) else tokenizer.decode(written[len(given) :])


def _of_run(target: str | None, root: Path, trust: bool) -> _Writer:
    run = find_run(target, root, kinds=ANY_KIND if target is not None else ("train",))
    check_trusted(run.config, trust, str(run.path))
    run.verify_files("model")
    from scaledl.models.structure import read_structure

    structure = read_structure(run.model_dir / "structure.json")
    if structure.inputs.kind != "text" or structure.outputs.form != "steps":
        raise _no_language_model(str(run.path))
    if structure.config.get("bidirectional") or structure.family == "transformer":
        raise UsageError(
            f"{run.path}: its model sees the tokens that it is to predict; allowed: gpt, or rnn, lstm and gru in one "
            "direction"
        )
    name, forward = result_of(run, trust=trust)
    spec = data_of(run, run.config).spec
    return _Writer(name, forward, spec.tokenizer, structure.inputs.vocabulary, structure.inputs.shape[0])


def _of_file(target: str, trust: bool) -> _Writer:
    from scaledl.runtime import load

    predictor = load(target, trust=trust)
    spec = predictor.spec
    if not spec.is_text:
        raise _no_language_model(target)
    return _Writer(target, predictor.forward, spec.tokenizer, spec.vocabulary, spec.shape[0])


def _no_language_model(name: str) -> UsageError:
    return UsageError(
        f"{name}: no language model, which gives a logit of every token for what comes next; train one with "
        "model.family=gpt task.name=language_modeling on texts"
    )
