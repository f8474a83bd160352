"""Which hosts: what is taken and what is refused, and what is run on them."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from scaledl.errors import UsageError
from scaledl.launch.host_list import Host, parse_hosts
from scaledl.launch.ssh import remote_command

pytestmark = pytest.mark.unit


def test_hostfile_with_comments_and_slots(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("# the cluster\n\nn1 slots=4\nuser@n2  slots=2  # old\n10.0.0.3\n")
    assert parse_hosts(str(file)) == [Host("n1", 4), Host("user@n2", 2), Host("10.0.0.3")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got ''"),
        ("n1,,n2", "got ''"),
        ("n1,n1", "n1 stands there twice"),
        ("n1:0", "0"),
        ("n1:x", "'x' ranks"),
        ("-oProxyCommand=x", "got '-oProxyCommand=x'"),
        ("n1;touch x", "got 'n1;touch x'"),
        ("no/such/file", "no such file"),
    ],
)
def test_hosts_that_are_none(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_hosts(text)
    assert message in str(caught.value)


@pytest.mark.parametrize("line", ["n1 slots=", "n1 4", "n1 slots=2 x", "n1 slots=-1"])
def test_a_line_of_a_hostfile_that_is_none(line: str, tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text(line + "\n")
    with pytest.raises(UsageError, match="allowed: HOST, or HOST slots=N"):
        parse_hosts(str(file))


def test_an_empty_hostfile(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("# nobody\n")
    with pytest.raises(UsageError, match="names none"):
        parse_hosts(str(tmp_path / "hosts"))


def test_words_environment_and_folder_come_through_two_shells(tmp_path: Path) -> None:
    folder = tmp_path / "a b'c"
    folder.mkdir()
    show = tmp_path / "bin/python"
    show.parent.mkdir()
    show.write_text('#!/bin/sh\npwd\necho "$SCALEDL_X" "$HIDDEN"\nfor word in "$@"; do printf "<%s>" "$word"; done\n')
    show.chmod(0o755)
    words = ["scaledl", "train", "a b", "k='$(touch x)'", "*"]
    command = remote_command(words, {"SCALEDL_X": "1 2", "HIDDEN": "secret"}, folder, str(show))
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, cwd=tmp_path)
    first, second, third = done.stdout.splitlines()
    assert (first, second.strip()) == (str(folder), "1 2")
    assert third.endswith("".join(f"<{word}>" for word in ["--connection", "--", *words]))
    assert shlex.split(command)[:3] == ["exec", "sh", "-c"]
