"""Numba's compiler, with a sound cache, and with a word to the user when it is really at work."""

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


@cache
def _cache_folder() -> str:
    """A folder for each version of this package's source.

    Compiled functions freeze what they use of other files, tables and callees alike, and Numba's own cache looks at the
    function's file only: a change to a reward would go unnoticed.
    """
    package = Path(__file__).parent
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(package.glob("*.py")))).hexdigest()[:16]
    return os.path.join(config.CACHE_DIR or package / "__pycache__", f"mini_pacman-{digest}")


def compiled(function: Function) -> Function:
    """Compile at the first call, or load from the cache on disk (the user's own, where the package's is read-only)."""
    folder = _cache_folder()
    before, config.CACHE_DIR = config.CACHE_DIR, folder
    try:
        return cast(Function, numba.njit(cache=True)(function))
    finally:
        config.CACHE_DIR = before


class _Notice(event.Listener):
    """Says once that our functions are being compiled. Loading them from the cache is no such event.

    Processes that another one has started leave it to that one.
    """

    given = multiprocessing.parent_process() is not None

    def on_start(self, event: Any) -> None:
        if not self.given and (event.data["dispatcher"].py_func.__module__ or "").startswith(__package__):
            self.given = True
            print("compiling Mini-Pacman's rules ...", file=sys.stderr, flush=True)

    def on_end(self, event: Any) -> None:
        pass


cast(Any, event).register("numba:compile", _Notice())
