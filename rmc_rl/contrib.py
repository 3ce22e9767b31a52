"""The recurrent actor-critic network in sb3-contrib's RecurrentPPO, which stays as it is.

`import rmc_rl` is enough for `RecurrentPPO("RMCPolicy", env)`: this module, which is loaded as soon as RecurrentPPO is
there, adds the policies below to its `policy_aliases`.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, NoReturn

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

try:
    from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
    from sb3_contrib.common.recurrent.type_aliases import RNNStates
    from sb3_contrib.ppo_recurrent.ppo_recurrent import RecurrentPPO
except ModuleNotFoundError as error:
    if error.name != "sb3_contrib":
        raise
    raise ModuleNotFoundError(
        "rmc_rl.contrib needs sb3-contrib: pip install 'rmc-rl[contrib]'", name=error.name
    ) from None

from . import policies
from .cores import State
from .masks import ACTION_MASK, check_mask
from .network import Observation, check_finite
from .refusals import refuse
from .spaces import check_batch, check_form, torch_dtype

StoredState = tuple[Tensor, ...]
"""h [1, B, D], the offset of a state from the initial one, all leaves side by side; c [1, B, 1], nothing."""


class StateSize(NamedTuple):
    """What RecurrentPPO asks `lstm_actor` to make room for the states that it keeps."""

    hidden_size: int
    num_layers: int = 1


class RecurrentPolicy(RecurrentActorCriticPolicy):
    """`rmc_rl.policies.RecurrentPolicy` for RecurrentPPO: the same network, of the same arguments.

    RecurrentPPO knows states as LSTMs have them, in pairs, and takes zeros for fresh: before the first step, where
    `predict` has no state, and at resets. So a state is kept here as its offset from the core's initial state. Actor
    and critic share the core: it runs once per step, and the gradients of both reach it.

    Args:
        observation_space: as for `rmc_rl.policies.RecurrentPolicy`.
        action_space: likewise.
        lr_schedule: of the optimizer; RecurrentPPO's.
        use_sde: must be False: there is no state-dependent exploration.
        optimizer_class: Adam by default.
        optimizer_kwargs: its arguments but for the learning rate; by default those of Stable-Baselines3.
        network_kwargs: `core` (this class's alone), `core_kwargs`, `encoder`, `encoder_kwargs`, `embedding_size` and
            `precision`, as for `rmc_rl.policies.RecurrentPolicy`.

    Raises:
        ValueError: a space that the policy cannot take, or an illegal argument.
        TypeError: an unknown argument.
    """

    form: ClassVar[type[policies.RecurrentPolicy]] = policies.RecurrentPolicy
    """The policy of the same name for our own algorithms."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Callable[[float], float],
        use_sde: bool = False,
        *,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        **network_kwargs: Any,
    ) -> None:
        if "n_critics" in network_kwargs:  # DDPG's
            self._refuse()
        if use_sde:
            raise ValueError(f"use_sde must be False with a {type(self).__name__}, got {use_sde!r}")
        if optimizer_kwargs is None:
            optimizer_kwargs = {"eps": 1e-5} if optimizer_class is torch.optim.Adam else {}
        # The classes between would build networks of their own.
        BasePolicy.__init__(
            self, observation_space, action_space, optimizer_class=optimizer_class, optimizer_kwargs=optimizer_kwargs
        )
        made = self.form(observation_space, action_space, **network_kwargs)
        self.network, self.network_kwargs = made.network, made.network_kwargs
        self.leaf_sizes = [leaf.numel() for leaf in self.network.initial_state(1)]
        self.lstm_actor = StateSize(sum(self.leaf_sizes))  # type: ignore[assignment]
        self.lstm_hidden_state_shape = (1, 1, self.lstm_actor.hidden_size)
        optimizer: Any = optimizer_class  # each subclass has a learning rate
        self.optimizer = optimizer(self.parameters(), lr=lr_schedule(1), **optimizer_kwargs)

    def forward(  # type: ignore[override]
        self,
        obs: Observation,
        lstm_states: RNNStates | None = None,
        episode_starts: Tensor | None = None,
        deterministic: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor, RNNStates]:
        """One step: actions [B, ...], values [B, 1], log-probabilities [B] and the next states.

        Raises:
            FloatingPointError: an observation or a state that is not finite.
            ActionMaskError: an action mask that allows nothing, or is none.
        """
        if lstm_states is None or episode_starts is None:
            self._refuse()
        self._check_mask(obs)
        distribution, values, stored = self._step(obs, lstm_states.vf, episode_starts)
        actions = distribution.get_actions(deterministic)
        return self._to_env(actions), values, distribution.log_prob(actions), RNNStates(stored, stored)

    def _refuse(self) -> NoReturn:
        refuse(type(self).__name__)

    q_net = quantile_net = actor = property(_refuse)
    """What DQN, QR-DQN, and SAC and its kin look for first."""

    def evaluate_actions(  # type: ignore[override]
        self, obs: Observation, actions: Tensor, lstm_states: RNNStates, episode_starts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values, log-probabilities and entropies [S * T] of S sequences one after the other, each padded to T steps.

        The padding comes last, so that it changes nothing before it; RecurrentPPO leaves out what comes of it.
        """
        num_sequences = lstm_states.vf[0].shape[1]
        observations = _time_major(_within(obs, self.observation_space), num_sequences)  # [T, S, ...]
        starts = _time_major(episode_starts.bool(), num_sequences)
        output, _ = self.network(observations, self._restore(lstm_states.vf), starts)
        distribution = self.network.distribution(output.policy.transpose(0, 1).flatten(0, 1))
        counted = _within(actions.float(), self.action_space) - self._first_action()  # bits come as whole numbers
        log_prob = distribution.log_prob(counted)
        return output.value.T.flatten(), log_prob, distribution.entropy()

    def get_distribution(  # type: ignore[override]
        self, obs: Observation, lstm_states: StoredState, episode_starts: Tensor
    ) -> tuple[Distribution, StoredState]:
        """The action distribution of one step (values count from 0), and the next state."""
        distribution, _, stored = self._step(obs, lstm_states, episode_starts)
        return distribution, stored

    def predict_values(  # type: ignore[override]
        self, obs: Observation, lstm_states: StoredState, episode_starts: Tensor
    ) -> Tensor:
        """Values [B, 1] of one step."""
        return self._step(obs, lstm_states, episode_starts)[1]

    def predict(
        self,
        observation: NDArray[Any] | dict[str, NDArray[Any]],
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """As `rmc_rl.policies.RecurrentPolicy.predict`, but that states are RecurrentPPO's."""
        if state is not None and len(state) != 2:
            raise ValueError(f"state must be None or what predict returned, 2 arrays, got {len(state)}")
        check_form(observation, self.observation_space)
        # torch takes no negative strides
        state = state and tuple(map(np.ascontiguousarray, state))
        episode_start = None if episode_start is None else np.ascontiguousarray(episode_start)
        return super().predict(observation, state, episode_start, deterministic)

    def _predict(  # type: ignore[override]
        self, observation: Observation, lstm_states: StoredState, episode_starts: Tensor, deterministic: bool = False
    ) -> tuple[Tensor, StoredState]:
        check_batch(observation, self.observation_space)
        batch_size = len(next(iter(observation.values())) if isinstance(observation, dict) else observation)
        shapes, expected = [tuple(leaf.shape) for leaf in lstm_states], (1, batch_size, self.lstm_actor.hidden_size)
        if shapes[0] != expected or shapes[1][:2] != expected[:2]:
            raise ValueError(
                f"state must be None or what predict returned for such a batch, arrays of shapes {expected} and "
                f"{(1, batch_size, 1)}, got {shapes}"
            )
        if episode_starts.numel() != batch_size:
            raise ValueError(f"episode_start must have shape ({batch_size},), got {tuple(episode_starts.shape)}")
        self._check_mask(observation)
        distribution, stored = self.get_distribution(observation, lstm_states, episode_starts.view(batch_size))
        return self._to_env(distribution.get_actions(deterministic)), stored

    def _check_mask(self, observations: Observation) -> None:
        """Raise an ActionMaskError if there is nothing to choose from."""
        if isinstance(observations, dict) and self.network.is_masked:
            check_mask(observations[ACTION_MASK].cpu().numpy(), self.action_space)

    def _step(
        self, observations: Observation, stored: StoredState, episode_starts: Tensor
    ) -> tuple[Distribution, Tensor, StoredState]:
        """Action distribution, values [B, 1] and next state.

        Raises:
            FloatingPointError: an observation or a state that is not finite.
        """
        output, state = self.network.step(observations, self._restore(stored), episode_starts.bool())
        check_finite(output)
        return (
            self.network.distribution(output.policy),
            output.value.unsqueeze(1),
            self._store(state, len(episode_starts)),
        )

    def _store(self, state: State, batch_size: int) -> StoredState:
        """RecurrentPPO's kind of state for ours."""
        nothing = torch.zeros(batch_size, 0, device=self.device)  # so that a core without a state has one as well
        fresh = self.network.initial_state(batch_size)
        leaves = zip(state, fresh, self.leaf_sizes, strict=True)
        # In float: a core of one's own may have counters and flags, and flags cannot be subtracted.
        offsets = [(leaf.float() - initial.float()).reshape(batch_size, size) for leaf, initial, size in leaves]
        return torch.cat([nothing, *offsets], dim=1).unsqueeze(0), nothing.new_zeros(1, batch_size, 1)

    def _restore(self, stored: StoredState) -> State:
        """Our kind of state for RecurrentPPO's; no gradient goes back through what was stored."""
        (offsets,) = stored[0]  # [B, D]
        fresh = self.network.initial_state(len(offsets))
        parts = offsets.split(self.leaf_sizes, dim=1)
        return tuple(_moved(initial.detach(), part) for initial, part in zip(fresh, parts, strict=True))

    def _to_env(self, actions: Tensor) -> Tensor:
        """[B, ...], as the environment counts them, of its dtype; those of a Box RecurrentPPO has yet to clip."""
        counted = (actions + self._first_action()).reshape(-1, *(self.action_space.shape or ()))
        if isinstance(self.action_space, spaces.Box):
            return counted
        return counted.to(torch_dtype(self.action_space))

    def _first_action(self) -> Tensor:
        return torch.as_tensor(np.asarray(getattr(self.action_space, "start", 0), np.int64), device=self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        """What `save` writes beside the weights."""
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "lr_schedule": self._dummy_schedule,
            "optimizer_class": self.optimizer_class,
            "optimizer_kwargs": self.optimizer_kwargs,
            **self.network_kwargs,
        }


def _moved(leaf: Tensor, offset: Tensor) -> Tensor:
    """A leaf of a state, [B, ...], and a float offset of as many numbers: another one of its dtype."""
    moved = leaf + offset.reshape(leaf.shape)
    return (moved if leaf.is_floating_point() else moved.round()).to(leaf.dtype)


def _time_major(rows: Any, num_sequences: int) -> Any:
    """[S * T, ...] -> [T, S, ...], for every part."""
    if isinstance(rows, dict):
        return {key: _time_major(part, num_sequences) for key, part in rows.items()}
    return rows.view(num_sequences, -1, *rows.shape[1:]).transpose(0, 1)


def _within(values: Any, space: spaces.Space[Any]) -> Any:
    """Values that are the space's: where sequences are padded there are zeros, and a space may begin elsewhere."""
    match space:
        case spaces.Dict():
            return {key: _within(values[key], part) for key, part in space.items()}
        case spaces.Discrete() | spaces.MultiDiscrete():
            first = torch.as_tensor(space.start, device=values.device)
            count = torch.as_tensor(space.n if isinstance(space, spaces.Discrete) else space.nvec, device=values.device)
            return values.clamp(first, first + count - 1)
        case _:
            return values


class RMCPolicy(RecurrentPolicy):
    """Relational Memory Core; by default 4 slots of 4 heads x 16, one gate for each slot."""

    form = policies.RMCPolicy


class LSTMPolicy(RecurrentPolicy):
    """Long short-term memory; by default 256 units."""

    form = policies.LSTMPolicy


class GRUPolicy(RecurrentPolicy):
    """Gated recurrent unit; by default 256 units."""

    form = policies.GRUPolicy


class DeepLSTMPolicy(RecurrentPolicy):
    """Two layers of LSTM with skip connections; by default 256 units each."""

    form = policies.DeepLSTMPolicy


class DNCPolicy(RecurrentPolicy):
    """Differentiable neural computer; by default a memory of 16 x 16, one read and one write head, an LSTM of 128."""

    form = policies.DNCPolicy


class MinGRUPolicy(RecurrentPolicy):
    """Minimal gated recurrent unit; by default 256 units."""

    form = policies.MinGRUPolicy


class FeedForwardPolicy(RecurrentPolicy):
    """No memory: what the agent does depends on the present observation alone."""

    form = policies.FeedForwardPolicy


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

for _name, _policy in POLICIES.items():
    RecurrentPPO.policy_aliases.setdefault(_name, _policy)
