"""Which hosts, and how many ranks on each: a list on the command line, or a hostfile."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from scaledl.errors import UsageError

_NAME = re.compile(r"(?:[A-Za-z0-9._-]+@)?[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Host:
    """`slots`: ranks on it; None where it may decide by itself."""

    name: str
    slots: int | None = None


def parse_hosts(text: str) -> list[Host]:
    """`h1,h2:4`, or the lines of the file of that name. Raises UsageError.

    >>> parse_hosts("n1,user@n2:4")
    [Host(name='n1', slots=None), Host(name='user@n2', slots=4)]
    """
    path = Path(text)
    if path.is_file():
        lines = [line.partition("#")[0].split() for line in path.read_text(encoding="utf-8").splitlines()]
        hosts = [_of_line(words, f"{path}: ") for words in lines if words]
    else:
        if "/" in text:
            raise UsageError(f"hosts: {text}: no such file; give a hostfile, or hosts such as n1,n2")
        hosts = [_of_word(word) for word in text.split(",")]
    if not hosts:
        raise UsageError(f"hosts: {text!r} names none; give a hostfile, or hosts such as n1,n2")
    double = [host.name for host in hosts if [other.name for other in hosts].count(host.name) > 1]
    if double:
        raise UsageError(f"hosts: {double[0]} stands there twice; name each once, with its number of ranks: n1:4")
    return hosts


def _of_line(words: list[str], where: str) -> Host:
    """The form that deepspeed and MPI use."""
    name, rest = words[0], words[1:]
    if not rest:
        return _checked(name, None, where)
    match = re.fullmatch(r"slots=(\d{1,4})", rest[0])
    if len(rest) > 1 or match is None:
        raise UsageError(f"{where}got {' '.join(words)!r}; allowed: HOST, or HOST slots=N")
    return _checked(name, match[1], where)


def _of_word(word: str) -> Host:
    name, _, slots = word.strip().partition(":")
    return _checked(name, slots or None, "hosts: ")


def _checked(name: str, slots: str | None, where: str) -> Host:
    if not _NAME.fullmatch(name):
        raise UsageError(f"{where}got {name!r}; allowed: names or addresses as ssh takes them, such as n1 or user@n1")
    if slots is not None and not (slots.isascii() and slots.isdecimal() and 1 <= int(slots) <= 1024):
        raise UsageError(f"{where}{name}: got {slots!r} ranks; allowed: 1 to 1024")
    return Host(name, int(slots) if slots else None)
