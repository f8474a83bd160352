"""What is wrong with a config: every problem with its key, origin, what was got, what is allowed and the fix."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import UsageError

COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Problem:
    """One thing to mend. Empty parts are left out of the text; `what` is said in place of `got` when given."""

    key: str
    origin: str
    got: str = ""
    allowed: str = ""
    fix: str = ""
    what: str = ""
    against: str = field(default="", compare=False)  # the key that this one cannot stand beside

    def __str__(self) -> str:
        place = f"{self.key} ({self.origin})" if self.key else self.origin
        allowed = f"allowed: {self.allowed}" if self.allowed else ""
        # an unknown key is answered by the key that was meant, before the list of all of them
        parts = [self.what, self.fix, allowed] if self.what else [f"got {self.got}" * bool(self.got), allowed, self.fix]
        return f"{place}: {'; '.join(part for part in parts if part)}".replace("?; ", "? ")


class ConfigError(UsageError):
    """Everything that is wrong with a config, at once.

    >>> print(ConfigError([Problem("optimizer.lr", "a.yaml:2", "-1", "a number greater than 0")]))
    config error: optimizer.lr (a.yaml:2): got -1; allowed: a number greater than 0
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(tuple(problems))
        self.problems: tuple[Problem, ...] = tuple(problems)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return f"config error: {self.problems[0]}"
        return "\n  ".join([f"config error: {len(self.problems)} problems", *map(str, self.problems)])


def printable(text: str) -> str:
    r"""Text on one line, whatever is in it.

    >>> printable("a\nb")
    'a\\nb'
    """
    return text if text.isprintable() else repr(text)[1:-1]


def dotted(path: Sequence[str | int]) -> str:
    """A path as a dotted key, on one line and of a bounded length.

    >>> dotted(("compress", "stages", 0, "ratio")), dotted(("",))
    ('compress.stages.0.ratio', "''")
    """
    return ".".join(printable(str(part))[:60] or "''" for part in path[:12])


def show(value: Any, limit: int = 80) -> str:
    """A value as it would stand in YAML, shortened.

    >>> show(True), show(None), show("no"), show([1, 2.5])
    ('true', 'null', "'no'", '[1, 2.5]')
    """
    text = _show(value, limit)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _show(value: Any, limit: int) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case float() if not math.isfinite(value):
            return str(value)
        case int() if abs(value) >= 10**limit:  # Python refuses to print integers of thousands of digits
            return f"a whole number of about {int(value.bit_length() * math.log10(2))} digits"
        case str():
            return repr(value[: limit + 1])
        case Mapping():
            return "{" + ", ".join(f"{printable(str(k))}: {show(v, 20)}" for k, v in list(value.items())[:8]) + "}"
        case list() | tuple():
            return "[" + ", ".join(show(v, 20) for v in value[:16]) + "]"
        case _:
            return repr(value)
