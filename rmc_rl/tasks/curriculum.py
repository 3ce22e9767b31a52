"""How hard the samples of a batch are (Zaremba and Sutskever 2014)."""

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

CurriculumName = Literal["baseline", "naive", "mix", "combined"]
CURRICULA: tuple[CurriculumName, ...] = get_args(CurriculumName)
STALL_UPDATES = 500
STALL_RATIO = 0.99
"""The loss stalls when its mean over so many updates is above so much of the mean over those before."""

FarthestCurriculumName = Literal["baseline", "combined"]
FARTHEST_CURRICULA: tuple[FarthestCurriculumName, ...] = get_args(FarthestCurriculumName)
LEARNED_UPDATES = 200
LEARNED_SHARE = 0.5
"""A lesson is learned when the mean loss over so many updates is below so much of a guess's, ln(k - 1)."""


class Curriculum:
    """Draws the literals' length and the nesting of every program; two of the four grow harder with training.

    `baseline`: always the maximum. `naive`: always the present level. `mix`: uniform up to the maximum. `combined`:
    uniform up to the present level. The present level begins at 1 and 1; whenever the loss stalls, the length grows
    by one, and after its maximum the nesting.
    """

    def __init__(self, name: CurriculumName, max_length: int, max_nesting: int) -> None:
        if name not in CURRICULA:
            raise ValueError(f"curriculum must be one of {sorted(CURRICULA)}, got {name!r}")
        self.max_length, self.max_nesting = max_length, max_nesting
        self.grows = name in ("naive", "combined")
        self.is_uniform = name in ("mix", "combined")
        self.length, self.nesting = (1, 1) if self.grows else (max_length, max_nesting)
        self.losses: list[float] = []
        self.previous_mean: float | None = None

    def draw(self, rng: np.random.Generator, batch_size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Length and nesting of each program, [B] and [B]."""
        if self.is_uniform:
            return (
                rng.integers(1, self.length, size=batch_size, endpoint=True),
                rng.integers(1, self.nesting, size=batch_size, endpoint=True),
            )
        return np.full(batch_size, self.length), np.full(batch_size, self.nesting)

    def observe(self, loss: float) -> None:
        """Take note of an update's loss, and grow if it stalls."""
        if not self.grows or (self.length, self.nesting) == (self.max_length, self.max_nesting):
            return
        self.losses.append(loss)
        if len(self.losses) < STALL_UPDATES:
            return
        mean = sum(self.losses) / len(self.losses)
        self.losses = []
        if self.previous_mean is None or mean <= STALL_RATIO * self.previous_mean:
            self.previous_mean = mean
            return
        self.previous_mean = None
        if self.length < self.max_length:
            self.length += 1
        else:
            self.nesting += 1

    def state(self) -> dict[str, Any]:
        """What `restore` takes, as JSON."""
        names = ("length", "nesting", "losses", "previous_mean")
        return {name: getattr(self, name) for name in names}

    def restore(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


class FarthestCurriculum:
    """How many numbers of a vector differ from 0, and n of every question: Nth Farthest, with k = `num_objects`.

    `baseline`: all numbers, and n uniform from 1 to k. `combined`: lessons, each as soon as the one before is learned.
    The farthest of vectors of one number comes first, then that of two numbers, up to `num_features`. Then other n
    come in, from the ends inwards, k, the vector itself, third: 1, k - 1, k, 2, k - 2, 3, ... All that have come in are
    asked equally often. Among vectors of many numbers the farthest differs too little from the others to be learned
    from nothing, and so does a rank in the middle: neither nearness nor farness speaks for a vector.
    """

    def __init__(self, name: FarthestCurriculumName, num_objects: int, num_features: int) -> None:
        if name not in FARTHEST_CURRICULA:
            raise ValueError(f"curriculum must be one of {sorted(FARTHEST_CURRICULA)}, got {name!r}")
        others = range(1, num_objects)
        inwards = [rank for pair in zip(others, reversed(others), strict=True) for rank in pair][: len(others)]
        self.order = np.array([*inwards[:2], num_objects, *inwards[2:]])
        self.learned_loss = LEARNED_SHARE * math.log(max(num_objects - 1, 2))
        first = [(features, 1) for features in range(1, num_features)]
        self.lessons = [*first, *((num_features, ranks) for ranks in range(1, num_objects + 1))]
        self.level = 0 if name == "combined" else len(self.lessons) - 1
        self.losses: list[float] = []

    @property
    def features(self) -> int:
        """Numbers of each vector that are not 0."""
        return self.lessons[self.level][0]

    @property
    def ranks(self) -> NDArray[np.int64]:
        """Every n that is asked for."""
        return self.order[: self.lessons[self.level][1]]

    def draw(self, rng: np.random.Generator, batch_size: int) -> NDArray[np.int64]:
        """n of each question, [B]."""
        return self.ranks[rng.integers(len(self.ranks), size=batch_size)]

    def observe(self, loss: float) -> None:
        """Take note of an update's loss, and go on to the next lesson if this one is learned."""
        if self.level == len(self.lessons) - 1:
            return
        self.losses.append(loss)
        if len(self.losses) < LEARNED_UPDATES:
            return
        if sum(self.losses) / len(self.losses) < self.learned_loss:
            self.level += 1
        self.losses = []

    def state(self) -> dict[str, Any]:
        """What `restore` takes, as JSON."""
        return {"level": self.level, "losses": self.losses}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.level, self.losses = state["level"], state["losses"]
