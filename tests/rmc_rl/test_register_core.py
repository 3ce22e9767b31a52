"""A core of a user's own: it works wherever ours do, and what is wrong with it is said in one line."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor
from torch import Tensor, nn

from agents import A2C, IMPALA, Placement
from benchmarks.recall import Recall
from rmc_rl import Core, State, make_core, register_core
from rmc_rl.checkpoint import CheckpointError
from rmc_rl.cores import CORES, LSTM
from rmc_rl.policies import RecurrentPolicy
from rmc_rl.tasks.config import OptimizationConfig, TaskConfig, TaskEvaluationConfig, TaskRun
from rmc_rl.tasks.supervised import TaskTraining


class Leaky(Core):
    """Each unit leaks at a rate of its own; a state that does not start at zero, and has two leaves."""

    def __init__(self, input_size: int, units: int = 9) -> None:
        super().__init__(input_size, output_size=units)
        self.write = nn.Linear(input_size, units)
        self.rate = nn.Parameter(torch.zeros(units))

    def initial_state(self, batch_size: int) -> State:
        return self.rate.new_full((batch_size, self.output_size), 0.5), self.rate.new_zeros(batch_size, 1, 2)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        h, steps = state
        h = self.rate.sigmoid() * h + self.write(x)
        return h.tanh(), (h, steps + 1)


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """Whatever is registered in a test."""
    with patch.dict(CORES):
        yield


@pytest.fixture
def mine(forget: None) -> str:
    register_core("mine", Leaky)
    return "mine"


KWARGS = {"core": "mine", "core_kwargs": {"units": 7}, "embedding_size": 6}


def observations(steps: int = 5, batch: int = 3) -> Any:
    return np.random.default_rng(0).normal(size=(steps, batch, 4)).astype(np.float32)


def same(a: Any, b: Any) -> bool:
    """Whether two models do the same, step after step."""
    states: list[Any] = [None, None]
    for observation in observations():
        results = [
            one.predict(observation, state, deterministic=True) for one, state in zip((a, b), states, strict=True)
        ]
        states = [state for _, state in results]
        for mine, other in zip(*states, strict=True):
            if not np.array_equal(mine, other):
                return False
    return True


# Where it works


@pytest.mark.parametrize(
    "algorithm", [A2C, lambda *args, **kwargs: IMPALA(*args, batch_size=4, **kwargs)], ids=["A2C", "IMPALA"]
)
def test_in_our_algorithms(algorithm: Callable[..., Any], mine: str, tmp_path: Path) -> None:
    """Learned with, saved, and loaded once it is registered again."""
    model = algorithm("RecurrentPolicy", Recall, 4, unroll_length=5, policy_kwargs=KWARGS, seed=0, device="cpu")
    before = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    model.learn(2 * 4 * 5)
    for name in ("network.core.rate", "network.core.write.weight"):
        assert not torch.equal(model.policy.state_dict()[name], before[name])
    model.save(tmp_path / "model")
    assert same(type(model).load(tmp_path / "model", device="cpu"), model)
    del CORES[mine]
    with pytest.raises(CheckpointError, match=r"model: .*core must be one of .*'mine'.*register_core") as error:
        type(model).load(tmp_path / "model")
    assert "\n" not in str(error.value)


def test_in_actors_of_their_own(mine: str) -> None:
    """Processes in which nobody has registered it."""
    model = IMPALA(
        "RecurrentPolicy",
        Recall,
        4,
        policy_kwargs=KWARGS,
        placement=Placement(kind="local", actors=1),
        batch_size=4,
        unroll_length=5,
        seed=0,
        device="cpu",
    )
    model.learn(3 * 4 * 5)
    assert model._n_updates == 3


def test_in_recurrent_ppo(mine: str, tmp_path: Path) -> None:
    env = VecMonitor(DummyVecEnv([Recall] * 3))
    model = RecurrentPPO("RecurrentPolicy", env, n_steps=10, batch_size=15, policy_kwargs=KWARGS, seed=0, device="cpu")
    assert model.policy.lstm_actor.hidden_size == 7 + 2
    model.learn(30).save(tmp_path / "model")
    assert same(RecurrentPPO.load(tmp_path / "model", device="cpu"), model)
    del CORES[mine]
    with pytest.raises(
        ValueError, match=r"core must be one of .*, got 'mine'; register .* with rmc_rl\.register_core first"
    ):
        RecurrentPPO.load(tmp_path / "model")


def test_in_a_policy_of_its_own(mine: str, tmp_path: Path) -> None:
    policy = RecurrentPolicy(Recall.observation_space, Recall.action_space, **KWARGS)  # type: ignore[arg-type]
    assert (policy.core, type(policy.network.core)) == ("mine", Leaky)
    policy.save(tmp_path / "policy")
    assert same(RecurrentPolicy.load(tmp_path / "policy", device="cpu"), policy)


def test_in_tasks(mine: str, tmp_path: Path) -> None:
    """A run to its end, and on from its checkpoint."""
    config = TaskRun(
        name="run",
        updates=3,
        device="cpu",
        core=mine,
        core_kwargs={"mine": {"units": 5}},
        model_kwargs={"head_size": 8, "head_layers": 1},
        task=TaskConfig(kwargs={"task": "control", "max_length": 3}),
        optimization=OptimizationConfig(batch_size=7),
        evaluation=TaskEvaluationConfig(interval=0, final_samples=20),
    )
    training = TaskTraining.start(config, tmp_path / "run")
    evaluation = training.run()
    assert evaluation is not None
    assert 0 <= evaluation["character_accuracy"] <= 1
    assert TaskTraining.resume(config, training.folder).learner.updates == 3
    del CORES[mine]
    with pytest.raises(ValueError, match=r"got 'mine'; register .*register_core first"):
        TaskTraining.resume(config, training.folder)


# What is refused


class WithoutForward(Core):
    def initial_state(self, batch_size: int) -> State:
        return ()


@pytest.mark.parametrize(
    ("name", "core", "message"),
    [
        ("mine", nn.LSTM, r"core must be a subclass of rmc_rl\.Core, got <class .*LSTM'>"),
        ("mine", "Leaky", r"core must be a subclass of rmc_rl\.Core, got 'Leaky'"),
        ("mine", Leaky(3), r"core must be a subclass of rmc_rl\.Core, got Leaky\("),
        ("mine", Core, r"must define initial_state and forward, got Core without \['forward', 'initial_state'\]"),
        ("mine", WithoutForward, r"must define .*, got WithoutForward without \['forward'\]"),
        ("lstm", Leaky, r"name must be a new one, not one of \[.*'lstm'.*\], got 'lstm'"),
        ("", Leaky, r"name must be text, got ''"),
        (3, Leaky, r"name must be text, got 3"),
    ],
)
def test_what_is_not_a_core(name: Any, core: Any, message: str) -> None:
    before = dict(CORES)
    with pytest.raises(ValueError, match=message) as error:
        register_core(name, core)
    assert "\n" not in str(error.value)
    assert before == CORES


def test_the_same_twice_is_no_error() -> None:
    register_core("mine", Leaky)
    register_core("mine", Leaky)
    register_core("lstm", LSTM)
    assert CORES["mine"] is Leaky


def broken(
    initial: Callable[[int], Any] = lambda batch: (torch.zeros(batch, 5),),
    step: Callable[[Tensor, Any], Any] = lambda x, state: (x[:, :1].expand(-1, 5), state),
) -> type[Core]:
    class Broken(Core):
        def __init__(self, input_size: int) -> None:
            super().__init__(input_size, output_size=5)

        def initial_state(self, batch_size: int) -> Any:
            return initial(batch_size)

        def forward(self, x: Tensor, state: State) -> Any:
            return step(x, state)

    return Broken


@pytest.mark.parametrize(
    ("core", "message"),
    [
        (
            broken(initial=lambda batch: torch.zeros(batch, 5)),
            r"Broken\.initial_state\(2\) must be a tuple of tensors \[2, \.\.\.\], got \[2, 5\]",
        ),
        (broken(initial=lambda batch: [torch.zeros(batch, 5)]), r"must be a tuple of tensors .*, got list\(\[2, 5\]\)"),
        (broken(initial=lambda _: (torch.zeros(1, 5),)), r"must be a tuple of tensors .*, got tuple\(\[1, 5\]\)"),
        (broken(initial=lambda _: (torch.zeros(()),)), r"must be a tuple of tensors .*, got tuple\(\[\]\)"),
        (broken(initial=lambda _: None), r"must be a tuple of tensors .*, got None"),
        (broken(step=lambda x, state: x), r"Broken\.forward must return a pair, .*, got \[2, 3\]"),
        (
            broken(step=lambda x, state: (x, state)),
            r"Broken\.forward must return an output \[B, output_size\], here \[2, 5\], got \[2, 3\]",
        ),
        (
            broken(step=lambda x, state: (x[:, :1].expand(-1, 5), state[0])),
            r"Broken\.forward must return a state of the initial one's shapes, tuple\(\[2, 5\]\), got \[2, 5\]",
        ),
        (
            broken(step=lambda x, state: (x[:, :1].expand(-1, 5), ())),
            r"a state of .*, tuple\(\[2, 5\]\), got tuple\(\)",
        ),
    ],
)
def test_a_core_that_breaks_the_contract_is_told_so(core: type[Core], message: str) -> None:
    """When it is built, before anything is trained."""
    register_core("mine", core)
    with pytest.raises(ValueError, match=message) as error:
        make_core("mine", 3)
    assert "\n" not in str(error.value)


def test_a_sound_core_is_built() -> None:
    register_core("mine", broken())
    assert make_core("mine", 3).output_size == 5


def test_named_policies_have_their_core_and_the_other_needs_one() -> None:
    with pytest.raises(ValueError, match="core of a RecurrentPolicy must be the name of one, got None"):
        A2C("RecurrentPolicy", Recall)
    with pytest.raises(ValueError, match="core of a GRUPolicy must be left out, its core being 'gru', got 'lstm'"):
        A2C("GRUPolicy", Recall, policy_kwargs={"core": "lstm"})
    with pytest.raises(ValueError, match=r"core must be one of \[.*\], got 'theirs'; register .*register_core first"):
        A2C("RecurrentPolicy", Recall, policy_kwargs={"core": "theirs"})
