"""How well a ridge regression reads yes/no labels from features, in games that it was not fitted to.

The measure is the area under the ROC curve (AUC): how often a moment at which the label is true gets the higher score
of two. It needs no threshold, and is 0.5 for whatever says nothing, however rare the label is. Only moments of the same
stratum are compared: for the rest, it would do to know the stratum.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rmc_rl.figures import CONFIDENCE, RESAMPLES

PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0)
"""Of ridge regression, tried in turn; features are standardised and errors averaged, so that 1 is a strong one."""
SHARES = (0.4, 0.2)
"""Of the games: to fit to, and to choose the penalty by. The others are for the test."""
FEWEST = 25
"""Pairs of moments to be compared that a label must have in each part to be probed."""

Array = NDArray[np.float64]
Features = NDArray[np.float32]
Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Labels(NamedTuple):
    """What N moments of G games are to be told apart by."""

    game: Indices
    """[N], from 0 to G - 1."""
    stratum: Indices
    """[N], 0 or more."""
    true: Mask
    """[N, L]."""
    asked: Mask
    """[N, L]: where the label counts; elsewhere it is neither fitted nor scored."""

    def part(self, moments: Mask) -> "Labels":
        return Labels(self.game[moments], self.stratum[moments], self.true[moments], self.asked[moments])


def split(game: Indices) -> tuple[Mask, Mask, Mask]:
    """Moments [N] for fitting, choosing and testing. Games stay whole: a moment tells of the next."""
    games = game.max() + 1
    first, second = round(SHARES[0] * games), round(sum(SHARES) * games)
    return game < first, (game >= first) & (game < second), game >= second


def can_be_probed(labels: Labels) -> Mask:
    """Which labels have enough pairs in each part, [L]."""
    least: Indices = np.min([pairs(labels.part(moments)) for moments in split(labels.game)], axis=0)
    return least >= FEWEST


def pairs(labels: Labels) -> Indices:
    """The number of pairs that can be compared, [L]: at one moment the label is true, at the other it is not."""
    counts = np.zeros(labels.true.shape[1], np.int64)
    for stratum in np.unique(labels.stratum):
        asked = labels.asked & (labels.stratum == stratum)[:, None]
        counts += (asked & labels.true).sum(axis=0) * (asked & ~labels.true).sum(axis=0)
    return counts


def probe(features: Features, labels: Labels) -> tuple[Array, float]:
    """Fit to the first games, choose the penalty by the next, fit to both, and score the rest.

    Returns:
        AUCs [1 + RESAMPLES, L], of the test games and then of resamples of them, always the same ones; the penalty.
    """
    fitting, choosing, testing = split(labels.game)
    scores = fit(features[fitting], labels.part(fitting), PENALTIES, features[choosing])
    means = [np.nanmean(areas(each, labels.part(choosing))[0]) for each in scores]
    penalty = PENALTIES[int(np.argmax(means))]
    (scores_of_test,) = fit(features[~testing], labels.part(~testing), (penalty,), features[testing])
    return areas(scores_of_test, labels.part(testing)), penalty


def fit(features: Features, labels: Labels, penalties: tuple[float, ...], others: Features) -> Array:
    """Fit each label to its own moments, within strata, with each penalty; the scores of others, [penalties, M, L].

    Intercepts are left out: they do not change the order within a stratum. features: [N, F], others: [M, F].
    """
    mean, deviation = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-3)
    x = within((features - mean) / deviation, labels.stratum)  # [N, F]
    products, members = x.T @ x, np.eye(labels.stratum.max() + 1)[labels.stratum]  # [F, F], [N, S]
    weights = np.empty((len(penalties), x.shape[1], labels.true.shape[1]))  # [P, F, L]
    for label, asked in enumerate(labels.asked.T):
        target = within(labels.true[asked, label, None], labels.stratum[asked])[:, 0]
        cross = x[asked].T @ target / len(target)
        rest = x[~asked]  # fewer than those asked for: taking them off, and what they did to the means, is quicker
        sums = members[~asked].T @ rest  # [S, F]
        shifts = sums / np.maximum(members[asked].sum(axis=0), 1)[:, None]
        covariance = (products - rest.T @ rest - sums.T @ shifts) / len(target)
        for number, penalty in enumerate(penalties):
            weights[number, :, label] = np.linalg.solve(covariance + penalty * np.eye(len(cross)), cross)
    return np.asarray((others - mean) / deviation @ weights)


def within(values: Features | Mask, stratum: Indices) -> Array:
    """values [N, F] less the mean of their stratum."""
    members = np.eye(stratum.max() + 1)[stratum]  # [N, S]
    means = members.T @ values / np.maximum(members.sum(axis=0), 1)[:, None]
    return np.asarray(values - means[stratum])


def areas(scores: Array, labels: Labels) -> Array:
    """The AUC of scores [N, L], of all games and of resamples of them, [1 + RESAMPLES, L]; NaN without a pair."""
    game = labels.game - labels.game.min()
    games = int(game.max()) + 1
    draws = np.random.default_rng(0).multinomial(games, np.full(games, 1 / games), RESAMPLES)
    counts = np.concatenate([np.ones((1, games)), draws])  # [1 + R, G]: how often each game is there
    found = np.empty((len(counts), scores.shape[1]))
    for label in range(scores.shape[1]):
        won, all_pairs = np.zeros((2, games, games))
        for stratum in np.unique(labels.stratum):
            asked = labels.asked[:, label] & (labels.stratum == stratum)
            true, false = asked & labels.true[:, label], asked & ~labels.true[:, label]
            won += pairs_won(scores[true, label], game[true], scores[false, label], game[false], games)
            all_pairs += np.outer(np.bincount(game[true], minlength=games), np.bincount(game[false], minlength=games))
        with np.errstate(invalid="ignore"):
            found[:, label] = ((counts @ won) * counts).sum(axis=1) / ((counts @ all_pairs) * counts).sum(axis=1)
    return found


def pairs_won(scores: Array, game: Indices, others: Array, game_of_others: Indices, games: int) -> Array:
    """[G, G]: of the pairs of a score of one game and an other of another, in how many the first is higher; ties half.

    Counted by games so that resampling them costs little.
    """
    order, one_hot = np.argsort(others), np.eye(games)
    below = np.concatenate([np.zeros((1, games)), np.cumsum(one_hot[game_of_others[order]], axis=0)])  # [n + 1, G]
    left, right = (below[np.searchsorted(others[order], scores, side)] for side in ("left", "right"))
    return np.asarray(one_hot[game].T @ (left + right) / 2)


def mean_with_interval(aucs: Array) -> tuple[float, float, float]:
    """The mean over the labels of [1 + R, L], or of a difference of two such, and its bootstrap interval over games."""
    means = np.nanmean(aucs, axis=1)
    low, high = np.quantile(means[1:], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(means[0]), float(low), float(high)
