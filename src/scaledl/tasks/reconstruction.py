"""Reconstruction: the input again, and how far off it is."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, get_args

import torch
from torch import Tensor, nn
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision

from scaledl.config.schema import TaskConfig
from scaledl.data import Batch, DataSpec
from scaledl.data.arrays import Target
from scaledl.errors import UsageError
from scaledl.models.vae import training_outputs_of
from scaledl.runtime.outputs import OutputKind, OutputSpec
from scaledl.runtime.signature import Outputs
from scaledl.tasks.base import Task
from scaledl.tasks.losses import loss_fn, mean_over_samples
from scaledl.tasks.meter import Pairs, gauge
from scaledl.tasks.metrics import Gauge, Judged

ERRORS = "errors"
OF_ERRORS = {"auroc": BinaryAUROC, "average_precision": BinaryAveragePrecision}


class ReconstructionTask(Task):
    """The normalised input again, [B, *shape]. The error of a sample, the mean over its values, is its anomaly score.

    Samples of `anomaly_label` are not learned from, and of all errors only `auroc` and `average_precision` look at
    theirs. With bce, of images, outputs are logits of intensities 0..1.

    A model that draws its latent numbers has `training_outputs(x) -> {"output": [B, *shape], "kl": [B], nats}`, also
    while it is fake-quantized: then `kl_weight * kl`, divided by the number of values, is added in training. With bce
    and a weight of 1 this is the evidence lower bound of Kingma and Welling 2014, a value of an input.
    """

    targets = frozenset(get_args(Target))
    kind: ClassVar[OutputKind] = "input"

    @classmethod
    def takes_unlabeled(cls, config: TaskConfig) -> bool:
        return config.anomaly_label is None

    @classmethod
    def outputs(cls, spec: DataSpec, config: TaskConfig) -> Outputs:
        if config.loss == "bce" and spec.modality != "image":
            raise UsageError(
                f"task.loss: got bce, and the data are of modality {spec.modality}; allowed: mse, mae, huber"
            )
        _anomaly(spec, config)
        return outputs_like_inputs(spec, config)

    @classmethod
    def output_spec(cls, spec: DataSpec, config: TaskConfig) -> OutputSpec:
        made = super().output_spec(spec, config)
        return dataclasses.replace(made, kind="intensities") if config.loss == "bce" else made

    def __init__(self, model: nn.Module, config: TaskConfig, spec: DataSpec) -> None:
        super().__init__(model, config, spec)
        self._loss_fn = loss_fn(config)
        self._anomaly = _anomaly(spec, config)
        self._as_intensities = config.loss == "bce"
        for name, values in (("channel_mean", spec.mean), ("channel_std", spec.std)):
            self.register_buffer(name, torch.tensor(values).view(-1, *[1] * (len(spec.in_shape) - 1)), persistent=False)

    channel_mean: Tensor
    channel_std: Tensor

    def gauges(self) -> dict[str, Gauge]:
        numbers = Judged("numbers", self.spec.inputs.size)
        of_errors = (
            {"auroc": BinaryAUROC, "average_precision": BinaryAveragePrecision} if self.config.anomaly_label else {}
        )
        made = {name: Gauge(metric(validate_args=False), _ranked, ERRORS) for name, metric in of_errors.items()}
        return made | {name: gauge(name, numbers) for name in self.config.figures if name not in of_errors}

    def step(self, batch: Batch) -> dict[str, Tensor]:
        draws = training_outputs_of(self.model) if self.training else None
        result = {"output": self.model(batch.x)} if draws is None else draws(batch.x)
        loss = self.loss(result["output"], batch)
        if "kl" in result:
            loss = loss + self.config.kl_weight * self._mean(result["kl"], batch) / self.spec.inputs.size
        return {"loss": loss, "output": result["output"]}

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        target = batch.x * self.channel_std + self.channel_mean if self._as_intensities else batch.x
        return self._mean(self._loss_fn(output, target, self.config, None), batch)

    def _mean(self, values: Tensor, batch: Batch) -> Tensor:
        """Over the samples that are no anomalies; in training divided by all, as a batch may have more or less."""
        if self._anomaly is None or values.ndim == 0:
            return mean_over_samples(values)
        normal = (batch.y != self._anomaly).to(values.dtype)
        total = (values.flatten(1).mean(1) * normal).sum() if values.ndim > 1 else (values * normal).sum()
        return total / (len(normal) if self.training else normal.sum().clamp(min=1))

    def weight(self, batch: Batch) -> int:
        return len(batch.ids) if self._anomaly is None else int((batch.y != self._anomaly).sum())

    def judged(self, result: dict[str, Tensor], batch: Batch) -> Pairs:
        output = result["output"].float()
        if self._as_intensities:
            output = (output.sigmoid() - self.channel_mean) / self.channel_std
        errors = (output - batch.x).double().square().flatten(1).mean(1)
        odd = torch.zeros_like(errors, dtype=torch.bool) if self._anomaly is None else batch.y == self._anomaly
        return {"outputs": (output.flatten(1)[~odd], batch.x.flatten(1)[~odd]), ERRORS: (errors, odd)}


def outputs_like_inputs(spec: DataSpec, config: TaskConfig) -> Outputs:
    """Raises UsageError for texts, whose tokens are no numbers."""
    if spec.modality == "text":
        raise UsageError(
            f"task.name: got {config.name}, and the inputs of data.source {spec.source} are texts; allowed for them: "
            "masked_language_modeling, language_modeling"
        )
    return Outputs(spec.in_shape[0], "input")


def _anomaly(spec: DataSpec, config: TaskConfig) -> int | None:
    """The class that stands for anomalies."""
    if config.anomaly_label is None:
        return None
    if spec.target != "class" or config.anomaly_label not in spec.labels:
        known = ", ".join(spec.labels) if spec.target == "class" else f"null, as the targets are {spec.target!r}"
        raise UsageError(f"task.anomaly_label: got {config.anomaly_label!r}; allowed: {known}")
    return spec.labels.index(config.anomaly_label)


def _ranked(errors: Tensor, odd: Tensor) -> tuple[Tensor, Tensor]:
    """In 0..1, in the same order: what lies outside would be taken for logits."""
    return errors / (1 + errors), odd.long()
