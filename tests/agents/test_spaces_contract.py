"""Every kind of observation with every kind of action, with and without masks: learn, predict, save, load, go on."""

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agents import A2C, IMPALA, Placement
from agents.actor_critic import ActorCritic
from rmc_rl.masks import ActionMaskError
from rmc_rl.vec_env import make_vec_env
from tests.space_envs import ACTIONS, OBSERVATIONS, Anything, Masked

N_ENVS, UNROLL = 3, 4
UPDATE = N_ENVS * UNROLL
SMALL: dict[str, Any] = {"core_kwargs": {"hidden_size": 7}, "embedding_size": 6}


CASES = [
    pytest.param(
        algorithm, env, observations, actions, id=f"{algorithm.__name__}-{env.__name__}-{observations}-{actions}"
    )
    for algorithm, env in ((A2C, Anything), (IMPALA, Masked))
    for observations in OBSERVATIONS
    for actions in ACTIONS
    if not (env is Masked and actions == "Box")
]


@pytest.mark.parametrize(("algorithm", "env_class", "observations", "actions"), CASES)
def test_learn_predict_save_load(
    algorithm: type[ActorCritic], env_class: type[Anything], observations: str, actions: str, tmp_path: Path
) -> None:
    """The environment itself complains of illegal actions, in training and in evaluation."""
    env = partial(env_class, observations, actions)
    arguments: dict[str, Any] = {"batch_size": N_ENVS} if algorithm is IMPALA else {}
    model = algorithm("GRUPolicy", env, N_ENVS, policy_kwargs=SMALL, unroll_length=UNROLL, seed=0, **arguments)
    model.learn(3 * UPDATE)
    assert model._n_updates == 3
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env)
    assert (loaded.observation_space, loaded.action_space) == (model.observation_space, model.action_space)

    test_env = make_vec_env(env, 2)
    test_env.seed(5)
    observation: Any = test_env.reset()
    for deterministic in (True, False):
        evaluate_policy(loaded, test_env, n_eval_episodes=3, deterministic=deterministic)
    expected, (state,) = model.predict(observation, deterministic=True)
    actual, (loaded_state,) = loaded.predict(observation, deterministic=True)
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(loaded_state, state)
    assert actual.dtype == model.action_space.dtype
    one = {key: part[0] for key, part in observation.items()} if isinstance(observation, dict) else observation[0]
    np.testing.assert_allclose(model.predict(one, deterministic=True)[0], expected[0], atol=1e-6)

    assert loaded.learn(UPDATE, reset_num_timesteps=False).num_timesteps == 4 * UPDATE


def test_masks_and_dicts_travel_between_processes() -> None:
    """The environments, in other processes, complain of illegal actions, and no actor may fail."""
    env = partial(Masked, "Dict", "MultiDiscrete")
    placement = Placement(kind="local", actors=2, max_restarts=0)
    model = IMPALA(
        "GRUPolicy", env, 2, policy_kwargs=SMALL, unroll_length=UNROLL, batch_size=2, placement=placement, seed=0
    )
    model.learn(20 * 2 * UNROLL)
    assert model._n_updates == 20


class BoxMask(gym.Env[Any, Any]):
    """A mask that is a Box of floats, which a VecNormalize normalises unless it is told not to."""

    observation_space = spaces.Dict({"action_mask": spaces.Box(0, 1, (3,)), "speed": spaces.Box(-1, 1, (2,))})
    action_space = spaces.MultiDiscrete([3], np.int32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.mask[action[0]]
        assert action.dtype == np.int32
        return self._observe(), 0.0, bool(self.np_random.random() < 0.3), False, {}

    def _observe(self) -> dict[str, Any]:
        self.mask = self.np_random.permutation(np.array([0, 1, 1], np.float32))
        return {"action_mask": self.mask, "speed": self.np_random.random(2, np.float32)}


def test_a_mask_that_is_normalised_is_an_error() -> None:
    """It would allow everything; left alone, it is a mask, and no action goes against it."""

    def model(**kwargs: Any) -> A2C:
        env = VecNormalize(DummyVecEnv([BoxMask] * N_ENVS), **kwargs)
        return A2C("GRUPolicy", env, policy_kwargs=SMALL, unroll_length=UNROLL, seed=0)

    with pytest.raises(ActionMaskError, match=r"action_mask must hold 0 and 1 alone, got .*norm_obs_keys"):
        model().learn(3 * UPDATE)
    model(norm_obs_keys=["speed"]).learn(3 * UPDATE)


def test_a_model_goes_on_with_the_environment_of_its_dtype(tmp_path: Path) -> None:
    model = A2C("GRUPolicy", BoxMask, N_ENVS, policy_kwargs=SMALL, unroll_length=UNROLL, seed=0)
    model.save(tmp_path / "model")
    A2C.load(tmp_path / "model", BoxMask).learn(UPDATE)
