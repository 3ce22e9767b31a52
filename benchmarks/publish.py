"""Put a trained agent among those that come with the project: `python -m benchmarks.publish RUN NAME`.

Copies what `play.py --agent NAME` needs from a finished run into pretrained/NAME, and writes its card (README.md): the
score with its interval, core, steps, seed, command.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from rmc_rl.files import replacing
from rmc_rl.run_folder import RunFolder, write_text

PRETRAINED = Path(__file__).parents[1] / "pretrained"
FILES = ("config.yaml", "evaluation.json", "model.zip", "versions.json")
CARD = """\
# {name}

| | |
|---|---|
| return | {mean_return:.1f} (95% interval {low:.1f} to {high:.1f}; mean of {episodes} fresh games, actions sampled) |
| length | {mean_length:.0f} steps |
| policy | {policy[name]}, core_kwargs {policy[core_kwargs]} |
| environment | {environment[id]}, {environment[kwargs]} |
| trained for | {steps:,} steps with {algorithm}, seed {seed} |

Watch it: `python play.py --agent {name}`.
Train another: `python train.py --config pretrained/{name}/config.yaml --name NEW`.
Every setting is in config.yaml; what it was trained with, in versions.json.
"""


def publish(folder: RunFolder, name: str, pretrained: Path) -> Path:
    """Copy a finished run to pretrained/NAME and write its card; an older agent of that name is replaced.

    Raises:
        ValueError: the name is not one of a folder, or the run has not ended.
        OSError: a file cannot be read or written.
    """
    if not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"NAME must be of letters, digits, '_' and '-', got {name!r}")
    missing = [file for file in FILES if not (folder.path / file).is_file()]
    if missing:
        raise ValueError(f"RUN must be a run that has ended, but {folder.path} has no {', '.join(missing)}")
    target = pretrained / name
    target.mkdir(parents=True, exist_ok=True)
    for file in FILES:
        with replacing(target / file) as unfinished:
            unfinished.write((folder.path / file).read_bytes())
    write_text(target / "README.md", card(folder, name))
    return target


def card(folder: RunFolder, name: str) -> str:
    """What is known of the agent, from its run's configuration and final evaluation."""
    config: dict[str, Any] = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
    score: dict[str, Any] = json.loads(folder.evaluation.read_text(encoding="utf-8"))
    margin = 1.96 * score["standard_error"]
    interval = {"low": score["mean_return"] - margin, "high": score["mean_return"] + margin}
    return CARD.format(**{"algorithm": "A2C", **config, **score, **interval, "name": name})


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0, or 2 for bad input."""
    parser = argparse.ArgumentParser("python -m benchmarks.publish", description=__doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a run that has ended")
    parser.add_argument("name", metavar="NAME", help="what the agent is to be called")
    options = parser.parse_args(arguments)
    try:
        print(f"wrote {publish(RunFolder.open(options.run), options.name, PRETRAINED)}")
    except (ValueError, OSError) as error:
        print(f"publish: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
