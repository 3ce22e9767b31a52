"""Actors in processes of their own: what is shared, what lags, what fails, and what is left behind (nothing)."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from agents import IMPALA, Placement
from agents.actor_process import Failure, Ready
from agents.environments import Recipe
from agents.hyperparameters import ImpalaHyperparameters
from agents.local_actors import SLOTS, LocalActors
from agents.processes import ActorError
from agents.restarts import Restarts
from agents.shared_parameters import SharedParameters
from benchmarks.recall import Recall
from rmc_rl.cores.native import BF16_IS_FAST
from rmc_rl.policies import GRUPolicy
from rmc_rl.stop import StopRequest
from tests.asynchronous_recall import mean_return_after_learning

ROOT = Path(__file__).parents[2]
STEPS, ROWS, ACTORS = 5, 3, 2
SMALL: dict[str, Any] = {"core_kwargs": {"hidden_size": 7}, "embedding_size": 6}
LEFT_BEHIND_SECONDS = 10.0


def shared_blocks() -> set[str]:
    return set(os.listdir("/dev/shm"))


def descendants(pid: int) -> set[int]:
    """All processes below one, but for the resource tracker, which Python keeps as long as the process lives."""
    listed = subprocess.run(["ps", "-eww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    children: dict[int, list[int]] = {}
    for line in listed.splitlines():
        child, parent, command = line.split(None, 2)
        if "resource_tracker" not in command and not command.startswith("ps "):
            children.setdefault(int(parent), []).append(int(child))
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found.update(below)
        waiting.extend(below)
    return found


def alive(pids: set[int]) -> set[int]:
    def lives(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    return {pid for pid in pids if lives(pid)}


def wait_until(condition: Callable[[], Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it has not come about in time"
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """However a test ends: no process, no shared memory; what others on this machine make goes soon."""
    blocks, processes = shared_blocks(), descendants(os.getpid())
    yield
    wait_until(lambda: shared_blocks() <= blocks, LEFT_BEHIND_SECONDS)
    assert descendants(os.getpid()) <= processes


def build(env: Any = Recall, n_envs: int = ACTORS * ROWS, **kwargs: Any) -> IMPALA:
    settings: dict[str, Any] = {
        "policy_kwargs": SMALL,
        "unroll_length": STEPS,
        "batch_size": ROWS,
        "seed": 0,
        "device": "cpu",
        "placement": Placement(kind="local", actors=ACTORS),
    }
    return IMPALA("GRUPolicy", env, n_envs, **(settings | kwargs))


@pytest.fixture
def policy() -> GRUPolicy:
    torch.manual_seed(0)
    return GRUPolicy(Recall.observation_space, Recall.action_space, **SMALL)


def start(
    policy: GRUPolicy, batch_size: int = ROWS, actors: int = ACTORS, env: Any = Recall, **placement: Any
) -> LocalActors:
    settings = ImpalaHyperparameters(unroll_length=STEPS, reward_scale=0.25)
    chosen = Placement(kind="local", actors=actors, **placement)
    return LocalActors(Recipe(env, actors * ROWS), policy, settings, chosen, batch_size, 0, StopRequest())


def go_on(*_: Any) -> bool:
    return True


@pytest.fixture(scope="module")
def running() -> Iterator[LocalActors]:
    """Two actors that all tests of a healthy source share: to start processes takes longer than the tests."""
    torch.manual_seed(0)
    source = start(GRUPolicy(Recall.observation_space, Recall.action_space, **SMALL))
    yield source
    source.close()


@pytest.fixture
def source(running: LocalActors) -> LocalActors:
    """The same, with all slots filled anew and the counters at 0."""
    for _ in range(2 * SLOTS * ACTORS):
        running.batch(go_on)
    running.metrics()
    return running


# Learning


def test_learns_to_recall() -> None:
    """What cannot be done without memory, from actors that lag behind."""
    assert mean_return_after_learning(Placement(kind="local", actors=2)) > 0.95


def test_callbacks_see_every_step_that_is_learned_from() -> None:
    """Once per step of a batch, with returns and lengths of the episodes that ended. An error of theirs ends all."""
    ends, lengths, stopped = 0, [], []
    model = build(placement=Placement(kind="local"))

    def note(local: dict[str, Any], _: dict[str, Any]) -> bool:
        nonlocal ends
        assert local["rewards"].shape == local["dones"].shape == (ROWS,)
        for reward, done, info in zip(local["rewards"], local["dones"], local["infos"], strict=True):
            assert done == ("episode" in info)
            assert reward in (0.0, 1.0)  # as the environment gave it
            if done:
                ends += 1
                lengths.append(info["episode"]["l"])
                assert info["episode"]["r"] == reward  # it is all that an episode gives
        if model.num_timesteps < 31 * ROWS:
            return True
        stopped.append(time.monotonic())
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        model.learn(10_000, callback=note)
    assert time.monotonic() - stopped[0] < LEFT_BEHIND_SECONDS
    assert (model.num_timesteps, model._n_updates) == (31 * ROWS, 6)
    assert ends >= 2 * ROWS
    assert set(lengths) == {4}


def test_an_error_of_the_learner_ends_all() -> None:
    """Soon, though an actor waits for room. The squares of such rewards are infinite."""
    model = build(reward_scale=1e30, placement=Placement(kind="local", actors=1))
    begin: list[float] = []
    with pytest.raises(FloatingPointError, match="the gradient is not finite"):
        model.learn(10_000, callback=lambda *_: begin.append(time.monotonic()) or True)
    assert time.monotonic() - begin[-1] < LEFT_BEHIND_SECONDS


def test_a_model_is_saved_loaded_and_learns_on(tmp_path: Path) -> None:
    """And a callback can stop it, before the next update."""
    build().save(tmp_path / "model")
    placement = Placement(kind="local", actors=1)
    loaded = IMPALA.load(tmp_path / "model", Recall, device="cpu", placement=placement, batch_size=2 * ROWS)
    assert loaded.num_envs == ACTORS * ROWS
    loaded.learn(10_000, callback=lambda *_: loaded.num_timesteps < 42 * ROWS, reset_num_timesteps=False)
    assert (loaded.num_timesteps, loaded._n_updates) == (42 * ROWS, 4)


# What is shared


def check_batches(source: LocalActors, number: int) -> None:
    """The learner computes what the actor did."""
    batch_size, network = source.trajectory.batch_size, source.network
    for _ in range(number):
        trajectory = source.batch(go_on)
        assert trajectory is not None
        with torch.no_grad():
            output, _ = network(trajectory.observations, trajectory.initial_state, trajectory.starts)
            distribution = network.distribution(output.policy[:-1].flatten(0, 1))
            log_probs = distribution.log_prob(trajectory.actions.flatten()).view(STEPS, batch_size)
        torch.testing.assert_close(log_probs, trajectory.behaviour_log_probs, rtol=1e-4, atol=1e-5)
        assert torch.equal(trajectory.starts[1:], trajectory.terminated | trajectory.truncated)


def test_batches_hold_what_the_actors_did(source: LocalActors) -> None:
    """And all slots come back: there are many more unrolls than slots."""
    check_batches(source, 6 * SLOTS * ACTORS)


@pytest.mark.parametrize(("batch_size", "actors"), [(1, 1), (SLOTS * ACTORS * ROWS, ACTORS)])
def test_batches_of_other_sizes(policy: GRUPolicy, batch_size: int, actors: int) -> None:
    """A slot cut into several batches; all slots side by side."""
    with closing(start(policy, batch_size, actors)) as source:
        assert source.trajectory.batch_size == batch_size
        check_batches(source, max(6, 6 * SLOTS * actors * ROWS // batch_size))


@pytest.mark.skipif(not BF16_IS_FAST, reason="needs a processor that multiplies in bf16")
def test_actors_of_another_precision(policy: GRUPolicy) -> None:
    """They compute what the learner does but for the rounding, and the learner's precision stays."""
    with torch.no_grad():
        policy.network.policy_head.weight *= 100
    with closing(start(policy, precision="bf16")) as source:
        trajectory = source.batch(go_on)
        assert trajectory is not None
        output, _ = source.network(trajectory.observations, trajectory.initial_state, trajectory.starts)
        distribution = source.network.distribution(output.policy[:-1].flatten(0, 1))
        log_probs = distribution.log_prob(trajectory.actions.flatten()).view(STEPS, ROWS)
        difference = (log_probs - trajectory.behaviour_log_probs).abs()
        assert 1e-4 < difference.max() < 1e-1
    assert policy.network_kwargs["precision"] == "fp32"


def test_actors_play_different_games_and_each_goes_on(source: LocalActors) -> None:
    """An unroll of an actor begins with the observation with which its last one ended."""
    last: dict[int, Tensor] = {}
    actions: dict[int, Tensor] = {}
    for _ in range(20):
        (chunk,) = source._collect()
        observations = chunk.slots.trajectory.observations
        assert isinstance(observations, Tensor)
        if chunk.actor in last:
            assert torch.equal(observations[0], last[chunk.actor])
        last[chunk.actor] = observations[-1].clone()
        actions[chunk.actor] = chunk.slots.trajectory.actions.clone()
        source.full.release(chunk)
    assert not torch.equal(actions[0], actions[1])


def test_parameters_arrive(source: LocalActors) -> None:
    """What is published is acted with: the probabilities are the new policy's once the old unrolls are used up."""
    head = source.network.policy_head
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([20.0, 0.0, 0.0]))
    source.updated()
    for _ in range(2 * SLOTS * ACTORS):
        trajectory = source.batch(go_on)
    assert trajectory is not None
    assert (trajectory.actions == 0).all()
    assert (trajectory.behaviour_log_probs > -1e-3).all()
    head.load_state_dict(before)
    source.updated()


class TornRead(SharedParameters):
    """The writer comes in the middle of the first copies."""

    left = 2
    copies = 0

    def _copy(self, buffer: int) -> Tensor:
        copy = super()._copy(buffer)
        self.copies += 1
        if self.left:
            self.left -= 1
            newest = int(self.done.max())
            module = nn.Linear(3, 2)
            for version in (newest + 1, newest + 2):  # the second is written where the copy was taken
                nn.init.constant_(module.weight, version)
                nn.init.constant_(module.bias, version)
                self.write(module, version)
            copy[:4] = -1  # what half of the copy might have been
        return copy


def test_a_torn_read_is_noticed() -> None:
    parameters = TornRead(nn.Linear(3, 2))
    parameters.write(nn.Linear(3, 2), 0)
    module = nn.Linear(3, 2)
    assert parameters.read(module) == 4
    assert parameters.copies == 3
    assert all((parameter == 4).all() for parameter in module.parameters())


def write_on(parameters: SharedParameters, stop: Any) -> None:
    module = nn.Linear(300, 200)
    version = 1
    while not stop.is_set():
        for parameter in module.parameters():
            nn.init.constant_(parameter, version)
        parameters.write(module, version)
        version += 1


def test_a_reader_beside_a_writer_gets_whole_versions() -> None:
    """In another process, as fast as it can; every version has one value everywhere."""
    module = nn.Linear(300, 200)
    for parameter in module.parameters():
        nn.init.constant_(parameter, 0)
    parameters = SharedParameters(module)
    parameters.write(module, 0)
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    writer = context.Process(target=write_on, args=(parameters, stop))
    writer.start()
    versions = []
    try:
        deadline = time.monotonic() + 30
        while len(set(versions)) < 200 and time.monotonic() < deadline:
            versions.append(parameters.read(module))
            assert all((parameter == versions[-1]).all() for parameter in module.parameters())
    finally:
        stop.set()
        writer.join()
    assert len(set(versions)) >= 200
    assert versions == sorted(versions)


# Lag and back-pressure


def test_lag_is_measured_and_bounded(source: LocalActors, monkeypatch: pytest.MonkeyPatch) -> None:
    """No unroll is further behind than there are slots before it; what is logged is what was learned from."""
    lags: list[int] = []
    collect = source._collect

    def spy() -> list[Any]:
        chunks = collect()
        lags.extend(source.version - chunk.unroll.version for chunk in chunks)
        return chunks

    monkeypatch.setattr(source, "_collect", spy)
    for _ in range(30):
        source.batch(go_on)
        source.updated()
    figures = source.metrics()
    assert source.metrics()["policy_lag_max"] == 0  # it counts anew
    assert figures["policy_lag_mean"] == pytest.approx(np.mean(lags))
    assert figures["policy_lag_max"] == max(lags) > 0
    assert figures["dropped"] == figures["restarts"] == 0
    assert 0 <= figures["learner_idle"] <= 1
    assert 0 <= figures["actors_idle"] <= 1
    assert figures["queue_seconds"] > 0
    assert figures["actor_steps_per_second"] > 0
    assert figures["learner_steps_per_second"] > 0


def test_unrolls_that_are_too_old_are_dropped(source: LocalActors) -> None:
    """They are counted, and their slots are filled again; as old as may be is not too old."""
    wait_until(lambda: source.full or source._receive(), 20)
    first = source.full.chunks[0]
    while source.version < first.unroll.version + source.placement.max_policy_lag:
        source.updated()
    assert source._collect() == [first]
    source.full.release(first)
    wait_until(lambda: source.full or source._receive(), 20)
    for _ in range(source.placement.max_policy_lag + 1):
        source.updated()
    for _ in range(2 * SLOTS * ACTORS):
        source.batch(go_on)
    figures = source.metrics()
    assert 1 <= figures["dropped"] <= SLOTS * ACTORS
    assert figures["policy_lag_max"] <= source.placement.max_policy_lag


def test_actors_wait_for_the_learner(source: LocalActors) -> None:
    """Nothing is consumed: every actor fills its slots and stops there, and goes on once it may. It does not hang."""
    wait_until(lambda: len(source.full) == SLOTS * ACTORS or source._receive(), 20)
    for actor in source.actors:
        actor.heard -= 2 * source.placement.max_silence
    source._receive()  # and a warning would be an error
    assert not any(actor.connection.poll() for actor in source.actors)
    assert sorted((chunk.actor, chunk.unroll.slot) for chunk in source.full) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    source.metrics()
    for _ in range(3 * SLOTS * ACTORS):
        source.batch(go_on)
    assert source.metrics()["actors_idle"] > 0


# What fails


class Faulty(Recall):
    """Raises in its 30th step, or at once; once in all if there is a file to remember it by."""

    def __init__(self, marker: str = "", at_once: bool = False) -> None:
        super().__init__()
        self.marker, self.steps = Path(marker) if marker else None, 0
        if at_once and multiprocessing.parent_process() is not None:
            raise OSError("no licence\nfor this game")

    def step(self, action: int) -> Any:
        self.steps += 1
        if self.steps == 30 and not (self.marker and self.marker.exists()):
            if self.marker:
                self.marker.touch()
            raise ZeroDivisionError("the ghost\nhas escaped")
        return super().step(action)


def test_an_environment_that_raises_once(tmp_path: Path) -> None:
    """Its actor is restarted with a warning that says why, and training goes on."""
    placement = Placement(kind="local", actors=1)
    model = build(env=Faulty, env_kwargs={"marker": str(tmp_path / "raised")}, placement=placement)
    message = r"actor \d is restarted \(1 of at most 10 within 10 minutes\): ZeroDivisionError: the ghost has escaped$"
    with pytest.warns(RuntimeWarning, match=message) as caught:
        model.learn(200 * STEPS * ROWS)
    assert len(caught) == 1
    assert model._n_updates == 200
    assert set(np.unique([episode["l"] for episode in model.ep_info_buffer])) == {4}  # type: ignore[union-attr]


def test_an_environment_that_always_raises() -> None:
    """The limit on restarts ends training, with the environment's own traceback."""
    model = build(env=Faulty, placement=Placement(kind="local", actors=1, max_restarts=1))
    message = r"2 actors failed .*more than placement.max_restarts, 1; .*ZeroDivisionError: the ghost has escaped"
    with pytest.warns(RuntimeWarning, match="1 of at most 1"), pytest.raises(ActorError, match=message) as error:
        model.learn(10**6)
    assert "\n" not in str(error.value)
    (note,) = error.value.__notes__
    assert "in step" in note
    assert "ZeroDivisionError: the ghost\nhas escaped" in note


def test_failures_of_long_ago_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of weeks bears more of them than one of minutes."""
    now, restarts = 100.0, Restarts(most=1, seed=0)
    monkeypatch.setattr("agents.restarts.time.monotonic", lambda: now)
    with pytest.warns(RuntimeWarning, match="1 of at most 1"):
        restarts.next_seed(0, Failure("it is broken", ""))
    now += 601.0
    with pytest.warns(RuntimeWarning, match="1 of at most 1"):
        restarts.next_seed(0, Failure("it is broken", ""))
    now += 599.0
    with pytest.raises(ActorError, match="2 actors failed"):
        restarts.next_seed(0, Failure("it is broken", ""))
    assert restarts.total == 2


def test_an_environment_that_cannot_be_made_in_another_process() -> None:
    with pytest.raises(ActorError, match=r"^actor 0 cannot begin: OSError: no licence for this game"):
        build(env=Faulty, env_kwargs={"at_once": True}, placement=Placement(kind="local")).learn(100)


class Changing(Recall):
    """Has another observation space in another process."""

    def __init__(self) -> None:
        super().__init__()
        if multiprocessing.parent_process() is not None:
            self.observation_space = spaces.Box(0.0, 1.0, (9,), np.float32)


def test_an_environment_with_other_spaces_in_another_process() -> None:
    with pytest.raises(ActorError, match="actor 0 cannot begin: ValueError: Observation spaces do not match"):
        build(env=Changing, placement=Placement(kind="local")).learn(100)


def test_killed_actors_are_replaced(policy: GRUPolicy) -> None:
    """SIGKILL at any time: no slot is lost, none is written before it is used, and the next one plays other games."""
    with closing(start(policy, actors=1)) as source:
        actions = []
        for number in (1, 2, 3):
            trajectory = source.batch(go_on)
            while trajectory is not None and not trajectory.starts[0].all():  # what the one before had left
                trajectory = source.batch(go_on)
            assert trajectory is not None
            actions.append(tuple(trajectory.actions.flatten().tolist()))
            if number == 3:
                break
            if number == 2:
                wait_until(lambda: len(source.full) == SLOTS or source._receive(), 20)
            killed = source.actors[0].process.pid
            assert killed is not None
            os.kill(killed, signal.SIGKILL)
            message = rf"actor 0 is restarted \({number} of at most 10 within 10 minutes\): .* exit code -9$"
            with pytest.warns(RuntimeWarning, match=message):
                wait_until(lambda number=number: source.restarts.total == number or source._receive(), 20)
            assert alive({killed}) == set()
            if number == 2:
                (successor,) = source.actors
                assert successor.connection.poll(60)
                assert isinstance(successor.connection.recv(), Ready)
                assert not successor.connection.poll(3)  # the first unroll of a process takes a while
        check_batches(source, 5 * SLOTS)
        wait_until(lambda: len(source.full) == SLOTS or source._receive(), 20)
        assert {chunk.unroll.slot for chunk in source.full} == set(range(SLOTS))
        assert source.metrics()["restarts"] == 2
    assert len(set(actions)) == 3


class Stuck(Recall):
    """Never comes back from its 13th step, or from its first reset; one in all if there is a file to remember it by."""

    def __init__(self, marker: str = "", at_once: bool = False) -> None:
        super().__init__()
        self.marker, self.at_once, self.steps = marker, at_once, 0

    def reset(self, **arguments: Any) -> Any:
        if self.at_once and multiprocessing.parent_process() is not None:
            threading.Event().wait()
        return super().reset(**arguments)

    def step(self, action: int) -> Any:
        self.steps += 1
        if self.steps == 13 and not (self.marker and Path(self.marker).exists()):
            if self.marker:
                Path(self.marker).touch()
            threading.Event().wait()
        return super().step(action)


def test_actors_that_hang(policy: GRUPolicy) -> None:
    """They are replaced when they have been silent for too long; nobody waits for them once a stop is requested."""
    source = start(policy, env=Stuck, actors=1)
    processes = {source.actors[0].process.pid}
    for _ in range(2):
        source.batch(go_on)
    assert source._receive() is None  # nothing comes: it is in its third unroll, for good
    source.actors[0].heard -= source.placement.max_silence
    message = r"actor 0 is restarted .*: nothing came from it within 600 seconds, placement.max_silence$"
    with pytest.warns(RuntimeWarning, match=message):
        source._receive()
    assert alive(processes) == set()  # type: ignore[arg-type]
    for _ in range(2):
        assert source.batch(go_on) is not None
    processes = {source.actors[0].process.pid}
    begin = time.monotonic()
    source.stop.requested = True
    assert source.batch(go_on) is None
    source.close()
    assert time.monotonic() - begin < LEFT_BEHIND_SECONDS
    assert alive(processes) == set()  # type: ignore[arg-type]


def test_an_environment_that_hangs_in_its_first_reset() -> None:
    """A user who sets `max_silence` hears of it; that the actors are ended is seen to above."""
    model = build(env=Stuck, env_kwargs={"at_once": True}, placement=Placement(kind="local", max_silence=0.5))
    message = r"^actor 0 cannot begin: nothing came from it within 0.5 seconds, placement.max_silence$"
    with pytest.raises(ActorError, match=message):
        model.learn(100)


SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
from test_local_actors import Stuck, build
if __name__ == "__main__":
    print("begun", flush=True)
    model = build(env=Stuck, env_kwargs={{"marker": {marker!r}}})
    model.learn(10**9, callback=lambda *_: print(model.num_timesteps, flush=True) or True)
"""


def test_nothing_outlives_the_learner(tmp_path: Path) -> None:
    """Not even after SIGKILL, when nobody can clean up: neither an actor at work nor one that hangs."""
    script = SCRIPT.format(folder=str(Path(__file__).parent), marker=str(tmp_path / "stuck"))
    (tmp_path / "script.py").write_text(script)
    blocks = shared_blocks()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, str(tmp_path / "script.py")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.strip().isdecimal() and int(line) > 20 * STEPS * ROWS:
                    break
            assert (tmp_path / "stuck").exists()
            below = descendants(process.pid)
            assert len(below) == ACTORS
            wait_until(lambda: shared_blocks() <= blocks, LEFT_BEHIND_SECONDS)  # unlinked as soon as it is mapped
            process.kill()
            wait_until(lambda: not alive(below), LEFT_BEHIND_SECONDS)
        finally:
            process.kill()
