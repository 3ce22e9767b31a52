"""The recurrent actor-critic network: encoder, core and heads. Every policy and algorithm here wraps this one."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import DiagGaussianDistribution, Distribution, make_proba_distribution
from stable_baselines3.common.preprocessing import preprocess_obs
from torch import Tensor, nn
from torch.nn import functional as F

from .categorical import LeanCategorical
from .cores import Recording, State, make_core
from .cores.core import check_positive
from .cores.layer_recording import LayerRecording
from .cores.linear import Linear
from .encoders import ResidualBlock, make_encoder
from .masks import ACTION_MASK, has_mask, mask_policy, without_mask

Precision = Literal["fp32", "bf16"]
NOT_RECORDED = nullcontext()
WIDE = 256
"""Inputs of the embedding from which on its learning rate falls with the root of their number (Karras et al. 2018,
arXiv 1710.10196, section 4.1). A step of Adam moves all weights alike, so that what many inputs have in common adds up
and drowns what tells one observation from another; units that it takes below 0 for all of them are lost."""
Observation = Tensor | dict[str, Tensor]
"""A batch of observations: one tensor, or a dict of them for a Dict space."""


class NetworkOutput(NamedTuple):
    """What the heads say of every step, [T, B, ...]."""

    policy: Tensor
    """[T, B, P]: parameters of the action distribution (masked logits; means of continuous actions)."""
    value: Tensor
    """[T, B]: the expected discounted (scaled) return."""


class NetworkRecording(NamedTuple):
    """The steps of an unroll, taken one by one, and kept: what an actor has computed, its learner need not.

    Made by `RecurrentActorCritic.record`. No weight may change between the first step and the gradient.
    """

    layers: LayerRecording
    core: Recording | None
    """None if the core cannot be recorded."""


class RecurrentActorCritic(nn.Module):
    """observation -> encoder -> embedding (a linear layer, ReLU) -> core -> action and value heads (linear).

    The part `action_mask` of a Dict observation, if there is one, is kept from the encoder. It has the policy give what
    it forbids the probability 0; `rmc_rl.masks.choices` says what is in it.

    Args:
        observation_space: what `make_encoder` takes, and a mask beside it.
        action_space: Discrete, MultiDiscrete or MultiBinary, or a Box of floats, of one dimension.
        core: a name in `rmc_rl.cores.CORES`.
        core_kwargs: arguments of that core.
        encoder: `"auto"` or a name in `rmc_rl.encoders.ENCODERS`.
        encoder_kwargs: arguments of that encoder.
        embedding_size: width of the embedding, the core's input.
        precision: of matrix products and convolutions, but for the heads' and GridEncoder's: `"fp32"`, or `"bf16"`,
            which rounds what they multiply to bfloat16 (8 bits) and sums in float32. Parameters, states and outputs are
            float32 in both.

    Raises:
        ValueError: a space that the network cannot take, an unknown name, or a value that a part rejects.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        core: str,
        core_kwargs: dict[str, Any] | None = None,
        encoder: str = "auto",
        encoder_kwargs: dict[str, Any] | None = None,
        embedding_size: int = 256,
        precision: Precision = "fp32",
    ) -> None:
        check_positive(embedding_size=embedding_size)
        if precision not in ("fp32", "bf16"):
            raise ValueError(f"precision must be 'fp32' or 'bf16', got {precision!r}")
        super().__init__()
        self.precision = precision
        self.observation_space, self.action_space = observation_space, action_space
        self.is_masked = has_mask(observation_space)
        self.encoder = make_encoder(without_mask(observation_space, action_space), encoder, **encoder_kwargs or {})
        self.embedding = Linear(self.encoder.features_dim, embedding_size)
        # The weights are larger and their sums are scaled: to Adam, a lower rate for this layer alone.
        self.embedding_scale = min(1.0, (WIDE / self.encoder.features_dim) ** 0.5)
        self.core = make_core(core, embedding_size, **core_kwargs or {})
        self.policy_head, self.log_std = _policy_head(action_space, self.core.output_size)
        self.value_head = nn.Linear(self.core.output_size, 1)
        self._initialize()

    def initial_state(self, batch_size: int) -> State:
        return self.core.initial_state(batch_size)

    def record(self, num_steps: int, batch_size: int) -> NetworkRecording:
        """Where `step` keeps so many steps for `forward`, as far as they can be kept."""
        with self._autocast(next(self.parameters()).device):
            return NetworkRecording(LayerRecording(num_steps), self.core.record(num_steps, batch_size))

    def forward(
        self, observations: Observation, state: State, starts: Tensor, recording: NetworkRecording | None = None
    ) -> tuple[NetworkOutput, State]:
        """Unroll over T steps.

        Args:
            observations: raw observations of the space, each part [T, B, ...].
            state: the core's state before step 0, leaves [B, ...].
            starts: bool [T, B], whether the step begins an episode.
            recording: where `step` has kept what it computed of these very steps, with these weights.

        Returns:
            the heads' outputs at every step, and the state after the last.
        """
        if recording is None:
            return self._forward(observations, state, starts, self.core.unroll)
        unroll = (recording.core or self.core).unroll
        return self._forward(observations, state, starts, unroll, recording.layers.unroll())

    def step(
        self, observations: Observation, state: State, starts: Tensor, recording: NetworkRecording | None = None
    ) -> tuple[NetworkOutput, State]:
        """One step of a batch: `forward` without the time axis, observations [B, ...] and starts [B].

        With a recording, the step is its next one.
        """
        one_step = add_time(observations), state, starts.unsqueeze(0)
        if recording is None:
            output, state = self._forward(*one_step, self.core.unroll)
        else:
            run = recording.core.step if recording.core else self.core.unroll
            output, state = self._forward(*one_step, run, recording.layers.step())
        return NetworkOutput(output.policy[0], output.value[0]), state

    def _forward(
        self,
        observations: Observation,
        state: State,
        starts: Tensor,
        unroll: Callable[[Tensor, State, Tensor], tuple[Tensor, State]],
        layers: AbstractContextManager[object] = NOT_RECORDED,
    ) -> tuple[NetworkOutput, State]:
        num_steps, batch_size = starts.shape
        with self._autocast(starts.device):
            with layers:
                embedded = self._embed(flatten_time(observations))
            x = embedded.view(num_steps, batch_size, -1)  # [T, B, embedding]
            outputs, next_state = unroll(x, state, starts)  # [T, B, O]
        outputs = outputs.to(self.value_head.weight.dtype)
        state = tuple(after.to(before.dtype) for before, after in zip(state, next_state, strict=True))
        policy, value = self._heads(outputs)
        if self.is_masked:
            policy = mask_policy(policy, cast(dict[str, Tensor], observations)[ACTION_MASK], self.action_space)
        return NetworkOutput(policy, value), state

    def _heads(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Policy [T, B, P] and value [T, B] from outputs [T, B, O]: both layers as one, which takes half the time."""
        heads = self.policy_head, self.value_head
        weight, bias = torch.cat([head.weight for head in heads]), torch.cat([head.bias for head in heads])
        both = F.linear(outputs, weight, bias)
        return both[..., :-1], both[..., -1]

    def distribution(self, policy: Tensor) -> Distribution:
        """The action distribution (Stable-Baselines3's) with the parameters [N, P] of `NetworkOutput.policy`."""
        distribution = _empty_distribution(self.action_space)
        if self.log_std is not None:
            return cast(DiagGaussianDistribution, distribution).proba_distribution(policy, self.log_std)
        return distribution.proba_distribution(policy)

    def _autocast(self, device: torch.device) -> AbstractContextManager[object]:
        return torch.autocast(device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()

    def _embed(self, observations: Observation) -> Tensor:
        """observations [N, ...] -> [N, embedding]; images become floats in [0, 1], discrete values one-hot."""
        if isinstance(observations, dict) and self.is_masked:
            observations = {key: part for key, part in observations.items() if key != ACTION_MASK}
        prepared = preprocess_obs(_count_from_zero(observations, self.observation_space), self.observation_space)
        embedded = torch.relu(self.embedding(self.encoder(prepared)))
        return embedded if self.embedding_scale == 1 else self.embedding_scale * embedded

    def _initialize(self) -> None:
        """Orthogonal layers outside the core, as is usual for actor-critics: a policy that starts near uniform."""
        gains = [
            (self.encoder, 2**0.5),
            (self.embedding, 2**0.5 / self.embedding_scale),
            (self.policy_head, 0.01),
            (self.value_head, 1.0),
        ]
        for module, gain in gains:
            for layer in module.modules():
                if isinstance(layer, nn.Linear | nn.Conv2d):
                    nn.init.orthogonal_(layer.weight, gain)
                    nn.init.zeros_(cast(Tensor, layer.bias))
        for block in self.encoder.modules():
            if isinstance(block, ResidualBlock):  # begins as the identity: the sum of six would be ten times as large
                nn.init.zeros_(cast(Tensor, block.layers[-1].weight))


def check_finite(output: NetworkOutput) -> None:
    """Raise a FloatingPointError that names the first row of one step, policy [B, P] and value [B], that is not."""
    finite = output.policy.isfinite().all(-1) & output.value.isfinite()  # [B]
    if not finite.all():
        row = int(finite.logical_not().nonzero()[0])
        raise FloatingPointError(
            f"environment {row}: what the policy makes of its observation and state is not finite (NaN or infinite)"
        )


def flatten_time(observations: Observation) -> Observation:
    """[T, B, ...] -> [T * B, ...], for every part."""
    if isinstance(observations, dict):
        return {key: part.flatten(0, 1) for key, part in observations.items()}
    return observations.flatten(0, 1)


def add_time(observations: Observation) -> Observation:
    """[B, ...] -> [1, B, ...], for every part."""
    if isinstance(observations, dict):
        return {key: part.unsqueeze(0) for key, part in observations.items()}
    return observations.unsqueeze(0)


def _count_from_zero(observations: Observation, space: spaces.Space[Any]) -> Observation:
    """Discrete values less their space's start: `preprocess_obs` takes them to count from 0."""
    if isinstance(observations, dict):
        parts = {key: _count_from_zero(part, cast(spaces.Dict, space)[key]) for key, part in observations.items()}
        return cast(dict[str, Tensor], parts)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return observations - torch.as_tensor(space.start, device=observations.device)
    return observations


def _empty_distribution(action_space: spaces.Space[Any]) -> Distribution:
    """Over such actions, without parameters yet."""
    if isinstance(action_space, spaces.Discrete):
        return LeanCategorical(int(action_space.n))
    return make_proba_distribution(action_space)


def _policy_head(action_space: spaces.Space[Any], input_size: int) -> tuple[nn.Linear, nn.Parameter | None]:
    """The layer that gives the distribution's parameters, and the log deviation of continuous actions."""
    match action_space:
        case spaces.Discrete():
            taken = True
        case spaces.MultiBinary():
            taken = isinstance(action_space.n, int)
        case spaces.MultiDiscrete():
            taken = len(action_space.shape) == 1
        case spaces.Box():
            taken = len(action_space.shape) == 1 and np.issubdtype(action_space.dtype, np.floating)
        case _:
            taken = False
    if not taken:
        raise ValueError(
            "action_space must be Discrete, MultiDiscrete of one dimension, MultiBinary(n), n a whole number, or a Box "
            f"of floats of one dimension, got {action_space}"
        )
    distribution = _empty_distribution(action_space)
    if isinstance(distribution, DiagGaussianDistribution):
        head, log_std = distribution.proba_distribution_net(input_size)
        return cast(nn.Linear, head), log_std
    return cast(nn.Linear, distribution.proba_distribution_net(input_size)), None
