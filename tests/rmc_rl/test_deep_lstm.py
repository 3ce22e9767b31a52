"""The deep LSTM: equal to cells that are stacked by hand, with skip connections and all outputs."""

import torch
from torch import nn

from rmc_rl.cores import LSTM, DeepLSTM

INPUT, HIDDEN, LAYERS, BATCH, STEPS = 5, 4, 3, 2, 6


def test_equals_cells_stacked_by_hand() -> None:
    """The first layer reads the input, the others the input and the layer below; the outputs of all are the output."""
    torch.manual_seed(3)
    core = DeepLSTM(INPUT, HIDDEN, LAYERS).double()
    cells = [nn.LSTMCell(INPUT + (HIDDEN if i else 0), HIDDEN).double() for i in range(LAYERS)]
    for cell, layer in zip(cells, core.layers, strict=True):
        cell.load_state_dict(layer.get_submodule("cell").state_dict())
    x, starts = torch.randn(STEPS, BATCH, INPUT).double(), torch.zeros(STEPS, BATCH, dtype=torch.bool)
    outputs, final = core.unroll(x, core.initial_state(BATCH), starts)
    states = [(torch.zeros(BATCH, HIDDEN).double(), torch.zeros(BATCH, HIDDEN).double()) for _ in range(LAYERS)]
    for t in range(STEPS):
        states[0] = cells[0](x[t], states[0])
        states[1] = cells[1](torch.cat([x[t], states[0][0]], dim=1), states[1])
        states[2] = cells[2](torch.cat([x[t], states[1][0]], dim=1), states[2])
        torch.testing.assert_close(outputs[t], torch.cat([h for h, _ in states], dim=1), rtol=0, atol=1e-12)
    for leaf, expected in zip(final, [leaf for state in states for leaf in state], strict=True):
        torch.testing.assert_close(leaf, expected, rtol=0, atol=1e-12)


def test_the_unroll_is_fused_where_an_lstms_is() -> None:
    core = DeepLSTM(INPUT, HIDDEN)
    x, state = torch.randn(STEPS, BATCH, INPUT), core.initial_state(BATCH)
    assert core.unroll_path(x, state) == LSTM(INPUT, HIDDEN).unroll_path(x, state[:2])
    assert core.double().unroll_path(x.double(), core.initial_state(BATCH)) == "loop"
