"""What processes that others have started owe them: not to outlive them, and to leave signals to the first."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable
from multiprocessing.process import BaseProcess

SECONDS_TO_END = 4.0


class ActorError(RuntimeError):
    """Actors fail for good; a note carries the last one's traceback."""


def ignore_signals() -> None:
    """Leave SIGINT and SIGTERM, which may reach all processes at once, to the first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def follow_parent() -> None:
    """Leave signals to the parent, and end soon after it has ended."""
    ignore_signals()
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
