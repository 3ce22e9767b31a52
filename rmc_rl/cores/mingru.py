"""Minimal gated recurrent unit (Feng et al. 2024, arXiv 2410.01201): a linear recurrence, unrolled in parallel."""

from typing import Any, cast

import torch
from torch import Tensor

from .arguments import check_unroll
from .core import Core, State, UnrollPath, check_positive, reset_state
from .linear import Linear
from .structure import keeps_methods


class MinGRU(Core):
    """A GRU whose gate and candidate depend on the input alone; state (h [B, hidden],), output h.

    h_t = (1 - z_t) h_{t-1} + z_t c_t, with z_t = sigmoid(W_z x_t + b_z) and c_t = W_c x_t + b_c (section 3.1); it
    starts from zeros. Steps can be joined before it is known what they start from, all of them in 2 log2 T rounds.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(self, input_size: int, hidden_size: int = 256) -> None:
        check_positive(input_size=input_size, hidden_size=hidden_size)
        super().__init__(input_size, output_size=hidden_size)
        self.from_input = Linear(input_size, 2 * hidden_size)  # columns: gate, then candidate
        self.is_own = keeps_methods(type(self), MinGRU)

    def initial_state(self, batch_size: int) -> State:
        return (self.from_input.weight.new_zeros(batch_size, self.output_size),)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (h,) = state
        gate, candidate = self._gate_and_candidate(x)
        h = torch.lerp(h, candidate, gate)
        return h, (h,)

    def unroll(self, x: Tensor, state: State, starts: Tensor) -> tuple[Tensor, State]:
        """As `Core.unroll`, all steps at once; equal to the loop up to rounding, for finite numbers."""
        if self.unroll_path(x, state) == "loop":
            return self.unroll_loop(x, state, starts)
        check_unroll(x, state, starts, self.input_size, ((self.output_size,),))
        (h,) = reset_state(starts[0], self.initial_state(x.shape[1]), state)
        gate, candidate = self._gate_and_candidate(x)  # [T, B, hidden]
        added = gate * candidate
        added[0] += (1 - gate[0]) * h
        outputs = cast(Tensor, cast(Any, _Scan).apply(1 - gate, added, starts.unsqueeze(-1)))
        return outputs, (outputs[-1],)

    def unroll_path(self, x: Tensor, state: State) -> UnrollPath:
        return "parallel" if self.is_own else "loop"

    def _gate_and_candidate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Each [..., hidden], in the weights' type: within autocast a layer's output is not."""
        gate, candidate = self.from_input(x).to(self.from_input.weight.dtype).chunk(2, dim=-1)
        return torch.sigmoid(gate), candidate


class _Scan(torch.autograd.Function):
    """h_t = kept_t h_{t-1} + added_t from h_{-1} = 0; its gradient is such a recurrence back in time.

    kept, added [T, B, hidden]; starts bool [T, B, 1], where h_{t-1} counts as zero, even if it is not finite.
    """

    @staticmethod
    def forward(ctx: Any, kept: Tensor, added: Tensor, starts: Tensor) -> Tensor:
        h = _scan(kept, added, starts)
        ctx.save_for_backward(kept, h, starts)
        return h

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        kept, h, starts = ctx.saved_tensors
        kept_back, starts_back = (torch.cat([one[:1], one[1:].flip(0)]) for one in (kept, starts))
        grad_added = cast(Tensor, cast(Any, _Scan).apply(kept_back, grad.flip(0), starts_back)).flip(0)
        before = torch.cat([torch.zeros_like(h[:1]), h[:-1]]).masked_fill(starts, 0)
        return grad_added * before, grad_added, None


def _scan(kept: Tensor, added: Tensor, starts: Tensor) -> Tensor:
    """Steps are joined two by two, and half as many are left (Blelloch 1990); kept[0] and starts[0] do not matter.

    Nothing is divided and no logarithm is taken. Whatever is multiplied lies between 0 and 1: nothing can overflow.
    """
    if len(kept) == 1:
        return added
    joined = _step(kept[1::2], added[:-1:2], added[1::2], starts[1::2])
    h = torch.empty_like(added)
    h[0] = added[0]
    h[1::2] = _scan(kept[1::2] * kept[:-1:2], joined, starts[1::2] | starts[:-1:2])
    h[2::2] = _step(kept[2::2], h[1:-1:2], added[2::2], starts[2::2])
    return h


def _step(kept: Tensor, h: Tensor, added: Tensor, starts: Tensor) -> Tensor:
    """kept * h + added, but nothing of the product where an episode starts: zero times infinity would be NaN."""
    return (kept * h).masked_fill_(starts, 0).add_(added)
