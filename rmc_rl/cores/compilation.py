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
from llvmlite import binding as llvm
from numba.core import codegen, event

config: Any = numba.config
Library: Any = codegen.CPUCodeLibrary
Function = TypeVar("Function", bound=Callable[..., Any])


OURS = "".join(f"{len(name)}{name}" for name in __package__.split("."))
"""In the names that the compiler gives to this package's functions."""
ANY_ORDER = {"reassoc", "contract", "nsz"}
"""What sums may be taken in so that they can be vectorised."""


def compiled(function: Function) -> Function:
    """Compile at the first call; sums may be taken in any order, so that they can be vectorised.

    The function may not allocate memory or return a part of an array: so the references to its arrays need not be
    counted, which would take longer than what most functions here do.
    """
    return _compiled(function, fastmath=ANY_ORDER, _nrt=False)


def compiled_with_memory(function: Function) -> Function:
    """As `compiled`, for a function that allocates: to be called once a step, and not once a row."""
    return _compiled(function, fastmath=ANY_ORDER, _nrt=True)  # said, as it would be its first caller's otherwise


def compiled_as_written(function: Function) -> Function:
    """As `compiled`, with every operation in its place."""
    return _compiled(function, fastmath=False, _nrt=False)


def compiled_in_place(function: Function) -> Function:
    """As `compiled`, for a few lines that are put where they are called, so that they may return a part of an array."""
    return _compiled(function, fastmath=ANY_ORDER, inline="always")


def _compiled(function: Function, **options: Any) -> Function:
    before, config.CACHE_DIR = config.CACHE_DIR, _cache_folder()
    try:
        options |= {"cache": True, "nogil": True, "error_model": "numpy"}
        return cast(Function, numba.njit(**options)(function))
    finally:
        config.CACHE_DIR = before


@cache
def _cache_folder() -> str:
    """A folder for each version of this package's source: Numba's own cache overlooks changes in other files."""
    package = Path(__file__).parent
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(package.glob("*.py")))).hexdigest()[:16]
    return os.path.join(config.CACHE_DIR or package / "__pycache__", f"cores-{digest}")


def _keep_copies_private() -> None:
    """Have each function of this package call the copies of others that it was compiled with.

    Numba puts a copy of a function into all that call it, where it is optimised once more and may round differently. In
    the process that compiles, the first of all copies would be called by all; where a caller comes from the cache, its
    own. A run that was killed would not go on exactly.
    """
    optimize = Library._optimize_final_module

    def optimize_with_private_copies(library: Any) -> None:
        for function in library._final_module.functions:
            is_copy = not function.is_declaration and function.linkage == llvm.Linkage.linkonce_odr
            if is_copy and OURS in function.name:
                function.linkage = llvm.Linkage.internal
        optimize(library)

    Library._optimize_final_module = optimize_with_private_copies


class _Notice(event.Listener):
    """Says once that our functions are being compiled. Loading them from the cache is no such event.

    Processes that another one has started leave it to that one.
    """

    given = multiprocessing.parent_process() is not None

    def on_start(self, event: Any) -> None:
        if not self.given and (event.data["dispatcher"].py_func.__module__ or "").startswith(__package__):
            self.given = True
            print("compiling the Relational Memory Core (once) ...", file=sys.stderr, flush=True)

    def on_end(self, event: Any) -> None:
        pass


_keep_copies_private()
cast(Any, event).register("numba:compile", _Notice())
