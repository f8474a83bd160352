"""A search syncs every line of its journal; here nobody pulls the plug, and syncing would be most of the time."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _without_syncing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
