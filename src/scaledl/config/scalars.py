"""What an unquoted word in YAML means: the core schema of YAML 1.2 (section 10.3.2), not the rules of 1.1.

So `1e-3` is a number, and `no`, `on`, `1_000` and `1:30` are text, which no number and no switch accepts.
"""

from __future__ import annotations

import re

INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
NULLS = frozenset(("", "~", "null", "Null", "NULL"))
TRUES = frozenset(("true", "True", "TRUE"))
FALSES = frozenset(("false", "False", "FALSE"))
MAX_DIGITS = 400  # longer ones stay text, which no number accepts

Scalar = str | int | float | bool | None


def resolve_scalar(text: str) -> Scalar:
    """The value of a plain scalar.

    >>> [resolve_scalar(text) for text in ("1e-3", "no", "1_000", "0o17", "017", "true", "~")]
    [0.001, 'no', '1_000', 15, 17, True, None]
    """
    if text in NULLS:
        return None
    if text in TRUES or text in FALSES:
        return text in TRUES
    if len(text) > MAX_DIGITS:
        return text
    if INT.fullmatch(text):
        return int(text, base={"0o": 8, "0x": 16}.get(text[:2], 10))
    if FLOAT.fullmatch(text):
        return float(text.replace(".", "", 1) if text[-1] in "fFnN" else text)
    return text
