"""CartPole without its velocities: an agent without memory fails, one with a Relational Memory Core balances the pole.

python examples/memory_needed.py             about half a minute
python examples/memory_needed.py --quick     a moment, in which little is learned
"""

import sys

import gymnasium
from stable_baselines3.common.evaluation import evaluate_policy

from agents import A2C
from rmc_rl.vec_env import make_vec_env

STEPS = 2_000 if "--quick" in sys.argv else 150_000
SEEN = [0, 2]  # of position, velocity, angle and angular velocity: how fast things move shows over time only


def still_cartpole():
    env = gymnasium.make("CartPole-v1")
    full = env.observation_space
    space = gymnasium.spaces.Box(full.low[SEEN], full.high[SEEN])
    return gymnasium.wrappers.TransformObservation(env, lambda observation: observation[SEEN], space)


cores = {"FeedForwardPolicy": {}, "RMCPolicy": {"mem_slots": 2, "head_size": 16, "num_heads": 2}}
for policy, core_kwargs in cores.items():
    model = A2C(
        policy,
        still_cartpole,
        n_envs=16,
        seed=0,
        policy_kwargs={"core_kwargs": core_kwargs, "embedding_size": 32},
        unroll_length=32,
        learning_rate=3e-3,
        learning_rate_schedule="linear",
        reward_scale=0.1,
    )
    model.learn(STEPS)
    mean, deviation = evaluate_policy(model, make_vec_env(still_cartpole, 10), n_eval_episodes=50)
    print(f"{policy}: {mean:.0f} +- {deviation:.0f} of at most 500 steps, over 50 episodes", flush=True)
