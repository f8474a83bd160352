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
