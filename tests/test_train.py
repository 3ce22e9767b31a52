"""The command `train.py`: what it takes, what it refuses and how, and what it leaves on disk, however it ends."""

import csv
import itertools
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import docstring_parser
import imageio_ffmpeg
import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import play
import train
from agents import A2C, IMPALA
from agents.config import AgentRun
from agents.evaluate import rollout
from rmc_rl.checkpoint import load_checkpoint
from rmc_rl.run_folder import RunFolder
from rmc_rl.vec_env import make_vec_env

ROOT = Path(__file__).parents[1]
STEPS, INTERVAL, NUM_ENVS, UNROLL = 3000, 1200, 6, 5
TINY: dict[str, Any] = {
    "total_timesteps": STEPS,
    "device": "cpu",
    "checkpoint_minutes": 0.0,
    "environment": {"num_envs": NUM_ENVS, "kwargs": {"viewport": 5, "observation": "planes", "frame_cap": 40}},
    "policy": {"core_kwargs": {"mem_slots": 2, "head_size": 3, "num_heads": 2}, "embedding_size": 8},
    "agent": {"unroll_length": UNROLL},
    "evaluation": {"interval": INTERVAL, "episodes": 3, "final_episodes": 4, "video_seconds": 0.5},
}
"""A run that takes about a second."""
TINY_IMPALA: dict[str, Any] = {
    **{key: value for key, value in TINY.items() if key != "agent"},
    "algorithm": "IMPALA",
    "impala": {"unroll_length": UNROLL, "batch_size": NUM_ENVS},
    "placement": {"kind": "local", "actors": 2},
}
"""The same with IMPALA, and actors in processes of their own."""
FAULTY = ["--environment.id=tests.faulty_envs:Faulty-v0"]


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs go to `runs/` where the command is given."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))


def command(*arguments: str, python: tuple[str, ...] = ()) -> list[str]:
    return [sys.executable, *python, str(ROOT / "train.py"), *arguments]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}  # two threads beside another load are slower than one


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The real command in a group of processes of its own, killed in the end."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    group = {"text": True, "env": environment(), "start_new_session": True}
    with subprocess.Popen(command(*arguments), **group, **pipes) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


def wait_for_checkpoint(process: subprocess.Popen[str], folder: str, seconds: float) -> None:
    """Until the run has one, or has ended."""
    deadline = time.monotonic() + seconds
    checkpoints = Path(folder, "checkpoints")
    while len(list(checkpoints.glob("*.zip"))) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)


def progress(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def parameters(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(checkpoint, "model")[1]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says of bad input: one line, exit code 2, and nothing on stdout."""
    assert train.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("train.py: ")
    assert captured.err.endswith("\n")
    assert captured.err.count("\n") == 1
    return captured.err


# ---------------------------------------------------------------------------------------------------------- help


def documented_fields(configuration: type, prefix: str = "--") -> dict[str, str]:
    """Of each option, its documentation: the text below the field."""
    documentation = {
        parameter.arg_name: parameter.description or ""
        for base in reversed(configuration.__mro__[:-1])
        for parameter in docstring_parser.parse_from_object(base).params
    }
    options: dict[str, str] = {}
    for field in fields(configuration):
        if is_dataclass(field.type):
            assert isinstance(field.type, type)
            options |= documented_fields(field.type, f"{prefix}{field.name}.")
        else:
            options[f"{prefix}{field.name}"] = documentation[field.name]
    return options


def test_help_explains_every_setting_and_waits_for_nothing() -> None:
    """Whoever asks what there is gets all of it, at once: nothing heavy is imported."""
    arguments = command("--help", python=("-X", "importtime"))
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, env=environment())
    text = " ".join(done.stdout.split()).replace("- ", "-")  # argparse breaks lines at hyphens too
    options = documented_fields(AgentRun)
    assert len(options) > 25
    for option, documentation in options.items():
        assert documentation, option
        assert f"{option} " in text
        assert " ".join(documentation.split()).replace("- ", "-") in text
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "yaml" in imported
    assert imported & {"torch", "numpy", "gymnasium", "stable_baselines3", "numba", "pygame", "matplotlib"} == set()


def test_printed_configuration_can_be_used(capsys: pytest.CaptureFixture[str]) -> None:
    """`--print_config` is where a configuration of one's own begins."""
    with pytest.raises(SystemExit) as end:
        train.main(["--config=tiny.yaml", "--name=mine", "--seed=7", "--print_config"])
    assert end.value.code == 0
    Path("printed.yaml").write_text(capsys.readouterr().out)
    config, resume = train.parse(["--config=printed.yaml"])
    assert config == train.parse(["--config=tiny.yaml", "--name=mine", "--seed=7"])[0]
    assert (config.seed, config.agent.unroll_length, resume) == (7, UNROLL, None)


def test_name_of_a_run() -> None:
    """Runs are found again by their configuration's name, or the name they were given."""
    Path("some_idea.yaml").write_text("seed: 2\n")
    for arguments in (["--config", "some_idea.yaml"], ["--config=some_idea.yaml"]):
        assert re.fullmatch(r"some_idea-seed2-\d{8}-\d{6}", str(train.parse(arguments)[0].name))
    assert train.parse(["--config=some_idea.yaml", "--name=chosen"])[0].name == "chosen"
    assert re.fullmatch(r"quick_start-seed0-\d{8}-\d{6}", str(train.parse([])[0].name))


# ------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("agent: {learning_rte: 0.1}", "'learning_rte'"),
        ("learning_rate: 0.1", "'learning_rate'"),
        ("seed: many", 'key "seed": Expected a .*int.*many'),
        ("total_timesteps: 2.5", 'key "total_timesteps": Expected a .*int'),
        ("agent: {normalize_advantages: 1}", "agent.normalize_advantages.*bool"),
        ("agent: {learning_rate: .nan}", "learning_rate must be above 0, got nan"),
        ("agent: {discount: 1.01}", "discount must be from 0 to 1, got 1.01"),
        ("agent: cartpole", "agent.*cartpole"),
        ("environment: [1, 2]", "environment must hold settings"),
        ("run: game", "Expected a .*agent.*game"),
        ("seed: null", "seed must have a value, got null"),
        ("agent: {learning_rate: null}", "agent.learning_rate must have a value"),
        ("environment: null", "environment must hold settings"),
        ("policy: {name: null}", "policy.name must have a value"),
        ("resume: runs/x", "resume belongs on the command line"),
        ("- 1\n- 2", "Unexpected config"),
        ("hello", "Unexpected config: hello"),
        ("", "Unexpected config"),
        ("seed: [1", "parsing config.*line 1"),
        ("seed: 1\n\tname: x", "parsing config.*line 2"),
        (b"\xff\xfeseed: 1", "utf-8"),
    ],
)
def test_bad_configurations(text: str | bytes, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A configuration that does not say what it should is refused, never half-obeyed."""
    Path("bad.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert re.search(reason, refusal(["--config=bad.yaml", "--total_timesteps=30"], capsys))
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--config"], "expected one argument"),
        (["--config=missing.yaml"], "missing.yaml"),
        (["--config=."], "not a file"),
        (["--resume"], "expected one argument"),
        (["--resume=runs/missing"], "there is no run folder runs/missing"),
        (["--resume", "."], "is not a run folder: it has no config.yaml"),
        (["--resume=tiny.yaml"], "there is no run folder tiny.yaml"),
        (["--resum=runs/missing"], "unrecognized arguments: --resum"),
        (["--conf=tiny.yaml"], "unrecognized arguments: --conf"),
        (["runs/x"], "unrecognized arguments: runs/x"),
        (["--sede=1"], "unrecognized arguments: --sede"),
        (["--seed=1000000"], "seed must be from 0 to 999999, got 1000000"),
        (["--seed=-1"], "seed must be from 0 to 999999, got -1"),
        (["--seed=1.5"], "seed"),
        (["--total_timesteps=0"], "total_timesteps must be at least 1"),
        (["--checkpoint_minutes=-1"], "checkpoint_minutes must be at least 0"),
        (["--device=abacus"], "device must be .*, got 'abacus'"),
        (["--device=meta"], "device must be .*, got 'meta'"),
        (["--name="], "name must name a folder, got ''"),
        (["--name=taken"], "runs/taken exists already: choose another name"),
        (["--name=../tiny.yaml/x"], "cannot write the run folder .*: Not a directory"),
        (["--environment.num_envs=0"], "environment.num_envs must be at least 1, got 0"),
        (["--environment.kwargs.mode=chess"], "mode must be one of .*'regular'.*, got 'chess'"),
        (["--environment.kwargs.viewport=4"], "viewport must be odd.*, got 4"),
        (["--environment.kwargs.observation=smell"], "observation must be one of .*, got 'smell'"),
        (["--environment.kwargs.viewprot=5"], "'viewprot'"),
        (["--environment.kwargs=[5]"], "environment.kwargs"),
        (["--environment.id=Chess-v0"], "must be a registered id, got 'Chess-v0'"),
        (["--environment.id=chess:Chess-v0"], "must be a registered id.*No module named 'chess'"),
        (["--environment.id=envs:Chess-v0"], "must be a registered id, got 'envs:Chess-v0'"),
        (["--environment.id="], "must be a registered id, got ''"),
        (["--environment.id=CartPole-v1"], "CartPole.*unexpected keyword argument"),
        (["--environment.id=Blackjack-v1", "--environment.kwargs={}"], "[Nn]ested"),
        (["--environment.id=tests.faulty_envs:NoDependency-v0", "--environment.kwargs={}"], "no_such_module"),
        (["--policy.name=NTMPolicy"], "policy.name.*NTMPolicy"),
        (["--policy.encoder=eye"], "encoder must be one of .*, got 'eye'"),
        (["--policy.encoder_kwargs={lenses: 2}"], "'lenses'"),
        (["--policy.embedding_size=0"], "policy.embedding_size must be at least 1"),
        (["--policy.core_kwargs={mem_slots: 0}"], "mem_slots must be .*, got 0"),
        (["--policy.core_kwargs={mem_slots: 2.5}"], "mem_slots must be .*, got 2.5"),
        (["--policy.core_kwargs={slots: 2}"], "'slots'"),
        (
            ["--policy.name=LSTMPolicy"],
            "LSTM.*unexpected keyword argument",
        ),  # the configuration's core_kwargs are the RMC's
        (["--agent.unroll_length=0"], "unroll_length must be .*at least 1"),
        (["--agent.learning_rate_schedule=cosine"], "learning_rate_schedule.*cosine"),
        (["--algorithm=PPO"], "algorithm.*PPO"),
        (["--algorithm=IMPALA"], "agent must be left out with algorithm IMPALA, whose settings are in impala"),
        (["--impala.batch_size=4"], "impala must be left out with algorithm A2C"),
        (["--placement.kind=local"], "placement must be left out with algorithm A2C"),
        (["--placement.actors=0"], "placement.actors must be a whole number of at least 1, got 0"),
        (["--placement.actors=2"], "placement.kind must be 'local' or 'ray' where actors is set"),
        (["--evaluation.interval=-1"], "evaluation.interval must be at least 0"),
        (["--evaluation.episodes=0"], "evaluation.episodes must be at least 1"),
        (["--evaluation.final_episodes=0"], "evaluation.final_episodes must be at least 1"),
        (["--evaluation.video_seconds=-1"], "evaluation.video_seconds must be from 0 to 86400, got -1"),
        (["--evaluation.video_seconds=.inf"], "evaluation.video_seconds must be from 0 to 86400, got inf"),
        (["--threads=0"], "threads must be from 1 to 1024, got 0"),
        (["--threads=100000000000"], "threads must be from 1 to 1024, got 100000000000"),
    ],
)
def test_bad_arguments(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong is said in one line before anything is written: no traceback, no empty run folder."""
    Path("runs/taken").mkdir(parents=True)
    Path("runs/taken/notes.txt").write_text("mine")
    alone = {"--config", "--resume"} & {argument.partition("=")[0] for argument in arguments}
    assert re.search(reason, refusal([*([] if alone else ["--config=tiny.yaml"]), *arguments], capsys))
    assert [path.name for path in Path("runs").iterdir()] == ["taken"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--agent.unroll_length=5"], "agent must be left out with algorithm IMPALA"),
        (["--impala.batch_size=0"], "batch_size must be a whole number of at least 1, got 0"),
        (["--impala.batch_size=4"], "batch_size must be a multiple or divisor of 3, .*got 4"),
        (["--impala.batch_size=24"], "batch_size must be at most 12, .*got 24"),
        (["--impala.optimizer=sgd"], "optimizer.*sgd"),
        (["--placement.kind=cloud"], "placement.kind.*cloud"),
        (["--placement.actors=4"], "environments must be a multiple of the 4 actors, got 6"),
        (["--placement.max_restarts=-1"], "placement.max_restarts must be at least 0, got -1"),
        (["--placement.precision=fp16"], "placement.precision.*fp16"),
        (["--replicas=4"], "replicas must divide environment.num_envs, 6, got 4"),
        (["--replicas=6"], "environments must be a multiple of the 12 actors, got 6"),
        (["--threads=2"], "threads must be 1 with placement.kind local, got 2"),
    ],
)
def test_bad_arguments_of_impala(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever actors, learners and batch cannot share is refused before anything is started."""
    Path("impala.yaml").write_text(yaml.safe_dump(TINY_IMPALA))
    assert re.search(reason, refusal(["--config=impala.yaml", *arguments], capsys))
    assert not Path("runs").exists()


def test_runs_that_is_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs").write_text("")
    assert "cannot write the run folder runs/x" in refusal(["--config=tiny.yaml", "--name=x"], capsys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever asks for a GPU must not find out days later that there was none."""
    assert "device must be" in refusal(["--config=tiny.yaml", "--device=cuda"], capsys)


def test_the_process_ends_with_the_code() -> None:
    """Shell scripts and job queues go by it."""
    done = subprocess.run(command("--seed=many"), capture_output=True, text=True, check=False, env=environment())
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


# --------------------------------------------------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, subprocess.CompletedProcess[str]]:
    """The real command, from a configuration to the end. Not to be changed: copy it."""
    path = tmp_path_factory.mktemp("finished")
    (path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    arguments = command("--config=tiny.yaml", "--name=whole", "--seed=11", python=("-W", "error"))
    done = subprocess.run(arguments, cwd=path, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 0, done.stderr
    return RunFolder.open(path / "runs" / "whole"), done


@pytest.fixture
def copy(finished: tuple[RunFolder, object]) -> RunFolder:
    """The finished run, at `runs/whole`."""
    shutil.copytree(finished[0].path, "runs/whole")
    return RunFolder.open("runs/whole")


def test_run_folder_holds_what_it_says(finished: tuple[RunFolder, object]) -> None:
    """The docstring of RunFolder is the documentation of what a run leaves; nothing more lies around."""
    folder = finished[0]
    assert RunFolder.__doc__ is not None
    patterns = re.findall(r"^    ([\w*./]+)  ", RunFolder.__doc__, re.MULTILINE)
    assert len(patterns) == 9
    assert all(list(folder.path.glob(pattern.rstrip("/"))) for pattern in patterns)
    found = {path for pattern in patterns for path in folder.path.glob(pattern.rstrip("/"))}
    best_figures = folder.path / "best_model.json"
    assert {best_figures} == set(folder.path.iterdir()) - found
    assert [path.name for path in folder.checkpoints()] == ["model_3000.zip", "model_2970.zip"]
    assert folder.model.read_bytes() == folder.checkpoint(STEPS).read_bytes()


def test_configuration_comes_back(finished: tuple[RunFolder, object]) -> None:
    """A run is repeated by the file that it left: every setting is in it, and means the same."""
    folder = finished[0]
    again = train.parse([f"--config={folder.config}"])[0]
    given = train.parse(["--config=tiny.yaml", "--name=whole", "--seed=11"])[0]
    assert again == replace(given, replicas=1)  # so few environments are not shared
    written = yaml.safe_load(folder.config.read_text())
    assert written.keys() == {field.name for field in fields(AgentRun)}
    assert written["agent"].keys() == {field.name for field in fields(type(again.agent))}


def test_logs(finished: tuple[RunFolder, object]) -> None:
    """CSV and TensorBoard tell the same, under Stable-Baselines3's names, so that its tools can read them."""
    folder = finished[0]
    rows = progress(folder.path / "progress.csv")
    steps = [int(row["time/total_timesteps"]) for row in rows]
    assert steps == list(range(300, STEPS + 1, 300))  # every 10 updates
    names = {"rollout/ep_rew_mean", "rollout/ep_len_mean", "time/fps", "time/time_elapsed", "time/iterations"}
    names |= {f"train/{name}" for name in ("policy_loss", "value_loss", "entropy_loss", "loss", "learning_rate")}
    names |= {"train/explained_variance", "train/n_updates"}
    figures = {f"eval/{name}" for name in ("mean_return", "standard_error", "mean_length", "mean_level")}
    assert names | figures <= rows[0].keys()
    assert all(np.isfinite(float(row[name])) for row in rows for name in names - {"rollout/ep_rew_mean"})
    evaluated = [step for step, row in zip(steps, rows, strict=True) if row["eval/mean_return"]]
    assert evaluated == [1500, 2700]  # at 1200 and 2400, logged with the next rows

    events = EventAccumulator(str(folder.path)).Reload()
    scalars = set(events.Tags()["scalars"])
    assert names - {"time/time_elapsed", "time/iterations", "train/n_updates"} | figures <= scalars
    for name in ("train/value_loss", "rollout/ep_rew_mean", "eval/mean_return"):
        logged = [(event.step, event.value) for event in events.Scalars(name)]
        expected = [(step, float(row[name])) for step, row in zip(steps, rows, strict=True) if row[name]]
        assert [step for step, _ in logged] == [step for step, _ in expected]
        np.testing.assert_allclose([value for _, value in logged], [value for _, value in expected], rtol=1e-5)


def test_final_evaluation(finished: tuple[RunFolder, subprocess.CompletedProcess[str]]) -> None:
    """The score is in the folder and in the last lines, with how far it can be trusted."""
    folder, done = finished
    evaluation = json.loads(folder.evaluation.read_text())
    assert (evaluation["steps"], evaluation["episodes"]) == (STEPS, 4)
    assert evaluation["standard_error"] >= 0
    assert 0 < evaluation["mean_length"] <= 40
    assert evaluation["mean_level"] >= 1
    lines = done.stdout.splitlines()
    assert lines[0] == "run folder: runs/whole"
    assert lines[-2] == (
        f"return {evaluation['mean_return']:.1f} +- {evaluation['standard_error']:.1f} (standard error) over 4 "
        f"episodes, mean length {evaluation['mean_length']:.0f} steps, mean level {evaluation['mean_level']:.1f}"
    )
    assert lines[-1] == "watch it play: python play.py runs/whole"
    assert len(lines) == 3


def test_best_model(finished: tuple[RunFolder, object]) -> None:
    """The best model is one that was evaluated, with the best of the logged returns."""
    folder = finished[0]
    best = json.loads(folder.best_evaluation.read_text())
    returns = [float(row["eval/mean_return"] or "nan") for row in progress(folder.path / "progress.csv")]
    assert best["mean_return"] == pytest.approx(np.nanmax(returns))
    assert best["steps"] in (1200, 2400)
    assert A2C.load(folder.best_model, device="cpu").num_timesteps == best["steps"]


def test_loaded_model_plays_and_learns(finished: tuple[RunFolder, object]) -> None:
    """The file is all that is needed: to play, and to go on learning elsewhere."""
    env = make_vec_env("envs:MiniPacman-v0", 3, TINY["environment"]["kwargs"], previous_action_reward=True)
    model = A2C.load(finished[0].model, env, device="cpu")
    assert model.num_timesteps == STEPS
    for step in itertools.islice(rollout(model.policy, env, seed=5), 50):
        assert env.action_space.contains(step.actions[0])
    model.learn(3 * UNROLL, reset_num_timesteps=False)
    assert model.num_timesteps == STEPS + 3 * UNROLL


def test_video(finished: tuple[RunFolder, object]) -> None:
    """The video is one, and as long as was asked for."""
    num_frames, seconds = imageio_ffmpeg.count_frames_and_secs(finished[0].video)
    assert num_frames > 2
    assert seconds == pytest.approx(0.5, abs=0.1)


# ---------------------------------------------------------------------------------------------------------- seeds


def test_a_seed_says_it_all() -> None:
    """The same seed gives the same parameters, another seed others, and evaluation changes neither."""
    runs = {"first": "3", "again": "3", "unwatched": "3", "other": "4"}
    for name, seed in runs.items():
        interval = "0" if name == "unwatched" else "300"
        arguments = ["--config=tiny.yaml", "--total_timesteps=900", f"--name={name}", f"--seed={seed}"]
        settings = [f"--evaluation.interval={interval}", "--evaluation.video_seconds=0", "--checkpoint_minutes=1"]
        assert train.main([*arguments, *settings]) == 0
    saved = {name: parameters(RunFolder.open(f"runs/{name}").model) for name in runs}
    assert same(saved["first"], saved["again"])
    assert same(saved["first"], saved["unwatched"])
    assert not same(saved["first"], saved["other"])
    evaluations = {name: RunFolder.open(f"runs/{name}").evaluation.read_text() for name in runs}
    assert evaluations["first"] == evaluations["again"] == evaluations["unwatched"]


# ------------------------------------------------------------------------------------------------ stop and resume


@pytest.mark.parametrize(("number", "replicas"), [(signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_stop_and_resume(number: signal.Signals, replicas: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C and a job queue's SIGTERM lose nothing, and `--resume` learns what is left, no more."""
    shared = f"--replicas={replicas}"
    long = ("--total_timesteps=100_000_000", "--name=long", "--evaluation.interval=0")
    with running("--config=tiny.yaml", shared, *long) as process:
        wait_for_checkpoint(process, "runs/long", 60)
        time.sleep(0.5)  # in the middle of whatever it does
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # a terminal's Ctrl-C reaches all processes
        else:
            process.send_signal(number)
        stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    assert "Traceback" not in stderr
    folder = RunFolder.open("runs/long")
    stopped = A2C.load(folder.checkpoints()[0], device="cpu").num_timesteps
    assert stdout.splitlines()[-1] == (
        f"stopped after {stopped:,} steps; go on with: python train.py --resume runs/long"
    )
    assert not folder.model.exists()  # it is not the last yet
    log = (folder.path / "progress.csv").read_bytes()

    total = stopped + 500
    shortened = [f"--total_timesteps={total}", "--evaluation.video_seconds=0"]
    assert train.main(["--resume=runs/long", *shortened]) == 0
    assert "watch it play" in capsys.readouterr().out
    final = A2C.load(folder.model, device="cpu").num_timesteps
    assert total <= final < total + NUM_ENVS * UNROLL
    assert (folder.path / "progress.csv").read_bytes() == log
    rows = progress(folder.path / "progress_2.csv")
    assert stopped < int(rows[0]["time/total_timesteps"]) <= final


def group_lives(number: int) -> bool:
    """Whether a process of the group is left."""
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True


def test_ctrl_c_while_replicas_start() -> None:
    """It reaches all processes of a terminal, and those that start import for seconds before they can ignore it."""
    with running("--config=tiny.yaml", "--name=early", "--replicas=2", "--total_timesteps=100_000_000") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "run folder: runs/early\n"
        time.sleep(1)
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert "Traceback" not in stderr
    assert RunFolder.open("runs/early").checkpoints()


def test_impala_stops_and_resumes(capsys: pytest.CaptureFixture[str]) -> None:
    """A job queue's SIGTERM to all processes, actors included, ends a run in order; it goes on, and can be watched."""
    Path("impala.yaml").write_text(yaml.safe_dump(TINY_IMPALA))
    long = ("--name=long", "--total_timesteps=100_000_000", "--evaluation.interval=0")
    with running("--config=impala.yaml", *long) as process:
        wait_for_checkpoint(process, "runs/long", 120)
        os.killpg(process.pid, signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert "warning" not in stderr.lower()
    assert "stopped after" in stdout
    deadline = time.monotonic() + 10
    while group_lives(process.pid):
        assert time.monotonic() < deadline, "somebody is left"
        time.sleep(0.05)
    folder = RunFolder.open("runs/long")
    stopped = IMPALA.load(folder.checkpoints()[0], device="cpu").num_timesteps
    shortened = [f"--total_timesteps={stopped + 300}", "--evaluation.video_seconds=0"]
    assert train.main(["--resume=runs/long", *shortened]) == 0
    assert IMPALA.load(folder.model, device="cpu").num_timesteps >= stopped + 300
    rows = progress(folder.path / "progress_2.csv")
    assert {"actors/policy_lag_mean", "actors/policy_lag_max", "actors/queue_seconds"} <= rows[0].keys()
    assert play.main(["runs/long", "--record=game.gif", "--max-seconds=0.3"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize("algorithm", ["A2C", pytest.param("IMPALA", marks=pytest.mark.slow)])
def test_torchrun(algorithm: str) -> None:
    """Its processes learn together; the first alone writes, and the others say nothing."""
    Path("one.yaml").write_text(yaml.safe_dump(TINY if algorithm == "A2C" else TINY_IMPALA))
    processes = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    settings = ["--config=one.yaml", "--name=both", "--evaluation.interval=0", "--evaluation.video_seconds=0"]
    if algorithm == "IMPALA":
        settings.append("--placement.actors=1")
    arguments = [sys.executable, *processes, str(ROOT / "train.py"), *settings]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, env=environment(), timeout=180)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run folder: runs/both") == done.stdout.count("watch it play") == 1
    assert [path.name for path in Path("runs").iterdir()] == ["both"]
    folder = RunFolder.open("runs/both")
    assert yaml.safe_load(folder.config.read_text())["replicas"] == 2
    assert load_checkpoint(folder.model, "model")[0]["counters"]["num_timesteps"] == STEPS


def test_torchrun_and_another_number_of_replicas(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    reason = "replicas must be left out or 2, as torchrun says, got 3"
    assert reason in refusal(["--config=tiny.yaml", "--replicas=3"], capsys)


def test_a_finished_run_is_only_evaluated_again(copy: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    """Resuming what is done does no harm: the same model, the same score, the same log."""
    kept = (copy.model, copy.evaluation, copy.best_model, copy.path / "progress.csv")
    before = [path.read_bytes() for path in kept]
    assert train.main(["--resume", "runs/whole"]) == 0
    assert [path.read_bytes() for path in kept] == before
    assert capsys.readouterr().out.splitlines()[-1] == "watch it play: python play.py runs/whole"


def test_resuming_takes_new_settings(copy: RunFolder) -> None:
    """What is said on the command line counts more than the run's own configuration."""
    more = ["--total_timesteps=3300", "--agent.learning_rate=0.125", "--evaluation.video_seconds=0"]
    assert train.main(["--resume=runs/whole", *more]) == 0
    assert {row["train/learning_rate"] for row in progress(copy.path / "progress_2.csv")} == {"0.125"}
    assert json.loads(copy.evaluation.read_text())["steps"] == 3300


def test_resuming_keeps_new_settings_for_the_next_time(copy: RunFolder) -> None:
    """Or the command that a stopped run prints would go on with the old ones."""
    assert train.main(["--resume=runs/whole", "--total_timesteps=3300", "--evaluation.video_seconds=0"]) == 0
    config = yaml.safe_load(copy.config.read_text())
    assert (config["total_timesteps"], config["evaluation"]["video_seconds"], config["name"]) == (3300, 0, "whole")


def test_a_resumed_run_keeps_its_name(copy: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert "name of a run that is resumed must stay what it is" in refusal(["--resume=runs/whole", "--name=x"], capsys)


def test_a_damaged_best_score_is_no_failure(copy: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    copy.best_evaluation.write_text("{")
    assert train.main(["--resume=runs/whole", "--total_timesteps=3300", "--evaluation.video_seconds=0"]) == 0
    assert "the best model is chosen anew" in capsys.readouterr().err


@pytest.mark.parametrize("other", ["--policy.name=LSTMPolicy", "--policy.core_kwargs.mem_slots=3"])
def test_resuming_keeps_the_policy(copy: RunFolder, other: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Another policy cannot go on from this one's weights: it is refused, and nothing changes."""
    before = copy.model.read_bytes()
    assert train.main(["--resume=runs/whole", "--total_timesteps=3300", other]) == 2
    assert "policy must stay what it is in" in capsys.readouterr().err
    assert copy.model.read_bytes() == before


def test_a_damaged_checkpoint_is_passed_over(copy: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    """A disk that failed on the newest checkpoint does not cost the run; the user is told."""
    newest, older = copy.checkpoints()
    newest.rename(copy.checkpoint(STEPS + 500))  # damaged ones that count as newer must not push out good ones
    for steps in (STEPS + 500, STEPS + 400):
        copy.checkpoint(steps).write_bytes(older.read_bytes()[:1000])
    assert train.main(["--resume=runs/whole", "--evaluation.video_seconds=0"]) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert [re.findall(r"model_\w+\.\w+", line) for line in warnings] == [
        ["model_3500.zip", "model_3500.damaged"],
        ["model_3400.zip", "model_3400.damaged"],
    ]
    assert [A2C.load(path, device="cpu").num_timesteps for path in copy.checkpoints()] == [STEPS, STEPS - 30]
    assert [row["time/total_timesteps"] for row in progress(copy.path / "progress_2.csv")] == [str(STEPS)]


def test_no_checkpoint_to_go_on_from(copy: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    newest, older = copy.checkpoints()
    newest.write_bytes(b"")
    older.write_bytes(older.read_bytes()[:-1])
    text = refusal(["--resume=runs/whole"], capsys)
    assert all(part in text for part in ("no checkpoint to go on from", newest.name, older.name))
    for path in (newest, older):
        path.unlink()
    assert "it was stopped before its first one" in refusal(["--resume=runs/whole"], capsys)


class Exploit:
    """Unpickled, it makes a file."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("executed"),)


def test_a_pickle_among_the_checkpoints_is_never_run(copy: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    """Run folders are passed around; resuming one must not run what somebody has put there."""
    pickle.loads(pickle.dumps(Exploit()))
    assert Path("executed").exists()  # it is a working one
    Path("executed").unlink()
    copy.checkpoint(STEPS + 1).write_bytes(pickle.dumps(Exploit()))
    torch.save(Exploit(), copy.checkpoint(STEPS + 2))
    assert train.main(["--resume=runs/whole", "--evaluation.video_seconds=0"]) == 0
    assert not Path("executed").exists()
    assert capsys.readouterr().err.count("pickled data, which could run any code") == 2


def test_a_run_whose_configuration_is_damaged(copy: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    copy.config.write_text("seed: [")
    assert "parsing config" in refusal(["--resume=runs/whole"], capsys)
    copy.config.write_text("environment: {id: CartPole-v1, kwargs: {}}")
    assert "Observation spaces do not match" in refusal(["--resume=runs/whole"], capsys)


# ----------------------------------------------------------------------------------------------- what goes wrong


def failure(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """The last line on stderr of a run that fails; it stands on a line of its own, apart from the progress bar."""
    assert train.main(arguments) == code
    lines = capsys.readouterr().err.split("\n")
    assert lines[-1] == ""
    assert lines[-2].startswith("train.py: ")
    assert sum("train.py" in line for line in lines) == 1
    return lines[-2]


@pytest.mark.parametrize("fault", ["reward", "observation"])
def test_an_environment_that_gives_nan(fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Training ends before the NaN reaches the network, says who gave it, and the last checkpoint is good."""
    arguments = ["--config=tiny.yaml", *FAULTY, f"--environment.kwargs={{good_steps: 23, fault: {fault}}}"]
    line = failure([*arguments, "--name=faulty", "--evaluation.interval=0"], 1, capsys)
    newest = Path(f"runs/faulty/checkpoints/model_{20 * NUM_ENVS}.zip")
    assert re.search(rf"environment 0\b.*{fault}.*not finite.*; the last checkpoint is {newest}$", line)
    assert all(tensor.isfinite().all() for tensor in parameters(newest).values())
    assert A2C.load(newest, device="cpu").num_timesteps == 20 * NUM_ENVS


def test_an_environment_that_allows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Masks are observed without any setting; one that leaves nothing to do ends the run in one line."""
    arguments = ["--config=tiny.yaml", "--environment.id=tests.faulty_envs:FaultyMask-v0"]
    line = failure(
        [*arguments, "--environment.kwargs={good_steps: 23}", "--name=faulty", "--evaluation.interval=0"], 1, capsys
    )
    newest = Path(f"runs/faulty/checkpoints/model_{20 * NUM_ENVS}.zip")
    reason = "environment 0: action_mask allows no action, where it must allow one at least"
    assert line == f"train.py: {reason}; the last checkpoint is {newest}"


@pytest.mark.filterwarnings("ignore:actor 0 is restarted:RuntimeWarning")
def test_an_environment_that_always_fails_in_another_process(capsys: pytest.CaptureFixture[str]) -> None:
    """The run ends with one line, below the environment's own traceback, and the last checkpoint is good."""
    Path("impala.yaml").write_text(yaml.safe_dump(TINY_IMPALA))
    arguments = ["--config=impala.yaml", *FAULTY, "--environment.kwargs={good_steps: 23, fault: reward}"]
    settings = ["--name=faulty", "--evaluation.interval=0", "--placement.actors=1", "--placement.max_restarts=1"]
    assert train.main([*arguments, *settings]) == 1
    error = capsys.readouterr().err
    assert "Traceback (most recent call last)" in error
    last = error.splitlines()[-1]
    assert re.search(r"^train.py: 2 actors failed .* environment 0: reward is not finite.*; the last checkpoint", last)
    (newest, *_) = RunFolder.open("runs/faulty").checkpoints()
    assert IMPALA.load(newest, device="cpu").num_timesteps > 0


def test_an_environment_that_cannot_be_made_in_another_process(capsys: pytest.CaptureFixture[str]) -> None:
    """Refused like other bad input: in one line, and without a run folder that would be in the way of the next try."""
    Path("impala.yaml").write_text(yaml.safe_dump(TINY_IMPALA))
    arguments = ["--config=impala.yaml", *FAULTY, "--environment.kwargs={good_steps: 23, fault: birth}"]
    assert train.main([*arguments, "--placement.actors=1", "--evaluation.interval=0"]) == 2
    assert capsys.readouterr().err == "train.py: actor 0 cannot begin: OSError: no licence for this game\n"
    assert list(Path("runs").iterdir()) == []


def test_a_stop_while_an_environment_hangs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """SIGTERM ends the run with a checkpoint of what was learned, though no other batch will ever come."""
    monkeypatch.setattr("agents.processes.SECONDS_TO_END", 0.1)
    Path("impala.yaml").write_text(yaml.safe_dump(TINY_IMPALA))
    arguments = ["--config=impala.yaml", *FAULTY, "--environment.kwargs={good_steps: 23, fault: hang}"]
    assert train.main([*arguments, "--name=stuck", "--placement.actors=1", "--evaluation.interval=0"]) == 0
    (newest, *_) = RunFolder.open("runs/stuck").checkpoints()
    steps = IMPALA.load(newest, device="cpu").num_timesteps
    assert 0 < steps <= 4 * UNROLL * NUM_ENVS  # it hangs in the fifth unroll; not all before it need have been used
    assert f"stopped after {steps} steps; go on with" in capsys.readouterr().out


def test_a_failure_before_the_first_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    """The user is not sent to look for a checkpoint that does not exist."""
    arguments = ["--config=tiny.yaml", *FAULTY, "--environment.kwargs={good_steps: 3, fault: reward}"]
    settings = ["--evaluation.interval=0", "--checkpoint_minutes=10"]
    assert failure([*arguments, *settings], 1, capsys).endswith("; there was no checkpoint yet")


def test_an_environment_that_cannot_be_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    """No video is no failure."""
    arguments = ["--config=tiny.yaml", *FAULTY, "--environment.kwargs={good_steps: 100000, fault: reward}"]
    with pytest.warns(UserWarning, match="render_mode"):  # from Gymnasium
        assert train.main([*arguments, "--name=dark", "--total_timesteps=60"]) == 0
    captured = capsys.readouterr()
    assert "no video: tests.faulty_envs:Faulty-v0 draws no frames" in captured.err
    assert "mean length 7 steps" in captured.out
    assert RunFolder.open("runs/dark").evaluation.exists()


def test_a_place_that_can_no_longer_be_written(copy: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    """A full disk ends a run with one line, not with a traceback."""
    copy.evaluation.unlink()
    copy.evaluation.mkdir()
    line = failure(["--resume=runs/whole"], 1, capsys)
    assert "evaluation.json" in line
    assert line.endswith("the last checkpoint is runs/whole/checkpoints/model_3000.zip")


def test_interrupted_while_evaluating(
    copy: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C after training, when nobody listens for a clean stop: the shell's code, one line, the model is there."""

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("agents.training.evaluate", interrupt)
    line = failure(["--resume=runs/whole"], 130, capsys)
    assert line == "train.py: interrupted; the last checkpoint is runs/whole/checkpoints/model_3000.zip"
