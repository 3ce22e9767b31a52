"""The learner's newest parameters for actors in other processes: shared memory without a lock."""

import torch
from torch import Tensor, nn


class SharedParameters:
    """Two buffers of all parameters, written in turn, with the version that was begun and that was done in each.

    A reader takes the newest buffer that is done, and looks afterwards whether another version was begun in it: then
    the copy may be torn, and it reads again. The writer never waits, and whoever is killed holds nothing. This rests on
    stores becoming visible in their order, as they do on x86.

    Pass it to a process as an argument: the memory is shared, not copied.
    """

    def __init__(self, module: nn.Module) -> None:
        size = sum(parameter.numel() for parameter in module.parameters())
        self.values: Tensor = torch.zeros(2, size).share_memory_()  # type: ignore[no-untyped-call]
        self.begun: Tensor = torch.full((2,), -1).share_memory_()  # type: ignore[no-untyped-call]
        self.done: Tensor = torch.full((2,), -1).share_memory_()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def write(self, module: nn.Module, version: int) -> None:
        """Publish the module's parameters as `version`, one more than the last."""
        buffer = version % 2
        self.begun[buffer] = version
        self.values[buffer].copy_(nn.utils.parameters_to_vector(module.parameters()))
        self.done[buffer] = version

    @torch.no_grad()
    def read(self, module: nn.Module) -> int:
        """Give the module the newest parameters; returns their version."""
        while True:
            version = int(self.done.max())
            values = self._copy(version % 2)  # [parameters]
            if int(self.begun[version % 2]) == version:
                break
        load_vector(module, values)
        return version

    def _copy(self, buffer: int) -> Tensor:
        copy: Tensor = self.values[buffer].clone()
        return copy


@torch.no_grad()
def load_vector(module: nn.Module, values: Tensor) -> None:
    """Copy all parameters, one after the other in `values`, into the module's own."""
    parts = torch.split(values, [parameter.numel() for parameter in module.parameters()])
    for parameter, part in zip(module.parameters(), parts, strict=True):
        parameter.copy_(part.view_as(parameter))
