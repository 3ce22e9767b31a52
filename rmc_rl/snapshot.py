"""A nest of plain values and numpy arrays as JSON and tensors, which a checkpoint takes as is, and back exactly."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LEGAL = "None, a bool, int, float, str, numpy array or number of at most 8 bytes, or a list, tuple or str-keyed dict"


class Snapshot(NamedTuple):
    """A nest in two parts, as `rmc_rl.checkpoint.save_checkpoint` wants them."""

    data: Any
    """JSON, which names the tensors."""
    tensors: dict[str, Tensor]
    """The arrays; they share no memory with what was packed."""


def pack(nest: Any) -> Snapshot:
    """The snapshot of a nest: None, bool, int, float (also NaN and infinite), str, numpy arrays and numbers, and lists,
    tuples and str-keyed dicts of these.

    Raises:
        ValueError: a value of another kind; the message says where it is.
    """
    tensors: dict[str, Tensor] = {}
    return Snapshot(_encode(nest, "state", tensors), tensors)


def unpack(snapshot: Snapshot) -> Any:
    """The nest that was packed: equal in types, dtypes, shapes and every bit; arrays are new and C-contiguous.

    Raises:
        ValueError: not something that `pack` makes.
    """
    return _decode(snapshot.data, snapshot.tensors)


def _encode(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A list stays a list; whatever JSON does not have is a dict of one key, which says what it is."""
    if isinstance(value, np.ndarray | np.generic):  # before float, of which numpy's float64 is a kind
        key = str(len(tensors))
        tensors[key] = _to_tensor(value, name)
        return {"array" if isinstance(value, np.ndarray) else "number": key}
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if type(value) in (list, tuple):
        items = [_encode(item, f"{name}[{i}]", tensors) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, Mapping) and all(type(key) is str for key in value):
        return {"dict": {key: _encode(item, f"{name}[{key!r}]", tensors) for key, item in value.items()}}
    raise ValueError(f"{name} must be {LEGAL} of these, got {value!r}")


def _to_tensor(value: NDArray[Any] | np.generic, name: str) -> Tensor:
    array = np.array(value, order="C")  # a copy
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8 or not array.dtype.isnative:
        raise ValueError(f"{name} must be {LEGAL} of these, got an array of {array.dtype}")
    return torch.from_numpy(array.view(array.dtype.str))  # of two C types of one size, the one that torch knows


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case list():
            return [_decode(item, tensors) for item in value]
        case {"tuple": list(items)}:
            return tuple(_decode(item, tensors) for item in items)
        case {"dict": dict(items)}:
            return {key: _decode(item, tensors) for key, item in items.items()}
        case {"float": "nan" | "inf" | "-inf" as text}:
            return float(text)
        case {"array": str(key)} if key in tensors:
            return _to_array(tensors[key])
        case {"number": str(key)} if key in tensors and tensors[key].dim() == 0:
            return _to_array(tensors[key])[()]
        case _:
            raise ValueError(f"not a snapshot: unknown value {str(value)[:80]!r}")


def _to_array(tensor: Tensor) -> NDArray[Any]:
    if tensor.is_complex() or tensor.dtype == torch.bfloat16 or tensor.element_size() > 8:
        raise ValueError(f"not a snapshot: numpy arrays are never {tensor.dtype}")
    return tensor.detach().cpu().numpy().copy()
