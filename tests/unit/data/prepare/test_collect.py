"""Keys of `data.prepare` that a source has no use for are no silent wish."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaledl.config.schema import PrepareConfig
from scaledl.data.prepare.run import prepare
from scaledl.data.prepare.survey import survey
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit


def table(folder: Path) -> Path:
    path = folder / "t.csv"
    path.write_text("a,b,label\n" + "".join(f"{i / 7},{i % 5},{'xy'[i % 2]}\n" for i in range(40)))
    return path


def texts(folder: Path) -> Path:
    for number in range(40):
        path = folder / "texts" / "xy"[number % 2] / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"word {number} of {number * number}")
    return folder / "texts"


def series(folder: Path) -> Path:
    """With a tag for each step."""
    path, rng = folder / "t.npz", np.random.default_rng(0)
    np.savez(path, x=rng.normal(size=(40, 2, 9)), y=rng.integers(0, 3, (40, 9)))
    return path


def images(folder: Path) -> Path:
    path = folder / "i.npz"
    np.savez(path, x=np.random.default_rng(0).integers(0, 256, (40, 6, 6), dtype=np.uint8), y=np.arange(40) % 2)
    return path


ROWS, IMAGES = "holds rows of a table; allowed: with images", "an .npz file, which has no columns"
CASES: list[tuple[Callable[[Path], Path], dict[str, Any], str]] = [
    (table, {"size": 64}, f"data.prepare.size: got 64, but SOURCE {ROWS}; fix: leave it out"),
    (table, {"fit": "pad"}, f"data.prepare.fit: got 'pad', but SOURCE {ROWS}; fix: leave it out"),
    (table, {"max_pixels": 9}, ROWS),
    (table, {"near_distance": 3}, ROWS),
    (table, {"near_duplicates": "drop"}, "holds rows of a table; allowed: with images and texts"),
    (table, {"near_similarity": 0.9}, "holds rows of a table; allowed: with texts"),
    (texts, {"channels": 1}, "data.prepare.channels: got 1, but SOURCE holds texts; allowed: with images"),
    (texts, {"missing": "drop"}, "data.prepare.missing: got 'drop', but SOURCE holds texts; allowed: with rows of a"),
    (texts, {"exclude": ["label"]}, "data.prepare.exclude: got ['label'], but SOURCE holds texts"),
    (series, {"size": 64}, "data.prepare.size: got 64, but SOURCE holds series; allowed: with images"),
    (series, {"delimiter": ";"}, "data.prepare.delimiter: got ';', but SOURCE holds series; allowed: with rows"),
    (images, {"missing": "zero"}, "data.prepare.missing: got 'zero', but SOURCE holds images; allowed: with rows of a"),
    (images, {"near_similarity": 0.9}, "holds images; allowed: with texts"),
    (images, {"label": "b"}, f"data.prepare.label: got 'b', but SOURCE is {IMAGES}"),
    (images, {"group": "b"}, IMAGES),
]


@pytest.mark.parametrize(("make", "settings", "message"), CASES)
def test_a_key_that_a_source_has_no_use_for_is_refused(
    make: Callable[[Path], Path], settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    source, config = make(tmp_path), PrepareConfig(**settings)
    for call in (lambda: prepare(source, tmp_path / "set", config), lambda: survey(source, config)):
        with pytest.raises(UsageError) as caught:
            call()
        assert message.replace("SOURCE", str(source)) in str(caught.value)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("make", [table, texts, series, images])
def test_what_stands_in_every_config_is_no_wish(make: Callable[[Path], Path], tmp_path: Path) -> None:
    """All keys as they are, and nothing else that is not there already: near duplicates are kept where none are."""
    plain = PrepareConfig().model_dump()
    prepare(make(tmp_path), tmp_path / "set", PrepareConfig(**{**plain, "near_duplicates": "keep"}))
