"""The nearest known name, for "did you mean"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def normal(name: str) -> str:
    """The form in which names are compared: case and hyphens do not count."""
    return name.strip().strip("-").casefold().replace("-", "_")


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that is most like this one, or None.

    >>> nearest("ReseNet", ["mlp", "resnet"])
    'resnet'
    >>> nearest("zzz", ["mlp", "resnet"]) is None
    True
    """
    by_form = {normal(candidate): candidate for candidate in reversed(list(known))}
    # difflib is quadratic in the length: an overlong name is like no known one
    close = difflib.get_close_matches(normal(name)[:200], by_form, n=1, cutoff=cutoff)
    return by_form[close[0]] if close else None


def nearest_key(path: str, siblings: Iterable[str], known: Iterable[str]) -> str | None:
    """The dotted key that was probably meant by an unknown one.

    `siblings` are the last parts that are known beside it, `known` all dotted keys.

    >>> nearest_key("lr", ["optimizer", "trainer"], ["optimizer.lr", "trainer.epochs"])
    'optimizer.lr'
    >>> nearest_key("trainer.epoch", ["epochs", "precision"], ["trainer.epochs"])
    'trainer.epochs'
    """
    parent, _, last = path.rpartition(".")
    by_form = {normal(sibling): sibling for sibling in siblings}
    known = list(known)
    beside = nearest(last, by_form.values(), cutoff=0.9)
    if beside:
        return _join(parent, beside)
    elsewhere = [key for key in known if normal(key) == normal(path) or normal(key.rpartition(".")[2]) == normal(last)]
    if elsewhere:
        return elsewhere[0]
    sibling = nearest(last, by_form.values())
    return _join(parent, sibling) if sibling else nearest(path, known, cutoff=0.7)


def _join(parent: str, last: str) -> str:
    return f"{parent}.{last}" if parent else last
