"""Packages against the oldest that are safe."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest

from scaledl.doctor import versions
from scaledl.doctor.versions import FLOORS, packages

pytestmark = pytest.mark.unit

GOOD = {name: floor for name, (floor, _) in FLOORS.items()}


def test_the_oldest_allowed_versions_are_ok() -> None:
    check = packages(GOOD)
    assert (check.verdict, check.fix) == ("ok", "")
    assert "torch 2.11" in check.what


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("torch", "2.10.1"),
        ("pytorch-lightning", "2.6.5"),
        ("ray", "2.53.0"),
        ("pillow", "12.2.9"),
        ("onnx", "1.20.1"),
        ("starlette", "0.47.1"),
        ("python-multipart", "0.0.26"),
        ("torch", "unknown"),
    ],
)
def test_what_is_older_fails_by_name(name: str, version: str) -> None:
    check = packages({**GOOD, name: version})
    assert check.verdict == "fail"
    assert check.what == f"{name} {version} is older than {FLOORS[name][0]}"
    assert check.fix == f"pip install '{name}>={FLOORS[name][0]}'"


def test_longer_and_local_versions_are_newer() -> None:
    assert packages({**GOOD, "torch": "2.14.1+cpu", "pillow": "13.0.0.dev1", "numpy": "10.0"}).verdict == "ok"


def test_what_is_needed_must_be_there_and_the_rest_need_not() -> None:
    needed = {name: floor for name, (floor, needed) in FLOORS.items() if needed}
    assert packages(needed).verdict == "ok"
    del needed["safetensors"]
    assert packages(needed).what == "safetensors is missing"


@pytest.mark.parametrize(("version", "verdict"), [("2.6.2", "fail"), ("2.6.3", "fail"), ("2.6.6", "warn")])
def test_lightning_beside_pytorch_lightning(version: str, verdict: str) -> None:
    check = packages({**GOOD, "lightning": version})
    assert check.verdict == verdict
    assert check.what.startswith(f"lightning {version} ")
    assert "pip uninstall lightning" in check.fix


def test_the_floors_are_no_lower_than_what_the_project_asks_for() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]
    asked = {match[1]: match[2] for match in (re.match(r"([\w-]+).*?>=([\d.]+)", line) for line in wanted) if match}
    for name, (floor, _) in FLOORS.items():
        if name in asked:
            assert versions._numbers(floor) >= versions._numbers(asked[name]), name


@pytest.mark.parametrize(
    ("version", "verdict"), [((3, 10), "fail"), ((3, 11), "ok"), ((3, 13), "ok"), ((3, 14), "fail")]
)
def test_python(version: tuple[int, int], verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions.sys, "version_info", (*version, 0))
    assert versions.python().verdict == verdict
