"""Snapshots of environments: restored elsewhere, episodes go on bit by bit, through every wrapper and a file."""

import itertools
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FlattenObservation, RecordEpisodeStatistics
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecCheckNan, VecEnv, VecFrameStack, VecMonitor, VecNormalize

from rmc_rl.checkpoint import load_checkpoint, save_checkpoint
from rmc_rl.env_snapshot import restore_envs, snapshot_envs, why_no_snapshot
from rmc_rl.snapshot import Snapshot, pack, unpack
from rmc_rl.vec_env import VectorToVecEnv, make_vec_env


class Walk(gym.Env[Any, Any]):
    """A random walk that draws from its own generator and its spaces', too; it ends by chance or after 9 steps."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self, parts: bool = False) -> None:
        place, luck = spaces.Box(-9.0, 9.0, (2,)), spaces.Box(0.0, 1.0, (3,))
        self.observation_space = spaces.Dict({"place": place, "luck": luck}) if parts else place
        self.action_space = spaces.Discrete(3)
        self.parts = parts

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.action_space.seed(seed)
            self.observation_space.seed(seed)
        self.place, self.clock = self.np_random.normal(size=2), 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.clock += 1
        drift = action - self.action_space.sample() + self.np_random.normal(size=2)
        self.place = np.clip(self.place + drift, -9, 9)
        terminated = bool(self.np_random.integers(8) == 0)
        return self.observe(), float(self.place[0]), terminated, self.clock == 9, {"clock": self.clock}

    def observe(self) -> Any:
        place = self.place.astype(np.float32)
        return {"place": place, "luck": self.observation_space["luck"].sample()} if self.parts else place

    def get_state(self) -> dict[str, Any]:
        return {"place": self.place, "clock": self.clock}

    def set_state(self, state: dict[str, Any]) -> None:
        self.place, self.clock = state["place"], state["clock"]


class MaskedWalk(Walk):
    def action_masks(self) -> NDArray[np.bool_]:
        return np.array([True, self.place[0] > 0, self.place[1] > 0])


class CartPole(CartPoleEnv):
    def get_state(self) -> dict[str, Any]:
        return {"state": self.state, "late": self.steps_beyond_terminated}

    def set_state(self, state: dict[str, Any]) -> None:
        self.state, self.steps_beyond_terminated = state["state"], state["late"]


@pytest.fixture(autouse=True, scope="module")
def _register() -> Iterator[None]:
    gym.register("Walk-v0", Walk, max_episode_steps=7)  # in all three of Gymnasium's own wrappers
    gym.register("SnapshotCartPole-v0", CartPole, max_episode_steps=30)
    yield
    gym.registry.pop("Walk-v0")
    gym.registry.pop("SnapshotCartPole-v0")


def walks(num_envs: int = 3, parts: bool = False, wrap: Callable[[Any], Any] = lambda env: env) -> DummyVecEnv:
    return DummyVecEnv([lambda: wrap(gym.make("Walk-v0", parts=parts))] * num_envs)


def sync(num_envs: int = 3) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: gym.make("Walk-v0")] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)


STACKS: dict[str, Callable[[], VecEnv]] = {
    "Mini-Pacman": lambda: make_vec_env(
        "envs:MiniPacman-v0", 3, {"mode": "avoid", "frame_cap": 9}, previous_action_reward=True
    ),
    "one Mini-Pacman": lambda: make_vec_env(gym.make("envs:MiniPacman-v0", mode="hunt", frame_cap=9)),
    "walks": lambda: make_vec_env("Walk-v0", 3, previous_action_reward=True),
    "masked walks": lambda: make_vec_env(MaskedWalk, 3, previous_action_reward=True),
    "SyncVectorEnv of masked walks": lambda: make_vec_env(
        SyncVectorEnv([MaskedWalk] * 3, autoreset_mode=AutoresetMode.SAME_STEP)
    ),
    "CartPole": lambda: make_vec_env("SnapshotCartPole-v0", 3),
    "SyncVectorEnv": lambda: make_vec_env(sync(), previous_action_reward=True),
    "Monitor": lambda: make_vec_env(walks(wrap=Monitor)),
    "FlattenObservation": lambda: make_vec_env(walks(parts=True, wrap=FlattenObservation)),
    "VecNormalize": lambda: VecNormalize(make_vec_env("Walk-v0", 3)),
    "VecNormalize of a Dict": lambda: VecNormalize(make_vec_env(walks(parts=True)), norm_obs_keys=["place"]),
    "VecNormalize of rewards": lambda: VecNormalize(make_vec_env("Walk-v0", 3), norm_obs=False),
    "VecFrameStack": lambda: VecFrameStack(make_vec_env("Walk-v0", 3), 4),
    "VecFrameStack of a Dict": lambda: VecFrameStack(VecNormalize(VecMonitor(walks(parts=True))), 2, "first"),
}
every_stack = pytest.mark.parametrize("stack", STACKS)


def played(stack: str, seed: int = 5, steps: int = 13) -> VecEnv:
    env = STACKS[stack]()
    env.seed(seed)
    env.action_space.seed(seed)
    env.reset()
    follow(env, seed, steps)
    return env


def follow(env: VecEnv, seed: int, steps: int = 60) -> list[Any]:
    generator = np.random.default_rng(seed)
    return [env.step(generator.integers(env.action_space.n, size=env.num_envs)) for _ in range(steps)]


def through_a_file(snapshot: Snapshot, folder: Path) -> Snapshot:
    path = save_checkpoint(folder / "snapshot", "snapshot", {"data": snapshot.data}, snapshot.tensors)
    data, tensors = load_checkpoint(path, "snapshot")
    return Snapshot(data["data"], tensors)


def restored(stack: str, snapshot: Snapshot | None, steps: int = 4) -> VecEnv:
    """Other environments, which have played other games."""
    assert snapshot is not None
    env = played(stack, seed=99, steps=steps) if steps else STACKS[stack]()
    restore_envs(env, snapshot)
    return env


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], None]]:
    """A clock that stands still until it is set."""

    def turn(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: seconds)

    turn(1e9)
    return turn


@every_stack
@pytest.mark.parametrize("steps", [0, 1, 13])
def test_episodes_go_on_exactly(stack: str, steps: int, tmp_path: Path, clock: Callable[[float], None]) -> None:
    """Observations, rewards, ends and infos, the monitor's sums and seconds included, in many episodes to come."""
    env = played(stack, steps=steps)
    clock(1e9 + 64)
    snapshot = snapshot_envs(env)
    assert snapshot is not None
    expected = follow(env, 1)
    clock(5e9)
    for steps_before in (0, 4):
        other = restored(stack, through_a_file(snapshot, tmp_path), steps_before)
        assert data_equivalence(follow(other, 1), expected, exact=True)
    ends = [info["episode"] for step in expected for info in step[3] if "episode" in info]
    assert len(ends) > 5
    assert {end["t"] for end in ends} == {64.0}


@every_stack
def test_resets_go_on_exactly(stack: str, clock: Callable[[float], None]) -> None:
    """Also where the next thing is a reset, which takes from the same generators."""
    env = played(stack)
    other = restored(stack, snapshot_envs(env))
    assert data_equivalence(other.reset(), env.reset(), exact=True)
    assert data_equivalence(follow(other, 2), follow(env, 2), exact=True)


@every_stack
def test_taking_a_snapshot_changes_nothing(stack: str, clock: Callable[[float], None]) -> None:
    """And what is played afterwards does not change the snapshot."""
    env, other = played(stack), played(stack)
    snapshot = snapshot_envs(env)
    expected = follow(other, 1)
    assert data_equivalence(follow(env, 1), expected, exact=True)
    assert data_equivalence(follow(restored(stack, snapshot), 1), expected, exact=True)


def test_the_seed_that_an_environment_tells_is_restored(clock: Callable[[float], None]) -> None:
    """Without one, Gymnasium would draw a new generator when asked."""
    env = played("walks")
    other = restored("walks", snapshot_envs(env))
    seeds = [[one.unwrapped.np_random_seed for one in envs.unwrapped.envs] for envs in (env, other)]  # type: ignore[attr-defined]
    assert seeds == [[5, 6, 7]] * 2
    assert data_equivalence(follow(other, 1), follow(env, 1), exact=True)


@settings(max_examples=25)
@given(
    mode=st.sampled_from(["regular", "avoid", "hunt", "ambush", "rush"]),
    seed=st.integers(0, 2**31 - 1),
    steps=st.integers(0, 200),
    cap=st.sampled_from([0, 50, 3000]),
)
def test_every_game_of_mini_pacman_goes_on_exactly(mode: str, seed: int, steps: int, cap: int) -> None:
    """Its state is complete, the random numbers of every row included."""
    kwargs = {"mode": mode, "viewport": None, "frame_cap": cap}
    envs = [make_vec_env("envs:MiniPacman-v0", 4, kwargs) for _ in range(2)]
    envs[0].seed(seed)
    envs[0].reset()
    follow(envs[0], seed, steps)
    snapshot = snapshot_envs(envs[0])
    assert snapshot is not None
    restore_envs(envs[1], snapshot)
    expected, actual = ([step[:3] for step in follow(env, 1, 150)] for env in envs)
    assert data_equivalence(actual, expected, exact=True)


# None of some


class Plain(gym.Wrapper[Any, Any, Any, Any]):
    pass


class NormalizeAndMore(VecNormalize):
    pass


class Failing(Walk):
    def get_state(self) -> dict[str, Any]:
        raise RuntimeError("not\nnow")


class Odd(Walk):
    def get_state(self) -> dict[str, Any]:
        return {"friends": {1, 2}}


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: DummyVecEnv([lambda: gym.make("CartPole-v1")]), "CartPoleEnv has no get_state and set_state"),
        (lambda: make_vec_env(walks(wrap=Plain)), "Plain is no wrapper, .* whose state is known"),
        (lambda: walks(wrap=RecordEpisodeStatistics), "RecordEpisodeStatistics is no wrapper"),
        (lambda: VecCheckNan(walks()), "VecCheckNan is no wrapper"),
        (lambda: NormalizeAndMore(walks()), "NormalizeAndMore is no wrapper"),
        (
            lambda: VectorToVecEnv(AsyncVectorEnv([Walk], autoreset_mode=AutoresetMode.SAME_STEP)),
            "AsyncVectorEnv has no get_state and set_state",
        ),
        (lambda: DummyVecEnv([Failing]), "get_state of Failing failed: not now"),
        (lambda: DummyVecEnv([Odd]), r"state\[0\].*\['friends'\] must be None, .* got \{1, 2\}"),
    ],
)
def test_where_there_is_no_snapshot_one_line_says_why(make: Callable[[], VecEnv], reason: str) -> None:
    env = make()
    env.reset()
    assert snapshot_envs(env) is None
    why = why_no_snapshot(env)
    assert why is not None
    assert re.search(reason, why)
    assert "\n" not in why
    env.close()


def test_there_is_no_reason_where_there_is_a_snapshot() -> None:
    assert why_no_snapshot(played("walks")) is None


# What does not fit


def state_of(stack: str) -> Any:
    snapshot = snapshot_envs(played(stack))
    assert snapshot is not None
    return unpack(snapshot)


def rows(state: Any) -> Any:
    return state[-1]["envs"]


@pytest.mark.parametrize(
    ("stack", "change", "message"),
    [
        ("walks", lambda state: state.pop(0), "it is of DummyVecEnv, and these are VecMonitor around DummyVecEnv"),
        ("walks", lambda state: rows(state).pop(), "argument 2 is shorter"),
        ("walks", lambda state: rows(state)[1].pop(0), "it is of TimeLimit around .*, and these are EnvPrevious"),
        ("walks", lambda state: rows(state)[1][1].update(_elapsed_steps="7"), "_elapsed_steps of TimeLimit must be"),
        ("walks", lambda state: rows(state)[1][-1].update(generators=[]), "argument 2 is shorter"),
        ("walks", lambda state: rows(state)[1][-1].pop("states"), "'states'"),
        ("walks", lambda state: rows(state)[1][-1]["states"][0].pop("place"), "'place'"),
        (
            "walks",
            lambda state: state[0].update(episode_returns=np.zeros(2, np.float32)),
            r"episode_returns of VecMonitor must be float32 \(3,\), got float32 \(2,\)",
        ),
        (
            "walks",
            lambda state: state[0].update(episode_lengths=np.zeros(3, np.float32)),
            r"episode_lengths of VecMonitor must be int32 \(3,\), got float32 \(3,\)",
        ),
        ("VecNormalize", lambda state: state[0]["statistics"].pop("returns"), "statistics must be of"),
        (
            "VecFrameStack",
            lambda state: state[0].update(stacks=[np.zeros((3, 2), np.float32)]),
            r"stacked_obs of StackedObservations must be float32 \(3, 8\), got float32 \(3, 2\)",
        ),
        ("Mini-Pacman", lambda state: state[-1]["states"][1].update(power=99), "power must be an integer from 0 to 20"),
        ("Mini-Pacman", lambda state: state[-1]["states"].append({}), "argument 2 is longer"),
    ],
)
def test_a_snapshot_that_does_not_fit_is_refused(stack: str, change: Any, message: str) -> None:
    """In one line; and after a reset the environments are as good as any."""
    state, env = state_of(stack), played(stack)
    change(state)
    with pytest.raises(ValueError, match=f"^the snapshot does not fit the environments: .*{message}") as error:
        restore_envs(env, pack(state))
    assert "\n" not in str(error.value)
    env.reset()
    follow(env, 3)


def test_no_snapshot_of_another_environment_or_of_nothing_is_taken() -> None:
    for first, second in itertools.permutations(["Mini-Pacman", "walks", "VecNormalize"], 2):
        with pytest.raises(ValueError, match=r"it is of .* around .*, and these are"):
            restore_envs(played(first), pack(state_of(second)))
    for nothing in (pack(None), Snapshot({"array": "0"}, {}), pack([1])):
        with pytest.raises(ValueError, match="the snapshot does not fit"):
            restore_envs(played("walks"), nothing)
