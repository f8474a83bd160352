"""Published sets, from small files of the same form: found, fetched from a real server, checked, or refused."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from scaledl.config.registry import SOURCES
from scaledl.config.schema import DataConfig
from scaledl.data.cifar import CIFAR10, CIFAR100, Layout, load_cifar10, load_cifar100
from scaledl.data.download import PublishedFile, find_files
from scaledl.data.mnist import FILES, load_mnist
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit


def idx(values: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, values.ndim)) + b"".join(struct.pack(">I", size) for size in values.shape)
    return gzip.compress(header + values.tobytes(), mtime=0)


def mnist_files(
    folder: Path, urls: Callable[[str], list[str]] = lambda name: [f"http://x/{name}"]
) -> list[PublishedFile]:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for file in FILES:
        count = 40 if "train" in file.name else 20
        values = rng.integers(0, 256, (count, 28, 28)) if "images" in file.name else np.arange(count) % 10
        (folder / file.name).write_bytes(idx(values.astype(np.uint8)))
        content = (folder / file.name).read_bytes()
        files.append(PublishedFile(file.name, hashlib.sha256(content).hexdigest(), urls(file.name), len(content)))
    return files


def cifar(folder: Path, layout: Layout, classes: int, count: int = 30) -> tuple[Layout, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    with tarfile.open(folder / layout.archive.name, "w:gz") as archive:
        for name in (*layout.train, layout.test):
            labels = np.stack([np.arange(count) % 7] * (layout.label_bytes - 1) + [np.arange(count) % classes], 1)
            images = rng.integers(0, 256, (count, 3 * 32 * 32))
            rows = np.concatenate([labels, images], 1).astype(np.uint8)
            parts.append(rows)
            add(archive, f"{layout.folder}/{name}", rows.tobytes())
        add(archive, f"{layout.folder}/{layout.names}", "\n".join(f"c{i}" for i in range(classes)).encode() + b"\n\n")
        add(archive, "../../escape.txt", b"x")
    content = (folder / layout.archive.name).read_bytes()
    known = replace(layout.archive, sha256=hashlib.sha256(content).hexdigest())
    return replace(layout, archive=known), parts


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """An HTTP server over tmp_path/site: its address, and the paths that were asked for."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(tmp_path / "site"))  # type: ignore[arg-type]

        def log_request(self, *_: object) -> None:
            asked.append(self.path)

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/", asked
        running.shutdown()
        thread.join()


def test_mnist_from_a_folder(tmp_path: Path) -> None:
    files = mnist_files(tmp_path / "m")
    raw = load_mnist(DataConfig(source="mnist", root=str(tmp_path / "m")), files)
    assert raw.inputs.shape == (40, 28, 28, 1)
    assert raw.test_labels.tolist() == [*range(10), *range(10)]
    assert raw.label_names == tuple("0123456789")


@pytest.mark.parametrize(("layout", "load", "classes"), [(CIFAR10, load_cifar10, 10), (CIFAR100, load_cifar100, 100)])
def test_cifar_from_a_folder(tmp_path: Path, layout: Layout, load: Callable[..., object], classes: int) -> None:
    known, parts = cifar(tmp_path / "c", layout, classes)
    raw = load(DataConfig(root=str(tmp_path / "c")), known)
    first, skip = parts[0][0], layout.label_bytes
    assert raw.inputs.shape == (30 * len(layout.train), 32, 32, 3)  # type: ignore[attr-defined]
    assert raw.inputs[0, 0, 1].tolist() == [first[skip + 1 + plane * 1024] for plane in range(3)]  # type: ignore[attr-defined]
    assert torch.equal(raw.test_labels, torch.arange(30) % classes)  # type: ignore[attr-defined]
    assert raw.label_names == tuple(f"c{i}" for i in range(classes))  # type: ignore[attr-defined]
    assert not (tmp_path / "escape.txt").exists()


def test_a_download_is_made_once_and_checked(
    tmp_path: Path, server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, asked = server
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = mnist_files(tmp_path / "site", lambda name: [f"{address}gone/{name}", address + name])
    config = DataConfig(source="mnist")
    first = load_mnist(config, files)
    assert len(asked) == 8, "the first mirror has nothing, the second has it"
    again = load_mnist(config, files)
    assert len(asked) == 8
    assert torch.equal(first.inputs, again.inputs)
    kept = tmp_path / "cache/scaledl/mnist"
    assert sorted(path.name for path in kept.iterdir()) == sorted([".lock", *(file.name for file in files)])


def test_other_bytes_than_the_published_are_refused(
    tmp_path: Path, server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, _ = server
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    [first, *_] = mnist_files(tmp_path / "site", lambda name: [address + name])
    for content, message in ((b"other", "SHA-256 differs"), (b"x" * (first.size + 1), "more than the")):
        (tmp_path / "site" / first.name).write_bytes(content)
        with pytest.raises(UsageError, match=message):
            find_files(DataConfig(), "mnist", [first])
        assert not (tmp_path / "cache/scaledl/mnist" / first.name).exists()
    (tmp_path / "site" / first.name).unlink()
    with pytest.raises(UsageError, match=r"the download failed \(.*404.*\); fix: try again, or download http"):
        find_files(DataConfig(), "mnist", [first])


def test_without_a_network_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = PublishedFile("a.gz", "0" * 64, ["http://127.0.0.1:9/a.gz"], 10)
    with pytest.raises(UsageError, match=r"Connection refused.*download http://127.0.0.1:9/a.gz into .*cache"):
        find_files(DataConfig(), "set", [file])
    with pytest.raises(UsageError, match=r"data.download: got false, and .* lacks a.gz; fix: download"):
        find_files(DataConfig(download=False), "set", [file])
    with pytest.raises(UsageError, match=r"data.root: got .*nowhere lacks a.gz"):
        find_files(DataConfig(root=str(tmp_path / "nowhere")), "set", [file])
    (tmp_path / "a.gz").write_bytes(b"other")
    with pytest.raises(UsageError, match="not the published file"):
        find_files(DataConfig(root=str(tmp_path)), "set", [file])


def test_an_archive_that_is_not_whole(tmp_path: Path) -> None:
    known, _ = cifar(tmp_path / "c", CIFAR10, 10)
    path = tmp_path / "c" / known.archive.name
    whole = path.read_bytes()

    def attempt(content: bytes) -> str:
        path.write_bytes(content)
        layout = replace(known, archive=replace(known.archive, sha256=hashlib.sha256(content).hexdigest()))
        with pytest.raises(UsageError) as caught:
            load_cifar10(DataConfig(root=str(tmp_path / "c")), layout)
        return str(caught.value)

    assert "cannot be read" in attempt(whole[: len(whole) // 2])
    assert "cannot be read" in attempt(b"no archive")
    empty = io.BytesIO()
    with tarfile.open(fileobj=empty, mode="w:gz") as archive:
        add(archive, "other.txt", b"x")
    assert "lacks batches.meta.txt, data_batch_1.bin" in attempt(empty.getvalue())


def test_all_are_known_by_name() -> None:
    assert {"mnist", "cifar10", "cifar100", "fashion_mnist", "digits", "prepared"} <= set(SOURCES.names())
