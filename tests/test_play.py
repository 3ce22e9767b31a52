"""play.py from end to end: videos of a trained agent, a window that opens, and bad input told in one line."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pygame
import pytest
import yaml

import play
from agents import A2C
from agents.config import AgentRun, EnvironmentConfig
from envs import MiniPacmanEnv
from rmc_rl.run_folder import RunFolder

ROOT = Path(play.__file__).parent


def make_run(path: Path, environment: EnvironmentConfig, steps: int) -> Path:
    """A run folder as training leaves it, of an agent that has hardly learned."""
    folder = RunFolder.create(path, yaml.safe_dump(asdict(AgentRun(environment=environment))))
    agent = A2C(
        "GRUPolicy",
        environment.id,
        environment.num_envs,
        env_kwargs=environment.kwargs,
        previous_action_reward=environment.previous_action_reward,
        policy_kwargs={"core_kwargs": {"hidden_size": 6}, "embedding_size": 5},
        seed=0,
        unroll_length=10,
    )
    agent.learn(steps)
    agent.save(folder.model)
    return path


@pytest.fixture(scope="module")
def pacman_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kwargs = {"observation": "planes", "frame_cap": 60}
    return make_run(tmp_path_factory.mktemp("runs") / "pacman", EnvironmentConfig(kwargs=kwargs, num_envs=4), 200)


@pytest.fixture(scope="module")
def cartpole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    environment = EnvironmentConfig(id="CartPole-v1", num_envs=2, previous_action_reward=False)
    return make_run(tmp_path_factory.mktemp("runs") / "cartpole", environment, 20)


def run_play(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """As a user without a display would, but for what `environment` adds."""
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    inherited = {name: value for name, value in os.environ.items() if name not in hidden}
    command = [sys.executable, "play.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=inherited | environment, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_recording_needs_no_display_and_ends_by_itself(pacman_run: Path, tmp_path: Path) -> None:
    video = tmp_path / "game.mp4"
    result = run_play(pacman_run, "--record", video, "--seed", 3, "--episodes", 2)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines[:2]] == ["episode 1", "episode 2"]
    assert all("return" in line and "level" in line and "steps" in line for line in lines[:2])
    assert lines[2:] == [f"wrote {video} (seed 3)"]
    assert video.read_bytes()[4:8] == b"ftyp"


@pytest.mark.slow
def test_a_window_plays_as_many_episodes_as_asked_for(pacman_run: Path) -> None:
    result = run_play(pacman_run, "--episodes", 1, "--speed", 512, "--seed", 5, SDL_VIDEODRIVER="dummy")
    assert result.returncode == 0, result.stderr
    seed, episode = result.stdout.splitlines()
    assert seed == "seed 5"
    assert episode.startswith("episode 1: return")


@pytest.mark.slow
def test_a_window_without_a_display_is_refused_in_one_line(pacman_run: Path) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux goes without a display")
    result = run_play(pacman_run)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "play.py: there is no display for a window; record a video instead: --record video.mp4\n"


def test_any_environment_that_renders_can_be_recorded(
    cartpole_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = tmp_path / "game.gif"
    assert play.main([str(cartpole_run), "--record", str(video), "--max-seconds", "0.1", "--deterministic"]) == 0
    assert capsys.readouterr().out.startswith("episode 1: return 4, 4 steps, cut here\n")  # 5 frames at 50 a second
    assert video.read_bytes().startswith(b"GIF89a")


def test_the_same_seed_records_the_same_game(pacman_run: Path, tmp_path: Path) -> None:
    """Sampled actions included."""
    games = [tmp_path / name for name in ("first.gif", "second.gif", "other.gif")]
    for game, seed in zip(games, ("1", "1", "2"), strict=True):
        assert play.main([str(pacman_run), "--record", str(game), "--seed", seed, "--max-seconds", "2"]) == 0
    first, second, other = (game.read_bytes() for game in games)
    assert first == second != other


@pytest.mark.parametrize(("given", "channels"), [(True, 6), (False, 3)], ids=["run", "no run"])
def test_a_person_plays_by_keyboard(
    pacman_run: Path, given: bool, channels: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the run's environment, or in the default one."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    original_step, actions = MiniPacmanEnv.step, []

    def step(env: MiniPacmanEnv, action: int) -> Any:
        """Press the right arrow after the first step, close the window after the third."""
        assert env.observation_space.shape == (5, 5, channels)
        actions.append(action)
        event = {1: pygame.event.Event(pygame.KEYDOWN, key=pygame.K_RIGHT), 3: pygame.event.Event(pygame.QUIT)}
        if len(actions) in event:
            pygame.event.post(event[len(actions)])
        return original_step(env, action)

    monkeypatch.setattr(MiniPacmanEnv, "step", step)
    assert play.main(["--human", "--speed", "200", "--seed", "1", *([str(pacman_run)] if given else [])]) == 0
    assert actions == [0, 1, 1]
    assert capsys.readouterr().out == "seed 1\n"


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What is said of bad input: one line, with exit code 2, and nothing else."""
    try:
        code = play.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1), err
    return err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--episodes", "0"], "argument --episodes: must be a whole number from 1 to 2147483647, got 0"),
        (["--episodes", "-1"], "argument --episodes: must be a whole number from 1 to 2147483647, got -1"),
        (["--seed", "1.5"], "argument --seed: must be a whole number from 0 to 2147483647, got 1.5"),
        (["--speed", "0"], "argument --speed: must be a number above 0, at most 1,000,000, got 0"),
        (["--speed", "nan"], "argument --speed: must be a number above 0, at most 1,000,000, got nan"),
        (["--max-seconds", "5"], "--max-seconds is the length of a video: name its file with --record FILE"),
        (["--human", "--record", "game.mp4"], "argument --record: not allowed with argument --human"),
        (
            ["--seed", "99999999999999999999999"],
            "argument --seed: must be a whole number from 0 to 2147483647, got 999",
        ),
        (["--max-seconds", "1e308"], "argument --max-seconds: must be a number above 0, at most 1,000,000, got 1e308"),
        (["--human", "--deterministic"], "--model and --deterministic are of an agent that plays"),
        (["--model", "worst"], "argument --model: invalid choice: 'worst'"),
        (["--colour"], "unrecognized arguments: --colour"),
        (["nowhere"], "there is no run folder nowhere"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert refusal(capsys, *arguments).startswith(f"play.py: {message}")


def test_a_run_that_cannot_be_played_is_refused(
    pacman_run: Path, cartpole_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "has no best model yet" in refusal(capsys, pacman_run, "--model", "best")
    assert "plays Mini-Pacman alone" in refusal(capsys, cartpole_run, "--human")
    assert "must end in .mp4 or .gif, got game.avi" in refusal(capsys, pacman_run, "--record", "game.avi")
    assert "No such file or directory" in refusal(capsys, pacman_run, "--record", tmp_path / "no" / "game.gif")

    copy = Path(shutil.copytree(pacman_run, tmp_path / "copy"))
    (copy / "model.zip").write_bytes((pacman_run / "model.zip").read_bytes()[:-100])
    assert "cannot load" in refusal(capsys, copy)
    shutil.copy(cartpole_run / "model.zip", copy)
    assert "spaces do not match" in refusal(capsys, copy)
    (copy / "config.yaml").write_text("run: nth_farthest\n")
    assert "does not describe an agent's run" in refusal(capsys, copy)
    (copy / "config.yaml").write_text("environment: {id: Unheard-v0}\n")
    assert "Unheard" in refusal(capsys, copy)


def test_a_run_that_goes_on_is_played_from_its_newest_checkpoint(pacman_run: Path, tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", (pacman_run / "config.yaml").read_text())
    for steps in (90, 1000):
        shutil.copy(pacman_run / "model.zip", folder.checkpoint(steps))
    assert play.model_path(folder, "last") == folder.checkpoint(1000)
    shutil.copy(pacman_run / "model.zip", folder.model)  # of a run that had ended, and now goes on
    assert play.model_path(folder, "last") == folder.checkpoint(1000)
    shutil.rmtree(folder.path / "checkpoints")
    assert play.model_path(folder, "last") == folder.model
    shutil.copy(pacman_run / "model.zip", folder.best_model)
    assert play.model_path(folder, "best") == folder.best_model


def test_help_is_instant() -> None:
    """Nothing heavy is loaded before the arguments are known to be good."""
    code = "import play, sys; play.parse(['--human']); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "argparse" in loaded.split()
    assert not {"torch", "gymnasium", "pygame", "numba", "stable_baselines3"} & set(loaded.split())


def test_the_agents_that_come_along_are_listed_with_their_scores() -> None:
    shown = run_play("--list")
    assert shown.returncode == 0
    listed = {line.split()[0]: line for line in shown.stdout.splitlines()}
    assert {"quick_start", "viewport_rmc"} <= listed.keys()
    for name, line in listed.items():
        score = json.loads((play.PRETRAINED / name / "evaluation.json").read_text())
        assert f"return {score['mean_return']:.0f} " in line
        card = (play.PRETRAINED / name / "README.md").read_text()
        assert f"| return | {score['mean_return']:.1f} (" in card


def test_a_reader_of_the_list_may_stop_early() -> None:
    """As in `python play.py --list | head -1`."""
    command = [sys.executable, "play.py", "--list"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_an_agent_is_played_by_its_name(tmp_path: Path) -> None:
    video = tmp_path / "game.gif"
    played = run_play("--agent", "viewport_rmc", "--record", video, "--max-seconds", "1", "--seed", "5")
    assert played.returncode == 0, played.stderr
    assert video.stat().st_size > 1000


def test_an_unknown_agent_is_told_in_one_line_with_those_there_are() -> None:
    refused = run_play("--agent", "nobody")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "'nobody'" in refused.stderr
    assert "quick_start" in refused.stderr
