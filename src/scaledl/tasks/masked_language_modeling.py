"""Masked language modelling (Devlin et al. 2019): tokens that are hidden."""

from __future__ import annotations

from typing import ClassVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaledl.config.schema import TaskConfig
from scaledl.data import Batch, DataSpec
from scaledl.data.arrays import IGNORED, Target
from scaledl.data.tokenizer import mask_id, special_ids
from scaledl.runtime.outputs import OutputKind
from scaledl.runtime.signature import Outputs
from scaledl.runtime.tokens import PADDING_ID
from scaledl.tasks.base import Task
from scaledl.tasks.distillation import soft_targets_loss
from scaledl.tasks.hidden import EVALUATION, disguise, hidden_tokens
from scaledl.tasks.language_modeling import outputs_of_texts
from scaledl.tasks.losses import loss_fn, mean_over_samples
from scaledl.tasks.meter import Pairs

RATIO = 0.15


class MaskedLanguageModelingTask(Task):
    """Logits [B, V, T] at each step; only those of hidden tokens count. Labels are not looked at.

    What is hidden is drawn anew in each epoch, and is the same in every evaluation.
    """

    targets = frozenset(get_args(Target))
    kind: ClassVar[OutputKind] = "tokens"

    @classmethod
    def takes_unlabeled(cls, config: TaskConfig) -> bool:
        return True

    @classmethod
    def outputs(cls, spec: DataSpec, config: TaskConfig) -> Outputs:
        return outputs_of_texts(spec, config)

    def __init__(self, model: nn.Module, config: TaskConfig, spec: DataSpec) -> None:
        super().__init__(model, config, spec)
        self._plain = config.model_copy(update={"label_smoothing": 0.0})
        self._loss_fn = loss_fn(config)
        self._ratio = config.mask_ratio or RATIO
        self._mask = mask_id(spec.tokenizer)
        self._special = torch.tensor([PADDING_ID, *special_ids(spec.tokenizer)])

    def step(self, batch: Batch) -> dict[str, Tensor]:
        ids = batch.ids if len(batch.ids) else batch.ids.new_zeros(len(batch.x))
        epoch = self.current_epoch if self.training else EVALUATION
        free = ~torch.isin(batch.x, self._special.to(batch.x.device))
        hidden = hidden_tokens(ids, batch.x, free, self._ratio, self.seed, epoch)
        seen = disguise(ids, batch.x, hidden, self._mask, self.num_outputs, self.seed, epoch)
        output, truths = self.model(seen), batch.x.masked_fill(~hidden, IGNORED)
        config = self.config if self.training else self._plain
        loss = mean_over_samples(self._loss_fn(output, truths, config, None), hidden)
        return {"loss": loss, "output": output, "input": seen, "truths": truths}

    def judged(self, result: dict[str, Tensor], batch: Batch) -> Pairs:
        output, truths = result["output"], result["truths"]
        hidden = truths != IGNORED
        nats = F.cross_entropy(output.float(), truths, ignore_index=IGNORED, reduction="none").sum(1)
        count = hidden.sum(1)
        return {
            "outputs": (output.movedim(1, -1)[hidden], truths[hidden]),
            "tokens": (nats, count),
            "characters": (nats, count),
        }

    def soft_loss(self, result: dict[str, Tensor], teacher: Tensor, temperature: float, batch: Batch) -> Tensor:
        return soft_targets_loss(result["output"], teacher, temperature, batch.x != PADDING_ID)
