"""The rules of `docs/mini_pacman.md` once more: slow, literal, and sharing nothing with the compiled ones.

Every random draw goes through a `Chance`, so that the same code can play a game or list all its possible outcomes.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

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
###################
""".splitlines()

FREE = [(row, column) for row in range(15) for column in range(19) if MAZE[row][column] != "#"]
MOVES = {"right": (0, 1), "up": (-1, 0), "left": (0, -1), "down": (1, 0)}
ACTIONS = ["stay", "right", "up", "left", "down"]
FACINGS = ["right", "up", "left", "down", "unreal left", "unreal down"]
REVERSE = {
    "right": "left",
    "up": "down",
    "left": "right",
    "down": "up",
    "unreal left": "right",
    "unreal down": "up",
}


@dataclass
class Mode:
    step: float
    food: float
    pill: float
    ghost: float
    death: float
    goal: str
    limit: int | None = None


MODES = {
    "regular": Mode(step=0, food=1, pill=2, ghost=5, death=0, goal="food"),
    "avoid": Mode(step=0.1, food=-0.1, pill=-5, ghost=-10, death=-20, goal="food", limit=128),
    "hunt": Mode(step=0, food=0, pill=1, ghost=10, death=-20, goal="ghosts"),
    "ambush": Mode(step=0, food=-0.1, pill=0, ghost=10, death=-20, goal="ghosts"),
    "rush": Mode(step=0, food=-0.1, pill=10, ghost=0, death=0, goal="pills"),
}


class Chance:
    """Draws from a `random.Random`."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def happens(self, probability: float) -> bool:
        return self._random.random() < probability

    def one_of(self, options: Sequence[Any]) -> Any:
        return self._random.choice(options)


class EveryChance:
    """Takes the branches of a tree of draws one after another, for `all_outcomes`."""

    def __init__(self) -> None:
        self._path: list[tuple[int, list[float]]] = []  # the branch taken at each draw, and the probabilities there
        self._depth = 0

    def happens(self, probability: float) -> bool:
        probability = min(probability, 1.0)
        return self._branch([probability, 1 - probability]) == 0

    def one_of(self, options: Sequence[Any]) -> Any:
        return options[self._branch([1 / len(options)] * len(options))]

    def _branch(self, probabilities: list[float]) -> int:
        if self._depth == len(self._path):
            self._path.append((0, probabilities))
        self._depth += 1
        return self._path[self._depth - 1][0]

    def probability(self) -> float:
        return math.prod(probabilities[branch] for branch, probabilities in self._path)

    def next(self) -> bool:
        """Go to the next path, if there is one."""
        self._depth = 0
        while self._path:
            branch, probabilities = self._path.pop()
            if branch + 1 < len(probabilities):
                self._path.append((branch + 1, probabilities))
                return True
        return False


@dataclass
class Ghost:
    position: tuple[int, int]
    facing: str


@dataclass
class Game:
    mode: str
    chance: Any
    food: set[tuple[int, int]] = field(default_factory=set)
    pills: list[tuple[int, int]] = field(default_factory=list)
    pacman: tuple[int, int] = (1, 1)
    ghosts: list[Ghost] = field(default_factory=list)
    power: int = 0
    timer: int = 0
    frame: int = 0
    level: int = 1
    reward: float = 0
    dead: bool = False

    def start_level(self, level: int) -> None:
        self.level = level
        self.food = set(FREE)
        self.pills = [self.chance.one_of(FREE), self.chance.one_of(FREE)]
        self.pacman = self.chance.one_of(FREE)
        row, column = self.pacman
        outside = [(r, c) for r, c in FREE if not (row - 5 <= r < row + 5 and column - 5 <= c < column + 5)]
        self.ghosts = [
            Ghost(self.chance.one_of(outside), self.chance.one_of(["right", "up", "unreal left", "unreal down"]))
            for _ in range(1 + math.floor((level - 1) / 2))
        ]
        self.power = 0
        self.timer = 0

    def step(self, action: int) -> None:
        mode = MODES[self.mode]
        self.frame += 1
        self.timer += 1
        self.reward = mode.step
        self.dead = False
        self.power = max(self.power - 1, 0)
        self.step_pacman(action)
        self.step_ghosts()
        if mode.limit is not None and self.timer >= mode.limit:
            self.start_level(self.level + 1)

    def step_pacman(self, action: int) -> None:
        mode = MODES[self.mode]
        if ACTIONS[action] != "stay":
            self.pacman = moved(self.pacman, ACTIONS[action])
        if self.pacman in self.food:
            self.food.remove(self.pacman)
            self.reward += mode.food
            if not self.food and mode.goal == "food":
                self.start_level(self.level + 1)
        if self.pacman in self.pills:
            self.pills.remove(self.pacman)
            self.power = 20
            self.reward += mode.pill
            if not self.pills and mode.goal == "pills":
                self.start_level(self.level + 1)

    def step_ghosts(self) -> None:
        speed = 0.5 + 0.1 * (self.level - 1)
        for ghost in list(self.ghosts):
            if self.meets(ghost):
                return
            if self.chance.happens(speed / 2 if self.power else speed):
                self.move(ghost)
                if self.meets(ghost):
                    return

    def meets(self, ghost: Ghost) -> bool:
        """Deal with a ghost on Pacman's cell; whether it was eaten."""
        mode = MODES[self.mode]
        if ghost.position != self.pacman:
            return False
        if not self.power:
            self.dead = True
            self.reward += mode.death
            return False
        self.ghosts.remove(ghost)
        self.reward += mode.ghost
        if not self.ghosts and mode.goal == "ghosts":
            self.start_level(self.level + 1)
        return True

    def move(self, ghost: Ghost) -> None:
        exits = [name for name in MOVES if moved(ghost.position, name) != ghost.position]
        if len(exits) == 1:
            ghost.facing = exits[0]
        elif len(exits) == 2:
            if ghost.facing not in exits:
                ghost.facing = next(name for name in exits if name != REVERSE[ghost.facing])
        elif ghost.position != self.pacman:
            ghost.facing = self.turn(ghost, [name for name in exits if name != REVERSE[ghost.facing]])
        way = {"unreal left": "down", "unreal down": None}.get(ghost.facing, ghost.facing)
        if way is not None:
            ghost.position = moved(ghost.position, way)

    def turn(self, ghost: Ghost, ways: list[str]) -> str:
        down, right = self.pacman[0] - ghost.position[0], self.pacman[1] - ghost.position[1]
        distance = math.hypot(down, right)
        scores = [(MOVES[way][0] * down + MOVES[way][1] * right) / distance for way in ways]
        if self.power:
            return ways[scores.index(min(scores))]
        if self.chance.happens(0.05):
            return str(self.chance.one_of(ways))
        return ways[scores.index(max(scores))]


def moved(position: tuple[int, int], way: str) -> tuple[int, int]:
    target = (position[0] + MOVES[way][0], position[1] + MOVES[way][1])
    return target if target in FREE else position


def game_at(kind: type[Game], mode: str, state: dict[str, Any], chance: Any) -> Game:
    """A game in a state as the environment gives it."""
    return kind(
        mode=mode,
        chance=chance,
        food={(row, column) for row in range(15) for column in range(19) if state["food"][row][column]},
        pills=[(int(row), int(column)) for row, column in state["pills"]],
        pacman=(int(state["pacman"][0]), int(state["pacman"][1])),
        ghosts=[
            Ghost((int(row), int(column)), FACINGS[facing])
            for (row, column), facing in zip(state["ghosts"], state["facings"], strict=True)
        ],
        **{name: state[name] for name in ("power", "timer", "frame", "level")},
    )


def all_outcomes(play: Callable[[EveryChance], Any]) -> dict[Any, float]:
    """The probability of everything that `play` may return."""
    chance = EveryChance()
    probabilities: dict[Any, float] = {}
    while True:
        outcome = play(chance)
        probabilities[outcome] = probabilities.get(outcome, 0) + chance.probability()
        if not chance.next():
            return probabilities
