"""Gated recurrent unit (Cho et al. 2014, arXiv 1406.1078)."""

from torch import Tensor, nn

from .core import Core, State, check_positive


class GRU(Core):
    """A GRU of `hidden_size` units that starts from zeros; state (h [B, hidden],), output h.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(self, input_size: int, hidden_size: int = 256) -> None:
        check_positive(input_size=input_size, hidden_size=hidden_size)
        super().__init__(input_size, output_size=hidden_size)
        self.cell = nn.GRUCell(input_size, hidden_size)

    def initial_state(self, batch_size: int) -> State:
        return (self.cell.weight_hh.new_zeros(batch_size, self.output_size),)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (h,) = state
        h = self.cell(x, h)
        return h, (h,)
