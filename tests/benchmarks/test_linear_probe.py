"""The linear probe finds what is there, nothing where there is nothing, and is not told by a game's other moments."""

import numpy as np
import pytest

from benchmarks.linear_probe import Labels, areas, can_be_probed, fit, mean_with_interval, probe, split

GAMES, MOMENTS, FEATURES, LABELS = 30, 40, 7, 3
GAME = np.repeat(np.arange(GAMES), MOMENTS)
STRATUM = np.tile(np.arange(MOMENTS) // 8, GAMES)


def make(true: np.ndarray, asked: np.ndarray | None = None) -> Labels:
    """Labels [N, L] at the moments above."""
    return Labels(GAME, STRATUM, true.astype(bool), np.ones(true.shape, bool) if asked is None else asked)


def noise(width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(len(GAME), width)).astype(np.float32)


def test_a_planted_signal_is_found_where_it_is_asked_for() -> None:
    """Where a label is not asked for, its opposite stands, which would spoil both fit and score."""
    features = noise(FEATURES, seed=0)
    true = features @ noise(LABELS, seed=1)[:FEATURES] > 0
    asked = np.random.default_rng(2).random(true.shape) < 0.7
    aucs, _ = probe(features, make(np.where(asked, true, ~true), asked))
    assert aucs[0].min() > 0.98


def test_noise_is_chance() -> None:
    """Also with a rare label, and with so many features that the games fitted to are known by heart."""
    mean, low, high = mean_with_interval(probe(noise(400, seed=3), make(noise(LABELS, seed=4) > 1.3))[0])
    assert low < 0.5 < high
    assert mean == pytest.approx(0.5, abs=0.05)


def test_what_only_tells_the_game_is_worth_nothing() -> None:
    """A label that is the same all through a game would be read perfectly if its moments were on both sides."""
    true = np.repeat(np.random.default_rng(5).random((GAMES, LABELS)) < 0.5, MOMENTS, axis=0)
    aucs, _ = probe(np.eye(GAMES, dtype=np.float32)[GAME], make(true))
    assert aucs[0] == pytest.approx(0.5)


def test_what_only_tells_the_stratum_is_worth_nothing() -> None:
    true = np.random.default_rng(6).random((len(GAME), LABELS)) < STRATUM[:, None] / STRATUM.max()
    features = np.column_stack([STRATUM, STRATUM**2]).astype(np.float32)
    assert probe(features, make(true))[0][0] == pytest.approx(0.5)


def test_the_fit_is_least_squares_with_a_constant_for_each_stratum() -> None:
    """Of the moments asked for, with a penalty on the features' weights alone."""
    features = noise(FEATURES, seed=7) * 3 + STRATUM[:, None]
    true = noise(LABELS, seed=8) + STRATUM[:, None] / 3 + features[:, :1] > 1
    asked = noise(LABELS, seed=9) + features[:, :1] / 4 > 0
    (scores,) = fit(features, make(true, asked), (0.3,), features)
    x = (features - features.mean(axis=0)) / features.std(axis=0)
    for label in range(LABELS):
        rows = np.flatnonzero(asked[:, label])
        penalty = np.sqrt(0.3 * len(rows)) * np.eye(FEATURES)
        constants = np.eye(STRATUM.max() + 1)[STRATUM[rows]]
        matrix = np.block([[x[rows], constants], [penalty, np.zeros((FEATURES, constants.shape[1]))]])
        weights = np.linalg.lstsq(matrix, np.append(true[rows, label], np.zeros(FEATURES)))[0][:FEATURES]
        assert scores[:, label] == pytest.approx(x @ weights, abs=1e-5)


def test_games_are_not_divided() -> None:
    parts = split(GAME)
    assert np.sum(parts, axis=0).tolist() == [1] * len(GAME)
    assert [len(set(GAME[part])) for part in parts] == [12, 6, 12]


def test_areas_are_those_of_counting_pairs() -> None:
    """With ties, strata, moments that are not asked for, and games that a resample has twice or not at all."""
    random = np.random.default_rng(8)
    few = random.permutation(len(GAME))[:90]
    scores = random.integers(4, size=(90, 2)).astype(float)
    true, asked = random.random((2, 90, 2)) < [[[0.4]], [[0.8]]]
    labels = Labels(GAME[few] % 5, STRATUM[few], true, asked)
    found = areas(scores, labels)
    draws = np.random.default_rng(0).multinomial(5, np.full(5, 1 / 5), len(found) - 1)
    for row, times in ((0, np.ones(5, int)), (1, draws[0]), (2, draws[1])):
        for label in range(2):
            again = np.repeat(np.arange(90), times[labels.game])
            pairs = [
                (np.sign(scores[one, label] - scores[other, label]) + 1) / 2
                for one in again[true[again, label] & asked[again, label]]
                for other in again[~true[again, label] & asked[again, label]]
                if labels.stratum[one] == labels.stratum[other]
            ]
            assert found[row, label] == pytest.approx(np.mean(pairs))


def test_labels_that_hardly_vary_are_left_out() -> None:
    """One never varies where the penalty is chosen, one not where it is asked for, and one not within a stratum."""
    true = noise(4, seed=9) > 0
    true[:, 2] = STRATUM > 2
    asked = np.ones(true.shape, bool)
    true[split(GAME)[1], 0] = False
    asked[:, 1] = ~true[:, 1]
    assert can_be_probed(make(true, asked)).tolist() == [False, False, False, True]
