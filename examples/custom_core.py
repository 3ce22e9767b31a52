"""A core of your own: a class with two methods, and a name under which every agent and task knows it.

python examples/custom_core.py             about 15 seconds
python examples/custom_core.py --quick     a moment, in which little is learned
"""

import sys

import torch
from stable_baselines3.common.evaluation import evaluate_policy

from agents import A2C
from rmc_rl import Core, register_core
from rmc_rl.vec_env import make_vec_env

STEPS = 2_000 if "--quick" in sys.argv else 200_000


class LeakyMemory(Core):
    """Every unit sums up what is written to it, and leaks at a rate that it learns."""

    def __init__(self, input_size, units=64):
        super().__init__(input_size, output_size=units)
        self.write = torch.nn.Linear(input_size, units)
        self.leak = torch.nn.Parameter(torch.linspace(-3, 3, units))

    def initial_state(self, batch_size):
        return (self.leak.new_zeros(batch_size, self.output_size),)  # a tuple of tensors, [B, ...] each

    def forward(self, x, state):  # one step: x [B, input_size]
        memory = torch.lerp(state[0], self.write(x), self.leak.sigmoid())
        return memory, (memory,)  # output [B, output_size], next state


register_core("leaky", LeakyMemory)
settings = {"learning_rate": 3e-3, "learning_rate_schedule": "linear", "reward_scale": 0.1}
model = A2C("RecurrentPolicy", "CartPole-v1", 16, policy_kwargs={"core": "leaky"}, seed=0, **settings).learn(STEPS)
score, _ = evaluate_policy(model, make_vec_env("CartPole-v1", 10), n_eval_episodes=50)
print(f"{score:.0f} steps of balance out of 500, over 50 episodes")
