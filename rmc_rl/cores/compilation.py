"""Numba's compiler for numerical kernels, with a sound cache, and with a word to the user when it is really at work."""

import hashlib
import multiprocessing
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core import event

config: Any = numba.config
Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile at the first call; sums may be taken in any order, so that they can be vectorised."""
    return _compiled(function, fastmath={"reassoc", "contract", "nsz"})


def compiled_as_written(function: Function) -> Function:
    """Compile at the first call, with every operation in its place."""
    return _compiled(function, fastmath=False)


def _compiled(function: Function, fastmath: Any) -> Function:
    before, config.CACHE_DIR = config.CACHE_DIR, _cache_folder()
    try:
        options = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": fastmath}
        return cast(Function, numba.njit(**options)(function))
    finally:
        config.CACHE_DIR = before


@cache
def _cache_folder() -> str:
    """A folder for each version of this package's source: Numba's own cache overlooks changes in other files."""
    package = Path(__file__).parent
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(package.glob("*.py")))).hexdigest()[:16]
    return os.path.join(config.CACHE_DIR or package / "__pycache__", f"cores-{digest}")


class _Notice(event.Listener):
    """Says once that our functions are being compiled. Loading them from the cache is no such event.

    Processes that another one has started leave it to that one.
    """

    given = multiprocessing.parent_process() is not None

    def on_start(self, event: Any) -> None:
        if not self.given and event.data["dispatcher"].py_func.__module__.startswith(__package__):
            self.given = True
            print("compiling the Relational Memory Core (once) ...", file=sys.stderr, flush=True)

    def on_end(self, event: Any) -> None:
        pass


cast(Any, event).register("numba:compile", _Notice())
