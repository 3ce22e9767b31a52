"""The matrix product of the library that torch itself uses, for compiled code."""

import ctypes
from pathlib import Path

import llvmlite.binding as llvm
import torch

SYMBOL = "rmc_rl_sgemm"
"""The name under which compiled code finds it."""


def _find() -> ctypes.CDLL | None:
    """torch's library, if it offers BLAS to others."""
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib", "torch_cpu.dll"):
        path = Path(torch.__file__).parent / "lib" / name
        if path.is_file():
            library = ctypes.CDLL(str(path))
            return library if hasattr(library, "sgemm_") else None
    return None


def _is_right(library: ctypes.CDLL) -> bool:
    """Whether its product of two small matrices is the one that torch gives."""
    # Numbers that are not random: the global generator is the user's, and a resumed run's must go on as it was.
    x, y, product = torch.arange(6.0).view(3, 2), torch.arange(12.0).view(4, 3), torch.empty(4, 2)
    sizes = [ctypes.byref(ctypes.c_int(size)) for size in (2, 4, 3)]
    one, zero = ctypes.byref(ctypes.c_float(1)), ctypes.byref(ctypes.c_float(0))
    pointers = [ctypes.c_void_p(matrix.data_ptr()) for matrix in (x, y, product)]
    # Counted by columns: product^T [2, 4] = x^T [2, 3] @ y^T [3, 4].
    library.sgemm_(b"N", b"N", *sizes, one, pointers[0], sizes[0], pointers[1], sizes[2], zero, pointers[2], sizes[0])
    return torch.allclose(product, y @ x)


_library = _find()
AVAILABLE = _library is not None and _is_right(_library)
if _library is not None and AVAILABLE:
    address = ctypes.cast(_library.sgemm_, ctypes.c_void_p).value
    assert address is not None
    llvm.add_symbol(SYMBOL, address)


def one_thread_here() -> None:
    """Keep matrix products in the calling thread from starting threads of their own (MKL; elsewhere nothing)."""
    if _library is not None and hasattr(_library, "MKL_Set_Num_Threads_Local"):
        _library.MKL_Set_Num_Threads_Local(ctypes.c_int(1))
