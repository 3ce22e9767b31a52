"""The matrix products of the library that torch itself uses, for compiled code."""

import ctypes
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import torch

SGEMM, BF16_GEMM = "rmc_rl_sgemm", "rmc_rl_bf16_gemm"
"""The names under which compiled code finds them."""


def _find() -> ctypes.CDLL | None:
    """torch's library, if it offers BLAS to others."""
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib", "torch_cpu.dll"):
        path = Path(torch.__file__).parent / "lib" / name
        if path.is_file():
            library = ctypes.CDLL(str(path))
            return library if hasattr(library, "sgemm_") else None
    return None


def _is_right(product: Any, dtype: torch.dtype) -> bool:
    """Whether its product of two small matrices is the one that torch gives."""
    # Numbers that are not random: the global generator is the user's, and a resumed run's must go on as it was.
    x, y, out = torch.arange(6.0).view(3, 2).to(dtype), torch.arange(12.0).view(4, 3).to(dtype), torch.empty(4, 2)
    sizes = [ctypes.byref(ctypes.c_int(size)) for size in (2, 4, 3)]
    one, zero = ctypes.byref(ctypes.c_float(1)), ctypes.byref(ctypes.c_float(0))
    pointers = [ctypes.c_void_p(matrix.data_ptr()) for matrix in (x, y, out)]
    # Counted by columns: out^T [2, 4] = x^T [2, 3] @ y^T [3, 4].
    product(b"N", b"N", *sizes, one, pointers[0], sizes[0], pointers[1], sizes[2], zero, pointers[2], sizes[0])
    # Numpy's, as autocast may be on.
    return bool(np.allclose(out.numpy(), y.float().numpy() @ x.float().numpy()))


def _offer(library: ctypes.CDLL, symbol: str, name: str, dtype: torch.dtype) -> bool:
    """Give the library's product `name` to compiled code; whether it is there and right."""
    product: Any = getattr(library, name, None)
    is_right = product is not None and _is_right(product, dtype)
    # Compiled code names all products, whichever it calls: what is missing must still be found.
    address = ctypes.cast(product if is_right else library.sgemm_, ctypes.c_void_p).value
    assert address is not None
    llvm.add_symbol(symbol, address)
    return is_right


_library = _find()
AVAILABLE = _library is not None and _offer(_library, SGEMM, "sgemm_", torch.float32)
_has_bf16 = _library is not None and _offer(_library, BF16_GEMM, "gemm_bf16bf16f32_", torch.bfloat16)
BF16_IS_FAST: bool = AVAILABLE and _has_bf16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
"""Whether there are products of bfloat16 operands, summed in float32, that the processor has instructions for."""


def one_thread_here() -> None:
    """Keep matrix products in the calling thread from starting threads of their own (MKL; elsewhere nothing)."""
    if _library is not None and hasattr(_library, "MKL_Set_Num_Threads_Local"):
        _library.MKL_Set_Num_Threads_Local(ctypes.c_int(1))
