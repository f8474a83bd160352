"""Smaller members of the families for texts and series; what says nothing of size is the teacher's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from scaledl.config.schema import GPTConfig, GRUConfig, LSTMConfig, RNNConfig, Section, TransformerConfig
from scaledl.models.structure import Structure

SHARES = (1.0, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)


def recurrent(kind: type[Section]) -> Callable[[Structure], Iterator[Section]]:
    """Fewer layers, fewer units, narrower embeddings and dense layers."""

    def candidates(teacher: Structure) -> Iterator[Section]:
        config = teacher.config
        for layers in _fewer(config["layers"]):
            for share in SHARES:
                sizes = {key: _part(config[key], share) for key in ("hidden", "embedding", "dense")}
                yield kind.model_validate({**config, **sizes, "layers": layers})

    return candidates


def attending(kind: type[Section]) -> Callable[[Structure], Iterator[Section]]:
    """Fewer blocks, fewer heads of the same size, and as much narrower."""

    def candidates(teacher: Structure) -> Iterator[Section]:
        config = teacher.config
        size = config["width"] // config["heads"]
        for layers in _fewer(config["layers"]):
            for heads in sorted({max(1, round(config["heads"] * share)) for share in SHARES}):
                width, feedforward = heads * size, _part(config["feedforward"], heads / config["heads"])
                changes = {"layers": layers, "heads": heads, "width": width, "feedforward": feedforward}
                yield kind.model_validate({**config, **changes})

    return candidates


def _fewer(layers: int) -> list[int]:
    return sorted({layers, -(-layers // 2), -(-layers // 4), 1})


def _part(size: int | None, share: float) -> int | None:
    """In multiples of four, and at least one of them where there were as many."""
    return None if size is None else min(size, max(4, round(size * share / 4) * 4))


SEQUENCE_CANDIDATES: dict[str, Callable[[Structure], Iterator[Any]]] = {
    "rnn": recurrent(RNNConfig),
    "lstm": recurrent(LSTMConfig),
    "gru": recurrent(GRUConfig),
    "transformer": attending(TransformerConfig),
    "gpt": attending(GPTConfig),
}
