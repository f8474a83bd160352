"""Where data comes from, how it is prepared, changed and read."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field

from ..registry import SOURCES
from .base import (
    TOKENIZER_PATTERN,
    Auto,
    ColumnName,
    Fraction,
    OpenFraction,
    Section,
    Share,
    names_or_folder,
    registered,
)
from .conflict import Conflict

SizeFactor = Annotated[float, Field(ge=0.1, le=10, allow_inf_nan=False)]
AreaShare = Annotated[float, Field(ge=0.01, le=1, allow_inf_nan=False)]
Sigma = Annotated[float, Field(ge=0, le=20, allow_inf_nan=False)]
JitterAmount = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]
MixAlpha = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]


class SeriesAugmentConfig(Section):
    """What happens to training series, once they are standardised, in this order."""

    crop: Share = Field(
        default=0.0, description="Share of the time that is cut off both ends together; the rest is stretched."
    )
    warp: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = Field(
        default=0.0, description="Run through four parts of the time at speeds from 1 - this to 1 + this."
    )
    repeat: Share = Field(default=0.0, description="Probability that a step comes twice; the end is cut off.")
    noise: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = Field(
        default=0.0, description="Deviation of Gaussian noise, where that of the training split is 1."
    )
    mask: Share = Field(default=0.0, description="Longest span of time that is set to the mean, as a share.")


class TextAugmentConfig(Section):
    """What happens to the tokens of training texts, in this order. Special tokens of a tokenizer stay as they are."""

    drop: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = Field(
        default=0.0, description="Probability that a token is left out; the rest moves up."
    )
    swap: Share = Field(default=0.0, description="Probability that a pair of neighbours is exchanged.")
    mask: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = Field(
        default=0.0,
        description="Share of the tokens that become the mask token (the unknown one without such), by spans.",
    )
    mask_span: int = Field(default=3, ge=1, le=1000, description="Tokens of such a span.")


class AugmentConfig(Section):
    """What happens to training images, in the order crop, flip, resized crop, policy, rotation to shear together,
    colours, blur, noise, cutout, mixing. New pixels are black. Series and texts have their own operations; mixup is for
    all but texts."""

    crop: int = Field(default=0, ge=0, le=64, description="Random crop after padding by this many pixels; 0 is off.")
    flip: bool = Field(default=False, description="Random horizontal flip.")
    resized_crop: tuple[AreaShare, AreaShare] = Field(
        default=(1.0, 1.0),
        strict=False,
        description="Smallest and largest share of the area of a part that is resized to the whole image.",
    )
    policy: Literal["none", "randaugment", "trivialaugment"] = Field(
        default="none", description="Operations drawn from torchvision's list: a few of one strength, or one of any."
    )
    policy_ops: int = Field(default=2, ge=1, le=8, description="Operations for each image (randaugment).")
    policy_magnitude: int = Field(default=9, ge=0, le=30, description="Strength of all of them (randaugment).")
    rotation: Annotated[float, Field(ge=0, le=180, allow_inf_nan=False)] = Field(
        default=0.0, description="Largest rotation to either side, in degrees."
    )
    translation: Share = Field(
        default=0.0, description="Largest shift to either side, as a share of the width and of the height."
    )
    scale: tuple[SizeFactor, SizeFactor] = Field(
        default=(1.0, 1.0), strict=False, description="Smallest and largest factor of size."
    )
    shear: Annotated[float, Field(ge=0, le=80, allow_inf_nan=False)] = Field(
        default=0.0, description="Largest horizontal shear to either side, in degrees."
    )
    brightness: JitterAmount = Field(default=0.0, description="Factor drawn from 1 - this (at least 0) to 1 + this.")
    contrast: JitterAmount = Field(default=0.0, description="Factor drawn from 1 - this (at least 0) to 1 + this.")
    saturation: JitterAmount = Field(
        default=0.0, description="Factor drawn from 1 - this (at least 0) to 1 + this; RGB only."
    )
    blur: tuple[Sigma, Sigma] = Field(
        default=(0.0, 0.0), strict=False, description="Smallest and largest deviation of a Gaussian blur, in pixels."
    )
    noise: Share = Field(default=0.0, description="Deviation of Gaussian noise, where the brightest pixel is 1.")
    cutout: Share = Field(default=0.0, description="Side of a black square, as a share of the image's shorter side.")
    mixup: MixAlpha = Field(
        default=0.0, description="Mix with another sample and its label; alpha of Beta(alpha, alpha), 0 is off."
    )
    cutmix: MixAlpha = Field(
        default=0.0, description="Paste a box of another image; alpha as above. With mixup, either, evenly."
    )
    series: SeriesAugmentConfig = Field(default_factory=SeriesAugmentConfig)
    text: TextAugmentConfig = Field(default_factory=TextAugmentConfig)


class PrepareConfig(Section):
    """How `scaledl data prepare` makes a data set; training does not look at it."""

    kind: Literal[
        "auto", "image_folder", "npz", "webdataset", "huggingface", "table", "text", "conll", "series", "python"
    ] = Field(default="auto", description="What the source is; auto looks at its files.")
    target: Literal["auto", "class", "classes", "numbers", "tags", "mask", "none"] = Field(
        default="auto",
        description="What is to be learned of a sample: its class, any of several classes, numbers, a tag for each "
        "word or step, a class for each pixel, nothing. auto: what the source has; numbers where more than 50 labels "
        "have fractions.",
    )
    label: ColumnName | None = Field(
        default=None, description="Column with the label. Default: the one named label, target, class or y."
    )
    targets: list[ColumnName] = Field(
        default=[],
        max_length=10_000,
        description="Columns with the labels, where there are several: numbers, or 0 and 1 for each class.",
    )
    labels_separator: str | None = Field(
        default=None, min_length=1, max_length=10, description="What stands between the classes of a sample: a;b."
    )
    unlabeled: Literal["drop", "keep"] = Field(
        default="drop",
        description="Samples without a label (an empty cell, null, -1 in an .npz file, a folder named unlabeled): "
        "left out, or kept in the training split for task.name=semi_supervised. Of several targets: a sample that "
        "lacks some of them is left out, or keeps those that it has, in all splits (multi_task, regression).",
    )
    text: ColumnName | None = Field(
        default=None,
        description="Column with the text, of a text source with columns. Default: the one named text, or the only one "
        "beside label, group, time and split.",
    )
    group: ColumnName | None = Field(
        default=None, description="Column whose equal values stay in one split, a patient's for instance."
    )
    time: ColumnName | None = Field(
        default=None, description="Column with a number or ISO date: the last part is test, the part before it val."
    )
    split: ColumnName | None = Field(default=None, description="Column that says train, val or test.")
    delimiter: str = Field(
        default="auto",
        pattern=r'^(auto|tab|[^"\r\n])$',
        description="One character between the fields of a CSV file, or tab; auto looks at the file.",
    )
    missing: Literal["mean", "median", "zero", "drop", "error"] = Field(
        default="mean",
        description="Missing values of a table: filled from the training split, the row dropped, or refused. "
        "A missing category is filled with 0, which stands for unknown.",
    )
    categorical: list[ColumnName] = Field(
        default=[], max_length=10_000, description="Columns of a table to take as categories, numbers or not."
    )
    exclude: list[ColumnName] = Field(
        default=[], max_length=10_000, description="Columns of a table that are no features."
    )
    size: Annotated[int, Field(ge=1, le=4096)] | Auto = Field(
        default="auto",
        description="Height and width in pixels that images get. auto: theirs, where all have one; else at most 224.",
    )
    fit: Literal["crop", "pad", "stretch"] = Field(
        default="crop", description="How an image of another shape gets it: centre crop, black bars, or distortion."
    )
    channels: Literal["auto", 1, 3] = Field(
        default="auto", description="Colours: 1 is grey, 3 RGB; auto is 1 where all images are grey."
    )
    max_pixels: int = Field(
        default=50_000_000, ge=1, le=150_000_000, description="Pixels of a file above which it is not decoded."
    )
    min_side: int = Field(default=2, ge=1, le=4096, description="Pixels of an image's shorter side, at least.")
    max_ratio: float = Field(default=20, ge=1, le=100_000, description="Longer side by shorter side, at most.")
    test_fraction: Fraction = Field(
        default=0.2, description="Share held out for the test split, where the source has none."
    )
    val_fraction: Fraction = Field(
        default=0.1, description="Share of the rest held out for validation, where the source has none."
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="Seed of the split.")
    duplicates: Literal["drop", "keep"] = Field(
        default="drop",
        description="Exact copies: one is kept, in test before val before train; labels that differ: none.",
    )
    near_duplicates: Literal["drop_across", "drop", "keep"] = Field(
        default="drop_across",
        description="Images that look the same, and texts that say nearly the same: dropped where they are in "
        "different splits, everywhere, or nowhere.",
    )
    near_similarity: Annotated[float, Field(ge=0.5, le=1, allow_inf_nan=False)] = Field(
        default=0.8, description="Share of eight-letter pieces that such texts have in common."
    )
    near_distance: int = Field(
        default=24, ge=0, le=47, description="Bits of the 480-bit image hash in which such images may differ."
    )
    min_per_class: int = Field(
        default=1,
        ge=1,
        le=1_000_000,
        description="Samples that a class has, at least; those of a rarer one are dropped.",
    )
    max_dropped: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = Field(
        default=0.2, description="Share of items that may be dropped; above it nothing is made."
    )
    shard_mb: int = Field(
        default=0,
        ge=0,
        le=4096,
        description="MB of each file of training samples, for sets that are streamed; 0 keeps them in one.",
    )


class TextConfig(Section):
    """How texts become token ids: 0 is padding, 1 an unknown token (of a tokenizer file, what the file says)."""

    tokenizer: Literal["char", "byte", "word", "bpe"] | Annotated[str, Field(pattern=TOKENIZER_PATTERN)] = Field(
        default="word",
        description="Made from the training texts: of characters, bytes (nothing to learn), words and signs, or "
        "byte-level byte-pair encoding; or a tokenizer file of Hugging Face, of a pretrained model for instance.",
    )
    vocabulary: int = Field(
        default=8192,
        ge=3,
        le=1_000_000,
        description="Token ids that a tokenizer of characters, words or bpe gets at most, the most frequent ones.",
    )
    lowercase: bool = Field(default=False, description="Take capital letters as small ones.")
    max_length: int = Field(
        default=128,
        ge=1,
        le=65_536,
        description="Tokens of a sample: what is longer is cut off, or cut into windows (data.text.overlong), what is "
        "shorter padded. Fewer where no training text has so many.",
    )
    overlong: Literal["auto", "windows", "cut"] = Field(
        default="auto",
        description="What becomes of a prepared text of more tokens: windows of it, samples with its label, or its "
        "beginning alone. auto: windows where texts have no labels, for language models.",
    )
    stride: Annotated[int, Field(ge=1, le=65_536)] | Auto = Field(
        default="auto",
        description="Tokens from one window of a text to the next. auto: max_length - 1, so that every token but the "
        "first is predicted once from those before it.",
    )
    test_fraction: OpenFraction = Field(
        default=0.1, description="Share at the end of a text file that is the test split; val_fraction comes before it."
    )


class StreamConfig(Section):
    """How a training split in shards (`data.prepare.shard_mb`) is read, and where data behind a URL is kept."""

    window_shards: int = Field(
        default=8,
        ge=1,
        le=1024,
        description="Shards shuffled among each other at a time; part of what the order of the samples follows from.",
    )
    prefetch_shards: int = Field(default=2, ge=0, le=64, description="Shards opened, or fetched, before their turn.")
    cache: str | None = Field(
        default=None, description="Folder for files of a URL. Default: ~/.cache/scaledl/stream; shared by processes."
    )
    cache_gb: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = Field(
        default=10.0, description="GB that this folder takes at most; what was used longest ago is removed first."
    )


COME_WITH_SCIKIT_LEARN = frozenset({"digits", "iris", "wine", "breast_cancer", "diabetes"})


class DataConfig(Section):
    source: Annotated[str, registered(SOURCES, or_own=True)] = Field(
        default="digits",
        description="Name of a data source, the folder of a prepared one, or python.path:name of one's own: a "
        "LightningDataModule, or a function that gives data as sources do.",
        json_schema_extra=names_or_folder(SOURCES),
    )
    args: dict[str, Any] = Field(default={}, description="What a LightningDataModule of one's own is made with.")
    root: str | None = Field(default=None, description="Folder of the source's files, where the source has such.")
    download: bool = Field(default=True, description="Download when the files are not on this machine.")
    classes: list[ColumnName] = Field(
        default=[], max_length=100_000, description="Names of the classes that are used, in their new order; [] is all."
    )
    limit: int | None = Field(
        default=None,
        ge=1,
        description="Samples of each class that are used for training and validation; run.seed draws them.",
    )
    val_fraction: OpenFraction = Field(
        default=0.1, description="Stratified share of the training set kept for validation."
    )
    sampling: Literal["shuffle", "balanced"] = Field(
        default="shuffle",
        description="An epoch has every sample once, or as many samples, of every class equally many.",
    )
    batch_size: int = Field(default=128, ge=1, le=1_000_000, description="Samples per optimizer step, over all ranks.")
    eval_batch_size: int = Field(default=512, ge=1, le=1_000_000, description="Samples per batch in evaluation.")
    num_workers: int = Field(
        default=0,
        ge=0,
        le=256,
        description="Processes of a rank that prepare batches; 0 is fastest for data in memory.",
    )
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    categories: Literal["one_hot", "embed"] = Field(
        default="one_hot",
        description="What a table's categories become: columns of zeros and ones, or codes, for models that learn a "
        "vector for each.",
    )
    text: TextConfig = Field(default_factory=TextConfig)
    prepare: PrepareConfig = Field(default_factory=PrepareConfig)
    stream: StreamConfig = Field(default_factory=StreamConfig)

    @classmethod
    def foreign(cls, source: object) -> list[str]:
        """The keys of this section that a source has no use for."""
        used = {"root": source not in COME_WITH_SCIKIT_LEARN, "args": isinstance(source, str) and ":" in source}
        return [key for key, is_used in used.items() if not is_used]

    def samples(self) -> dict[str, Any]:
        """The keys that decide which samples there are, as plain values."""
        keys = {"source", "args", "root", "download", "classes", "limit", "val_fraction", "text"}
        return self.model_dump(mode="json", include=keys)

    @property
    def word(self) -> str:
        """The source as part of a name."""
        return re.sub(r"[^A-Za-z0-9_.-]+", "-", self.source).strip("-.")[:64]


def data_conflicts(data: DataConfig) -> list[Conflict]:
    """What the source has no use for."""
    allowed = {
        "root": f"null with data.source={data.source}, which comes with scikit-learn",
        "args": f"{{}} with data.source={data.source}, which is no LightningDataModule of one's own",
    }
    keys = [key for key in DataConfig.foreign(data.source) if getattr(data, key)]
    return [Conflict(f"data.{key}", "data.source", str(getattr(data, key)), allowed[key]) for key in keys]
