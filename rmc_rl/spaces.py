"""Which spaces are taken, and what of them; and spaces as JSON and back, to rebuild a policy without unpickling."""

import math
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from .checkpoint import one_line

MAX_VALUES = 2**23
"""Of a space, all parts together: more than a full HD picture. Bounds are arrays, and their memory is to be had."""


def check_observation_space(space: spaces.Space[Any]) -> None:
    """Raise a ValueError that says what to do, unless encoders can take the space.

    They take Box, Discrete, MultiDiscrete of one dimension, MultiBinary, and a Dict of these with keys that are text.
    """
    if not isinstance(space, spaces.Space):
        raise ValueError(f"observation_space must be a space of gymnasium.spaces, got {one_line(repr(space))}")
    parts = list(space.values()) if isinstance(space, spaces.Dict) else [space]
    if not parts or not all(map(_is_taken, parts)):
        raise ValueError(
            "observation_space must be Box, Discrete, MultiDiscrete of one dimension, MultiBinary or a Dict of these "
            f"that is not nested, got {one_line(space)}; {_way_out(space)}"
        )
    if not all(math.prod(part.shape or ()) for part in parts):
        raise ValueError(f"observation_space must have at least one value in every part, got {one_line(space)}")
    if isinstance(space, spaces.Dict) and not all(isinstance(key, str) for key in space):
        raise ValueError(f"observation_space must have keys of type str, got {one_line(list(space))}")


def _is_taken(space: spaces.Space[Any]) -> bool:
    if isinstance(space, spaces.MultiDiscrete):
        return len(space.shape) == 1
    return isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiBinary)


def _way_out(space: spaces.Space[Any]) -> str:
    if space.is_np_flattenable:
        return "gymnasium.wrappers.FlattenObservation(env) makes one Box of it"
    return "gymnasium.wrappers.TransformObservation(env, function, space) can make arrays of a fixed size of it"


def check_form(observation: Any, space: spaces.Space[Any]) -> None:
    """Raise a ValueError unless an observation, or a batch of them, has the parts that the space has."""
    if isinstance(observation, tuple):
        raise ValueError(
            f"observation must be the observation alone, got a tuple of {len(observation)}: a Gymnasium environment's "
            "reset() gives observation, info"
        )
    if isinstance(space, spaces.Dict):
        wanted = sorted(space.spaces)
        found = sorted(observation, key=str) if isinstance(observation, dict) else type(observation).__name__
        if found != wanted:
            raise ValueError(
                f"observation must be a dict with the keys {wanted}, got {found}; environments of make_vec_env, or "
                "wrapped in what the agent was trained with (ActionMasks, PreviousActionReward), give these"
            )


def check_batch(observations: PyTorchObs, space: spaces.Space[Any]) -> None:
    """Raise a ValueError unless all parts [B, ...] are of one batch, and discrete values within their range."""
    if not isinstance(observations, dict):
        _check_range("observation", observations, space)
        return
    sizes = {key: len(part) for key, part in observations.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"all parts of an observation must be of one batch size, got {sizes}")
    for key, part in observations.items():
        _check_range(f"observation[{key!r}]", part, cast(spaces.Dict, space)[key])


def _check_range(name: str, part: Tensor, space: spaces.Space[Any]) -> None:
    """Of a Discrete or a MultiDiscrete, [B, ...]; others have no value that would be an error."""
    if not isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return
    values = part.cpu().numpy()
    first = np.asarray(space.start, np.int64)
    last = first + np.asarray(space.n if isinstance(space, spaces.Discrete) else space.nvec, np.int64) - 1
    if (outside := (values < first) | (values > last)).any():
        place = np.argwhere(outside)[0]
        low, high = (int(bound[tuple(place[1:])]) for bound in (first, last))
        which = f" at {place[1]}" if len(place) > 1 else ""
        raise ValueError(f"{name} must be from {low} to {high}{which}, got {values[tuple(place)]}")


def torch_dtype(space: spaces.Space[Any]) -> torch.dtype:
    """torch's name of the dtype of a space's values."""
    return torch.from_numpy(np.empty(0, space.dtype)).dtype


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
            return {"type": "Discrete", "n": int(space.n), "start": int(space.start), "dtype": str(space.dtype)}
        case spaces.MultiDiscrete():
            ranges = {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
            return {"type": "MultiDiscrete", **ranges, "dtype": str(space.dtype)}
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
            # Gymnasium before 1.2.2 has Discrete in int64 alone, and no such argument.
            other: dict[str, Any] = {} if _dtype(data) == np.int64 else {"dtype": _dtype(data)}
            return spaces.Discrete(data["n"], start=data["start"], **other)
        case "MultiDiscrete":
            return spaces.MultiDiscrete(data["nvec"], _dtype(data), start=data["start"])
        case "MultiBinary":
            return spaces.MultiBinary(data["n"])
        case other:
            raise ValueError(f"unknown type {other!r}")


def _dtype(data: dict[str, Any]) -> np.dtype[Any]:
    """Of discrete values; older files, of when all were taken for int64, do not name it."""
    dtype: np.dtype[Any] = np.dtype(data.get("dtype", "int64"))
    return dtype


def _bound_to_json(bound: NDArray[Any]) -> Any:
    """One number where all are equal, which they mostly are; as text, since JSON has no infinities."""
    bound = bound.astype(np.uint8) if bound.dtype.kind == "b" else bound
    texts = [repr(number.item()) for number in bound.flat]
    return texts[0] if len(set(texts)) == 1 else texts


def _bound_from_json(bound: str | list[str], shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    number = int if dtype.kind in "iub" else float
    if isinstance(bound, str):
        return np.full(shape, number(bound), dtype)
    return np.array([number(text) for text in bound], dtype).reshape(shape)
