"""int8 for simple recurrent layers: torch has LSTM and GRU layers in int8, of the simple kind only a cell."""

from __future__ import annotations

import torch
import torch.ao.nn.quantized.dynamic as nnqd
from torch import Tensor, nn
from torch.ao import quantization as tq


class Int8RNN(nn.Module):
    """A layer of one direction whose int8 cell runs step by step; ranges are found at each step. For export alone."""

    def __init__(self, layer: nn.RNN) -> None:
        super().__init__()
        self.hidden_size = layer.hidden_size
        self.cell = nnqd.RNNCell.from_float(_cell(layer))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, in] -> all states [B, T, hidden], and the last [1, B, hidden]."""
        state = torch.zeros(x.size(0), self.hidden_size)
        states: list[Tensor] = []
        for step in x.unbind(1):
            state = self.cell(step, state)
            states.append(state)
        return torch.stack(states, 1), state.unsqueeze(0)


def int8_rnns_(module: nn.Module) -> nn.Module:
    """Replace the simple recurrent layers of a converted `module`, which FX quantization leaves in float."""
    layers = [(name, layer) for name, layer in module.named_modules() if type(layer) is nn.RNN]
    for name, layer in layers:
        module.set_submodule(name, Int8RNN(layer))
    return module


def _cell(layer: nn.RNN) -> nn.RNNCell:
    cell = nn.RNNCell(layer.input_size, layer.hidden_size, nonlinearity=str(layer.nonlinearity))
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.state_dict().items()})
    cell.qconfig = tq.default_dynamic_qconfig  # type: ignore[assignment]
    return cell
