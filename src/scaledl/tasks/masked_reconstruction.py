"""Masked reconstruction (He et al. 2022): the parts of an input that are hidden."""

from __future__ import annotations

from typing import ClassVar, get_args

from torch import Tensor, nn

from scaledl.config.schema import TaskConfig
from scaledl.data import Batch, DataSpec
from scaledl.data.arrays import Target
from scaledl.runtime.outputs import OutputKind
from scaledl.runtime.signature import Outputs
from scaledl.tasks.base import Task
from scaledl.tasks.hidden import EVALUATION, hidden_values
from scaledl.tasks.losses import loss_fn, mean_over_samples
from scaledl.tasks.meter import Pairs
from scaledl.tasks.metrics import Judged
from scaledl.tasks.reconstruction import outputs_like_inputs

RATIOS = {"image": 0.75}


class MaskedReconstructionTask(Task):
    """The input again, [B, *shape], of an input whose hidden values are 0, their mean; only these count.

    What is hidden is drawn anew in each epoch, and is the same in every evaluation. Labels are not looked at.
    """

    targets = frozenset(get_args(Target))
    kind: ClassVar[OutputKind] = "input"

    @classmethod
    def takes_unlabeled(cls, config: TaskConfig) -> bool:
        return True

    @classmethod
    def outputs(cls, spec: DataSpec, config: TaskConfig) -> Outputs:
        return outputs_like_inputs(spec, config)

    def __init__(self, model: nn.Module, config: TaskConfig, spec: DataSpec) -> None:
        super().__init__(model, config, spec)
        self._loss_fn = loss_fn(config)
        self._ratio = config.mask_ratio or RATIOS.get(spec.modality, 0.5)

    def judging(self) -> Judged:
        return Judged("numbers", 1)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        ids = batch.ids if len(batch.ids) else batch.ids.new_zeros(len(batch.x))
        epoch = self.current_epoch if self.training else EVALUATION
        hidden = hidden_values(ids, batch.x.shape[1:], self.config.mask_patch, self._ratio, self.seed, epoch)
        seen = batch.x.masked_fill(hidden, 0.0)
        output = self.model(seen)
        loss = mean_over_samples(self._loss_fn(output, batch.x, self.config, None), hidden)
        return {"loss": loss, "output": output, "input": seen, "hidden": hidden}

    def judged(self, result: dict[str, Tensor], batch: Batch) -> Pairs:
        hidden = result["hidden"]
        return {"outputs": (result["output"][hidden].unsqueeze(1), batch.x[hidden].unsqueeze(1))}
