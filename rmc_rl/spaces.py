"""Which spaces are taken; and spaces as JSON and back, so that a policy can be rebuilt without unpickling anything."""

import math
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from .checkpoint import one_line

MAX_VALUES = 2**23
"""Of a space, all parts together: more than a full HD picture. Bounds are arrays, and their memory is to be had."""


def check_observation_space(space: spaces.Space[Any]) -> None:
    """Raise a ValueError that says what to do, unless encoders can take the space.

    They take Box, Discrete, MultiDiscrete of one dimension, MultiBinary, and a Dict of these.
    """
    parts = list(space.values()) if isinstance(space, spaces.Dict) else [space]
    if not parts or not all(map(_is_taken, parts)):
        raise ValueError(
            "observation_space must be Box, Discrete, MultiDiscrete of one dimension, MultiBinary or a Dict of these "
            f"that is not nested, got {one_line(space)}; {_way_out(space)}"
        )


def _is_taken(space: spaces.Space[Any]) -> bool:
    if isinstance(space, spaces.MultiDiscrete):
        return len(space.shape) == 1
    return isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiBinary)


def _way_out(space: spaces.Space[Any]) -> str:
    if space.is_np_flattenable:
        return "gymnasium.wrappers.FlattenObservation(env) makes one Box of it"
    return "gymnasium.wrappers.TransformObservation(env, function, space) can make arrays of a fixed size of it"


def space_to_json(space: spaces.Space[Any]) -> dict[str, Any]:
    """JSON for a Box, Discrete, MultiDiscrete, MultiBinary, or a Dict of these.

    Raises:
        ValueError: any other space, or one of more than 2**23 values.
    """
    data = _to_json(space)
    _check_size(data)
    return data


def space_from_json(data: dict[str, Any]) -> spaces.Space[Any]:
    """The space that `space_to_json` wrote.

    Raises:
        ValueError: not something that it writes.
    """
    try:
        _check_size(data)
        return _from_json(data)
    except Exception as error:  # what numpy and Gymnasium raise on such arguments is of many kinds
        reason = str(error) or type(error).__name__
        raise ValueError(f"not a saved space: {reason}") from error


def _check_size(data: dict[str, Any]) -> None:
    if (size := _num_values(data)) > MAX_VALUES:
        raise ValueError(f"a space must have at most {MAX_VALUES} values, got {size}")


def _num_values(data: dict[str, Any]) -> int:
    if data["type"] == "Dict":
        return sum(map(_num_values, data["spaces"].values()))
    if data["type"] != "Box":
        return 1
    if not all(type(side) is int and side >= 0 for side in data["shape"]):
        raise ValueError(f"shape must be a list of whole numbers of at least 0, got {data['shape']!r}")
    return math.prod(data["shape"])


def _to_json(space: spaces.Space[Any]) -> dict[str, Any]:
    match space:
        case spaces.Dict():
            return {"type": "Dict", "spaces": {key: _to_json(part) for key, part in space.items()}}
        case spaces.Box():
            bounds = {"low": _bound_to_json(space.low), "high": _bound_to_json(space.high)}
            return {"type": "Box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}
        case spaces.Discrete():
            return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
        case spaces.MultiDiscrete():
            return {"type": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist()}
        case spaces.MultiBinary():
            # A number stays a number: MultiBinary(3) and MultiBinary([3]) differ, and policies take only the former.
            return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else list(space.shape)}
        case _:
            raise ValueError(f"cannot save the space {space}: only Box, Discrete, MultiDiscrete, MultiBinary and Dict")


def _from_json(data: dict[str, Any]) -> spaces.Space[Any]:
    match data["type"]:
        case "Dict":
            # As pairs: Gymnasium would sort a dict, and an encoder concatenates the parts in their order.
            return spaces.Dict([(key, _from_json(part)) for key, part in data["spaces"].items()])
        case "Box":
            shape, dtype = tuple(data["shape"]), np.dtype(data["dtype"])
            low, high = (_bound_from_json(data[side], shape, dtype) for side in ("low", "high"))
            return spaces.Box(low, high, shape, dtype.type)
        case "Discrete":
            return spaces.Discrete(data["n"], start=data["start"])
        case "MultiDiscrete":
            return spaces.MultiDiscrete(data["nvec"], start=data["start"])
        case "MultiBinary":
            return spaces.MultiBinary(data["n"])
        case other:
            raise ValueError(f"unknown type {other!r}")


def _bound_to_json(bound: NDArray[Any]) -> Any:
    """One number where all are equal, which they mostly are; as text, since JSON has no infinities."""
    texts = [repr(number.item()) for number in bound.flat]
    return texts[0] if len(set(texts)) == 1 else texts


def _bound_from_json(bound: str | list[str], shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    number = int if dtype.kind in "iu" else float
    if isinstance(bound, str):
        return np.full(shape, number(bound), dtype)
    return np.array([number(text) for text in bound], dtype).reshape(shape)
