"""The Relational Memory Core (Santoro et al. 2018, arXiv 1806.01822, section 3)."""

from collections.abc import Mapping
from typing import Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .arguments import check_unroll
from .core import Core, Recording, State, UnrollPath, check_positive, reset_state
from .structure import keeps_methods, structure

GateStyle = Literal["unit", "memory"]


class AttentionBlock(nn.Module):
    """Multi-head attention of every row of the memory over all rows, then an MLP on each row (section 3.1-3.3).

    Each block has its own projection and layer norms; the MLP belongs to the core and is shared by its blocks.
    """

    def __init__(self, num_heads: int, head_size: int, key_size: int) -> None:
        super().__init__()
        size = num_heads * head_size
        self.num_heads = num_heads
        self.split_sizes = (key_size, key_size, head_size)
        total_size = num_heads * sum(self.split_sizes)
        self.qkv = nn.Linear(size, total_size)  # columns: head by head, that head's q, k and v
        self.qkv_norm = nn.LayerNorm(total_size)
        self.attention_norm = nn.LayerNorm(size)
        self.mlp_norm = nn.LayerNorm(size)

    def forward(self, rows: Tensor, mlp: nn.Sequential) -> tuple[Tensor, Tensor]:
        """rows [B, N, size] -> new rows [B, N, size] and the attention weights [B, heads, N (from), N (to)]."""
        attended, weights = self._attend(rows)  # [B, N, size], [B, heads, N, N]
        rows = self.attention_norm(rows + attended)
        return self.mlp_norm(rows + mlp(rows)), weights

    def _attend(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        qkv = self.qkv_norm(self.qkv(rows))  # [B, N, heads * (key + key + head)]
        qkv = qkv.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [B, heads, N, key + key + head]
        q, k, v = qkv.split(self.split_sizes, dim=-1)
        weights = torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2), dim=-1)  # [B, heads, N, N]
        return (weights @ v).transpose(1, 2).flatten(2), weights


class RelationalMemory(Core):
    """A memory of slots that attend over one another and over the input at every step.

    Equal to DeepMind's own implementation in outputs and gradients, its unpublished details included: layer norms per
    row and one over all heads' queries, keys and values together, constant gate biases on top of the linear layers'
    own, gates that read tanh(memory), no output gate, and an initial memory that is the identity matrix. The number of
    parameters does not depend on `mem_slots`.

    Args:
        input_size: width of the input.
        mem_slots: number of memory slots.
        head_size: width of each head's values; a slot is `num_heads * head_size` wide.
        num_heads: number of attention heads.
        num_blocks: attention blocks per step.
        forget_bias: added to the forget gates.
        input_bias: added to the input gates.
        gate_style: `"unit"`, a gate for each unit; `"memory"`, one for each slot; None, no gates.
        attention_mlp_layers: layers of the MLP that follows attention, each as wide as a slot.
        key_size: width of each head's queries and keys; None, the same as `head_size`.

    Raises:
        ValueError: a size below 1, or an unknown gate style.
    """

    gate_from_input: nn.Linear
    gate_from_memory: nn.Linear

    def __init__(
        self,
        input_size: int,
        mem_slots: int,
        head_size: int,
        num_heads: int = 1,
        num_blocks: int = 1,
        forget_bias: float = 1.0,
        input_bias: float = 0.0,
        gate_style: GateStyle | None = "unit",
        attention_mlp_layers: int = 2,
        key_size: int | None = None,
    ) -> None:
        key_size = head_size if key_size is None else key_size
        check_positive(
            input_size=input_size,
            mem_slots=mem_slots,
            head_size=head_size,
            num_heads=num_heads,
            num_blocks=num_blocks,
            attention_mlp_layers=attention_mlp_layers,
            key_size=key_size,
        )
        if gate_style not in ("unit", "memory", None):
            raise ValueError(f"gate_style must be 'unit', 'memory' or None, got {gate_style!r}")
        size = num_heads * head_size
        super().__init__(input_size, output_size=mem_slots * size)
        self.mem_slots, self.size = mem_slots, size
        self.forget_bias, self.input_bias = forget_bias, input_bias
        self.gate_style = gate_style

        self.input_projection = nn.Linear(input_size, size)
        self.blocks = nn.ModuleList(AttentionBlock(num_heads, head_size, key_size) for _ in range(num_blocks))
        self.attention_mlp = _mlp(size, attention_mlp_layers)
        if gate_style is not None:
            gate_size = size if gate_style == "unit" else 1
            self.gate_from_input = nn.Linear(size, 2 * gate_size)  # columns: input gates, then forget gates
            self.gate_from_memory = nn.Linear(size, 2 * gate_size)
        self.apply(_initialize)
        self.is_own, self.made_of = keeps_methods(type(self), RelationalMemory), structure(self)

    def initial_state(self, batch_size: int) -> State:
        """(memory [B, slots, size],): the identity matrix, padded with zero columns or cut."""
        weight = self.input_projection.weight
        memory = torch.eye(self.mem_slots, self.size, dtype=weight.dtype, device=weight.device)
        return (memory.expand(batch_size, -1, -1),)

    @overload
    def forward(self, x: Tensor, state: State, return_attention: Literal[False] = False) -> tuple[Tensor, State]: ...

    @overload
    def forward(self, x: Tensor, state: State, return_attention: Literal[True]) -> tuple[Tensor, State, Tensor]: ...

    def forward(
        self, x: Tensor, state: State, return_attention: bool = False
    ) -> tuple[Tensor, State] | tuple[Tensor, State, Tensor]:
        """One step: x [B, input_size], state (memory [B, slots, size],) -> output [B, slots * size], next state.

        With `return_attention`, also the attention weights [B, blocks, heads, slots + 1 (from), slots + 1 (to)]; the
        input is the last row.
        """
        (memory,) = state
        row = self.input_projection(x)  # [B, size]
        memory, attention = self._update(memory, row, self._gates_from_input(row))
        if return_attention:
            return memory.flatten(1), (memory,), torch.stack(attention, dim=1)
        return memory.flatten(1), (memory,)

    def unroll(self, x: Tensor, state: State, starts: Tensor) -> tuple[Tensor, State]:
        """As `Core.unroll`, on the path that `unroll_path` names; they agree to the precision of their products."""
        if self.unroll_path(x, state) == "loop":
            return self.unroll_loop(x, state, starts)
        check_unroll(x, state, starts, self.input_size, ((self.mem_slots, self.size),))
        from . import fused_relational_memory as fused

        (memory,) = state
        outputs = fused.unroll(self, x, memory, starts)
        return outputs, (outputs[-1].view_as(memory),)

    def record(self, num_steps: int, batch_size: int) -> Recording | None:
        (memory,) = self.initial_state(batch_size)
        if self.unroll_path(memory, (memory,)) == "loop":
            return None
        from .fused_relational_memory import RMCRecording

        return RMCRecording(self, num_steps, batch_size)

    def unroll_path(self, x: Tensor, state: State) -> UnrollPath:
        """As `Core.unroll_path`; only one attention block can be fused."""
        from .native import path_of  # only now: the compiler behind it takes its time to import

        if len(self.blocks) != 1:
            return "loop"
        return path_of(self, x, *state, self.input_projection.weight)

    def unroll_loop(self, x: Tensor, state: State, starts: Tensor) -> tuple[Tensor, State]:
        """The loop over `forward`, with what depends on the input alone computed for all steps at once."""
        if not self.is_own:  # a subclass may compute steps in another way
            return super().unroll_loop(x, state, starts)
        check_unroll(x, state, starts, self.input_size, ((self.mem_slots, self.size),))
        (initial_memory,) = self.initial_state(x.shape[1])
        (memory,) = state
        rows = self.input_projection(x)  # [T, B, size]
        gates_from_input = self._gates_from_input(rows)  # [T, B, 2 * gate size]
        outputs = []
        for row, gate, starts_t in zip(rows, gates_from_input, starts, strict=True):
            (memory,) = reset_state(starts_t, (initial_memory,), (memory,))
            memory, _ = self._update(memory, row, gate)
            outputs.append(memory)
        return torch.stack(outputs).flatten(2), (memory,)

    def _gates_from_input(self, row: Tensor) -> Tensor:
        """The input's part of the gates, from its projected row [..., size]; without gates it is not used."""
        return row if self.gate_style is None else self.gate_from_input(row)

    def _update(self, memory: Tensor, row: Tensor, gates_from_input: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The next memory [B, slots, size], and each block's attention weights."""
        rows = torch.cat([memory, row.unsqueeze(1)], dim=1)  # [B, slots + 1, size]
        attention = []
        for block in self.blocks:
            rows, weights = block(rows, self.attention_mlp)
            attention.append(weights)
        candidate = rows[:, : self.mem_slots]  # [B, slots, size]
        if self.gate_style is None:
            return candidate, attention
        gates = self.gate_from_memory(torch.tanh(memory)) + gates_from_input.unsqueeze(1)  # [B, slots, 2 * gate size]
        input_gate, forget_gate = gates.chunk(2, dim=-1)
        input_gate = torch.sigmoid(input_gate + self.input_bias)
        forget_gate = torch.sigmoid(forget_gate + self.forget_bias)
        return input_gate * torch.tanh(candidate) + forget_gate * memory, attention

    @torch.no_grad()
    def load_reference(self, params: Mapping[str, NDArray[np.floating]]) -> None:
        """Take over the weights of DeepMind's implementation.

        Args:
            params: `NAME/w` [in, out] and `NAME/b` of linear layers, `NAME/gamma` and `NAME/beta` of layer norms, with
                NAME one of `input_projection`, `attention_mlp.I`, `block.K.qkv`, `block.K.qkv_norm`,
                `block.K.attention_norm`, `block.K.mlp_norm`, `gate_from_input` and `gate_from_memory`.

        Raises:
            ValueError: a name is missing or unknown, or a shape is not this module's; nothing is changed then.
        """
        targets = self._reference_parameters()
        if params.keys() != targets.keys():
            missing, unknown = sorted(targets.keys() - params.keys()), sorted(params.keys() - targets.keys())
            raise ValueError(f"params must name this module's weights; missing {missing}, unknown {unknown}")
        for name, target in targets.items():
            if params[name].shape != target.shape:
                raise ValueError(f"params[{name!r}] must have shape {tuple(target.shape)}, got {params[name].shape}")
        for name, target in targets.items():
            target.copy_(torch.as_tensor(params[name]))

    def _reference_parameters(self) -> dict[str, Tensor]:
        """This module's weights under the reference's names; linear weights are seen as [in, out]."""
        modules: dict[str, nn.Module] = {"input_projection": self.input_projection}
        linears = [layer for layer in self.attention_mlp if isinstance(layer, nn.Linear)]
        modules |= {f"attention_mlp.{i}": linear for i, linear in enumerate(linears)}
        for k, block in enumerate(self.blocks):
            modules |= {f"block.{k}.{name}": layer for name, layer in block.named_children()}
        if self.gate_style is not None:
            modules |= {"gate_from_input": self.gate_from_input, "gate_from_memory": self.gate_from_memory}
        parameters: dict[str, Tensor] = {}
        for name, module in modules.items():
            if isinstance(module, nn.Linear):
                parameters |= {f"{name}/w": module.weight.T, f"{name}/b": module.bias}
            elif isinstance(module, nn.LayerNorm):
                parameters |= {f"{name}/gamma": module.weight, f"{name}/beta": module.bias}
        return parameters


def _mlp(size: int, num_layers: int) -> nn.Sequential:
    """Linear layers of one width, ReLU between them but not after the last."""
    layers: list[nn.Module] = [nn.Linear(size, size)]
    for _ in range(num_layers - 1):
        layers += [nn.ReLU(), nn.Linear(size, size)]
    return nn.Sequential(*layers)


def _initialize(module: nn.Module) -> None:
    """Sonnet's default: weights from a normal of deviation 1/sqrt(fan_in) cut at two of them, biases zero."""
    if isinstance(module, nn.Linear):
        deviation = module.in_features**-0.5
        nn.init.trunc_normal_(module.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
        nn.init.zeros_(module.bias)
