"""Gated recurrent unit (Cho et al. 2014, arXiv 1406.1078)."""

from torch import Tensor, nn

from .arguments import check_unroll
from .core import Core, Recording, State, UnrollPath, check_positive
from .structure import keeps_methods, structure


class GRU(Core):
    """A GRU of `hidden_size` units that starts from zeros; state (h [B, hidden],), output h.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(self, input_size: int, hidden_size: int = 256) -> None:
        check_positive(input_size=input_size, hidden_size=hidden_size)
        super().__init__(input_size, output_size=hidden_size)
        self.cell = nn.GRUCell(input_size, hidden_size)
        self.is_own, self.made_of = keeps_methods(type(self), GRU), structure(self)

    def initial_state(self, batch_size: int) -> State:
        return (self.cell.weight_hh.new_zeros(batch_size, self.output_size),)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (h,) = state
        h = self.cell(x, h)
        return h, (h,)

    def unroll(self, x: Tensor, state: State, starts: Tensor) -> tuple[Tensor, State]:
        """As `Core.unroll`, on the path that `unroll_path` names; they agree to the precision of their products."""
        if self.unroll_path(x, state) == "loop":
            return self.unroll_loop(x, state, starts)
        check_unroll(x, state, starts, self.input_size, ((self.output_size,),))
        from .fused_gated import unroll_gru

        (h,) = state
        outputs = unroll_gru(self, x, h, starts)
        return outputs, (outputs[-1],)

    def record(self, num_steps: int, batch_size: int) -> Recording | None:
        state = self.initial_state(batch_size)
        if self.unroll_path(state[0], state) == "loop":
            return None
        from .fused_gated import GRURecording

        return GRURecording(self, num_steps, batch_size)

    def unroll_path(self, x: Tensor, state: State) -> UnrollPath:
        from .native import path_of  # only now: the compiler behind it takes its time to import

        return path_of(self, x, *state, self.cell.weight_hh)
