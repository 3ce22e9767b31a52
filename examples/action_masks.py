"""Actions that are legal at times only: the environment says which, and the agent takes no other.

python examples/action_masks.py             about 10 seconds
python examples/action_masks.py --quick     a moment, in which little is learned
"""

import sys

import gymnasium
import numpy as np
from stable_baselines3.common.evaluation import evaluate_policy

from agents import A2C
from rmc_rl.vec_env import make_vec_env

STEPS = 2_000 if "--quick" in sys.argv else 60_000
CARDS = 3


class InOrder(gymnasium.Env):
    """Cards are shown one by one, then laid down by the player, who gets a point for each that comes in its turn."""

    observation_space = gymnasium.spaces.Discrete(CARDS + 1)  # the card that is shown; CARDS: none is
    action_space = gymnasium.spaces.Discrete(CARDS + 1)  # lay down a card; CARDS: wait

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.order, self.time = self.np_random.permutation(CARDS), 0
        self.in_hand = np.ones(CARDS, dtype=bool)
        return int(self.order[0]), {}

    def action_masks(self):
        """As for sb3-contrib's MaskablePPO: wait while cards are shown, then lay down what is still in hand."""
        showing = self.time < CARDS
        return np.append(self.in_hand & (not showing), showing)

    def step(self, action):
        if not self.action_masks()[action]:
            raise ValueError(f"action {action} is not legal now")
        turn = self.time - CARDS  # negative while cards are shown
        if turn >= 0:
            self.in_hand[action] = False
        self.time += 1
        shown = int(self.order[self.time]) if self.time < CARDS else CARDS
        return shown, float(turn >= 0 and action == self.order[turn]), turn == CARDS - 1, False, {}


# The method action_masks() is found by itself; masks in an info are observed with rmc_rl.wrappers.ActionMasks.
core = {"mem_slots": 4, "head_size": 8, "num_heads": 2}
model = A2C("RMCPolicy", InOrder, n_envs=16, seed=0, learning_rate=3e-3, policy_kwargs={"core_kwargs": core})
model.learn(STEPS)
score, _ = evaluate_policy(model, make_vec_env(InOrder, 10), n_eval_episodes=200)
print(f"{score:.2f} of {CARDS} cards in their turn, over 200 episodes; at random it would be 1.00")
