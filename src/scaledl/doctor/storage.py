"""The disk under the folder of runs: whether it can be written, how much room there is, how fast it is."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path

from scaledl.doctor.check import Check, worst
from scaledl.run.files import storage_problem

MIB, GIB = 2**20, 2**30
BLOCK, BLOCKS, SECONDS = 8 * MIB, 16, 5.0
SMALL_FILES = 10
FULL_BYTES, ALMOST_FULL_BYTES = 256 * MIB, 5 * GIB
SLOW_BYTES = 50 * MIB  # a second
SLOW_SYNC_SECONDS = 0.2
SKEW_SECONDS = 60.0


def storage(root: Path) -> Check:
    """Writes up to 128 MiB into the folder, or its nearest parent that exists, for 5 s at most, and removes it."""
    folder = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.is_dir())
    usage = shutil.disk_usage(folder)
    space = _space(folder, usage.free)
    if space.verdict == "fail":
        return worst("storage", [space])
    path = folder / f".scaledl-doctor-{secrets.token_hex(8)}"
    try:
        checks = [space, *_written(path, min(BLOCKS, usage.free // (4 * BLOCK)))]
    except OSError as error:
        reason = storage_problem(error, folder) or error.strerror
        return Check(
            "storage", "fail", f"cannot write into {folder}: {reason}", "run.root=PATH on a disk that can be written"
        )
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
    return worst("storage", checks)


def _space(folder: Path, free: int) -> Check:
    status = os.statvfs(folder)
    what = f"{folder}: {free / GIB:.1f} GiB free"
    if free < FULL_BYTES or (status.f_files and status.f_favail < 100):
        what = what if free < FULL_BYTES else f"{folder}: {status.f_favail} more files can be made"
        return Check("", "fail", what, "make room, or choose another disk with run.root=PATH")
    if free < ALMOST_FULL_BYTES:
        return Check("", "warn", what, "make room: checkpoints may not fit")
    return Check("", "ok", what)


def _written(path: Path, blocks: int) -> list[Check]:
    speed = _write_speed(path, max(1, blocks))
    skew = path.stat().st_mtime - time.time()
    pause = _sync_seconds(path)
    checks = [Check("", "ok", f"writes {speed / MIB:.0f} MiB/s, syncs a small file in {1000 * pause:.1f} ms")]
    if speed < SLOW_BYTES:
        fix = "put run.root on a faster disk: checkpoints will hold training up"
        checks.append(Check("", "warn", f"{path.parent} writes only {speed / MIB:.1f} MiB/s", fix))
    if pause > SLOW_SYNC_SECONDS:
        fix = "put run.root on a faster disk"
        checks.append(Check("", "warn", f"{path.parent} takes {pause:.2f} s to sync a small file", fix))
    if abs(skew) > SKEW_SECONDS:
        what = f"the file server's clock is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}"
        checks.append(Check("", "warn", what, "let it use NTP"))
    return checks


def _write_speed(path: Path, blocks: int) -> float:
    """Bytes a second, synced. The bytes are random: some filesystems compress."""
    data = os.urandom(BLOCK)
    begin, written = time.monotonic(), 0
    with path.open("wb", buffering=0) as file:
        while written < blocks * BLOCK and time.monotonic() - begin < SECONDS:
            written += file.write(data)
            os.fsync(file.fileno())
    return written / max(time.monotonic() - begin, 1e-6)


def _sync_seconds(path: Path) -> float:
    """Median time of a small write that is on the disk afterwards."""
    times = []
    for count in range(SMALL_FILES):
        begin = time.monotonic()
        with path.open("wb", buffering=0) as file:
            file.write(str(count).encode())
            os.fsync(file.fileno())
        times.append(time.monotonic() - begin)
        if sum(times) > SECONDS:
            break
    return sorted(times)[len(times) // 2]
