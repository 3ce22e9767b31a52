"""The rules of Mini-Pacman and its observations, compiled.

The game of Weber et al. (2017), arXiv 1707.06203, with the viewport of Santoro et al. (2018), arXiv 1806.01822,
section 4.2. `docs/mini_pacman.md` gives the rules in words. Every game draws from a generator of its own, so it depends
on its seed and its actions alone. All compiled functions live in this file, because Numba's cache does not notice a change
in a callee that lives elsewhere.
"""

import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba.core import event

from .game import FIRST_PILLS, MAX_GHOSTS, PILL_POWER
from .maze import (
    COLUMNS,
    DOWN,
    EXITS,
    FREE_CELLS,
    FREE_WORDS,
    LEFT,
    MARGIN,
    PADDED_ROWS,
    REVERSES,
    RIGHT,
    ROWS,
    STEPS,
    UNREAL_LEFT,
    UP,
    WALL_WORDS,
)
from .modes import DEATH, FOOD, GHOST, GOALS, PILL, REWARDS, STEP, TIME_LIMITS

GHOST_RANDOMNESS = 0.05
SAFE_DISTANCE = 5
INITIAL_FACINGS = np.array([RIGHT, UP, UNREAL_LEFT, UNREAL_LEFT + 1], np.int64)
EDIBLE = (np.arange(PILL_POWER + 1) / PILL_POWER).astype(np.float32)  # [power]
DANGEROUS = (1 - np.arange(PILL_POWER + 1) / PILL_POWER).astype(np.float32)  # [power]
GHOST_GREEN = np.rint(255 * np.arange(PILL_POWER + 1) / PILL_POWER).astype(np.uint8)  # [power]

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    return cast(Function, numba.njit(cache=True)(function))


class _CompilationNotice(event.Listener):  # type: ignore[misc]
    """Says once that the rules are being compiled; loading them from the cache says nothing."""

    def on_start(self, event: Any) -> None:
        if event.data["dispatcher"].py_func.__module__ == __name__:
            unregister_notice()
            print("compiling Mini-Pacman's rules ...", file=sys.stderr, flush=True)

    def on_end(self, event: Any) -> None:
        pass


_notice = _CompilationNotice()
event.register("numba:compile", _notice)


def unregister_notice() -> None:
    event.unregister("numba:compile", _notice)


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
def below(game: Any, bound: int) -> int:
    """An unbiased integer in [0, bound), bound < 2**32 (Lemire, 2019)."""
    n = np.uint64(bound)
    while True:
        product = (next_word(game) >> np.uint64(32)) * n
        low = product & np.uint64(0xFFFFFFFF)
        if low >= n or low >= (np.uint64(1 << 32) - n) % n:
            return np.int64(product >> np.uint64(32))


# --- Levels ----------------------------------------------------------------------------------------------------------


@compiled
def free_cell(game: Any) -> int:
    return FREE_CELLS[below(game, len(FREE_CELLS))]


@compiled
def ghost_cell(game: Any) -> int:
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
def corridor_way(exits: int, facing: int) -> int:
    """Keep the facing where it is open; else the first open way that is not its reverse, or the only one."""
    if facing <= DOWN and exits >> facing & 1:
        return facing
    others = exits & ~(1 << REVERSES[facing])
    for way in range(4):
        if others >> way & 1:
            return way
    return REVERSES[facing]


@compiled
def junction_way(game: Any, ghost: int, exits: int) -> int:
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
def play(game: Any, action: int) -> None:
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


# --- Observations ----------------------------------------------------------------------------------------------------


@compiled
def paint_rgb(game: Any, top: int, left: int, image: Any) -> None:
    """Paint the window whose corner is given into `image`, uint8 [height, width, 3]."""
    height, width = image.shape[0], image.shape[1]
    shift = np.uint64(left)
    one = np.uint64(1)
    for row in range(height):
        walls, food = WALL_WORDS[top + row] >> shift, game.food[top + row] >> shift
        for column in range(width):
            wall = 255 * (walls & one)
            image[row, column, 0] = wall
            image[row, column, 1] = wall
            image[row, column, 2] = wall | 255 * (food & one)
            walls >>= one
            food >>= one
    for pill in range(game.num_pills):
        row, column = (game.pills[pill] >> 6) - top, (game.pills[pill] & 63) - left
        if 0 <= row < height and 0 <= column < width:
            paint(image, row, column, 0, 255, 255)
    for ghost in range(game.num_ghosts):
        row, column = (game.ghosts[ghost] >> 6) - top, (game.ghosts[ghost] & 63) - left
        if 0 <= row < height and 0 <= column < width:
            paint(image, row, column, 255, GHOST_GREEN[game.power], 0)
    paint(image, (game.pacman >> 6) - top, (game.pacman & 63) - left, 0, 255, 0)


@compiled
def paint(image: Any, row: int, column: int, red: int, green: int, blue: int) -> None:
    image[row, column, 0] = red
    image[row, column, 1] = green
    image[row, column, 2] = blue


@compiled
def paint_planes(game: Any, top: int, left: int, planes: Any) -> None:
    """Paint the window whose corner is given into `planes`, float32 [height, width, 6]."""
    height, width = planes.shape[0], planes.shape[1]
    shift = np.uint64(left)
    one = np.uint64(1)
    for row in range(height):
        walls, food = WALL_WORDS[top + row] >> shift, game.food[top + row] >> shift
        for column in range(width):
            planes[row, column, 0] = walls & one
            planes[row, column, 1] = food & one
            for plane in range(2, 6):
                planes[row, column, plane] = 0
            walls >>= one
            food >>= one
    planes[(game.pacman >> 6) - top, (game.pacman & 63) - left, 2] = 1
    for ghost in range(game.num_ghosts):
        row, column = (game.ghosts[ghost] >> 6) - top, (game.ghosts[ghost] & 63) - left
        if 0 <= row < height and 0 <= column < width:
            planes[row, column, 3] = DANGEROUS[game.power]
            planes[row, column, 4] = EDIBLE[game.power]
    for pill in range(game.num_pills):
        row, column = (game.pills[pill] >> 6) - top, (game.pills[pill] & 63) - left
        if 0 <= row < height and 0 <= column < width:
            planes[row, column, 5] = 1


@compiled
def observe(game: Any, image: Any) -> None:
    """Write the observation into `image`: the whole maze where it has the maze's size, else a square around Pacman."""
    height, width, channels = image.shape
    if height == ROWS and width == COLUMNS:
        top, left = MARGIN, MARGIN
    else:
        top, left = (game.pacman >> 6) - height // 2, (game.pacman & 63) - width // 2
    if channels == 3:
        paint_rgb(game, top, left, image)
    else:
        paint_planes(game, top, left, image)


@compiled
def report(game: Any, info: Any) -> None:
    info.level = game.level
    info.score = game.score
    info.power = game.power
    info.food_left = game.food_left


# --- Many games ------------------------------------------------------------------------------------------------------


@compiled
def start(games: Any, rows: Any) -> None:
    """Start a new episode in the given rows, int64 [any]."""
    for row in rows:
        start_episode(games[row])


@compiled
def observe_all(games: Any, observations: Any, infos: Any) -> None:
    """Write `observations` [N, height, width, channels] and `infos` [N] of games [N]."""
    for row in range(len(games)):
        observe(games[row], observations[row])
        report(games[row], infos[row])


@compiled
def step(
    games: Any,
    actions: Any,
    autoreset: bool,
    observations: Any,
    rewards: Any,
    terminated: Any,
    truncated: Any,
    infos: Any,
    final_rows: Any,
    final_observations: Any,
    final_infos: Any,
) -> int:
    """Play one step of games [N] with actions int64 [N] in 0..4, and write what they return, each [N, ...].

    With `autoreset`, a game that ends starts anew at once, and how many did is returned: the first so many `final_...`
    hold their rows and what they ended with.
    """
    ended = 0
    for row in range(len(games)):
        game = games[row]
        play(game, actions[row])
        rewards[row] = game.reward
        terminated[row] = game.dead
        truncated[row] = not game.dead and 0 < game.frame_cap <= game.frame
        if autoreset and (terminated[row] or truncated[row]):
            final_rows[ended] = row
            observe(game, final_observations[ended])
            report(game, final_infos[ended])
            start_episode(game)
            ended += 1
        observe(game, observations[row])
        report(game, infos[row])
    return ended
