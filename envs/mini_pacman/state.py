"""A game as a mapping of plain arrays and numbers, and back, checked."""

import math
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .checks import integer
from .game import MAX_GHOSTS, MAX_PILLS, PILL_POWER
from .maze import COLUMNS, FREE, RIGHT, ROWS, UNREAL_DOWN, cell_of, pack, position_of, unpack

COUNTERS = {"power": (0, PILL_POWER), "timer": (0, 2**31 - 1), "frame": (0, 2**31 - 1), "level": (1, 2**31 - 1)}
REQUIRED = ("food", "pills", "pacman", "ghosts", "facings", *COUNTERS, "score")
PAIRS = "pairs (row, column) of free cells"


def read_state(game: Any) -> dict[str, Any]:
    """The state of one game (a record): positions are (row, column), and the mapping shares no memory with the game."""
    pills = game["pills"][: game["num_pills"]]
    ghosts = game["ghosts"][: game["num_ghosts"]]
    return {
        "food": unpack(game["food"]),  # [15, 19]
        "pills": np.stack(position_of(pills.astype(np.int64)), axis=1),  # [pills, 2]
        "pacman": np.stack(position_of(game["pacman"].astype(np.int64))),  # [2]
        "ghosts": np.stack(position_of(ghosts.astype(np.int64)), axis=1),  # [ghosts, 2]
        "facings": game["facings"][: game["num_ghosts"]].astype(np.int64),  # [ghosts]
        **{name: int(game[name]) for name in COUNTERS},
        "score": float(game["score"]),
        "generator": game["generator"].copy(),  # [4]
    }


def write_state(state: Mapping[str, Any], game: Any) -> None:
    """Put a game (a record) into `state`; lists do as well as arrays, and without `generator` the present one is kept.

    Raises:
        ValueError: the state is impossible, for the reason said; the game is then as it was.
    """
    missing = [name for name in REQUIRED if name not in state]
    unknown = [name for name in state if name not in (*REQUIRED, "generator")]
    if missing or unknown:
        raise ValueError(
            f"state must have {', '.join(REQUIRED)} (and generator); missing: {missing}, unknown: {unknown}"
        )
    food = _food(state["food"])
    pills = _cells("pills", state["pills"], range(MAX_PILLS + 1), f"at most {MAX_PILLS} {PAIRS}")
    ghosts = _cells("ghosts", state["ghosts"], range(MAX_GHOSTS + 1), f"at most {MAX_GHOSTS} {PAIRS}")
    facings = _facings(state["facings"], len(ghosts))
    pacman = _cells("pacman", [state["pacman"]], range(1, 2), "the pair (row, column) of a free cell")[0]
    counters = {name: integer(name, state[name], *bounds) for name, bounds in COUNTERS.items()}
    score = _score(state["score"])
    generator = _generator(state["generator"]) if "generator" in state else game["generator"]

    game["food"], game["food_left"] = pack(food), food.sum()
    game["num_pills"], game["num_ghosts"] = len(pills), len(ghosts)
    game["pills"][: len(pills)] = pills
    game["ghosts"][: len(ghosts)] = ghosts
    game["facings"][: len(ghosts)] = facings
    game["pacman"], game["score"], game["generator"] = pacman, score, generator
    for name, value in counters.items():
        game[name] = value
    game["heading"], game["reward"], game["dead"] = RIGHT, 0, False


def _array(value: Any) -> npt.NDArray[Any]:
    try:
        return np.asarray(value)
    except ValueError:  # rows of different lengths
        return np.array(None)


def _integers(name: str, value: Any, row: tuple[int, ...], legal: str) -> npt.NDArray[np.int64]:
    """`value` as integers [any, *row]."""
    array = _array(value)
    if array.size == 0:  # an empty list does not tell what it is a list of
        return np.empty((0, *row), np.int64)
    if array.ndim == 0 or array.shape[1:] != row or array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be {legal}, got {value!r}")
    return array.astype(np.int64)


def _food(value: Any) -> npt.NDArray[np.bool_]:
    food = _array(value)
    if food.shape != (ROWS, COLUMNS) or not (food.dtype == np.bool_ or np.isin(food, (0, 1)).all()):
        raise ValueError(f"food must be bool [{ROWS}, {COLUMNS}], got {food.dtype} {list(food.shape)}")
    food = food.astype(np.bool_)
    if (food & ~FREE).any():
        row, column = np.argwhere(food & ~FREE)[0].tolist()
        raise ValueError(f"food must be on free cells only, got some in the wall at ({row}, {column})")
    return food


def _cells(name: str, value: Any, counts: range, legal: str) -> npt.NDArray[np.int64]:
    """Positions [any, 2] as cells [any]; `counts` says how many there may be."""
    positions = _integers(name, value, (2,), legal)
    if len(positions) not in counts:
        raise ValueError(f"{name} must be {legal}, got {len(positions)}")
    for row, column in positions.tolist():
        if not (0 <= row < ROWS and 0 <= column < COLUMNS and FREE[row, column]):
            raise ValueError(f"{name} must be {legal}, got ({row}, {column}), which is no free cell")
    cells: npt.NDArray[np.int64] = cell_of(positions[:, 0], positions[:, 1])
    return cells


def _facings(value: Any, count: int) -> npt.NDArray[np.int64]:
    legal = f"{count} integers from 0 to {UNREAL_DOWN}, one for each ghost"
    facings = _integers("facings", value, (), legal)
    if len(facings) != count or not ((facings >= 0) & (facings <= UNREAL_DOWN)).all():
        raise ValueError(f"facings must be {legal}, got {value!r}")
    return facings


def _score(value: Any) -> float:
    if not isinstance(value, int | float | np.integer | np.floating) or not math.isfinite(value):
        raise ValueError(f"score must be a finite number, got {value!r}")
    return float(value)


def _generator(value: Any) -> npt.NDArray[np.uint64]:
    try:
        words = [operator.index(word) for word in value]
    except TypeError:
        words = []
    if len(words) != 4 or not all(0 <= word < 2**64 for word in words) or not any(words):
        raise ValueError(f"generator must be 4 integers from 0 to 2**64 - 1, not all 0, got {value!r}")
    return np.array(words, np.uint64)
