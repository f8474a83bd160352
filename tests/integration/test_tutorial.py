"""Every command of the tutorial, in its order, in one folder, with tiny settings; and that the page is what it says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.beside]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/tutorial.md"
# What is appended to a command, by its verb. The teacher and its compression are left as they are: an int8 model that
# learned nothing does not agree with itself, so its file is rightly not published.
TINY = {
    "train": "trainer.fast_dev_run=2",
    "find": "--steps 12",
    "tune": "--trials 2 trainer.epochs=1 trainer.limit_train_batches=2",
    "generate": "--tokens 8",
    "bench": "--rounds 3",
}
# What days need that is no part of scaledl: a word of their commands, the place, and where it comes from.
NEEDED = [
    ("fashion_mnist", "/usr/share/datasets/fashion-mnist", "apt-get install dataset-fashion-mnist"),
    ("/usr/share/games/fortunes", "/usr/share/games/fortunes/science", "apt-get install fortunes"),
    ("/usr/share/common-licenses", "/usr/share/common-licenses/GPL-3", "Debian's base-files"),
]
NOISE = re.compile(r"Traceback|\w+Warning\b|^W\d{4} ", re.MULTILINE)
FAILED = re.compile(r"^(scaledl [a-z ]+: )?error: (?!stopped by SIGINT)", re.MULTILINE)  # also where others follow


@dataclass(frozen=True)
class Day:
    number: int
    title: str
    text: str
    commands: str


def days() -> list[Day]:
    parts = re.split(r"^## Day (\d+): (.+)$", PAGE.read_text(), flags=re.MULTILINE)[1:]
    return [
        Day(int(number), title, text, "\n".join(re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)))
        for number, title, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    ]


def test_there_are_thirty_days_with_a_command_each() -> None:
    assert [day.number for day in days()] == list(range(1, 31))
    for day in days():
        assert day.text.count("```") == 2, f"day {day.number} has one block of commands"
        assert re.search(r"\bscaledl [a-z]", day.commands), f"day {day.number} has a command of scaledl"
        assert "\nRead on: " in day.text, f"day {day.number} says where to read on"


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", PAGE.read_text())
    assert links
    for path, heading in links:
        target = (PAGE.parent / path) if path else PAGE
        assert target.is_file(), f"{path} is no file"
        assert not heading or heading in _anchors(target), f"{path}#{heading} is no heading"


def _anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture
def classroom(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A folder with what the repository's has, and an environment in which `scaledl` trains but for a moment."""
    folder = tmp_path / "tutorial"
    folder.mkdir()
    for name in ("configs", "launch", "slurm"):
        (folder / name).symlink_to(ROOT / name)
    programs = Path(sys.executable).parent
    cases = "\n".join(f'{verb}) set -- "$@" {more} ;;' for verb, more in TINY.items())
    tiny = f'case "$*" in *run.id=teacher*) ;; *) case "$1" in\n{cases}\nesac ;; esac'
    script = f'#!/bin/sh\n{tiny}\nexec {shlex.quote(str(programs / "scaledl"))} "$@"\n'
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/scaledl").write_text(script)
    (tmp_path / "bin/scaledl").chmod(0o755)
    path = os.pathsep.join([str(tmp_path / "bin"), str(programs), os.environ["PATH"]])
    return folder, {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}


@pytest.mark.timeout(3600)
def test_every_command_does_what_it_should(
    classroom: tuple[Path, dict[str, str]], cannot: Callable[[str], None]
) -> None:
    folder, environment = classroom
    left_out = []
    for day in days():
        lacking = [
            f"day {day.number}: {path} ({where})"
            for word, path, where in NEEDED
            if word in day.commands and not Path(path).exists()
        ]
        left_out += lacking
        if not lacking:
            _run(day, folder, environment)
    if left_out:
        cannot(f"the machine lacks what some days need: {'; '.join(left_out)}")


def _run(day: Day, folder: Path, environment: dict[str, str]) -> None:
    began = time.monotonic()
    done = subprocess.run(
        ["bash", "-c", day.commands],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    said = f"day {day.number}, {day.title}, exit code {done.returncode}:\n{done.stdout}"
    print(f"day {day.number}: {time.monotonic() - began:.1f} s")
    assert done.returncode == 0, said
    assert not FAILED.search(done.stdout), said
    assert not NOISE.search(done.stdout), said
