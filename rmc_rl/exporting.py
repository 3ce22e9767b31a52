"""A trained policy as one function without this library: for PyTorch (`torch.export`) or for any ONNX runtime."""

import logging
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from gymnasium import spaces
from torch import Tensor, nn

from .checkpoint import one_line
from .cores import native  # noqa: F401 - tries what the processor has: not while it is being traced
from .files import replacing
from .network import Observation, RecurrentActorCritic

NEEDED = ("onnx", "onnxscript")
BATCH = 2
"""Of the example that is traced; 1 would be taken for a constant."""


class ExportedPolicy(nn.Module):
    """(observation, state, episode_start) -> (action, policy, next state), for a batch of any size B.

    Args:
        network: of a policy.
    """

    def __init__(self, network: RecurrentActorCritic) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, observation: Observation, state: tuple[Tensor, ...], episode_start: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """One step of a batch.

        Args:
            observation: raw, as the environment gives it, [B, ...]; a dict of these for a Dict space.
            state: leaves [B, ...]; where an episode starts, any finite numbers will do, such as zeros.
            episode_start: bool [B], rows whose state is the initial one, whatever `state` says.

        Returns:
            the likeliest action [B, ...], as the environment takes it; the parameters of the actions' distribution
            [B, P] (logits, or means), to sample from; and the state for the next call.
        """
        output, next_state = self.network.step(observation, state, episode_start)
        return self._action(output.policy), output.policy, next_state

    def _action(self, policy: Tensor) -> Tensor:
        space = self.network.action_space
        if isinstance(space, spaces.Box):
            low, high = torch.as_tensor(space.low), torch.as_tensor(space.high)
            return policy.clamp(low.to(policy), high.to(policy))
        if isinstance(space, spaces.MultiBinary):
            return (policy > 0).to(torch.int8)
        if isinstance(space, spaces.Discrete):
            return policy.argmax(-1) + int(space.start)
        sizes = cast(spaces.MultiDiscrete, space).nvec.tolist()
        components = [logits.argmax(-1) for logits in torch.split(policy, sizes, dim=-1)]
        return torch.stack(components, -1) + torch.as_tensor(cast(spaces.MultiDiscrete, space).start)


def export(model: Any, path: str | Path) -> None:
    """Write the policy of a trained model to a file that needs neither this library nor, as ONNX, PyTorch.

    What is written is `ExportedPolicy`'s forward in float32. As ONNX its inputs are called `observation` (or by the
    keys of a Dict space), `state_0`, `state_1`, ... and `episode_start`; its outputs `action`, `policy` and
    `next_state_0`, `next_state_1`, ... The file has their shapes, in which the batch is free.

    Args:
        model: A2C or IMPALA, RecurrentPPO with a policy of `rmc_rl.contrib`, or such a policy itself. States are the
            core's own for all of them.
        path: ends in `.pt2` (for `torch.export.load`) or in `.onnx` (extra `export`). An older file is replaced.

    Raises:
        ValueError: a model without a recurrent policy of ours, another suffix, or a policy that cannot be exported.
        ModuleNotFoundError: ONNX's packages are missing.
        OSError: the file cannot be written.
    """
    path = Path(path)
    writers: dict[str, Callable[[ExportedPolicy, Path], None]] = {".pt2": _write_torch, ".onnx": _write_onnx}
    if path.suffix not in writers:
        raise ValueError(f"path must end in .pt2 or .onnx, got {str(path)!r}")
    network = getattr(getattr(model, "policy", model), "network", None)
    if not isinstance(network, RecurrentActorCritic):
        raise ValueError(f"model must have a recurrent policy of rmc_rl, got {one_line(model)}")
    was_training, devices = network.training, {parameter.device for parameter in network.parameters()}
    if devices != {torch.device("cpu")}:
        raise ValueError(f"model must be on the CPU to be exported, got {', '.join(map(str, devices))}")
    precision, network.precision = network.precision, "fp32"
    try:
        writers[path.suffix](ExportedPolicy(network).eval(), path)
    finally:
        network.precision = precision
        network.train(was_training)


def _write_torch(policy: ExportedPolicy, path: Path) -> None:
    with replacing(path) as file:
        torch.export.save(_trace(policy), file)


def _write_onnx(policy: ExportedPolicy, path: Path) -> None:
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ModuleNotFoundError(f"ONNX needs {' and '.join(missing)}: pip install 'rmc-rl[export]'")
    observation, state, _ = _example(policy.network)
    names = sorted(observation) if isinstance(observation, dict) else ["observation"]
    leaves = range(len(state))
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)  # "no torchvision"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        try:
            program = torch.onnx.export(
                _trace(policy),
                input_names=[*names, *(f"state_{i}" for i in leaves), "episode_start"],
                output_names=["action", "policy", *(f"next_state_{i}" for i in leaves)],
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:  # DNC's sort, for one
            core = type(policy.network.core).__name__
            raise ValueError(f"{core} computes what ONNX cannot: export it as .pt2 ({error.__cause__})") from error
    assert program is not None
    with replacing(path) as file:
        file.write(program.model_proto.SerializeToString())


def _trace(policy: ExportedPolicy) -> torch.export.ExportedProgram:
    example = _example(policy.network)
    batch = {0: torch.export.Dim("batch", min=1)}
    observation, state, _ = example
    of_observation = dict.fromkeys(observation, batch) if isinstance(observation, dict) else batch
    shapes = of_observation, (batch,) * len(state), batch
    with torch.no_grad():
        return torch.export.export(policy, example, dynamic_shapes=shapes, strict=False)


def _example(network: RecurrentActorCritic) -> tuple[Observation, tuple[Tensor, ...], Tensor]:
    """A batch of observations, states and starts."""
    space = network.observation_space
    observation: Observation
    if isinstance(space, spaces.Dict):
        observation = {key: _zeros(part) for key, part in sorted(space.items())}
    else:
        observation = _zeros(space)
    state = tuple(leaf.clone() for leaf in network.initial_state(BATCH))
    return observation, state, torch.zeros(BATCH, dtype=torch.bool)


def _zeros(space: spaces.Space[Any]) -> Tensor:
    assert space.shape is not None, "every supported space has a shape"
    return torch.zeros(BATCH, *space.shape, dtype=torch.as_tensor(space.sample()).dtype)
