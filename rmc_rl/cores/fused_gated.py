"""The unrolls of LSTM and GRU as one operation each with its own gradient, on the compiled kernels.

What depends on the input alone is one matrix product for all steps. Backwards, all of a step is done while it is in the
cache, and the weights' gradients come from blocks of steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from numpy.typing import NDArray
from torch import Tensor

from . import gated_kernels as kernels
from .native import (
    FusedRecording,
    Loan,
    Precision,
    array,
    empty,
    in_parts,
    loop_gradients,
    must_loop,
    precision_here,
    steps_with_gradient,
    without_autocast,
)
from .outer_products import OuterProducts
from .products import affine, backward_operand, forward_operand, outer_products, weight_gradients

if TYPE_CHECKING:
    from .core import Core, State
    from .gru import GRU
    from .lstm import LSTM


def unroll_lstm(
    core: LSTM, x: Tensor, h: Tensor, c: Tensor, starts: Tensor, recorded: LSTMRecording | None = None
) -> tuple[Tensor, Tensor]:
    """outputs [T, B, H] and the last c [B, H] from x [T, B, I], h and c [B, H] and starts bool [T, B]."""
    precision = recorded.precision if recorded else precision_here()
    with without_autocast():
        if torch.is_grad_enabled():
            arguments = core, precision, recorded, starts, x.float(), h, c, *core.parameters()
            return cast(tuple[Tensor, Tensor], cast(Any, FusedLSTM).apply(*arguments))
        return _lstm_forward(core, precision, starts, x.float(), h, c)[:2]


def unroll_gru(core: GRU, x: Tensor, h: Tensor, starts: Tensor, recorded: GRURecording | None = None) -> Tensor:
    """outputs [T, B, H] from x [T, B, I], h [B, H] and starts bool [T, B]."""
    precision = recorded.precision if recorded else precision_here()
    with without_autocast():
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
        saved, (h, c) = _saved(self.loan, part), state
        self.last_c = _lstm_steps(self.core, self.precision, starts, x, h, c, saved, self.outputs[part])
        return self.outputs[part][0], self.last_c

    def _unroll(self, x: Tensor, state: State, starts: Tensor) -> tuple[Tensor, State]:
        h, c = state
        outputs, last_c = unroll_lstm(self.core, x, h, c, starts, self)
        return outputs, (outputs[-1], last_c)


class GRURecording(FusedRecording):
    def __init__(self, core: GRU, num_steps: int, batch_size: int) -> None:
        super().__init__(core, num_steps, batch_size)
        self.core, self.loan = core, _borrow("gru", core, num_steps, batch_size)

    def _take(self, part: slice, x: Tensor, state: State, starts: Tensor) -> State:
        saved, (h,) = _saved(self.loan, part), state
        _gru_steps(self.core, self.precision, starts, x, h, saved, self.outputs[part])
        return (self.outputs[part][0],)

    def _unroll(self, x: Tensor, state: State, starts: Tensor) -> tuple[Tensor, State]:
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
        steps = steps_with_gradient(grad_outputs, grad_last_c)
        inputs = _backward_inputs(ctx, steps, grad_outputs, x, starts)
        grad_h, grad_c = torch.zeros(h.shape), grad_last_c.clone(memory_format=torch.contiguous_format)
        grad_x = torch.empty(x.shape)
        grad_x[steps:] = 0
        written = grad_h.numpy(), grad_c.numpy(), grad_x.numpy()
        sizes = 4 * core.output_size, x.shape[2], core.output_size

        def part(b0: int, b1: int) -> OuterProducts:
            products = outer_products(*sizes, ctx.precision)
            kernels.lstm_backward(b0, b1, *inputs, *written, products)
            return products

        weight_ih, weight_hh, bias = weight_gradients(in_parts(len(h), part), *sizes[1:])
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
        steps = steps_with_gradient(grad_outputs)
        inputs = _backward_inputs(ctx, steps, grad_outputs, x, starts)
        grad_h, grad_x = torch.zeros(h.shape), torch.empty(x.shape)
        grad_x[steps:] = 0
        num_gates, size, input_size = 3 * core.output_size, core.output_size, x.shape[2]

        def part(b0: int, b1: int) -> tuple[OuterProducts, OuterProducts]:
            of_state = outer_products(num_gates, size, 0, ctx.precision)
            of_input = outer_products(num_gates, input_size, 0, ctx.precision)
            kernels.gru_backward(b0, b1, *inputs, grad_h.numpy(), grad_x.numpy(), of_state, of_input)
            return of_state, of_input

        of_state, of_input = zip(*in_parts(len(h), part), strict=True)
        weight_hh, _, bias_hh = weight_gradients(of_state, size, 0)
        weight_ih, _, bias_ih = weight_gradients(of_input, input_size, 0)
        return None, None, None, None, grad_x, grad_h, weight_ih, weight_hh, bias_ih, bias_hh


def _backward_inputs(
    ctx: Any, steps: int, grad_outputs: Tensor, x: Tensor, starts: Tensor
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], kernels.Saved]:
    """What both backward kernels read, of the first `steps` steps, with the weights [G H, H] and [G H, I]."""
    cell: torch.nn.RNNCellBase = ctx.core.cell
    return (
        array(grad_outputs[:steps]),
        array(x[:steps]),
        array(starts[:steps]),
        backward_operand(cell.weight_hh, ctx.precision),
        backward_operand(cell.weight_ih, ctx.precision),
        _saved(ctx.loan, slice(steps)),
    )


def _saved(loan: Loan[kernels.Saved], part: slice) -> kernels.Saved:
    """What is saved of this part of the steps."""
    return kernels.Saved(*(steps[part] for steps in loan.workspace))


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
