"""Actors on Ray: on a cluster of two nodes, on a Ray of our own, what fails, and what is left behind (nothing)."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from agents import IMPALA, Placement
from agents.actor_process import Failure
from agents.environments import Recipe
from agents.hyperparameters import ImpalaHyperparameters
from agents.placement import SLOTS
from agents.processes import ActorError, BeginError
from benchmarks.recall import Recall
from rmc_rl.policies import GRUPolicy
from rmc_rl.run_folder import RunFolder
from rmc_rl.stop import StopRequest
from tests.asynchronous_recall import mean_return_after_learning
from tests.space_envs import Masked

# Of all clusters that are started here, and of the processes below: Ray reads it when it is imported.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
ray = pytest.importorskip("ray")
from agents import ray_actors  # noqa: E402
from agents.ray_actors import RayActors  # noqa: E402

ROOT = Path(__file__).parents[2]
STEPS, ROWS = 5, 3
SMALL: dict[str, Any] = {"core_kwargs": {"hidden_size": 7}, "embedding_size": 6}
WAIT_SECONDS, LEFT_BEHIND_SECONDS = 120.0, 10.0


def processes(name: str) -> set[int]:
    """The pids of all processes whose command has this in it."""
    listed = subprocess.run(["ps", "-wweo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    return {int(line.split()[0]) for line in listed.splitlines() if name in line}


def descendants(pid: int) -> set[int]:
    listed = subprocess.run(["ps", "-wweo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        above = waiting.pop()
        below = {
            int(child) for child, parent, command in rows if int(parent) == above and not command.startswith("ps ")
        }
        found |= below
        waiting.extend(below)
    return found


def actor_processes(pid: int) -> list[int]:
    """The actors below a process that has started nodes."""
    return sorted(descendants(pid) & processes("ray::RayActor"))


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it has not come about in time"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def node(cpus: int, *options: str) -> "subprocess.Popen[bytes]":
    """A node with so many CPUs, which ends, with all below it, when this process is told to."""
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block", f"--num-cpus={cpus}", *options]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def stop(process: "subprocess.Popen[bytes]") -> None:
    below = descendants(process.pid)
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    wait_until(lambda: not below & processes("ray"))


@pytest.fixture(scope="module")
def head_process() -> Iterator["tuple[str, subprocess.Popen[bytes]]"]:
    """The address of a cluster whose only node has two CPUs."""
    address = f"127.0.0.1:{free_port()}"
    with tempfile.TemporaryDirectory(prefix="ray-test-", ignore_cleanup_errors=True) as folder:
        options = (f"--port={address.rpartition(':')[2]}", "--include-dashboard=false", f"--temp-dir={folder}")
        process = node(2, "--head", "--node-ip-address=127.0.0.1", *options)
        try:
            wait_until(lambda: processes("raylet/raylet") & descendants(process.pid))
            yield address, process
        finally:
            stop(process)


@pytest.fixture
def head(head_process: "tuple[str, subprocess.Popen[bytes]]") -> str:
    """Its address."""
    return head_process[0]


@pytest.fixture
def second_node(head: str) -> Iterator["subprocess.Popen[bytes]"]:
    with tempfile.TemporaryDirectory(prefix="ray-test-", ignore_cleanup_errors=True) as folder:
        process = node(1, f"--address={head}", "--node-ip-address=127.0.0.2", f"--temp-dir={folder}")
        try:
            wait_until(lambda: processes("raylet/raylet") & descendants(process.pid))
            yield process
        finally:
            stop(process)


def build(env: Any = Recall, n_envs: int = ROWS, **kwargs: Any) -> IMPALA:
    settings: dict[str, Any] = {
        "policy_kwargs": SMALL,
        "unroll_length": STEPS,
        "batch_size": ROWS,
        "seed": 0,
        "device": "cpu",
        "placement": Placement(kind="ray"),
    }
    return IMPALA("GRUPolicy", env, n_envs, **(settings | kwargs))


def start(address: str, env: Any = Recall, **placement: Any) -> tuple[RayActors, GRUPolicy]:
    torch.manual_seed(0)
    policy = GRUPolicy(Recall.observation_space, Recall.action_space, **SMALL)
    settings = ImpalaHyperparameters(unroll_length=STEPS, reward_scale=0.25)
    chosen = Placement(kind="ray", address=address, **placement)
    recipe = Recipe(env, chosen.actors * ROWS)
    return RayActors(recipe, policy, settings, chosen, ROWS, 0, StopRequest()), policy


def go_on(*_: Any) -> bool:
    return True


# Training


def test_learns_to_recall_and_leaves_nothing_behind() -> None:
    """On a Ray of our own: what cannot be done without memory; then no process, memory, file or handler is left."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    before, blocks, files = (
        descendants(os.getpid()),
        set(os.listdir("/dev/shm")),
        set(os.listdir(tempfile.gettempdir())),
    )

    def ours_are_kept() -> None:
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers

    assert mean_return_after_learning(Placement(kind="ray", actors=2), ours_are_kept) > 0.95
    wait_until(lambda: descendants(os.getpid()) <= before)
    # What other processes of this machine make goes soon.
    wait_until(lambda: set(os.listdir("/dev/shm")) <= blocks)
    wait_until(lambda: not {n for n in os.listdir(tempfile.gettempdir()) if n.startswith("rmc-rl-")} - files)


def test_masks_travel(head: str) -> None:
    """With a Dict and several actions at once; the environment complains of one that is illegal."""
    placement = Placement(kind="ray", address=head, max_restarts=0)
    model = build(partial(Masked, "Dict", "MultiDiscrete"), placement=placement)
    assert model.learn(10 * STEPS * ROWS)._n_updates == 10


# The command


TINY: dict[str, Any] = {
    "total_timesteps": 10**9,
    "device": "cpu",
    "checkpoint_minutes": 0.0,
    "environment": {"id": "CartPole-v1", "num_envs": 2 * ROWS},
    "policy": {"name": "GRUPolicy", **SMALL},
    "algorithm": "IMPALA",
    "impala": {"unroll_length": STEPS, "batch_size": 2 * ROWS},
    "placement": {"kind": "ray"},
    "evaluation": {"interval": 0, "final_episodes": 1, "video_seconds": 0.0},
}


def run_until_checkpoints(tmp_path: Path, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    """`train.py`, once it has written two checkpoints."""
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    command = [sys.executable, str(ROOT / "train.py"), "--config=tiny.yaml", "--name=run", *arguments]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=tmp_path, env=os.environ | environment, start_new_session=True, **pipes)
    wait_until(lambda: len(RunFolder(tmp_path / "runs/run").checkpoints()) == 2 or process.poll() is not None)
    return process


def test_ctrl_c_ends_replicas_on_a_cluster_in_order(
    head_process: "tuple[str, subprocess.Popen[bytes]]", tmp_path: Path
) -> None:
    """Each has had an actor there. With a checkpoint and exit code 0; Ray has nothing to say, and its actors go."""
    address, head = head_process
    process = run_until_checkpoints(tmp_path, f"--placement.address={address}", "--replicas=2")
    assert len(actor_processes(head.pid)) == 2
    os.killpg(process.pid, signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    steps = IMPALA.load(RunFolder(tmp_path / "runs/run").checkpoints()[0], device="cpu").num_timesteps
    stopped = f"stopped after {steps:,} steps; go on with: python train.py --resume runs/run"
    assert out == f"run folder: runs/run\n{stopped}\n"
    assert [line for line in error.splitlines() if line and "|" not in line] == []
    wait_until(lambda: not actor_processes(head.pid))


def test_nothing_is_left_of_a_run_that_is_killed(tmp_path: Path) -> None:
    """Nobody can clean up after SIGKILL: Ray's processes and files go all the same, and the checkpoint is whole."""
    blocks = set(os.listdir("/dev/shm"))
    with tempfile.TemporaryDirectory(prefix="t") as folder:  # a short name: Ray's sockets are in it
        process = run_until_checkpoints(tmp_path, TMPDIR=folder)
        below = descendants(process.pid)
        assert all(below & processes(name) for name in ("gcs_server", "raylet", "ray::RayActor"))
        assert len(list(Path(folder).glob("rmc-rl-*"))) == 1
        process.kill()
        deadline = time.monotonic() + LEFT_BEHIND_SECONDS
        process.communicate()
        wait_until(lambda: not below & processes("") and not list(Path(folder).glob("rmc-rl-*")))
        assert time.monotonic() < deadline
    wait_until(lambda: set(os.listdir("/dev/shm")) <= blocks)
    IMPALA.load(RunFolder(tmp_path / "runs/run").checkpoints()[0], device="cpu")


# What is shared


def test_batches_hold_what_the_actors_did_under_the_newest_parameters(head: str) -> None:
    source, policy = start(head)
    network = policy.network
    try:
        for _ in range(6):
            trajectory = source.batch(go_on)
            assert trajectory is not None
            with torch.no_grad():
                output, _ = network(trajectory.observations, trajectory.initial_state, trajectory.starts)
                distribution = network.distribution(output.policy[:-1].flatten(0, 1))
                log_probs = distribution.log_prob(trajectory.actions.flatten()).view(STEPS, ROWS)
            torch.testing.assert_close(log_probs, trajectory.behaviour_log_probs, rtol=1e-4, atol=1e-5)
            assert torch.equal(trajectory.starts[1:], trajectory.terminated | trajectory.truncated)
        with torch.no_grad():
            network.policy_head.weight.zero_()
            network.policy_head.bias.copy_(torch.tensor([20.0, 0.0, 0.0]))
        source.updated()
        for _ in range(SLOTS + 1):
            trajectory = source.batch(go_on)
        assert trajectory is not None
        assert (trajectory.actions == 0).all()
        figures = source.metrics()
        assert figures["policy_lag_max"] == 1
        assert figures["dropped"] == figures["restarts"] == 0
    finally:
        source.close()
    assert not ray.is_initialized()


def test_actors_wait_and_what_is_too_old_is_dropped(head: str) -> None:
    """Nothing is consumed: the actor fills its slots and stops there, and so does its successor, which finds them full.

    After many updates they are of no use.
    """
    source, _ = start(head, max_policy_lag=3)
    try:
        source.batch(go_on)
        wait_until(lambda: source._receive() or len(source.full) == SLOTS)
        wait_until(lambda: len(source.full) == SLOTS or source._receive())
        assert source.actors[0].under_way == []
        source.actors[0].heard -= 2 * source.placement.max_silence
        assert not source._hangs(0)
        with pytest.warns(RuntimeWarning, match="restarted"):
            source._replace(0, Failure("it is not needed", traceback=""))
        wait_until(lambda: source.actors[0].has_begun or source._receive())
        assert source.actors[0].under_way == []
        assert len(source.full) == SLOTS
        for _ in range(9):
            source.updated()
        source.batch(go_on)
        figures = source.metrics()
    finally:
        source.close()
    assert figures["dropped"] == SLOTS
    assert figures["policy_lag_max"] <= 3


# What fails


class Faulty(Recall):
    """Raises in its 30th step; once in all if there is a file to remember it by."""

    def __init__(self, marker: str = "") -> None:
        super().__init__()
        self.marker, self.steps = Path(marker) if marker else None, 0

    def step(self, action: int) -> Any:
        self.steps += 1
        if self.steps == 30 and not (self.marker and self.marker.exists()):
            if self.marker:
                self.marker.touch()
            raise ZeroDivisionError("the ghost\nhas escaped")
        return super().step(action)


def test_an_environment_that_raises_once(head: str, tmp_path: Path) -> None:
    placement = Placement(kind="ray", address=head)
    model = build(Faulty, env_kwargs={"marker": str(tmp_path / "raised")}, placement=placement)
    message = r"actor 0 is restarted \(1 of at most 10 within 10 minutes\): ZeroDivisionError: the ghost has escaped$"
    with pytest.warns(RuntimeWarning, match=message) as caught:
        model.learn(30 * STEPS * ROWS)
    assert len(caught) == 1
    assert model._n_updates == 30
    assert set(np.unique([episode["l"] for episode in model.ep_info_buffer])) == {4}  # type: ignore[union-attr]


def test_an_environment_that_always_raises(head: str) -> None:
    model = build(Faulty, placement=Placement(kind="ray", max_restarts=0, address=head))
    message = r"(?m)^1 actors failed .*more than placement.max_restarts, 0; .*ZeroDivisionError: the ghost has escaped$"
    with pytest.raises(ActorError, match=message) as error:
        model.learn(10**6)
    (note,) = error.value.__notes__
    assert "in step" in note
    assert "ZeroDivisionError: the ghost\nhas escaped" in note
    assert not ray.is_initialized()


def test_a_killed_actor_is_replaced(head_process: "tuple[str, subprocess.Popen[bytes]]") -> None:
    address, process = head_process
    model = build(placement=Placement(kind="ray", address=address))
    killed: list[int] = []

    def kill(*_: Any) -> bool:
        if model._n_updates == 10 and not killed:
            killed.extend(actor_processes(process.pid))
            os.kill(killed[0], signal.SIGKILL)
        return True

    message = r"restarted \(1 of .*: The actor is dead because its worker process has died$"
    with pytest.warns(RuntimeWarning, match=message) as caught:
        model.learn(40 * STEPS * ROWS, callback=kill)
    assert len(caught) == 1  # though two of its calls have failed
    assert model._n_updates == 40


class Stuck(Recall):
    """Never comes back from its 13th step."""

    steps = 0

    def step(self, action: int) -> Any:
        self.steps += 1
        if self.steps == 13:
            threading.Event().wait()
        return super().step(action)


def test_an_actor_that_hangs(head_process: "tuple[str, subprocess.Popen[bytes]]") -> None:
    """It is replaced when it has been silent for too long; nobody waits for it once a stop is requested."""
    address, head = head_process
    source, _ = start(address, env=Stuck)
    try:
        for _ in range(2):
            source.batch(go_on)
        hanging = actor_processes(head.pid)
        assert not source._receive()  # nothing comes: it is in its third unroll, for good
        source.actors[0].heard -= source.placement.max_silence
        message = r"actor 0 is restarted .*: nothing came from it within 600 seconds, placement.max_silence$"
        with pytest.warns(RuntimeWarning, match=message):
            source._receive()
        for _ in range(2):
            assert source.batch(go_on) is not None
        assert hanging != actor_processes(head.pid)
        source.stop.requested = True
        assert source.batch(go_on) is None
    finally:
        source.close()
    wait_until(lambda: not actor_processes(head.pid))


def test_a_cluster_that_is_too_small(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_actors, "PLACE_SECONDS", 4.0)
    # On a busy machine an actor that has its CPU may take longer to start.
    message = r"^[2-4] of 4 actors did not start within 4 seconds: the Ray cluster has 2 CPUs, [0-2] of them free$"
    with pytest.raises(BeginError, match=message):
        start(head, actors=4)
    assert not ray.is_initialized()


# Refused before anything is started


def refusal(address: str) -> str:
    """Why no agent can be built with it: in one line, and without a word of Ray's own."""
    legal = "that of a running Ray cluster with a node on this machine"
    begin = time.monotonic()
    with pytest.raises(ValueError, match=f"^placement.address must be {legal}, got '{address}': ") as error:
        build(placement=Placement(kind="ray", address=address))
    assert time.monotonic() - begin < 20
    assert "\n" not in str(error.value)
    return str(error.value).rpartition(f"'{address}': ")[2]


def test_an_address_where_nobody_answers() -> None:
    assert "refused" in refusal(f"127.0.0.1:{free_port()}")


def test_an_address_where_something_else_answers(capfd: pytest.CaptureFixture[str]) -> None:
    """It takes connections, and says nothing: Ray alone would go on trying for minutes, a line for each try."""
    with socket.create_server(("", 0)) as server:
        reason = refusal(f"127.0.0.1:{server.getsockname()[1]}")
    assert reason.startswith("Failed to connect to GCS at address ")
    assert capfd.readouterr() == ("", "")


def test_a_cluster_that_asks_for_another_token(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    assert refusal(head).endswith("Authentication token is missing or incorrect")


def test_ray_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"^placement.kind 'ray' needs Ray: pip install 'rmc-rl\[ray\]'$"):
        build()


def test_replicas_share_a_cluster() -> None:
    with pytest.raises(ValueError, match=r"^placement.address must be HOST:PORT where 2 replicas .*, got None$"):
        Placement(kind="ray").check_shares(8, 4, learners=2)


# Last, as Ray tells all that come later of the node that is lost.


def test_two_nodes_train_and_one_is_lost(head: str, second_node: "subprocess.Popen[bytes]") -> None:
    """The second has one CPU, and so one actor; once it is killed, training goes on with the first."""
    model = build(n_envs=3 * ROWS, placement=Placement(kind="ray", actors=3, address=head))
    nodes: list[int] = []

    def lose(*_: Any) -> bool:
        if model._n_updates == 20 and not nodes:
            nodes.append(len(actor_processes(second_node.pid)))
            for pid in descendants(second_node.pid) & processes("raylet/raylet"):
                os.kill(pid, signal.SIGKILL)
        return time.monotonic() < deadline

    deadline = time.monotonic() + WAIT_SECONDS
    with pytest.warns(RuntimeWarning, match=r"actor \d is restarted \(1 of at most 10 .*: The actor"):
        model.learn(400 * STEPS * ROWS, callback=lose)
    assert nodes == [1]
    assert model._n_updates == 400
