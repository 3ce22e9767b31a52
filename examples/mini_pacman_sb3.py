"""Mini-Pacman is a Gymnasium environment as any other: here with Stable-Baselines3's own PPO.

python examples/mini_pacman_sb3.py             about a minute
python examples/mini_pacman_sb3.py --quick     a moment, in which little is learned
"""

import sys

import gymnasium
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy

STEPS = 2_048 if "--quick" in sys.argv else 50_000

env = gymnasium.make("envs:MiniPacman-v0")
model = PPO("MlpPolicy", env, seed=0, device="cpu")
model.learn(STEPS)
mean, deviation = evaluate_policy(model, model.get_env(), n_eval_episodes=20, deterministic=False)
print(f"score {mean:.0f} +- {deviation:.0f} over 20 games")
