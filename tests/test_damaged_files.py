"""Fuzzing of all that loads a file: damage is refused in one line that names the file, and no code in a file is run."""

import pickle
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents import A2C
from agents.progress import restore_progress, save_progress
from rmc_rl.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from rmc_rl.policies import GRUPolicy, RecurrentPolicy, RMCPolicy

from .damage import Malice, broken, flipped, with_forged_json, with_forged_tensors

SECONDS = 10.0  # for one file; it takes milliseconds


def save_data(path: Path) -> None:
    tensors = {
        "matrix": torch.arange(15.0).view(3, 5),
        "flags": torch.ones(2, dtype=torch.bool),
        "none": torch.empty(0),
    }
    save_checkpoint(path, "data", {"list": [1, {"b": None, "c": [2.5, "ß"]}], "flag": True}, tensors)


def save_policy(path: Path) -> None:
    image, clock = spaces.Box(0, 255, (5, 6, 3), np.uint8), spaces.Discrete(4, start=1)
    space = spaces.Dict({"image": image, "clock": clock})
    GRUPolicy(space, spaces.MultiDiscrete([2, 3]), core_kwargs={"hidden_size": 3}, embedding_size=4).save(path)


def save_rmc(path: Path) -> None:
    sizes = {"mem_slots": 2, "head_size": 3, "num_heads": 1}
    RMCPolicy(spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,)), core_kwargs=sizes, embedding_size=4).save(path)


def save_model(path: Path) -> None:
    sizes: dict[str, Any] = {"core_kwargs": {"hidden_size": 3}, "embedding_size": 4}
    model = A2C("LSTMPolicy", "CartPole-v1", 2, policy_kwargs=sizes, unroll_length=4, seed=0, device="cpu")
    model.learn(16).save(path)


@cache
def player() -> A2C:
    sizes: dict[str, Any] = {"core_kwargs": {"hidden_size": 3}, "embedding_size": 4}
    return A2C("LSTMPolicy", "envs:MiniPacman-v0", 2, policy_kwargs=sizes, unroll_length=4, seed=0, device="cpu")


def save_player(path: Path) -> None:
    save_progress(path, player().learn(16), seed=0)


FILES: dict[str, tuple[Callable[[Path], None], Callable[[Path], Any]]] = {
    "data": (save_data, lambda path: load_checkpoint(path, "data")),
    "policy": (save_policy, RecurrentPolicy.load),
    "RMC": (save_rmc, RecurrentPolicy.load),
    "model": (save_model, A2C.load),
    "progress": (save_player, lambda path: restore_progress(path, player(), seed=0)),
}
every_kind = pytest.mark.parametrize("kind", FILES)


@contextmanager
def no_longer_than(seconds: float) -> Iterator[None]:
    def ring(*_: Any) -> None:
        raise TimeoutError

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def is_refused(kind: str, path: Path, content: bytes) -> bool:
    """Whether a file with this content is, in one short line that names it; whatever else goes wrong comes through."""
    path.write_bytes(content)
    reason = None
    try:
        with no_longer_than(SECONDS):
            FILES[kind][1](path)
    except CheckpointError as error:
        reason = str(error)
    assert reason is None or (str(path) in reason and "\n" not in reason and len(reason) < 1000)
    return reason is not None


@pytest.fixture
def content(kind: str, tmp_path: Path) -> bytes:
    FILES[kind][0](tmp_path / "whole.zip")
    content = (tmp_path / "whole.zip").read_bytes()
    assert not is_refused(kind, tmp_path / "whole.zip", content)
    return content


@every_kind
def test_a_file_of_any_other_length_is_refused(kind: str, content: bytes, tmp_path: Path) -> None:
    generator = random.Random(0)
    lengths = [0, 1, 3, 4, 21, 22, len(content) - 1, *(generator.randrange(len(content)) for _ in range(50))]
    for length in lengths:
        assert is_refused(kind, tmp_path / "cut.zip", content[:length])
    for more in (b"\0", b"PK", content):
        assert is_refused(kind, tmp_path / "long.zip", content + more)


@every_kind
def test_no_byte_can_be_flipped(kind: str, content: bytes, tmp_path: Path) -> None:
    """Wherever it is: in the archive's own records, in blanks of the JSON, in the weights."""
    generator = random.Random(1)
    frame = [*range(60), *range(len(content) - 180, len(content))]
    if kind == "data":
        positions = list(range(len(content)))
    else:
        positions = frame + [generator.randrange(len(content)) for _ in range(150)]
    for position in positions:
        assert is_refused(kind, tmp_path / "flipped.zip", flipped(content, position, generator.randrange(8)))


@every_kind
def test_damage_is_refused(kind: str, content: bytes, tmp_path: Path) -> None:
    generator = random.Random(2)
    for _ in range(150):
        damaged = broken(content, generator)
        assert is_refused(kind, tmp_path / "broken.zip", damaged) or damaged == content


@every_kind
def test_forged_json_is_refused_or_harmless(kind: str, content: bytes, tmp_path: Path) -> None:
    """What is loaded of it was legal, and no pickle is ever read."""
    generator, evidence = random.Random(3), tmp_path / "evidence"
    forgeries = [with_forged_json(content, generator, evidence) for _ in range(300)]
    assert sum(is_refused(kind, tmp_path / "forged.zip", forgery) for forgery in forgeries) > 150
    assert not evidence.exists()


@every_kind
def test_forged_tensors_are_refused_or_harmless(kind: str, content: bytes, tmp_path: Path) -> None:
    """What is loaded of it was legal: other numbers, or for data other names."""
    generator = random.Random(4)
    forgeries = [with_forged_tensors(content, generator) for _ in range(200)]
    assert sum(is_refused(kind, tmp_path / "forged.zip", forgery) for forgery in forgeries) > 100


def test_the_payload_of_these_tests_would_work(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Malice(tmp_path / "evidence")))
    assert (tmp_path / "evidence").exists()
