import gzip
import hashlib
import os
import sys
import types
from pathlib import Path

import pytest
import torch

from scaledl.config.schema import DataConfig
from scaledl.data import fashion_mnist
from scaledl.data.fashion_mnist import CHECKSUMS, DEBIAN_FOLDER, LABELS, load_fashion_mnist, read_folder
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit

SIZES = {"train": 6, "t10k": 4}


def small_file(name: str) -> bytes:
    """The bytes of a small file of the right form: labels 0, 1, 2, …, and images that are counters."""
    count = SIZES[name.split("-")[0]]
    shape = (count, 28, 28) if "images" in name else (count,)
    values = torch.arange(torch.Size(shape).numel()).remainder(251 if len(shape) == 3 else 10).to(torch.uint8)
    header = bytes((0, 0, 8, len(shape))) + b"".join(size.to_bytes(4, "big") for size in shape)
    return header + values.numpy().tobytes()


SMALL_CHECKSUMS = {name: hashlib.sha256(small_file(name)).hexdigest() for name in CHECKSUMS}


def write_files(folder: Path, *, packed: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in CHECKSUMS:
        content = small_file(name)
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Small files count as the published ones, no package is installed, and the cache is empty."""
    monkeypatch.setattr(read_folder, "__defaults__", (SMALL_CHECKSUMS,))
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


class FakeTorchvision:
    """Stands for torchvision.datasets.FashionMNIST: writes small files, or does what `failure` says."""

    def __init__(self, failure: Exception | None = None, write: bool = True) -> None:
        self.failure, self.write, self.calls = failure, write, 0

    def __call__(self, root: str, train: bool, download: bool) -> None:
        self.calls += 1
        assert train
        assert download
        print("a progress bar")
        if self.failure:
            raise self.failure
        if self.write:
            write_files(Path(root) / "FashionMNIST" / "raw", packed=True)


def install(monkeypatch: pytest.MonkeyPatch, fake: FakeTorchvision) -> FakeTorchvision:
    datasets = types.ModuleType("torchvision.datasets")
    datasets.FashionMNIST = fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)
    return fake


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("layout", [".", "FashionMNIST/raw"])
def test_a_given_folder_is_read_in_both_layouts(small: Path, packed: bool, layout: str) -> None:
    write_files(small / "given" / layout, packed=packed)
    raw = load_fashion_mnist(DataConfig(root=str(small / "given")))
    assert raw.inputs.shape == (6, 28, 28, 1)
    assert raw.test_inputs.shape == (4, 28, 28, 1)
    assert raw.inputs.dtype == torch.uint8
    assert raw.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert raw.test_labels.dtype == torch.int64
    assert raw.label_names == LABELS


def test_a_given_folder_without_the_files_names_them_and_goes_nowhere_else(small: Path) -> None:
    write_files(small / "debian")
    given = write_files(small / "given")
    (given / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UsageError, match=r"data\.root.*lacks t10k-labels-idx1-ubyte \(.*apt-get install") as caught:
        load_fashion_mnist(DataConfig(root=str(given)))
    assert "train-images" not in str(caught.value)
    with pytest.raises(UsageError, match="no folder"):
        load_fashion_mnist(DataConfig(root=str(small / "nowhere")))


def test_a_file_with_other_content_than_published_is_refused(small: Path) -> None:
    given = write_files(small / "given")
    path = given / "train-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x09")
    with pytest.raises(UsageError, match=r"train-labels-idx1-ubyte.*SHA-256"):
        load_fashion_mnist(DataConfig(root=str(given)))


def test_the_package_comes_before_the_cache_and_the_cache_before_a_download(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = install(monkeypatch, FakeTorchvision(RuntimeError("must not be called")))
    cached = write_files(small / "cache" / "scaledl" / "FashionMNIST" / "raw")
    load_fashion_mnist(DataConfig())
    (cached / "train-images-idx3-ubyte").write_bytes(b"damaged")
    with pytest.raises(UsageError, match="cache"):
        load_fashion_mnist(DataConfig())
    write_files(small / "debian")
    load_fashion_mnist(DataConfig(download=False))
    assert fake.calls == 0


def test_the_download_goes_to_the_cache_once_and_in_silence(
    small: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fake = install(monkeypatch, FakeTorchvision())
    first, second = load_fashion_mnist(DataConfig()), load_fashion_mnist(DataConfig())
    assert torch.equal(first.inputs, second.inputs)
    assert fake.calls == 1
    assert (small / "cache/scaledl/FashionMNIST/raw/t10k-labels-idx1-ubyte.gz").is_file()
    assert capfd.readouterr() == ("", "")


def test_no_download_allowed_says_what_to_do(small: Path) -> None:
    with pytest.raises(UsageError, match=r"data\.download: got false.*fix: data\.download=true, or apt-get"):
        load_fashion_mnist(DataConfig(download=False))


@pytest.mark.parametrize(
    ("fake", "reason"),
    [
        (FakeTorchvision(RuntimeError("File not found or corrupted.")), "failed .*corrupted.*apt-get"),
        (FakeTorchvision(OSError("no route to host")), "failed .*no route.*apt-get"),
        (FakeTorchvision(write=False), "lacks train-images-idx3-ubyte.*apt-get"),
    ],
    ids=["corrupted", "offline", "nothing"],
)
def test_a_failed_download_gives_one_message_with_the_manual_step(
    small: Path, monkeypatch: pytest.MonkeyPatch, fake: FakeTorchvision, reason: str
) -> None:
    install(monkeypatch, fake)
    with pytest.raises(UsageError, match=reason):
        load_fashion_mnist(DataConfig())


def test_without_torchvision_the_extra_is_named(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"torchvision.*scaledl\[vision\]"):
        load_fashion_mnist(DataConfig())


@pytest.mark.skipif(
    not DEBIAN_FOLDER.is_dir() and os.environ.get("SCALEDL_REQUIRE_ALL") != "1",
    reason="the Debian package dataset-fashion-mnist is not installed",
)
def test_the_real_files_pass_their_checksums() -> None:
    raw = load_fashion_mnist(DataConfig(download=False))
    assert raw.inputs.shape == (60_000, 28, 28, 1)
    assert raw.test_inputs.shape == (10_000, 28, 28, 1)
    assert torch.bincount(raw.labels).tolist() == [6000] * 10
    # Means published with the set: 0.2860 and 0.3530.
    assert raw.inputs.double().mean().item() / 255 == pytest.approx(0.2860, abs=1e-4)
    assert raw.inputs.double().std().item() / 255 == pytest.approx(0.3530, abs=1e-4)
