"""A trained policy as one function without this library: for PyTorch (`torch.export`) or for any ONNX runtime."""

import logging
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from .checkpoint import one_line
from .cores import native  # noqa: F401 - tries what the processor has: not while it is being traced
from .files import replacing
from .masks import ACTION_MASK
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
            observation: as the policy was trained on it, [B, ...]; a dict of these for a Dict space.
            state: leaves [B, ...]; where an episode starts, any finite numbers will do, such as zeros.
            episode_start: bool [B], rows whose state is the initial one, whatever `state` says.

        Returns:
            the likeliest action [B, ...], as the environment takes it; the parameters of the actions' distribution
            [B, P], to sample from: logits, or the n means and then the n log standard deviations of a Box's normal
            distribution, whose samples are to be clipped; and the state for the next call.
        """
        output, next_state = self.network.step(observation, state, episode_start)
        return self._action(output.policy), self._distribution(output.policy), next_state

    def _action(self, policy: Tensor) -> Tensor:
        space = self.network.action_space
        dtype = torch.as_tensor(np.zeros((), space.dtype)).dtype
        if isinstance(space, spaces.Box):  # in the space's own precision, whose bounds may be finer than float32's
            return policy.to(dtype).clamp(torch.as_tensor(space.low), torch.as_tensor(space.high))
        if isinstance(space, spaces.MultiBinary):
            return (policy > 0).to(dtype)
        if isinstance(space, spaces.Discrete):
            return (policy.argmax(-1) + int(space.start)).to(dtype)
        sizes = cast(spaces.MultiDiscrete, space).nvec.tolist()
        components = [logits.argmax(-1) for logits in torch.split(policy, sizes, dim=-1)]
        return (torch.stack(components, -1) + torch.as_tensor(cast(spaces.MultiDiscrete, space).start)).to(dtype)

    def _distribution(self, policy: Tensor) -> Tensor:
        log_std = self.network.log_std  # [n], of a Box
        return policy if log_std is None else torch.cat([policy, log_std.expand_as(policy)], -1)


def export(model: Any, path: str | Path) -> None:
    """Write the policy of a trained model to a file that needs neither this library nor, as ONNX, PyTorch.

    What is written is `ExportedPolicy`'s forward in float32. As ONNX its inputs are called `observation` (or by the
    keys of a Dict space), `state_0`, `state_1`, ... and `episode_start`; its outputs `action`, `policy` and
    `next_state_0`, `next_state_1`, ... A key that is one of the other names, or empty, has `observation_` put in front
    of it. The file has their shapes, in which the batch is free. What is around the policy is not in it: observations
    are to be normalised before, if a VecNormalize did so.

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
    core = type(policy.network.core).__name__
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)  # "no torchvision"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        try:
            program = torch.onnx.export(_trace(policy), dynamo=True, verbose=False)
        except torch.onnx.OnnxExporterError as error:  # DNC's sort, for one
            reason = one_line(error.__cause__ or error)
            raise ValueError(f"{core} computes what ONNX cannot: export it as .pt2 ({reason})") from error
    assert program is not None
    _rename(program.model.graph, *_names(policy.network))
    written = program.model_proto.SerializeToString()
    _check_onnx(written, core)
    with replacing(path) as file:
        file.write(written)


def _names(network: RecurrentActorCritic) -> tuple[list[str], list[str]]:
    """Of the file's inputs and outputs, all different."""
    observation, state, _ = _example(network)
    keys = [str(key) for key in observation] if isinstance(observation, dict) else ["observation"]
    leaves = range(len(state))
    others = [*(f"state_{i}" for i in leaves), "episode_start"]
    outputs = ["action", "policy", *(f"next_state_{i}" for i in leaves)]
    taken = {"", *others, *outputs}
    parts: list[str] = []
    for key in keys:
        name = key
        while name in taken or (name != key and name in keys):
            name = f"observation_{name}"
        parts.append(name)
    return [*parts, *others], outputs


def _rename(graph: Any, inputs: list[str], outputs: list[str]) -> None:
    """Give the ends of an ONNX graph these names. What is between makes room: torch calls it `view`, `cat`, ..."""
    ends = dict(zip([*graph.inputs, *graph.outputs], [*inputs, *outputs], strict=True))
    between = [*graph.initializers.values(), *(value for node in graph.all_nodes() for value in node.outputs)]
    used = {*ends.values(), *(value.name for value in between)}
    for value in between:
        if value not in ends and value.name in ends.values():
            name = value.name
            while name in used:
                name += "_"
            used.add(name)
            value.name = name
    for value, name in ends.items():
        value.name = name


def _check_onnx(written: bytes, core: str) -> None:
    import onnx  # the extra `export`

    try:
        onnx.checker.check_model(written, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValueError(f"{core} makes an invalid ONNX graph: export it as .pt2 ({one_line(error)})") from error


def _trace(policy: ExportedPolicy) -> torch.export.ExportedProgram:
    example = _example(policy.network)
    batch = {0: torch.export.Dim("batch", min=1)}
    observation, state, _ = example
    of_observation = dict.fromkeys(observation, batch) if isinstance(observation, dict) else batch
    shapes = of_observation, (batch,) * len(state), batch
    try:
        with torch.no_grad(), redirect_stderr(StringIO()):  # where torch prints the graph as far as it has come
            return torch.export.export(policy, example, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # of many kinds, for what a core of one's own may do
        core = type(policy.network.core).__name__
        raise ValueError(
            f"{core} cannot be exported, since torch.export cannot trace what it computes for a batch of any size: "
            f"{one_line(error)}"
        ) from error


def _example(network: RecurrentActorCritic) -> tuple[Observation, tuple[Tensor, ...], Tensor]:
    """A legal batch of observations, states and starts."""
    space = network.observation_space
    observation: Observation
    if isinstance(space, spaces.Dict):
        observation = {key: _legal(part) for key, part in sorted(space.items())}
        if network.is_masked:
            observation[ACTION_MASK] = torch.ones_like(observation[ACTION_MASK])
    else:
        observation = _legal(space)
    state = tuple(leaf.clone() for leaf in network.initial_state(BATCH))
    return observation, state, torch.zeros(BATCH, dtype=torch.bool)


def _legal(space: spaces.Space[Any]) -> Tensor:
    """A batch of what is nearest to 0 in a space."""
    assert space.shape is not None, "every supported space has a shape"
    values = np.zeros((BATCH, *space.shape), space.dtype)
    match space:
        case spaces.Discrete() | spaces.MultiDiscrete():
            values += np.asarray(space.start, space.dtype)
        case spaces.Box():
            values = values.clip(space.low, space.high)
    return torch.as_tensor(values)
