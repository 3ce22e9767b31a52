"""IMPALA: its loss and optimizer as in the paper, lag and batches in lock step, and A2C as the case without lag."""

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor

from agents import A2C, IMPALA, Placement
from agents.actor import Actor
from agents.actor_critic import ActorCritic
from agents.hyperparameters import Hyperparameters, ImpalaHyperparameters
from agents.learner import Learner, make_optimizer
from agents.saved_model import SavedModel
from agents.trajectory import Trajectory
from benchmarks.recall import Recall
from rmc_rl.checkpoint import CheckpointError
from rmc_rl.cores import Recording
from rmc_rl.network import RecurrentActorCritic
from rmc_rl.vec_env import make_vec_env

SMALL: dict[str, Any] = {"core_kwargs": {"hidden_size": 7}, "embedding_size": 6}
STEPS, ROWS = 5, 3
A2C_SETTINGS = vars(Hyperparameters(unroll_length=STEPS))


def build(algorithm: type[ActorCritic] = IMPALA, env: Any = Recall, n_envs: int = ROWS, **kwargs: Any) -> Any:
    settings: dict[str, Any] = {"policy_kwargs": SMALL, "unroll_length": STEPS, "seed": 0, "device": "cpu"}
    if algorithm is IMPALA:
        settings["batch_size"] = n_envs
    return algorithm("GRUPolicy", env, n_envs, **(settings | kwargs))


def weights(model: Any) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.policy.parameters()])


# A2C is the case where the actor never lags


@pytest.mark.parametrize("settings", [{}, vars(ImpalaHyperparameters())], ids=["A2C's", "IMPALA's"])
def test_without_lag_it_is_a2c(settings: dict[str, Any]) -> None:
    """The same settings give the same parameters, to the last bit, whoever's defaults they are."""
    settings = A2C_SETTINGS | settings | {"unroll_length": STEPS}
    settings.pop("batch_size", None)
    build().learn(1)  # the process's first product of matrices is a random one, which tries what is fastest
    models = [build(algorithm, **settings).learn(6 * STEPS * ROWS) for algorithm in (A2C, IMPALA)]
    assert not torch.equal(weights(models[0]), weights(build(A2C)))
    assert torch.equal(weights(models[0]), weights(models[1]))
    assert models[0].num_timesteps == models[1].num_timesteps
    assert models[0]._n_updates == models[1]._n_updates == 6


def test_defaults_are_the_papers() -> None:
    """Table G.1 and section 5.3 of arXiv 1802.01561."""
    settings = ImpalaHyperparameters()
    assert (settings.unroll_length, settings.batch_size, settings.discount) == (20, 32, 0.99)
    assert (settings.optimizer, settings.learning_rate, settings.learning_rate_schedule) == ("rmsprop", 6e-4, "linear")
    assert (settings.rmsprop_decay, settings.rmsprop_epsilon, settings.rmsprop_momentum) == (0.99, 0.01, 0.0)
    assert (settings.entropy_cost, settings.value_cost, settings.max_gradient_norm) == (0.01, 0.5, 40.0)
    assert (settings.rho_bar, settings.c_bar, settings.gae_lambda) == (1.0, 1.0, 1.0)
    assert (settings.loss_reduction, settings.normalize_advantages) == ("sum", False)


# Batches in lock step


def batches(model: IMPALA, steps: int) -> list[tuple[Trajectory, Tensor]]:
    """Copies of all that the learner learned from, and the parameters before each update."""
    seen = []
    update = model.learner.update

    def spy(trajectory: Trajectory, *recording: Recording | None) -> dict[str, float]:
        seen.append((deepcopy(trajectory), weights(model)))
        return update(trajectory, *recording)

    model.learner.update = spy  # type: ignore[method-assign]
    model.learn(steps)
    return seen


def log_probs(model: IMPALA, trajectory: Trajectory) -> Tensor:
    """[T, B], of the actions that were taken, under the model's present policy."""
    network = model.policy.network
    with torch.no_grad():
        output, _ = network(trajectory.observations, trajectory.initial_state, trajectory.starts)
        distribution = network.distribution(output.policy[:-1].flatten(0, 1))
        return distribution.log_prob(trajectory.actions.flatten()).view(STEPS, -1)


def test_several_unrolls_make_a_batch() -> None:
    """Few environments are unrolled until the batch is full; each unroll goes on where the last one ended."""
    model = build(batch_size=2 * ROWS)
    seen = batches(model, 4 * STEPS * ROWS)
    assert model._n_updates == len(seen) == 2
    for trajectory, _ in seen:
        first, second = trajectory.split(ROWS)
        assert torch.equal(first.observations[-1], second.observations[0])
        assert torch.equal(first.starts[-1], second.starts[0])
        assert not torch.equal(first.initial_state[0], second.initial_state[0])
    assert torch.equal(seen[0][0].split(ROWS)[1].observations[-1], seen[1][0].observations[0][:ROWS])


def test_one_unroll_makes_several_batches() -> None:
    """Many environments are unrolled once, and all of their unrolls are learned from; later batches lag behind."""
    model = build(n_envs=6, batch_size=2, learning_rate=0.05, learning_rate_schedule="constant")
    seen = batches(model, STEPS * 6 + 1)
    assert model.num_timesteps == 2 * STEPS * 6
    assert model._n_updates == len(seen) == 6
    for i, (trajectory, parameters) in enumerate(seen):
        torch.nn.utils.vector_to_parameters(parameters, model.policy.parameters())
        agrees = torch.allclose(log_probs(model, trajectory), trajectory.behaviour_log_probs, rtol=1e-4, atol=1e-5)
        assert agrees == (i % 3 == 0)
    assert not torch.equal(seen[0][0].observations, seen[1][0].observations)


def test_learning_goes_on_where_it_stopped() -> None:
    """Two calls of learn are as good as one, also where one unroll makes several batches."""
    once = build(n_envs=6, batch_size=2).learn(2 * STEPS * 6)
    twice = build(n_envs=6, batch_size=2).learn(STEPS * 6)
    twice.learn(STEPS * 6, reset_num_timesteps=False)
    # The learning rate falls within each call: only the counters can be the same.
    assert (twice.num_timesteps, twice._n_updates) == (once.num_timesteps, once._n_updates) == (2 * STEPS * 6, 6)


def test_callbacks_run_once_per_vector_step() -> None:
    steps: list[int] = []
    model = build(batch_size=2 * ROWS)

    def note(local: dict[str, Any], _: dict[str, Any]) -> bool:
        steps.append(len(local["rewards"]))
        return True

    model.learn(2 * STEPS * ROWS, callback=note)
    assert steps == [ROWS] * 2 * STEPS


# The loss


def lagging(**settings: Any) -> tuple[Trajectory, Learner]:
    """An unroll of an actor whose policy is not the learner's."""
    torch.manual_seed(1)
    env = make_vec_env(Recall, ROWS)
    network = RecurrentActorCritic(env.observation_space, env.action_space, "gru", {"hidden_size": 7}, embedding_size=6)
    hyperparameters = ImpalaHyperparameters(unroll_length=STEPS + 6, **settings)
    with torch.no_grad():
        network.policy_head.weight.normal_(std=1.5)
    behaviour = deepcopy(network)
    with torch.no_grad():
        network.policy_head.weight.normal_(std=1.5)
    env.seed(3)
    actor = Actor(env, behaviour, hyperparameters)
    actor.start(env.reset())  # type: ignore[arg-type]
    trajectory = actor.unroll(lambda *_: True)
    assert trajectory is not None
    return trajectory, Learner(network, hyperparameters)


def literal_loss(trajectory: Trajectory, learner: Learner) -> Tensor:
    """Equations (1), (2) and section 4.2 of the paper, row by row, as the sums that they are."""
    settings = learner.settings
    output, _ = learner.network(trajectory.observations, trajectory.initial_state, trajectory.starts)
    total = torch.zeros(())
    steps = trajectory.rewards.shape[0]
    for b in range(ROWS):
        log_pi = torch.log_softmax(output.policy[:-1, b], dim=-1)
        taken = log_pi[range(steps), trajectory.actions[:, b]]
        ratio = (taken.detach() - trajectory.behaviour_log_probs[:, b]).exp().numpy()
        rho, c = np.minimum(settings.rho_bar, ratio), np.minimum(settings.c_bar, ratio)
        value = output.value[:, b].detach().numpy()
        reward = trajectory.rewards[:, b].numpy()
        ended = (trajectory.terminated | trajectory.truncated)[:, b].numpy()
        gamma = np.where(ended, 0.0, settings.discount)
        vs = value.copy()
        for s in range(steps):
            for t in range(s, steps):
                delta = rho[t] * (reward[t] + gamma[t] * value[t + 1] - value[t])
                vs[s] += np.prod(gamma[s:t]) * np.prod(c[s:t]) * delta
        advantage = rho * (reward + gamma * vs[1:] - value[:-1])
        total = total - (taken * torch.from_numpy(advantage).float()).sum()
        total = (
            total
            + settings.value_cost * 0.5 * (torch.from_numpy(vs[:-1]).float() - output.value[:-1, b]).square().sum()
        )
        total = total + settings.entropy_cost * (log_pi.exp() * log_pi).sum()
    return total


@pytest.mark.parametrize("bars", [(1.0, 1.0), (0.7, 0.4), (2.5, 1.3)])
def test_loss_and_gradient_are_the_papers(bars: tuple[float, float]) -> None:
    """Summed over batch and time, for an actor that lags, with both clips at work."""
    trajectory, learner = lagging(rho_bar=bars[0], c_bar=bars[1], entropy_cost=0.03, value_cost=0.4, discount=0.9)
    loss, metrics = learner.loss(trajectory)
    expected = literal_loss(trajectory, learner)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    parameters = list(learner.network.parameters())
    gradients = (torch.autograd.grad(value, parameters) for value in (loss, expected))
    for actual, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-3, atol=1e-5)
    assert abs(metrics["entropy_loss"]) < np.log(3)  # what is logged is a mean, whatever the loss is


def test_a_summed_loss_is_the_mean_times_the_steps() -> None:
    summed, mean = (lagging(loss_reduction=reduction) for reduction in ("sum", "mean"))
    torch.testing.assert_close(summed[1].loss(summed[0])[0], mean[1].loss(mean[0])[0] * (STEPS + 6) * ROWS)


# The optimizer


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_rmsprop_has_epsilon_inside_the_root(momentum: float) -> None:
    """As TensorFlow's: ms = decay ms + (1 - decay) g^2 from 1, mom = momentum mom + g / sqrt(ms + epsilon)."""
    layer = torch.nn.Linear(3, 2)
    settings = ImpalaHyperparameters(
        learning_rate=0.2, rmsprop_decay=0.8, rmsprop_epsilon=0.3, rmsprop_momentum=momentum
    )
    optimizer = make_optimizer(layer, settings)  # type: ignore[arg-type]
    expected = layer.weight.detach().clone()
    mean_square, step = torch.ones_like(expected), torch.zeros_like(expected)
    for i in range(4):
        gradient = torch.linspace(-1, 2, 6).view(2, 3) * (i - 1.5)
        layer.weight.grad, layer.bias.grad = gradient.clone(), torch.zeros(2)
        optimizer.step()
        mean_square = 0.8 * mean_square + 0.2 * gradient**2
        step = momentum * step + gradient / (mean_square + 0.3).sqrt()
        expected -= 0.2 * step
        torch.testing.assert_close(layer.weight.detach(), expected)


@pytest.mark.parametrize("settings", [{"optimizer": "adam"}, {"rmsprop_momentum": 0.3}, {}])
def test_saved_models_go_on(settings: dict[str, Any], tmp_path: Path) -> None:
    """One more update on the same unroll gives what it would have given without saving and loading."""
    model = build(**settings).learn(4 * STEPS * ROWS)
    model.save(tmp_path / "model")
    loaded = IMPALA.load(tmp_path / "model", Recall, device="cpu")
    assert loaded.hyperparameters == model.hyperparameters
    assert type(loaded.hyperparameters) is ImpalaHyperparameters
    assert (loaded.num_timesteps, loaded._n_updates, loaded.n_envs) == (4 * STEPS * ROWS, 4, ROWS)
    trajectory = deepcopy(model._actor.unroll(lambda *_: True))
    for each in (model, loaded):
        for group in each.learner.optimizer.param_groups:
            group["lr"] = 0.01
        each.learner.update(trajectory)
    assert torch.equal(weights(loaded), weights(model))
    again = IMPALA.load(tmp_path / "model", Recall, device="cpu").learn(2 * STEPS * ROWS, reset_num_timesteps=False)
    assert again._n_updates == 6
    evaluate_policy(loaded, make_vec_env(Recall, 2), 2)


def test_another_optimizer_cannot_go_on(tmp_path: Path) -> None:
    build().learn(STEPS * ROWS).save(tmp_path / "model")
    with pytest.raises(ValueError, match="optimizer must stay 'rmsprop', got 'adam'"):
        IMPALA.load(tmp_path / "model", optimizer="adam")
    with pytest.raises(ValueError, match=r"rmsprop_momentum must stay 0, got 0\.5"):
        IMPALA.load(tmp_path / "model", rmsprop_momentum=0.5)


def test_models_are_loaded_by_the_name_in_the_file(tmp_path: Path) -> None:
    build(IMPALA).save(tmp_path / "impala")
    build(A2C).save(tmp_path / "a2c")
    assert SavedModel.read(tmp_path / "impala").algorithm == "IMPALA"
    assert SavedModel.read(tmp_path / "a2c").algorithm == "A2C"
    with pytest.raises(CheckpointError, match="holds a 'IMPALA' model, not A2C"):
        A2C.load(tmp_path / "impala")
    with pytest.raises(CheckpointError, match="holds a 'A2C' model, not IMPALA"):
        IMPALA.load(tmp_path / "a2c")


# Refused


@pytest.mark.parametrize(
    ("field", "value", "legal"),
    [
        ("batch_size", 0, "a whole number of at least 1"),
        ("batch_size", 2.5, "a whole number of at least 1"),
        ("loss_reduction", "max", "'mean' or 'sum'"),
        ("optimizer", "sgd", "'adam' or 'rmsprop'"),
        ("rho_bar", 0.0, "above 0 and finite (1e9 clips nothing)"),
        ("c_bar", -1.0, "above 0 and finite (1e9 clips nothing)"),
        ("rmsprop_decay", 1.0, "from 0 to below 1"),
        ("rmsprop_epsilon", 0.0, "above 0"),
        ("rmsprop_momentum", np.nan, "from 0 to below 1"),
        ("gae_lambda", True, "from 0 to 1"),
    ],
)
def test_hyperparameters_out_of_range(field: str, value: Any, legal: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(f'{field} must be {legal}, got {value!r}')}$"):
        build(env=lambda: pytest.fail("made an environment"), **{field: value})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "cloud"}, "placement.kind must be 'sync', 'local' or 'ray', got 'cloud'"),
        ({"kind": "local", "actors": 0}, "placement.actors must be a whole number of at least 1, got 0"),
        ({"kind": "local", "actors": 1.5}, "placement.actors must be a whole number of at least 1, got 1.5"),
        ({"kind": "local", "max_policy_lag": -1}, "placement.max_policy_lag must be at least 0, got -1"),
        ({"kind": "local", "max_restarts": -2}, "placement.max_restarts must be at least 0, got -2"),
        ({"actors": 2}, "placement.kind must be 'local' or 'ray' where actors is set, got 'sync'"),
        ({"kind": "local", "address": "h:1"}, "placement.kind must be 'ray' where address is set, got 'local'"),
        ({"kind": "ray", "address": "ray://h:1"}, "placement.address must be HOST:PORT or null, got 'ray://h:1'"),
        ({"kind": "ray", "address": "h:65536"}, "placement.address must be HOST:PORT or null, got 'h:65536'"),
        ({"kind": "ray", "address": ":1"}, "placement.address must be HOST:PORT or null, got ':1'"),
    ],
)
def test_placements_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        Placement(**arguments)


@pytest.mark.parametrize(
    ("num_envs", "batch_size", "learners", "actors", "message"),
    [
        (6, 4, 1, 1, "batch_size must be a multiple or divisor of 6, .*got 4"),
        (6, 5, 2, 1, "batch_size must be a multiple of the number of replicas, 2, got 5"),
        (7, 7, 1, 2, "the number of environments must be a multiple of the 2 actors, got 7"),
        (6, 18, 1, 3, r"batch_size must be at most 12, .*got 18"),
    ],
)
def test_shares_that_do_not_fit(num_envs: int, batch_size: int, learners: int, actors: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Placement(kind="local", actors=actors).check_shares(num_envs, batch_size, learners)


def test_a_batch_that_environments_cannot_fill_evenly() -> None:
    model = build(n_envs=4, batch_size=6)
    with pytest.raises(ValueError, match=r"^batch_size must be a multiple or divisor of 4.*got 6"):
        model.learn(100)


class OneWay:
    """Makes environments, and can be pickled, but not unpickled."""

    def __reduce__(self) -> Any:
        return int, ("no number",)

    def __call__(self) -> Recall:
        return Recall()


class Wide(Recall):
    observation_space = spaces.Box(0.0, 1.0, (9,), np.float32)


@pytest.mark.parametrize("algorithm", [A2C, IMPALA])
def test_environments_of_different_spaces(algorithm: type[ActorCritic]) -> None:
    environments: list[Any] = [Recall(), Wide()]
    with pytest.raises(ValueError, match=r"^observation_space must be the same in all environments, .* in 1$"):
        build(algorithm, env=lambda: environments.pop(0), n_envs=2)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (lambda: Recall(), "env must be picklable"),
        (OneWay(), "env must be picklable .* invalid literal"),
        (Recall(), "env must be an id or a callable"),
        (DummyVecEnv([Recall]), "env must be an id or a callable"),
        ("NoSuch-v0", "env must be a registered id"),
    ],
)
def test_environments_that_no_other_process_can_make(env: Any, message: str) -> None:
    """Refused in the constructor, in one line."""
    with pytest.raises(ValueError, match=message) as error:
        build(env=env, n_envs=1, batch_size=1, placement=Placement(kind="local"))
    assert "\n" not in str(error.value)


def test_environments_of_processes_are_not_replaced() -> None:
    model = build(placement=Placement(kind="local"))
    with pytest.raises(ValueError, match="set_env needs placement 'sync'"):
        model.set_env(make_vec_env(lambda: gym.make("CartPole-v1")))
