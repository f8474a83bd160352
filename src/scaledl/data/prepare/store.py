"""A prepared data set on the disk: arrays to be mapped, and what has to be known of them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from scaledl.data.prepare.document import broken_fields
from scaledl.data.prepare.images import Pixels
from scaledl.data.prepare.items import SPLITS, Dropped, Item, listed_label
from scaledl.data.stored import INDEX, PARTS
from scaledl.errors import UsageError
from scaledl.run.files import atomic_file, atomic_json, sha256_file

FORMAT = 1
DOCUMENT, DROPPED, ITEMS = "dataset.json", "dropped.jsonl", "items.jsonl"
WORK, STAMP = ".work", ".source"
MOVING = "moving"  # in the work folder: images are being moved, for the places of which this is the hash
SHARDS = "train-*.safetensors"
_MOST_COUNTED, _COUNTED_BYTES = 4096, 16 << 20


def array_name(split: str, part: str) -> str:
    return f"{split}-{part}.npy"


def write_npy_header(file: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def npy_size(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    """Bytes of a file of such an array."""
    header = BytesIO()
    write_npy_header(header, dtype, shape)
    return len(header.getvalue()) + dtype.itemsize * math.prod(shape)


def write_npy(file: IO[bytes], values: NDArray[Any]) -> None:
    """As NumPy does, whose own writer does not say why a disk refuses."""
    write_npy_header(file, values.dtype, values.shape)
    file.write(np.ascontiguousarray(values).data)


def histogram(count: int, gather_fn: Callable[[NDArray[np.int64]], Pixels]) -> NDArray[np.int64]:
    """int64 [256, C]: how often each value occurs in each channel of `count` images, of 4,096 of them evenly spread
    where there are more. `gather_fn`: their numbers -> uint8 [K, H, W, C]."""
    from PIL import Image

    chosen = np.unique(np.linspace(0, count - 1, min(count, _MOST_COUNTED)).round().astype(np.int64))
    at_a_time = max(1, _COUNTED_BYTES // max(1, gather_fn(chosen[:1]).nbytes))
    total: Any = 0
    for part in np.array_split(chosen, max(1, -(-len(chosen) // at_a_time))):
        images = gather_fn(part)
        tall = images.reshape(-1, *images.shape[2:])
        counts = np.array(Image.fromarray(tall.squeeze(-1) if tall.shape[2] == 1 else tall).histogram())
        total = total + counts.reshape(-1, 256)
    return np.asarray(total, np.int64).T


def write_array(folder: Path, split: str, part: str, values: NDArray[Any]) -> None:
    with atomic_file(folder / array_name(split, part), "data set") as temporary, temporary.open("wb") as file:
        write_npy(file, values)


def write_blocks(
    folder: Path, split: str, part: str, blocks: Iterable[NDArray[np.float32]], shape: tuple[int, ...]
) -> None:
    """An array of this shape from blocks of its rows."""
    with atomic_file(folder / array_name(split, part), "data set") as temporary, temporary.open("wb") as file:
        write_npy_header(file, np.dtype(np.float32), shape)
        for block in blocks:
            file.write(np.ascontiguousarray(block).data)


def write_padded(folder: Path, split: str, series: Iterable[NDArray[Any]], shape: tuple[int, int, int]) -> None:
    """float32 [N, C, T] from [C, T_i] each: zeros behind a shorter one. Memory does not grow with N."""
    with atomic_file(folder / array_name(split, "series"), "data set") as temporary, temporary.open("wb") as file:
        write_npy_header(file, np.dtype(np.float32), shape)
        for values in series:  # written, not mapped: a full disk is an error then, and no SIGBUS
            row = np.zeros(shape[1:], np.float32)
            row[:, : values.shape[1]] = values
            file.write(row.data)


def clear(folder: Path) -> None:
    """Make room for new arrays, of any modality.

    The work folder comes first: it shows that what lies here is ours, should this be interrupted.
    """
    (folder / WORK).mkdir(parents=True, exist_ok=True)
    (folder / DOCUMENT).unlink(missing_ok=True)
    for name in {array_name(split, part) for split in SPLITS for parts in PARTS.values() for part in parts}:
        (folder / name).unlink(missing_ok=True)
    (folder / array_name("train", INDEX)).unlink(missing_ok=True)
    for path in folder.glob(SHARDS):
        path.unlink()


def write_lists(folder: Path, items: Iterable[tuple[int, str, Item]], dropped: Sequence[Dropped]) -> None:
    """`items.jsonl`: id, split, label and key of each; `dropped.jsonl`: key and reason of what is left out."""
    kept = ({"id": id, "split": split, "label": listed_label(item.label), "key": item.key} for id, split, item in items)
    left = (one.to_dict() for one in sorted(dropped, key=lambda one: (one.key, one.reason)))
    for name, rows in ((ITEMS, kept), (DROPPED, left)):
        with atomic_file(folder / name, "data set") as temporary, temporary.open("w", encoding="ascii") as file:
            file.writelines(json.dumps(row, ensure_ascii=True) + "\n" for row in rows)


def finish(folder: Path, document: dict[str, Any], rows: Mapping[str, int]) -> dict[str, Any]:
    """Hash the arrays and write the document that makes the folder a data set. Shards have their hashes; of arrays
    some may stand in `hashes`."""
    parts, shards, known = PARTS[document["modality"]], document.pop("shards", None), document.pop("hashes", {})
    in_arrays = [split for split in SPLITS if not (shards and split == "train")]
    names = [array_name(split, part) for split in in_arrays for part in parts]
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda name: known.get(name) or sha256_file(folder / name), names)
        hashes = dict(zip(names, found, strict=True))
    splits: dict[str, Any] = {
        split: {"rows": rows[split], "sha256": {part: hashes[array_name(split, part)] for part in parts}}
        for split in in_arrays
    }
    if shards:
        splits["train"] = {"rows": rows["train"], "shards": shards}
    meaning = [document[name] for name in ("labels", "columns", "target", "target_classes") if name in document]
    text = json.dumps([splits, *meaning], sort_keys=True)
    if shards and document.get("target", "class") == "class":  # it repeats what is in the shards
        splits["train"][INDEX] = sha256_file(folder / array_name("train", INDEX))
    whole = {"format": FORMAT, **document, "splits": splits, "fingerprint": hashlib.sha256(text.encode()).hexdigest()}
    atomic_json(folder / DOCUMENT, whole, "data set")
    return whole


def missing_files(folder: Path) -> list[str]:
    """Names of arrays and lists that a data set should have and has not."""
    names = [*hashes(read_document(folder)), ITEMS, DROPPED]
    return [name for name in names if not (folder / name).is_file()]


def hashes(document: dict[str, Any]) -> dict[str, str]:
    """The SHA-256 of every file with samples, by its name."""
    found: dict[str, str] = {}
    for split, about in document["splits"].items():
        found |= {array_name(split, part): hash for part, hash in about.get("sha256", {}).items()}
        found |= {shard["name"]: shard["sha256"] for shard in about.get("shards", ())}
        found |= {array_name(split, INDEX): about[INDEX]} if INDEX in about else {}
    return found


def read_document(folder: Path) -> dict[str, Any]:
    """Raises UsageError where there is no prepared data set, or one that is damaged or of another format."""
    path = folder / DOCUMENT
    try:
        return parse_document(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise UsageError(
            f"{folder}: no prepared data set ({DOCUMENT} is missing); make one with: "
            f"scaledl data prepare SOURCE --out {folder}"
        ) from None
    except NotADirectoryError:
        raise UsageError(
            f"{folder}: got a file; allowed: the folder of a prepared data set; fix: make one of the file with: "
            f"scaledl data prepare {folder} --out DIR"
        ) from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error}); fix: prepare it again with --force") from error


def parse_document(data: bytes, where: str) -> dict[str, Any]:
    """As `read_document`, of its bytes."""
    try:
        found: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: cannot be read ({error}); fix: prepare it again with --force") from error
    document: dict[str, Any] = found if isinstance(found, dict) else {}
    got = document.get("format")
    if type(got) is not int or got != FORMAT:
        what = got if type(got) is int else f"of {type(got if document else found).__name__}"
        raise UsageError(f"{where}: format {what}, and this scaledl reads {FORMAT}; fix: prepare it again with --force")
    try:
        broken = next(broken_fields(document, PARTS), None)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    if broken:
        raise UsageError(f"{where}: is not whole ({broken}); fix: prepare it again with --force")
    return document
