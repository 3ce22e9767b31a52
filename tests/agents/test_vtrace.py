"""V-trace against its equation, written out as slowly as it reads, and against what it becomes on-policy."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from agents.vtrace import vtrace

Case = dict[str, NDArray[np.float64]]


def random_case(seed: int, steps: int, batch: int, spread: float = 1.0) -> Case:
    """Random arguments in which about every fifth step ends an episode."""
    generator = np.random.default_rng(seed)
    return {
        "log_rhos": generator.normal(scale=spread, size=(steps, batch)),
        "discounts": np.where(generator.random((steps, batch)) < 0.2, 0.0, generator.uniform(0.5, 1, (steps, batch))),
        "rewards": generator.normal(size=(steps, batch)),
        "values": generator.normal(size=(steps, batch)),
        "bootstrap_value": generator.normal(size=batch),
    }


def run(case: Case, **kwargs: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    vs, advantages = vtrace(**{name: torch.from_numpy(array) for name, array in case.items()}, **kwargs)
    return vs.numpy(), advantages.numpy()


def literal_vtrace(
    case: Case, rho_bar: float, c_bar: float, pg_rho_bar: float, lam: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Espeholt et al. 2018, equation 1: sums over products, no recursion.

    v_s = V_s + sum_{t >= s} (prod_{i=s}^{t-1} gamma_i c_i) delta_t
    """
    log_rhos, discounts, rewards, values, bootstrap = case.values()
    steps, batch = rewards.shape
    vs, advantages = np.zeros((steps, batch)), np.zeros((steps, batch))
    for b in range(batch):
        value = [*values[:, b], bootstrap[b]]
        rho = np.exp(log_rhos[:, b])
        target = [0.0] * steps + [bootstrap[b]]
        for s in range(steps):
            total = value[s]
            for t in range(s, steps):
                product = 1.0
                for i in range(s, t):
                    product *= discounts[i, b] * lam * min(c_bar, rho[i])
                delta = min(rho_bar, rho[t]) * (rewards[t, b] + discounts[t, b] * value[t + 1] - value[t])
                total += product * delta
            target[s] = total
        for s in range(steps):
            following = lam * target[s + 1] + (1 - lam) * value[s + 1]
            advantages[s, b] = min(pg_rho_bar, rho[s]) * (rewards[s, b] + discounts[s, b] * following - value[s])
        vs[:, b] = target[:-1]
    return vs, advantages


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    steps=st.integers(1, 9),
    batch=st.integers(1, 4),
    spread=st.sampled_from([0.0, 0.3, 2.0]),
    rho_bar=st.sampled_from([0.5, 1.0, 2.5, np.inf]),
    c_bar=st.sampled_from([0.4, 1.0, 1.7]),
    pg_rho_bar=st.sampled_from([0.6, 1.0, 3.0]),
    lam=st.sampled_from([0.0, 0.7, 0.95, 1.0]),
)
def test_equals_the_equation(
    seed: int, steps: int, batch: int, spread: float, rho_bar: float, c_bar: float, pg_rho_bar: float, lam: float
) -> None:
    case = random_case(seed, steps, batch, spread)
    clips = {"rho_bar": rho_bar, "c_bar": c_bar, "pg_rho_bar": pg_rho_bar, "lam": lam}
    vs, advantages = run(case, **clips)
    expected_vs, expected_advantages = literal_vtrace(case, **clips)
    np.testing.assert_allclose(vs, expected_vs, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(advantages, expected_advantages, rtol=1e-9, atol=1e-9)


def test_defaults_are_impalas() -> None:
    """All clips at 1 and no decay."""
    case = random_case(seed=1, steps=7, batch=3)
    for actual, expected in zip(run(case), literal_vtrace(case, 1.0, 1.0, 1.0, 1.0), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-9)


def test_by_hand() -> None:
    """Two steps of one row: rho 2 is cut to 1, rho 1/2 stays; discount 1/2."""
    vs, advantages = run(
        {
            "log_rhos": np.log([[2.0], [0.5]]),
            "discounts": np.array([[0.5], [0.5]]),
            "rewards": np.array([[1.0], [2.0]]),
            "values": np.array([[3.0], [5.0]]),
            "bootstrap_value": np.array([7.0]),
        }
    )
    # delta_1 = (2 + 3.5 - 5) / 2 = 0.25, vs_1 = 5.25; delta_0 = 1 + 2.5 - 3 = 0.5, vs_0 = 3 + 0.5 + 0.5 * 0.25.
    np.testing.assert_allclose(vs, [[3.625], [5.25]])
    # 1 + 5.25 / 2 - 3, and (2 + 7 / 2 - 5) / 2.
    np.testing.assert_allclose(advantages, [[0.625], [0.25]])


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), steps=st.integers(1, 9), batch=st.integers(1, 4))
def test_on_policy_targets_are_n_step_returns(seed: int, steps: int, batch: int) -> None:
    """With lam 1: the rewards up to the unroll's or the episode's end, and the value there."""
    case = random_case(seed, steps, batch, spread=0.0)
    vs, advantages = run(case)
    returns = case["bootstrap_value"]
    for t in reversed(range(steps)):
        returns = case["rewards"][t] + case["discounts"][t] * returns
        np.testing.assert_allclose(vs[t], returns, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(advantages[t], returns - case["values"][t], rtol=1e-9, atol=1e-12)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), steps=st.integers(1, 9), batch=st.integers(1, 4), lam=st.floats(0, 1, width=16))
def test_on_policy_advantages_are_gae(seed: int, steps: int, batch: int, lam: float) -> None:
    """Schulman et al. 2016: A_t = sum_k (gamma lam)^k delta_{t+k}; the targets are the lambda-returns V_t + A_t.

    The lambda-return itself is taken from Sutton and Barto (equation 12.2): a mix of n-step returns.
    """
    case = random_case(seed, steps, batch, spread=0.0)
    vs, advantages = run(case, lam=lam)
    values = np.vstack([case["values"], case["bootstrap_value"]])

    def n_step_return(t: int, n: int) -> NDArray[np.float64]:
        total: NDArray[np.float64] = values[t + n]
        for i in reversed(range(t, t + n)):
            total = case["rewards"][i] + case["discounts"][i] * total
        return total

    for t in range(steps):
        left = steps - t
        lambda_return = lam ** (left - 1) * n_step_return(t, left)
        for n in range(1, left):
            lambda_return = lambda_return + (1 - lam) * lam ** (n - 1) * n_step_return(t, n)
        np.testing.assert_allclose(vs[t], lambda_return, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(advantages[t], lambda_return - values[t], rtol=1e-9, atol=1e-9)


def test_nothing_crosses_the_end_of_an_episode() -> None:
    """Where the discount is 0, what comes after does not matter."""
    case = random_case(seed=2, steps=6, batch=3)
    case["discounts"][2] = 0.0
    changed = {name: array.copy() for name, array in case.items()}
    for name in ("log_rhos", "rewards", "values", "discounts"):
        changed[name][3:] += 1.0
    changed["bootstrap_value"] += 1.0
    for before, after in zip(run(case, lam=0.9), run(changed, lam=0.9), strict=True):
        np.testing.assert_array_equal(before[:3], after[:3])
        assert not np.isclose(before[3:], after[3:]).any()


def test_no_gradient_flows_through_targets_or_advantages() -> None:
    case = {name: torch.from_numpy(array).requires_grad_() for name, array in random_case(3, 5, 2).items()}
    vs, advantages = vtrace(**case)
    assert not vs.requires_grad
    assert not advantages.requires_grad


def test_huge_ratios_are_cut() -> None:
    """A ratio that overflows is clipped like any other."""
    case: Any = random_case(seed=4, steps=5, batch=2)
    case["log_rhos"][:] = 1e4
    huge = run(case)
    case["log_rhos"][:] = 0.0
    np.testing.assert_array_equal(huge, run(case))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("log_rhos", (5, 3)),
        ("discounts", (4, 2)),
        ("rewards", (5,)),
        ("values", (5, 2, 1)),
        ("bootstrap_value", (3,)),
        ("bootstrap_value", (1, 2)),
    ],
)
def test_shapes_that_do_not_fit_are_named(name: str, shape: tuple[int, ...]) -> None:
    """None of them is broadcast."""
    case = random_case(seed=5, steps=5, batch=2)
    case[name] = np.zeros(shape)
    refused = "log_rhos" if name == "values" else name  # the values are what the others are compared with
    with pytest.raises(ValueError, match=rf"{refused} must be \[.*B\].*, got \("):
        run(case)
