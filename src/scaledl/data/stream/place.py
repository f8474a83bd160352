"""Where a prepared data set lies: a folder, or a URL."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from scaledl.config.schema import DataConfig
from scaledl.data.prepare.shards import shard_files
from scaledl.data.prepare.store import DOCUMENT, parse_document, read_document
from scaledl.data.stored import BYTES, INPUTS, Form
from scaledl.data.stream.remote import DOCUMENT_BYTES, RemoteFolder, is_url
from scaledl.data.stream.samples import Samples
from scaledl.data.stream.shard import ShardFile, check_size
from scaledl.data.stream.split import Stream
from scaledl.errors import UsageError


class Place(Protocol):
    """A data set's files. `where` names it in messages, `name` in what is trained on it."""

    where: str
    name: str

    def document(self) -> dict[str, Any]: ...

    def find(self, name: str, size: int, sha256: str) -> tuple[Path, IO[bytes] | None]:
        """Its path on this machine, and what keeps it there."""
        ...

    def check(self, shards: Sequence[ShardFile], at_a_time: int, arrays: int) -> None:
        """Raises UsageError for what would fail later. `arrays`: bytes of the files that are open all the time."""
        ...


def open_place(config: DataConfig) -> Place:
    """Where `data.root` points. Raises UsageError for a URL that cannot be used here."""
    assert config.root is not None
    return _Remote(config) if is_url(config.root) else _Local(Path(config.root).expanduser())


def build_stream(place: Place, document: dict[str, Any], config: DataConfig, arrays: int) -> Stream:
    """The training split of a set in shards, whose samples are what is stored. `arrays`: bytes of the files that are
    open beside them.

    Raises UsageError where shards are missing or cut short, or where the cache is too small.
    """
    files, form, stream = shard_files(document), Form.of(document), config.stream

    def check(counts: Sequence[int]) -> None:
        place.check(files, open_at_a_time(counts, config), arrays)

    check([file.rows for file in files])
    return Stream(
        files,
        form,
        Samples(form.field(INPUTS.get(document["modality"], BYTES)), form.field("labels")),
        lambda file: place.find(file.name, file.bytes, file.sha256),
        stream.window_shards,
        stream.prefetch_shards,
        check_fn=check,
    )


def open_at_a_time(counts: Sequence[int], config: DataConfig) -> int:
    """Shards that are open at most, over all processes that read at the same place; `counts`: rows of each.

    Worker processes of torch are up to two batches each ahead, and hold what their last one had.
    """
    window, batches = config.stream.window_shards, 3 * config.num_workers or 1
    block = max(1, sum(count // window for count in sorted(counts)[:window]))  # the smallest one that can be
    further = -(-config.batch_size * batches // block)
    return min(len(counts), window + config.stream.prefetch_shards + further)


class _Local:
    def __init__(self, folder: Path) -> None:
        self._folder, self.where, self.name = folder, str(folder), folder.resolve().name

    def document(self) -> dict[str, Any]:
        return read_document(self._folder)

    def find(self, name: str, size: int, sha256: str) -> tuple[Path, None]:
        # It is mapped where it lies; `scaledl data inspect --verify` looks at its bytes.
        return self._folder / name, None

    def check(self, shards: Sequence[ShardFile], at_a_time: int, arrays: int) -> None:
        for file in shards:
            check_size(self._folder / file.name, file)


class _Remote:
    def __init__(self, config: DataConfig) -> None:
        self._folder, self._limit = RemoteFolder(config), config.stream.cache_gb * 1e9
        self.where = self._folder.url
        self.name = self.where.rpartition("/")[2]

    def document(self) -> dict[str, Any]:
        return parse_document(self._folder.read(DOCUMENT, DOCUMENT_BYTES), f"{self.where}/{DOCUMENT}")

    def find(self, name: str, size: int, sha256: str) -> tuple[Path, IO[bytes]]:
        return self._folder.open(name, size, sha256)

    def check(self, shards: Sequence[ShardFile], at_a_time: int, arrays: int) -> None:
        needed = arrays + sum(sorted((file.bytes for file in shards), reverse=True)[:at_a_time])
        if needed <= self._limit:
            return
        what = f"arrays of {arrays / 1e9:.3g} GB" + (f" and up to {at_a_time} shards" if shards else "")
        fix = "raise it" + (
            ", or lower data.stream.window_shards, data.stream.prefetch_shards, data.batch_size or data.num_workers"
            if arrays <= self._limit and shards
            else ""
        )
        raise UsageError(
            f"data.stream.cache_gb: got {self._limit / 1e9:g}; {what} are open at a time, which is {needed / 1e9:.3g}; "
            f"fix: {fix}"
        )
