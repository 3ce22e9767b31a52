"""Drawing with Pygame: a frame is a pure function of a game's record and the viewport.

Only `Window` needs a display. Sprites are drawn large once, scaled down smoothly, and kept.
"""

from functools import cache
from typing import Any, ClassVar

import gymnasium
import numpy as np
import numpy.typing as npt
import pygame

from .batch import Viewport
from .game import PILL_POWER
from .maze import COLUMNS, DOWN, FREE, LEFT, ROWS, UNREAL_LEFT, UP, position_of, unpack
from .modes import MODES

Color = tuple[int, int, int]

TILE = 32  # pixels; the frame's sides are multiples of 16, as video codecs like them
HEADER = 48
FRAME_SIZE = (COLUMNS * TILE, ROWS * TILE + HEADER)
SMOOTHING = 4  # shapes are drawn so many times larger, then scaled down

BACKGROUND = (8, 9, 24)
WALL_FILL = (18, 22, 62)
WALL_EDGE = (74, 105, 255)
FOOD = (255, 205, 178)
PILL = (255, 236, 214)
PACMAN = (255, 214, 10)
GHOSTS = ((255, 71, 87), (255, 159, 243), (34, 211, 238), (255, 159, 67))
SCARED = (48, 76, 255)
WHITE = (240, 242, 255)
MUTED = (138, 144, 190)
DIMMED = 100  # of 255: how bright the maze is where the viewport does not reach
FLICKER_BELOW = 7  # steps of power


def draw(game: Any, viewport: Viewport) -> npt.NDArray[np.uint8]:
    """The picture of a game, uint8 [528, 608, 3]; what the viewport hides is dimmed."""
    board = _board(game)
    if isinstance(viewport, int):
        board = _dim_outside(board, _window_rect(game, viewport))
    picture = pygame.Surface(FRAME_SIZE, depth=32)
    picture.fill(BACKGROUND)
    _draw_header(picture, game)
    picture.blit(board, (0, HEADER))
    pixels = np.frombuffer(pygame.image.tobytes(picture, "RGB"), np.uint8)
    return pixels.reshape(FRAME_SIZE[1], FRAME_SIZE[0], 3).copy()


class Window:
    """A window that shows frames, no faster than `fps`. Pygame has one display: windows of several games are one."""

    _num_open: ClassVar[int] = 0

    def __init__(self, fps: int) -> None:
        try:
            pygame.display.init()
            self._screen = pygame.display.set_mode(FRAME_SIZE)
        except pygame.error as error:
            raise gymnasium.error.Error(
                f"render_mode='human' needs a display ({error}); use render_mode='rgb_array'"
            ) from None
        pygame.display.set_caption("Mini-Pacman")
        self._clock = pygame.time.Clock()
        self._fps = fps
        Window._num_open += 1

    def show(self, pixels: npt.NDArray[np.uint8]) -> None:
        pygame.event.pump()  # keeps the window alive, and leaves its events to whoever wants them
        pygame.surfarray.blit_array(self._screen, pixels.swapaxes(0, 1))
        pygame.display.flip()
        self._clock.tick(self._fps)

    def close(self) -> None:
        Window._num_open -= 1
        if Window._num_open == 0:
            pygame.display.quit()


# --- The board -------------------------------------------------------------------------------------------------------


def _board(game: Any) -> pygame.Surface:
    board = _maze().copy()
    for row, column in np.argwhere(unpack(game["food"])).tolist():
        board.blit(_disc(FOOD, 0.1), (column * TILE, row * TILE))
    pulse = 0.26 if game["frame"] % 2 else 0.22
    for cell in game["pills"][: game["num_pills"]]:
        board.blit(_disc(PILL, pulse), _corner(cell))
    board.blit(_pacman(int(game["heading"]), bool(game["frame"] % 2)), _corner(game["pacman"]))
    for index in range(game["num_ghosts"]):
        board.blit(_ghost(_ghost_color(game, index), _gaze(game, index)), _corner(game["ghosts"][index]))
    return board


def _corner(cell: Any) -> tuple[int, int]:
    row, column = position_of(int(cell))
    return column * TILE, row * TILE


def _ghost_color(game: Any, index: int) -> Color:
    power = int(game["power"])
    if power == 0:
        return GHOSTS[index % len(GHOSTS)]
    return WHITE if power < FLICKER_BELOW and power % 2 else SCARED


def _gaze(game: Any, index: int) -> tuple[int, int]:
    """Where a ghost looks, (right, down): its way, or straight ahead while its facing is unreal."""
    facing = int(game["facings"][index])
    return (0, 0) if facing >= UNREAL_LEFT else _direction(facing)


def _direction(way: int) -> tuple[int, int]:
    return ((1, 0), (0, -1), (-1, 0), (0, 1))[way]


def _window_rect(game: Any, viewport: int) -> tuple[int, int, int, int]:
    """Left, top, width and height of the viewport on the board, in pixels."""
    left, top = _corner(game["pacman"])
    half = viewport // 2 * TILE
    return left - half, top - half, viewport * TILE, viewport * TILE


def _dim_outside(board: pygame.Surface, window: tuple[int, int, int, int]) -> pygame.Surface:
    dimmed = board.copy()
    dimmed.fill((DIMMED, DIMMED, DIMMED), special_flags=pygame.BLEND_RGB_MULT)
    area = pygame.Rect(window)
    dimmed.blit(board, area.topleft, area)
    pygame.draw.rect(dimmed, MUTED, area, width=2, border_radius=6)
    return dimmed


def _draw_header(picture: pygame.Surface, game: Any) -> None:
    middle = HEADER // 2
    score = f"{game['score']:.1f}".removesuffix(".0")
    _write(picture, score, 24, WHITE, midleft=(14, middle))
    _write(picture, f"level {game['level']}", 16, MUTED, center=(FRAME_SIZE[0] // 2, middle))
    _write(picture, MODES[game["mode"]], 16, MUTED, midright=(FRAME_SIZE[0] - 14, middle))
    if game["power"]:
        width = round(FRAME_SIZE[0] * game["power"] / PILL_POWER)
        pygame.draw.rect(picture, SCARED, (0, HEADER - 4, width, 3))


def _write(picture: pygame.Surface, words: str, size: int, color: Color, **place: tuple[int, int]) -> None:
    line = _font(size).render(words, True, color)
    picture.blit(line, line.get_rect(**place))


@cache
def _font(size: int) -> pygame.font.Font:
    pygame.font.init()
    return pygame.font.Font(None, size + 8)


# --- Sprites, drawn large and scaled down ----------------------------------------------------------------------------


def _canvas(color: Color, columns: int = 1, rows: int = 1) -> pygame.Surface:
    """A large transparent surface; its hidden color is the sprite's own, so that scaling leaves no dark fringe."""
    canvas = pygame.Surface((columns * TILE * SMOOTHING, rows * TILE * SMOOTHING), pygame.SRCALPHA)
    canvas.fill((*color, 0))
    return canvas


def _scaled(canvas: pygame.Surface) -> pygame.Surface:
    width, height = canvas.get_size()
    return pygame.transform.smoothscale(canvas, (width // SMOOTHING, height // SMOOTHING))


@cache
def _maze() -> pygame.Surface:
    canvas = _canvas(BACKGROUND, COLUMNS, ROWS)
    _draw_walls(canvas, WALL_EDGE, 0.34)
    _draw_walls(canvas, WALL_FILL, 0.25)
    maze = pygame.Surface((COLUMNS * TILE, ROWS * TILE), depth=32)
    maze.fill(BACKGROUND)
    maze.blit(_scaled(canvas), (0, 0))
    return maze


def _draw_walls(canvas: pygame.Surface, color: Color, thickness: float) -> None:
    """Round strokes of half-width `thickness` (in tiles) between neighboring wall cells, blocks of four filled in."""
    tile = TILE * SMOOTHING
    radius = round(thickness * tile)
    for row, column in np.argwhere(~FREE).tolist():
        x, y = round((column + 0.5) * tile), round((row + 0.5) * tile)
        pygame.draw.circle(canvas, color, (x, y), radius)
        right = column + 1 < COLUMNS and not FREE[row, column + 1]
        down = row + 1 < ROWS and not FREE[row + 1, column]
        if right:
            pygame.draw.rect(canvas, color, (x, y - radius, tile, 2 * radius))
        if down:
            pygame.draw.rect(canvas, color, (x - radius, y, 2 * radius, tile))
        if right and down and not FREE[row + 1, column + 1]:
            pygame.draw.rect(canvas, color, (x, y, tile, tile))


@cache
def _disc(color: Color, radius: float) -> pygame.Surface:
    canvas = _canvas(color)
    center = canvas.get_rect().center
    pygame.draw.circle(canvas, color, center, radius * TILE * SMOOTHING)
    return _scaled(canvas)


@cache
def _pacman(heading: int, open_wide: bool) -> pygame.Surface:
    canvas = _canvas(PACMAN)
    center, radius = np.array(canvas.get_rect().center), 0.44 * TILE * SMOOTHING
    half_angle = np.radians(42 if open_wide else 20)
    start = {UP: 90, LEFT: 180, DOWN: 270}.get(heading, 0)
    angles = np.radians(start) + np.linspace(half_angle, 2 * np.pi - half_angle, 64)  # [64]
    rim = center + radius * np.stack([np.cos(angles), -np.sin(angles)], axis=1)  # [64, 2]
    pygame.draw.polygon(canvas, PACMAN, [tuple(center), *map(tuple, rim)])
    return _scaled(canvas)


@cache
def _ghost(color: Color, gaze: tuple[int, int]) -> pygame.Surface:
    unit = TILE * SMOOTHING
    canvas = _canvas(color)
    left, right, top, bottom = 0.1 * unit, 0.9 * unit, 0.08 * unit, 0.9 * unit
    radius = (right - left) / 2
    pygame.draw.circle(canvas, color, (unit / 2, top + radius), radius)
    pygame.draw.rect(canvas, color, (left, top + radius, right - left, bottom - top - 1.35 * radius))
    for foot in range(3):
        pygame.draw.circle(canvas, color, (left + (2 * foot + 1) * radius / 3, bottom - radius / 3), radius / 3)
    if color in (SCARED, WHITE):
        _draw_scared_face(canvas, PILL if color == SCARED else GHOSTS[0])
    else:
        _draw_eyes(canvas, gaze)
    return _scaled(canvas)


def _draw_eyes(canvas: pygame.Surface, gaze: tuple[int, int]) -> None:
    unit = TILE * SMOOTHING
    for side in (-1, 1):
        x, y = unit * (0.5 + 0.17 * side + 0.04 * gaze[0]), unit * (0.42 + 0.04 * gaze[1])
        pygame.draw.circle(canvas, (255, 255, 255), (x, y), 0.125 * unit)
        pygame.draw.circle(canvas, (24, 28, 92), (x + 0.05 * unit * gaze[0], y + 0.05 * unit * gaze[1]), 0.07 * unit)


def _draw_scared_face(canvas: pygame.Surface, color: Color) -> None:
    unit = TILE * SMOOTHING
    for side in (-1, 1):
        pygame.draw.circle(canvas, color, (unit * (0.5 + 0.14 * side), 0.4 * unit), 0.06 * unit)
    mouth = [(unit * (0.26 + 0.08 * point), unit * (0.66 if point % 2 else 0.6)) for point in range(7)]
    pygame.draw.lines(canvas, color, False, mouth, width=round(0.05 * unit))
