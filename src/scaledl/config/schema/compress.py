"""The stages of a compression, and the order in which they may stand."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from .base import Fraction, NonNegativeFloat, OpenFraction, PositiveFloat, Section


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
