"""Recurrent networks for texts and series: simple (Elman 1990), LSTM (Hochreiter and Schmidhuber 1997), GRU (Cho et
al. 2014).

Each layer and direction is a torch module of one layer, so that each may have a width of its own. The second direction
reads every sample backwards from its own last step (Schuster and Paliwal 1997). So padding comes last in both
directions, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from scaledl.config.schema import GRUConfig, LSTMConfig, RecurrentConfig, RNNConfig
from scaledl.models.accepts import check_accepts
from scaledl.models.activations import build_activation
from scaledl.models.dropout import check_no_channels, dropout_layers
from scaledl.models.init import initialise_
from scaledl.models.steps import Pool, build_front, numbered, per_step, rearranged
from scaledl.runtime.signature import Inputs, Outputs

MakeFn = Callable[[int, int], nn.RNNBase]


class OneWay(nn.Module):
    """A layer that reads forwards: [B, T, in] -> [B, T, hidden]."""

    def __init__(self, ahead: nn.RNNBase, dropout: nn.Module) -> None:
        super().__init__()
        self.ahead = ahead
        self.dropout = dropout

    def forward(self, x: Tensor, mirror: Tensor) -> Tensor:
        ahead, _ = self.ahead(x)
        result: Tensor = self.dropout(ahead)
        return result


class TwoWay(nn.Module):
    """A layer that reads forwards and backwards: [B, T, in] -> [B, T, hidden of ahead + hidden of back].

    `mirror`, int64 [B, T], is the order of the steps in which a sample is read backwards.
    """

    def __init__(self, ahead: nn.RNNBase, back: nn.RNNBase, dropout: nn.Module) -> None:
        super().__init__()
        self.ahead = ahead
        self.back = back
        self.dropout = dropout

    def forward(self, x: Tensor, mirror: Tensor) -> Tensor:
        ahead, _ = self.ahead(x)
        back, _ = self.back(rearranged(x, mirror))
        result: Tensor = self.dropout(torch.cat([ahead, rearranged(back, mirror)], 2))
        return result


class Recurrent(nn.Module):
    """Embeddings of a text, or the steps of a series -> layers -> pooling, unless each step has an output -> a
    dense layer, if wanted -> head."""

    def __init__(self, config: RecurrentConfig, make_fn: MakeFn, inputs: Inputs, outputs: Outputs) -> None:
        super().__init__()
        self.front, width = build_front(inputs, config.embedding)
        self.layers = nn.ModuleList()
        for _ in range(config.layers):
            self.layers.append(_layer(config, make_fn, width))
            width = config.hidden * (1 + config.bidirectional)
        self.pool = Pool("none" if outputs.form == "steps" else config.pooling, config.hidden)
        self.dense = nn.Sequential()
        if config.dense is not None:
            self.dense.append(nn.Linear(width, config.dense)).append(build_activation(config.activation, dim=-1))
            width = config.dense
        self.head = nn.Linear(width, outputs.count)

    def forward(self, x: Tensor) -> Tensor:
        """Token ids int64 [B, T] or series [B, C, T] -> [B, K], or [B, K, T] with an output for each step."""
        x, lengths = self.front(x)
        steps = numbered(x[:, :, 0])
        mirror = torch.where(steps <= lengths, lengths - steps, steps - 1)
        for layer in self.layers:
            x = layer(x, mirror)
        outputs: Tensor = self.head(self.dense(self.pool(x, lengths)))
        return outputs.transpose(1, -1)


def _layer(config: RecurrentConfig, make_fn: MakeFn, width: int) -> nn.Module:
    ahead, dropout = _initialised(make_fn(width, config.hidden)), nn.Sequential(*dropout_layers(config))
    if not config.bidirectional:
        return OneWay(ahead, dropout)
    return TwoWay(ahead, _initialised(make_fn(width, config.hidden)), dropout)


@torch.no_grad()
def _initialised(layer: nn.RNNBase) -> nn.RNNBase:
    """Orthogonal recurrent weights for each gate (Saxe et al. 2014), Xavier for those of the inputs, biases 0, and 1
    for the forget gate of an LSTM (Jozefowicz et al. 2015)."""
    hidden = layer.hidden_size
    for name, parameter in layer.named_parameters():
        for gate in parameter.split(hidden):
            if name.startswith("bias"):
                nn.init.zeros_(gate)
            elif name.startswith("weight_hh"):
                nn.init.orthogonal_(gate)
            else:
                nn.init.xavier_uniform_(gate)
    if isinstance(layer, nn.LSTM):
        nn.init.ones_(layer.get_parameter("bias_ih_l0")[hidden : 2 * hidden])
    return layer


def build_rnn(config: RNNConfig, inputs: Inputs, outputs: Outputs) -> nn.Module:
    """Simple recurrent layers, for texts [B, T] or series [B, C, T]."""
    nonlinearity = config.nonlinearity
    return _build(config, lambda i, h: nn.RNN(i, h, nonlinearity=nonlinearity, batch_first=True), inputs, outputs)


def build_lstm(config: LSTMConfig, inputs: Inputs, outputs: Outputs) -> nn.Module:
    """Layers with long short-term memory, for texts [B, T] or series [B, C, T]."""
    return _build(config, lambda i, h: nn.LSTM(i, h, batch_first=True), inputs, outputs)


def build_gru(config: GRUConfig, inputs: Inputs, outputs: Outputs) -> nn.Module:
    """Layers of gated recurrent units, for texts [B, T] or series [B, C, T]."""
    return _build(config, lambda i, h: nn.GRU(i, h, batch_first=True), inputs, outputs)


def _build(config: RecurrentConfig, make_fn: MakeFn, inputs: Inputs, outputs: Outputs) -> nn.Module:
    check_accepts(config.family, inputs, outputs)
    check_no_channels(config)
    return initialise_(Recurrent(config, make_fn, inputs, per_step(inputs, outputs)), config, inputs)
