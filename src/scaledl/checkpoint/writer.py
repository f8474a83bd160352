"""Writing checkpoints beside the training: the state is copied at once, and a thread brings it to the disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import CheckpointIO
from torch import Tensor, nn

from scaledl.checkpoint.content import check_fit, check_plain, read_checkpoint
from scaledl.checkpoint.files import FORMAT_VERSION, CheckpointInfo, newest_verified, prune_old
from scaledl.console import get_console
from scaledl.distributed.deferred import gather_all, write_streaming
from scaledl.distributed.memory import release_free_memory
from scaledl.errors import ScaledlError
from scaledl.run import atomic_file, atomic_json, sha256_file

SMALL_BYTES = 16 << 20
FIRST_REST_SECONDS = 0.2


@dataclass(frozen=True)
class Position:
    """Where in a training a checkpoint is taken, for its second file."""

    step: int
    epoch: int
    epoch_complete: bool
    val_loss: float | None


class CheckpointWriter(CheckpointIO):
    """Lightning's file access, made atomic, asynchronous and free of pickle; what is loaded has to fit `module`.

    One checkpoint is written at a time. What goes wrong in the thread is raised by the next call of `wait`, which every
    save begins with.
    """

    def __init__(
        self, module: nn.Module, *, keep_last: int, check_token: Callable[[], None], sharded: bool = False
    ) -> None:
        self.module = module
        self.keep_last = keep_last
        self.sharded = sharded  # what is saved is gathered tensor by tensor, what is loaded is taken in shards
        self.check_token = check_token
        self.position: Position | None = None  # of the checkpoint that is saved next
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._hurry = threading.Event()
        self._is_plain = False  # what it is given, seen at the first save

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        assert self.position is not None
        self.wait()
        if not self._is_plain:
            check_plain(checkpoint)
            self._is_plain = True
        state, path, position = snapshot(checkpoint), Path(path), self.position
        if self.sharded:
            with self._keeping_errors(path):
                self._start(path, self._finish, self._stream(state, path), path, position)
        else:
            self._start(path, self._write, [state], path, position)
            del state

    def wait(self) -> None:
        """Until the last save is on the disk. Raises ScaledlError when it could not be written."""
        if self._thread is not None:
            self._hurry.set()
            self._thread.join()
            self._hurry.clear()
            self._thread = None
        self.raise_error()

    def _rest(self, seconds: float) -> None:
        """The training needs the processor as well: a third of one is enough here, unless it waits for us."""
        self._hurry.wait(2 * seconds)

    def raise_error(self) -> None:
        """Raise what went wrong in a save that has ended meanwhile."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Wait; what went wrong is a warning, because something worse is being reported."""
        try:
            self.wait()
        except ScaledlError as error:
            get_console().warn(str(error))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        checkpoint = read_checkpoint(Path(path), mapped=self.sharded)
        check_fit(Path(path), checkpoint["state_dict"], self.module)
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)

    def _start(self, path: Path, target: Callable[..., None], *arguments: Any) -> None:
        def run() -> None:
            self._hurry.wait(FIRST_REST_SECONDS)  # the step that copied the state has lost enough
            with self._keeping_errors(path):
                target(*arguments)
            release_free_memory()

        self._thread = threading.Thread(target=run, name="scaledl-checkpoint", daemon=False)
        self._thread.start()

    @contextmanager
    def _keeping_errors(self, path: Path) -> Iterator[None]:
        """They are raised where the training waits."""
        try:
            yield
        except ScaledlError as error:
            self._error = ScaledlError(f"{error}; {_what_remains(path.parent)}")
        except BaseException as error:
            self._error = error

    def _write(self, box: list[dict[str, Any]], path: Path, position: Position) -> None:
        """`box` holds the copy of the state, and is left empty: the copy is not needed to the end."""
        checkpoint = box.pop()
        with atomic_file(path, "checkpoint") as temporary:
            if _size(checkpoint) < SMALL_BYTES:
                torch.save(checkpoint, temporary)
            else:
                write_streaming(checkpoint, temporary, self._rest)
            self.check_token()  # as late as can be: an orphan must not finish what a newer attempt goes on with
        del checkpoint
        self._complete(path, position)

    @staticmethod
    def _stream(checkpoint: dict[str, Any], path: Path) -> ExitStack:
        """Written at once, as there is no room for a copy. The file gets its name when what is returned closes."""
        with ExitStack() as stack:
            try:
                temporary = stack.enter_context(atomic_file(path, "checkpoint"))
            except BaseException:
                gather_all(checkpoint)  # the other ranks are at it
                raise
            write_streaming(checkpoint, temporary)
            return stack.pop_all()

    def _finish(self, written: ExitStack, path: Path, position: Position) -> None:
        with written:
            self.check_token()
        self._complete(path, position)

    def _complete(self, path: Path, position: Position) -> None:
        digest = sha256_file(path, self._rest)
        info = CheckpointInfo(format=FORMAT_VERSION, size=path.stat().st_size, sha256=digest, **asdict(position))
        atomic_json(path.with_suffix(".json"), asdict(info), "checkpoint's second file")
        prune_old(path.parent, self.keep_last, self._rest)


def snapshot(value: Any) -> Any:
    """A copy of nested state that training cannot change any more, on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return type(value)((key, snapshot(item)) for key, item in value.items())
    if isinstance(value, list | tuple) and not all(type(item) is int for item in value):  # generators have hundreds
        return type(value)(snapshot(item) for item in value)
    return value


def _size(value: Any) -> int:
    """Bytes of all tensors."""
    if isinstance(value, Tensor):
        return value.nbytes
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(_size(item) for item in items if not isinstance(item, int))


def _what_remains(directory: Path) -> str:
    found = newest_verified(directory)
    if found is None:
        return "there is no earlier checkpoint to go on from"
    return f"{found[0].name} remains, and the same command goes on from there"
