"""The typed sections of a config. Frozen, complete, torch-free: units and meaning stand in the descriptions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from .registry import SOURCES, TASKS, Registry

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
DEFAULT_FAMILY = "resnet"
FOLDER_PATTERN = "/"

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
ColumnName = Annotated[str, Field(min_length=1, max_length=1000)]
OpenFraction = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Auto = Literal["auto"]
Direction = Literal["max", "min"]


def registered(registry: Registry) -> Any:
    """Annotated metadata of a field that holds a name of this registry; never imports what the name stands for."""

    def check(name: str) -> str:
        if name not in registry:
            raise PydanticCustomError("not_registered", "not a registered {kind}", {"kind": registry.kind})
        return name

    return AfterValidator(check)


def list_names(registry: Registry) -> Any:
    """Puts the registered names into the JSON Schema of a field."""
    return lambda schema: schema.update(enum=list(registry.names()))


def names_or_folder(registry: Registry) -> Any:
    """As `list_names`, for a field that takes a folder as well."""

    def extend(schema: dict[str, Any]) -> None:
        schema.pop("type", None)
        schema["anyOf"] = [{"enum": list(registry.names())}, {"type": "string", "pattern": FOLDER_PATTERN}]

    return extend


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class RunConfig(Section):
    name: str | None = Field(
        default=None,
        pattern=NAME_PATTERN,
        description="Folder of the run under `root`; by default the config file's name.",
    )
    id: str | None = Field(
        default=None,
        pattern=NAME_PATTERN,
        description="Folder of this execution under the name; a fixed id resumes. Default: Slurm job id, else new.",
    )
    root: str = Field(
        default="runs", min_length=1, description="Folder of all runs, relative to the working directory."
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="Seed of initial weights, data order and augmentation.")


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


class AugmentConfig(Section):
    """What happens to training images, in the order crop, flip, resized crop, policy, rotation to shear together,
    colours, blur, noise, cutout, mixing. New pixels are black. Series have their own operations; mixup is for all."""

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


class PrepareConfig(Section):
    """How `scaledl data prepare` makes a data set; training does not look at it."""

    kind: Literal["auto", "image_folder", "npz", "webdataset", "huggingface", "table", "text", "series", "python"] = (
        Field(default="auto", description="What the source is; auto looks at its files.")
    )
    label: ColumnName | None = Field(
        default=None, description="Column with the class. Default: the one named label, target, class or y."
    )
    text: ColumnName | None = Field(default=None, description="Column with the text, of a text source with columns.")
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
    max_dropped: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = Field(
        default=0.2, description="Share of items that may be dropped; above it nothing is made."
    )
    shard_mb: int = Field(
        default=0,
        ge=0,
        le=4096,
        description="MB of each file of training images, for sets that are streamed; 0 keeps them in one. Images only.",
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


class DataConfig(Section):
    source: Annotated[str, registered(SOURCES)] = Field(
        default="digits",
        description="Name of a data source, or the folder of a prepared one.",
        json_schema_extra=names_or_folder(SOURCES),
    )
    root: str | None = Field(default=None, description="Folder of the source's files, where the source needs one.")
    download: bool = Field(default=True, description="Download when the files are not on this machine.")
    val_fraction: OpenFraction = Field(
        default=0.1, description="Stratified share of the training set kept for validation."
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
    prepare: PrepareConfig = Field(default_factory=PrepareConfig)
    stream: StreamConfig = Field(default_factory=StreamConfig)


class MLPConfig(Section):
    family: Literal["mlp"] = Field(description="Kind of model.")
    hidden: list[Annotated[int, Field(ge=1, le=65536)]] = Field(
        default=[128], max_length=64, description="Units of each hidden layer."
    )
    num_classes: int | None = Field(
        default=None, ge=2, le=1_000_000, description="Checked against the data when given."
    )


class ResNetConfig(Section):
    family: Literal["resnet"] = Field(default="resnet", description="Kind of model.")
    depth: Literal[8, 14, 18, 20, 32, 34, 44, 50, 56] = Field(
        default=20, description="8/14/20/32/44/56: CIFAR style (three stages). 18/34/50: ImageNet style (four stages)."
    )
    width: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Channels of the first stage; default 16 (CIFAR style) or 64 (ImageNet).",
    )
    num_classes: int | None = Field(
        default=None, ge=2, le=1_000_000, description="Checked against the data when given."
    )


ModelConfig = Annotated[MLPConfig | ResNetConfig, Field(discriminator="family")]


class TaskConfig(Section):
    name: Annotated[str, registered(TASKS)] = Field(
        default="classification", description="Name of a registered task.", json_schema_extra=list_names(TASKS)
    )
    label_smoothing: Fraction = Field(default=0.0, description="Mass moved from the true class to all classes.")


class OptimizerConfig(Section):
    name: Literal["adamw", "sgd"] = Field(default="adamw", description="Update rule.")
    lr: PositiveFloat = Field(default=1e-3, description="Peak learning rate; never scaled silently.")
    weight_decay: NonNegativeFloat = Field(default=0.05, description="Not applied to biases and normalisation weights.")
    momentum: Fraction = Field(default=0.9, description="Momentum of SGD (Nesterov).")
    betas: tuple[OpenFraction, OpenFraction] = Field(default=(0.9, 0.999), strict=False, description="AdamW only.")


class SchedulerConfig(Section):
    name: Literal["constant", "cosine", "one_cycle"] = Field(
        default="cosine", description="Stepped every optimizer step."
    )
    warmup_epochs: NonNegativeFloat = Field(default=0.0, description="Linear warm-up, in epochs (fractions allowed).")
    min_lr_ratio: Fraction = Field(default=0.0, description="Final learning rate as a share of the peak.")


class DeepSpeedConfig(Section):
    """ZeRO (Rajbhandari et al. 2020): what each rank keeps only its share of."""

    stage: Literal[1, 2, 3] = Field(
        default=2, description="What is sharded: 1 optimizer states, 2 and gradients, 3 and parameters."
    )
    offload_optimizer: bool = Field(default=False, description="Keep optimizer states in CPU memory.")
    offload_parameters: bool = Field(default=False, description="Keep parameters in CPU memory; needs stage 3.")


class TrainerConfig(Section):
    epochs: int = Field(default=10, ge=1, le=1_000_000, description="Passes over the training split.")
    max_steps: int | None = Field(default=None, ge=1, description="Stop after this many optimizer steps.")
    accelerator: Literal["auto", "cpu", "gpu"] = Field(default="auto", description="auto: a GPU where one is at hand.")
    strategy: Literal["auto", "ddp", "deepspeed"] = Field(
        default="auto", description="How ranks share the work. auto: ddp where there are several."
    )
    devices: Annotated[int, Field(ge=1, le=1024)] | Auto = Field(
        default="auto",
        description="Ranks on each node: GPUs, or CPU processes. auto: as launched, else all GPUs, else 1.",
    )
    num_nodes: Annotated[int, Field(ge=1, le=65536)] | Auto = Field(
        default="auto", description="Checked against what the launcher gave; auto takes that."
    )
    deepspeed: DeepSpeedConfig = Field(default_factory=DeepSpeedConfig)
    sync_batchnorm: bool = Field(default=False, description="BatchNorm statistics over all ranks; GPUs only.")
    timeout_seconds: Annotated[float, Field(ge=5, le=86400)] = Field(
        default=600.0, description="Longest wait of a rank for the others before it gives up."
    )
    hang_seconds: Annotated[float, Field(ge=5, le=604800)] | None = Field(
        default=900.0,
        description="A rank without progress for so long is ended after its stack was printed; null: never.",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto: bf16 autocast where a quick measurement finds it faster here."
    )
    channels_last: bool | Auto = Field(default="auto", description="auto: on for image models.")
    compile: bool = Field(default=False, description="torch.compile; pays after some thousand steps.")
    gradient_clip: PositiveFloat | None = Field(default=None, description="Largest global gradient norm.")
    accumulate: int = Field(
        default=1, ge=1, le=4096, description="Micro-batches per optimizer step; a divisor of batch_size."
    )
    ema_decay: OpenFraction | None = Field(
        default=None, description="Moving average of the weights, used in evaluation and as the result."
    )
    early_stopping_patience: int | None = Field(
        default=None, ge=1, description="Stop after this many epochs without a better validation loss."
    )
    select: Literal["last", "best"] = Field(
        default="last", description="Weights of the result: last epoch or best validation."
    )
    checkpoint_every_n_steps: int | None = Field(default=None, ge=1, description="Also save within epochs.")
    keep_last: int = Field(default=2, ge=1, le=1000, description="Newest checkpoints kept (best kept besides).")
    log_every_n_steps: int = Field(
        default=50, ge=1, description="Steps between writes of metrics; every step's loss is kept."
    )
    num_threads: int | None = Field(
        default=None, ge=1, le=4096, description="CPU threads of a rank; default: its share of all that are allowed."
    )
    max_nonfinite_steps: int = Field(
        default=3,
        ge=0,
        le=1000,
        description="Steps in a row that are left out for a NaN or infinite loss before it fails.",
    )


class FinetuneSettings(Section):
    """What every stage that trains may change against the run's config."""

    epochs: int | None = Field(
        default=None, ge=1, le=1_000_000, description="Epochs of this stage; default: the method's own."
    )
    lr: PositiveFloat | None = Field(default=None, description="Peak learning rate; default: the method's own.")
    weight_decay: NonNegativeFloat | None = Field(default=None, description="Default: the run's.")
    label_smoothing: Fraction | None = Field(default=None, description="Default: the run's.")
    ema_decay: OpenFraction | None = Field(default=None, description="Default: the run's.")
    teacher_weight: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.9, description="Share of the distillation loss from the run's model; 0 trains on labels alone."
    )
    temperature: PositiveFloat = Field(default=4.0, description="Softening of both outputs (Hinton et al. 2015).")


class DistillConfig(FinetuneSettings):
    """Train a smaller student on the model's outputs."""

    method: Literal["distill"] = Field(default="distill", description="Train a smaller student.")
    student: dict[str, Any] | None = Field(
        default=None, description="Model keys of the student; default: the same family at about a quarter of the MACs."
    )


class PruneConfig(FinetuneSettings):
    """Remove whole channels with Torch-Pruning's dependency graph, then fine-tune."""

    method: Literal["prune"] = Field(default="prune", description="Remove channels, then fine-tune.")
    ratio: OpenFraction = Field(default=0.5, description="Share of channels removed from every group of layers.")
    round_to: int = Field(default=8, ge=1, le=256, description="Channel counts become multiples of this.")
    importance: Literal["magnitude", "taylor", "bn_scale"] = Field(
        default="magnitude",
        description="What ranks the channels: weight norm, first-order Taylor term, BatchNorm scale.",
    )
    scope: Literal["uniform", "global"] = Field(
        default="uniform", description="Same ratio in each layer, or ranked over all."
    )


class QATConfig(FinetuneSettings):
    """Quantization-aware training to int8 (FX graph mode, per-channel weights, BatchNorm folded)."""

    method: Literal["qat"] = Field(default="qat", description="Quantization-aware training to int8.")
    freeze_fraction: Fraction = Field(
        default=0.25, description="Last share of the steps with observers and BatchNorm statistics frozen."
    )


class PTQConfig(Section):
    """Post-training quantization to int8, calibrated on training data."""

    method: Literal["ptq"] = Field(default="ptq", description="Quantize to int8 with calibration only.")
    samples: int = Field(default=1024, ge=1, le=10_000_000, description="Training samples used to calibrate.")


Stage = Annotated[DistillConfig | PruneConfig | QATConfig | PTQConfig, Field(discriminator="method")]


class CompressConfig(Section):
    stages: list[Stage] = Field(default=[], max_length=32, description="The recipe, in order.")

    @field_validator("stages", mode="after")
    @classmethod
    def _order(cls, stages: list[Stage]) -> list[Stage]:
        problem = order_problem([stage.method for stage in stages])
        if problem:
            raise PydanticCustomError("stage_order", "{problem}", {"problem": problem})
        return stages


class ExportConfig(Section):
    format: Literal["torchscript"] = Field(default="torchscript", description="Format of the artifact.")
    engine: Literal["x86", "onednn"] = Field(default="x86", description="int8 kernels; set when the file is loaded.")
    latency_batch_sizes: list[Annotated[int, Field(ge=1, le=65536)]] = Field(
        default=[1, 64], min_length=1, max_length=8, description="Batch sizes whose latency is measured."
    )
    latency_threads: int = Field(default=1, ge=1, le=4096, description="CPU threads while latency is measured.")


class TuneConfig(Section):
    """What `scaledl tune` searches, and how. A training takes no notice of it."""

    space: dict[str, Any] = Field(
        default={},
        description="Dotted keys and what they may be: {loguniform: [1e-4, 1e-1]}, {uniform: [a, b]}, "
        "{quniform: [a, b, step]}, {int: [a, b]}, {logint: [a, b]}, {choice: [a, b, …]}; with "
        "`when: {other.key: value}` a key is searched only where another one has that value.",
    )
    verb: Literal["train", "compress"] = Field(default="train", description="What a trial does.")
    trials: int = Field(default=64, ge=1, le=1_000_000, description="Settings to try, the config's own included.")
    search: Literal["auto", "random", "grid", "qmc", "tpe", "gp", "cmaes", "nsga2"] = Field(
        default="auto", description="How settings are chosen. auto: tpe, or nsga2 for several objectives."
    )
    scheduler: Literal["auto", "none", "asha", "hyperband", "median", "pbt"] = Field(
        default="auto",
        description="Which trials are stopped early. auto: asha; none for several objectives and compressions.",
    )
    objectives: dict[Literal["val_accuracy", "val_loss", "params", "macs", "size_bytes", "latency_ms"], Direction] = (
        Field(
            default={"val_accuracy": "max"},
            min_length=1,
            max_length=4,
            description="What is to be best, max or min; several make a Pareto front. Latency and size are the "
            "exported file's. Early stopping looks at the first.",
        )
    )
    reduction_factor: int = Field(
        default=3, ge=2, le=16, description="One of so many trials goes on beyond each rung (asha, hyperband)."
    )
    min_epochs: int = Field(default=1, ge=1, le=1_000_000, description="No trial is stopped before.")
    population: int = Field(default=8, ge=2, le=1000, description="Trials that live at a time (pbt).")
    perturb_epochs: int = Field(default=1, ge=1, le=1_000_000, description="Epochs between two exchanges (pbt).")
    default_first: bool = Field(default=True, description="Trial 0 is the config as it is, as far as the space has it.")
    patience: int | None = Field(
        default=None, ge=1, description="Stop when so many trials in a row ended without a better best."
    )
    target: Annotated[float, Field(allow_inf_nan=False)] | None = Field(
        default=None, description="Stop when the first objective is as good as this."
    )
    hours: PositiveFloat | None = Field(default=None, description="Start no trial after so many hours.")
    retries: int = Field(
        default=3, ge=0, le=100, description="Fresh starts of a trial whose process died, from its own checkpoint."
    )
    cpus: Annotated[float, Field(gt=0, le=4096, allow_inf_nan=False)] = Field(
        default=1.0, description="CPUs of a trial; fractions share one."
    )
    gpus: Annotated[float, Field(ge=0, le=1024, allow_inf_nan=False)] | Auto = Field(
        default="auto", description="GPUs of a trial; fractions share one. auto: one for each rank where there are any."
    )
    keep: Literal["best", "all", "none"] = Field(
        default="best", description="Whose trained weights stay when a trial has ended."
    )


class Config(Section):
    run: RunConfig = Field(default_factory=RunConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    model: ModelConfig = Field(default_factory=lambda: ResNetConfig(family="resnet"))
    task: TaskConfig = Field(default_factory=TaskConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    scheduler: SchedulerConfig = Field(default_factory=SchedulerConfig)
    trainer: TrainerConfig = Field(default_factory=TrainerConfig)
    compress: CompressConfig = Field(default_factory=CompressConfig)
    export: ExportConfig = Field(default_factory=ExportConfig)
    tune: TuneConfig = Field(default_factory=TuneConfig)

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        found = conflicts(self)
        if found:
            text = "; ".join(f"{c.key}: got {c.got}, allowed: {c.allowed}" for c in found)
            raise PydanticCustomError("conflicts", "{text}", {"text": text, "conflicts": found})
        return self


@dataclass(frozen=True)
class Conflict:
    """Two keys whose values cannot stand together: `key` is the one to blame, `against` the one it is measured by."""

    key: str
    against: str
    got: str
    allowed: str


def conflicts(config: Config) -> list[Conflict]:
    """What no single key can show.

    >>> conflicts(Config())
    []
    """
    found = _reversed_ranges(config.data.augment)
    batch, accumulate = config.data.batch_size, config.trainer.accumulate
    if batch % accumulate:
        too_many = f"at most data.batch_size, which is {batch}: every micro-batch needs a sample"
        uneven = f"a divisor of data.batch_size, which is {batch}: it is split into that many micro-batches"
        allowed = too_many if accumulate > batch else uneven
        found.append(Conflict("trainer.accumulate", "data.batch_size", str(accumulate), allowed))
    warmup, epochs = config.scheduler.warmup_epochs, config.trainer.epochs
    if warmup > epochs:
        found.append(
            Conflict(
                "scheduler.warmup_epochs",
                "trainer.epochs",
                f"{warmup:g}",
                f"at most trainer.epochs, which is {epochs}",
            )
        )
    deepspeed = config.trainer.deepspeed
    if deepspeed.offload_parameters and deepspeed.stage != 3:
        found.append(
            Conflict(
                "trainer.deepspeed.offload_parameters",
                "trainer.deepspeed.stage",
                "true",
                f"false with stage {deepspeed.stage}: only stage 3 shards parameters",
            )
        )
    if config.trainer.strategy == "deepspeed" and deepspeed.stage == 3 and config.trainer.ema_decay is not None:
        found.append(
            Conflict(
                "trainer.ema_decay",
                "trainer.deepspeed.stage",
                f"{config.trainer.ema_decay:g}",
                "null with stage 3, whose parameters are whole in no rank; or stage 1 or 2",
            )
        )
    return found


def _reversed_ranges(augment: AugmentConfig) -> list[Conflict]:
    ranges = {"scale": augment.scale, "blur": augment.blur, "resized_crop": augment.resized_crop}
    return [
        Conflict(
            f"data.augment.{name}.0",
            f"data.augment.{name}.1",
            f"{low:g}",
            f"at most data.augment.{name}.1, which is {high:g}",
        )
        for name, (low, high) in ranges.items()
        if low > high
    ]


QUANTIZING = ("qat", "ptq")


def order_problem(methods: list[str]) -> str | None:
    """Why this order of stages cannot work, or None.

    >>> order_problem(["distill", "prune", "qat"]) is None
    True
    >>> order_problem(["qat", "prune"])
    "'prune' cannot follow 'qat': a quantized model has a fixed structure; put 'qat' last"
    """
    for i, method in enumerate(methods[:-1]):
        if method in QUANTIZING:
            after = methods[i + 1]
            return f"'{after}' cannot follow '{method}': a quantized model has a fixed structure; put '{method}' last"
    return None
