"""ImageNet (ILSVRC 2012, Russakovsky et al. 2015), once `scaledl data prepare` has made arrays of it."""

from __future__ import annotations

import shlex
from pathlib import Path

from scaledl.config.schema import DataConfig, PrepareConfig
from scaledl.data.datamodule import DataModule
from scaledl.data.prepare.store import DOCUMENT
from scaledl.data.prepared import load_prepared
from scaledl.data.stream.remote import is_url
from scaledl.errors import UsageError

_SIDE = 224
_LAYOUTS = "train/CLASS/*.JPEG with val/CLASS/*.JPEG, or WebDataset shards named train and val"


def load_imagenet(config: DataConfig) -> DataModule:
    """The set in the folder or URL `config.root`. Raises UsageError, with the command that prepares it, for none."""
    if config.root is None:
        raise UsageError(
            f"data.root: missing. ImageNet is only given out by image-net.org, to those who accept its terms. With its "
            f"files in a folder ({_LAYOUTS}) prepare it once: {_command('FOLDER', 'PREPARED', config.prepare)}; then "
            "data.root=PREPARED"
        )
    if is_url(config.root):
        return load_prepared(config)
    root = Path(config.root).expanduser()
    if (root / DOCUMENT).exists():
        return load_prepared(config)
    if not root.is_dir():
        raise UsageError(
            f"data.root: {root}: no such folder. Prepare ImageNet once: "
            f"{_command('FOLDER', str(root), config.prepare)} (expected in FOLDER: {_LAYOUTS})"
        )
    out = str(root.with_name(f"{root.resolve().name}-prepared"))
    raise UsageError(
        f"data.root: {root} is not prepared yet. Prepare it once: {_command(str(root), out, config.prepare)}; then "
        f"data.root={shlex.quote(out)} (expected in {root}: {_LAYOUTS})"
    )


def _command(source: str, out: str, config: PrepareConfig) -> str:
    chosen = {"size": _SIDE, "channels": 3, **config.model_dump(mode="json", exclude_defaults=True)}
    words = [f"data.prepare.{key}={value}" for key, value in chosen.items()]
    return shlex.join(["scaledl", "data", "prepare", source, "--out", out, *words])
