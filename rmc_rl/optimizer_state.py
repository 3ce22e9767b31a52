"""An optimizer's state as named tensors and back, for checkpoints that hold no pickle."""

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def optimizer_tensors(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """`PARAMETER:KEY` -> tensor, for everything that the optimizer keeps of the module's parameters."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in module.named_parameters()}
    return {
        f"{names[parameter]}:{key}": torch.as_tensor(value)  # Stable-Baselines3's RMSprop counts its steps in an int
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Fill the optimizer from what `optimizer_tensors` gave for a module of the same parameters.

    Raises:
        ValueError: a tensor of no parameter, or of the wrong shape.
    """
    states: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        parameter, _, key = name.rpartition(":")
        states[parameter][key] = tensor
    order = [name for name, _ in module.named_parameters()]
    shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
    if unknown := sorted(states.keys() - shapes.keys()):
        raise ValueError(f"optimizer state of unknown parameters {unknown}")
    for name, state in states.items():
        for key, tensor in state.items():
            if tensor.dim() > 0 and tensor.shape != shapes[name]:
                raise ValueError(f"optimizer state {name}:{key} must have shape {tuple(shapes[name])}")
    state_dict = optimizer.state_dict()
    state_dict["state"] = {order.index(name): state for name, state in states.items()}
    optimizer.load_state_dict(state_dict)
