"""Replicas: processes that act and learn in lock step, each on its share of the environments.

Their gradients are averaged before every step of the optimizer, or added up where the loss is a sum, so that N replicas
of M / N environments learn what one process of M would. The functions speak for this process in `torch.distributed`'s
group; without one, it is alone.
"""

import importlib
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .processes import end, follow_parent, ignore_signals, start, temporary_folder


class ReplicaError(RuntimeError):
    """A replica ended before its time."""


class Launch(NamedTuple):
    """This process among those that torchrun has started."""

    rank: int
    number: int


def launched() -> Launch | None:
    """What torchrun says, or None if it has not started this process."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    return Launch(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))


def count() -> int:
    """How many replicas there are, this one included."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of the replicas this one is; 0 is the first."""
    return dist.get_rank() if dist.is_initialized() else 0


@contextmanager
def _together() -> Iterator[None]:
    """Around what all replicas do at once: a ReplicaError if another one has ended meanwhile."""
    try:
        yield
    except RuntimeError as error:
        raise ReplicaError(f"another replica has ended: {' '.join(str(error).split())}") from error


def average(tensor: Tensor) -> Tensor:
    """The mean over all replicas of a tensor that each of them has."""
    if count() == 1:
        return tensor
    total = tensor.clone()
    with _together():
        dist.all_reduce(total)
    return total / count()


def reduce_gradients(module: nn.Module, reduction: Literal["mean", "sum"]) -> None:
    """Replace the module's gradients by their means over all replicas, or their sums."""
    if count() == 1:
        return
    parameters = [parameter for parameter in module.parameters() if parameter.grad is not None]
    total = torch.cat([cast(Tensor, parameter.grad).flatten() for parameter in parameters])
    with _together():
        dist.all_reduce(total)
    if reduction == "mean":
        total /= count()
    for parameter, part in zip(parameters, torch.split(total, [each.numel() for each in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)


def share_parameters(module: nn.Module) -> None:
    """Give all replicas the parameters of the first."""
    if count() > 1:
        with _together():
            for parameter in module.parameters():
                dist.broadcast(parameter.data, src=0)


def agree(decision: int) -> int:
    """What the first replica has decided."""
    if count() == 1:
        return decision
    message = torch.tensor(int(decision))
    with _together():
        dist.broadcast(message, src=0)
    return int(message)


def wait_for_all() -> None:
    """Return when all replicas have come here."""
    average(torch.zeros(1))


def first_of(text: str) -> str:
    """Of the texts that the replicas have, the first that is not empty."""
    texts = [text] * count()
    if count() > 1:
        with _together():
            dist.all_gather_object(texts, text)
    return next(filter(None, texts), "")


def announce(text: str) -> str:
    """What the first of torchrun's processes says to the others; elsewhere what is given."""
    if launched() is None:
        return text
    message = [text]
    with _together():
        dist.broadcast_object_list(message)
    return message[0]


@contextmanager
def joined() -> Iterator[None]:
    """While inside, this process is in the group of all that torchrun has started.

    Raises:
        ReplicaError: another process has ended.
    """
    launch = launched()
    assert launch is not None
    try:
        with _together():
            _join_group(launch.rank, launch.number, "env://")
        if launch.rank > 0:
            ignore_signals()  # torchrun passes them on to all; the first process decides
        yield
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


@contextmanager
def replicated(number: int, prepare: Callable[[int], Callable[[], object]]) -> Iterator[None]:
    """While inside, this process is the first of `number` replicas: those that torchrun has started, or new ones.

    Args:
        number: of replicas, 1 for this process alone.
        prepare: run in each of the others, with its rank; what it returns is run once all are ready. It must be
            picklable.

    Raises:
        ReplicaError: a replica was killed.
        Exception: whatever a replica raised.
    """
    if launched() is not None:
        with joined():
            yield
        return
    if number == 1:
        yield
        return
    context = multiprocessing.get_context("spawn")
    with temporary_folder() as folder:
        store = f"file://{os.path.join(folder, 'store')}"
        others: list[tuple[BaseProcess, Connection]] = []
        try:
            for rank in range(1, number):
                here, there = context.Pipe()
                other = context.Process(target=_replica, args=(rank, number, store, prepare, there))
                start(other)
                there.close()
                others.append((other, here))
            _await_ready(others)
            _join_group(0, number, store)
            yield
        except RuntimeError as error:  # what torch.distributed says, among others, when another replica is gone
            reason = _reason(others)
            if reason is None:
                raise
            raise reason from error
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
            end(process for process, _ in others)


def _replica(
    rank: int, number: int, store: str, prepare: Callable[[int], Callable[[], object]], connection: Connection
) -> None:
    follow_parent()
    try:
        work = prepare(rank)
        connection.send(None)
        _join_group(rank, number, store)
        work()
    except Exception as error:
        connection.send(error)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _join_group(rank: int, number: int, store: str) -> None:
    on_this_machine = int(os.environ.get("LOCAL_WORLD_SIZE", number)) == number
    if on_this_machine and sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    backend = "gloo"
    if launched() is not None and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # a GPU for each
        backend = "cpu:gloo,cuda:nccl"
    # Optimizers import this, and its functions have the group of that time for a default. It would outlive its end,
    # with threads that may abort the process when it exits.
    importlib.import_module("torch.distributed.nn.functional")
    dist.init_process_group(backend, init_method=store, rank=rank, world_size=number)


def _await_ready(others: list[tuple[BaseProcess, Connection]]) -> None:
    for process, connection in others:
        try:
            message: Any = connection.recv()
        except (EOFError, OSError):
            process.join()
            raise ReplicaError(f"a replica ended at its start, with exit code {process.exitcode}") from None
        if isinstance(message, Exception):
            raise message


def _reason(others: list[tuple[BaseProcess, Connection]]) -> Exception | None:
    """Why replicas are gone: what one of them raised, or how it ended."""
    for process, connection in others:
        process.join(1.0)
        try:
            message: Any = connection.recv() if connection.poll() else None
        except EOFError:
            message = None
        if isinstance(message, Exception):
            return message
        if process.exitcode:
            return ReplicaError(f"replica {process.name} ended with exit code {process.exitcode}")
    return None
