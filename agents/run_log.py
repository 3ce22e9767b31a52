"""A run's log, and what becomes of it when the disk is full."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

from stable_baselines3.common.logger import Logger, make_output_format

from rmc_rl.run_folder import RunFolder


class RunLog(Logger):
    """CSV and TensorBoard files in a run's folder. An OSError of theirs names the folder."""

    def __init__(self, folder: RunFolder) -> None:
        path = str(folder.path)
        with _naming(path):
            formats = [make_output_format("csv", path, folder.log_suffix()), make_output_format("tensorboard", path)]
        super().__init__(path, formats)

    def dump(self, step: int = 0) -> None:
        with _naming(str(self.dir)):
            super().dump(step)

    def close(self) -> None:
        with _naming(str(self.dir)):
            super().close()


@contextmanager
def run_log(folder: RunFolder) -> Iterator[RunLog]:
    """The log of a run, until the end of the block.

    Raises:
        OSError: it cannot be written.
    """
    previous = threading.excepthook

    def report(failure: threading.ExceptHookArgs) -> None:
        # What fails in TensorBoard's thread is raised in this one at the next write, and told once.
        if not type(failure.thread).__module__.startswith("tensorboard."):
            previous(failure)

    threading.excepthook = report
    try:
        with closing(RunLog(folder)) as log:
            yield log
    finally:
        threading.excepthook = previous


@contextmanager
def _naming(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"cannot write the log: {error.strerror}", path) from error
