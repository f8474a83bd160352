"""`scaledl list` and docs/components.md say what the registries say, and every name says what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import pytorch_lightning  # noqa: F401  (it sets a variable when it is first imported)

from scaledl.cli import main
from scaledl.config.keys import config_keys
from scaledl.config.registry import LISTED

pytestmark = pytest.mark.unit
PAGE = Path(__file__).parents[2] / "docs/components.md"


@pytest.mark.parametrize("kind", LISTED)
def test_every_name_says_what_it_is_and_can_be_imported(kind: str) -> None:
    registry = LISTED[kind].registry
    for name in registry.names():
        assert registry.entry(name).summary, name
        assert registry.entry(name).source, name
        assert callable(registry.resolve(name)), name


@pytest.mark.parametrize("kind", [kind for kind, listed in LISTED.items() if listed.key == "a key each"])
def test_what_is_a_key_is_one_of_the_config(kind: str) -> None:
    assert set(LISTED[kind].registry.names()) <= {key.key for key in config_keys()}


def test_every_augmentation_is_listed() -> None:
    known = {"data.augment.policy_ops", "data.augment.policy_magnitude", "data.augment.text.mask_span"}
    keys = {key.key for key in config_keys() if key.key.startswith("data.augment.")}
    assert keys - known == set(LISTED["augmentations"].registry.names())


def test_the_page_is_what_the_verb_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--markdown"]) == 0
    assert capsys.readouterr().out == PAGE.read_text(), f"scaledl list --markdown > {PAGE.name}"


def test_one_kind_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "models", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"name", "key", "summary", "source"} == set(found["models"][0])
    assert [entry["name"] for entry in found["models"]] == list(LISTED["models"].registry.names())


def test_an_unknown_kind_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "modles"]) == 2
    assert "did you mean 'models'?" in capsys.readouterr().err
