"""The status files of a guardian's ranks, kept up to date."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from scaledl.distributed.cause import forget_causes
from scaledl.distributed.status import ENDED, RankStatus, status_path, write_status
from scaledl.distributed.stderr import warn
from scaledl.distributed.ward import Ward
from scaledl.errors import ScaledlError

STEP_SECONDS = 2.0
STEP_SECONDS_PER_RANK = 1 / 32  # so that a shared filesystem sees no more than 32 of these a second
TOUCH_SECONDS = 30.0


class Journal:
    """A change of status is written at once, a step now and then, and a file that stays as it is is touched.

    `folder` holds the files from the start to the end. What a rank announces may change from one training of a chain
    to the next: the newest folder gets the steps, all get the end.
    """

    def __init__(self, wards: Sequence[Ward], folder: Path | None, world_size: int) -> None:
        self._wards = wards
        self._folder = folder
        self._seconds = max(STEP_SECONDS, world_size * STEP_SECONDS_PER_RANK)
        self._written: dict[Path, RankStatus] = {}  # by file
        self._due: dict[Path, float] = {}
        self._warned = False

    @property
    def folders(self) -> list[Path]:
        """Where other guardians of this launch look as well."""
        announced = [folder for ward in self._wards for folder in ward.folders]
        return list(dict.fromkeys([*([self._folder] if self._folder else []), *announced]))

    def attempt(self, folder: Path) -> int:
        """At the run of this folder; 0 where it is no run's."""
        return max(ward.attempts.get(folder, 0) for ward in self._wards)

    def write(self) -> None:
        for ward in self._wards:
            current = ward.folders if ward.status.status in ENDED else ward.folders[-1:]
            for folder in dict.fromkeys([*([self._folder] if self._folder else []), *current]):
                self._keep(folder, ward.status)

    def _keep(self, folder: Path, status: RankStatus) -> None:
        path = status_path(folder, status.rank)
        written, moment = self._written.get(path), time.monotonic()
        if written is None and status.rank == 0:
            forget_causes(folder, status.launch, self.attempt(folder))
        if written is None or _is_news(written, status):
            self._replace(folder, path, status, durable=True)
        elif moment < self._due[path]:
            return
        elif status != written:
            self._replace(folder, path, status, durable=False)
        elif moment > self._due[path] + TOUCH_SECONDS:
            self._due[path] = moment
            with suppress(OSError):
                os.utime(path)

    def _replace(self, folder: Path, path: Path, status: RankStatus, *, durable: bool) -> None:
        """A status that cannot be written must not end a training; a folder that was removed is not made again."""
        if path in self._written and not folder.is_dir():
            return
        self._written[path], self._due[path] = status, time.monotonic() + self._seconds
        try:
            write_status(folder, status, durable=durable)
        except (ScaledlError, OSError) as error:
            self._warn(str(error))

    def _warn(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            warn(f"{text}. The training goes on without it")


def _is_news(written: RankStatus, status: RankStatus) -> bool:
    return (written.status, written.exit, written.message) != (status.status, status.exit, status.message)
