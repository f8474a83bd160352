"""Which data a target means, and what is said of data behind a URL."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from tests.unit.data.prepare.pictures import image_folder

from scaledl.api.datasets import (
    Suspect,
    audit,
    changed_files,
    config_of_data,
    describe_data,
    is_unprepared,
    prepare_data,
    survey_source,
)
from scaledl.commands.datasets import doubted_table
from scaledl.config import Config, load_config
from scaledl.errors import UsageError
from scaledl.run import Run

pytestmark = pytest.mark.unit

URL = "s3://bucket/pets"


@pytest.mark.parametrize("target", [URL, "s3://bucket/p?ts*", "memory://pets.tar"])
def test_a_url_is_a_prepared_set(target: str) -> None:
    assert not is_unprepared(target)
    config = config_of_data(target, ["data.batch_size=7"])
    assert (config.data.source, config.data.root, config.data.batch_size) == ("prepared", target, 7)


@pytest.mark.parametrize("source", [URL, "imagenet"])
def test_a_url_is_not_described(source: str, tmp_path: Path) -> None:
    config = load_config(None, [f"data.source={source}", f"data.root={URL}"], space=False)
    for call, action in ((describe_data, "inspect and stats"), (changed_files, "inspect")):
        with pytest.raises(
            UsageError, match=f"^{URL}: is a URL; allowed for `scaledl data {action}`: files and folders"
        ):
            call(config)
    run = cast(Run, SimpleNamespace(config=config, path=tmp_path))
    with pytest.raises(UsageError, match=f"^{URL}: is a URL; allowed for `scaledl data audit`: files and folders"):
        audit(run, ["test"])


def test_a_url_is_no_source(tmp_path: Path) -> None:
    config = load_config(None, [], space=False)
    with pytest.raises(UsageError, match=f"^{URL}: is a URL; allowed for `scaledl data prepare`: files and folders"):
        prepare_data(URL, tmp_path / "out", config)
    with pytest.raises(UsageError, match=f"^{URL}: is a URL; allowed for `scaledl data inspect`: files and folders"):
        survey_source(URL, config)
    assert not any(tmp_path.iterdir())


def test_imagenet_is_described_as_the_prepared_set_that_it_is(tmp_path: Path) -> None:
    config = load_config(None, ["data.source=imagenet", f"data.root={tmp_path / 'out'}"], space=False)
    with pytest.raises(UsageError, match=r"no such folder\. Prepare ImageNet once"):
        describe_data(config)
    document, _ = prepare_data(str(image_folder(tmp_path / "s")), tmp_path / "out", Config())
    assert describe_data(config)["fingerprint"] == document["fingerprint"]
    assert changed_files(config) == []


def test_doubted_labels_are_listed_with_the_names_of_items_where_there_are_any() -> None:
    one = Suspect(7, "test", "4", "9", 0.956)
    assert doubted_table([one]) == (
        ["id", "split", "label", "suggested", "confidence"],
        [["7", "test", "4", "9", "95.6 %"]],
    )
    columns, rows = doubted_table([one, replace(one, key="4/007.png")])
    assert columns[-1] == "item"
    assert [row[-1] for row in rows] == ["", "4/007.png"]
