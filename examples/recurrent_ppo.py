"""RecurrentPPO of sb3-contrib with a Relational Memory Core, on CartPole without its velocities.

python examples/recurrent_ppo.py             about 30 seconds
python examples/recurrent_ppo.py --quick     a moment, in which little is learned
"""

import sys

import gymnasium
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

import rmc_rl  # noqa: F401  (tells RecurrentPPO of RMCPolicy, LSTMPolicy, GRUPolicy, ...)

STEPS = 2_000 if "--quick" in sys.argv else 100_000
SEEN = [0, 2]  # of position, velocity, angle and angular velocity: how fast things move shows over time only


def still_cartpole():
    env = gymnasium.make("CartPole-v1")
    full = env.observation_space
    space = gymnasium.spaces.Box(full.low[SEEN], full.high[SEEN])
    return gymnasium.wrappers.TransformObservation(env, lambda observation: observation[SEEN], space)


env = VecNormalize(make_vec_env(still_cartpole, n_envs=16), norm_obs=False)  # rewards: values that are easy to learn
model = RecurrentPPO(
    "RMCPolicy",
    env,
    n_steps=64,
    batch_size=512,
    n_epochs=5,
    gamma=0.98,
    learning_rate=lambda left: 2e-3 * left,
    seed=0,
    policy_kwargs={"core_kwargs": {"mem_slots": 2, "head_size": 16, "num_heads": 2}},
)
model.learn(STEPS)
score, _ = evaluate_policy(model, make_vec_env(still_cartpole, n_envs=10), n_eval_episodes=50)
print(f"{score:.0f} steps of balance out of 500, over 50 episodes")
