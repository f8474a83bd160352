"""Connectionist temporal classification (Graves et al. 2006): its loss, and what outputs say."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scaledl.config.schema import TaskConfig
from scaledl.data.arrays import IGNORED


def ctc(outputs: Tensor, targets: Tensor, config: TaskConfig, weight: Tensor | None = None) -> Tensor:
    """Negative log likelihood over all alignments, in nats for each label, [B].

    Args:
        outputs: logits [B, K + 1, T]; the last one is the blank.
        targets: int64 [B, S], labels 0..K-1 in their order; what is IGNORED between them is left out.
    """
    del config, weight
    lengths = (targets != IGNORED).sum(1)
    steps = torch.full_like(lengths, outputs.shape[2])
    log_p = F.log_softmax(outputs.float(), 1).permute(2, 0, 1)
    values = F.ctc_loss(log_p, targets[targets != IGNORED], steps, lengths, outputs.shape[1] - 1, reduction="none")
    return values / lengths.clamp(min=1)


def spelled(outputs: Tensor) -> list[list[int]]:
    """The labels of the likeliest path: the largest output of each step, repeats as one, without blanks."""
    blank = outputs.shape[1] - 1
    paths = outputs.argmax(1).cpu()
    changes = F.pad(paths[:, 1:] != paths[:, :-1], (1, 0), value=True)
    return [path[change & (path != blank)].tolist() for path, change in zip(paths, changes, strict=True)]


def needed_steps(targets: Tensor) -> Tensor:
    """int64 [B]: the fewest steps that can hold these labels; between two equal ones there is a blank."""
    known = [row[row != IGNORED] for row in targets]
    return torch.tensor([len(row) + int((row[1:] == row[:-1]).sum()) for row in known])
