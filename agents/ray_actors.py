"""Actors on a Ray cluster, or on a Ray that is started on this machine for as long as they live."""

import logging
import os
import secrets
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rmc_rl.policies import RecurrentPolicy
from rmc_rl.stop import StopRequest

from .actor import Actor, OnStep
from .actor_process import Blueprint, Failure, Ready, Report, Slots, Unroll
from .environments import Recipe
from .hyperparameters import Hyperparameters
from .lag_log import LagLog
from .placement import SLOTS, Placement
from .processes import ActorError, BeginError, temporary_folder
from .restarts import Restarts, with_traceback
from .shared_parameters import load_vector
from .trajectory import Trajectory
from .unroll_queue import Chunk, UnrollQueue

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read at import: nothing is sent anywhere
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what its warning advises
import ray
from ray.exceptions import RayError

TOKEN = secrets.token_hex(32)
"""Keeps others off a Ray of our own; the same for all of this process, which Ray reads once."""
PLACE_SECONDS = 60.0
"""Within which an actor must find a free CPU and start there."""
LOOK_AFTER = 1.0
"""Seconds without a message after which signals are served and the actors looked after."""


class RayActor:
    """An actor on a Ray cluster, which fills an unroll for each call. Its calls are executed one after the other."""

    def __init__(self, blueprint: Blueprint) -> None:
        torch.set_num_threads(1)
        self.blueprint = blueprint
        self.actor: Actor | None = None

    def begin(self) -> Ready | Failure:
        """Make the environments."""
        try:
            self.actor = self.blueprint.make()
        except Exception as error:
            return Failure.of(error)
        self.rewards = torch.zeros(self.blueprint.settings.unroll_length, self.actor.env.num_envs)
        self.idle_since = time.monotonic()
        return Ready()

    def unroll(
        self, slot: int, version: int, parameters: NDArray[np.float32]
    ) -> tuple[Unroll, list[NDArray[Any]]] | Failure:
        """An unroll under these parameters: what is said of it, and its rewards and trajectory as arrays."""
        assert self.actor is not None, "begin() comes first"
        begun, report = time.monotonic(), Report(self.rewards)
        try:
            (vector,) = _read_only_tensors([parameters])
            load_vector(self.actor.network, vector)
            trajectory = self.actor.unroll(report.on_step)
        except Exception as error:
            return Failure.of(error)
        assert trajectory is not None, "its own on_step never says stop"
        waited, self.idle_since = begun - self.idle_since, time.monotonic()
        said = Unroll(slot, version, report.ends, begun, self.idle_since, waited)
        return said, [tensor.numpy() for tensor in (self.rewards, *trajectory.tensors())]


@dataclass
class RemoteActor:
    """An actor as the learner sees it."""

    handle: Any
    placed: "ray.ObjectRef[bool]"
    """Is ready once the actor has a CPU."""
    under_way: "list[ray.ObjectRef[Any]]" = field(default_factory=list)
    """Calls whose results were not taken yet, in their order."""
    has_begun: bool = False
    heard: float = field(default_factory=time.monotonic)
    """When it was last placed, delivered, or was given a slot, as far as that was looked after."""


class RayActors:
    """Actors that Ray places, and the learner's end of their calls.

    Each call is for one slot of an actor, which has two: one unroll is being made while another waits to be begun or
    learned from, and nothing grows. Parameters are put into Ray's object store once per version, and calls name them;
    a version is freed when no call does any more. Unrolls come back through the store, are read where they lie, and
    are freed once copied into the batch.

    An actor that fails or hangs, or whose node is lost, is replaced, and what it had begun is lost, until too many have
    failed within 10 minutes. While its successor finds no free CPU, training goes on with the others.

    Args:
        recipe: of all environments of this learner.
        policy: the learner's.
        settings: of the actor.
        placement: where, how many actors, and what is borne from them.
        batch_size: rows of this learner's batches.
        seed: of row 0; None draws one from the system.
        stop: once it is requested, nothing is waited for.

    Raises:
        BeginError: the cluster cannot be joined or has too few CPUs, or an actor cannot begin.
    """

    has_batch = False
    recording = None

    def __init__(
        self,
        recipe: Recipe,
        policy: RecurrentPolicy,
        settings: Hyperparameters,
        placement: Placement,
        batch_size: int,
        seed: int | None,
        stop: StopRequest,
    ) -> None:
        self.network, self.placement, self.stop = policy.network, placement, stop
        self.num_rows = recipe.n_envs // placement.actors
        self.seed = int(np.random.SeedSequence().generate_state(1)[0] >> 1) if seed is None else seed
        self.width = min(self.num_rows, batch_size)  # of a chunk
        self.version = 0
        self.blueprint = Blueprint.of(policy, replace(recipe, n_envs=self.num_rows), settings, placement, self.seed)
        batch = Trajectory.allocate(settings.unroll_length, batch_size, policy.network, policy.device)
        self.log = LagLog(placement.actors)
        self.full = UnrollQueue(batch, self.width, placement.max_policy_lag, self._hand_back, self.log)
        self.restarts = Restarts(placement.max_restarts, self.seed)
        self.actors: list[RemoteActor] = []
        self.connection = ExitStack()
        try:
            self.connection.enter_context(_connected(placement))
            self.actor_class = ray.remote(num_cpus=1)(RayActor)
            self.parameters = self._put()
            self._start_all()
        except BaseException:
            self.close()
            raise

    def batch(self, on_step: OnStep) -> Trajectory | None:
        """The next batch, copied from the oldest unrolls; None also if there is none yet and a stop is requested.

        Raises:
            ActorError: actors fail again and again, or none finds a CPU.
        """
        began = time.monotonic()
        chunks = self._collect()
        self.log.waited(time.monotonic() - began)
        return None if chunks is None else self.full.batch(chunks, on_step)

    def updated(self) -> None:
        self.version += 1
        self.parameters = self._put()

    def metrics(self) -> dict[str, float]:
        return self.log.take() | {"restarts": self.restarts.total}

    def close(self) -> None:
        self.full.chunks.clear()  # they lie in the store
        for actor in self.actors:
            ray.kill(actor.handle)
        self.actors.clear()
        self.connection.close()

    def _put(self) -> "ray.ObjectRef[Any]":
        with torch.no_grad():
            vector = nn.utils.parameters_to_vector(self.network.parameters())
        return ray.put(vector.cpu().numpy())

    # The actors' lives

    def _start_all(self) -> None:
        self.actors = [self._start(self.seed + i * self.num_rows) for i in range(self.placement.actors)]
        placed = [actor.placed for actor in self.actors]
        missing = self._wait(placed, PLACE_SECONDS)
        if missing and not self.stop.requested:
            raise BeginError(f"{missing} of {len(placed)} actors did not start within {_cpus()}")
        for index, actor in enumerate(self.actors):
            is_silent = self._wait(actor.under_way, self.placement.max_silence)
            if self.stop.requested:
                return
            if is_silent:
                raise BeginError(f"actor {index} cannot begin: {self.placement.silence()}")
            result = _result(actor.under_way.pop())
            if isinstance(result, Failure):
                raise with_traceback(BeginError(f"actor {index} cannot begin: {result.reason}"), result)
            self._take(index, result)

    def _wait(self, refs: "list[ray.ObjectRef[Any]]", seconds: float) -> int:
        """Until all are ready, or for so many seconds, or until a stop is requested; how many are not ready."""
        deadline = time.monotonic() + seconds
        missing = len(refs)
        while missing and time.monotonic() < deadline and not self.stop.requested:
            missing = len(ray.wait(refs, num_returns=len(refs), timeout=LOOK_AFTER)[1])
        return missing

    def _start(self, seed: int) -> RemoteActor:
        handle: Any = self.actor_class.remote(replace(self.blueprint, seed=seed))
        return RemoteActor(handle, handle.__ray_ready__.remote(), [handle.begin.remote()])

    def _replace(self, index: int, failure: Failure) -> None:
        """Start another actor in the place of one that has failed."""
        ray.kill(self.actors[index].handle)  # it may be alive, with a broken environment
        self.actors[index] = self._start(self.restarts.next_seed(index, failure))

    def _hangs(self, index: int) -> bool:
        """Whether an actor that has a CPU has been silent for too long with something to do."""
        actor = self.actors[index]
        if not actor.has_begun and not ray.wait([actor.placed], timeout=0)[0]:
            actor.heard = time.monotonic()
        return bool(actor.under_way) and time.monotonic() - actor.heard > self.placement.max_silence

    # Their unrolls

    def _collect(self) -> list[Chunk] | None:
        """As many of the oldest chunks as a batch takes, once there are so many that are not too old."""
        idle_since = time.monotonic()
        while (chunks := self.full.take(self.version)) is None and not self.stop.requested:
            if self._receive() or self._is_acting():
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since > PLACE_SECONDS:
                raise ActorError(f"no actor that has failed started again within {_cpus()}")
        return chunks

    def _is_acting(self) -> bool:
        """Whether an actor that has a CPU has anything to do."""
        placed = [actor.placed for actor in self.actors if actor.under_way]
        return bool(placed) and bool(ray.wait(placed, timeout=0)[0])

    def _receive(self) -> bool:
        """Wait for results, and take all that there are, the oldest of each actor first; whether there was any."""
        refs = [ref for actor in self.actors for ref in actor.under_way]
        ray.wait(refs, timeout=LOOK_AFTER)
        ready = set(ray.wait(refs, num_returns=len(refs), timeout=0)[0])
        for index, actor in enumerate(self.actors):
            for ref in [ref for ref in actor.under_way if ref in ready]:
                if self.actors[index] is actor:  # or it was replaced for the result before
                    actor.under_way.remove(ref)
                    self._take(index, _result(ref))
            if self._hangs(index):
                self._replace(index, Failure(self.placement.silence(), traceback=""))
        return bool(ready)

    def _take(self, index: int, result: Any) -> None:
        self.actors[index].heard = time.monotonic()
        if isinstance(result, Failure):
            self._replace(index, result)
        elif isinstance(result, Ready):
            self.actors[index].has_begun = True
            for slot in set(range(SLOTS)) - self.full.held(index):
                self._hand_back(index, slot)
        else:
            unroll, arrays = result
            rewards, *tensors = _read_only_tensors(arrays)
            slots = Slots(self.full.trajectory.of_tensors(tensors), rewards)
            # Clocks of two machines differ: for the queue it begins with its arrival here.
            unroll = unroll._replace(finished=time.monotonic())
            self.full.add(index, unroll, slots.split(self.width))

    def _hand_back(self, index: int, slot: int) -> None:
        actor = self.actors[index]
        if actor.has_begun:  # it gets all slots that are free when it has
            actor.heard = time.monotonic()
            actor.under_way.append(actor.handle.unroll.remote(slot, self.version, self.parameters))


@contextmanager
def _connected(placement: Placement) -> Iterator[None]:
    """While inside, this process is connected to Ray: to a cluster, or to one of its own, which ends with it.

    Raises:
        BeginError: it cannot be.
    """
    if ray.is_initialized():
        raise BeginError("this process is connected to Ray already: placement.kind 'ray' needs ray.shutdown() first")
    arguments: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    with ExitStack() as stack:
        if placement.address is None:
            os.environ.setdefault("RAY_AUTH_TOKEN", TOKEN)  # or Ray writes one into the home directory
            # Workers find on this machine what this process finds.
            paths = {"env_vars": {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}}
            folder = stack.enter_context(temporary_folder())
            arguments |= {"address": "local", "num_cpus": placement.actors, "include_dashboard": False}
            arguments |= {"runtime_env": paths, "_temp_dir": folder}
        else:
            arguments["address"] = placement.address
        stack.callback(ray.shutdown)
        with _signals_kept():
            try:
                ray.init(**arguments)
            except Exception as error:  # of many kinds, and of many lines
                where = placement.address or "on this machine"
                raise BeginError(f"cannot join Ray at {where}: {_line(error)}") from error
        yield


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Undo what is done inside to the handlers of SIGINT and SIGTERM: Ray's would end the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _result(ref: "ray.ObjectRef[Any]") -> Any:
    """What a call has returned, or the failure that kept it from returning."""
    try:
        return ray.get(ref)
    except RayError as error:
        return Failure(_reason(error), traceback=str(error))


def _reason(error: RayError) -> str:
    """The one line of Ray's many that says why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line for line in lines if " because its " in line]  # its process, or its node, has died
    return causes[0].partition(". ")[0] if causes else lines[-1]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _cpus() -> str:
    total = ray.cluster_resources().get("CPU", 0)  # type: ignore[no-untyped-call]
    free = ray.available_resources().get("CPU", 0)  # type: ignore[no-untyped-call]
    return f"{PLACE_SECONDS:.0f} seconds: the Ray cluster has {total:.0f} CPUs, {free:.0f} of them free"


def _read_only_tensors(arrays: list[NDArray[Any]]) -> list[Tensor]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nobody writes
        return [torch.from_numpy(array) for array in arrays]
