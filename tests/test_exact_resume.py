"""A run that was killed and resumed learns the very parameters of one that never stopped, to the last bit."""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import train
from agents.actor import Actor, OnStep
from agents.trajectory import Trajectory
from rmc_rl.checkpoint import load_checkpoint
from rmc_rl.run_folder import RunFolder

ROOT = Path(__file__).parents[1]
STEPS, NUM_ENVS, UNROLL = 3000, 6, 5
TINY: dict[str, Any] = {
    "total_timesteps": STEPS,
    "seed": 8,
    "device": "cpu",
    "environment": {"num_envs": NUM_ENVS, "kwargs": {"viewport": 5, "observation": "planes", "frame_cap": 40}},
    "policy": {"core_kwargs": {"mem_slots": 2, "head_size": 3, "num_heads": 2}, "embedding_size": 8},
    "evaluation": {"interval": 700, "episodes": 2, "final_episodes": 2, "video_seconds": 0},
}
A2C = {"agent": {"unroll_length": UNROLL, "learning_rate_schedule": "linear"}}
# Two batches of each unroll, the second of which lags: checkpoints come where none is left over.
IMPALA = {"algorithm": "IMPALA", "impala": {"unroll_length": UNROLL, "batch_size": NUM_ENVS // 2}}
CASES = {
    "A2C": (A2C, []),
    "A2C in replicas": (A2C, ["--replicas=2"]),
    "IMPALA": (IMPALA, []),
}


@pytest.fixture(params=CASES)
def arguments(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    settings, options = CASES[request.param]
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY | settings))
    return options


def start(*arguments: str) -> subprocess.Popen[str]:
    """The command, in a process of its own: what one process remembers must not help the next."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def run(*arguments: str) -> str:
    """Run the command to its end; what it said on stderr."""
    with start(*arguments) as process:
        error = process.communicate(timeout=120)[1]
    assert process.returncode == 0, error
    return error


def killed(name: str, *arguments: str) -> RunFolder:
    """A run that saved at every update, until it was killed in the middle of something."""
    folder = RunFolder(Path("runs", name))
    with start("--config=tiny.yaml", f"--name={name}", "--checkpoint_minutes=0", *arguments) as process:
        deadline = time.monotonic() + 120
        while not any(steps_of(path) > STEPS // 10 for path in folder.checkpoints()):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    return folder


def steps_of(checkpoint: Path) -> int:
    return int(checkpoint.stem.removeprefix("model_"))


def tensors(model: Path) -> dict[str, torch.Tensor]:
    """Of policy and optimizer."""
    return load_checkpoint(model, "model")[1]


def test_a_killed_run_goes_on_exactly(arguments: list[str]) -> None:
    folder = killed("killed", *arguments)
    stopped = steps_of(folder.checkpoints()[0])
    assert 0 < stopped < STEPS
    error = run("--resume=runs/killed", "--checkpoint_minutes=100")
    assert "warning" not in error
    assert train.main(["--config=tiny.yaml", "--name=whole", "--checkpoint_minutes=100", *arguments]) == 0
    whole, resumed = tensors(Path("runs/whole/model.zip")), tensors(folder.model)
    assert any(name.startswith("optimizer/") for name in whole)
    assert whole.keys() == resumed.keys()
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


def test_a_stopped_run_goes_on_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint of a run that is told to stop stands between two updates, though the wish comes within one."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY | A2C | {"total_timesteps": 900, "checkpoint_minutes": 100}))
    unroll = Actor.unroll
    unrolls = itertools.count()

    def told_to_stop(actor: Actor, on_step: OnStep, *places: Any) -> Trajectory | None:
        if next(unrolls) == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return unroll(actor, on_step, *places)

    with monkeypatch.context() as patch:
        patch.setattr(Actor, "unroll", told_to_stop)
        assert train.main(["--config=tiny.yaml", "--name=stopped"]) == 0
    folder = RunFolder("runs/stopped")
    assert [steps_of(checkpoint) for checkpoint in folder.checkpoints()] == [8 * NUM_ENVS * UNROLL]
    assert train.main(["--resume=runs/stopped"]) == 0
    assert train.main(["--config=tiny.yaml", "--name=whole"]) == 0
    assert folder.model.read_bytes() == RunFolder("runs/whole").model.read_bytes()


def test_without_the_progress_of_a_replica_all_play_new_games(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training goes on all the same, and the user is told in one line why it is not exact."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY | A2C | {"replicas": 2}))
    folder = killed("killed")
    steps = steps_of(folder.checkpoints()[0])
    folder.progress(steps, 1).unlink()
    assert train.main(["--resume=runs/killed", f"--total_timesteps={steps + 1}", "--checkpoint_minutes=100"]) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert f"goes on with fresh episodes: cannot load runs/killed/checkpoints/progress_{steps}_1.zip" in warnings[0]
    assert steps_of(folder.checkpoints()[0]) == steps + NUM_ENVS * UNROLL
