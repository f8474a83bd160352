"""Two keys that cannot stand together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Conflict:
    """Two keys whose values cannot stand together: `key` is the one to blame, `against` the one it is measured by."""

    key: str
    against: str
    got: str
    allowed: str


def written(value: object) -> str:
    """A value as a message has it: as YAML does, text without quotes.

    >>> written(None), written(True), written("auto"), written(0.5)
    ('null', 'true', 'auto', '0.5')
    """
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
