"""What the player sees, painted by compiled functions straight into the observation arrays.

A window as large as the maze shows the whole maze; any other is centred on Pacman. One that wraps is as large as the
maze and centred: what would be beyond an edge of the maze is what lies at the opposite one.
"""

from typing import Any

import numpy as np

from .compilation import compiled
from .game import PILL_POWER
from .maze import COLUMNS, MARGIN, ROWS, WALL_WORDS

EDIBLE = (np.arange(PILL_POWER + 1) / PILL_POWER).astype(np.float32)  # [power]
DANGEROUS = (1 - np.arange(PILL_POWER + 1) / PILL_POWER).astype(np.float32)  # [power]
ALL_COLUMNS = np.uint64(2**COLUMNS - 1)
GHOST_GREEN = np.rint(255 * np.arange(PILL_POWER + 1) / PILL_POWER).astype(np.uint8)  # [power]


@compiled
def corner(game: Any, height: int, width: int, wraps: bool) -> tuple[int, int]:
    """Top row and left column of the window, counted inside the margin."""
    if height == ROWS and width == COLUMNS and not wraps:
        return MARGIN, MARGIN
    return (game.pacman >> 6) - height // 2, (game.pacman & 63) - width // 2


@compiled
def row_at(row: int, wraps: bool) -> int:
    return MARGIN + (row - MARGIN) % ROWS if wraps else row


@compiled
def cells_from(word: Any, left: int, wraps: bool) -> Any:
    """A row's cells from column `left` on, the first in the lowest bit."""
    if not wraps:
        return word >> np.uint64(left)
    cells, turn = word >> np.uint64(MARGIN) & ALL_COLUMNS, np.uint64((left - MARGIN) % COLUMNS)
    return cells >> turn | cells << np.uint64(COLUMNS) - turn


@compiled
def place_of(cell: int, top: int, left: int, wraps: bool) -> tuple[int, int]:
    """Row and column of a cell in the window, or where they would be."""
    row, column = (cell >> 6) - top, (cell & 63) - left
    return (row % ROWS, column % COLUMNS) if wraps else (row, column)


@compiled
def paint(images: Any, index: int, row: int, column: int, red: int, green: int, blue: int) -> None:
    images[index, row, column, 0] = red
    images[index, row, column, 1] = green
    images[index, row, column, 2] = blue


@compiled
def paint_rgb(games: Any, rows: Any, wraps: bool, images: Any) -> None:
    """Paint the given rows, int64 [R], of games [N] into images, uint8 [R, height, width, 3]."""
    height, width = images.shape[1], images.shape[2]
    for index in range(len(rows)):
        game = games[rows[index]]
        top, left = corner(game, height, width, wraps)
        for row in range(height):
            # The lowest bit is the cell to paint.
            source = row_at(top + row, wraps)
            walls = cells_from(WALL_WORDS[source], left, wraps)
            food = cells_from(game.food[source], left, wraps)
            for column in range(width):
                white = 255 * (walls & np.uint64(1))
                paint(images, index, row, column, white, white, white | 255 * (food & np.uint64(1)))
                walls >>= np.uint64(1)
                food >>= np.uint64(1)
        for pill in range(game.num_pills):
            row, column = place_of(game.pills[pill], top, left, wraps)
            if 0 <= row < height and 0 <= column < width:
                paint(images, index, row, column, 0, 255, 255)
        for ghost in range(game.num_ghosts):
            row, column = place_of(game.ghosts[ghost], top, left, wraps)
            if 0 <= row < height and 0 <= column < width:
                paint(images, index, row, column, 255, GHOST_GREEN[game.power], 0)
        row, column = place_of(game.pacman, top, left, wraps)
        paint(images, index, row, column, 0, 255, 0)


@compiled
def paint_planes(games: Any, rows: Any, wraps: bool, images: Any) -> None:
    """Paint the given rows, int64 [R], of games [N] into images, float32 [R, height, width, 6].

    The planes are wall, food, Pacman, ghost, edible ghost and pill.
    """
    height, width = images.shape[1], images.shape[2]
    for index in range(len(rows)):
        game = games[rows[index]]
        top, left = corner(game, height, width, wraps)
        for row in range(height):
            source = row_at(top + row, wraps)
            walls = cells_from(WALL_WORDS[source], left, wraps)
            food = cells_from(game.food[source], left, wraps)
            for column in range(width):
                images[index, row, column, 0] = walls & np.uint64(1)
                images[index, row, column, 1] = food & np.uint64(1)
                images[index, row, column, 2] = 0
                images[index, row, column, 3] = 0
                images[index, row, column, 4] = 0
                images[index, row, column, 5] = 0
                walls >>= np.uint64(1)
                food >>= np.uint64(1)
        row, column = place_of(game.pacman, top, left, wraps)
        images[index, row, column, 2] = 1
        for ghost in range(game.num_ghosts):
            row, column = place_of(game.ghosts[ghost], top, left, wraps)
            if 0 <= row < height and 0 <= column < width:
                images[index, row, column, 3] = DANGEROUS[game.power]
                images[index, row, column, 4] = EDIBLE[game.power]
        for pill in range(game.num_pills):
            row, column = place_of(game.pills[pill], top, left, wraps)
            if 0 <= row < height and 0 <= column < width:
                images[index, row, column, 5] = 1
