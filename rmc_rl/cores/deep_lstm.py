"""Layers of LSTM with skip connections (Graves 2013, arXiv 1308.0850), a baseline of Santoro et al. 2018."""

import torch
from torch import Tensor, nn

from .arguments import check_unroll
from .core import Core, State, UnrollPath, check_positive
from .lstm import LSTM
from .structure import keeps_methods


class DeepLSTM(Core):
    """LSTMs one above the other: each reads the input and the output of the layer below; all their outputs count.

    State (h, c of the first layer, h, c of the second, ...), each [B, hidden_size]; all start from zeros. The output
    is that of all layers, [B, num_layers * hidden_size].

    Raises:
        ValueError: a size below 1.
    """

    def __init__(self, input_size: int, hidden_size: int = 256, num_layers: int = 2) -> None:
        check_positive(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        super().__init__(input_size, output_size=num_layers * hidden_size)
        above = [LSTM(input_size + hidden_size, hidden_size) for _ in range(num_layers - 1)]
        self.layers = nn.ModuleList([LSTM(input_size, hidden_size), *above])
        self.is_own = keeps_methods(type(self), DeepLSTM)

    def initial_state(self, batch_size: int) -> State:
        return tuple(leaf for layer in self._layers() for leaf in layer.initial_state(batch_size))

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        outputs: list[Tensor] = []
        states: list[Tensor] = []
        for i, layer in enumerate(self._layers()):
            output, layer_state = layer(torch.cat([x, *outputs[-1:]], dim=-1), state[2 * i : 2 * i + 2])
            outputs.append(output)
            states += layer_state
        return torch.cat(outputs, dim=-1), tuple(states)

    def unroll(self, x: Tensor, state: State, starts: Tensor) -> tuple[Tensor, State]:
        """As `Core.unroll`, layer by layer, each over all steps at once and on the path that `unroll_path` names."""
        if not self.is_own:
            return self.unroll_loop(x, state, starts)
        layers = self._layers()
        check_unroll(x, state, starts, self.input_size, ((layers[0].output_size,),) * (2 * len(layers)))
        outputs: list[Tensor] = []
        states: list[Tensor] = []
        for i, layer in enumerate(layers):
            rows = torch.cat([x, *outputs[-1:]], dim=-1)  # [T, B, input (+ hidden)]
            output, layer_state = layer.unroll(rows, state[2 * i : 2 * i + 2], starts)
            outputs.append(output)
            states += layer_state
        return torch.cat(outputs, dim=-1), tuple(states)

    def unroll_path(self, x: Tensor, state: State) -> UnrollPath:
        return self._layers()[0].unroll_path(x, state[:2]) if self.is_own else "loop"

    def _layers(self) -> list[LSTM]:
        return [layer for layer in self.layers if isinstance(layer, LSTM)]
