"""The cache of this machine: a limit that holds, files in use that stay, one fetch for all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from scaledl.data.stream import cache as cache_module
from scaledl.data.stream.cache import Cache
from scaledl.errors import ScaledlError, UsageError
from scaledl.run.files import sha256_file

pytestmark = pytest.mark.unit

SIZE = 1000


def content(name: str) -> bytes:
    return name.encode() * (SIZE // len(name.encode()))


def writer(name: str, calls: list[str] | None = None) -> Callable[[IO[bytes]], None]:
    def fetch(file: IO[bytes]) -> None:
        if calls is not None:
            calls.append(name)
        file.write(content(name))

    return fetch


def hash_of(name: str) -> str:
    return hashlib.sha256(content(name)).hexdigest()


def names_in(folder: Path) -> set[str]:
    return {name for name in "abcdefgh" if (folder / hash_of(name)).exists()}


def use(cache: Cache, name: str, calls: list[str] | None = None) -> IO[bytes]:
    path, held = cache.open(hash_of(name), SIZE, writer(name, calls))
    assert path.read_bytes() == content(name)
    return held


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 3 * SIZE)
    for number, name in enumerate("abc"):
        use(cache, name).close()
        os.utime(tmp_path / hash_of(name), (number, number))
    use(cache, "a").close()
    use(cache, "d").close()
    assert names_in(tmp_path) == {"a", "c", "d"}
    assert sum(path.stat().st_size for path in tmp_path.iterdir() if path.is_file()) <= 3 * SIZE


def test_what_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    calls: list[str] = []
    for name in "abab":
        use(Cache(tmp_path, 3 * SIZE), name, calls).close()
    assert calls == ["a", "b"]


def test_what_is_in_use_stays_and_a_full_cache_says_so(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 2 * SIZE)
    held = [use(cache, "a"), use(cache, "b")]
    with pytest.raises(UsageError, match=r"data\.stream\.cache_gb: got 2e-06, .*3e-06; fix: raise it"):
        use(cache, "c")
    assert names_in(tmp_path) == {"a", "b"}
    held.pop(0).close()
    use(cache, "c").close()
    assert names_in(tmp_path) == {"b", "c"}
    held.pop().close()


def test_a_file_that_was_cut_short_is_fetched_again(tmp_path: Path) -> None:
    cache, calls = Cache(tmp_path, 3 * SIZE), list[str]()
    use(cache, "a", calls).close()
    os.truncate(tmp_path / hash_of("a"), 10)
    use(cache, "a", calls).close()
    assert calls == ["a", "a"]


def test_a_fetch_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(file: IO[bytes]) -> None:
        file.write(b"half")
        raise UsageError("gone")

    with pytest.raises(UsageError, match="gone"):
        Cache(tmp_path, 3 * SIZE).open(hash_of("a"), SIZE, fail)
    assert [path for path in tmp_path.iterdir() if path.is_file()] == []


def test_several_at_once_fetch_a_file_once(tmp_path: Path) -> None:
    calls: list[str] = []
    threads = [threading.Thread(target=lambda: use(Cache(tmp_path, 3 * SIZE), "a", calls).close()) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == ["a"]


def test_another_process_keeps_its_files_and_its_end_frees_them(tmp_path: Path) -> None:
    cache = Cache(tmp_path, SIZE)
    use(cache, "a").close()
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        held = (tmp_path / hash_of("a")).open("rb")
        fcntl.flock(held, fcntl.LOCK_SH)
        os.write(write_end, b"x")
        threading.Event().wait(30)
        os._exit(0)
    os.read(read_end, 1)
    try:
        with pytest.raises(UsageError, match="cache_gb"):
            use(cache, "b")
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(read_end)
        os.close(write_end)
    use(cache, "b").close()
    assert names_in(tmp_path) == {"b"}


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ScaledlError, match="cannot write the cache"):
        Cache(tmp_path / "file" / "cache", SIZE)


def test_files_that_are_not_its_own_are_neither_counted_nor_removed(tmp_path: Path) -> None:
    strange = ("thesis.tex", ".bashrc", "A" * 64, hash_of("a") + "0", ".x.tmp")
    for name in strange:
        (tmp_path / name).write_bytes(b"x" * 5 * SIZE)
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / hash_of("f")).mkdir()
    cache = Cache(tmp_path, SIZE)
    for name in "ab":
        use(cache, name).close()
    assert names_in(tmp_path) == {"b", "f"}
    assert all((tmp_path / name).stat().st_size == 5 * SIZE for name in strange)


@pytest.mark.parametrize("hash", ["../../etc/passwd", "", "a" * 63, "A" * 64, "a" * 64 + "\n"])
def test_what_is_no_hash_becomes_no_path(tmp_path: Path, hash: str) -> None:
    with pytest.raises(UsageError, match="is no SHA-256"):
        Cache(tmp_path, SIZE).open(hash, SIZE, writer("a"))
    assert {path.name for path in tmp_path.iterdir()} == {".locks"}


def test_a_file_that_was_changed_is_fetched_again(tmp_path: Path) -> None:
    calls: list[str] = []
    use(Cache(tmp_path, 3 * SIZE), "a", calls).close()
    (tmp_path / hash_of("a")).write_bytes(b"x" * SIZE)
    for _ in range(2):
        use(Cache(tmp_path, 3 * SIZE), "a", calls).close()
    assert calls == ["a", "a"]


def test_a_file_without_a_note_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, read = list[str](), list[Path]()
    (tmp_path / hash_of("a")).write_bytes(content("a"))
    monkeypatch.setattr(cache_module, "sha256_file", lambda path: read.append(path) or sha256_file(path))
    for _ in range(2):
        use(Cache(tmp_path, 3 * SIZE), "a", calls).close()
    assert (calls, read) == ([], [tmp_path / hash_of("a")])


def test_no_note_outlives_its_file(tmp_path: Path) -> None:
    cache = Cache(tmp_path, SIZE)
    for name in "abc":
        use(cache, name).close()
    assert [path.name for path in (tmp_path / ".locks").glob("*.checked")] == [f"{hash_of('c')}.checked"]


@pytest.mark.parametrize(
    ("number", "fix"), [(errno.EMFILE, "raise `ulimit -n`, or lower data"), (errno.EACCES, "give a folder of your own")]
)
def test_what_the_system_refuses_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, fix: str
) -> None:
    cache = Cache(tmp_path, SIZE)
    use(cache, "a").close()
    real = Path.open

    def refuse(self: Path, *args: Any, **options: Any) -> Any:
        if self.name == refused:
            raise OSError(number, os.strerror(number), str(self))
        return real(self, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    for refused in (hash_of("a"), hash_of("a")[:2]):
        with pytest.raises(ScaledlError, match=rf"data\.stream\.cache: .*{refused}: {os.strerror(number)}; fix: {fix}"):
            cache.open(hash_of("a"), SIZE, writer("a"))
