"""A guardian's words: it can be kept from its duties neither by a reader who left nor by one who does not read."""

from __future__ import annotations

import os
import select
import sys
from contextlib import suppress

from scaledl.console import get_console

_READER_SECONDS = 1.0


def error(text: str) -> None:
    """One line, in the console's form."""
    with suppress(OSError, ValueError, AttributeError):
        if _is_ready(sys.stderr.fileno()):
            get_console().error(text)


def warn(text: str) -> None:
    """One line, in the console's form."""
    with suppress(OSError, ValueError, AttributeError):
        if _is_ready(sys.stderr.fileno()):
            get_console().warn(text)


def to_stderr(text: str) -> None:
    """A text of any length, as it is."""
    data = text.encode(errors="backslashreplace")
    with suppress(OSError, ValueError, AttributeError):
        descriptor = sys.stderr.fileno()
        while data and _is_ready(descriptor):
            data = data[os.write(descriptor, data[: select.PIPE_BUF]) :]


def _is_ready(descriptor: int) -> bool:
    """A pipe that is ready takes PIPE_BUF bytes without a wait."""
    return bool(select.select([], [descriptor], [], _READER_SECONDS)[1])
