"""Tagged texts as in the CoNLL shared tasks: a word and its tag a line, an empty line between sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from scaledl.config.schema import PrepareConfig
from scaledl.data.prepare.items import Collected, Dropped, Item
from scaledl.data.prepare.sources import find_files, no_columns, stamp
from scaledl.data.prepare.text import problem
from scaledl.errors import UsageError

SUFFIXES = (".conll", ".bio", ".iob", ".iob2")
_DOCUMENT = "-DOCSTART-"
_GAP = re.compile(r"\t+|[ \t]+")


def collect_conll(source: Path, config: PrepareConfig) -> Collected:
    """Every sentence; of several columns the first is the word, the last the tag. Raises UsageError for other files."""
    no_columns(source, config, "a file of tagged words")
    files = find_files(source, SUFFIXES)
    items = [item for split, path in files for item in _sentences(path, split)]
    dropped = [Dropped(item.key, problem(item.content)) for item in items if problem(item.content)]
    kept = [item for item in items if not problem(item.content)]
    if not kept:
        raise UsageError(f"{source}: has no sentence" + (f"; the first: {dropped[0].reason}" if dropped else ""))
    return Collected("conll", kept, dropped, (), stamp([path for _, path in files]), "text", target="tags")


def _sentences(path: Path, split: str) -> Iterator[Item]:
    """Keys say the line on which a sentence begins."""
    words: list[str] = []
    tags: list[str] = []
    first = 0
    for number, line in enumerate([*_lines(path), ""], 1):
        cells = _GAP.split(line.strip())
        if not line.strip() or cells[0] == _DOCUMENT:
            if words:
                yield Item(f"{path.name}:{first}", tuple(tags), split, " ".join(words))
            words, tags = [], []
        elif len(cells) < 2:
            raise UsageError(f"{path}: line {number} is {line[:60]!r}; wanted a word and its tag, with a tab between")
        else:
            first = first if words else number
            words.append(cells[0])
            tags.append(cells[-1])


def _lines(path: Path) -> list[str]:
    try:
        return path.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path}: byte {error.start} is {error.object[error.start]:#04x}, which is no UTF-8; "
            "fix: save the file as UTF-8"
        ) from None
