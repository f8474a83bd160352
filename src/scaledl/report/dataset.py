"""A prepared data set as one HTML page: classes, pictures, values, and what was left out."""

from __future__ import annotations

import base64
import io
import json
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaledl.report.charts import line_chart
from scaledl.report.html import Pairs, environment
from scaledl.run import atomic_write

PAGE = "index.html"
_MOST_CLASSES, _EACH = 24, 8
_SMALL = 64  # pixels; below, pictures are shown with hard edges
_WITHOUT = {"class": "train without label", "numbers": "train without all numbers"}
_SPLITS = ("train", "val", "test")


def write_dataset_page(folder: Path, document: dict[str, Any]) -> Path:
    """Write `index.html` into a prepared data set. Raises ScaledlError when it cannot be written."""
    path = folder / PAGE
    atomic_write(path, render_dataset(folder, document))
    return path


def render_dataset(folder: Path, document: dict[str, Any]) -> str:
    """The page as text."""
    plan = document["plan"]
    pictures = _pictures(folder, document) if document["modality"] == "image" else []
    return (
        environment()
        .get_template("dataset_template.html")
        .render(
            title=plan["source"],
            kind="data set",
            state="prepared",
            error=None,
            notices=document["notes"],
            metrics=_metrics(document),
            commands=_commands(folder, document),
            pictures=pictures,
            small=document["modality"] == "image" and document["in_shape"][1] < _SMALL,
            more_classes=max(0, len(document["labels"]) - _MOST_CLASSES) if len(pictures) > 1 else 0,
            splits=_SPLITS,
            classes=_classes(document),
            targets=document.get("targets", []),
            charts=_charts(document),
            dropped=_dropped(folder),
            made=_made(document),
        )
    )


def _commands(folder: Path, document: dict[str, Any]) -> list[str]:
    from scaledl.data.prepare.next_step import training_keys

    words = [f"data.source={shlex.quote(_as_folder(folder))}", *map(shlex.quote, training_keys(document))]
    return [f"scaledl train {' '.join(words)}"]


def _as_folder(folder: Path) -> str:
    """As `data.source` takes a folder: with a slash in it."""
    return f"{folder}" if "/" in str(folder) else f"./{folder}"


def _metrics(document: dict[str, Any]) -> Pairs:
    shape = " x ".join(map(str, document.get("in_shape", [])))
    rows = [(split, f"{document['splits'][split]['rows']:,}") for split in _SPLITS]
    if document.get("unlabeled"):
        rows.append((_WITHOUT.get(document.get("target", "class"), ""), f"{document['unlabeled']:,}"))
    return [("Kind", document["modality"]), *([("Shape", shape)] if shape else []), *rows]


def _classes(document: dict[str, Any]) -> list[dict[str, Any]]:
    counts = document["profile"]["classes"]
    if not counts:
        return []
    total = max(1, sum(counts["train"]))
    return [
        {
            "name": name,
            "counts": [f"{counts[split][i]:,}" for split in _SPLITS],
            "share": f"{100 * counts['train'][i] / total:.1f} %",
        }
        for i, name in enumerate(document["labels"])
    ]


def _pictures(folder: Path, document: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """The first images of each class, or of all; where there are shards, of the first one."""
    from scaledl.data.prepare.shards import training_images

    images, labels = training_images(folder, document)
    if document.get("target", "class") != "class":
        return [("all", [_png(image) for image in images[:_MOST_CLASSES]])]
    return [
        (name, [_png(images[row]) for row in np.flatnonzero(labels == i)[:_EACH]])
        for i, name in enumerate(document["labels"][:_MOST_CLASSES])
    ]


def _png(pixels: NDArray[np.uint8]) -> str:
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels.squeeze(-1) if pixels.shape[2] == 1 else pixels))
    image.thumbnail((128, 128))
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _charts(document: dict[str, Any]) -> list[Any]:
    histogram = document["profile"].get("histogram")
    if not histogram:
        return []
    names = ("grey",) if len(histogram) == 1 else ("red", "green", "blue")
    series = {name: _shares(channel) for name, channel in zip(names, histogram, strict=True)}
    return [line_chart(series, title="Pixel values of the training split", x_label="value", y_label="% of pixels")]


def _shares(counts: Sequence[int]) -> list[tuple[float, float]]:
    total = max(1, sum(counts))
    return [(float(value), 100 * count / total) for value, count in enumerate(counts)]


def _dropped(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "dropped.jsonl").read_text(encoding="utf-8").splitlines()]
    reasons = Counter(_short(row["reason"]) for row in rows)
    return [
        {"count": f"{count:,}", "reason": reason, "example": _example(reason, rows)}
        for reason, count in reasons.most_common()
    ]


def _short(reason: str) -> str:
    return reason.partition(":")[0]


def _example(reason: str, rows: Iterable[dict[str, str]]) -> str:
    row = next(row for row in rows if _short(row["reason"]) == reason)
    rest = row["reason"].partition(":")[2].strip()
    return row["key"] + (f" ({rest})" if rest else "") + (f" of {row['of']}" if row.get("of") else "")


def _made(document: dict[str, Any]) -> Pairs:
    plan = document["plan"]
    settings = [(name.replace("_", " "), str(value)) for name, value in plan["settings"].items()]
    versions = ", ".join(f"{name} {version}" for name, version in plan["versions"].items())
    return [
        ("Source", f"{plan['source']} ({plan['kind']})"),
        ("Fingerprint", document["fingerprint"]),
        *settings,
        ("Versions", versions),
    ]
