"""The unrolls of LSTM and GRU as one operation each with its own gradient, on the compiled kernels.

What depends on the input alone is one matrix product for all steps, and so is each weight's gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor

from . import gated_kernels as kernels
from .native import FusedRecording, Loan, Precision, array, empty, in_parts, loop_gradients, must_loop, precision_here
from .products import affine, backward_operand, forward_operand, input_gradient, layer_gradients

if TYPE_CHECKING:
    from .core import Core, State
    from .gru import GRU
    from .lstm import LSTM


def unroll_lstm(
    core: LSTM, x: Tensor, h: Tensor, c: Tensor, starts: Tensor, recorded: LSTMRecording | None = None
) -> tuple[Tensor, Tensor]:
    """outputs [T, B, H] and the last c [B, H] from x [T, B, I], h and c [B, H] and starts bool [T, B]."""
    precision = recorded.precision if recorded else precision_here()
    with torch.autocast("cpu", enabled=False):  # heeded by now
        if torch.is_grad_enabled():
            arguments = core, precision, recorded, starts, x.float(), h, c, *core.parameters()
            return cast(tuple[Tensor, Tensor], cast(Any, FusedLSTM).apply(*arguments))
        return _lstm_forward(core, precision, starts, x.float(), h, c)[:2]


def unroll_gru(core: GRU, x: Tensor, h: Tensor, starts: Tensor, recorded: GRURecording | None = None) -> Tensor:
    """outputs [T, B, H] from x [T, B, I], h [B, H] and starts bool [T, B]."""
    precision = recorded.precision if recorded else precision_here()
    with torch.autocast("cpu", enabled=False):  # heeded by now
        if torch.is_grad_enabled():
            arguments = core, precision, recorded, starts, x.float(), h, *core.parameters()
            return cast(Tensor, cast(Any, FusedGRU).apply(*arguments))
        return _gru_forward(core, precision, starts, x.float(), h)[0]


def _lstm_forward(
    core: LSTM, precision: Precision, starts: Tensor, x: Tensor, h: Tensor, c: Tensor
) -> tuple[Tensor, Tensor, Loan[kernels.Saved]]:
    loan, outputs = _borrow("lstm", core, *starts.shape), torch.empty(*starts.shape, core.output_size)
    return outputs, _lstm_steps(core, precision, starts, x, h, c, loan.workspace, outputs), loan


def _lstm_steps(
    core: LSTM,
    precision: Precision,
    starts: Tensor,
    x: Tensor,
    h: Tensor,
    c: Tensor,
    saved: kernels.Saved,
    outputs: Tensor,
) -> Tensor:
    """Write what the steps save and give; returns the last c."""
    cell, last_c = core.cell, torch.empty(c.shape)
    from_input = array(affine(x, cell.weight_ih, cell.bias_ih + cell.bias_hh, precision))  # [T, B, 4 H]
    inputs = array(h), array(c), array(starts), forward_operand(cell.weight_hh, precision)
    written = saved, outputs.numpy(), last_c.numpy()
    in_parts(len(h), lambda b0, b1: kernels.lstm_forward(b0, b1, from_input, *inputs, *written))
    return last_c


def _gru_forward(
    core: GRU, precision: Precision, starts: Tensor, x: Tensor, h: Tensor
) -> tuple[Tensor, Loan[kernels.Saved]]:
    loan, outputs = _borrow("gru", core, *starts.shape), torch.empty(*starts.shape, core.output_size)
    _gru_steps(core, precision, starts, x, h, loan.workspace, outputs)
    return outputs, loan


def _gru_steps(
    core: GRU, precision: Precision, starts: Tensor, x: Tensor, h: Tensor, saved: kernels.Saved, outputs: Tensor
) -> None:
    """Write what the steps save and give."""
    cell = core.cell
    from_input = array(affine(x, cell.weight_ih, cell.bias_ih, precision))  # [T, B, 3 H]
    inputs = array(h), array(starts), forward_operand(cell.weight_hh, precision), array(cell.bias_hh)
    written = saved, outputs.numpy()
    in_parts(len(h), lambda b0, b1: kernels.gru_forward(b0, b1, from_input, *inputs, *written))


class LSTMRecording(FusedRecording):
    def __init__(self, core: LSTM, num_steps: int, batch_size: int) -> None:
        super().__init__(core, num_steps, batch_size)
        self.core, self.loan = core, _borrow("lstm", core, num_steps, batch_size)

    def _take(self, part: slice, x: Tensor, state: State, starts: Tensor) -> State:
        saved, (h, c) = kernels.Saved(*(steps[part] for steps in self.loan.workspace)), state
        self.last_c = _lstm_steps(self.core, self.precision, starts, x, h, c, saved, self.outputs[part])
        return self.outputs[part][0], self.last_c

    def unroll(self, x: Tensor, state: State, starts: Tensor) -> tuple[Tensor, State]:
        h, c = state
        outputs, last_c = unroll_lstm(self.core, x, h, c, starts, self)
        return outputs, (outputs[-1], last_c)


class GRURecording(FusedRecording):
    def __init__(self, core: GRU, num_steps: int, batch_size: int) -> None:
        super().__init__(core, num_steps, batch_size)
        self.core, self.loan = core, _borrow("gru", core, num_steps, batch_size)

    def _take(self, part: slice, x: Tensor, state: State, starts: Tensor) -> State:
        saved, (h,) = kernels.Saved(*(steps[part] for steps in self.loan.workspace)), state
        _gru_steps(self.core, self.precision, starts, x, h, saved, self.outputs[part])
        return (self.outputs[part][0],)

    def unroll(self, x: Tensor, state: State, starts: Tensor) -> tuple[Tensor, State]:
        (h,) = state
        outputs = unroll_gru(self.core, x, h, starts, self)
        return outputs, (outputs[-1],)


class FusedLSTM(torch.autograd.Function):
    """`unroll_lstm` with its gradient. The core's parameters are arguments too, so that gradients reach them."""

    @staticmethod
    def forward(
        ctx: Any,
        core: LSTM,
        precision: Precision,
        recorded: LSTMRecording | None,
        starts: Tensor,
        x: Tensor,
        h: Tensor,
        c: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        if recorded:
            outputs, last_c, ctx.loan = recorded.outputs.detach(), recorded.last_c.detach(), recorded.loan
        else:
            outputs, last_c, ctx.loan = _lstm_forward(core, precision, starts, x, h, c)
        ctx.core, ctx.precision = core, precision
        ctx.save_for_backward(starts, x, h, c, *parameters)
        return outputs, last_c

    @staticmethod
    def backward(ctx: Any, grad_outputs: Tensor, grad_last_c: Tensor) -> tuple[Tensor | None, ...]:
        core, (starts, x, h, c, *parameters) = ctx.core, ctx.saved_tensors
        if must_loop(core, parameters):
            return (
                None,
                None,
                None,
                None,
                *loop_gradients(core, starts, x, (h, c), parameters, (grad_outputs, grad_last_c)),
            )
        saved: kernels.Saved = ctx.loan.workspace
        grad_h, grad_c = torch.zeros(h.shape), grad_last_c.clone(memory_format=torch.contiguous_format)
        grad_gates = torch.empty(saved.gates.shape)  # [T, B, 4 H]
        inputs = array(grad_outputs), array(starts), backward_operand(core.cell.weight_hh, ctx.precision), saved
        written = grad_h.numpy(), grad_c.numpy(), grad_gates.numpy()
        in_parts(len(h), lambda b0, b1: kernels.lstm_backward(b0, b1, *inputs, *written))
        grad_x = input_gradient(grad_gates, core.cell.weight_ih, ctx.precision)
        weight_ih, bias = layer_gradients(grad_gates, x, ctx.precision)
        weight_hh, _ = layer_gradients(grad_gates, torch.from_numpy(saved.h), ctx.precision)
        return None, None, None, None, grad_x, grad_h, grad_c, weight_ih, weight_hh, bias, bias


class FusedGRU(torch.autograd.Function):
    """`unroll_gru` with its gradient. The core's parameters are arguments too, so that gradients reach them."""

    @staticmethod
    def forward(
        ctx: Any,
        core: GRU,
        precision: Precision,
        recorded: GRURecording | None,
        starts: Tensor,
        x: Tensor,
        h: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        if recorded:
            outputs, ctx.loan = recorded.outputs.detach(), recorded.loan
        else:
            outputs, ctx.loan = _gru_forward(core, precision, starts, x, h)
        ctx.core, ctx.precision = core, precision
        ctx.save_for_backward(starts, x, h, *parameters)
        return outputs

    @staticmethod
    def backward(ctx: Any, grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        core, (starts, x, h, *parameters) = ctx.core, ctx.saved_tensors
        if must_loop(core, parameters):
            return None, None, None, None, *loop_gradients(core, starts, x, (h,), parameters, (grad_outputs,))
        saved: kernels.Saved = ctx.loan.workspace
        grad_h = torch.zeros(h.shape)
        grad_gates, grad_from_input = torch.empty(2, *saved.gates.shape)  # each [T, B, 3 H]
        inputs = array(grad_outputs), array(starts), backward_operand(core.cell.weight_hh, ctx.precision), saved
        written = grad_h.numpy(), grad_gates.numpy(), grad_from_input.numpy(), empty(*h.shape)
        in_parts(len(h), lambda b0, b1: kernels.gru_backward(b0, b1, *inputs, *written))
        grad_x = input_gradient(grad_from_input, core.cell.weight_ih, ctx.precision)
        weight_ih, bias_ih = layer_gradients(grad_from_input, x, ctx.precision)
        weight_hh, bias_hh = layer_gradients(grad_gates, torch.from_numpy(saved.h), ctx.precision)
        return None, None, None, None, grad_x, grad_h, weight_ih, weight_hh, bias_ih, bias_hh


def _borrow(kind: Literal["lstm", "gru"], core: Core, steps: int, batch: int) -> Loan[kernels.Saved]:
    sizes = steps, batch, core.output_size
    return Loan((kind, *sizes), lambda: _workspace(*sizes, gates=4 if kind == "lstm" else 3))


def _workspace(steps: int, batch: int, size: int, gates: int) -> kernels.Saved:
    lstm_alone = batch if gates == 4 else 0
    return kernels.Saved(
        gates=empty(steps, batch, gates * size),
        h=empty(steps, batch, size),
        inner=empty(steps, batch, size),
        tanh_c=empty(steps, lstm_alone, size),
    )
