"""The recurrent actor-critic network as Stable-Baselines3 policies."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.utils import get_device
from torch import Tensor
from torch.nn.modules.module import register_module_parameter_registration_hook

from .checkpoint import (
    CheckpointError,
    PickledFileError,
    is_json_leaf,
    json_leaves,
    load_checkpoint,
    one_line,
    save_checkpoint,
)
from .cores import State
from .masks import ACTION_MASK, check_mask
from .network import Precision, RecurrentActorCritic, check_finite
from .refusals import refuse
from .spaces import check_batch, check_form, space_from_json, space_to_json

NumpyState = tuple[NDArray[Any], ...]
MAX_NUMBER = 2**23
"""Of an argument that is a whole number. Not every size shows in the weights, and a file may name any."""
PARAMETERS_PER_TENSOR = 10
"""How many parameters are made, at most, for each that is kept: a core of one's own may make some for a moment."""


class RecurrentPolicy(BasePolicy):
    """A Stable-Baselines3 policy around `RecurrentActorCritic`, for any registered core.

    The named forms (`RMCPolicy`, `LSTMPolicy`, ...) set the core and its default arguments; this class takes any core.

    Args:
        observation_space: Box, Discrete, MultiDiscrete, MultiBinary, or a Dict of these; its part `action_mask`, if
            there is one, says which actions are allowed (`rmc_rl.wrappers.ActionMasks`).
        action_space: Discrete, MultiDiscrete, MultiBinary or Box.
        core: a name in `rmc_rl.cores.CORES`, where `rmc_rl.register_core` puts your own; not for a named form.
        core_kwargs: arguments of the core, over the defaults of the named form: JSON, so that they can be saved, and
            whole numbers of at most 2**23.
        encoder: `"auto"` or a name in `rmc_rl.encoders.ENCODERS`.
        encoder_kwargs: arguments of that encoder, likewise.
        embedding_size: width of the layer between encoder and core.
        precision: of matrix products, `"fp32"` or `"bf16"`; see `RecurrentActorCritic`.

    Raises:
        ValueError: a space that the policy cannot take, or an illegal argument.
        TypeError: an algorithm that cannot carry a state is to have this policy.
    """

    core: str | None = None
    """The core's name in `rmc_rl.cores.CORES`; None in the class whose core is an argument."""
    default_core_kwargs: ClassVar[dict[str, Any]] = {}

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        # Algorithms of Stable-Baselines3 and sb3-contrib hand in a learning rate schedule; ours have their optimizers.
        if len(args) > 2 or "lr_schedule" in kwargs:
            refuse(cls.__name__)
        return super().__new__(cls)

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *,
        core: str | None = None,
        core_kwargs: dict[str, Any] | None = None,
        encoder: str = "auto",
        encoder_kwargs: dict[str, Any] | None = None,
        embedding_size: int = 256,
        precision: Precision = "fp32",
    ) -> None:
        super().__init__(observation_space, action_space)
        if (core is None) == (self.core is None):
            own = f"left out, its core being {self.core!r}" if self.core else "the name of one"
            raise ValueError(f"core of a {type(self).__name__} must be {own}, got {core!r}")
        self.network_kwargs: dict[str, Any] = {
            **({} if core is None else {"core": core}),
            "core_kwargs": self.default_core_kwargs | (core_kwargs or {}),
            "encoder": encoder,
            "encoder_kwargs": encoder_kwargs or {},
            "embedding_size": embedding_size,
            "precision": precision,
        }
        for name in ("core_kwargs", "encoder_kwargs", "embedding_size"):
            _check_argument(name, self.network_kwargs[name])
        self.core = core or self.core
        self.network = RecurrentActorCritic(
            observation_space, action_space, **{"core": self.core, **self.network_kwargs}
        )

    def predict(
        self,
        observation: NDArray[Any] | dict[str, NDArray[Any]],
        state: NumpyState | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], NumpyState]:
        """Actions for one observation or a batch of them, and the core's next state.

        Args:
            observation: of the observation space, with or without a batch dimension in front.
            state: what the last call returned; None for a fresh one.
            episode_start: bool [B], rows whose state is reset first; None for no row.
            deterministic: the most likely action instead of a sampled one.

        Raises:
            ValueError: a state or an episode_start that does not fit the batch, or an observation without its parts, of
                parts that are no batch, or with a discrete value out of its range.
            ActionMaskError: an action mask that allows nothing, or is none.
            FloatingPointError: an observation or a state that is not finite.
        """
        self.set_training_mode(False)
        check_form(observation, self.observation_space)
        observations, is_batch = self.obs_to_tensor(observation)
        check_batch(observations, self.observation_space)
        batch_size = _batch_size(observations)
        if isinstance(observations, dict) and self.network.is_masked:
            check_mask(observations[ACTION_MASK].cpu().numpy(), self.action_space)
        with torch.no_grad():
            core_state = self._as_core_state(state, batch_size)
            starts = self._as_starts(episode_start, batch_size)
            output, core_state = self.network.step(observations, core_state, starts)
            check_finite(output)
            actions = self.network.distribution(output.policy).get_actions(deterministic)
        next_state = tuple(leaf.cpu().numpy() for leaf in core_state)
        env_actions = to_env_actions(actions, self.action_space)
        return (env_actions if is_batch else env_actions[0]), next_state

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        """Actions for observations that each begin an episode."""
        batch_size = _batch_size(observation)
        starts = torch.ones(batch_size, dtype=torch.bool, device=self.device)
        output, _ = self.network.step(observation, self.network.initial_state(batch_size), starts)
        return self.network.distribution(output.policy).get_actions(deterministic)

    def _as_core_state(self, state: NumpyState | None, batch_size: int) -> State:
        fresh = self.network.initial_state(batch_size)
        if state is None:
            return fresh
        expected, wanted = [tuple(leaf.shape) for leaf in fresh], "state must be None or what predict returned"
        if not isinstance(state, tuple | list):
            raise ValueError(f"{wanted}, a tuple of arrays of shapes {expected}, got {one_line(repr(state))}")
        shapes = [np.shape(leaf) for leaf in state]
        if shapes != expected:
            raise ValueError(f"{wanted} for such a batch, arrays of shapes {expected}, got {shapes}")
        parts = zip(map(np.ascontiguousarray, state), fresh, strict=True)  # torch takes no negative strides
        return tuple(torch.as_tensor(leaf, dtype=like.dtype, device=self.device) for leaf, like in parts)

    def _as_starts(self, episode_start: NDArray[np.bool_] | None, batch_size: int) -> Tensor:
        if episode_start is None:
            return torch.zeros(batch_size, dtype=torch.bool, device=self.device)
        if np.shape(episode_start) != (batch_size,):
            raise ValueError(f"episode_start must have shape ({batch_size},), got {np.shape(episode_start)}")
        return torch.as_tensor(np.ascontiguousarray(episode_start), dtype=torch.bool, device=self.device)

    def to_json(self) -> dict[str, Any]:
        """All that is needed to build this policy again, but for its weights.

        Raises:
            ValueError: this class is not in `POLICIES`, where it would be looked up.
        """
        if POLICIES.get(type(self).__name__) is not type(self):
            raise ValueError(f"to save a {type(self).__name__}, add the class to rmc_rl.policies.POLICIES first")
        return {
            "policy": type(self).__name__,
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
            "network_kwargs": self.network_kwargs,
        }

    def save(self, path: str | Path) -> None:
        """Write the policy to `path` (safetensors and JSON in one file, `.zip` is added if there is no suffix)."""
        save_checkpoint(path, "policy", self.to_json(), self.state_dict())

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "auto", *, trust: bool = False) -> Self:
        """The policy saved at `path`. Nothing is unpickled, unless the caller trusts the file.

        Args:
            path: the file; `.zip` is added if there is no suffix.
            device: where to put it.
            trust: also take what Stable-Baselines3's own `BasePolicy.save` has pickled of a policy of this class. That
                runs whatever code is in the file.

        Raises:
            CheckpointError: no such file, or it is damaged, or holds something else than a policy of this class.
        """
        try:
            data, tensors = load_checkpoint(path, "policy")
        except PickledFileError:
            if not trust:
                raise
            return cls._unpickle(path).to(get_device(device))
        policy = restore_policy(path, data, tensors)
        if not isinstance(policy, cls):
            raise CheckpointError(f"{path}: holds a {type(policy).__name__}, not a {cls.__name__}")
        return policy.to(get_device(device))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        """What `BasePolicy.save` pickles beside the weights."""
        spaces = {"observation_space": self.observation_space, "action_space": self.action_space}
        return spaces | self.network_kwargs

    @classmethod
    def _unpickle(cls, path: str | Path) -> Self:
        try:
            saved = torch.load(path, map_location="cpu", weights_only=False)
            policy = cls(**saved["data"])
            policy.load_state_dict(saved["state_dict"])
        except Exception as error:  # it may hold anything
            raise CheckpointError(f"cannot load {path}: not a pickled {cls.__name__}: {one_line(error)}") from error
        return policy


class RMCPolicy(RecurrentPolicy):
    """Relational Memory Core; by default 4 slots of 4 heads x 16, one gate for each slot."""

    core = "rmc"
    default_core_kwargs: ClassVar[dict[str, Any]] = {
        "mem_slots": 4,
        "head_size": 16,
        "num_heads": 4,
        "gate_style": "memory",
    }


class LSTMPolicy(RecurrentPolicy):
    """Long short-term memory; by default 256 units."""

    core = "lstm"


class GRUPolicy(RecurrentPolicy):
    """Gated recurrent unit; by default 256 units."""

    core = "gru"


class DeepLSTMPolicy(RecurrentPolicy):
    """Two layers of LSTM with skip connections; by default 256 units each."""

    core = "deep_lstm"


class DNCPolicy(RecurrentPolicy):
    """Differentiable neural computer; by default a memory of 16 x 16, one read and one write head, an LSTM of 128."""

    core = "dnc"


class MinGRUPolicy(RecurrentPolicy):
    """Minimal gated recurrent unit; by default 256 units."""

    core = "mingru"


class FeedForwardPolicy(RecurrentPolicy):
    """No memory: what the agent does depends on the present observation alone."""

    core = "identity"


POLICIES: dict[str, type[RecurrentPolicy]] = {
    policy.__name__: policy
    for policy in (
        RMCPolicy,
        LSTMPolicy,
        GRUPolicy,
        DeepLSTMPolicy,
        DNCPolicy,
        MinGRUPolicy,
        FeedForwardPolicy,
        RecurrentPolicy,
    )
}


def restore_policy(path: str | Path, data: Any, tensors: dict[str, Tensor]) -> RecurrentPolicy:
    """The policy with `RecurrentPolicy.to_json()` data and these weights; `path` is where they came from.

    No more memory is taken than a policy of such weights needs, whatever sizes the data name.

    Raises:
        CheckpointError: an unknown policy, illegal arguments, or weights that do not fit.
    """
    name = data.get("policy") if isinstance(data, dict) else None
    if not isinstance(name, str) or name not in POLICIES:
        raise CheckpointError(one_line(f"{path}: policy must be one of {sorted(POLICIES)}, got {name!r}"))
    try:
        observation_space = space_from_json(data["observation_space"])
        action_space = space_from_json(data["action_space"])
        kwargs = data["network_kwargs"]
        with torch.device("meta"), _parameters_at_most(PARAMETERS_PER_TENSOR * len(tensors)):  # shapes without memory
            expected = POLICIES[name](observation_space, action_space, **kwargs).state_dict()
        _check_weights(tensors, expected)
        policy = POLICIES[name](observation_space, action_space, **kwargs)
        policy.load_state_dict(tensors)
    except Exception as error:  # what spaces, encoders, cores and torch raise on such arguments is of many kinds
        raise CheckpointError(f"{path}: not a saved {name}: {one_line(error)}") from error
    return policy


def _check_argument(name: str, value: Any) -> None:
    """Raise a ValueError that names the first value which a file would not give back, or would not be believed."""
    for place, leaf in json_leaves(value, name):
        if not is_json_leaf(leaf):
            legal = "None, bool, int, finite float, str, list or dict with keys of type str"
            raise ValueError(f"{place} must be {legal}, so that it can be saved, got {one_line(repr(leaf))}")
        if isinstance(leaf, int) and leaf > MAX_NUMBER:
            raise ValueError(f"{place} must be at most {MAX_NUMBER}, got {leaf}")


@contextmanager
def _parameters_at_most(most: int) -> Iterator[None]:
    """Raise a ValueError where one more is made on the meta device: a layer takes memory even if its weights do not."""
    number = count(1)

    def check(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
        if parameter is not None and parameter.is_meta and next(number) > most:
            raise ValueError(f"network_kwargs must make at most {most} parameters for such a file, got more")

    handle = register_module_parameter_registration_hook(check)
    try:
        yield
    finally:
        handle.remove()


def _check_weights(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Raise a ValueError that names the first tensor that is missing, unknown, or not what it must be."""
    if missing := sorted(expected.keys() - tensors.keys()):
        raise ValueError(f"tensors are missing: {missing}")
    if unknown := sorted(tensors.keys() - expected.keys()):
        raise ValueError(f"tensors are unknown: {unknown}")
    for name, part in expected.items():
        wanted, found = (f"{tensor.dtype} {tuple(tensor.shape)}" for tensor in (part, tensors[name]))
        if found != wanted:
            raise ValueError(f"tensor {name} must be {wanted}, got {found}")
        if not tensors[name].isfinite().all():
            raise ValueError(f"tensor {name} must be finite, got NaN or infinite values")


def to_env_actions(actions: Tensor, action_space: spaces.Space[Any]) -> NDArray[Any]:
    """Actions [B, ...] as the environment takes them: numpy, of the space's dtype, counted from its start, clipped."""
    array: NDArray[Any] = actions.cpu().numpy()
    if isinstance(action_space, spaces.Box):
        array = array.clip(action_space.low, action_space.high)
    elif isinstance(action_space, spaces.Discrete | spaces.MultiDiscrete):
        array = array + action_space.start
    return array.astype(action_space.dtype, copy=False)


def _batch_size(observations: PyTorchObs) -> int:
    part = next(iter(observations.values())) if isinstance(observations, dict) else observations
    return len(part)
