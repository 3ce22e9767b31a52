"""Watch an agent play, play yourself, or record a video."""

import argparse
import math
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from agents.config import EnvironmentConfig

if TYPE_CHECKING:
    from agents.watch import Scene
    from agents.window import Keyboard
    from rmc_rl.run_folder import RunFolder

PRETRAINED = Path(__file__).parent / "pretrained"
QUICK_START = "quick_start"
EXAMPLES = """\
examples:
  python play.py                                 the agent of the quick start
  python play.py --list                          the agents that come with the project
  python play.py --agent NAME                    one of these
  python play.py runs/NAME                       an agent of yours, also while it is being trained
  python play.py --human                         Mini-Pacman with arrows or WASD; space stays
  python play.py runs/NAME --record game.mp4     a video instead of a window (.mp4 or .gif)

keys:
  + -  faster, slower     P  pause     N  next step     Q  quit
"""
KEYS = {"space": 0, "right": 1, "d": 1, "up": 2, "w": 2, "left": 3, "a": 3, "down": 4, "s": 4}
"""Mini-Pacman's actions by Pygame's names of keys."""
STAY = 0
MOST = 1_000_000
"""Seconds of a video, or steps per second."""


@dataclass
class Game:
    """What is shown, and how."""

    title: str
    seed: int
    scenes: "Iterator[Scene]"
    pace: float
    """The environment's own, in steps per second."""
    keyboard: "Keyboard | None" = None


def main(arguments: list[str]) -> int:
    """Parse, build, run. Returns the exit code: 0, 2 for bad input, 130 if interrupted."""
    options = parse(arguments)
    if options.list:
        list_agents()
        return 0
    try:
        game = human_game(options) if options.human else agent_game(options)
        if options.record:
            record(game, options)
        else:
            show(game, options)
    except ValueError as error:
        print(f"play.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """In one line, without the usage."""
        self.exit(2, f"{self.prog}: {message}\n")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser("play.py", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawTextHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("run", nargs="?", type=Path, help="folder of a run; default: the quick start's agent")
    which.add_argument("--agent", choices=pretrained(), metavar="NAME", help="an agent that comes with the project")
    which.add_argument("--list", action="store_true", help="the names of these, with their scores")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--human", action="store_true", help="you play, in the run's environment if one is given")
    kind.add_argument("--record", type=Path, metavar="FILE", help="write a video, .mp4 or .gif, and open no window")
    parser.add_argument("--model", choices=("last", "best"), default="last", help="which of the run's; default: last")
    parser.add_argument("--deterministic", action="store_true", help="take the likeliest actions, not sampled ones")
    parser.add_argument("--seed", type=whole(0), metavar="N", help="of the games; default: a new one every time")
    parser.add_argument("--episodes", type=whole(1), metavar="N", help="default: 1 in a video, no end in a window")
    parser.add_argument("--max-seconds", type=above_zero, metavar="X", help="cut the video to this length")
    parser.add_argument("--speed", type=above_zero, metavar="X", help="steps per second; default: the game's own")
    options = parser.parse_args(arguments)
    if options.agent:
        options.run = PRETRAINED / options.agent
    if options.max_seconds and not options.record:
        parser.error("--max-seconds is the length of a video: name its file with --record FILE")
    if options.human and (options.deterministic or options.model != "last"):
        parser.error("--model and --deterministic are of an agent that plays: leave them out with --human")
    return options


def pretrained() -> list[str]:
    """The names of the agents that come with the project."""
    return sorted(config.parent.name for config in PRETRAINED.glob("*/config.yaml"))


def list_agents() -> None:
    """One line for each agent that comes with the project."""
    try:
        print("\n".join(f"{name:28} {description(PRETRAINED / name)}" for name in pretrained()), flush=True)
    except BrokenPipeError:  # `play.py --list | head` has read enough; what is left is flushed at exit, to nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def description(agent: Path) -> str:
    """What an agent is and what it reaches, in one line."""
    import json

    import yaml

    config = yaml.safe_load((agent / "config.yaml").read_text(encoding="utf-8"))
    score = json.loads((agent / "evaluation.json").read_text(encoding="utf-8"))
    viewport = config["environment"]["kwargs"].get("viewport", 5)
    whole = {None: "whole maze", "centred": "whole maze, centred"}
    view = whole.get(viewport, f"{viewport} x {viewport} viewport")
    margin = 1.96 * score["standard_error"]
    return (
        f"{config['policy']['name']}, {view}, {score['steps'] / 1e6:.0f} million steps: "
        f"return {score['mean_return']:.0f} (95% interval +- {margin:.0f}, {score['episodes']} games)"
    )


def whole(least: int) -> Callable[[str], int]:
    """A parser of whole numbers from `least` to 2^31 - 1."""

    def parse_whole(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) < 2**31:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {2**31 - 1}, got {text}")
        return int(text)

    return parse_whole


def above_zero(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= MOST:
        raise argparse.ArgumentTypeError(f"must be a number above 0, at most {MOST:,}, got {text}")
    return number


def agent_game(options: argparse.Namespace) -> Game:
    """A run's agent in its environment.

    Raises:
        ValueError: a folder that is no run's, a model that cannot be read, an environment that draws nothing.
    """
    import torch

    from agents.saved_model import SavedModel
    from agents.watch import make_watched_env, pace, watch
    from rmc_rl.run_folder import RunFolder

    folder = RunFolder.open(options.run or PRETRAINED / QUICK_START)
    environment = read_environment(folder)
    policy = SavedModel.read(model_path(folder, options.model)).policy
    env = make_watched_env(environment.id, environment.kwargs, environment.previous_action_reward)
    seed = choose_seed(options)
    torch.manual_seed(seed)
    scenes = watch(policy, env, seed, options.deterministic)
    title = f"{folder.path.resolve().name}: {type(policy).__name__}, {environment.id}"
    return Game(title, seed, scenes, pace(env))


def human_game(options: argparse.Namespace) -> Game:
    """Mini-Pacman for a person, as in the run if there is one.

    Raises:
        ValueError: a folder that is no run's, or another environment than Mini-Pacman.
    """
    from agents.watch import make_visible_env, pace, play
    from agents.window import Keyboard
    from envs import MiniPacmanEnv
    from rmc_rl.run_folder import RunFolder

    environment = read_environment(RunFolder.open(options.run)) if options.run else EnvironmentConfig()
    env = make_visible_env(environment.id, environment.kwargs)
    if not isinstance(env.unwrapped, MiniPacmanEnv):
        raise ValueError(f"--human plays Mini-Pacman alone, and this run's environment is {environment.id}")
    keyboard = Keyboard(KEYS, STAY)
    seed = choose_seed(options)
    return Game("Mini-Pacman", seed, play(env, keyboard.action, seed), pace(env), keyboard)


def read_environment(folder: "RunFolder") -> EnvironmentConfig:
    """The environment of a run's configuration."""
    import yaml

    from rmc_rl.run_folder import RunFolderError

    try:
        return EnvironmentConfig(**yaml.safe_load(folder.config.read_text(encoding="utf-8"))["environment"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise RunFolderError(f"{folder.config} does not describe an agent's run: {error}") from error


def model_path(folder: "RunFolder", which: str) -> Path:
    """The file of the last or the best model; the last is the newest checkpoint, also of a run that goes on."""
    from rmc_rl.run_folder import RunFolderError

    saved = [folder.best_model] if which == "best" else [*folder.checkpoints(), folder.model]
    for path in saved:
        if path.is_file():
            return path
    raise RunFolderError(f"{folder.path} has no {which} model yet")


def choose_seed(options: argparse.Namespace) -> int:
    return secrets.randbelow(2**31) if options.seed is None else int(options.seed)


def show(game: Game, options: argparse.Namespace) -> None:
    """Play in a window, and print every game that ends."""
    from agents.watch import Scene, cut
    from agents.window import Window

    def reported(scenes: Iterator[Scene]) -> Iterator[Scene]:
        for scene in scenes:
            if scene.ended:
                print(scene, flush=True)
            yield scene

    window = Window(game.title, options.speed or game.pace, game.keyboard)
    print(f"seed {game.seed}", flush=True)
    window.show(cut(reported(game.scenes), options.episodes))


def record(game: Game, options: argparse.Namespace) -> None:
    """Write a video, and print every game in it."""
    from tqdm import tqdm

    from agents.video import record as record_scenes
    from agents.video import video_length
    from agents.watch import Scene, cut

    fps = options.speed or game.pace
    scenes = cut(game.scenes, options.episodes or 1, video_length(options.max_seconds, fps))

    def with_progress() -> Iterator[Scene]:
        yield from tqdm(scenes, "recording", unit=" frames")

    for scene in record_scenes(options.record, with_progress(), fps):
        print(scene if scene.ended else f"{scene}, cut here")
    print(f"wrote {options.record} (seed {game.seed})")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
