"""Files of a folder of tables that are links, or no files at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scaledl.config.schema import PrepareConfig
from scaledl.data.prepare.survey import survey
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit

ROWS = "a,label\n1,x\n2,y\n"


def folder(tmp_path: Path) -> Path:
    (tmp_path / "t").mkdir()
    (tmp_path / "outside.csv").write_text(ROWS)
    (tmp_path / "t/train.csv").write_text(ROWS)
    return tmp_path / "t"


@pytest.mark.parametrize(
    ("target", "message"),
    [("nowhere", "is a link to nothing"), ("../outside.csv", "is a link out of the source's folder")],
)
def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, target: str, message: str) -> None:
    source = folder(tmp_path)
    (source / "test.csv").symlink_to(target)
    with pytest.raises(UsageError, match=rf"t/test\.csv: {message}"):
        survey(source, PrepareConfig())


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    source = folder(tmp_path)
    os.mkfifo(source / "test.csv")
    with pytest.raises(UsageError, match=r"t/test\.csv: is no regular file"):
        survey(source, PrepareConfig())


def test_a_link_within_the_folder_and_a_folder_that_is_one(tmp_path: Path) -> None:
    source = folder(tmp_path)
    (source / "test.csv").symlink_to("train.csv")
    (tmp_path / "linked").symlink_to("t")
    assert survey(tmp_path / "linked", PrepareConfig())["splits"] == {"train": 2, "test": 2}
