"""What A2C and IMPALA share as Stable-Baselines3 algorithms: the wiring of actor, learner and policy, nothing more."""

import time
from abc import abstractmethod
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import FloatSchedule, LinearSchedule, safe_mean
from stable_baselines3.common.vec_env import VecEnv

from rmc_rl.checkpoint import CheckpointError, one_line
from rmc_rl.normalizer import read_statistics
from rmc_rl.optimizer_state import optimizer_tensors, restore_optimizer
from rmc_rl.policies import POLICIES, RecurrentPolicy
from rmc_rl.stop import StopRequest
from rmc_rl.vec_env import Environment, make_vec_env

from . import replicas
from .actor import Actor
from .environments import Recipe
from .hyperparameters import Hyperparameters, check_same_optimizer
from .learner import Learner
from .saved_model import COUNTERS, SavedModel
from .sources import LockStep, Source


class ActorCritic(BaseAlgorithm):
    """An actor-critic with a recurrent policy, which learns from batches of unrolls, wherever they come from.

    What is computed stands in `agents.actor`, `agents.learner`, `agents.vtrace` and `agents.losses`.

    Args:
        policy: `"RMCPolicy"`, `"LSTMPolicy"`, `"GRUPolicy"`, `"DeepLSTMPolicy"`, `"DNCPolicy"`, `"MinGRUPolicy"`,
            `"FeedForwardPolicy"`, or `"RecurrentPolicy"` for the core that `policy_kwargs` name, or such a class.
        env: a Gymnasium id, a callable that makes an environment, a Gymnasium environment or vector environment, or a
            Stable-Baselines3 VecEnv. None only to load a model without one. With a method `action_masks()`, only legal
            actions are taken (`rmc_rl.wrappers.ActionMasks`).
        n_envs: how many environments to make of an id or a callable.
        env_kwargs: arguments for the environment of an id or a callable.
        previous_action_reward: whether the agent observes these too (`rmc_rl.wrappers.PreviousActionReward`).
        policy_kwargs: arguments of the policy: `core` (RecurrentPolicy's alone), `core_kwargs`, `encoder`,
            `encoder_kwargs`, `embedding_size`, `precision`.
        seed: of all generators; row i of the environments gets `seed + i`. None draws one from the system.
        device: `"auto"`, `"cpu"`, `"cuda"`, ...
        verbose: 1 prints the log.
        tensorboard_log: folder for TensorBoard; None for no such log.
        stats_window_size: episodes over which returns and lengths are averaged in the log.
        hyperparameters: the fields of the algorithm's class in `agents.hyperparameters`.

    Raises:
        ValueError: an illegal argument; the message names it, its value and what would be legal.
        TypeError: an unknown hyperparameter.
    """

    hyperparameters_class: ClassVar[type[Hyperparameters]]
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = dict(POLICIES)
    policy: RecurrentPolicy

    def __init__(
        self,
        policy: str | type[RecurrentPolicy],
        env: Environment | None,
        n_envs: int = 1,
        *,
        env_kwargs: dict[str, Any] | None = None,
        previous_action_reward: bool = False,
        policy_kwargs: dict[str, Any] | None = None,
        seed: int | None = None,
        device: torch.device | str = "auto",
        verbose: int = 0,
        tensorboard_log: str | None = None,
        stats_window_size: int = 100,
        **hyperparameters: Any,
    ) -> None:
        _check_policy(policy)
        self.hyperparameters = self.hyperparameters_class(**hyperparameters)
        super().__init__(
            policy,
            None if env is None else self._make_env(Recipe(env, n_envs, env_kwargs or {}, previous_action_reward)),
            self.hyperparameters.learning_rate,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
        )
        self._actor: Actor | None = None
        self._statistics: dict[str, Any] | None = None  # of a normaliser, from a file
        self.stop_requested = False
        """Set by a callback when a rollout starts, and in all replicas alike, it ends training there."""
        self.stop = StopRequest()
        """Once it is requested, `learn` does not wait for actors any more, and ends where there is no batch."""
        if self.env is not None:
            self._setup_model()

    @abstractmethod
    def _source(self) -> Source:
        """Where the batches of one call of `learn` come from."""

    def _make_env(self, recipe: Recipe) -> VecEnv:
        """The environments of this process."""
        return recipe.make()

    @property
    def num_envs(self) -> int:
        """How many environments this learner's actors step."""
        return self.n_envs

    @staticmethod
    def _wrap_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        """Unlike Stable-Baselines3's: takes all that `make_vec_env` does, and leaves images to the encoder."""
        return make_vec_env(env)

    def _setup_model(self) -> None:
        self.set_random_seed(self.seed)
        policy_class = cast(type[RecurrentPolicy], self.policy_class)
        self._set_policy(policy_class(self.observation_space, self.action_space, **self.policy_kwargs))

    def _set_policy(self, policy: RecurrentPolicy) -> None:
        self.policy = policy.to(self.device)
        self.learner = Learner(policy.network, self.hyperparameters)
        settings = self.hyperparameters
        self.lr_schedule = _schedule(settings.learning_rate, settings.learning_rate_schedule)
        self.entropy_cost_schedule = _schedule(settings.entropy_cost, settings.entropy_cost_schedule)

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 10,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train for at least `total_timesteps` environment steps, all environments together.

        Callbacks run once per vector step, or, where actors are processes, once per step of the unrolls that are
        learned from. One that says stop ends training before the next update, or, where it sets `stop_requested` at
        the start of a rollout, right there, between two updates. The log is written every `log_interval`
        updates, under Stable-Baselines3's names, in TensorBoard under `tb_log_name`, by default the algorithm's. In a
        group of `agents.replicas` all replicas learn together, each on its own environments.
        """
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name or type(self).__name__, progress_bar
        )
        self.stop_requested = False
        replicas.share_parameters(self.policy)
        with closing(self._source()) as source:
            callback.on_training_start(locals(), globals())
            while self.num_timesteps < total_timesteps or source.has_batch:
                callback.on_rollout_start()
                if self.stop_requested:
                    break
                trajectory = source.batch(lambda *step: self._on_step(callback, *step))
                if not replicas.agree(trajectory is not None) or trajectory is None:
                    break
                callback.on_rollout_end()
                self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
                self._update_learning_rate(self.learner.optimizer)
                self.learner.entropy_cost = self.entropy_cost_schedule(self._current_progress_remaining)
                metrics = self.learner.update(trajectory, source.recording)
                source.updated()
                self._n_updates += 1
                if self._n_updates % log_interval == 0:
                    self._log(metrics, source.metrics())
        if self._actor is not None:
            self._last_obs = cast(NDArray[Any], self._actor.observation)
        callback.on_training_end()
        return self

    def _lock_step(self, batch_size: int) -> LockStep:
        """The actor, at fresh episodes if `_setup_learn` has reset the environments, where it stood otherwise."""
        assert self.env is not None, "set_env() comes before learn()"
        if self._actor is None or self._actor.env is not self.env:
            self._actor = Actor(self.env, self.policy.network, self.hyperparameters)
        if self._actor.observation is not self._last_obs:
            self._actor.start(cast(NDArray[Any], self._last_obs))
        return LockStep(self._actor, batch_size)

    def _on_step(
        self,
        callback: BaseCallback,
        rewards: NDArray[Any],
        dones: NDArray[np.bool_],
        infos: list[dict[str, Any]],
    ) -> bool:
        self.num_timesteps += len(dones) * replicas.count()
        self._update_info_buffer(infos, dones)
        callback.update_locals(locals())
        return callback.on_step()

    def _log(self, metrics: dict[str, float], actors: dict[str, float]) -> None:
        seconds = max((time.time_ns() - self.start_time) / 1e9, 1e-9)
        assert self.ep_info_buffer is not None
        if self.ep_info_buffer:
            self.logger.record("rollout/ep_rew_mean", safe_mean([episode["r"] for episode in self.ep_info_buffer]))
            self.logger.record("rollout/ep_len_mean", safe_mean([episode["l"] for episode in self.ep_info_buffer]))
        self.logger.record("time/iterations", self._n_updates, exclude="tensorboard")
        self.logger.record("time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / seconds))
        self.logger.record("time/time_elapsed", int(seconds), exclude="tensorboard")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name, value in metrics.items():
            self.logger.record(f"train/{name}", value)
        for name, value in actors.items():
            self.logger.record(f"actors/{name}", value)
        self.logger.dump(step=self.num_timesteps)

    def save(self, path: str | Path, exclude: object = None, include: object = None) -> None:  # type: ignore[override]
        """Write model, optimizer and counters to `path`: safetensors and JSON in one file, `.zip` added if missing.

        With environments in a VecNormalize, its statistics are in the file as well.

        Raises:
            CheckpointError: the file cannot be written.
            ValueError: the policy's class is not in `rmc_rl.policies.POLICIES`, so that it could not be loaded.
        """
        normalizer = self._vec_normalize_env
        SavedModel(
            algorithm=type(self).__name__,
            policy=self.policy,
            optimizer=optimizer_tensors(self.learner.optimizer, self.policy),
            hyperparameters=self.hyperparameters,
            n_envs=self.num_envs,
            seed=self.seed,
            counters={name: int(getattr(self, name)) for name in COUNTERS},  # SB3 lets steps be 1e6
            statistics=self._statistics if normalizer is None else read_statistics(normalizer),
        ).write(path)

    @classmethod
    def load(  # type: ignore[override]
        cls,
        path: str | Path,
        env: Environment | None = None,
        device: torch.device | str = "auto",
        *,
        n_envs: int | None = None,
        env_kwargs: dict[str, Any] | None = None,
        previous_action_reward: bool = False,
        **kwargs: Any,
    ) -> Self:
        """The model saved at `path`, ready to predict and, given an environment, to learn on.

        Nothing is unpickled: archives of Stable-Baselines3's own algorithms are refused.

        Args:
            path: the file; `.zip` is added if there is no suffix.
            env: what the constructor takes; a VecNormalize gets the saved statistics.
            device: where to put it.
            n_envs: how many environments to make of an id or a callable; None, as many as the model had.
            env_kwargs: as for the constructor.
            previous_action_reward: as for the constructor.
            kwargs: hyperparameters and other arguments of the constructor, to be used instead of the saved ones.

        Raises:
            CheckpointError: no such file, or it is damaged, holds something else, or does not fit env's normaliser.
            ValueError: an illegal argument, another optimizer, or an environment whose spaces are not the model's.
        """
        saved = SavedModel.read(path, cls.__name__)
        if "policy_kwargs" in kwargs:
            raise ValueError(f"policy_kwargs are part of the saved model {path} and cannot be changed")
        settings = {"seed": saved.seed, **asdict(saved.hyperparameters), **kwargs}
        model = cls(type(saved.policy), None, device=device, **settings)
        check_same_optimizer(model.hyperparameters, saved.hyperparameters)
        model.observation_space, model.action_space = saved.policy.observation_space, saved.policy.action_space
        model.policy_kwargs = saved.policy.network_kwargs
        model.n_envs = saved.n_envs if n_envs is None else n_envs
        model._set_policy(saved.policy)
        try:
            restore_optimizer(model.learner.optimizer, model.policy, saved.optimizer)
        except ValueError as error:
            raise CheckpointError(f"{path}: not a saved {cls.__name__} model: {one_line(error)}") from error
        model._statistics = saved.statistics
        for name, value in saved.counters.items():
            setattr(model, name, value)
        if env is not None:
            is_made = not (isinstance(env, str) or callable(env))
            number = (n_envs or 1) if is_made else model.n_envs
            vec_env = model._make_env(Recipe(env, number, env_kwargs or {}, previous_action_reward))
            model.n_envs = vec_env.num_envs
            BaseAlgorithm.set_env(model, vec_env)
            model.set_random_seed(model.seed)
            if model._vec_normalize_env is not None:
                saved.restore_normalizer(model._vec_normalize_env, path)
        return model


def _schedule(value: float, kind: str) -> LinearSchedule | FloatSchedule:
    """Stable-Baselines3's: a function of the share of the steps that is left, 1 at first and 0 at last."""
    return LinearSchedule(value, 0.0, 1.0) if kind == "linear" else FloatSchedule(value)


def _check_policy(policy: object) -> None:
    if isinstance(policy, str) and policy not in POLICIES:
        raise ValueError(f"policy must be one of {sorted(POLICIES)}, got {policy!r}")
    if not isinstance(policy, str) and not (isinstance(policy, type) and issubclass(policy, RecurrentPolicy)):
        raise ValueError(
            f"policy must be one of {sorted(POLICIES)} or a subclass of rmc_rl.policies.RecurrentPolicy, got {policy!r}"
        )
