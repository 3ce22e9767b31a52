"""The rules of Mini-Pacman, compiled.

The game of Weber et al. (2017), arXiv 1707.06203; `docs/mini_pacman.md` gives its rules in words. Every game draws from
a generator of its own, so that it depends on its seed and its actions alone.
"""

from typing import Any

import numpy as np

from .compilation import compiled
from .game import FIRST_PILLS, MAX_GHOSTS, PILL_POWER
from .maze import (
    DOWN,
    EXITS,
    FREE_CELLS,
    FREE_WORDS,
    PADDED_ROWS,
    REVERSES,
    RIGHT,
    STEPS,
    UNREAL_DOWN,
    UNREAL_LEFT,
    UP,
)
from .modes import DEATH, FOOD, GHOST, GOALS, PILL, REWARDS, STEP, TIME_LIMITS

GHOST_RANDOMNESS = 0.05
SAFE_DISTANCE = 5
INITIAL_FACINGS = np.array([RIGHT, UP, UNREAL_LEFT, UNREAL_DOWN], np.int64)


# --- Randomness ------------------------------------------------------------------------------------------------------


@compiled
def rotate_left(word: Any, bits: int) -> Any:
    return (word << np.uint64(bits)) | (word >> np.uint64(64 - bits))


@compiled
def next_word(game: Any) -> Any:
    """64 random bits: xoshiro256++ (Blackman and Vigna, 2019)."""
    state = game.generator  # [4]
    word = rotate_left(state[0] + state[3], 23) + state[0]
    shifted = state[1] << np.uint64(17)
    state[2] ^= state[0]
    state[3] ^= state[1]
    state[1] ^= state[2]
    state[0] ^= state[3]
    state[2] ^= shifted
    state[3] = rotate_left(state[3], 45)
    return word


@compiled
def uniform(game: Any) -> float:
    """A number in [0, 1)."""
    return np.float64(next_word(game) >> np.uint64(11)) * 2.0**-53


@compiled
def below(game: Any, bound: int) -> Any:
    """An unbiased integer in [0, bound), bound < 2**32 (Lemire, 2019)."""
    n = np.uint64(bound)
    while True:
        product = (next_word(game) >> np.uint64(32)) * n
        low = product & np.uint64(0xFFFFFFFF)
        if low >= n or low >= (np.uint64(1 << 32) - n) % n:
            return np.int64(product >> np.uint64(32))


# --- Levels ----------------------------------------------------------------------------------------------------------


@compiled
def free_cell(game: Any) -> Any:
    return FREE_CELLS[below(game, len(FREE_CELLS))]


@compiled
def ghost_cell(game: Any) -> Any:
    """A free cell outside the half-open block of ten by ten around Pacman."""
    row, column = game.pacman >> 6, game.pacman & 63
    while True:
        cell = free_cell(game)
        down, right = (cell >> 6) - row, (cell & 63) - column
        if not (-SAFE_DISTANCE <= down < SAFE_DISTANCE and -SAFE_DISTANCE <= right < SAFE_DISTANCE):
            return cell


@compiled
def start_level(game: Any, level: int) -> None:
    game.level = level
    game.timer = 0
    game.power = 0
    for row in range(PADDED_ROWS):
        game.food[row] = FREE_WORDS[row]
    game.food_left = len(FREE_CELLS)
    game.num_pills = FIRST_PILLS
    for pill in range(FIRST_PILLS):
        game.pills[pill] = free_cell(game)
    game.pacman = free_cell(game)
    game.num_ghosts = min(1 + (level - 1) // 2, MAX_GHOSTS)
    for ghost in range(game.num_ghosts):
        game.ghosts[ghost] = ghost_cell(game)
        game.facings[ghost] = INITIAL_FACINGS[below(game, 4)]


@compiled
def start_episode(game: Any) -> None:
    game.frame = 0
    game.score = 0.0
    game.heading = RIGHT
    start_level(game, 1)


# --- One step --------------------------------------------------------------------------------------------------------


@compiled
def reward(game: Any, what: int, left: int) -> None:
    """Pay for one thing eaten, of which `left` are left; the last of the mode's goal starts the next level."""
    game.reward += REWARDS[game.mode, what]
    if left == 0 and GOALS[game.mode] == what:
        start_level(game, game.level + 1)


@compiled
def move_pacman(game: Any, action: int) -> None:
    if action > 0:
        game.heading = action - 1
        if EXITS[game.pacman] >> (action - 1) & 1:
            game.pacman += STEPS[action - 1]


@compiled
def eat_food(game: Any) -> None:
    row, bit = game.pacman >> 6, np.uint64(1) << np.uint64(game.pacman & 63)
    if game.food[row] & bit:
        game.food[row] ^= bit
        game.food_left -= 1
        reward(game, FOOD, game.food_left)


@compiled
def take_pill(game: Any) -> None:
    """Take at most one pill; the others keep their order."""
    for pill in range(game.num_pills):
        if game.pills[pill] == game.pacman:
            game.num_pills -= 1
            for later in range(pill, game.num_pills):
                game.pills[later] = game.pills[later + 1]
            game.power = PILL_POWER
            reward(game, PILL, game.num_pills)
            return


@compiled
def eat_ghost(game: Any, ghost: int) -> None:
    game.num_ghosts -= 1
    for later in range(ghost, game.num_ghosts):
        game.ghosts[later] = game.ghosts[later + 1]
        game.facings[later] = game.facings[later + 1]
    reward(game, GHOST, game.num_ghosts)


@compiled
def corridor_way(exits: int, facing: int) -> Any:
    """Keep the facing where it is open; else the first open way that is not its reverse, or the only one."""
    if facing <= DOWN and exits >> facing & 1:
        return facing
    others = exits & ~(1 << REVERSES[facing])
    for way in range(4):
        if others >> way & 1:
            return way
    return REVERSES[facing]


@compiled
def junction_way(game: Any, ghost: int, exits: int) -> Any:
    """Chase Pacman, at times at random; with power, flee. Never turn back."""
    cell, facing = game.ghosts[ghost], game.facings[ghost]
    down, right = (game.pacman >> 6) - (cell >> 6), (game.pacman & 63) - (cell & 63)
    if down == 0 and right == 0:
        return facing
    others = exits & ~(1 << REVERSES[facing])
    if game.power == 0 and uniform(game) < GHOST_RANDOMNESS:
        return random_way(game, others)
    best, best_score = 0, -1000
    for way in range(4):
        if others >> way & 1:
            # Pacman's distance along the way: the dot product, but for a positive factor that all ways share.
            score = (right, -down, -right, down)[way]
            if game.power > 0:
                score = -score
            if score > best_score:
                best, best_score = way, score
    return best


@compiled
def random_way(game: Any, ways: int) -> int:
    """One of the ways whose bits are set, each as likely."""
    count = (ways & 1) + (ways >> 1 & 1) + (ways >> 2 & 1) + (ways >> 3 & 1)
    skip = below(game, count)
    way = 0
    while True:
        if ways >> way & 1:
            if skip == 0:
                return way
            skip -= 1
        way += 1


@compiled
def move_ghost(game: Any, ghost: int) -> None:
    cell = game.ghosts[ghost]
    exits = EXITS[cell]
    if exits & (exits - 1) & ((exits & (exits - 1)) - 1):  # three or more
        way = junction_way(game, ghost, exits)
    else:
        way = corridor_way(exits, game.facings[ghost])
    game.facings[ghost] = way
    # A ghost that keeps an unreal facing (it shares Pacman's cell) moves down if it is left-like, and else stays.
    if way == UNREAL_LEFT:
        way = DOWN
    if way <= DOWN and exits >> way & 1:
        game.ghosts[ghost] = cell + STEPS[way]


@compiled
def collide(game: Any, ghost: int) -> bool:
    """Whether the ghost is eaten. Without power, Pacman dies instead if they share a cell."""
    if game.ghosts[ghost] != game.pacman:
        return False
    if game.power == 0:
        game.reward += REWARDS[game.mode, DEATH]
        game.dead = True
        return False
    eat_ghost(game, ghost)
    return True


@compiled
def act_ghosts(game: Any) -> None:
    """Ghosts act in order, until one is eaten."""
    speed = 0.5 + 0.1 * (game.level - 1)
    if game.power > 0:
        speed /= 2
    for ghost in range(game.num_ghosts):
        if collide(game, ghost):
            return
        if uniform(game) < speed:
            move_ghost(game, ghost)
            if collide(game, ghost):
                return


@compiled
def advance(game: Any, action: int) -> None:
    """One step of one game."""
    game.frame += 1
    game.timer += 1
    game.reward = REWARDS[game.mode, STEP]
    game.dead = False
    if game.power > 0:
        game.power -= 1
    move_pacman(game, action)
    eat_food(game)
    take_pill(game)
    act_ghosts(game)
    if game.timer >= TIME_LIMITS[game.mode]:
        start_level(game, game.level + 1)
    game.score += game.reward


# --- Many games ------------------------------------------------------------------------------------------------------


@compiled
def start(games: Any, rows: Any) -> None:
    """Start a new episode in the given rows, int64 [any], of games [N]."""
    for row in rows:
        start_episode(games[row])


@compiled
def play(games: Any, actions: Any, rewards: Any, terminated: Any, truncated: Any, ended: Any) -> int:
    """Play one step of games [N] with actions int64 [N] in 0..4, and write rewards, terminated and truncated, each [N].

    Returns how many games ended; the first so many of `ended`, int64 [N], are their rows.
    """
    count = 0
    for row in range(len(games)):
        game = games[row]
        advance(game, actions[row])
        rewards[row] = game.reward
        terminated[row] = game.dead
        truncated[row] = not game.dead and 0 < game.frame_cap <= game.frame
        if terminated[row] or truncated[row]:
            ended[count] = row
            count += 1
    return count


@compiled
def report(games: Any, rows: Any, infos: Any) -> None:
    """Write what there is to know about the given rows, int64 [any], of games [N] into infos [N] of INFO."""
    for row in rows:
        game, info = games[row], infos[row]
        info.level = game.level
        info.score = game.score
        info.power = game.power
        info.food_left = game.food_left
