"""What a process of a training run does with its memory, its signals, and the processes it has started."""

import ctypes
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess

SECONDS_TO_END = 4.0
LEFT_TO_THE_FIRST = (signal.SIGINT, signal.SIGTERM)


class ActorError(RuntimeError):
    """Actors fail for good; a note carries the last one's traceback."""


class BeginError(ActorError):
    """Actors cannot begin."""


def ignore_signals() -> None:
    """Leave SIGINT and SIGTERM, which may reach all processes at once, to the first."""
    for number in LEFT_TO_THE_FIRST:
        signal.signal(number, signal.SIG_IGN)


def start(process: BaseProcess) -> None:
    """Start a process that calls `follow_parent` once it can: until then, signals are held back from it.

    It imports for seconds before, and Ctrl-C reaches all processes at once.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        process.start()
        return
    resource_tracker.ensure_running()  # starting it would let the signals through again
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_THE_FIRST)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def follow_parent() -> None:
    """Leave signals to the parent, and end soon after it has ended."""
    ignore_signals()
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, LEFT_TO_THE_FIRST)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: BaseProcess) -> None:
    parent.join()
    time.sleep(SECONDS_TO_END)  # for an orderly end, if there can be one
    os._exit(1)


def end(processes: Iterable[BaseProcess]) -> None:
    """Wait a while for processes that have been told to end, then kill those that have not."""
    processes = list(processes)
    deadline = time.monotonic() + SECONDS_TO_END
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    for process in processes:
        process.kill()
        process.join()


CLEAN_UP = """
read _ || for process in /proc/[0-9]*; do  # a line, or the end of the pipe with whoever held it
    ls -l "$process/fd" 2> /dev/null | grep -qF "$0" && kill -9 "${process#/proc/}"
done
rm -rf -- "$0"
"""


@contextmanager
def temporary_folder() -> Iterator[str]:
    """A folder that is removed at the end of the block.

    So it is if this process is killed: by a shell, which on Linux kills the processes that have a file in it open.
    """
    folder = tempfile.mkdtemp(prefix="rmc-rl-")
    with subprocess.Popen(["sh", "-c", CLEAN_UP, folder], stdin=subprocess.PIPE, start_new_session=True) as shell:
        try:
            yield folder
        finally:
            shell.communicate(b"\n")


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


@contextmanager
def settled() -> Iterator[None]:
    """While inside, this process does the same again and again, with little to look for in its memory.

    What lives already is not searched for garbage, and freed memory is kept for the next step: the kernel would have
    to clear the pages that are given back to it before it lends them again.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
