"""The command `train.py` when the disk is full: all ends soon and in order, and nothing is left behind."""

import getpass
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents import IMPALA
from rmc_rl.run_folder import RunFolder

from .test_train import ROOT, TINY_IMPALA, group_lives

SECONDS_TO_END = 10.0
SYNC, LOCAL = ["--placement.kind=sync", "--placement.actors=1"], ["--placement.kind=local", "--placement.actors=2"]


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("impala.yaml").write_text(yaml.safe_dump(TINY_IMPALA | {"total_timesteps": 10**9}))
    Path("tmp").mkdir()


class Run:
    """The command in a process group of its own, with a folder for temporary files of its own."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, str(ROOT / "train.py"), "--config=impala.yaml", "--name=run", *arguments]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": os.path.abspath("tmp")}
        pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        self.blocks = set(os.listdir("/dev/shm"))
        self.process = subprocess.Popen(
            [*command, "--evaluation.interval=0"], env=environment, text=True, start_new_session=True, **pipes
        )

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            assert self.process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def fill_disk(self) -> float:
        """From now on no file can grow beyond one page; returns the time."""
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (4096, 4096))
        return time.monotonic()

    def last_line(self) -> str:
        """What it says in one line, below the progress bar's, once it has failed and nothing is left of it."""
        stderr = self.process.communicate(timeout=120)[1]
        deadline = time.monotonic() + SECONDS_TO_END
        while group_lives(self.process.pid):
            assert time.monotonic() < deadline, "somebody is left"
            time.sleep(0.02)
        assert self.process.returncode == 1
        assert set(os.listdir("/dev/shm")) <= self.blocks
        assert set(os.listdir("tmp")) <= {f"torchinductor_{getpass.getuser()}"}  # torch's own cache
        said = [line for line in stderr.splitlines() if line and not re.match(r"\s*\d+%\||compiling ", line)]
        assert len(said) == 1, stderr
        return said[0]


@pytest.mark.parametrize("place", [SYNC, LOCAL], ids=["sync", "local"])
def test_a_full_disk(place: list[str]) -> None:
    """The last good checkpoints stay whole. A limit on the size of files stands for the disk: it needs no root."""
    run, folder = Run(*place, "--checkpoint_minutes=0"), RunFolder("runs/run")
    run.wait_until(lambda: len(folder.checkpoints()) == 2)
    begin = run.fill_disk()
    line = run.last_line()
    assert time.monotonic() - begin < SECONDS_TO_END
    newest = folder.checkpoints()[0]
    assert re.search(rf"^train.py: .*File too large.*; the last checkpoint is {newest}$", line)
    for checkpoint in folder.checkpoints():
        assert checkpoint.stem == f"model_{IMPALA.load(checkpoint, device='cpu').num_timesteps}"
    assert not list(folder.path.rglob(".*"))


def test_a_disk_that_is_full_when_the_log_is_written() -> None:
    """TensorBoard writes in a thread of its own, whose traceback is nobody's business."""
    run, log = Run(*SYNC, "--checkpoint_minutes=100"), Path("runs/run/progress.csv")
    run.wait_until(lambda: log.exists() and log.stat().st_size > 0)
    run.fill_disk()
    message = "[Errno 27] cannot write the log: File too large: 'runs/run'; there was no checkpoint yet"
    assert run.last_line() == f"train.py: {message}"
