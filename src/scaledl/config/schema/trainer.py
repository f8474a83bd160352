"""How long, where and how exactly a training runs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from .base import OWN_PATTERN, Auto, OpenFraction, PositiveFloat, Section


class DeepSpeedConfig(Section):
    """ZeRO (Rajbhandari et al. 2020): what each rank keeps only its share of."""

    stage: Literal[1, 2, 3] = Field(
        default=2, description="What is sharded: 1 optimizer states, 2 and gradients, 3 and parameters."
    )
    offload_optimizer: bool = Field(default=False, description="Keep optimizer states in CPU memory.")
    offload_parameters: bool = Field(default=False, description="Keep parameters in CPU memory; needs stage 3.")


Batches = Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


class CallbackConfig(Section):
    """A Lightning callback of one's own, or of a library."""

    path: Annotated[str, Field(pattern=OWN_PATTERN)] = Field(description="python.path:Class.")
    args: dict[str, Any] = Field(default={}, description="What it is made with.")


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
    compile: bool | Auto = Field(
        default="auto", description="torch.compile. auto: where a run is long enough that a trial finds that it pays."
    )
    gradient_clip: PositiveFloat | None = Field(default=None, description="Largest global gradient norm.")
    gradient_clip_value: PositiveFloat | None = Field(
        default=None, description="Largest entry of a gradient, instead of a largest norm."
    )
    accumulate: int = Field(
        default=1, ge=1, le=4096, description="Micro-batches per optimizer step; a divisor of batch_size."
    )
    ema_decay: OpenFraction | None = Field(
        default=None, description="Moving average of the weights, used in evaluation and as the result."
    )
    swa_start: OpenFraction | None = Field(
        default=None,
        description="Share of the training after which the weights of all epochs are averaged (SWA); the average is "
        "used in evaluation and as the result, with statistics of BatchNorm of its own.",
    )
    swa_lr_ratio: PositiveFloat | None = Field(
        default=None, description="Learning rate while averaging, as a share of the peak. null: as the schedule says."
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
    callbacks: list[Annotated[str, Field(pattern=OWN_PATTERN)] | CallbackConfig] = Field(
        default=[],
        max_length=100,
        description="Lightning callbacks of one's own: python.path:Class, or {path: python.path:Class, args: {…}}.",
    )
    profiler: Literal["none", "simple", "advanced", "pytorch"] = Field(
        default="none", description="Lightning's profiler, whose tables go into the run's folder."
    )
    limit_train_batches: Batches = Field(
        default=1.0, description="Batches of data.batch_size in each epoch: a number, or a share; 1.0 is all."
    )
    limit_val_batches: Batches = Field(
        default=1.0, description="Batches of data.eval_batch_size in each validation, likewise; always the first."
    )
    limit_test_batches: Batches = Field(default=1.0, description="Likewise in each evaluation on the test split.")
    fast_dev_run: bool | Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=False, description="One epoch of so many batches in training and every evaluation; true is one batch."
    )
