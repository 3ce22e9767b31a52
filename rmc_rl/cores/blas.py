"""The product of bfloat16 matrices in the library that torch itself uses (MKL), for processors with matrix units."""

import ctypes
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import torch

BF16_GEMM = "rmc_rl_bf16_gemm"
"""The name under which compiled code finds it."""


def _find() -> ctypes.CDLL | None:
    """torch's library, if it offers the product to others."""
    for name in ("libtorch_cpu.so", "torch_cpu.dll"):
        path = Path(torch.__file__).parent / "lib" / name
        if path.is_file():
            library = ctypes.CDLL(str(path))
            return library if hasattr(library, "gemm_bf16bf16f32_") else None
    return None


def _is_right(product: Any) -> bool:
    """Whether its product of two small matrices is the one that numpy gives."""
    # Numbers that are not random: the global generator is the user's, and a resumed run's must go on as it was.
    x, y = torch.arange(6.0).view(3, 2).bfloat16(), torch.arange(12.0).view(4, 3).bfloat16()
    out = torch.empty(4, 2)
    sizes = [ctypes.byref(ctypes.c_int(size)) for size in (2, 4, 3)]
    one, zero = ctypes.byref(ctypes.c_float(1)), ctypes.byref(ctypes.c_float(0))
    pointers = [ctypes.c_void_p(matrix.data_ptr()) for matrix in (x, y, out)]
    # Counted by columns: out^T [2, 4] = x^T [2, 3] @ y^T [3, 4].
    product(b"N", b"N", *sizes, one, pointers[0], sizes[0], pointers[1], sizes[2], zero, pointers[2], sizes[0])
    return bool(np.allclose(out.numpy(), y.float().numpy() @ x.float().numpy()))


def _offer() -> bool:
    """Give the product to compiled code; whether it is there and right."""
    product: Any = None if _library is None else _library.gemm_bf16bf16f32_
    if product is None or not _is_right(product):
        return False
    llvm.add_symbol(BF16_GEMM, ctypes.cast(product, ctypes.c_void_p).value)
    return True


_library = _find()
AVAILABLE = _offer()
IS_FAST: bool = AVAILABLE and bool(llvm.get_host_cpu_features().get("amx-bf16"))
"""Whether the processor multiplies whole matrices of bfloat16 (AMX), as the library then does."""


def one_thread_here() -> None:
    """Keep matrix products in the calling thread from starting threads of their own (MKL; elsewhere nothing)."""
    if _library is not None and hasattr(_library, "MKL_Set_Num_Threads_Local"):
        _library.MKL_Set_Num_Threads_Local(ctypes.c_int(1))
