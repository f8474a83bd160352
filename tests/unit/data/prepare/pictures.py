"""Image folders for tests: real files of real formats, different from each other unless a test wants otherwise."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from scaledl.data.prepare.images import Pixels


def picture(seed: int, height: int = 24, width: int = 24, channels: int = 3) -> Pixels:
    """uint8 [height, width, channels]: six by six patches of colour, which survive JPEG."""
    patches = np.random.default_rng(seed).integers(0, 256, (6, 6, channels)).astype(np.uint8)
    image = Image.fromarray(patches.squeeze(-1) if channels == 1 else patches)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)).reshape(height, width, channels)


def save(path: Path, pixels: Pixels, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[2] == 1 else pixels).save(path, **options)
    return path


def image_folder(root: Path, classes: Iterable[str] = ("cat", "dog"), each: int = 12, seed: int = 0) -> Path:
    for i, name in enumerate(classes):
        for j in range(each):
            save(root / name / f"{j:03d}.png", picture(1000 * seed + 100 * i + j))
    return root
