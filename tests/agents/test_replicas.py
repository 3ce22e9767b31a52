"""Replicas: N of them with M / N environments each learn what one process with M would."""

import os
import signal
import subprocess
import sys
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
import torch.distributed as dist

from agents import A2C, replicas
from agents.losses import normalize
from agents.replicas import ReplicaError, replicated

SETTINGS = {"unroll_length": 7, "learning_rate": 3e-3, "reward_scale": 0.3}


class Pattern(gymnasium.Env):
    """Observations and ends that depend on the environment's number and the step alone, whatever is done."""

    observation_space = gymnasium.spaces.Box(-1, 1, (3,))
    action_space = gymnasium.spaces.Discrete(4)

    def __init__(self, number):
        self.number = number

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.step_number = 0
        return self._observe(), {}

    def step(self, action):
        self.step_number += 1
        reward = float(np.cos(self.number + self.step_number))
        return self._observe(), reward, self.step_number == 3 + self.number, False, {}

    def _observe(self):
        return np.sin(np.arange(3) + self.number * self.step_number).astype(np.float32)


def agent(numbers, **settings):
    """An agent whose actions are not drawn but follow from environment and step."""
    from stable_baselines3.common.vec_env import DummyVecEnv

    torch.set_num_threads(1)
    env = DummyVecEnv([partial(Pattern, number) for number in numbers])
    kwargs = {"core_kwargs": {"mem_slots": 2, "head_size": 3, "num_heads": 2}, "embedding_size": 5}
    model = A2C("RMCPolicy", env, policy_kwargs=kwargs, seed=numbers[0], **SETTINGS | settings)
    distribution = model.policy.network.distribution

    def scripted(parameters):
        result = distribution(parameters)
        if len(parameters) == len(numbers):  # acting, not learning
            scripted.calls += 1
            actions = (torch.tensor(numbers) * scripted.calls) % 4
            result.sample = lambda: actions
        return result

    scripted.calls = 0
    model.policy.network.distribution = scripted
    return model


def learn_share(numbers_of_rank, steps, rank, **settings):
    return partial(agent(numbers_of_rank[rank], **settings).learn, steps, log_interval=1000)


def parameters(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.policy.parameters()])


@pytest.mark.parametrize(("shares", "reduction"), [([[0, 1], [2, 3], [4, 5]], "mean"), ([[0, 1], [2, 3]], "sum")])
def test_learn_what_one_process_learns(shares, reduction):
    """Three updates: gradients averaged or summed, and advantages normalised over all replicas' moments.

    Adam does not see the gradients' scale, so RMSProp must tell whether a sum is one; and nothing is clipped away.
    """
    settings = {"loss_reduction": reduction}
    if reduction == "sum":
        settings |= {"optimizer": "rmsprop", "max_gradient_norm": 1e9}
    numbers = [number for share in shares for number in share]
    steps = 3 * SETTINGS["unroll_length"] * len(numbers)
    alone = agent(numbers, **settings)
    before = parameters(alone).clone()
    alone.learn(steps, log_interval=1000)
    first = agent(shares[0], **settings)
    with replicated(len(shares), partial(learn_share, shares, steps, **settings)):
        first.learn(steps, log_interval=1000)
    assert first.num_timesteps == alone.num_timesteps == steps
    moved = (parameters(alone) - before).abs().max()
    torch.testing.assert_close(parameters(first), parameters(alone), rtol=0, atol=1e-3 * float(moved))
    assert not dist.is_initialized()


def test_the_first_replica_decides_when_to_stop():
    first = agent([0, 1])
    with replicated(2, partial(learn_share, [[0, 1], [2, 3]], 10_000)):
        first.learn(10_000, callback=lambda *_: first.num_timesteps < 60)
    assert first.num_timesteps == 60


def fail_at_start(rank):
    raise ValueError(f"replica {rank} has no environment")


def die_at_start(rank):
    os.kill(os.getpid(), signal.SIGKILL)


class _FailLater:
    def __call__(self):
        replicas.agree(True)
        raise FloatingPointError("environment 3: reward is not finite")


class _Die:
    def __call__(self):
        replicas.agree(True)
        os.kill(os.getpid(), signal.SIGKILL)


def fail_later(rank):
    return _FailLater()


def die_later(rank):
    return _Die()


@pytest.mark.parametrize(
    ("prepare", "error", "message"),
    [
        (fail_at_start, ValueError, "replica 1 has no environment"),
        (die_at_start, ReplicaError, "exit code -9"),
        (fail_later, FloatingPointError, "environment 3: reward is not finite"),
        (die_later, ReplicaError, "exit code -9"),
    ],
)
def test_a_replica_that_fails_is_named_and_nothing_hangs(prepare, error, message):
    def go_on():
        with replicated(2, prepare):
            replicas.agree(True)
            replicas.average(torch.ones(1))

    with pytest.raises(error, match=message):
        go_on()
    assert not dist.is_initialized()


def test_an_error_of_the_first_replica_passes_through():
    with pytest.raises(KeyError, match="mine"), replicated(2, partial(learn_share, [[0, 1], [2, 3]], 10_000)):
        raise KeyError("mine")


ENDS = """
import torch
from pathlib import Path
from agents import replicas
with replicas.joined():
    torch.optim.Adam([torch.ones(3, requires_grad=True)])
    replicas.wait_for_all()
print(*[path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are listed by Linux")
def test_nothing_of_a_group_outlives_it():
    """Neither do its threads, whatever was imported meanwhile: at the process's exit they may abort it."""
    group = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "TORCHELASTIC_RUN_ID": "x"}
    done = subprocess.run([sys.executable, "-c", ENDS], env=os.environ | group, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "gloo" not in done.stdout


def test_one_replica_is_this_process():
    with replicated(1, fail_at_start):
        assert replicas.count() == 1
        assert replicas.agree(False) is False


def test_moments_are_those_of_all_replicas():
    torch.manual_seed(0)
    shares = torch.randn(2, 30)
    moments = iter([shares.mean(), (shares - shares.mean()).square().mean()])
    parts = [normalize(shares[0], lambda own: next(moments))]
    torch.testing.assert_close(parts[0], normalize(shares)[0])
