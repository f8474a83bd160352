"""How weights are updated, and how fast."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .base import Fraction, NonNegativeFloat, OpenFraction, PositiveFloat, Section


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
