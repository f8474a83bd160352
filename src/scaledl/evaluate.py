"""Loss and figures, by the task's own rules, of anything that turns inputs into outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scaledl.config import Config
from scaledl.config.schema import TaskConfig
from scaledl.data import Batch, DataModule, DataSpec
from scaledl.errors import UsageError
from scaledl.tasks.judge import Judge, Split
from scaledl.tasks.meter import Meter
from scaledl.tasks.metrics import Gathered, Gauge
from scaledl.tasks.own import settings_of, task_class

MOST_CLASSES = 4096  # of which there is a confusion matrix


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Figures over one pass through a split.

    Attributes:
        headline: name of the figure that tables show.
        metrics: every figure by its name, the loss among them (mean over samples; NaN or infinite where outputs are).
        count: samples.
        confusion: int64 [C, C], rows true classes, columns predicted ones; None where outputs are no classes.
        errors: of inputs that were put together again, float64 [N], mean squared error of each sample in the loader's
            order: its anomaly score. None of other outputs.
    """

    headline: str
    metrics: dict[str, float]
    count: int
    confusion: Tensor | None = None
    errors: Tensor | None = None

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

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: figures by name; of errors what a share of the samples is below."""
        matrix = {} if self.confusion is None else {"confusion": self.confusion.tolist()}
        below = {} if self.errors is None else {"errors": error_quantiles(self.errors)}
        return {"metric": self.headline, **self.metrics, "count": self.count, **matrix, **below}


def error_quantiles(errors: Tensor) -> dict[str, float]:
    """What half, 95 %, 99 % and all of the samples are below: where to draw a line for anomalies."""
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    found: list[float] = torch.quantile(errors.double(), torch.tensor([*shares.values()], dtype=torch.float64)).tolist()
    return dict(zip(shares, found, strict=True))


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
    task = task_class(config.name)
    config = settings_of(task, config)
    shape = task.outputs(spec, config).shape(spec.inputs)
    made = task(_Asked(predict, shape), config, spec).eval()
    made.seed = seed
    made.meter = Meter({**made.gauges(), **_beside(made)})
    return made


def _beside(judge: Judge) -> dict[str, Gauge]:
    """What an evaluation gives besides single figures."""
    if judge.config.traits.scale == "classes" and judge.num_outputs <= MOST_CLASSES:
        return {"confusion": judge.judging().decided("ConfusionMatrix")}
    if judge.config.name == "reconstruction":
        return {"errors": Gauge(Gathered(), about="errors")}
    return {}


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
    beside = {name: found.pop(name) for name in ("confusion", "errors") if name in found}
    return Evaluation(task.config.headline, {name: float(value) for name, value in found.items()}, count, **beside)


def evaluate_split(predict: Callable[[Tensor], Tensor], data: DataModule, config: Config, split: Split) -> Evaluation:
    """Evaluate `predict`, which maps normalised inputs to outputs, as the config's task does. Raises as `evaluate`."""
    made = judge(predict, config.task, data.spec, config.run.seed)
    options = {"limit": data.evaluated(split, config)}
    return evaluate(made, made.eval_loader(data, split, config.data.eval_batch_size, config.data.augment, **options))
