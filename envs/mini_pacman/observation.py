"""What the player sees, painted by compiled functions straight into the observation arrays.

A window as large as the maze shows the whole maze; any other is centred on Pacman.
"""

from typing import Any

import numpy as np

from .compilation import compiled
from .game import PILL_POWER
from .maze import COLUMNS, MARGIN, ROWS, WALL_WORDS

EDIBLE = (np.arange(PILL_POWER + 1) / PILL_POWER).astype(np.float32)  # [power]
DANGEROUS = (1 - np.arange(PILL_POWER + 1) / PILL_POWER).astype(np.float32)  # [power]
GHOST_GREEN = np.rint(255 * np.arange(PILL_POWER + 1) / PILL_POWER).astype(np.uint8)  # [power]


@compiled
def corner(game: Any, height: int, width: int) -> tuple[int, int]:
    """Top row and left column of the window, counted inside the margin."""
    if height == ROWS and width == COLUMNS:
        return MARGIN, MARGIN
    return (game.pacman >> 6) - height // 2, (game.pacman & 63) - width // 2


@compiled
def paint(images: Any, index: int, row: int, column: int, red: int, green: int, blue: int) -> None:
    images[index, row, column, 0] = red
    images[index, row, column, 1] = green
    images[index, row, column, 2] = blue


@compiled
def paint_rgb(games: Any, rows: Any, images: Any) -> None:
    """Paint the given rows, int64 [R], of games [N] into images, uint8 [R, height, width, 3]."""
    height, width = images.shape[1], images.shape[2]
    for index in range(len(rows)):
        game = games[rows[index]]
        top, left = corner(game, height, width)
        for row in range(height):
            # The lowest bit is the cell to paint.
            walls = WALL_WORDS[top + row] >> np.uint64(left)
            food = game.food[top + row] >> np.uint64(left)
            for column in range(width):
                white = 255 * (walls & np.uint64(1))
                paint(images, index, row, column, white, white, white | 255 * (food & np.uint64(1)))
                walls >>= np.uint64(1)
                food >>= np.uint64(1)
        for pill in range(game.num_pills):
            row, column = (game.pills[pill] >> 6) - top, (game.pills[pill] & 63) - left
            if 0 <= row < height and 0 <= column < width:
                paint(images, index, row, column, 0, 255, 255)
        for ghost in range(game.num_ghosts):
            row, column = (game.ghosts[ghost] >> 6) - top, (game.ghosts[ghost] & 63) - left
            if 0 <= row < height and 0 <= column < width:
                paint(images, index, row, column, 255, GHOST_GREEN[game.power], 0)
        paint(images, index, (game.pacman >> 6) - top, (game.pacman & 63) - left, 0, 255, 0)


@compiled
def paint_planes(games: Any, rows: Any, images: Any) -> None:
    """Paint the given rows, int64 [R], of games [N] into images, float32 [R, height, width, 6].

    The planes are wall, food, Pacman, ghost, edible ghost and pill.
    """
    height, width = images.shape[1], images.shape[2]
    for index in range(len(rows)):
        game = games[rows[index]]
        top, left = corner(game, height, width)
        for row in range(height):
            walls = WALL_WORDS[top + row] >> np.uint64(left)
            food = game.food[top + row] >> np.uint64(left)
            for column in range(width):
                images[index, row, column, 0] = walls & np.uint64(1)
                images[index, row, column, 1] = food & np.uint64(1)
                images[index, row, column, 2] = 0
                images[index, row, column, 3] = 0
                images[index, row, column, 4] = 0
                images[index, row, column, 5] = 0
                walls >>= np.uint64(1)
                food >>= np.uint64(1)
        images[index, (game.pacman >> 6) - top, (game.pacman & 63) - left, 2] = 1
        for ghost in range(game.num_ghosts):
            row, column = (game.ghosts[ghost] >> 6) - top, (game.ghosts[ghost] & 63) - left
            if 0 <= row < height and 0 <= column < width:
                images[index, row, column, 3] = DANGEROUS[game.power]
                images[index, row, column, 4] = EDIBLE[game.power]
        for pill in range(game.num_pills):
            row, column = (game.pills[pill] >> 6) - top, (game.pills[pill] & 63) - left
            if 0 <= row < height and 0 <= column < width:
                images[index, row, column, 5] = 1
