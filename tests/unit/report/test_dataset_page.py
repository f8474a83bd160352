"""The page of a prepared data set."""

from __future__ import annotations

import base64
import io
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from tests.unit.data.prepare.pictures import image_folder

from scaledl.config.schema import PrepareConfig
from scaledl.data.prepare.run import prepare
from scaledl.report import write_dataset_page

pytestmark = pytest.mark.unit


def page_of(tmp_path: Path, classes: tuple[str, ...]) -> str:
    source = image_folder(tmp_path / "animals <b>", classes)
    first = next(source.rglob("000.png"))
    shutil.copy(first, first.with_name("copy & more.png"))
    (source / classes[0] / "broken.png").write_bytes(b"")
    document = prepare(source, tmp_path / "out", PrepareConfig(max_dropped=1))
    return write_dataset_page(tmp_path / "out", document).read_text()


def test_it_shows_classes_pictures_and_what_was_left_out(tmp_path: Path) -> None:
    text = page_of(tmp_path, ("cat", "dog"))
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert len(images) == 16
    assert all(Image.open(io.BytesIO(base64.b64decode(image))).size == (24, 24) for image in images)
    assert "empty file" in text
    assert "an exact copy" in text
    assert f"data.source={tmp_path}/out" in text
    assert "<svg" in text


def test_names_are_text_and_nothing_is_fetched(tmp_path: Path) -> None:
    text = page_of(tmp_path, ("<script>alert(1)</script>".replace("/", "∕"), 'a"b'))
    assert "<script" not in text
    assert "animals &lt;b&gt;" in text
    assert "copy &amp; more.png" in text
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in text
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
