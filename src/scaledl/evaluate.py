"""Loss and figures, by the task's own rules, of anything that turns inputs into outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scaledl.config import Config
from scaledl.config.registry import TASKS
from scaledl.config.schema import TaskConfig
from scaledl.data import Batch, DataModule, DataSpec
from scaledl.errors import UsageError
from scaledl.tasks.judge import Judge, Split
from scaledl.tasks.meter import Meter

MOST_CLASSES = 4096  # of which there is a confusion matrix


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Figures over one pass through a split.

    Attributes:
        headline: name of the figure that tables show.
        metrics: every figure by its name, the loss among them (mean over samples; NaN or infinite where outputs are).
        count: samples.
        confusion: int64 [C, C], rows true classes, columns predicted ones; None where outputs are no classes.
    """

    headline: str
    metrics: dict[str, float]
    count: int
    confusion: Tensor | None = None

    @property
    def score(self) -> float:
        """The headline's value."""
        return self.metrics[self.headline]

    @property
    def loss(self) -> float:
        return self.metrics["loss"]

    @property
    def accuracy(self) -> float:
        """Of a task that has one: share that is right, 0..1."""
        return self.metrics["accuracy"]


class _Asked(nn.Module):
    """What is evaluated, in place of the model of a task: its outputs in float32 on the CPU, their shape checked."""

    def __init__(self, predict: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> None:
        super().__init__()
        self._ask, self._shape = [predict], shape  # in a list: it may be a module, and is none of this one's parts

    def forward(self, x: Tensor) -> Tensor:
        outputs = self._ask[0](x).to("cpu", torch.float32)
        if outputs.shape != (len(x), *self._shape):
            raise UsageError(
                f"the model gives outputs {list(outputs.shape)} for {len(x)} samples; "
                f"expected {[len(x), *self._shape]}: it belongs to other data"
            )
        return outputs


def judge(predict: Callable[[Tensor], Tensor], config: TaskConfig, spec: DataSpec, seed: int = 0) -> Judge:
    """The task of `config` around `predict`, for an evaluation."""
    task: type[Judge] = TASKS.resolve(config.name)
    shape = task.outputs(spec, config).shape(spec.inputs)
    made = task(_Asked(predict, shape), config, spec).eval()
    made.seed = seed
    if config.traits.scale == "classes" and made.num_outputs <= MOST_CLASSES:
        made.meter = Meter({**made.gauges(), "confusion": made.judging().decided("ConfusionMatrix")})
    return made


def evaluate(task: Judge, loader: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Evaluation:
    """Judge every batch, without gradients. A module must be in eval mode already.

    Raises:
        UsageError: no samples, outputs of another shape, or labels that cannot be.
    """
    count = 0
    task.on_validation_epoch_start()
    with torch.inference_mode():
        for number, batch in enumerate(map(Batch._make, loader)):
            task.check(batch)
            task.validation_step(batch, number)
            count += len(batch.ids)
    if not count:
        raise UsageError("nothing to evaluate: the split has no samples")
    found = task.evaluated()
    confusion = found.pop("confusion", None)
    return Evaluation(task.config.headline, {name: float(value) for name, value in found.items()}, count, confusion)


def evaluate_split(predict: Callable[[Tensor], Tensor], data: DataModule, config: Config, split: Split) -> Evaluation:
    """Evaluate `predict`, which maps normalised inputs to outputs, as the config's task does. Raises as `evaluate`."""
    made = judge(predict, config.task, data.spec, config.run.seed)
    return evaluate(made, made.eval_loader(data, split, config.data.eval_batch_size))
