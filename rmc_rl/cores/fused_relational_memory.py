"""The Relational Memory Core's unroll as one operation with its own gradient, on the compiled kernels.

The same arithmetic as the loop in `relational_memory.py`, without a Python step in it: what depends on the input alone
is computed for all steps at once, memory is allocated once and used again, each weight's gradient is one matrix product
over all steps, and nothing is computed that is thrown away (what the input's row itself would gather).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from . import kernels
from .native import Loan, array, compiled_code_applies, empty, in_parts, loop_gradients, must_loop

if TYPE_CHECKING:
    from .relational_memory import AttentionBlock, RelationalMemory


class Sizes(NamedTuple):
    """Of one unroll; see `kernels`."""

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

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        shape, slots = (sizes.steps, sizes.batch), sizes.slots
        self.saved = kernels.Saved(
            memories=empty(*shape, slots, sizes.size),
            tanh_memories=empty(*shape, slots, sizes.size),
            qkv=empty(*shape, slots, sizes.qkv),
            qkv_input=empty(*shape, sizes.qkv),
            qkv_scales=empty(*shape, slots + 1),
            attention=empty(*shape, sizes.heads, slots, slots + 1),
            attended=empty(*shape, slots, sizes.size),
            attended_scales=empty(*shape, slots),
            hidden=empty(sizes.layers, *shape, slots, sizes.size),
            candidates=empty(*shape, slots, sizes.size),
            candidate_scales=empty(*shape, slots),
            gates=empty(*shape, slots, sizes.gates),
        )
        self._gradients: kernels.Gradients | None = None

    @property
    def gradients(self) -> kernels.Gradients:
        """Allocated when first asked for: who only acts needs none."""
        if self._gradients is None:
            sizes, shape = self.sizes, (self.sizes.steps, self.sizes.batch)
            self._gradients = kernels.Gradients(
                qkv=empty(*shape, sizes.slots, sizes.qkv),
                qkv_input=empty(*shape, sizes.qkv),
                gates=empty(*shape, sizes.slots, sizes.gates),
                mlp=empty(sizes.layers, *shape, sizes.slots, sizes.size),
            )
        return self._gradients


def unroll(core: RelationalMemory, x: Tensor, memory: Tensor, starts: Tensor) -> Tensor:
    """outputs [T, B, slots * size] of a core from x [T, B, I], memory [B, slots, size] and starts bool [T, B]."""
    if torch.is_grad_enabled():
        return cast(Tensor, cast(Any, FusedUnroll).apply(core, starts, x, memory, *core.parameters()))
    return _forward(core, starts, x, memory)[0]


def _forward(
    core: RelationalMemory, starts: Tensor, x: Tensor, memory: Tensor
) -> tuple[Tensor, Loan[Workspace], Tensor]:
    """The outputs, what was saved on the way, and the input's rows [T, B, size]."""
    sizes = _sizes(core, *starts.shape)
    loan = Loan(sizes, lambda: Workspace(sizes))
    saved = loan.workspace.saved
    rows = core.input_projection(x)
    inputs = kernels.Inputs(
        memory=array(memory),
        initial=array(core.initial_state(1)[0][0]),
        starts=array(starts),
        qkv=array(_block(core).qkv(rows)),
        gates=array(_gates_from_input(core, rows)),
    )
    weights = _weights(core)
    outputs = torch.empty(sizes.steps, sizes.batch, sizes.slots, sizes.size)
    written = outputs.numpy()
    in_parts(
        sizes.batch,
        lambda b0, b1: kernels.forward(b0, b1, sizes.heads, sizes.key, inputs, weights, saved, written),
    )
    return outputs.flatten(2), loan, rows


class FusedUnroll(torch.autograd.Function):
    """`unroll` with its gradient. The core's parameters are arguments too, so that gradients reach them."""

    @staticmethod
    def forward(
        ctx: Any, core: RelationalMemory, starts: Tensor, x: Tensor, memory: Tensor, *parameters: Tensor
    ) -> Tensor:
        outputs, ctx.loan, ctx.rows = _forward(core, starts, x, memory)
        ctx.core = core
        ctx.save_for_backward(starts, x, memory, *parameters)
        return outputs

    @staticmethod
    def backward(ctx: Any, grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        core, (starts, x, memory, *parameters) = ctx.core, ctx.saved_tensors
        if must_loop(core, parameters):
            return None, None, *loop_gradients(core, starts, x, (memory,), parameters, (grad_outputs,))
        workspace: Workspace = ctx.loan.workspace
        sizes, saved, grads = workspace.sizes, workspace.saved, workspace.gradients
        grad_memory = torch.empty(sizes.batch, sizes.slots, sizes.size)
        weights, received, starts_array, written = (
            _weights(core),
            array(grad_outputs).reshape(sizes.steps, sizes.batch, sizes.slots, sizes.size),
            array(starts),
            grad_memory.numpy(),
        )

        def run(b0: int, b1: int) -> kernels.NormGradients:
            norms = _no_norm_gradients(sizes)
            kernels.backward(
                b0, b1, sizes.heads, sizes.key, starts_array, weights, saved, received, written, grads, norms
            )
            return norms

        parts = in_parts(sizes.batch, run)
        norms = kernels.NormGradients(*(torch.from_numpy(sum(arrays)) for arrays in zip(*parts, strict=True)))
        by_parameter, grad_x = _parameter_gradients(core, x, ctx.rows, saved, grads, norms)
        return None, None, grad_x, grad_memory, *(by_parameter[parameter] for parameter in core.parameters())


def _parameter_gradients(
    core: RelationalMemory,
    x: Tensor,
    rows: Tensor,
    saved: kernels.Saved,
    grads: kernels.Gradients,
    norms: kernels.NormGradients,
) -> tuple[dict[Tensor, Tensor], Tensor]:
    """Each parameter's gradient, one matrix product over all steps and rows, and that of x [T, B, I]."""
    block, found = _block(core), dict[Tensor, Tensor]()
    grad_qkv, grad_qkv_input = torch.from_numpy(grads.qkv), torch.from_numpy(grads.qkv_input)
    for layer, linear in enumerate(_mlp_layers(core)):
        _add(found, linear, torch.from_numpy(grads.mlp[layer]), torch.from_numpy(saved.hidden[layer]))
    _add(found, block.qkv, grad_qkv, torch.from_numpy(saved.memories))
    _add(found, block.qkv, grad_qkv_input, rows)
    grad_rows = grad_qkv_input @ block.qkv.weight  # [T, B, size]
    if core.gate_style is not None:
        grad_gates = torch.from_numpy(grads.gates)  # [T, B, S, 2 G]
        grad_gates_input = grad_gates.sum(2)
        _add(found, core.gate_from_memory, grad_gates, torch.from_numpy(saved.tanh_memories))
        _add(found, core.gate_from_input, grad_gates_input, rows)
        grad_rows = grad_rows + grad_gates_input @ core.gate_from_input.weight
    _add(found, core.input_projection, grad_rows, x)
    for norm, gamma, beta in (
        (block.qkv_norm, norms.qkv_gamma, norms.qkv_beta),
        (block.attention_norm, norms.attention_gamma, norms.attention_beta),
        (block.mlp_norm, norms.mlp_gamma, norms.mlp_beta),
    ):
        found[norm.weight], found[norm.bias] = gamma, beta
    return found, grad_rows @ core.input_projection.weight


def _add(found: dict[Tensor, Tensor], linear: nn.Linear, grad: Tensor, inputs: Tensor) -> None:
    """Add a linear layer's gradients, of grad [..., O] and inputs [..., I]."""
    grad, inputs = grad.flatten(0, -2), inputs.flatten(0, -2)
    weight, bias = grad.T @ inputs, grad.sum(0)
    found[linear.weight] = found[linear.weight] + weight if linear.weight in found else weight
    found[linear.bias] = found[linear.bias] + bias if linear.bias in found else bias


def can_fuse(core: RelationalMemory, x: Tensor, memory: Tensor) -> bool:
    """Whether `unroll` can do this."""
    return len(core.blocks) == 1 and compiled_code_applies(x, memory, core.input_projection.weight)


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


def _weights(core: RelationalMemory) -> kernels.Weights:
    block, layers = _block(core), _mlp_layers(core)
    gates = torch.empty(0, core.size) if core.gate_style is None else core.gate_from_memory.weight
    return kernels.Weights(
        qkv=array(block.qkv.weight),
        qkv_bias=array(block.qkv.bias),
        qkv_gamma=array(block.qkv_norm.weight),
        qkv_beta=array(block.qkv_norm.bias),
        attention_gamma=array(block.attention_norm.weight),
        attention_beta=array(block.attention_norm.bias),
        mlp=tuple(array(layer.weight) for layer in layers),
        mlp_bias=tuple(array(layer.bias) for layer in layers),
        mlp_gamma=array(block.mlp_norm.weight),
        mlp_beta=array(block.mlp_norm.bias),
        gates=array(gates),
    )


def _gates_from_input(core: RelationalMemory, rows: Tensor) -> Tensor:
    """[T, B, 2 G]: the input's part of the gates, and all their biases."""
    if core.gate_style is None:
        return rows.new_empty(*rows.shape[:2], 0)
    gates = core.gate_from_input(rows) + core.gate_from_memory.bias
    input_gates, forget_gates = gates.chunk(2, dim=-1)
    return torch.cat([input_gates + core.input_bias, forget_gates + core.forget_bias], dim=-1)


def _no_norm_gradients(sizes: Sizes) -> kernels.NormGradients:
    return kernels.NormGradients(*(torch.zeros(width).numpy() for width in (*[sizes.qkv] * 2, *[sizes.size] * 4)))
