"""Action masks: what an environment allows, as the part `action_mask` of its observation."""

from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from .checkpoint import one_line

ACTION_MASK = "action_mask"
"""The part of a Dict observation that says which actions are allowed, 1, and which are not, 0."""
NEVER = -1e8
"""Logit of what is not allowed: its probability is exactly 0 in float32, and yet all is finite, gradients included."""


class ActionMaskError(ValueError):
    """A mask that holds anything but 0 and 1, or that allows nothing; one line that says whose."""


def choices(action_space: spaces.Space[Any]) -> list[int]:
    """How many values each component of an action has.

    A mask has one entry for each of them, component after component, as in sb3-contrib's MaskablePPO: n for
    Discrete(n), the sum of nvec for MultiDiscrete(nvec), and 2 n for MultiBinary(n), first for 0 and then for 1.

    Raises:
        ValueError: actions of another kind.
    """
    if isinstance(action_space, spaces.Discrete):
        return [int(action_space.n)]
    if isinstance(action_space, spaces.MultiDiscrete) and len(action_space.shape) == 1:
        return [int(n) for n in action_space.nvec]
    if isinstance(action_space, spaces.MultiBinary) and isinstance(action_space.n, int):
        return [2] * action_space.n
    raise ValueError(
        "action masks need actions that are Discrete, MultiDiscrete of one dimension or MultiBinary(n), n a whole "
        f"number, got {one_line(action_space)}"
    )


def has_mask(observation_space: spaces.Space[Any]) -> bool:
    """Whether an action mask is a part of the observation."""
    return isinstance(observation_space, spaces.Dict) and ACTION_MASK in observation_space.spaces


def without_mask(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> spaces.Space[Any]:
    """The space without its mask, in the same order.

    Raises:
        ValueError: a mask of another length than the actions need, or nothing beside it.
    """
    if not has_mask(observation_space):
        return observation_space
    parts = dict(cast(spaces.Dict, observation_space).spaces)
    mask, size = parts.pop(ACTION_MASK), sum(choices(action_space))
    if not isinstance(mask, spaces.Box | spaces.MultiBinary) or mask.shape != (size,):
        raise ValueError(
            f"observation_space[{ACTION_MASK!r}] must be MultiBinary({size}), one entry for each value of "
            f"{one_line(action_space)}, got {one_line(mask)}"
        )
    if not parts:
        raise ValueError(
            f"observation_space must have another part beside {ACTION_MASK!r}, got {one_line(observation_space)}"
        )
    return spaces.Dict(list(parts.items()))


def mask_policy(policy: Tensor, mask: Tensor, action_space: spaces.Space[Any]) -> Tensor:
    """Parameters of the distribution over actions that are allowed.

    Args:
        policy: logits [..., P].
        mask: [..., M], 1 where an action is allowed and 0 where it is not.
        action_space: of the actions.

    Returns:
        logits [..., P].
    """
    allowed = mask != 0
    if isinstance(action_space, spaces.MultiBinary):  # one logit for each component: that of 1, where 0 has 0
        zero, one = allowed[..., 0::2], allowed[..., 1::2]  # [..., P] each
        return torch.where(one, torch.where(zero, policy, -NEVER), NEVER)
    return torch.where(allowed, policy, NEVER)


def check_mask(mask: NDArray[Any], action_space: spaces.Space[Any]) -> None:
    """Raise an ActionMaskError that names the first row of a mask [B, M] which is none, or leaves nothing to do."""
    nonzero, sizes = mask != 0, choices(action_space)
    if (other := nonzero & (mask != 1)).any():  # normalised, a mask is nowhere 0: it would allow everything
        row, entry = np.argwhere(other)[0]
        raise ActionMaskError(
            f"environment {row}: {ACTION_MASK} must hold 0 and 1 alone, got {mask[row, entry]}; a VecNormalize leaves "
            "alone what its norm_obs_keys do not name"
        )
    allowed = np.logical_or.reduceat(nonzero, np.cumsum([0, *sizes[:-1]]), axis=1)  # [B, components]
    if not allowed.all():
        row, component = np.argwhere(~allowed)[0]
        what = "no action" if len(sizes) == 1 else f"no value of the action's component {component}"
        raise ActionMaskError(f"environment {row}: {ACTION_MASK} allows {what}, where it must allow one at least")
