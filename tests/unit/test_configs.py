"""Every config that comes with the project is valid."""

from __future__ import annotations

from pathlib import Path

import pytest

from scaledl.cli import main

pytestmark = pytest.mark.unit

CONFIGS = sorted((Path(__file__).parents[2] / "configs").rglob("*.y*ml"))


def test_there_are_configs() -> None:
    assert {path.name for path in CONFIGS} >= {"digits.yaml", "resnet.yaml"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_config_check_accepts_it(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: valid\n"
