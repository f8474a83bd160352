"""The guards of conftest.py do fail a test that leaks."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

LEAKING = """
import os, subprocess, sys, threading, time
import pytest

def test_variable():
    os.environ["LEAKED"] = "1"

def test_variable_was_put_back():
    assert "LEAKED" not in os.environ

def test_thread():
    threading.Thread(target=time.sleep, args=(6,), name="leaked-thread", daemon=True).start()

def test_process():
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "leaked-process"])

def test_group(tmp_path):
    from torch import distributed
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)

def test_mount(tmpfs):
    assert tmpfs("64k").is_mount()

def test_clean():
    thread = threading.Thread(target=time.sleep, args=(0.2,))
    thread.start()
"""


def run_pytest(tmp_path: Path, *arguments: str) -> str:
    shutil.copy(Path(__file__).parents[1] / "conftest.py", tmp_path)
    (tmp_path / "test_leaking.py").write_text(LEAKING)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", "--tb=line", str(tmp_path), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120).stdout


def test_leaks_fail_and_clean_tests_pass(tmp_path: Path) -> None:
    output = run_pytest(tmp_path)
    for name, words in (
        ("test_variable", "changed environment variables: ['LEAKED']"),
        ("test_thread", "left threads running: ['leaked-thread']"),
        ("test_process", "leaked-process"),
        ("test_group", "process group initialised"),
    ):
        assert f"ERROR at teardown of {name} " in output
        assert re.search(rf"Failed: the test .*{re.escape(words)}", output)
    assert output.count("ERROR at teardown of ") == 4
    assert " failed" not in output
    assert "7 passed" in output or "6 passed, 1 skipped" in output


def test_what_cannot_be_tried_here_is_skipped_or_with_everything_required_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # without a mount command
    monkeypatch.delenv("SCALEDL_REQUIRE_ALL", raising=False)
    assert "1 skipped" in run_pytest(tmp_path, "-k", "test_mount")
    monkeypatch.setenv("SCALEDL_REQUIRE_ALL", "1")
    assert "1 failed" in run_pytest(tmp_path, "-k", "test_mount")
