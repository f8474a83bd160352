"""Sets behind s3://, by s3fs against moto's server, and what goes wrong there."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.integration.test_stream import READ, make_set

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

UPLOAD = """
import sys, fsspec
files = fsspec.filesystem("s3")
files.mkdir("bucket")
files.put(sys.argv[1], "bucket/sets/a", recursive=True)
"""
# Passes everything on, but for the first answers of more than a megabyte: they are cut, or never come to an end.
PROXY = """
import asyncio, sys
port, times, what = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
async def passed(reader, writer):
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()
async def answered(reader, writer, client):
    global times
    total = 0
    try:
        while data := await reader.read(1 << 16):
            total += len(data)
            if total > 1_000_000 and times > 0:
                times -= 1
                if what == "hang":
                    await asyncio.sleep(3600)
                writer.transport.abort()
                return
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()
async def serve(reader, writer):
    upstream, sink = await asyncio.open_connection("127.0.0.1", port)
    await asyncio.gather(passed(reader, sink), answered(upstream, writer, reader))
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


def environment(port: int, **changes: str | None) -> dict[str, str]:
    """Of a process that finds the server, and no credentials of whoever runs the tests."""
    known = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    own = {
        **{"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_DEFAULT_REGION": "us-east-1"},
        **{"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"},
        **{"AWS_SHARED_CREDENTIALS_FILE": os.devnull, "AWS_CONFIG_FILE": os.devnull},
    }
    return known | {key: value for key, value in (own | changes).items() if value is not None}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextmanager
def started(*command: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-u", *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, cannot: Callable[[str], None]) -> Iterator[int]:
    """Its port; it has a set in s3://bucket/sets/a."""
    if lacking := [name for name in ("s3fs", "moto", "flask", "flask_cors") if find_spec(name) is None]:
        cannot(f"{', '.join(lacking)} not installed: pip install 'scaledl[dev,s3]'")
    made, port = make_set(tmp_path_factory.mktemp("s3")), free_port()
    with started("-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket() as tried:
                if not tried.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.1)
        subprocess.run([sys.executable, "-c", UPLOAD, str(made)], env=environment(port), check=True, timeout=120)
        yield port


Read = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Three epochs of a URL."""

    def read(port: int, url: str = "s3://bucket/sets/a", workers: int = 0, **changes: str | None) -> object:
        command = [sys.executable, "-c", READ, url, str(tmp_path / "cache"), str(workers), "5.6"]
        return subprocess.run(command, env=environment(port, **changes), capture_output=True, text=True, timeout=200)

    return read  # type: ignore[return-value]


@pytest.mark.parametrize("workers", [0, 2])
def test_three_epochs(server: int, read: Read, workers: int) -> None:
    done = read(server, workers=workers)
    assert done.stdout == "True\n" * 3, done.stderr


def test_a_connection_that_is_cut_within_a_file_is_tried_again(server: int, read: Read) -> None:
    with started("-c", PROXY, str(server), "2", "cut") as proxy:
        assert proxy.stdout is not None
        done = read(int(proxy.stdout.readline()))
    assert done.stdout == "True\n" * 3, done.stderr


def test_one_that_is_always_cut_is_one_message(server: int, read: Read) -> None:
    with started("-c", PROXY, str(server), "1000", "cut") as proxy:
        assert proxy.stdout is not None
        done = read(int(proxy.stdout.readline()))
    assert "s3://bucket/sets/a/" in done.stderr.splitlines()[-1]
    assert "3 times; the last checkpoint of a run remains" in done.stderr.splitlines()[-1]


def test_a_server_that_falls_silent_is_one_message(server: int, read: Read) -> None:
    patience = '{"read_timeout": 1, "connect_timeout": 1, "retries": {"total_max_attempts": 1}}'
    with started("-c", PROXY, str(server), "1000", "hang") as proxy:
        assert proxy.stdout is not None
        done = read(int(proxy.stdout.readline()), FSSPEC_S3=f'{{"config_kwargs": {patience}}}')
    last = done.stderr.splitlines()[-1]
    assert "ScaledlError: s3://bucket/sets/a/" in last
    assert "no answer in time (" in last


REFUSED: dict[str, tuple[str, dict[str, str | None], str]] = {
    "no bucket": ("s3://other/sets/a", {}, "data.source: got s3://other/sets/a, and there is no bucket 'other'"),
    "no set": ("s3://bucket/sets/b", {}, "s3://bucket/sets/b/dataset.json: missing, so there is no prepared data set"),
    "no credentials": (
        "s3://bucket/sets/a",
        {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None},
        "s3://bucket/sets/a/dataset.json: no credentials",
    ),
    "no server": (
        "s3://bucket/sets/a",
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
        "s3://bucket/sets/a/dataset.json: cannot be fetched (EndpointConnectionError",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_read_is_one_message(server: int, read: Read, what: str) -> None:
    url, changes, words = REFUSED[what]
    done = read(server, url, **changes)
    assert words in done.stderr.splitlines()[-1]
    assert ("times" if what == "no server" else "fix:") in done.stderr.splitlines()[-1]
