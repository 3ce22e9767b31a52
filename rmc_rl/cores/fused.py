"""The Relational Memory Core's unroll as one operation with its own gradient, on the compiled kernels.

The same arithmetic as the loop in `relational_memory.py`, without a Python step in it: what depends on the input alone
is computed for all steps at once, memory is allocated once and used again, each weight's gradient is one matrix product
over all steps, and nothing is computed that is thrown away (what the input's row itself would gather).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar, cast

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from . import blas, kernels

if TYPE_CHECKING:
    from .relational_memory import AttentionBlock, RelationalMemory

ROWS_PER_THREAD = 8
"""A batch is divided among threads in parts of at least so many rows."""
KEPT_SIZES = 4
"""Workspaces of so many sizes are kept for later."""


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
            memories=_empty(*shape, slots, sizes.size),
            tanh_memories=_empty(*shape, slots, sizes.size),
            qkv=_empty(*shape, slots, sizes.qkv),
            qkv_input=_empty(*shape, sizes.qkv),
            qkv_scales=_empty(*shape, slots + 1),
            attention=_empty(*shape, sizes.heads, slots, slots + 1),
            attended=_empty(*shape, slots, sizes.size),
            attended_scales=_empty(*shape, slots),
            hidden=_empty(sizes.layers, *shape, slots, sizes.size),
            candidates=_empty(*shape, slots, sizes.size),
            candidate_scales=_empty(*shape, slots),
            gates=_empty(*shape, slots, sizes.gates),
        )
        self._gradients: kernels.Gradients | None = None

    @property
    def gradients(self) -> kernels.Gradients:
        """Allocated when first asked for: who only acts needs none."""
        if self._gradients is None:
            sizes, shape = self.sizes, (self.sizes.steps, self.sizes.batch)
            self._gradients = kernels.Gradients(
                qkv=_empty(*shape, sizes.slots, sizes.qkv),
                qkv_input=_empty(*shape, sizes.qkv),
                gates=_empty(*shape, sizes.slots, sizes.gates),
                mlp=_empty(sizes.layers, *shape, sizes.slots, sizes.size),
            )
        return self._gradients


class Loan:
    """A workspace for as long as this object lives; then it is free for the next unroll of the same sizes."""

    free: ClassVar[OrderedDict[Sizes, list[Workspace]]] = OrderedDict()

    def __init__(self, sizes: Sizes) -> None:
        self.returns_to = self.free.setdefault(sizes, [])
        self.free.move_to_end(sizes)
        if len(self.free) > KEPT_SIZES:
            self.free.popitem(last=False)
        self.workspace = self.returns_to.pop() if self.returns_to else Workspace(sizes)

    def __del__(self) -> None:
        self.returns_to.append(self.workspace)


class FusedUnroll(torch.autograd.Function):
    """outputs [T, B, slots * size] of a core from starts bool [T, B], x [T, B, I], memory [B, slots, size].

    The core's parameters follow, in the order of `core.parameters()`, so that gradients reach them.
    """

    @staticmethod
    def forward(
        ctx: Any, core: RelationalMemory, starts: Tensor, x: Tensor, memory: Tensor, *parameters: Tensor
    ) -> Tensor:
        loan = Loan(_sizes(core, *starts.shape))
        sizes, saved = loan.workspace.sizes, loan.workspace.saved
        rows = core.input_projection(x)  # [T, B, size]
        inputs = kernels.Inputs(
            memory=_array(memory),
            initial=_array(core.initial_state(1)[0][0]),
            starts=_array(starts),
            qkv=_array(_block(core).qkv(rows)),
            gates=_array(_gates_from_input(core, rows)),
        )
        weights = _weights(core)
        outputs = torch.empty(sizes.steps, sizes.batch, sizes.slots, sizes.size)
        written = outputs.numpy()
        _in_parts(
            sizes.batch,
            lambda b0, b1: kernels.forward(b0, b1, sizes.heads, sizes.key, inputs, weights, saved, written),
        )
        ctx.core, ctx.loan, ctx.rows = core, loan, rows
        ctx.save_for_backward(starts, x, memory, *parameters)
        return outputs.flatten(2)

    @staticmethod
    def backward(ctx: Any, grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        core, (starts, x, memory, *parameters) = ctx.core, ctx.saved_tensors
        # The loop does what remains: a gradient that is to be differentiated in its turn, and one of weights that
        # stood in for the core's own and are gone by now (`torch.func.functional_call`).
        stood_in = any(p.data_ptr() != own.data_ptr() for p, own in zip(parameters, core.parameters(), strict=True))
        if torch.is_grad_enabled() or stood_in:
            with torch.enable_grad():
                return None, None, *_loop_gradients(core, starts, x, memory, parameters, grad_outputs)
        workspace: Workspace = ctx.loan.workspace
        sizes, saved, grads = workspace.sizes, workspace.saved, workspace.gradients
        grad_memory = torch.empty(sizes.batch, sizes.slots, sizes.size)
        weights, received, starts_array, written = (
            _weights(core),
            _array(grad_outputs).reshape(sizes.steps, sizes.batch, sizes.slots, sizes.size),
            _array(starts),
            grad_memory.numpy(),
        )

        def run(b0: int, b1: int) -> kernels.NormGradients:
            norms = _no_norm_gradients(sizes)
            kernels.backward(
                b0, b1, sizes.heads, sizes.key, starts_array, weights, saved, received, written, grads, norms
            )
            return norms

        parts = _in_parts(sizes.batch, run)
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


def _loop_gradients(
    core: RelationalMemory,
    starts: Tensor,
    x: Tensor,
    memory: Tensor,
    parameters: Sequence[Tensor],
    grad_outputs: Tensor,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, memory and parameters that can be differentiated again."""
    named = dict(zip(dict(core.named_parameters()), parameters, strict=True))
    outputs: Tensor = torch.func.functional_call(
        _Loop(core), {f"core.{n}": p for n, p in named.items()}, (x, memory, starts)
    )
    wanted = [tensor for tensor in (x, memory, *parameters) if tensor.requires_grad]
    found = dict(zip(wanted, torch.autograd.grad(outputs, wanted, grad_outputs, create_graph=True), strict=True))
    return tuple(found.get(tensor) for tensor in (x, memory, *parameters))


class _Loop(nn.Module):
    """A core's plain unroll as a module's forward, for `functional_call`."""

    def __init__(self, core: RelationalMemory) -> None:
        super().__init__()
        self.core = core

    def forward(self, x: Tensor, memory: Tensor, starts: Tensor) -> Tensor:
        return self.core.unroll_loop(x, (memory,), starts)[0]


def can_fuse(core: RelationalMemory, x: Tensor, memory: Tensor) -> bool:
    """Whether `FusedUnroll` can do this unroll."""
    tensors = (x, memory, core.input_projection.weight)
    return (
        blas.AVAILABLE
        and len(core.blocks) == 1
        and all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in tensors)
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not cast(Any, torch.jit).is_tracing()
    )


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
        qkv=_array(block.qkv.weight),
        qkv_bias=_array(block.qkv.bias),
        qkv_gamma=_array(block.qkv_norm.weight),
        qkv_beta=_array(block.qkv_norm.bias),
        attention_gamma=_array(block.attention_norm.weight),
        attention_beta=_array(block.attention_norm.bias),
        mlp=_array(torch.stack([layer.weight for layer in layers])),
        mlp_bias=_array(torch.stack([layer.bias for layer in layers])),
        mlp_gamma=_array(block.mlp_norm.weight),
        mlp_beta=_array(block.mlp_norm.bias),
        gates=_array(gates),
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


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().contiguous().numpy()


def _empty(*shape: int) -> NDArray[Any]:
    return torch.empty(shape).numpy()  # torch's memory begins where a cache line does


# --- Threads ---------------------------------------------------------------------------------------------------------


Result = TypeVar("Result")


def _in_parts(batch: int, run: Callable[[int, int], Result]) -> list[Result]:
    """Run(b0, b1) for parts of the batch, in as many threads as torch uses."""
    count = min(torch.get_num_threads(), max(1, batch // ROWS_PER_THREAD))
    if count == 1 and torch.get_num_threads() == 1:
        return [run(0, batch)]
    bounds = [batch * part // count for part in range(count + 1)]
    return list(_threads(count).map(run, bounds[:-1], bounds[1:]))


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    # The parts are independent, so that threads within one matrix product would only be in one another's way.
    return ThreadPoolExecutor(count, "rmc", initializer=blas.one_thread_here)
