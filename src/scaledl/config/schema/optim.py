"""How weights are updated, and how fast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field

from ..registry import OPTIMIZERS, SCHEDULES
from .base import Fraction, NonNegativeFloat, OpenFraction, PositiveFloat, Section, list_names, registered
from .compress import Stage
from .conflict import Conflict, written
from .trainer import TrainerConfig

_ADAM = {"weight_decay": 0.0, "betas": (0.9, 0.999), "eps": 1e-8}
_SGD = {"weight_decay": 0.05, "momentum": 0.9}
PROXIMAL = ("ftrl", "adagrad_da")  # solve for the l1 and l2 penalties instead of following their gradients
_SPARSE = {"initial_accumulator": 0.1}


class MethodSection(Section):
    """A section whose name decides which of its other keys apply, and what these are where the config says null.

    A name that is not in `takes` is somebody's own: it may use every key.
    """

    section: ClassVar[str]
    takes: ClassVar[dict[str, dict[str, Any]]]

    name: str

    def settings(self) -> dict[str, Any]:
        """The keys of this method with their values: the config's, else the method's own."""
        given = {key: value for key in self._all() if (value := getattr(self, key)) is not None}
        known = self.takes.get(self.name)
        return given if known is None else {key: given.get(key, default) for key, default in known.items()}

    def dotted_settings(self) -> dict[str, Any]:
        """As they would stand in a config: under dotted keys, as plain values."""
        plain = self.settings().items()
        return {f"{self.section}.{key}": list(v) if isinstance(v, tuple) else v for key, v in plain}

    def misplaced(self) -> list[Conflict]:
        """The keys that are set although this method has no use for them."""
        return [self._misplaced(key) for key in self.foreign(self.name) if self._is_set(key)]

    @classmethod
    def foreign(cls, name: object) -> list[str]:
        """The keys that only other methods than this one have."""
        known = cls.takes.get(name) if isinstance(name, str) else None
        return [] if known is None else [key for key in cls._all() if key not in known]

    @classmethod
    def _all(cls) -> list[str]:
        return list(dict.fromkeys(key for keys in cls.takes.values() for key in keys))

    def _is_set(self, key: str) -> bool:
        return getattr(self, key) is not None

    def _misplaced(self, key: str) -> Conflict:
        owners = ", ".join(name for name, keys in self.takes.items() if key in keys)
        value = getattr(self, key)
        got = written(list(value) if isinstance(value, tuple) else value)
        allowed = f"null with {self.name}: it is a key of {owners}"
        return Conflict(f"{self.section}.{key}", f"{self.section}.name", got, allowed)


class OptimizerConfig(MethodSection):
    section = "optimizer"
    takes: ClassVar[dict[str, dict[str, Any]]] = {
        "sgd": {**_SGD, "nesterov": True},
        "momentum": _SGD,
        "nesterov": _SGD,
        "adam": _ADAM,
        "adamw": {**_ADAM, "weight_decay": 0.05},
        "amsgrad": _ADAM,
        "nadam": _ADAM,
        "adagrad": {"weight_decay": 0.0, "eps": 1e-10, "initial_accumulator": 0.0},
        "adadelta": {"weight_decay": 0.0, "eps": 1e-6, "rho": 0.9},
        "rmsprop": {"weight_decay": 0.0, "eps": 1e-8, "rho": 0.99, "momentum": 0.0},
        "adagrad_da": _SPARSE,
        "ftrl": _SPARSE,
        "lion": {"weight_decay": 0.05, "betas": (0.9, 0.99)},
        "lamb": {"weight_decay": 0.05, "betas": (0.9, 0.999), "eps": 1e-6},
        "muon": {"weight_decay": 0.05, "betas": (0.9, 0.95), "momentum": 0.95},
    }
    # What a config of an earlier version holds whatever its optimizer is.
    _everywhere: ClassVar[dict[str, Any]] = {"momentum": 0.9, "betas": (0.9, 0.999), "weight_decay": 0.0}

    name: Annotated[str, registered(OPTIMIZERS)] = Field(
        default="adamw", description="Update rule.", json_schema_extra=list_names(OPTIMIZERS)
    )
    lr: PositiveFloat = Field(default=1e-3, description="Peak learning rate; never scaled silently.")
    weight_decay: NonNegativeFloat | None = Field(
        default=None,
        description="Not applied to biases, normalisation weights and embeddings; decoupled, or with adam, amsgrad, "
        "adagrad, adadelta, rmsprop and SGD part of the gradient. null: 0.05 for adamw, lion, lamb, muon and SGD, "
        "else 0.",
    )
    momentum: Fraction | None = Field(
        default=None, description="null: 0.9 for sgd, momentum and nesterov; 0 for rmsprop; 0.95 for muon."
    )
    nesterov: bool | None = Field(
        default=None, description="sgd only: look ahead by the momentum. null: true; sgd without momentum is plain."
    )
    betas: tuple[OpenFraction, OpenFraction] | None = Field(
        default=None,
        strict=False,
        description="Decay of the averages of gradients and of their squares, for the relatives of Adam. "
        "null: [0.9, 0.999]; lion [0.9, 0.99]; muon [0.9, 0.95].",
    )
    eps: PositiveFloat | None = Field(
        default=None, description="Added to the denominator of adaptive methods. null: the method's own, 1e-10 to 1e-6."
    )
    rho: OpenFraction | None = Field(
        default=None, description="Decay of the average of squared gradients. null: 0.9 for adadelta, 0.99 for rmsprop."
    )
    initial_accumulator: PositiveFloat | None = Field(
        default=None,
        description="Sum of squared gradients to begin with. null: 0 for adagrad, 0.1 for ftrl, adagrad_da.",
    )
    l1: NonNegativeFloat = Field(
        default=0.0,
        description="L1 penalty: l1 * sum |w| over weights, not biases. With ftrl and adagrad_da proximal, which makes "
        "zeros; else added to the loss.",
    )
    l2: NonNegativeFloat = Field(
        default=0.0, description="L2 penalty: l2 / 2 * sum w^2 over weights, not biases, as for l1."
    )
    sam_rho: PositiveFloat | None = Field(
        default=None,
        description="Sharpness-aware minimisation: distance to the worst weights nearby, whose gradient is taken. "
        "Doubles the time of a step.",
    )

    def _is_set(self, key: str) -> bool:
        return getattr(self, key) not in (None, self._everywhere.get(key))


class SchedulerConfig(MethodSection):
    section = "scheduler"
    takes: ClassVar[dict[str, dict[str, Any]]] = {
        "constant": {},
        "step": {"step_epochs": 30.0, "gamma": 0.1},
        "multistep": {"milestones": [], "gamma": 0.1},
        "exponential": {"gamma": 0.95},
        "cosine": {},
        "cosine_restarts": {"restart_epochs": 10.0, "restart_factor": 2},
        "one_cycle": {},
        "polynomial": {"power": 2.0},
        "linear": {},
        "inverse_sqrt": {},
        "plateau": {"patience": 3, "gamma": 0.1},
    }

    name: Annotated[str, registered(SCHEDULES)] = Field(
        default="cosine",
        description="Course of the learning rate, a new one at every optimizer step.",
        json_schema_extra=list_names(SCHEDULES),
    )
    warmup_epochs: NonNegativeFloat = Field(default=0.0, description="Linear warm-up, in epochs (fractions allowed).")
    min_lr_ratio: Fraction = Field(
        default=0.0, description="Learning rate at the end, or below which none falls, as a share of the peak."
    )
    step_epochs: PositiveFloat | None = Field(
        default=None, description="step: epochs from one fall to the next. null: 30."
    )
    milestones: list[PositiveFloat] | None = Field(
        default=None, min_length=1, max_length=1000, description="multistep: epochs after which the rate falls."
    )
    gamma: OpenFraction | None = Field(
        default=None,
        description="Factor of a fall (step, multistep, plateau), or of each epoch (exponential). null: 0.1; "
        "exponential 0.95.",
    )
    restart_epochs: PositiveFloat | None = Field(
        default=None, description="cosine_restarts: epochs until the first restart. null: 10."
    )
    restart_factor: Annotated[int, Field(ge=1, le=100)] | None = Field(
        default=None, description="cosine_restarts: how many times longer each cycle is than the last. null: 2."
    )
    power: PositiveFloat | None = Field(default=None, description="polynomial: its exponent. null: 2.")
    patience: Annotated[int, Field(ge=0, le=1_000_000)] | None = Field(
        default=None,
        description="plateau: epochs without a lower validation loss that are waited for. null: 3.",
    )


_NOT_IN_PARTS = {
    **dict.fromkeys(("lamb", "muon"), "it looks at whole parameters, of which each rank has parts"),
    "adagrad": "it makes its sums before parameters are cut up; ftrl without penalties is the same method",
}


def optim_conflicts(optimizer: OptimizerConfig, scheduler: SchedulerConfig, trainer: TrainerConfig) -> list[Conflict]:
    """What optimizer, schedule and trainer cannot do together."""
    found = [*optimizer.misplaced(), *scheduler.misplaced()]
    if scheduler.name == "multistep" and scheduler.milestones is None:
        allowed = "epochs after which the rate falls, such as [30, 60]"
        found.append(Conflict("scheduler.milestones", "scheduler.name", "null", allowed))
    if trainer.swa_start is not None and trainer.ema_decay is not None:
        allowed = "null with trainer.ema_decay: one average is the result"
        found.append(Conflict("trainer.swa_start", "trainer.ema_decay", f"{trainer.swa_start:g}", allowed))
    if trainer.swa_lr_ratio is not None and trainer.swa_start is None:
        allowed = "null without trainer.swa_start"
        found.append(Conflict("trainer.swa_lr_ratio", "trainer.swa_start", f"{trainer.swa_lr_ratio:g}", allowed))
    if trainer.gradient_clip_value is not None and trainer.gradient_clip is not None:
        allowed = "null with trainer.gradient_clip: gradients are clipped by their norm or by value"
        value = f"{trainer.gradient_clip_value:g}"
        found.append(Conflict("trainer.gradient_clip_value", "trainer.gradient_clip", value, allowed))
    if optimizer.sam_rho is not None and trainer.accumulate > 1:
        allowed = "1 with optimizer.sam_rho, which goes twice over a whole batch"
        found.append(Conflict("trainer.accumulate", "optimizer.sam_rho", str(trainer.accumulate), allowed))
    return found + (_deepspeed_conflicts(optimizer, trainer) if trainer.strategy == "deepspeed" else [])


def stage_conflicts(optimizer: OptimizerConfig, stages: Sequence[Stage]) -> list[Conflict]:
    """Weight decay of a stage, where the optimizer has none."""
    if "weight_decay" not in optimizer.foreign(optimizer.name):
        return []
    strengths = {number: getattr(stage, "weight_decay", None) for number, stage in enumerate(stages)}
    return [
        Conflict(
            f"compress.stages.{number}.weight_decay",
            "optimizer.name",
            f"{strength:g}",
            f"null or 0 with {optimizer.name}, which has penalties (optimizer.l1, l2) instead",
        )
        for number, strength in strengths.items()
        if strength
    ]


def _deepspeed_conflicts(optimizer: OptimizerConfig, trainer: TrainerConfig) -> list[Conflict]:
    """DeepSpeed's optimizer sees flat parts of parameters and of gradients, and keeps both to itself."""
    found = []
    if optimizer.name in _NOT_IN_PARTS:
        others = ", ".join(name for name in optimizer.takes if name not in _NOT_IN_PARTS)
        allowed = f"one of {others}; not {optimizer.name}: {_NOT_IN_PARTS[optimizer.name]}"
        found.append(Conflict("optimizer.name", "trainer.strategy", optimizer.name, allowed))
    if optimizer.sam_rho is not None:
        found.append(_without("optimizer.sam_rho", f"{optimizer.sam_rho:g}", "trainer.strategy", "DeepSpeed"))
    if trainer.gradient_clip_value is not None:
        value = f"{trainer.gradient_clip_value:g}"
        found.append(_without("trainer.gradient_clip_value", value, "trainer.strategy", "DeepSpeed"))
    if trainer.deepspeed.stage == 3:
        whole = {"optimizer.l1": optimizer.l1, "optimizer.l2": optimizer.l2, "trainer.swa_start": trainer.swa_start}
        proximal = optimizer.name in PROXIMAL
        for key, strength in whole.items():
            if strength and not (proximal and key.startswith("optimizer.")):
                found.append(_without(key, f"{strength:g}", "trainer.deepspeed.stage", "stage 3"))
    return found


def _without(key: str, got: str, against: str, what: str) -> Conflict:
    return Conflict(key, against, got, f"null or 0 with {what}, where no rank holds whole parameters and gradients")
