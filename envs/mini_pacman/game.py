"""One game as one record, so that many games are one array."""

import numpy as np

from .maze import PADDED_ROWS

PILL_POWER = 20  # steps that a power pill lasts
FIRST_PILLS = 2  # power pills at the start of a level
MAX_PILLS = 16  # room for positions set up by hand
MAX_GHOSTS = 256  # as many as are due at level 511, and more than the maze has cells

GAME = np.dtype(
    [
        ("generator", np.uint64, 4),
        ("score", np.float64),
        ("reward", np.float64),  # of the latest step
        ("mode", np.int64),  # index into MODES
        ("frame_cap", np.int64),  # 0: none
        ("frame", np.int64),
        ("timer", np.int64),  # steps in this level
        ("level", np.int64),
        ("food_left", np.int64),
        ("power", np.int64),
        ("num_pills", np.int64),
        ("num_ghosts", np.int64),
        ("pacman", np.int16),  # a cell, as below
        ("heading", np.int8),  # Pacman's last way, for drawing only
        ("dead", np.bool_),
        ("pills", np.int16, MAX_PILLS),
        ("food", np.uint64, PADDED_ROWS),
        ("ghosts", np.int16, MAX_GHOSTS),
        ("facings", np.int8, MAX_GHOSTS),
    ],
    align=True,
)

INFO = np.dtype([("level", np.int64), ("score", np.float64), ("power", np.int64), ("food_left", np.int64)])
INFO_KEYS = ("level", "score", "power", "food_left")
