"""The Relational Memory Core's unroll as one operation with its own gradient, on the compiled arrays.

The same arithmetic as the loop in `relational_memory.py`, without a Python step in it: what depends on the input alone
is computed for all steps at once, memory is allocated once and used again, each weight's gradient is one matrix product
over all steps, and nothing is computed that is thrown away (what the input's row itself would gather).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from . import rmc_arrays as arrays
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
    without_autocast,
)
from .products import affine, backward_operand, forward_operand, input_gradient, layer_gradients
from .rmc_backward import backward
from .rmc_forward import forward

if TYPE_CHECKING:
    from .core import State
    from .relational_memory import AttentionBlock, RelationalMemory


class Sizes(NamedTuple):
    """Of one unroll; see `rmc_arrays`."""

    steps: int
    batch: int
    slots: int
    size: int
    heads: int
    key: int
    qkv: int
    layers: int
    gates: int


class Workspace:
    """The memory that an unroll and its gradient write to."""

    def __init__(self, sizes: Sizes, precision: Precision) -> None:
        self.sizes, self.precision = sizes, precision
        shape, slots = (sizes.steps, sizes.batch), sizes.slots
        self.saved = arrays.Saved(
            memories=empty(*shape, slots, sizes.size, precision=precision),
            tanh_memories=empty(*shape, slots, sizes.size, precision=precision),
            qkv=empty(*shape, slots, sizes.qkv, precision=precision),
            qkv_input=empty(*shape, sizes.qkv, precision=precision),
            qkv_scales=empty(*shape, slots + 1),
            attention=empty(*shape, sizes.heads, slots, slots + 1),
            attended=empty(*shape, slots, sizes.size, precision=precision),
            attended_scales=empty(*shape, slots),
            hidden=tuple(empty(*shape, slots, sizes.size, precision=precision) for _ in range(sizes.layers)),
            candidates=empty(*shape, slots, sizes.size, precision=precision),
            candidate_scales=empty(*shape, slots),
            gates=empty(*shape, slots, sizes.gates),
        )
        self._gradients: arrays.Gradients | None = None

    @property
    def gradients(self) -> arrays.Gradients:
        """Allocated when first asked for: who only acts needs none."""
        if self._gradients is None:
            sizes, precision, shape = self.sizes, self.precision, (self.sizes.steps, self.sizes.batch)
            self._gradients = arrays.Gradients(
                qkv=empty(*shape, sizes.slots, sizes.qkv, precision=precision),
                qkv_input=empty(*shape, sizes.qkv, precision=precision),
                gates=empty(*shape, sizes.slots, sizes.gates),
                mlp=empty(sizes.layers, *shape, sizes.slots, sizes.size, precision=precision),
            )
        return self._gradients


def unroll(
    core: RelationalMemory, x: Tensor, memory: Tensor, starts: Tensor, recorded: RMCRecording | None = None
) -> Tensor:
    """outputs [T, B, slots * size] of a core from x [T, B, I], memory [B, slots, size] and starts bool [T, B]."""
    precision = recorded.precision if recorded else precision_here()
    with without_autocast():
        if torch.is_grad_enabled():
            arguments = core, precision, recorded, starts, x.float(), memory, *core.parameters()
            return cast(Tensor, cast(Any, FusedUnroll).apply(*arguments))
        return _forward(core, precision, starts, x.float(), memory)[0]


def _forward(
    core: RelationalMemory, precision: Precision, starts: Tensor, x: Tensor, memory: Tensor
) -> tuple[Tensor, Loan[Workspace], Tensor]:
    """The outputs, what was saved on the way, and the input's rows [T, B, size]."""
    loan, outputs = _borrow(core, precision, *starts.shape), torch.empty(*starts.shape, core.output_size)
    rows = _affine(core.input_projection, x, precision)
    _steps(core, precision, starts, rows, memory, loan.workspace.saved, outputs)
    return outputs, loan, rows


def _steps(
    core: RelationalMemory,
    precision: Precision,
    starts: Tensor,
    rows: Tensor,
    memory: Tensor,
    saved: arrays.Saved,
    outputs: Tensor,
) -> None:
    """Write what the steps save and give."""
    sizes = _sizes(core, *starts.shape)
    inputs = arrays.Inputs(
        memory=array(memory),
        initial=array(core.initial_state(1)[0][0]),
        starts=array(starts),
        qkv=array(_affine(_block(core).qkv, rows, precision)),
        gates=array(_gates_from_input(core, rows)),
    )
    weights = _weights(core, precision, forward_operand)
    written = outputs.view(*starts.shape, sizes.slots, sizes.size).numpy()
    in_parts(
        sizes.batch,
        lambda b0, b1: forward(b0, b1, sizes.heads, sizes.key, inputs, weights, saved, written),
    )


class RMCRecording(FusedRecording):
    def __init__(self, core: RelationalMemory, num_steps: int, batch_size: int) -> None:
        super().__init__(core, num_steps, batch_size)
        self.core, self.loan = core, _borrow(core, self.precision, num_steps, batch_size)

    def _take(self, part: slice, x: Tensor, state: State, starts: Tensor) -> State:
        saved, (memory,) = self.loan.workspace.saved, state
        parts = (tuple(layer[part] for layer in steps) if isinstance(steps, tuple) else steps[part] for steps in saved)
        rows = _affine(self.core.input_projection, x, self.precision)
        _steps(self.core, self.precision, starts, rows, memory, arrays.Saved(*parts), self.outputs[part])
        return (self.outputs[part].view_as(memory),)

    def _unroll(self, x: Tensor, state: State, starts: Tensor) -> tuple[Tensor, State]:
        (memory,) = state
        outputs = unroll(self.core, x, memory, starts, self)
        return outputs, (outputs[-1].view_as(memory),)


class FusedUnroll(torch.autograd.Function):
    """`unroll` with its gradient. The core's parameters are arguments too, so that gradients reach them."""

    @staticmethod
    def forward(
        ctx: Any,
        core: RelationalMemory,
        precision: Precision,
        recorded: RMCRecording | None,
        starts: Tensor,
        x: Tensor,
        memory: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        if recorded:
            outputs, ctx.loan = recorded.outputs.detach(), recorded.loan
            ctx.rows = _affine(core.input_projection, x, precision)
        else:
            outputs, ctx.loan, ctx.rows = _forward(core, precision, starts, x, memory)
        ctx.core, ctx.precision = core, precision
        ctx.save_for_backward(starts, x, memory, *parameters)
        return outputs

    @staticmethod
    def backward(ctx: Any, grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        core, (starts, x, memory, *parameters) = ctx.core, ctx.saved_tensors
        if must_loop(core, parameters):
            return None, None, None, None, *loop_gradients(core, starts, x, (memory,), parameters, (grad_outputs,))
        workspace: Workspace = ctx.loan.workspace
        sizes, saved, grads = workspace.sizes, workspace.saved, workspace.gradients
        grad_memory = torch.empty(sizes.batch, sizes.slots, sizes.size)
        weights, received, starts_array, written = (
            _weights(core, ctx.precision, backward_operand),
            array(grad_outputs).reshape(sizes.steps, sizes.batch, sizes.slots, sizes.size),
            array(starts),
            grad_memory.numpy(),
        )

        def run(b0: int, b1: int) -> arrays.NormGradients:
            norms = _no_norm_gradients(sizes)
            backward(b0, b1, sizes.heads, sizes.key, starts_array, weights, saved, received, written, grads, norms)
            return norms

        parts = in_parts(sizes.batch, run)
        norms = arrays.NormGradients(*(torch.from_numpy(sum(arrays)) for arrays in zip(*parts, strict=True)))
        by_parameter, grad_x = _parameter_gradients(core, ctx.precision, x, ctx.rows, saved, grads, norms)
        return (
            None,
            None,
            None,
            None,
            grad_x,
            grad_memory,
            *(by_parameter[parameter] for parameter in core.parameters()),
        )


def _parameter_gradients(
    core: RelationalMemory,
    precision: Precision,
    x: Tensor,
    rows: Tensor,
    saved: arrays.Saved,
    grads: arrays.Gradients,
    norms: arrays.NormGradients,
) -> tuple[dict[Tensor, Tensor], Tensor]:
    """Each parameter's gradient, one matrix product over all steps and rows, and that of x [T, B, I]."""
    block, found = _block(core), dict[Tensor, Tensor]()

    def add(layer: nn.Linear, grad: Tensor, inputs: Tensor) -> None:
        """Add a linear layer's gradients, of grad [..., O] and inputs [..., I]."""
        weight, bias = layer_gradients(grad, inputs, precision)
        found[layer.weight] = found[layer.weight] + weight if layer.weight in found else weight
        found[layer.bias] = found[layer.bias] + bias if layer.bias in found else bias

    grad_qkv, grad_qkv_input = torch.from_numpy(grads.qkv), torch.from_numpy(grads.qkv_input)
    for i, layer in enumerate(_mlp_layers(core)):
        add(layer, torch.from_numpy(grads.mlp[i]), torch.from_numpy(saved.hidden[i]))
    add(block.qkv, grad_qkv, torch.from_numpy(saved.memories))
    add(block.qkv, grad_qkv_input, rows)
    grad_rows = input_gradient(grad_qkv_input, block.qkv.weight, precision)  # [T, B, size]
    if core.gate_style is not None:
        grad_gates = torch.from_numpy(grads.gates)  # [T, B, S, 2 G]
        grad_gates_input = grad_gates.sum(2)
        add(core.gate_from_memory, grad_gates, torch.from_numpy(saved.tanh_memories))
        add(core.gate_from_input, grad_gates_input, rows)
        grad_rows = grad_rows + grad_gates_input @ core.gate_from_input.weight
    add(core.input_projection, grad_rows, x)
    for norm, gamma, beta in (
        (block.qkv_norm, norms.qkv_gamma, norms.qkv_beta),
        (block.attention_norm, norms.attention_gamma, norms.attention_beta),
        (block.mlp_norm, norms.mlp_gamma, norms.mlp_beta),
    ):
        found[norm.weight], found[norm.bias] = gamma, beta
    return found, input_gradient(grad_rows, core.input_projection.weight, precision)


def _borrow(core: RelationalMemory, precision: Precision, steps: int, batch: int) -> Loan[Workspace]:
    sizes = _sizes(core, steps, batch)
    return Loan((sizes, precision), lambda: Workspace(sizes, precision))


def _affine(layer: nn.Linear, x: Tensor, precision: Precision) -> Tensor:
    return affine(x, layer.weight, layer.bias, precision)


def _block(core: RelationalMemory) -> AttentionBlock:
    return cast("AttentionBlock", core.blocks[0])


def _mlp_layers(core: RelationalMemory) -> list[nn.Linear]:
    return [layer for layer in core.attention_mlp if isinstance(layer, nn.Linear)]


def _sizes(core: RelationalMemory, steps: int, batch: int) -> Sizes:
    block = _block(core)
    return Sizes(
        steps=steps,
        batch=batch,
        slots=core.mem_slots,
        size=core.size,
        heads=block.num_heads,
        key=block.split_sizes[0],
        qkv=block.qkv.out_features,
        layers=len(_mlp_layers(core)),
        gates=0 if core.gate_style is None else core.gate_from_memory.out_features,
    )


def _weights(
    core: RelationalMemory, precision: Precision, operand: Callable[[Tensor, Precision], NDArray[np.generic]]
) -> arrays.Weights:
    block, layers = _block(core), _mlp_layers(core)
    gates = block.qkv.weight[:0] if core.gate_style is None else core.gate_from_memory.weight
    return arrays.Weights(
        qkv=operand(block.qkv.weight, precision),
        qkv_bias=array(block.qkv.bias),
        qkv_gamma=array(block.qkv_norm.weight),
        qkv_beta=array(block.qkv_norm.bias),
        attention_gamma=array(block.attention_norm.weight),
        attention_beta=array(block.attention_norm.bias),
        mlp=tuple(operand(layer.weight, precision) for layer in layers),
        mlp_bias=tuple(array(layer.bias) for layer in layers),
        mlp_gamma=array(block.mlp_norm.weight),
        mlp_beta=array(block.mlp_norm.bias),
        gates=operand(gates, precision),
    )


def _gates_from_input(core: RelationalMemory, rows: Tensor) -> Tensor:
    """[T, B, 2 G]: the input's part of the gates, and all their biases."""
    if core.gate_style is None:
        return rows.new_empty(*rows.shape[:2], 0)
    gates = core.gate_from_input(rows) + core.gate_from_memory.bias
    input_gates, forget_gates = gates.chunk(2, dim=-1)
    return torch.cat([input_gates + core.input_bias, forget_gates + core.forget_bias], dim=-1)


def _no_norm_gradients(sizes: Sizes) -> arrays.NormGradients:
    return arrays.NormGradients(*(torch.zeros(width).numpy() for width in (*[sizes.qkv] * 2, *[sizes.size] * 4)))
