"""The model of the tasks: a core and a head, and for whoever answers in a sequence of its own, a decoder."""

import torch
from torch import Tensor, nn

from ..cores import Core, State
from ..cores.core import check_positive
from ..cores.linear import Linear


class SequenceModel(nn.Module):
    """Reads a sequence with a core and answers with one class, or with a sequence of them.

    Args:
        core: reads.
        num_classes: of an answer.
        decoder: writes, from the state in which the core ends; None, the core itself does.
        head_size: width of the hidden layers between outputs and logits.
        head_layers: their number, with ReLU; 0 for a linear head.

    Raises:
        ValueError: an illegal size, or a decoder whose inputs, outputs or state are not those of the core.
    """

    def __init__(
        self, core: Core, num_classes: int, decoder: Core | None = None, head_size: int = 256, head_layers: int = 4
    ) -> None:
        check_positive(num_classes=num_classes, head_size=head_size)
        if head_layers != 0:
            check_positive(head_layers=head_layers)
        super().__init__()
        if decoder is not None:
            check_decoder(core, decoder)
        self.core, self.own_decoder = core, decoder
        sizes = [core.output_size] + [head_size] * head_layers
        hidden = [Linear(size, head_size) for size in sizes[:-1]]
        for layer in hidden:
            # torch's default shrinks what passes through a layer with ReLU, and four of them leave little of it.
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        with_relu = [part for layer in hidden for part in (layer, nn.ReLU())]
        self.head = nn.Sequential(*with_relu, Linear(sizes[-1], num_classes))

    @property
    def decoder(self) -> Core:
        """The core that writes."""
        return self.core if self.own_decoder is None else self.own_decoder

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits [B, classes] after the last step of inputs [T, B, I]."""
        starts = torch.zeros(inputs.shape[:2], dtype=torch.bool, device=inputs.device)
        outputs, _ = self.core.unroll(inputs, self.core.initial_state(inputs.shape[1]), starts)
        logits: Tensor = self.head(outputs[-1])
        return logits

    def read(self, inputs: Tensor, lengths: Tensor) -> State:
        """The state after sequences of `lengths` [B], padded in front to [T, B, I].

        A row's state starts afresh where its sequence begins, so that the padding before it leaves no trace.
        """
        num_steps, batch_size, _ = inputs.shape
        steps = torch.arange(num_steps, device=inputs.device).unsqueeze(1)  # [T, 1]
        starts = steps == num_steps - lengths  # [T, B]
        _, state = self.core.unroll(inputs, self.core.initial_state(batch_size), starts)
        return state

    def write(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits [R, B, classes] of the decoder for its inputs [R, B, I], and its state after them."""
        starts = torch.zeros(inputs.shape[:2], dtype=torch.bool, device=inputs.device)
        outputs, state = self.decoder.unroll(inputs, state, starts)
        return self.head(outputs), state


def check_decoder(core: Core, decoder: Core) -> None:
    """Raise a ValueError unless a decoder can go on from a core's state, with the same head."""
    for name, mine, others in [
        ("state", _state_shapes(decoder), _state_shapes(core)),
        ("input_size", decoder.input_size, core.input_size),
        ("output_size", decoder.output_size, core.output_size),
    ]:
        if mine != others:
            raise ValueError(f"decoder must have the {name} of the core that reads, {others}, got {mine}")


def check_has_state(core: Core) -> None:
    """Raise a ValueError for a core that could hand nothing over to a decoder."""
    if not core.initial_state(1):
        raise ValueError(f"core must have a state to start the decoder from, got {type(core).__name__}, which has none")


def _state_shapes(core: Core) -> list[tuple[int, ...]]:
    return [tuple(leaf.shape[1:]) for leaf in core.initial_state(1)]
