"""The batch script: a header made of typed options over the project's own script, which is its only logic."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from scaledl.errors import ScaledlError

_FOLDER = Path(__file__).parent / "scripts"  # slurm/ of the repository, which the package carries along
_DIRECTIVE = re.compile(r"#SBATCH\s+--([a-z-]+)(?:[= ](\S+))?\s*")
_SOURCED = re.compile(r"^\. slurm/(\w+\.sh)$", re.MULTILINE)


def logic(name: str) -> str:
    """The text of slurm/NAME.sh with what it sources in it: it needs no other file, and a queued job stays as it is."""
    text = _SOURCED.sub(lambda match: _read(match[1]).strip(), _read(f"{name}.sh"))
    return text.replace('"$project/slurm/common.sh"', "/dev/null")  # of which it makes sure that it is there


def _read(file: str) -> str:
    try:
        return (_FOLDER / file).read_text(encoding="utf-8")
    except OSError as error:
        raise ScaledlError(f"{_FOLDER / file}: {error.strerror}; the installation of scaledl is damaged") from error


def render(
    logic: str,
    arguments: Sequence[str],
    directives: Mapping[str, str],
    *,
    made_by: str,
    notes: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> str:
    """A batch script for sbatch's standard input.

    Args:
        logic: a script with its own `#SBATCH` lines, whose arguments are the job's.
        arguments: what the script would get after its name.
        directives: options of sbatch by long name; they win over the script's own.
        made_by: the command that asked for it.
        notes: lines of comment.
        variables: of the environment, where it does not have them.
    """
    own, body = _split(logic)
    options = {**own, **directives}
    lines = ["#!/usr/bin/env bash", f"# Made by: {_comment(made_by)}"]
    lines += [f"#SBATCH --{name}={value}" if value else f"#SBATCH --{name}" for name, value in options.items()]
    lines += ["#", *(f"# {_comment(note)}" for note in notes)] if notes else []
    settings = [f'export {name}="${{{name}:-{_quoted(value)}}}"' for name, value in (variables or {}).items()]
    return "\n".join([*lines, "", *settings, f"set -- {shlex.join(arguments)}", "", *body]) + "\n"


def _quoted(text: str) -> str:
    """Within double quotes."""
    return re.sub(r'([\\"$`}])', r"\\\1", text)


def own_directives(logic: str) -> dict[str, str]:
    """The options of sbatch that a script brings along.

    >>> own_directives("#!/bin/sh\\n#SBATCH --time=04:00:00\\n#SBATCH --requeue\\necho")
    {'time': '04:00:00', 'requeue': ''}
    """
    return _split(logic)[0]


def _comment(text: str) -> str:
    """A comment ends with its line, whatever the text holds."""
    return " ".join(text.split())


def _split(logic: str) -> tuple[dict[str, str], list[str]]:
    """A script's own options of sbatch, and the rest of it without its first line."""
    options: dict[str, str] = {}
    body: list[str] = []
    for line in logic.splitlines():
        match = _DIRECTIVE.fullmatch(line)
        if match:
            options[match[1]] = match[2] or ""
        elif not line.startswith("#!") and (body or line not in ("", "#")):
            body.append(line)
    return options, body
