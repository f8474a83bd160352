"""One thing that was looked at, and how it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """`what` was found; `fix`: what to do about it, empty when it is ok."""

    name: str
    verdict: Verdict
    what: str
    fix: str = ""


def worst(name: str, checks: Sequence[Check]) -> Check:
    """Several findings under one name: the worst decides, and what is not ok is told.

    >>> worst("disk", [Check("", "ok", "fast"), Check("", "warn", "small", "clean up")])
    Check(name='disk', verdict='warn', what='small', fix='clean up')
    """
    verdicts: tuple[Verdict, ...] = ("fail", "warn", "ok")
    verdict = next(v for v in verdicts if any(check.verdict == v for check in checks))
    told = [check for check in checks if verdict == "ok" or check.verdict != "ok"]
    fixes = dict.fromkeys(check.fix for check in told if check.fix)
    return Check(name, verdict, "; ".join(check.what for check in told), "; ".join(fixes))


def guarded(name: str, look: Callable[[], Check]) -> Check:
    """A check that itself breaks is told as such, and the others go on."""
    try:
        return look()
    except Exception as error:
        return Check(name, "fail", f"could not be looked at: {type(error).__name__}: {error}", "please report this")
