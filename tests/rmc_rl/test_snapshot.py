"""Snapshots: any nest of plain values and arrays comes back exactly, through a checkpoint too."""

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from rmc_rl.checkpoint import load_checkpoint, save_checkpoint
from rmc_rl.random_state import random_states, restore_random_states
from rmc_rl.snapshot import Snapshot, pack, unpack

DTYPES = ["?", *"bhilq", *"BHILQ", *"efd"]
ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: st_numpy.arrays(np.dtype(dtype), st_numpy.array_shapes(min_dims=0, max_side=3))
)
NUMBERS = st.sampled_from(DTYPES).flatmap(lambda dtype: st_numpy.from_dtype(np.dtype(dtype)))
PLAIN = st.none() | st.booleans() | st.integers() | st.integers(2**127, 2**128) | st.floats() | st.text()
NESTS = st.recursive(
    PLAIN | ARRAYS | NUMBERS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.sampled_from(["dict", "array", "tuple"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def through_a_file(snapshot: Snapshot, folder: Path) -> Snapshot:
    path = save_checkpoint(folder / "snapshot", "snapshot", {"data": snapshot.data}, snapshot.tensors)
    data, tensors = load_checkpoint(path, "snapshot")
    return Snapshot(data["data"], tensors)


def assert_exact(actual: Any, expected: Any) -> None:
    """Equal in types, dtypes, shapes and bits."""
    match expected:
        case np.ndarray() | np.generic():
            assert isinstance(actual, np.ndarray) == isinstance(expected, np.ndarray)
            assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
            assert actual.tobytes() == expected.tobytes()
        case list() | tuple():
            assert type(actual) is type(expected)
            for item, other in zip(actual, expected, strict=True):
                assert_exact(item, other)
        case dict():
            assert list(actual) == list(expected)
            for key in expected:
                assert_exact(actual[key], expected[key])
        case _:
            assert type(actual) is type(expected)
            assert repr(actual) == repr(expected)


@settings(max_examples=60)
@given(nest=NESTS)
def test_any_nest_comes_back_exactly(tmp_path_factory: pytest.TempPathFactory, nest: Any) -> None:
    assert_exact(unpack(through_a_file(pack(nest), tmp_path_factory.getbasetemp())), nest)


def test_arrays_are_copies_each_time() -> None:
    """What goes on after a snapshot changes neither it nor what was restored from it before."""
    nest = {"board": np.arange(6.0).reshape(3, 2)}
    snapshot = pack(nest)
    first = unpack(snapshot)
    nest["board"][:] = -1
    first["board"][:] = -2
    np.testing.assert_array_equal(unpack(snapshot)["board"], np.arange(6.0).reshape(3, 2))


@pytest.mark.parametrize(
    ("nest", "message"),
    [
        ({"a": [1, {2, 3}]}, r"^state\['a'\]\[1\] must be None, .* got \{2, 3\}"),
        ({1: 2}, r"^state must be .* str-keyed dict of these, got \{1: 2\}"),
        ([np.array("text")], r"^state\[0\] must be .* at most 8 bytes.* got an array of <U4"),
        (np.complex64(1), "got an array of complex64"),
        (np.array([None]), "got an array of object"),
        (np.array([1], ">i4"), "got an array of >i4"),
        (object, "^state must be None"),
    ],
)
def test_what_would_not_come_back_is_named(nest: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack(nest)


@pytest.mark.parametrize(
    "snapshot",
    [
        Snapshot({"array": "0"}, {}),
        Snapshot({"number": "0"}, {"0": torch.zeros(2)}),
        Snapshot({"array": "0"}, {"0": torch.zeros(2, dtype=torch.bfloat16)}),
        Snapshot({"float": "0.5"}, {}),
        Snapshot({"tuple": {}}, {}),
        Snapshot([{}], {}),
        Snapshot({1, 2}, {}),
    ],
    ids=lambda snapshot: str(snapshot.data),
)
def test_what_was_not_packed_is_refused(snapshot: Snapshot) -> None:
    with pytest.raises(ValueError, match="not a snapshot: "):
        unpack(snapshot)


# Random states


def draws() -> list[Any]:
    """From every generator, also those that keep a second number back."""
    python = [random.random(), random.gauss(0, 1)]
    numpy = [np.random.rand(), np.random.standard_normal(), np.random.randint(9)]  # noqa: NPY002
    return [*python, *numpy, *torch.randn(3).tolist(), *torch.randint(99, (3,)).tolist()]


@pytest.mark.parametrize("before", range(4))
def test_random_numbers_go_on(before: int, tmp_path: Path) -> None:
    """In the middle of a pair of normal numbers, too, and through a file."""
    random.seed(before), np.random.seed(before), torch.manual_seed(before)  # noqa: NPY002
    for _ in range(before):
        draws()
    snapshot = random_states()
    expected = [draws(), draws()]
    restore_random_states(through_a_file(snapshot, tmp_path))
    assert [draws(), draws()] == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda states: states.pop("numpy"),
        lambda states: states.update(python=(3, (1, 2), None)),
        lambda states: states.update(torch=np.zeros(7, np.uint8)),
        lambda states: states.update(torch=[1.5]),
        lambda states: states.update(cuda=[np.zeros(16, np.uint8)] * 99),
        lambda states: states["numpy"].update(bit_generator="PCG64"),
    ],
)
def test_what_are_no_random_states_is_refused_and_changes_nothing(change: Any) -> None:
    states = unpack(random_states())
    states["python"] = random.Random(99).getstate()
    change(states)
    before = random_states()
    with pytest.raises(ValueError, match=r"^not the random states of this machine: "):
        restore_random_states(pack(states))
    assert_exact(unpack(random_states()), unpack(before))


FIRST_STEP = """
import random, numpy as np, torch
from gymnasium import spaces
from rmc_rl.policies import POLICIES

policies = [policy(spaces.Box(-1, 1, (3,)), spaces.Discrete(2)) for policy in POLICIES.values() if policy.core]
states = random.getstate(), str(np.random.get_state()), torch.get_rng_state()
for policy in policies:
    x, starts = torch.zeros(2, 5, 3, requires_grad=True), torch.zeros(2, 5, dtype=torch.bool)
    output, _ = policy.network(x, policy.network.initial_state(5), starts)
    output.value.sum().backward()
assert random.getstate() == states[0]
assert str(np.random.get_state()) == states[1]
assert torch.equal(torch.get_rng_state(), states[2])
"""


def test_the_first_step_of_a_process_draws_nothing() -> None:
    """Or a run that is resumed in a new process would draw what one that goes on has drawn long before."""
    subprocess.run([sys.executable, "-c", FIRST_STEP], check=True, cwd=Path(__file__).parents[2])
