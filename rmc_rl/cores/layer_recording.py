"""What compiled layers give at each step of an unroll, kept for the unroll of all steps, which need not compute it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

Compute = Callable[[], Tensor]
_layer: ContextVar[Callable[[Compute], Tensor] | None] = ContextVar("_layer", default=None)


def recorded(compute: Compute) -> Tensor:
    """What a layer's forward computes, [N, features], or has computed."""
    layer = _layer.get()
    return compute() if layer is None else layer(compute)


class LayerRecording:
    """Outputs of the compiled layers outside the core, which run in the same order in every step and in the unroll.

    No weight may change between the first step and the unroll.
    """

    def __init__(self, num_steps: int) -> None:
        self.num_steps, self.num_taken = num_steps, 0
        self.outputs: list[Tensor] = []
        """Of each layer, [T, B, features]."""

    @contextmanager
    def step(self) -> Iterator[None]:
        """While inside, layers compute the next step [B, features], which is kept."""
        places = iter(range(self.num_steps))

        def compute_and_keep(compute: Compute) -> Tensor:
            output, place = compute(), next(places)
            if self.num_taken == 0:
                self.outputs.append(torch.empty(self.num_steps, *output.shape))
            self.outputs[place][self.num_taken] = output
            return output

        with _replaced(compute_and_keep):
            yield
        self.num_taken += 1

    @contextmanager
    def unroll(self) -> Iterator[None]:
        """While inside, layers compute nothing, and give what was kept of all steps, [T * B, features]."""
        outputs = iter(self.outputs)
        with _replaced(lambda compute: next(outputs).flatten(0, 1)):
            yield


@contextmanager
def _replaced(layer: Callable[[Compute], Tensor]) -> Iterator[None]:
    token = _layer.set(layer)
    try:
        yield
    finally:
        _layer.reset(token)
