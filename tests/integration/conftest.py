"""One tiny chain for all tests of the commands, and a way to call commands in this process."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from scaledl.cli import main
from scaledl.distributed.preemption import STOP_SIGNALS, stop_flag

TINY = """\
data: {source: digits, batch_size: 256}
model: {family: mlp, hidden: [32]}
trainer: {epochs: 1, num_threads: 1, precision: fp32}
compress:
  stages:
    - {method: distill, epochs: 1, student: {hidden: [16]}}
    - {method: prune, epochs: 1}
    - {method: qat, epochs: 1}
"""


@dataclass(frozen=True)
class Done:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Chained:
    """A folder in which `scaledl chain tiny.yaml --id first` ran."""

    folder: Path
    done: Done

    @property
    def compressed(self) -> str:
        """The run of the chain, relative to the folder."""
        [path] = (self.folder / "runs" / "tiny").glob("first-distill-prune-qat-*")
        return str(path.relative_to(self.folder))

    @property
    def artifact(self) -> str:
        return f"{self.compressed}/exports/model.ts"


def run_command(folder: Path, *arguments: str) -> Done:
    """In a process of its own, started as a user starts it."""
    program = str(Path(sys.executable).with_name("scaledl"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [program, *arguments], cwd=folder, capture_output=True, text=True, timeout=300, env=environment
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def chained(tmp_path_factory: pytest.TempPathFactory) -> Chained:
    """Not to be changed: `workplace` gives a copy."""
    folder = tmp_path_factory.mktemp("chain with space")
    (folder / "tiny.yaml").write_text(TINY)
    done = run_command(folder, "chain", "tiny.yaml", "--id", "first")
    assert done.code == 0, done.err
    return Chained(folder, done)


@pytest.fixture
def workplace(chained: Chained, tmp_path: Path) -> Chained:
    """A copy of the chain's folder, to be spoiled."""
    return Chained(shutil.copytree(chained.folder, tmp_path / "copy", symlinks=True), chained.done)


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A folder with a config and no run."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    return tmp_path


Call = Callable[..., Done]


@pytest.fixture(scope="session")
def _lightning() -> None:
    """Importing it sets an environment variable, which is no leak of the test that happens to be first."""
    importlib.import_module("pytorch_lightning")


@pytest.fixture
def call(_lightning: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """`call(folder, "runs", "--json")` runs a command in this process: torch is imported once for all of them."""
    handlers = {signum: signal.getsignal(signum) for signum in STOP_SIGNALS}

    def run(folder: Path, *arguments: str) -> Done:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["scaledl", *arguments])
        capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as stop:
            code = int(stop.code or 0)
        text = capsys.readouterr()
        return Done(code, text.out, text.err)

    yield run
    for signum, handler in handlers.items():
        signal.signal(signum, handler)
    stop_flag._installed = False
