"""The tokenizer of a run, beside its model: whoever begins with that model needs ids that mean the same."""

from __future__ import annotations

from pathlib import Path

from scaledl.run import Run, atomic_write
from scaledl.runtime.tokens import parse_tokenizer

TOKENIZER_FILE = "tokenizer.json"
_OWN_FILE = ".json"  # what data.text.tokenizer ends with where it is no word of ours


def keep_tokenizer(directory: Path, content: str) -> None:
    """Write the JSON of the data's tokenizer into the directory of a model; nothing of data that have none."""
    if content:
        atomic_write(directory / TOKENIZER_FILE, content)


def has_other_ids(run: Run, content: str) -> bool:
    """Whether the same id is another token for the model of `run` than for a tokenizer's JSON; False where either has
    no tokenizer."""
    path = run.model_dir / TOKENIZER_FILE
    if not content or not path.is_file():
        return False
    theirs = parse_tokenizer(path.read_text(encoding="utf-8"), str(path))
    ours = parse_tokenizer(content, "the data's tokenizer")
    return bool(theirs.get_vocab(with_added_tokens=True) != ours.get_vocab(with_added_tokens=True))


def tokenizer_word(run: Run) -> str:
    """What `data.text.tokenizer` has to say for the ids of `run`: the file that it was given, else its own."""
    given = run.config.data.text.tokenizer
    return given if given.endswith(_OWN_FILE) else str(run.model_dir / TOKENIZER_FILE)
