"""Whether a core is still what its compiled code stands in for: a subclass, a hook or another layer may change it."""

from inspect import isfunction
from typing import Any

from torch import nn

DISPATCH = {"__init__", "unroll", "record", "unroll_path"}
"""Methods that a subclass may override: they do not say what a step computes. What the first changes is seen."""


def structure(core: nn.Module) -> list[Any]:
    """Of a core and all its parts: classes, hooks, and the parameters' names and shapes, and which are the same.

    A core keeps this of itself when it is made. Compiled code is for this structure alone; of any other it would give
    wrong numbers, or read and write other memory: weights that are computed from others (`weight_norm`, `prune`), an
    activation or a width of one's own, a bias that is tied to another.
    """
    found: list[Any] = []
    _add(core, found, {})
    return found


def _add(module: nn.Module, found: list[Any], places: dict[int, int]) -> None:
    # By hand, as this is asked at every unroll: `named_modules()` and `named_parameters()` take several times as long.
    found += type(module), len(module._forward_hooks), len(module._forward_pre_hooks), module.__dict__.get("eps")
    for name, parameter in module._parameters.items():
        found += name, None if parameter is None else parameter.shape, places.setdefault(id(parameter), len(places))
    for name, part in module._modules.items():
        found.append(name)
        if part is not None:
            _add(part, found, places)


def keeps_methods(kind: type[nn.Module], own: type[nn.Module]) -> bool:
    """Whether `kind`, which is `own` or a subclass of it, has all of its methods but those of `DISPATCH` from it."""
    cores = own.__mro__[: own.__mro__.index(nn.Module)]
    methods = {name for one in cores for name, value in vars(one).items() if isfunction(value)} - DISPATCH
    return not any(methods & vars(one).keys() for one in kind.__mro__[: kind.__mro__.index(own)])
