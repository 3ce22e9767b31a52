"""The random policy scores on our game what it scores on DeepMind's, in every mode."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs import MiniPacmanVectorEnv

from .literal_rules import MODES

REFERENCE = json.loads((Path(__file__).parents[1] / "data" / "mini_pacman_random.json").read_text())


def first_episodes(mode: str, num_envs: int, each: int) -> dict[str, np.ndarray]:
    """The first `each` episodes of every row: waiting for the long ones, so that the short ones do not prevail."""
    vector = MiniPacmanVectorEnv(num_envs, mode)
    vector.reset(seed=1)
    rng = np.random.default_rng(2)
    returns, lengths, episodes = np.zeros(num_envs), np.zeros(num_envs, int), np.zeros(num_envs, int)
    found: dict[str, list[Any]] = {"return": [], "length": [], "level": []}
    while episodes.min() < each:
        _, rewards, terminated, truncated, info = vector.step(rng.integers(5, size=num_envs))
        returns += rewards
        lengths += 1
        ended = terminated | truncated
        if ended.any():
            counted = ended & (episodes < each)
            found["return"].append(returns[counted])
            found["length"].append(lengths[counted])
            found["level"].append(info["final_info"]["level"][counted])
            np.testing.assert_allclose(info["final_info"]["score"][ended], returns[ended], rtol=0, atol=1e-9)
            episodes += ended
            returns[ended], lengths[ended] = 0, 0
    return {name: np.concatenate(values) for name, values in found.items()}


@pytest.mark.parametrize("mode", MODES)
def test_returns_and_lengths_are_distributed_as_in_the_original(mode: str) -> None:
    reference, ours = REFERENCE[mode], first_episodes(mode, num_envs=1024, each=20)
    many, few = len(ours["return"]), reference["episodes"]
    assert many == 1024 * 20
    for name in ("return", "length"):
        error = np.sqrt(ours[name].var() / many + reference[f"{name}_std"] ** 2 / few)
        assert abs(ours[name].mean() - reference[f"{name}_mean"]) < 4 * error, name
        for share, value in reference[f"{name}_quantiles"].items():
            # The reference's quantile is somewhere between ours a few standard errors below and above.
            slack = 4 * np.sqrt(float(share) * (1 - float(share)) * (1 / many + 1 / few))
            low, high = np.quantile(ours[name], np.clip([float(share) - slack, float(share) + slack], 0, 1))
            assert low - 1e-9 <= value <= high + 1e-9, (name, share)

    # Kolmogorov-Smirnov on the lengths, of which the last bin holds all longer ones.
    bins = len(reference["histogram_of_lengths"])
    histogram = np.bincount(np.minimum(ours["length"], bins - 1), minlength=bins)
    distance = np.abs((histogram.cumsum() / many) - np.cumsum(reference["histogram_of_lengths"]) / few).max()
    assert distance < 2.2 * np.sqrt(1 / many + 1 / few)  # exceeded once in ten thousand times
    assert ours["level"].mean() == pytest.approx(reference["level_mean"], abs=0.012)
