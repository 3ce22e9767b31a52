"""Numba's compiler, with a word to the user when it is really at work.

Compiled functions that call one another must live in one file: Numba's cache does not notice a change in a callee that
lives elsewhere. So `rules` and `observation` call none of each other's.
"""

import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba.core import event

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile at the first call, or load from the cache on disk."""
    return cast(Function, numba.njit(cache=True)(function))


class _Notice(event.Listener):
    """Says once that our functions are being compiled. Loading them from the cache is no such event."""

    given = False

    def on_start(self, event: Any) -> None:
        if not self.given and event.data["dispatcher"].py_func.__module__.startswith(__package__):
            self.given = True
            print("compiling Mini-Pacman's rules ...", file=sys.stderr, flush=True)

    def on_end(self, event: Any) -> None:
        pass


cast(Any, event).register("numba:compile", _Notice())
