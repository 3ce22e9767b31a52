"""docs/spaces.md: what it shows runs, and what it names is what there is."""

import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from gymnasium import spaces
from torch.utils.flop_counter import FlopCounterMode

from rmc_rl.encoders import ENCODERS, make_encoder
from rmc_rl.masks import choices
from rmc_rl.network import RecurrentActorCritic

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "spaces.md").read_text()
CODE = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_python_blocks_run() -> None:
    """One after the other, as whoever reads on would paste them; the last one plays legal moves alone."""
    assert TEXT.count("```") == 2 * len(CODE) == 6
    names: dict[str, Any] = {"__name__": "spaces"}
    with torch.random.fork_rng():
        for code in CODE:
            exec(compile(code, "docs/spaces.md", "exec"), names)
    assert names["policy"].network.encoder.features_dim == 32 * 11 * 11 + 5
    assert names["model"].num_timesteps >= 2_000
    assert names["truncated"] or names["terminated"]


def test_every_encoder_is_listed() -> None:
    assert set(re.findall(r'^\| `"(\w+)"` \|', TEXT, re.MULTILINE)) == {"auto", *ENCODERS}


@pytest.mark.parametrize(
    ("name", "space"),
    [
        ("Discrete", spaces.Discrete(3)),
        ("MultiDiscrete", spaces.MultiDiscrete([2, 3])),
        ("MultiBinary", spaces.MultiBinary([2, 3])),
        ("Box", spaces.Box(-1, 1, (2,))),
        ("Dict", spaces.Dict({"part": spaces.Discrete(3)})),
    ],
)
def test_observations_that_are_listed_are_taken(name: str, space: gym.Space[Any]) -> None:
    observations = TEXT.partition("## Actions")[0]
    assert re.search(rf"^\| .*`{name}`", observations, re.MULTILINE)
    make_encoder(space)


def test_the_lengths_of_masks() -> None:
    masks = TEXT.partition("## Action masks")[2]
    assert "| `Discrete(n)` | n entries |" in masks
    assert choices(spaces.Discrete(7)) == [7]
    assert "| `MultiDiscrete([a, b])` | a entries, then b |" in masks
    assert choices(spaces.MultiDiscrete([3, 5])) == [3, 5]
    assert "| `MultiBinary(n)` | 2 n entries" in masks
    assert sum(choices(spaces.MultiBinary(4))) == 8


def test_work_of_large_encoders() -> None:
    """Multiplications and additions for one image, the layer after the encoder included."""
    (line,) = re.findall(r"for 84 x 84 pixels (\d+) MFLOP, where `nature` has (\d+)", TEXT)
    for name, mega_flops in zip(("resnet", "nature"), line, strict=True):
        network = RecurrentActorCritic(spaces.Box(0, 1, (84, 84, 3)), spaces.Discrete(2), "identity", encoder=name)
        with FlopCounterMode(display=False) as counter:
            network.embedding(network.encoder(torch.rand(1, 84, 84, 3)))
        assert round(counter.get_total_flops() / 1e6) == int(mega_flops)


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert (ROOT / "docs" / link).exists(), link
