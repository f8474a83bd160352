"""The typed sections of a config. Frozen, complete, torch-free: units and meaning stand in the descriptions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
OpenFraction = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Auto = Literal["auto"]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class RunConfig(Section):
    name: str | None = Field(
        None,
        pattern=NAME_PATTERN,
        description="Folder of the run under `root`; by default the config file's name.",
    )
    id: str | None = Field(
        None,
        pattern=NAME_PATTERN,
        description="Folder of this execution under the name; a fixed id resumes. Default: Slurm job id, else new.",
    )
    root: str = Field("runs", min_length=1, description="Folder of all runs, relative to the working directory.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of initial weights, data order and augmentation.")


class AugmentConfig(Section):
    crop: int = Field(0, ge=0, le=64, description="Random crop after padding by this many pixels; 0 is off.")
    flip: bool = Field(False, description="Random horizontal flip.")


class DataConfig(Section):
    source: str = Field("digits", description="Name of a registered data source.")
    root: str | None = Field(None, description="Folder of the source's files, where the source needs one.")
    download: bool = Field(True, description="Download when the files are not on this machine.")
    val_fraction: OpenFraction = Field(0.1, description="Stratified share of the training set kept for validation.")
    batch_size: int = Field(128, ge=1, le=1_000_000, description="Samples per optimizer step, over all ranks.")
    eval_batch_size: int = Field(512, ge=1, le=1_000_000, description="Samples per batch in evaluation.")
    augment: AugmentConfig = Field(default_factory=AugmentConfig)


class MLPConfig(Section):
    family: Literal["mlp"]
    hidden: list[Annotated[int, Field(ge=1, le=65536)]] = Field(
        [128], max_length=64, description="Units of each hidden layer."
    )
    num_classes: int | None = Field(None, ge=2, le=1_000_000, description="Checked against the data when given.")


class ResNetConfig(Section):
    family: Literal["resnet"]
    depth: Literal[8, 14, 18, 20, 32, 34, 44, 50, 56] = Field(
        20, description="8/14/20/32/44/56: CIFAR style (three stages). 18/34/50: ImageNet style (four stages)."
    )
    width: int | None = Field(
        None, ge=1, le=1024, description="Channels of the first stage; default 16 (CIFAR style) or 64 (ImageNet)."
    )
    num_classes: int | None = Field(None, ge=2, le=1_000_000, description="Checked against the data when given.")


ModelConfig = Annotated[MLPConfig | ResNetConfig, Field(discriminator="family")]


class TaskConfig(Section):
    name: str = Field("classification", description="Name of a registered task.")
    label_smoothing: Fraction = Field(0.0, description="Mass moved from the true class to all classes.")


class OptimizerConfig(Section):
    name: Literal["adamw", "sgd"] = "adamw"
    lr: PositiveFloat = Field(1e-3, description="Peak learning rate; never scaled silently.")
    weight_decay: NonNegativeFloat = Field(0.05, description="Not applied to biases and normalisation weights.")
    momentum: Fraction = Field(0.9, description="Momentum of SGD (Nesterov).")
    betas: tuple[OpenFraction, OpenFraction] = Field((0.9, 0.999), strict=False, description="AdamW only.")


class SchedulerConfig(Section):
    name: Literal["constant", "cosine", "one_cycle"] = Field("cosine", description="Stepped every optimizer step.")
    warmup_epochs: NonNegativeFloat = Field(0.0, description="Linear warm-up, in epochs (fractions allowed).")
    min_lr_ratio: Fraction = Field(0.0, description="Final learning rate as a share of the peak.")


class TrainerConfig(Section):
    epochs: int = Field(10, ge=1, le=1_000_000)
    max_steps: int | None = Field(None, ge=1, description="Stop after this many optimizer steps.")
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 autocast where a quick measurement finds it faster here."
    )
    channels_last: bool | Auto = Field("auto", description="auto: on for image models.")
    compile: bool = Field(False, description="torch.compile; pays after some thousand steps.")
    gradient_clip: PositiveFloat | None = Field(None, description="Largest global gradient norm.")
    accumulate: int = Field(1, ge=1, le=4096, description="Micro-batches per optimizer step; batch_size is split.")
    ema_decay: OpenFraction | None = Field(
        None, description="Moving average of the weights, used in evaluation and as the result."
    )
    early_stopping_patience: int | None = Field(
        None, ge=1, description="Stop after this many epochs without a better validation loss."
    )
    select: Literal["last", "best"] = Field("last", description="Weights of the result: last epoch or best validation.")
    checkpoint_every_n_steps: int | None = Field(None, ge=1, description="Also save within epochs.")
    keep_last: int = Field(2, ge=1, le=1000, description="Newest checkpoints kept (best kept besides).")
    log_every_n_steps: int = Field(50, ge=1, description="Steps between writes of metrics; every step's loss is kept.")
    num_threads: int | None = Field(None, ge=1, le=4096, description="CPU threads; default: all that are allowed.")


class FinetuneSettings(Section):
    """What every stage that trains may change against the run's config."""

    epochs: int | None = Field(None, ge=1, le=1_000_000)
    lr: PositiveFloat | None = None
    weight_decay: NonNegativeFloat | None = None
    label_smoothing: Fraction | None = None
    ema_decay: OpenFraction | None = None
    teacher_weight: Annotated[float, Field(ge=0, le=1)] = Field(
        0.9, description="Share of the distillation loss from the run's model; 0 trains on labels alone."
    )
    temperature: PositiveFloat = Field(4.0, description="Softening of both outputs (Hinton et al. 2015).")


class DistillConfig(FinetuneSettings):
    """Train a smaller student on the model's outputs."""

    method: Literal["distill"] = "distill"
    student: dict[str, Any] | None = Field(
        None, description="Model keys of the student; default: the same family at about a quarter of the MACs."
    )


class PruneConfig(FinetuneSettings):
    """Remove whole channels with Torch-Pruning's dependency graph, then fine-tune."""

    method: Literal["prune"] = "prune"
    ratio: OpenFraction = Field(0.5, description="Share of channels removed from every group of layers.")
    round_to: int = Field(8, ge=1, le=256, description="Channel counts become multiples of this.")
    importance: Literal["magnitude", "taylor", "bn_scale"] = "magnitude"
    scope: Literal["uniform", "global"] = Field("uniform", description="Same ratio in each layer, or ranked over all.")


class QATConfig(FinetuneSettings):
    """Quantization-aware training to int8 (FX graph mode, per-channel weights, BatchNorm folded)."""

    method: Literal["qat"] = "qat"
    freeze_fraction: Fraction = Field(
        0.25, description="Last share of the steps with observers and BatchNorm statistics frozen."
    )


class PTQConfig(Section):
    """Post-training quantization to int8, calibrated on training data."""

    method: Literal["ptq"] = "ptq"
    samples: int = Field(1024, ge=1, le=10_000_000, description="Training samples used to calibrate.")


Stage = Annotated[DistillConfig | PruneConfig | QATConfig | PTQConfig, Field(discriminator="method")]


class CompressConfig(Section):
    stages: list[Stage] = Field(default_factory=list, max_length=32, description="The recipe, in order.")

    @model_validator(mode="after")
    def _order(self) -> CompressConfig:
        problem = order_problem([stage.method for stage in self.stages])
        if problem:
            raise ValueError(problem)
        return self


class ExportConfig(Section):
    format: Literal["torchscript"] = "torchscript"
    engine: Literal["x86", "onednn"] = Field("x86", description="int8 kernels; set when the file is loaded.")
    latency_batch_sizes: list[Annotated[int, Field(ge=1, le=65536)]] = Field(
        [1, 64], min_length=1, max_length=8, description="Batch sizes whose latency is measured."
    )
    latency_threads: int = Field(1, ge=1, le=4096, description="CPU threads while latency is measured.")


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
