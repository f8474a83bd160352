"""Reading a training split in shards from a cold disk, against litdata, MosaicML Streaming, WebDataset, torchdata, cat.

    python benchmarks/stream.py --peers PYTHON [--side 224] [--megabytes 2000] [--rounds 3] [--json]

Each makes its own set of the same random images, as its documentation says, in files of 64 MB (torchdata has no format:
an array, mapped), and gives shuffled batches of 256: uint8 images, labels, ids. `scaledl, as for a model` adds what a
training gets, float32 and normalised. Every reading is a process of its own, after the set's pages were dropped
(posix_fadvise); they take turns, and ratios are taken round by round. The clock starts when the libraries are imported
and the loader is made, and stops after the last batch. Peak memory is that of the process itself
while it reads, sampled: in pages of its own (anonymous) and in mapped files. PYTHON has the four libraries.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results" / "stream.json"
BATCH, SHARD, CLASSES = 256, 64_000_000, 10
OURS, FOR_MODEL, CAT = "scaledl", "scaledl, as for a model", "cat"
# Workers that were best for each; MosaicML and WebDataset pay for every sample, and are slower still without.
PEERS = {"litdata": (0, 2), "mosaicml-streaming": (2,), "webdataset": (2,), "torchdata": (0, 2)}


def images(count: int, side: int) -> Iterator[tuple[int, Any]]:
    rng = np.random.default_rng(0)
    for begin in range(0, count, 256):
        block = rng.integers(0, 256, (min(256, count - begin), side, side, 3), dtype=np.uint8)
        yield from enumerate(block, begin)


def form_of(side: int) -> Any:
    from scaledl.data.stored import Form

    labels = list(map(str, range(CLASSES)))
    return Form.of({"modality": "image", "in_shape": [3, side, side], "labels": labels})


def write_ours(folder: Path, count: int, side: int) -> None:
    from scaledl.data.stream.shard import write_shard

    form = form_of(side)
    rows = SHARD // (side * side * 3 + 16)
    held: list[Any] = []
    for i, image in images(count, side):
        held.append(image)
        if len(held) == rows or i == count - 1:
            ids = np.arange(i + 1 - len(held), i + 1)
            with (folder / f"train-{i:07d}.safetensors").open("wb") as file:
                write_shard(file, form, {"ids": ids, "labels": ids % CLASSES, "images": np.stack(held)})
            held = []


def write_litdata(folder: Path, count: int, side: int) -> None:
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(folder), chunk_bytes=SHARD)
    for i, image in images(count, side):
        writer.add_item(i, {"x": image, "y": i % CLASSES, "id": i})
    writer.done()
    writer.merge()


def write_mosaic(folder: Path, count: int, side: int) -> None:
    from streaming import MDSWriter

    columns = {"x": f"ndarray:uint8:{side},{side},3", "y": "int64", "id": "int64"}
    with MDSWriter(out=str(folder), columns=columns, size_limit=SHARD) as writer:
        for i, image in images(count, side):
            writer.write({"x": image, "y": i % CLASSES, "id": i})


def write_webdataset(folder: Path, count: int, side: int) -> None:
    import webdataset

    with webdataset.ShardWriter(str(folder / "%05d.tar"), maxsize=SHARD, verbose=0) as writer:
        for i, image in images(count, side):
            writer.write({"__key__": f"{i:08d}", "x.bin": image.tobytes(), "cls": i % CLASSES})


def write_array(folder: Path, count: int, side: int) -> None:
    array = np.lib.format.open_memmap(folder / "x.npy", "w+", np.uint8, (count, side, side, 3))
    for i, image in images(count, side):
        array[i] = image
    array.flush()


def stream_of(folder: Path, side: int) -> Any:
    from scaledl.data.stream.samples import Samples
    from scaledl.data.stream.shard import ShardFile, shard_bytes
    from scaledl.data.stream.split import Stream

    form, files = form_of(side), []
    for path in sorted(folder.iterdir()):
        size = path.stat().st_size
        rows = size // form.row_bytes
        rows -= shard_bytes(form, rows) > size
        files.append(ShardFile(path.name, rows, size, ""))
    samples = Samples(form.field("images"), form.field("labels"))
    return Stream(files, form, samples, lambda file: (folder / file.name, None), 8, 2)


def read_ours(folder: Path, side: int, workers: int) -> Iterable[Any]:
    stream = stream_of(folder, side)
    reader, room = stream.reader(0, 0), stream.samples.room(BATCH)

    def ids(start: int) -> Any:
        _, count = reader.read(start, min(start + BATCH, len(stream)), 0, 1, room)
        return room.ids[:count].clone()

    return map(ids, range(0, len(stream), BATCH))


def read_for_model(folder: Path, side: int, workers: int) -> Iterable[Any]:
    from scaledl.data import DataSpec
    from scaledl.data.stream.loader import StreamLoader

    labels = tuple(map(str, range(CLASSES)))
    spec = DataSpec("benchmark", (3, side, side), labels, (0.5,) * 3, (0.25,) * 3, "")
    loader = StreamLoader(stream_of(folder, side), spec, BATCH, shuffle=True, num_workers=workers)
    return (batch.ids for batch in loader)


def read_litdata(folder: Path, side: int, workers: int) -> Iterable[Any]:
    from litdata import StreamingDataLoader, StreamingDataset

    dataset = StreamingDataset(str(folder), shuffle=True, drop_last=False)
    return (batch["id"] for batch in StreamingDataLoader(dataset, batch_size=BATCH, num_workers=workers))


def read_mosaic(folder: Path, side: int, workers: int) -> Iterable[Any]:
    from streaming import StreamingDataLoader, StreamingDataset

    dataset = StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH)
    return (batch["id"] for batch in StreamingDataLoader(dataset, batch_size=BATCH, num_workers=workers))


def read_webdataset(folder: Path, side: int, workers: int) -> Iterable[Any]:
    import torch
    import webdataset

    def decoded(sample: dict[str, Any]) -> dict[str, Any]:
        pixels = torch.frombuffer(bytearray(sample["x.bin"]), dtype=torch.uint8).view(side, side, 3)
        return {"x": pixels, "y": int(sample["cls"]), "id": int(sample["__key__"])}

    tars = sorted(map(str, folder.glob("*.tar")))
    dataset = webdataset.WebDataset(tars, shardshuffle=len(tars), workersplitter=webdataset.split_by_worker)
    joined = torch.utils.data.default_collate
    dataset = dataset.shuffle(1000).map(decoded).batched(BATCH, partial=True, collation_fn=joined)
    return (batch["id"] for batch in webdataset.WebLoader(dataset, batch_size=None, num_workers=workers))


def read_array(folder: Path, side: int, workers: int) -> Iterable[Any]:
    import torch
    from torchdata.stateful_dataloader import StatefulDataLoader

    array = np.load(folder / "x.npy", mmap_mode="r")

    class Rows(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(array)

        def __getitem__(self, i: int) -> dict[str, Any]:
            return {"x": torch.from_numpy(array[i].copy()), "y": i % CLASSES, "id": i}

    return (batch["id"] for batch in StatefulDataLoader(Rows(), batch_size=BATCH, shuffle=True, num_workers=workers))


SETS: dict[str, tuple[Callable[..., None], Callable[..., Iterable[Any]]]] = {
    OURS: (write_ours, read_ours),
    FOR_MODEL: (write_ours, read_for_model),
    "litdata": (write_litdata, read_litdata),
    "mosaicml-streaming": (write_mosaic, read_mosaic),
    "webdataset": (write_webdataset, read_webdataset),
    "torchdata": (write_array, read_array),
}


class Memory(threading.Thread):
    """Peak and, for the second half of the time, growth of this process's memory, in MB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[int, int]] = []
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.02):
            lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            self.samples.append(tuple(int(lines[key].split()[0]) >> 10 for key in ("RssAnon", "RssFile")))  # type: ignore[arg-type]

    def result(self) -> dict[str, int]:
        self._over.set()
        self.join()
        own, mapped = zip(*self.samples or [(0, 0)], strict=True)
        half = len(own) // 2
        return {
            "own_mb": max(own),
            "mapped_mb": max(mapped),
            "own_mb_first_half": max(own[: half or 1]),
            "own_mb_second_half": max(own[half:]),
        }


def read_once(name: str, folder: Path, side: int, workers: int) -> dict[str, Any]:
    batches = SETS[name][1](folder, side, workers)
    memory = Memory()
    memory.start()
    began = time.perf_counter()
    ids = list(batches)
    seconds = time.perf_counter() - began
    whole = np.concatenate([np.asarray(part) for part in ids])
    return {"seconds": seconds, "samples": len(whole), "distinct": len(np.unique(whole)), **memory.result()}


def drop_caches(folder: Path) -> None:
    os.sync()  # pages that are not on the disk yet cannot be dropped
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cat(folder: Path) -> float:
    began = time.perf_counter()
    subprocess.run(["cat", *sorted(map(str, folder.iterdir()))], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


class Turns:
    """All readers of one benchmark."""

    def __init__(self, root: Path, peers: str | None, count: int, side: int) -> None:
        self._root, self._peers, self._count, self._side = root, peers, count, side
        self.targets = [(OURS, 0), (FOR_MODEL, 0), (FOR_MODEL, 2)]
        self.targets += [(name, workers) for name, all_ in PEERS.items() for workers in all_] if peers else []

    def make(self) -> None:
        for name in dict.fromkeys(name for name, _ in self.targets if name != FOR_MODEL):
            self._folder(name).mkdir()
            self._run(name, "write", 0)

    def round(self) -> dict[str, dict[str, Any]]:
        drop_caches(self._folder(OURS))
        found: dict[str, dict[str, Any]] = {CAT: {"seconds": cat(self._folder(OURS))}}
        for name, workers in self.targets:
            drop_caches(self._folder(name))
            found[f"{name}, {workers} workers"] = self._run(name, "read", workers)
        return found

    def _folder(self, name: str) -> Path:
        return self._root / (OURS if name == FOR_MODEL else name)

    def _run(self, name: str, what: str, workers: int) -> dict[str, Any]:
        python = sys.executable if name in (OURS, FOR_MODEL) else self._peers
        options = ["--one", name, "--what", what, "--folder", str(self._folder(name)), "--workers", str(workers)]
        command = [str(python), __file__, *options, "--side", str(self._side), "--count", str(self._count)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{name}: {done.stderr[-2000:]}")
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result


def one(args: argparse.Namespace) -> None:
    if args.what == "write":
        SETS[args.one][0](args.folder, args.count, args.side)
        print("{}")
    else:
        print(json.dumps(read_once(args.one, args.folder, args.side, args.workers)))


def peer_versions(python: str) -> dict[str, str]:
    code = "import sys, importlib.metadata as m; print(*[m.version(name) for name in sys.argv[1:]])"
    done = subprocess.run([python, "-c", code, *PEERS], capture_output=True, text=True, check=True)
    return dict(zip(PEERS, done.stdout.split(), strict=True))


def summary(rounds: list[dict[str, dict[str, Any]]], megabytes: float) -> dict[str, Any]:
    def median(values: Iterable[float]) -> float:
        return round(statistics.median(values), 3)

    seconds = {name: [found[name]["seconds"] for found in rounds] for name in rounds[0]}
    ours = seconds[f"{OURS}, 0 workers"]
    theirs = [name for name in seconds if name.split(", ")[0] in PEERS]
    best = min(theirs, key=lambda name: statistics.median(seconds[name]), default=None)
    return {
        "MB a second": {name: round(megabytes / statistics.median(all_)) for name, all_ in seconds.items()},
        "against cat": median(cat / own for cat, own in zip(seconds[CAT], ours, strict=True)),
        "best of the four": best,
        "against it": median(peer / own for peer, own in zip(seconds[best], ours, strict=True)) if best else None,
        "rounds": rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="a Python that has the four libraries; without, only scaledl and cat")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help=f"add the figures to {RESULTS.name}")
    for hidden in ("--one", "--what"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="where the sets are made; default: a temporary folder")
    for hidden in ("--workers", "--count"):
        parser.add_argument(hidden, type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(args)
        return
    from environment import machine, one_line, versions

    here = machine()
    print(one_line(here))
    count = args.megabytes * 10**6 // (args.side**2 * 3)
    root = Path(tempfile.mkdtemp(dir=args.folder))
    try:
        turns = Turns(root, args.peers, count, args.side)
        turns.make()
        found = summary([turns.round() for _ in range(args.rounds)], args.megabytes)
    finally:
        shutil.rmtree(root)
    print(json.dumps({key: value for key, value in found.items() if key != "rounds"}, indent=2))
    if args.json:
        known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        options = f"--side {args.side} --megabytes {args.megabytes}{' --peers PYTHON' if args.peers else ''}"
        all_versions = {**versions(), **(peer_versions(args.peers) if args.peers else {})}
        about = {"command": f"python benchmarks/stream.py {options}", "machine": here, "versions": all_versions}
        known[f"{args.side} pixels, {args.megabytes} MB"] = {**about, **found}
        RESULTS.write_text(json.dumps(known, indent=2) + "\n")


if __name__ == "__main__":
    main()
