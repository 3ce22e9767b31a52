"""The five modes of Weber et al. (2017), arXiv 1707.06203: what is rewarded, and what ends a level."""

import numpy as np

MODES = ("regular", "avoid", "hunt", "ambush", "rush")

# What brings a reward: the columns of REWARDS.
STEP, FOOD, PILL, GHOST, DEATH = range(5)
REWARDS = np.array(
    [
        [0.0, 1.0, 2.0, 5.0, 0.0],
        [0.1, -0.1, -5.0, -10.0, -20.0],
        [0.0, 0.0, 1.0, 10.0, -20.0],
        [0.0, -0.1, 0.0, 10.0, -20.0],
        [0.0, -0.1, 10.0, 0.0, 0.0],
    ]
)  # [mode, what]
# Eating the last of these starts the next level.
GOALS = np.array([FOOD, FOOD, GHOST, GHOST, PILL], np.int64)  # [mode]
NO_LIMIT = 2**62
TIME_LIMITS = np.array([NO_LIMIT, 128, NO_LIMIT, NO_LIMIT, NO_LIMIT], np.int64)  # [mode] steps in a level
