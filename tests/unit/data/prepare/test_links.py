"""Files of a folder of tables that are links, or no files at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.unit.data.prepare.pictures import image_folder, picture, save

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


@pytest.mark.parametrize("named", ["the folder", "a file"])
def test_a_link_out_of_a_folder_of_series_is_refused(tmp_path: Path, named: str) -> None:
    series = "@timeStamps false\n@univariate true\n@classLabel true a b\n@data\n1,2:a\n3,4:b\n"
    (tmp_path / "t").mkdir()
    for name in ("outside.ts", "t/N_TRAIN.ts"):
        (tmp_path / name).write_text(series)
    (tmp_path / "t/N_TEST.ts").symlink_to("../outside.ts")
    source = tmp_path / "t" if named == "the folder" else tmp_path / "t/N_TRAIN.ts"
    with pytest.raises(UsageError, match=r"t/N_TEST\.ts: is a link out of the source's folder"):
        survey(source, PrepareConfig())
    assert survey(tmp_path / "t/N_TEST.ts", PrepareConfig())["items"] == 4  # what is named itself may be one


def test_names_of_classes_are_not_read_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "outside.txt").write_text("nothing\nsomething\n")
    for number in range(4):
        save(tmp_path / f"t/images/{number}.png", picture(number))
        save(tmp_path / f"t/masks/{number}.png", picture(number, channels=1) // 128)
    (tmp_path / "t/classes.txt").symlink_to("../outside.txt")
    with pytest.raises(UsageError, match=r"t/classes\.txt: is a link out of the source's folder"):
        survey(tmp_path / "t", PrepareConfig())


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


def snapshot(hub: Path, name: str, rows: str = ROWS) -> Path:
    """As the cache of the hub has it: files are links to those in `blobs`."""
    for folder in ("blobs", "snapshots/abc/data"):
        (hub / name / folder).mkdir(parents=True, exist_ok=True)
    (hub / name / "blobs/0123").write_text(rows)
    (hub / name / "snapshots/abc/data/train.csv").symlink_to("../../../blobs/0123")
    return hub / name / "snapshots/abc/data"


def test_a_snapshot_of_the_hub_links_into_the_blobs_of_its_repository(tmp_path: Path) -> None:
    source = snapshot(tmp_path, "datasets--org--name")
    assert survey(source, PrepareConfig())["splits"] == {"train": 2}
    (tmp_path / "elsewhere").symlink_to(source)
    assert survey(tmp_path / "elsewhere", PrepareConfig())["splits"] == {"train": 2}


REFUSED = {
    "another repository": "../../../../datasets--org--other/blobs/0123",
    "what lies beside the blobs": "../../../refs",
    "what lies below the blobs": "../../../blobs/folder/0123",
    "another snapshot": "../../def/test.csv",
    "a file outside": "../../../../outside.csv",
}


@pytest.mark.parametrize("what", REFUSED)
def test_other_links_out_of_a_snapshot_are_refused(tmp_path: Path, what: str) -> None:
    source = snapshot(tmp_path, "datasets--org--name")
    target = source / REFUSED[what]
    Path(os.path.normpath(target)).parent.mkdir(parents=True, exist_ok=True)
    Path(os.path.normpath(target)).write_text(ROWS)
    (source / "test.csv").symlink_to(REFUSED[what])
    with pytest.raises(UsageError, match=r"test\.csv: is a link out of the source's folder"):
        survey(source, PrepareConfig())


def test_blobs_count_only_beside_snapshots_of_a_repository(tmp_path: Path) -> None:
    """Names of folders alone are no cache of the hub."""
    with pytest.raises(UsageError, match=r"train\.csv: is a link out of the source's folder"):
        survey(snapshot(tmp_path, "mine"), PrepareConfig())


def test_a_folder_of_images_in_a_snapshot(tmp_path: Path) -> None:
    repository = tmp_path / "datasets--org--pets"
    made = image_folder(tmp_path / "made", each=3)
    (repository / "blobs").mkdir(parents=True)
    for number, image in enumerate(sorted(made.rglob("*.png"))):
        link = repository / "snapshots/abc" / image.relative_to(made)
        link.parent.mkdir(parents=True, exist_ok=True)
        image.rename(repository / f"blobs/{number}")
        link.symlink_to(Path("../../../blobs") / str(number))
    (tmp_path / "secret.png").write_bytes((repository / "blobs/0").read_bytes())
    outside = next((repository / "snapshots/abc").rglob("*.png")).with_name("outside.png")
    outside.symlink_to(tmp_path / "secret.png")
    found = survey(repository / "snapshots/abc", PrepareConfig())
    assert found["items"] == number + 1, found
    assert [one["reason"] for one in found["problems"]] == ["a link out of the source's folder"], found
