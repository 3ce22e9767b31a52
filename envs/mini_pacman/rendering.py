"""Ways to show a game, each a pure function of its record and the viewport. Pygame is imported when it first draws."""

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .batch import Viewport
from .maze import FREE, position_of, unpack
from .modes import MODES

if TYPE_CHECKING:
    from .drawing import Window


def render(game: Any, viewport: Viewport, render_mode: str | None) -> Any:
    """A frame for "rgb_array", text for "ansi", else None."""
    if render_mode == "rgb_array":
        return frame(game, viewport)
    return text(game) if render_mode == "ansi" else None


def frame(game: Any, viewport: Viewport) -> npt.NDArray[np.uint8]:
    """A picture, uint8 [528, 608, 3]; what the viewport hides is dimmed. It needs no display."""
    _silence_pygame()
    from .drawing import draw

    return draw(game, viewport)


def open_window(fps: int) -> "Window":
    """A window that shows frames; raises gymnasium.error.Error where there is no display."""
    _silence_pygame()
    from .drawing import Window

    return Window(fps)


def _silence_pygame() -> None:
    # Pygame greets on standard output, which may be in use for results.
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")


def text(game: Any) -> str:
    """The whole maze as text: `#` wall, `.` food, `o` pill, `C` Pacman, `M` ghost, `w` edible ghost."""
    glyphs = np.where(FREE, np.where(unpack(game["food"]), ".", " "), "#")  # [15, 19]
    for cell in game["pills"][: game["num_pills"]]:
        glyphs[position_of(cell)] = "o"
    for cell in game["ghosts"][: game["num_ghosts"]]:
        glyphs[position_of(cell)] = "w" if game["power"] else "M"
    glyphs[position_of(game["pacman"])] = "C"
    header = f"{MODES[game['mode']]}  level {game['level']}  score {game['score']:g}  power {game['power']}"
    return "\n".join([header, *("".join(line) for line in glyphs)])
