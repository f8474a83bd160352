"""How a model that begins with learned weights goes on learning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import Fraction, Section
from .conflict import Conflict
from .trainer import TrainerConfig

Pattern = Annotated[str, Field(min_length=1, max_length=1000)]
EPOCH_PATTERN = r"^[0-9]{1,7}$"
Epoch = Annotated[str, Field(pattern=EPOCH_PATTERN)]
ALL_BUT_HEAD = "all_but_head"


class LoraConfig(Section):
    """Low-rank adapters (Hu et al. 2022): small matrices beside frozen layers, added to them when training ends."""

    rank: int = Field(
        default=0,
        ge=0,
        le=4096,
        description="Rank of the matrices that are learned while all but them and the head is frozen; 0: no adapters.",
    )
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=16.0, description="What is learned is scaled by alpha / rank."
    )
    dropout: Fraction = Field(default=0.0, description="Share of an adapter's inputs dropped in training.")
    targets: list[Pattern] = Field(
        default=["*"],
        min_length=1,
        max_length=1000,
        description="Patterns of the names of linear layers that get one; the head never does.",
    )


class TransferConfig(Section):
    """What is frozen, and for how long. Names are those of parameters; patterns have * and ? (`scaledl train` says
    what they match)."""

    head: Literal["auto", "keep", "replace"] = Field(
        default="auto",
        description="The output layer of model.pretrained: auto replaces it where it has another size, or where the "
        "run that it is of had other classes.",
    )
    freeze: list[Pattern] = Field(
        default=[],
        max_length=1000,
        description=f"Patterns of parameters that stay as they are; {ALL_BUT_HEAD} are all but the output layer.",
    )
    unfreeze: dict[Epoch, list[Pattern]] = Field(
        default={}, description="From which epoch (counted from 0) frozen parameters learn: {epoch: [patterns]}."
    )
    unfreeze_every_n_epochs: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Frozen layers learn one by one from the last to the first, the next after so many epochs "
        "(Howard & Ruder 2018).",
    )
    lr_decay: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = Field(
        default=1.0, description="Learning rate of each layer as a share of that of the layer after it."
    )
    frozen_batchnorm: Literal["eval", "train"] = Field(
        default="eval", description="BatchNorm whose weights are frozen: keeps its statistics too, or follows the data."
    )
    lora: LoraConfig = Field(default_factory=LoraConfig)

    @property
    def thaws(self) -> bool:
        """Whether something frozen learns later."""
        return bool(self.unfreeze) or self.unfreeze_every_n_epochs is not None


def transfer_conflicts(transfer: TransferConfig, trainer: TrainerConfig) -> list[Conflict]:
    """What no single key of transfer can show."""
    found = []
    if transfer.thaws and not transfer.freeze:
        key, got, allowed = _thawing(transfer)
        found.append(Conflict(key, "transfer.freeze", got, f"{allowed} while transfer.freeze is empty"))
    if transfer.unfreeze and transfer.unfreeze_every_n_epochs is not None:
        got = str(transfer.unfreeze_every_n_epochs)
        found.append(
            Conflict("transfer.unfreeze_every_n_epochs", "transfer.unfreeze", got, "null beside transfer.unfreeze")
        )
    if transfer.lora.rank and transfer.freeze:
        allowed = "[] with adapters, which freeze all else"
        found.append(Conflict("transfer.freeze", "transfer.lora.rank", str(transfer.freeze), allowed))
    if trainer.strategy == "deepspeed":
        adapters = ("transfer.lora.rank", str(transfer.lora.rank), "0")
        for key, got, allowed in [adapters] * (transfer.lora.rank > 0) + [_thawing(transfer)] * transfer.thaws:
            allowed += " with deepspeed, which shares out what learns once and for all; ddp can"
            found.append(Conflict(key, "trainer.strategy", got, allowed))
    return found


def _thawing(transfer: TransferConfig) -> tuple[str, str, str]:
    """The key by which something frozen learns later, its value, and the value that it has to lose it for."""
    if transfer.unfreeze:
        return "transfer.unfreeze", str(transfer.unfreeze), "{}"
    return "transfer.unfreeze_every_n_epochs", str(transfer.unfreeze_every_n_epochs), "null"
