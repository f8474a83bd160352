"""Event files for TensorBoard, written by the caller itself: a full disk is the caller's OSError, not a thread's."""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

FILE_VERSION = "brain.Event:2"
_COUNT = itertools.count()


class EventFile:
    """Scalars of one attempt, readable at once. Raises OSError where the disk takes nothing more."""

    def __init__(self, folder: Path, *, purge_step: int) -> None:
        """TensorBoard forgets what earlier files of this folder say of `purge_step` and later."""
        from tensorboard.compat.proto.event_pb2 import SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_COUNT)}"
        self._path = folder / name
        self._write(
            {"file_version": FILE_VERSION}, {"step": purge_step, "session_log": SessionLog(status=SessionLog.START)}
        )

    def add_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._write({"step": step, "summary": Summary(value=values)})

    def _write(self, *events: dict[str, Any]) -> None:
        """The file is open no longer than this takes: a disk with files open for writing cannot be made read-only."""
        with self._path.open("ab") as file:
            for fields in events:
                write_event(file, wall_time=time.time(), **fields)


def write_event(file: BinaryIO, **fields: Any) -> None:
    """Append one event, with the fields of TensorBoard's `Event` message, as a checksummed record."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    RecordWriter(file).write(Event(**fields).SerializeToString())
