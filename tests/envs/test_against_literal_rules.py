"""The compiled rules against the literal ones, outcome by outcome."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from envs import MiniPacmanVectorEnv

from .literal_rules import FACINGS, FREE, MODES, Chance, Game, all_outcomes, game_at
from .positions import DOWN, RIGHT, STAY, food_at, many_at, position, random_position

NEXT_LEVEL = "next level"


class LevelEndsError(Exception):
    pass


class UntilLevelEnds(Game):
    """A new level has too many outcomes to list."""

    def start_level(self, level: int) -> None:
        raise LevelEndsError


def literal_outcomes(mode: str, state: dict[str, Any], action: int) -> dict[Any, float]:
    def play(chance: Any) -> Any:
        game = game_at(UntilLevelEnds, mode, state, chance)
        try:
            game.step(action)
        except LevelEndsError:
            return NEXT_LEVEL
        return describe(game)

    return all_outcomes(play)


def compiled_outcomes(mode: str, state: dict[str, Any], action: int, rows: int, seed: int) -> Counter[Any]:
    vector = many_at(state, mode, rows, seed=seed)
    _, rewards, dead = play_without_reset(vector, action)
    vector._batch.games["generator"] = 0
    counts: Counter[Any] = Counter()
    examples = {game.tobytes(): row for row, game in enumerate(vector._batch.games)}
    for game, count in Counter(game.tobytes() for game in vector._batch.games).items():
        counts[describe_row(mode, state, vector, examples[game], rewards, dead)] += count
    return counts


def play_without_reset(vector: MiniPacmanVectorEnv, action: int) -> Any:
    """One step, after which dead games can still be looked at."""
    outcome = vector._batch.step(np.full(vector.num_envs, action))
    return outcome.ended, outcome.rewards, outcome.terminated


def describe_row(
    mode: str, before: dict[str, Any], vector: MiniPacmanVectorEnv, row: int, rewards: Any, dead: Any
) -> Any:
    after = vector.get_state(row)
    if after["level"] > before["level"]:
        return NEXT_LEVEL
    game = game_at(Game, mode, after, chance=None)
    game.reward, game.dead = rewards[row], dead[row]
    return describe(game)


def describe(game: Game) -> Any:
    ghosts = tuple((ghost.position, ghost.facing) for ghost in game.ghosts)
    food = tuple(sorted(game.food))
    return game.pacman, ghosts, tuple(game.pills), food, game.power, game.timer, round(game.reward, 9), bool(game.dead)


@pytest.mark.parametrize("mode", MODES)
def test_every_outcome_of_a_step_is_as_likely_as_the_rules_say(mode: str) -> None:
    """From positions crowded with ghosts and pills: nothing happens that cannot, and the rest at the right rate."""
    rng = np.random.default_rng(list(MODES).index(mode))
    rows = 2000
    for _ in range(60):
        state, action, seed = random_position(rng), int(rng.integers(5)), int(rng.integers(2**31))
        expected = literal_outcomes(mode, state, action)
        counts = compiled_outcomes(mode, state, action, rows, seed)
        assert sum(expected.values()) == pytest.approx(1)
        assert set(counts) <= set(expected), (state, action)
        for outcome, probability in expected.items():
            deviation = abs(counts[outcome] - rows * probability)
            assert deviation <= 5 * np.sqrt(rows * probability * (1 - probability)) + 1, (state, action, outcome)


def chi_square_z(counts: np.ndarray, expected: np.ndarray) -> float:
    """How many standard deviations a chi-square statistic lies above its mean."""
    freedom = len(counts) - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom))


def test_a_new_level_is_laid_out_uniformly() -> None:
    """Pills and Pacman on every free cell, ghosts on every free cell out of the block, four facings: each as likely."""
    rows = 40_000
    vector = MiniPacmanVectorEnv(rows)
    vector.reset(seed=5)
    games = vector._batch.games
    states = [vector.get_state(row) for row in range(0, rows, 4)]
    cells = {cell: index for index, cell in enumerate(FREE)}

    def counts(positions: Any) -> np.ndarray:
        return np.bincount([cells[tuple(cell)] for cell in positions], minlength=len(FREE))

    even = np.full(len(FREE), len(states) / len(FREE))
    for pill in range(2):
        assert abs(chi_square_z(counts(state["pills"][pill] for state in states), even)) < 4
    assert abs(chi_square_z(counts(state["pacman"] for state in states), even)) < 4
    ghosts, variance = np.zeros(len(FREE)), 0.0
    surplus = 0.0  # of ghosts on the far edge of the block, which is allowed
    for state in states:
        (row, column), ghost = state["pacman"], tuple(state["ghosts"][0])
        outside = [cell for cell in FREE if not (-5 <= cell[0] - row < 5 and -5 <= cell[1] - column < 5)]
        edge = [
            (r, c)
            for r, c in outside
            if (r == row + 5 and abs(c - column) <= 5) or (c == column + 5 and abs(r - row) <= 5)
        ]
        assert ghost in outside
        ghosts[[cells[cell] for cell in outside]] += 1 / len(outside)
        share = len(edge) / len(outside)
        surplus += (ghost in edge) - share
        variance += share * (1 - share)
    assert abs(chi_square_z(counts(state["ghosts"][0] for state in states), ghosts)) < 4
    assert abs(surplus) < 4 * np.sqrt(variance)
    facings = Counter(FACINGS[facing] for facing in games["facings"][:, 0])
    assert set(facings) == {"right", "up", "unreal left", "unreal down"}
    assert abs(chi_square_z(np.array(list(facings.values())), np.full(4, rows / 4))) < 4
    assert all(state["food"].sum() == len(FREE) for state in states)


@pytest.mark.parametrize(
    ("mode", "action", "changes"),
    [
        # The last food ends level 4: pills are looked for at the new cell, and three new ghosts act.
        ("regular", RIGHT, {"food": food_at((1, 2)), "level": 4}),
        # The last pill is taken where the last food was not the goal.
        ("rush", DOWN, {"pills": [(2, 1)], "level": 6, "power": 9}),
        # The last ghost is eaten, and no new one acts.
        ("hunt", RIGHT, {"ghosts": [(1, 2)], "facings": [2], "power": 7, "level": 3}),
        # The timer runs out after everybody has acted; with power left to lose.
        ("avoid", STAY, {"timer": 127, "power": 3, "level": 2, "ghosts": [(3, 3)], "facings": [0]}),
    ],
)
def test_a_level_that_ends_in_mid_step_goes_on_as_the_rules_say(
    mode: str, action: int, changes: dict[str, Any]
) -> None:
    """What is left of the step is played on the new level: rewards, power, pills and ghosts are distributed alike."""
    state, rows = position(**changes), 40_000
    vector = many_at(state, mode, rows, seed=11)
    _, rewards, dead = play_without_reset(vector, action)
    games = vector._batch.games
    food_left = games["food_left"]
    columns = (rewards.round(9), dead, games["power"], games["num_pills"], games["num_ghosts"], food_left)
    compiled = Counter(zip(*(column.tolist() for column in columns), games["level"].tolist(), strict=True))

    literal: Counter[Any] = Counter()
    for seed in range(rows // 10):
        game = game_at(Game, mode, state, Chance(seed))
        game.step(action)
        pills, ghosts = len(game.pills), len(game.ghosts)
        literal[round(game.reward, 9), game.dead, game.power, pills, ghosts, len(game.food), game.level] += 1

    for outcome in compiled | literal:
        ours, theirs = compiled[outcome] / rows, literal[outcome] / (rows // 10)
        pooled = (compiled[outcome] + literal[outcome]) / (1.1 * rows)
        assert abs(ours - theirs) <= 4.5 * np.sqrt(pooled * (1 - pooled) * 11 / rows) + 5 / rows, outcome
