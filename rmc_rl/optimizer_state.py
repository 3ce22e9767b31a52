"""An optimizer's state as named tensors and back, for checkpoints that hold no pickle."""

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

NEVER_NEGATIVE = {"step", "exp_avg_sq", "square_avg"}
"""Counts, and means of squares."""


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
        ValueError: a tensor of no parameter or one that the optimizer does not keep, one that is missing beside others
            of its parameter, or one of the wrong dtype or shape, or with values that are no optimizer's.
    """
    states: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        parameter, _, key = name.rpartition(":")
        states[parameter][key] = tensor
    parameters = dict(module.named_parameters())
    if unknown := sorted(states.keys() - parameters.keys()):
        raise ValueError(f"optimizer state of unknown parameters {unknown}")
    example = _state_of_a_step(optimizer)
    for name, state in states.items():
        _check_state(name, state, example, parameters[name].shape)
    order = list(parameters)
    state_dict = optimizer.state_dict()
    state_dict["state"] = {order.index(name): state for name, state in states.items()}
    optimizer.load_state_dict(state_dict)


def _state_of_a_step(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What such an optimizer keeps of a parameter [2] once it has made a step."""
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.zeros(2)
    other = type(optimizer)([parameter], **optimizer.defaults)
    other.step()
    return {key: torch.as_tensor(value) for key, value in other.state[parameter].items()}


def _check_state(name: str, state: Mapping[str, Tensor], example: Mapping[str, Tensor], shape: torch.Size) -> None:
    """Raise a ValueError that names what is not as in the example, which is the state of a parameter [2]."""
    if state.keys() != example.keys():
        raise ValueError(f"optimizer state of {name} must be {sorted(example)}, got {sorted(state)}")
    for key, tensor in state.items():
        legal, got = tuple(shape if example[key].dim() else ()), tuple(tensor.shape)
        if got != legal:
            raise ValueError(f"optimizer state {name}:{key} must have shape {legal}, got {got}")
        if tensor.dtype != example[key].dtype:
            raise ValueError(f"optimizer state {name}:{key} must be {example[key].dtype}, got {tensor.dtype}")
        if not tensor.isfinite().all():
            raise ValueError(f"optimizer state {name}:{key} must be finite, got NaN or infinite values")
        if key in NEVER_NEGATIVE and (tensor < 0).any():
            raise ValueError(f"optimizer state {name}:{key} must be at least 0, got {tensor.min().item()}")
