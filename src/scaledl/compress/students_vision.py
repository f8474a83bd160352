"""Smaller members of the families for images, and of autoencoders; what says nothing of size is the teacher's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from scaledl.compress.students_sequence import attending
from scaledl.config.schema import AutoencoderConfig, CNNConfig, Section, UNetConfig, VAEConfig, ViTConfig
from scaledl.models.structure import Structure

SHARES = tuple(step / 16 for step in range(1, 16))


def narrower(kind: type[Section], *keys: str) -> Callable[[Structure], Iterator[Section]]:
    """The same layers with fewer channels: shares of the numbers, or lists of numbers, under `keys`."""

    def candidates(teacher: Structure) -> Iterator[Section]:
        for share in SHARES:
            sizes = {key: _share(teacher.config[key], share) for key in keys}
            yield kind.model_validate({**teacher.config, **sizes})

    return candidates


def _share(size: Any, share: float) -> Any:
    return [_share(item, share) for item in size] if isinstance(size, list) else max(1, round(size * share))


VISION_CANDIDATES: dict[str, Callable[[Structure], Iterator[Any]]] = {
    "cnn": narrower(CNNConfig, "channels", "hidden"),
    "vit": attending(ViTConfig),
    "unet": narrower(UNetConfig, "width"),
    "autoencoder": narrower(AutoencoderConfig, "channels", "hidden"),
    "vae": narrower(VAEConfig, "channels", "hidden"),
}
