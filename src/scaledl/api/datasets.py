"""data prepare, inspect, preview, audit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaledl.config import Config, load_config
from scaledl.config.imported import check_trusted
from scaledl.config.registry import SOURCES
from scaledl.errors import UsageError, require_extra
from scaledl.run import Run, atomic_file

if TYPE_CHECKING:
    from scaledl.data import DataModule

DOCUMENT = "dataset.json"


def prepare_data(source: str, out: Path, config: Config, *, force: bool = False) -> tuple[dict[str, Any], Path]:
    """Make a data set of arrays in the folder `out`; returns its document and its page.

    The source is only read. The same call goes on after an interruption, and does nothing where all is done.
    Raises UsageError for a source, or an `out`, that cannot be used.
    """
    _check_local(source, "prepare")
    from scaledl.data.prepare.run import prepare
    from scaledl.report import write_dataset_page

    document = prepare(Path(source), out, config.data.prepare, force=force)
    return document, write_dataset_page(out, document)


def survey_source(source: str, config: Config) -> dict[str, Any]:
    """What an unprepared source holds; nothing is written. Raises UsageError for one that cannot be used.

    Keys: source, kind, modality, items, classes (name -> items), splits that the source says (name -> items),
    num_problems and the first of these, notes; of rows, texts and series copies (items that are equal to another one)
    and contradictions (equal ones with several labels); of images the sizes of those whose headers were looked at.
    """
    _check_local(source, "inspect")
    from scaledl.data.prepare.survey import survey

    return survey(Path(source), config.data.prepare)


def is_unprepared(target: str) -> bool:
    """Whether a target is what `data prepare` takes: no prepared folder, no config, no name of a source."""
    path = Path(target)
    if target in SOURCES or _is_url(target) or (path / DOCUMENT).exists():
        return False
    if path.is_file():
        return path.suffix.lower() not in (".yaml", ".yml", "")
    return path.is_dir() or target.startswith("python:") or any(letter in target for letter in "*?[")


def config_of_data(target: str, overrides: list[str]) -> Config:
    """The config whose data are meant: a prepared folder or its URL, a config file, or the name of a source."""
    path = Path(target)
    url = _is_url(target)
    if url or (path / DOCUMENT).exists():
        root = target if url else path
        return load_config(None, ["data.source=prepared", f"data.root={root}", *overrides], space=False)
    if target in SOURCES:
        return load_config(None, [f"data.source={target}", *overrides], space=False)
    if path.is_file():
        return load_config(path, overrides, space=False)
    if path.is_dir():
        raise UsageError(f"{target}: not prepared yet; make it with: scaledl data prepare {target} --out FOLDER")
    raise UsageError(
        f"{target}: no prepared folder, no config file, and no source of that name; "
        f"sources: {', '.join(SOURCES.names())}"
    )


def open_data(config: Config) -> DataModule:
    """The data of a config. Raises UsageError."""
    from scaledl.data import build_data

    return build_data(config.data, config.run.seed)


def describe_data(config: Config) -> dict[str, Any]:
    """What there is to say about the data of a config; of a prepared set without reading its arrays.

    Keys: source, modality, labels, rows by split, classes by split (nothing where there are none), fingerprint; of
    images in_shape, mean and std; of a prepared set all that its `dataset.json` has. Raises UsageError for a URL.
    """
    if (folder := _prepared_folder(config, "inspect and stats")) is not None:
        from scaledl.data.prepare.items import SPLITS
        from scaledl.data.prepare.store import read_document

        document = read_document(folder)
        rows = {split: document["splits"][split]["rows"] for split in SPLITS}
        return {"source": str(folder), **document, "rows": rows, "classes": document["profile"]["classes"]}
    data = open_data(config)
    parts = {"train": data.train, "val": data.val, "test": data.test}
    counts = {split: list(data.class_counts(split)) for split in parts}  # type: ignore[arg-type]
    classes = counts if any(counts.values()) else {}
    rows = {split: len(arrays) for split, arrays in parts.items()}
    spec = {key: value for key, value in data.spec.to_dict().items() if key != "tokenizer"}
    return {"modality": data.spec.modality, **spec, "rows": rows, "classes": classes}


def changed_files(config: Config) -> list[str]:
    """Files of a prepared set whose bytes are not those that it was made with. Raises UsageError for other data."""
    from scaledl.data.prepare.store import read_document
    from scaledl.data.prepared import check_files

    folder = _prepared_folder(config, "inspect")
    if folder is None:
        raise UsageError("--verify: only for a prepared data set; other sources are checked whenever they are read")
    return check_files(folder, read_document(folder))


def preview(config: Config, output: Path, *, count: int, epoch: int) -> Path:
    """Write a contact sheet, PNG, of training samples as the model sees them in this epoch, after augmentation."""
    require_extra("PIL", "vision")
    from PIL import Image

    from scaledl.data.preview import contact_sheet

    sheet = contact_sheet(open_data(config), config, count, epoch)
    with atomic_file(output, "contact sheet") as temporary:
        Image.fromarray(sheet.squeeze(-1) if sheet.shape[2] == 1 else sheet).save(temporary, "PNG")
    return output


@dataclass(frozen=True)
class Suspect:
    """A sample whose label a trained model doubts: `id` in its data set, `key` where that is known."""

    id: int
    split: str
    label: str
    suggested: str
    confidence: float
    key: str = ""


def audit(run: Run, splits: list[str], *, trust: bool = False) -> tuple[list[Suspect], int]:
    """Samples whose label is probably wrong, the most certain first, and how many were looked at.

    Confident learning (Northcutt, Jiang and Chuang 2021): a sample is suspect where the model gives another class
    at least as much probability as that class gets on average from samples that carry it.
    Raises UsageError where the run's data are not what it was trained on, or lie behind a URL.
    """
    from scaledl.api.results import data_of
    from scaledl.data.audit import doubted, probabilities
    from scaledl.data.windows import ANOTHER
    from scaledl.models.structure import load_model

    config = run.config
    check_trusted(config, trust, str(run.path))
    folder = _prepared_folder(config, "audit")
    data = data_of(run, config)
    if data.spec.target != "class":
        raise UsageError(
            f"data audit: doubts labels of classes, and what {run.path} learned is of target {data.spec.target}"
        )
    module = load_model(run.model_dir, trust=trust).module.eval()
    keys = {} if folder is None else _keys(folder)
    suspects: list[Suspect] = []
    looked_at = 0
    for split in splits:
        arrays = {"train": data.train, "val": data.val, "test": data.test}[split]
        shares = probabilities(module, data.eval_loader(split, config.data.eval_batch_size))  # type: ignore[arg-type]
        looked_at += sum(data.class_counts(split))  # type: ignore[arg-type]
        for row, label, confidence in doubted(shares, arrays.labels):
            id = int(arrays.ids[row])
            given = data.spec.labels[int(arrays.labels[row])]
            suspects.append(Suspect(id, split, given, data.spec.labels[label], confidence, keys.get(id % ANOTHER, "")))
    return sorted(suspects, key=lambda one: (-one.confidence, one.id)), looked_at


def _prepared_folder(config: Config, action: str) -> Path | None:
    """Where the prepared set of a config lies; None for other sources. Raises UsageError for a URL."""
    if config.data.source not in ("prepared", "imagenet") or config.data.root is None:
        return None
    _check_local(config.data.root, action)
    folder = Path(config.data.root).expanduser()
    return folder if config.data.source == "prepared" or (folder / DOCUMENT).exists() else None


def _is_url(target: str) -> bool:
    from scaledl.data.stream.remote import is_url

    return is_url(target)


def _check_local(target: str, action: str) -> None:
    if _is_url(target):
        raise UsageError(
            f"{target}: is a URL; allowed for `scaledl data {action}`: files and folders of this machine; "
            "fix: copy it here"
        )


def _keys(folder: Path) -> dict[int, str]:
    """Where each sample of a prepared set came from."""
    import json

    path = folder / "items.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {row["id"]: row["key"] for row in map(json.loads, lines)}
