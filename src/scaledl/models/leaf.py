"""Modules that FX quantization does not look into, because what they do depends on more than their inputs' values."""

from __future__ import annotations

from torch import nn


class Leaf(nn.Module):
    """Stays a module when a model is traced for quantization, and computes in float.

    For what asks for `training`, which a trace would fix, or takes its inputs as indices, which int8 would change.
    """
