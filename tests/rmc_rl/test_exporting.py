"""Exported policies: the model's own actions, with every core, wherever episodes start."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib import RecurrentPPO
from torch import Tensor

import rmc_rl
from agents import A2C
from rmc_rl import exporting
from rmc_rl.cores import CORES as REGISTERED
from rmc_rl.cores import Core, State
from rmc_rl.policies import POLICIES, RecurrentPolicy
from rmc_rl.vec_env import make_vec_env
from tests.space_envs import ACTIONS, OBSERVATIONS

CORES: dict[str, dict[str, Any]] = {
    "RMCPolicy": {"mem_slots": 3, "head_size": 5, "num_heads": 2},
    "LSTMPolicy": {"hidden_size": 7},
    "GRUPolicy": {"hidden_size": 7},
    "DeepLSTMPolicy": {"hidden_size": 6, "num_layers": 3},
    "MinGRUPolicy": {"hidden_size": 7},
    "FeedForwardPolicy": {},
}
Arrays = dict[str, NDArray[Any]]


class OnnxPolicy:
    """A file as its user runs it, with a state that it has made up itself."""

    def __init__(self, path: Path, batch_size: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(path), options)
        shapes = {part.name: part.shape[1:] for part in self.session.get_inputs() if part.name.startswith("state_")}
        self.state = {name: np.full((batch_size, *shape), 0.3, np.float32) for name, shape in shapes.items()}

    def __call__(self, observation: Arrays, episode_start: NDArray[np.bool_]) -> NDArray[Any]:
        inputs = {**observation, **self.state, "episode_start": episode_start}
        action, self.parameters, *state = self.session.run(None, inputs)
        self.state = dict(zip(self.state, state, strict=True))
        return np.asarray(action)


def sharpened(policy: RecurrentPolicy) -> None:
    """One whose actions differ, and depend on what it remembers."""
    with torch.no_grad():
        policy.network.policy_head.weight.normal_(std=3.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", CORES)
def test_every_core_acts_alike_in_onnx(name: str, tmp_path: Path) -> None:
    """In batches of any size, from starts in any row."""
    torch.manual_seed(5)
    observations = spaces.Dict({"b": spaces.Box(-1, 1, (4, 6, 3), np.float32), "a": spaces.Discrete(5, start=2)})
    policy = POLICIES[name](observations, spaces.Discrete(9, start=-2), core_kwargs=CORES[name], embedding_size=11)
    sharpened(policy)
    rmc_rl.export(policy, tmp_path / "policy.onnx")
    generator = np.random.default_rng(3)
    observations.seed(4)
    for batch_size in (1, 3):
        exported, state = OnnxPolicy(tmp_path / "policy.onnx", batch_size), None
        starts = np.ones(batch_size, dtype=bool)
        for _ in range(12):
            samples = [observations.sample() for _ in range(batch_size)]
            batch = {key: np.stack([sample[key] for sample in samples]) for key in ("a", "b")}
            expected, state = policy.predict(batch, state, starts, deterministic=True)
            np.testing.assert_array_equal(exported(batch, starts), expected)
            starts = generator.random(batch_size) < 0.3


@pytest.mark.slow
def test_a_core_that_onnx_cannot_compute_is_exported_for_torch(tmp_path: Path) -> None:
    """The DNC sorts, and equal numbers must keep their order."""
    model = A2C("DNCPolicy", "CartPole-v1", device="cpu")
    with pytest.raises(ValueError, match="DNC computes what ONNX cannot"):
        rmc_rl.export(model, tmp_path / "policy.onnx")
    assert not list(tmp_path.iterdir())
    rmc_rl.export(model, tmp_path / "policy.pt2")
    observation, starts = torch.zeros(3, 4), torch.ones(3, dtype=torch.bool)
    state = model.policy.network.initial_state(3)
    action, _, _ = torch.export.load(tmp_path / "policy.pt2").module()(observation, state, starts)
    expected, _ = model.predict(observation.numpy(), None, starts.numpy(), deterministic=True)
    np.testing.assert_array_equal(action.numpy(), expected)


def test_names_of_parts_are_no_other_names(tmp_path: Path) -> None:
    """Neither inputs', nor outputs', nor those that torch gives to what is between, such as `view`; and of a Box, the
    file has the deviations."""
    torch.manual_seed(7)
    keys = ["", "action", "addmm", "cat", "episode_start", "linear", "observation_action", "tanh", "val_0", "view"]
    observations = spaces.Dict({key: spaces.Box(-1, 1, (size,)) for size, key in enumerate(keys, 2)})
    kwargs: dict[str, Any] = {"core": "gru", "core_kwargs": {"hidden_size": 7}, "embedding_size": 5}
    policy = RecurrentPolicy(observations, ACTIONS["Box"], **kwargs)
    with torch.no_grad():
        policy.network.log_std.copy_(torch.tensor([0.5, -2.0]))  # type: ignore[union-attr]
    rmc_rl.export(policy, tmp_path / "policy.onnx")
    onnx.checker.check_model(onnx.load(str(tmp_path / "policy.onnx")), full_check=True)
    exported, state = OnnxPolicy(tmp_path / "policy.onnx", 3), None
    renamed = {"": "observation_", "action": "observation_observation_action"}
    renamed["episode_start"] = "observation_episode_start"
    observations.seed(4)
    for starts in ([True, True, True], [False, True, False], [False, False, True]):
        samples = [observations.sample() for _ in range(3)]
        batch = {key: np.stack([sample[key] for sample in samples]) for key in keys}
        expected, state = policy.predict(batch, state, np.array(starts), deterministic=True)
        actions = exported({renamed.get(key, key): part for key, part in batch.items()}, np.array(starts))
        np.testing.assert_allclose(actions, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(exported.parameters[:, 2:], [[0.5, -2.0]] * 3)


def test_an_invalid_file_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The older one stays."""
    monkeypatch.setattr(exporting, "_names", lambda network: (["observation", "action"], ["action", "policy"]))
    policy = POLICIES["FeedForwardPolicy"](spaces.Box(-1, 1, (3,)), spaces.Discrete(4))
    (tmp_path / "policy.onnx").write_text("older")
    with pytest.raises(ValueError, match=r"IdentityCore makes an invalid ONNX graph: .*'action'") as error:
        rmc_rl.export(policy, tmp_path / "policy.onnx")
    assert "\n" not in str(error.value)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["older"]


class Branching(Core):
    """Does one thing or another, which torch cannot trace."""

    def __init__(self, input_size: int) -> None:
        super().__init__(input_size, output_size=input_size)

    def initial_state(self, batch_size: int) -> State:
        return (torch.zeros(batch_size, self.output_size),)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return (x, state) if state[0].sum() > 1 else (-x, state)


def test_a_core_that_cannot_be_traced_is_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(REGISTERED, "branching", Branching)
    policy = RecurrentPolicy(spaces.Box(-1, 1, (3,)), spaces.Discrete(4), core="branching")
    for suffix in (".pt2", ".onnx"):
        with pytest.raises(ValueError, match=r"Branching cannot be exported.*cannot trace.*data-dependent") as error:
            rmc_rl.export(policy, tmp_path / f"policy{suffix}")
        assert "\n" not in str(error.value)
        assert error.value.__cause__ is not None
    assert "def forward" not in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", OBSERVATIONS)
def test_the_example_is_legal(kind: str) -> None:
    """Whatever a space begins with."""
    policy = RecurrentPolicy(OBSERVATIONS[kind], spaces.Discrete(4), core="gru", core_kwargs={"hidden_size": 5})
    observation, _, _ = exporting._example(policy.network)
    rows = [
        {key: part[row].numpy() for key, part in observation.items()}
        if isinstance(observation, dict)
        else observation[row].numpy()
        for row in range(exporting.BATCH)
    ]
    assert all(map(OBSERVATIONS[kind].contains, rows))


def test_models_of_recurrent_ppo(tmp_path: Path) -> None:
    """Whose states are another pair in `predict`, and the core's own in the file."""
    kwargs = {"core_kwargs": {"mem_slots": 3, "head_size": 5, "num_heads": 2}, "embedding_size": 11}
    model = RecurrentPPO("RMCPolicy", "CartPole-v1", policy_kwargs=kwargs, device="cpu", seed=2)
    sharpened(model.policy)  # type: ignore[arg-type]
    rmc_rl.export(model, tmp_path / "policy.pt2")
    exported = torch.export.load(tmp_path / "policy.pt2").module()
    generator, state, starts = np.random.default_rng(2), None, np.ones(4, bool)
    leaves, taken = (torch.full((4, 3, 10), 0.3),), set()
    for _ in range(12):
        x = generator.normal(size=(4, 4)).astype(np.float32)
        expected, state = model.predict(x, state, starts, deterministic=True)
        with torch.no_grad():
            action, _, leaves = exported(torch.from_numpy(x), leaves, torch.from_numpy(starts))
        np.testing.assert_array_equal(action.numpy(), expected)
        restored = model.policy._restore(tuple(map(torch.from_numpy, state)))  # type: ignore[arg-type, operator]
        torch.testing.assert_close(leaves[0], restored[0], rtol=1e-4, atol=1e-5)
        starts, taken = generator.random(4) < 0.3, taken | set(expected.tolist())
    assert len(taken) == 2


@pytest.mark.parametrize("kind", ACTIONS)
def test_actions_are_those_that_environments_take(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(6)
    space = spaces.Box(-1, 1, (3,), np.float32)
    policy = RecurrentPolicy(space, ACTIONS[kind], core="gru", core_kwargs={"hidden_size": 5}, embedding_size=4)
    sharpened(policy)
    rmc_rl.export(policy, tmp_path / "policy.pt2")
    exported = torch.export.load(tmp_path / "policy.pt2").module()
    x = np.random.default_rng(1).uniform(-1, 1, (8, 3)).astype(np.float32)
    expected, (next_state,) = policy.predict(x, None, np.ones(8, bool), deterministic=True)
    with torch.no_grad():
        fresh, starts = (torch.zeros(8, 5),), torch.ones(8, dtype=torch.bool)
        action, parameters, (state,) = exported(torch.from_numpy(x), fresh, starts)
    np.testing.assert_allclose(action.numpy(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state.numpy(), next_state, rtol=1e-5, atol=1e-6)
    assert action.numpy().dtype == expected.dtype
    assert all(map(ACTIONS[kind].contains, action.numpy()))
    assert parameters.shape == (8, policy.network.policy_head.out_features * (2 if kind == "Box" else 1))


@pytest.mark.slow
def test_a_thousand_steps_of_mini_pacman_through_onnx(tmp_path: Path) -> None:
    """The same game, step by step, over the ends of episodes."""
    kwargs = {"viewport": 5, "observation": "planes"}
    model = A2C("RMCPolicy", "envs:MiniPacman-v0", 2, env_kwargs=kwargs, previous_action_reward=True, seed=0)
    model.learn(400)
    sharpened(model.policy)
    rmc_rl.export(model, tmp_path / "pacman.onnx")
    env = make_vec_env("envs:MiniPacman-v0", 3, kwargs, previous_action_reward=True)
    env.seed(8)
    observation, state, starts = env.reset(), None, np.ones(3, dtype=bool)
    exported, ends, taken = OnnxPolicy(tmp_path / "pacman.onnx", 3), 0, set()
    for _ in range(1000):
        expected, state = model.predict(observation, state, starts, deterministic=True)  # type: ignore[arg-type]
        actions = exported(observation, starts)  # type: ignore[arg-type]
        np.testing.assert_array_equal(actions, expected)
        observation, _, starts, _ = env.step(actions)
        ends, taken = ends + starts.sum(), taken | set(actions.tolist())
    assert ends > 5
    assert len(taken) > 2


def test_bf16_policies_are_exported_in_float32_and_stay_what_they_were(tmp_path: Path) -> None:
    model = A2C("GRUPolicy", "CartPole-v1", policy_kwargs={"precision": "bf16"}, device="cpu")
    rmc_rl.export(model, tmp_path / "policy.pt2")
    assert model.policy.network.precision == "bf16"


@pytest.mark.parametrize(
    ("model", "name", "message"),
    [
        ("a policy", "policy.pt", r"path must end in \.pt2 or \.onnx, got '.*policy\.pt'"),
        ("a policy", "policy", r"path must end in \.pt2 or \.onnx"),
        ("a policy", "policy.onnx", "model must have a recurrent policy of rmc_rl, got a policy"),
    ],
)
def test_what_cannot_be_exported(model: object, name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        rmc_rl.export(model, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_missing_packages_and_folders_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = A2C("GRUPolicy", gym.make("CartPole-v1"), device="cpu")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        rmc_rl.export(model, tmp_path / "nowhere" / "policy.pt2")
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'rmc-rl\[export\]'"):
        rmc_rl.export(model, tmp_path / "policy.onnx")
    assert not list(tmp_path.iterdir())
