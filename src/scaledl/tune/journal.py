"""The file behind a study: Optuna's journal, an entry a line, on the disk once for each thing that happened."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from scaledl.console import get_console
from scaledl.run import atomic_write


class Journal(BaseJournalBackend):
    """Optuna's own backend takes a lock and syncs at every entry; here the lease of the directory allows one writer,
    and what belongs together is synced together.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = (0, 0)  # entries, bytes
        self._depth = 0
        self._unsynced = False

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Entries from this number on. Raises ValueError for a damaged one that is not the last."""
        number, offset = self._read if self._read[0] <= log_number_from else (0, 0)
        problem: ValueError | None = None
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(offset)
            for line in file:
                if problem is not None:
                    raise problem
                if not line.endswith(b"\n"):  # its writer is about to say the rest
                    return
                try:
                    entry = _entry_of(line)
                except ValueError as error:
                    problem = error
                    continue
                number, offset = number + 1, offset + len(line)
                if number > log_number_from:
                    self._read = number, offset
                    yield entry

    def append_logs(self, logs: Sequence[dict[str, Any]]) -> None:
        """Write entries; they are on the disk on return, or at the end of a `together` around it."""
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with self._path.open("ab") as file:
            file.write(lines.encode())
            file.flush()
            if self._depth == 0:
                os.fsync(file.fileno())
        self._unsynced = self._depth > 0

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is written inside is synced once, at its end. Others can read it at once."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0 and self._unsynced:
                self._unsynced = False
                with self._path.open("ab") as file:
                    os.fsync(file.fileno())


def _entry_of(line: bytes) -> dict[str, Any]:
    if not line.endswith(b"\n"):
        raise ValueError("an entry without its end")
    found = json.loads(line)
    if not isinstance(found, dict) or "op_code" not in found:
        raise ValueError("no entry of a journal")
    return found


def mend(path: Path) -> None:
    """Cut a journal off before its first line that is damaged, and keep what was cut off beside it.

    A kill or a full disk leaves half a line, and the next one would be glued to it. Raises ScaledlError where there
    is no room for what is cut off.
    """
    if not path.exists():
        return
    whole = 0
    content = path.read_bytes()
    with suppress(ValueError):
        for line in content.splitlines(keepends=True):
            _entry_of(line)
            whole += len(line)
    if whole == len(content):
        return
    aside = path.with_name(f"{path.name}.damaged-{int(time.time())}")
    atomic_write(aside, content[whole:], "damaged end of the journal")
    with path.open("rb+") as file:
        file.truncate(whole)
    lost, count = len(content[whole:].splitlines()), len(content.splitlines())
    get_console().warn(
        f"{path} was damaged at its end: the search goes on from what stands before ({lost} of "
        f"{count} entries left out, kept in {aside.name})"
    )
