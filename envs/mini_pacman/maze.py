"""The maze, and how its cells are numbered.

The maze is stored inside a margin wide enough for the largest viewport, one 64-bit word a row. A cell is the number of
its bit, `64 * (row + MARGIN) + column + MARGIN`: a step down adds 64, a step right adds 1, a set of cells (walls, food)
is a few words, and a window anywhere around Pacman is read by shifting words, without a test for the border.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

MAZE = """\
###################
#   #         #   #
# # # ####### # # #
#                 #
# # # ####### # # #
# #             # #
# #### ##### #### #
#      #####      #
# #### ##### #### #
# #             # #
# # # ####### # # #
#                 #
# # # ####### # # #
#   #         #   #
###################"""

ROWS, COLUMNS = 15, 19
MAX_VIEWPORT = 37  # twice the maze's width, less one: no larger window shows anything more
MARGIN = MAX_VIEWPORT // 2
PADDED_ROWS = ROWS + 2 * MARGIN

# Ways to face. A new ghost may face an unreal way, which is no move, but has the reverse of the way that it is like.
RIGHT, UP, LEFT, DOWN, UNREAL_LEFT, UNREAL_DOWN = range(6)
STEPS = np.array([1, -64, -1, 64], np.int64)  # [way] what a move adds to a cell
REVERSES = np.array([LEFT, DOWN, RIGHT, UP, RIGHT, UP], np.int64)  # [way]


def cell_of(row: Any, column: Any) -> Any:
    """The cell at a maze position; works on integers and arrays."""
    return (row + MARGIN) * 64 + column + MARGIN


def position_of(cell: Any) -> tuple[Any, Any]:
    """The maze row and column of a cell; works on integers and arrays."""
    return cell // 64 - MARGIN, cell % 64 - MARGIN


def pack(cells: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
    """A set of maze cells, bool [15, 19], as padded words, uint64 [51]."""
    words = np.zeros(PADDED_ROWS, np.uint64)
    bits = np.uint64(1) << np.arange(MARGIN, MARGIN + COLUMNS, dtype=np.uint64)  # [19]
    words[MARGIN : MARGIN + ROWS] = np.where(cells, bits, np.uint64(0)).sum(axis=1)
    return words


def unpack(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """The inverse of `pack`."""
    columns = np.arange(MARGIN, MARGIN + COLUMNS, dtype=np.uint64)  # [19]
    return (words[MARGIN : MARGIN + ROWS, None] >> columns & np.uint64(1)).astype(bool)


FREE = np.array([[glyph != "#" for glyph in line] for line in MAZE.splitlines()])  # [15, 19]
FREE_CELLS = np.array([cell_of(row, column) for row, column in np.argwhere(FREE)], np.int64)  # [free cells]
FREE_WORDS = pack(FREE)  # [51]
WALL_WORDS = ~FREE_WORDS  # [51], everything outside the maze included


def _exits() -> npt.NDArray[np.uint8]:
    exits = np.zeros(64 * PADDED_ROWS, np.uint8)
    free = set(FREE_CELLS.tolist())
    for cell in free:
        exits[cell] = sum(1 << way for way, step in enumerate(STEPS.tolist()) if cell + step in free)
    return exits


EXITS = _exits()  # [cell] bit `way` is set where the move is open
