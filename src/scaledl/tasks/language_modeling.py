"""Language modelling: the next token of a text."""

from __future__ import annotations

from typing import Any, ClassVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaledl.config.schema import TaskConfig
from scaledl.data import Batch, DataSpec
from scaledl.data.arrays import IGNORED, Target
from scaledl.errors import UsageError
from scaledl.runtime.outputs import OutputKind
from scaledl.runtime.signature import Outputs
from scaledl.runtime.tokens import PADDING_ID, parse_tokenizer
from scaledl.tasks.base import Task
from scaledl.tasks.distillation import soft_targets_loss
from scaledl.tasks.losses import loss_fn, mean_over_samples
from scaledl.tasks.meter import Pairs

_TOLERANCE = 1e-4


class LanguageModelingTask(Task):
    """Logits [B, V, T] at each step against the token after it; token ids int64 [B, T], 0 is padding and no target.

    Labels are not looked at. Label smoothing in training only. Bits per character count the characters that the data's
    tokenizer makes of the tokens; without one each token is a character.
    """

    targets = frozenset(get_args(Target))
    kind: ClassVar[OutputKind] = "tokens"

    @classmethod
    def takes_unlabeled(cls, config: TaskConfig) -> bool:
        return True

    @classmethod
    def outputs(cls, spec: DataSpec, config: TaskConfig) -> Outputs:
        return outputs_of_texts(spec, config)

    @classmethod
    def check_model(cls, module: nn.Module, spec: DataSpec, family: str) -> None:
        if _sees_ahead(module, spec):
            raise UsageError(
                f"model.family: got {family}, and what it says at a step depends on later ones, which it is to "
                "predict; allowed with task.name=language_modeling: gpt, or rnn, lstm and gru in one direction; or "
                "task.name=masked_language_modeling"
            )

    def __init__(self, model: nn.Module, config: TaskConfig, spec: DataSpec) -> None:
        super().__init__(model, config, spec)
        self._plain = config.model_copy(update={"label_smoothing": 0.0})
        self._loss_fn = loss_fn(config)
        self._tokenizer: Any = None

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        following = next_tokens(batch.x)
        config = self.config if self.training else self._plain
        return mean_over_samples(self._loss_fn(output[:, :, :-1], following, config, None), following != IGNORED)

    def judged(self, result: dict[str, Tensor], batch: Batch) -> Pairs:
        output, following = result["output"][:, :, :-1], next_tokens(batch.x)
        counted = following != IGNORED
        nats = F.cross_entropy(output.float(), following, ignore_index=IGNORED, reduction="none").sum(1)
        count, figures = counted.sum(1), set(self.config.figures)
        pairs = {"tokens": (nats, count)}
        if "bits_per_character" in figures:
            pairs["characters"] = nats, self._characters(batch.x, count)
        if figures & {"accuracy", "top5_accuracy"}:
            pairs["outputs"] = output.movedim(1, -1)[counted], following[counted]
        return pairs

    def _characters(self, x: Tensor, count: Tensor) -> Tensor:
        """Of each text behind its first token, [B]."""
        if not self.spec.tokenizer:
            return count
        if self._tokenizer is None:
            self._tokenizer = parse_tokenizer(self.spec.tokenizer, "the data's tokenizer")
        texts = self._tokenizer.decode_batch(x[:, 1:].tolist())
        return torch.tensor([len(text) for text in texts], device=x.device)

    def soft_loss(self, result: dict[str, Tensor], teacher: Tensor, temperature: float, batch: Batch) -> Tensor:
        return soft_targets_loss(result["output"], teacher, temperature, batch.x != PADDING_ID)


def outputs_of_texts(spec: DataSpec, config: TaskConfig) -> Outputs:
    """Logits of each token of the vocabulary, at each step. Raises UsageError for data that are no texts."""
    if spec.modality != "text":
        raise UsageError(
            f"task.name: got {config.name}, and the inputs of data.source {spec.source} are of modality "
            f"{spec.modality}; allowed: texts"
        )
    if spec.in_shape[0] < 2:
        raise UsageError(f"task.name: got {config.name}, and texts of one token; allowed: two tokens at least")
    return Outputs(spec.vocabulary, "steps")


def next_tokens(x: Tensor) -> Tensor:
    """Token ids [B, T] -> what follows each but the last, [B, T - 1], IGNORED where it is padding."""
    following = x[:, 1:]
    return following.masked_fill(following == PADDING_ID, IGNORED)


@torch.no_grad()
def _sees_ahead(module: nn.Module, spec: DataSpec) -> bool:
    """Whether another last token changes what is said before it."""
    training = module.training
    x = spec.inputs.example(2)
    other = x.clone()
    other[:, -1] = (x[:, -1] % max(1, spec.vocabulary - 1)) + 1
    module.eval()
    before, after = module(x)[:, :, :-1], module(other)[:, :, :-1]
    module.train(training)
    return bool((before - after).abs().max() > _TOLERANCE * max(1.0, float(before.abs().max())))
