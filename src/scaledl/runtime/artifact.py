"""What an exported file says about itself, read without running any of it, and whether its origin is known."""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from scaledl.errors import UsageError
from scaledl.run import Run
from scaledl.runtime.columns import TableColumn
from scaledl.runtime.outputs import OutputSpec
from scaledl.runtime.signature import KINDS, Inputs, Kind

SCHEMA_VERSION = 3
MANIFEST_FILE = "scaledl.json"
CASES_FILE = "cases.safetensors"
TOKENIZER_FILE = "tokenizer.json"
LAYOUTS: dict[str, Kind] = {"NF": "table", "NCT": "series", "NCHW": "image", "NT": "text"}  # of a batch
MAX_MANIFEST_BYTES = 16 * 2**20
MAX_TOKENIZER_BYTES = 64 * 2**20
MAX_CASES_BYTES = 256 * 2**20


class HashMismatch(UsageError):
    """The file is not the one that was recorded."""


@dataclass(frozen=True)
class InputSpec:
    """What one input looks like and how raw values become it.

    Attributes:
        shape: of one input: (C, H, W) of an image, (F,) of a row, (C, T) of a series, (T,) of a text.
        mean, std: for each channel or column; of images in units where 255 is 1. Of texts none.
        kind: image, table, series or text; by default what `shape` says.
        vocabulary: of texts, how many token ids there are.
        tokenizer: of texts, the JSON of Hugging Face's library that makes T ids of each.
        categories: of tables, see `Inputs.categories`.
        columns: of tables, what rows by name have, where the file says it.
    """

    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    kind: Kind | None = None
    vocabulary: int = 0
    tokenizer: str = field(default="", repr=False)
    categories: tuple[int, ...] = ()
    columns: tuple[TableColumn, ...] = field(default=(), repr=False)

    @property
    def inputs(self) -> Inputs:
        return Inputs(self.kind or KINDS[len(self.shape)], self.shape, self.vocabulary, self.categories)

    @property
    def is_image(self) -> bool:
        return self.inputs.kind == "image"

    @property
    def is_text(self) -> bool:
        return self.kind == "text"

    def normalize(self, inputs: Tensor) -> Tensor:
        """(x / 255 - mean) / std of images, uint8 [N, H, W, C] -> float32 [N, C, H, W], channels_last; token ids of
        texts as int64 [N, T]; (x - mean) / std of others, float32 [N, *shape]."""
        if self.is_text:
            return inputs.long()
        return self._of_pixels(inputs) if self.is_image else self._of_values(inputs)

    def _of_pixels(self, images: Tensor) -> Tensor:
        channels, height, width = self.shape
        # A row as long as an image: broadcasting over three channels alone would run three elements at a time.
        mean, std = (torch.tensor(value, dtype=torch.float32).repeat(height * width) for value in (self.mean, self.std))
        rows = images.to(torch.float32, memory_format=torch.contiguous_format).reshape(len(images), -1)
        rows.div_(255).sub_(mean).div_(std)
        return rows.view(len(images), height, width, channels).permute(0, 3, 1, 2)

    def _of_values(self, values: Tensor) -> Tensor:
        shape = (len(self.mean), *[1] * (len(self.shape) - 1))
        mean, std = (torch.tensor(value, dtype=torch.float32).view(shape) for value in (self.mean, self.std))
        return (values - mean).div_(std)


@dataclass(frozen=True)
class Cases:
    """Real test inputs, raw, with their targets and the outputs of the source model.

    inputs: uint8 [N, H, W, C], float32 [N, *shape], ids int32 [N, T]; labels: [N, ...]; outputs: float32 [N, ...].
    """

    inputs: Tensor
    labels: Tensor
    outputs: Tensor


@dataclass(frozen=True)
class ArtifactSpec:
    """The parts of an artifact's manifest that using it needs; `manifest` is the whole of it."""

    labels: tuple[str, ...]
    input: InputSpec
    output: OutputSpec
    engine: str | None
    manifest: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class KnownHash:
    """A hash that stands outside the file, and where."""

    sha256: str
    size: int | None
    origin: Path


def sidecar_path(path: Path) -> Path:
    """The small file beside an artifact that holds its hash and its verification."""
    return path.with_name(path.name + ".json")


def owning_run(path: Path) -> Run | None:
    """The run whose exports folder `path` lies in, if it lies in one."""
    folder = path.absolute().parent
    if folder.name != "exports" or not (folder.parent / "manifest.json").is_file():
        return None
    return Run.open(folder.parent)


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """The content of the sidecar of artifact `path`, None when there is none; UsageError when it is damaged."""
    sidecar = sidecar_path(path)
    if not sidecar.is_file():
        return None
    value = _parse_json(sidecar.read_bytes()[: MAX_MANIFEST_BYTES + 1], str(sidecar))
    if not isinstance(value.get("sha256"), str) or not isinstance(value.get("size"), int):
        raise UsageError(f"{sidecar}: damaged: it holds no sha256 and size; export the run again")
    return value


def known_hashes(path: Path) -> list[KnownHash]:
    """Every hash of `path` that stands outside it: in its sidecar and in the manifest of the run it lies in."""
    found = []
    sidecar = read_sidecar(path)
    if sidecar is not None:
        found.append(KnownHash(sidecar["sha256"], sidecar["size"], sidecar_path(path)))
    run = owning_run(path)
    recorded = run.manifest.files.get(f"exports/{path.name}") if run else None
    if run and recorded:
        found.append(KnownHash(recorded, None, run.path / "manifest.json"))
    return found


def read_trusted(path: str | Path, *, trust: bool = False) -> bytes:
    """The bytes of an artifact whose hash is known to be right, or that the user vouches for.

    The bytes are hashed once they are in memory, so that what is loaded is what was checked.

    Raises:
        HashMismatch: the file was cut short or changed.
        UsageError: missing, a folder, not an artifact, or of unknown origin without `trust`.
    """
    path = Path(path)
    data = _read(path)
    known = known_hashes(path)
    _check_hashes(path, data, known)
    read_spec(data, path)
    if not known and not trust:
        raise UsageError(
            f"{path}: of unknown origin: no hash of it is recorded beside it ({sidecar_path(path).name}) or in the "
            "manifest of a run. A TorchScript file is code: if you know where it comes from, say so with --trust"
        )
    return data


def read_spec(data: bytes, path: Path) -> ArtifactSpec:
    """Labels, input and preprocessing of the artifact in `data`. Nothing of it is run. `path` is for messages."""
    spec = _parse_spec(_parse_json(_extra_file(data, path, MANIFEST_FILE, MAX_MANIFEST_BYTES), f"{path}"), path)
    if not spec.input.is_text:
        return spec
    try:
        tokenizer = _extra_file(data, path, TOKENIZER_FILE, MAX_TOKENIZER_BYTES).decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: its {TOKENIZER_FILE} is damaged ({error})") from error
    return replace(spec, input=replace(spec.input, tokenizer=tokenizer))


def read_cases(data: bytes, path: Path) -> Cases:
    """The embedded test cases of the artifact in `data`. Raises UsageError when they are damaged."""
    try:
        tensors = load_safetensors(_extra_file(data, path, CASES_FILE, MAX_CASES_BYTES))
        cases = Cases(tensors["inputs"], tensors["labels"], tensors["outputs"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise UsageError(f"{path}: its embedded test cases are damaged ({type(error).__name__}: {error})") from error
    rows = {len(cases.inputs), len(cases.labels), len(cases.outputs)}
    if len(rows) != 1 or 0 in rows or (cases.inputs.dtype == torch.uint8) != (cases.inputs.ndim == 4):
        raise UsageError(f"{path}: its embedded test cases are damaged: inputs, labels and outputs do not fit together")
    return cases


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise UsageError(f"{path}: a folder, not a file; give the exported file in it, such as exports/model.ts")
    if path.exists() and not path.is_file():
        raise UsageError(f"{path}: a pipe or a device, not a file; give an exported file")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; make one with: scaledl export RUN") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error


def _check_hashes(path: Path, data: bytes, known: list[KnownHash]) -> None:
    actual = hashlib.sha256(data).hexdigest()
    for record in known:
        if record.sha256 == actual:
            continue
        what = f"its SHA-256 is {actual[:16]}…, recorded is {record.sha256[:16]}…"
        if record.size is not None and len(data) < record.size:
            what = f"cut short: {len(data):,} of {record.size:,} bytes; {what}"
        raise HashMismatch(f"{path}: not the file that {record.origin} records: {what}. Export it again")


def _extra_file(data: bytes, path: Path, name: str, limit: int) -> bytes:
    """One extra file of a TorchScript archive, of at most `limit` bytes."""
    archive = _open_archive(data, path)
    root = archive.namelist()[0].split("/", 1)[0]
    try:
        info = archive.getinfo(f"{root}/extra/{name}")
        if info.file_size > limit:
            raise UsageError(f"{path}: its {name} is {info.file_size:,} bytes, more than the {limit:,} allowed")
        return archive.read(info)
    except KeyError:
        raise UsageError(f"{path}: a TorchScript file without {name}: it was not exported by scaledl") from None
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, ValueError, EOFError) as error:
        raise UsageError(f"{path}: its {name} is damaged ({error})") from error


def _open_archive(data: bytes, path: Path) -> zipfile.ZipFile:
    if not data:
        raise UsageError(f"{path}: an empty file")
    if not data.startswith(b"PK"):
        raise UsageError(f"{path}: not a TorchScript file (those are zip archives)")
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        names = archive.namelist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise UsageError(f"{path}: cut short or damaged: its zip directory cannot be read ({error})") from error
    if not any(name.endswith("/constants.pkl") for name in names):
        raise UsageError(f"{path}: a zip archive, but not a TorchScript file")
    return archive


def _parse_json(data: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: damaged: not JSON ({type(error).__name__})") from error
    if not isinstance(value, dict):
        raise UsageError(f"{where}: damaged: a JSON object is expected, got {type(value).__name__}")
    return value


def _parse_spec(manifest: Mapping[str, Any], path: Path) -> ArtifactSpec:
    version = manifest.get("schema_version")
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"{path}: made for schema version {version!r}, this scaledl reads {SCHEMA_VERSION}; export the run again"
        )
    try:
        shape = tuple(int(size) for size in manifest["input"]["shape"])
        kind, vocabulary = LAYOUTS[manifest["input"]["layout"]], int(manifest["input"].get("vocabulary", 0))
        categories = tuple(int(count) for count in manifest["input"].get("categories", ()))
        steps = manifest["preprocessing"]
        columns = tuple(map(TableColumn.from_dict, steps.get("columns", ())))
        mean, std = (tuple(float(value) for value in steps[key]) for key in ("mean", "std"))
        engine = manifest["int8"]["engine"] if manifest["int8"] else None
        labels = tuple(str(label) for label in manifest["labels"])
        output = OutputSpec.from_dict(manifest["output"])
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise UsageError(f"{path}: its {MANIFEST_FILE} is damaged ({type(error).__name__}: {error})") from error
    named = output.kind not in ("class", "classes", "numbers", "tags", "mask") or len(labels) == output.shape[0]
    spec = InputSpec(shape, mean, std, kind, vocabulary, categories=categories, columns=columns)
    if not _fits(spec) or not named:
        raise UsageError(
            f"{path}: its {MANIFEST_FILE} is damaged: input shape, labels, mean and std do not fit together"
        )
    return ArtifactSpec(labels, spec, output, engine, dict(manifest))


def _fits(spec: InputSpec) -> bool:
    try:
        inputs = spec.inputs
    except ValueError:
        return False
    scaled = 0 if inputs.kind == "text" else inputs.shape[0]
    positive = all(value > 0 for value in spec.std)
    widths = [1 if inputs.categories else len(column.categories) or 1 for column in spec.columns]
    if spec.columns and (inputs.kind != "table" or sum(widths) != inputs.size):
        return False
    return {len(spec.mean), len(spec.std)} == {scaled} and all(map(math.isfinite, spec.mean + spec.std)) and positive
