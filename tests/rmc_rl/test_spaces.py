"""Spaces as JSON: every space that a policy takes comes back equal, through text."""

import inspect
import json
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from rmc_rl.spaces import check_observation_space, space_from_json, space_to_json

SHAPES = st_numpy.array_shapes(min_dims=0, max_dims=3, max_side=4)


@st.composite
def boxes(draw: st.DrawFn) -> spaces.Box:
    """Of floats, infinite bounds included, of whole numbers and of truth values."""
    dtype = draw(st.sampled_from([np.float32, np.float64, np.uint8, np.int16, np.int64, np.bool_]))
    shape = draw(SHAPES)
    if dtype is np.bool_:
        elements: Any = st.booleans()
    elif np.issubdtype(dtype, np.floating):
        width = np.finfo(dtype).bits
        elements = st.floats(width=width, allow_nan=False)
    else:
        # Gymnasium refuses whole-number bounds at the very ends of int64.
        low, high = max(np.iinfo(dtype).min, -(2**62)), min(np.iinfo(dtype).max, 2**62)
        elements = st.integers(int(low), int(high))
    bounds = [draw(st_numpy.arrays(dtype, shape, elements=elements)) for _ in range(2)]
    low_bound, high_bound = np.minimum(*bounds), np.maximum(*bounds)
    low_bound = np.where(np.isposinf(low_bound), 0, low_bound)  # Gymnasium has no interval from infinity on
    high_bound = np.where(np.isneginf(high_bound), 0, high_bound)
    return spaces.Box(low_bound.astype(dtype), high_bound.astype(dtype), shape, dtype)


HAS_DTYPE = "dtype" in inspect.signature(spaces.Discrete).parameters
"""Gymnasium's Discrete, since 1.2.2."""
DTYPES = st.sampled_from([np.int32, np.int64])
DISCRETES = st.builds(
    lambda n, start, dtype: spaces.Discrete(n, start=start, **({"dtype": dtype} if HAS_DTYPE else {})),
    st.integers(1, 10**9),
    st.integers(-(10**9), 10**9),
    DTYPES,
)
MULTI_DISCRETES = st_numpy.arrays(
    DTYPES, st_numpy.array_shapes(max_dims=2, max_side=4), elements=st.integers(1, 99)
).flatmap(
    lambda nvec: st_numpy.arrays(nvec.dtype, nvec.shape, elements=st.integers(-9, 9)).map(
        lambda start: spaces.MultiDiscrete(nvec, nvec.dtype, start=start)
    )
)
MULTI_BINARIES = st.one_of(st.integers(1, 9), st_numpy.array_shapes(min_dims=2, max_side=4).map(list)).map(
    spaces.MultiBinary
)
SPACES = st.recursive(
    st.one_of(boxes(), DISCRETES, MULTI_DISCRETES, MULTI_BINARIES),
    lambda inner: st.dictionaries(st.text(min_size=1, max_size=4), inner, min_size=1, max_size=3).map(spaces.Dict),
    max_leaves=4,
)


@settings(max_examples=150)
@given(space=SPACES)
def test_round_trip(space: spaces.Space[Any]) -> None:
    restored = space_from_json(json.loads(json.dumps(space_to_json(space), allow_nan=False)))
    assert restored == space
    assert (restored.shape, restored.dtype) == (space.shape, space.dtype)


def test_order_of_a_dict_is_kept() -> None:
    space = spaces.Dict([("z", spaces.Discrete(2)), ("a", spaces.Discrete(3))])
    assert list(space_from_json(space_to_json(space)).keys()) == list(space.keys())  # type: ignore[attr-defined]


def test_equal_bounds_are_written_once() -> None:
    """The bounds of an image are one number each, not one for every pixel."""
    data = space_to_json(spaces.Box(0, 255, (15, 19, 3), np.uint8))
    assert (data["low"], data["high"]) == ("0", "255")


@pytest.mark.parametrize("space", [spaces.Discrete(3, start=2), spaces.MultiDiscrete([3, 2], start=[0, -1])])
def test_discrete_values_without_a_dtype_are_int64(space: spaces.Space[Any]) -> None:
    """As they were written before the dtype was."""
    data = space_to_json(space)
    assert data.pop("dtype") == "int64"
    assert space_from_json(data) == space


@pytest.mark.parametrize(
    "space", [spaces.Tuple([spaces.Discrete(2)]), spaces.Text(3), spaces.Graph(spaces.Discrete(2), None)]
)
def test_other_spaces_are_rejected(space: spaces.Space[Any]) -> None:
    with pytest.raises(ValueError, match=r"cannot save the space .*: only Box, Discrete"):
        space_to_json(space)
    with pytest.raises(ValueError, match=r"cannot save the space .*: only Box, Discrete"):
        space_to_json(spaces.Dict({"part": space}))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ((3,), r"observation_space must be a space of gymnasium.spaces, got \(3,\)"),
        (spaces.Dict({1: spaces.Discrete(2)}), r"observation_space must have keys of type str, got \[1\]"),
        (spaces.Box(0, 1, (0,)), r"observation_space must have at least one value in every part, got Box"),
        (
            spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Box(0, 1, (3, 0))}),
            "observation_space must have at least one value in every part, got Dict",
        ),
    ],
)
def test_observation_spaces_that_are_refused(space: Any, message: str) -> None:
    """Before anything is made for them, and not at the first save."""
    with pytest.raises(ValueError, match=message) as error:
        check_observation_space(space)
    assert "\n" not in str(error.value)


BOX = {"type": "Box", "shape": [2], "dtype": "float32", "low": "0.0", "high": "1.0"}


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"type": "Tuple"},
        {"type": "Discrete"},
        {"type": "Discrete", "n": 0, "start": 0},
        {"type": "Discrete", "n": "two", "start": 0},
        {"type": "MultiDiscrete", "nvec": [2, -1], "start": [0, 0]},
        {"type": "MultiDiscrete", "nvec": [2], "start": [0], "dtype": "float32"},
        {"type": "Discrete", "n": 2, "start": 0, "dtype": "object"},
        {"type": "MultiBinary", "n": [0]},
        {"type": "Dict", "spaces": [BOX]},
        {"type": "Dict", "spaces": {"part": {"type": "Box"}}},
        BOX | {"dtype": "object"},
        BOX | {"dtype": "no_such_type"},
        BOX | {"low": "nought"},
        BOX | {"low": ["0.0", "0.0", "0.0"]},
        BOX | {"shape": "ab"},
        BOX | {"shape": 2},
        BOX | {"low": "2.0"},
        [],
        None,
        "Box",
    ],
    ids=repr,
)
def test_what_was_not_written_by_us_is_rejected(data: Any) -> None:
    with pytest.raises(ValueError, match="not a saved space: "):
        space_from_json(data)
