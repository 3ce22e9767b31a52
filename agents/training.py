"""One training run of an agent, from its configuration to its final score."""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecEnv

from rmc_rl.checkpoint import CheckpointError
from rmc_rl.devices import check_device
from rmc_rl.policies import RecurrentPolicy
from rmc_rl.run_folder import RunFolder, newest_readable, to_json, to_yaml, write_text
from rmc_rl.vec_env import make_vec_env

from . import replicas
from .a2c import A2C
from .actor_critic import ActorCritic
from .callbacks import BestModel, Checkpoint, Progress
from .config import AgentRun, EnvironmentConfig, PolicyConfig
from .evaluate import Evaluation, evaluate
from .impala import IMPALA
from .processes import BeginError, settled
from .progress import restore_progress
from .replicas import launched, replicated
from .run_log import run_log
from .video import record_policy
from .watch import make_watched_env

ALGORITHMS: dict[str, type[ActorCritic]] = {"A2C": A2C, "IMPALA": IMPALA}
# Seeds of the games that are not trained on: a run's own seed is below all of them.
BEST_MODEL_SEED = 1_000_000
FINAL_SEED = 2_000_000
VIDEO_SEED = 3_000_000
MOST_EVALUATION_ENVS = 128
FEWEST_ENVS_OF_A_REPLICA = 32


@dataclass
class Training:
    """An agent, the folder of its run, and what is needed to train it; made by `start` or `resume`."""

    config: AgentRun
    folder: RunFolder
    agent: ActorCritic
    checkpoint: Path | None = None
    """Where the agent comes from; None for a new one."""

    @classmethod
    def start(cls, config: AgentRun, path: Path) -> "Training":
        """A new run in a new folder at `path`; nothing is written unless all parts could be made.

        Raises:
            ValueError: an illegal setting, or a folder that is there already or cannot be written.
            TypeError: an argument that the environment, the core or the encoder does not have.
            gymnasium.error.Error: what an environment says of its arguments.
        """
        config = resolve_replicas(config)
        agent = make_agent(config)
        return cls(config, RunFolder.create(path, to_yaml(config)), agent)

    @classmethod
    def resume(cls, config: AgentRun, folder: RunFolder) -> "Training":
        """Go on from the newest checkpoint of a run that can be read.

        Raises:
            RunFolderError: there is none.
            ValueError, TypeError, gymnasium.error.Error: as for `start`.
            OSError: the configuration cannot be written; it is kept for the next time, with what is new in it.
        """
        config = resolve_replicas(config)
        checkpoint, agent = newest_readable(folder, partial(make_agent, config))
        write_text(folder.config, to_yaml(config))
        return cls(config, folder, agent, checkpoint)

    def run(self) -> Evaluation | None:
        """Train for what is left of the steps, then evaluate; None if the user stopped it (it can be resumed).

        Raises:
            BeginError: actors cannot begin; then the folder of a new run is gone, and the next try can have its name.
            FloatingPointError: something was not finite; the last checkpoint is kept.
            ReplicaError: another process of the run was killed.
            ActorError: actors failed again and again.
            CheckpointError: a checkpoint could not be written.
            OSError: another file could not be written.
        """
        stop = self.agent.stop
        try:
            with run_log(self.folder) as log, stop.listening():
                self.agent.set_logger(log)
                self._learn()
        except BeginError:
            if self.checkpoint is None:
                shutil.rmtree(self.folder.path)
            raise
        if stop.requested:
            return None
        self.agent.save(self.folder.model)
        return self._evaluate()

    def _learn(self) -> None:
        settings = self.config.evaluation
        progress = Progress(self.config.total_timesteps)
        callbacks: list[BaseCallback] = [progress]
        if settings.interval:
            env = make_envs(self.config.environment, min(settings.episodes, MOST_EVALUATION_ENVS))
            callbacks.append(BestModel(self.folder, env, settings.interval, settings.episodes, BEST_MODEL_SEED))
        prepare = partial(prepare_replica, self.config, self.folder, self.checkpoint)
        number = 1 if is_done(self.agent, self.config) else self.config.replicas or 1
        with closing(progress), replicated(number, prepare):
            replicas.announce(str(self.folder.path))
            replicas.announce(str(self.checkpoint or ""))
            learn(self.agent, self.config, self.folder, self.checkpoint, callbacks)

    def _evaluate(self) -> Evaluation:
        settings = self.config.evaluation
        env = make_envs(self.config.environment, min(settings.final_episodes, MOST_EVALUATION_ENVS))
        evaluation = evaluate(self.agent.policy, env, settings.final_episodes, FINAL_SEED)
        steps = {"steps": self.agent.num_timesteps}
        write_text(self.folder.evaluation, to_json(steps | evaluation.summary()))
        if settings.video_seconds:
            self._film(settings.video_seconds)
        return evaluation

    def _film(self, seconds: float) -> None:
        environment = self.config.environment
        try:
            env = make_watched_env(environment.id, environment.kwargs, environment.previous_action_reward)
            record_policy(self.agent.policy, env, self.folder.video, VIDEO_SEED, seconds=seconds)
        except ValueError as error:  # an environment that cannot be drawn, or no room for a file
            print(f"no video: {error}", file=sys.stderr)


def resolve_replicas(config: AgentRun) -> AgentRun:
    """The configuration with a number of replicas; as many as the cores are good for if it has none.

    Raises:
        ValueError: a device that is not there, or another number of replicas than torchrun has started.
    """
    check_device(config.device)
    if (launch := launched()) is not None:
        if config.replicas not in (None, launch.number):
            raise ValueError(f"replicas must be left out or {launch.number}, as torchrun says, got {config.replicas}")
        return replace(config, replicas=launch.number)
    if config.replicas is not None:
        return config
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_envs, most = config.environment.num_envs, cores // config.threads
    fitting = [n for n in range(1, most + 1) if num_envs // n >= FEWEST_ENVS_OF_A_REPLICA and _can_share(config, n)]
    on_cpu = get_device(config.device).type == "cpu"
    return replace(config, replicas=max(fitting, default=1) if on_cpu else 1)


def _can_share(config: AgentRun, number: int) -> bool:
    try:
        config.check_shares(number)
    except ValueError:
        return False
    return True


def make_agent(config: AgentRun, checkpoint: Path | None = None, rank: int = 0) -> ActorCritic:
    """The agent of one replica, with its share of the environments: new, or as it was at a checkpoint.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        ValueError, TypeError, gymnasium.error.Error: as `Training.start`.
    """
    torch.set_num_threads(config.threads)
    num_envs = config.environment.num_envs // (config.replicas or 1)
    algorithm = ALGORITHMS[config.algorithm]
    settings: dict[str, Any] = {
        "n_envs": num_envs,
        "env_kwargs": config.environment.kwargs,
        "previous_action_reward": config.environment.previous_action_reward,
        "device": config.device,
        **vars(config.hyperparameters),
    }
    if algorithm is IMPALA:
        settings["placement"] = config.placement
    if checkpoint is None:
        return algorithm(
            config.policy.name,
            config.environment.id,
            policy_kwargs=config.policy.kwargs(),
            seed=config.seed + rank * num_envs,  # row i of all environments starts from seed + i, whoever has it
            **settings,
        )
    agent = algorithm.load(checkpoint, config.environment.id, **settings)
    if not _is_policy(agent.policy, config.policy):
        raise ValueError(f"policy must stay what it is in {checkpoint}: for another one, start a new run")
    play_new_games(agent, config, rank)
    return agent


def play_new_games(agent: ActorCritic, config: AgentRun, rank: int) -> None:
    """Begin with fresh episodes: with the run's own seed, the games it began with would be played again."""
    sequence = np.random.SeedSequence([config.seed, agent.num_timesteps, rank])
    agent.set_random_seed(int(sequence.generate_state(1)[0] >> 1))
    agent._last_obs = None


def _is_policy(policy: RecurrentPolicy, config: PolicyConfig) -> bool:
    """Whether a policy is the configured one, but for its weights."""
    kwargs = config.kwargs()
    kwargs["core_kwargs"] = policy.default_core_kwargs | kwargs["core_kwargs"]
    return type(policy).__name__ == config.name and policy.network_kwargs == kwargs


def prepare_replica(config: AgentRun, folder: RunFolder, checkpoint: Path | None, rank: int) -> Callable[[], object]:
    """What another process than the first does: nothing but learn."""
    agent = make_agent(config, checkpoint, rank)
    agent.set_logger(Logger(None, []))
    return partial(learn, agent, config, folder, checkpoint)


def is_done(agent: ActorCritic, config: AgentRun) -> bool:
    """Whether nothing is left to learn."""
    return agent.num_timesteps >= config.total_timesteps


def learn(
    agent: ActorCritic,
    config: AgentRun,
    folder: RunFolder,
    checkpoint: Path | None,
    callbacks: Sequence[BaseCallback] = (),
) -> None:
    """Train for what is left of the steps, as one of the replicas, in a process that does nothing else meanwhile."""
    if is_done(agent, config):
        return
    if checkpoint is not None and config.placement.kind == "sync":
        go_on(agent, config, folder)
    checkpoints = Checkpoint(folder, config.checkpoint_minutes, config.seed)
    with settled():
        left = config.total_timesteps - agent.num_timesteps
        agent.learn(left, [checkpoints, *callbacks], reset_num_timesteps=False)


def go_on(agent: ActorCritic, config: AgentRun, folder: RunFolder) -> None:
    """Have the agent go on from where it stood, if all replicas can; play new games otherwise, and say why."""
    rank, reason = replicas.rank(), ""
    try:
        restore_progress(folder.progress(agent.num_timesteps, rank), agent, config.seed)
    except CheckpointError as error:
        reason = str(error)
    if reason := replicas.first_of(reason):
        play_new_games(agent, config, rank)
        if rank == 0:
            print(f"warning: the run goes on with fresh episodes: {reason}", file=sys.stderr)


def follow(config: AgentRun) -> None:
    """Learn as one of torchrun's other processes, until the first one has enough.

    Raises:
        ValueError, TypeError, gymnasium.error.Error: as for `Training.start`.
        ReplicaError: another process has ended.
        ActorError: actors failed again and again.
    """
    launch = launched()
    assert launch is not None
    config = resolve_replicas(config)
    with replicas.joined():
        folder = RunFolder(replicas.announce(""))
        checkpoint = replicas.announce("")
        prepare_replica(config, folder, Path(checkpoint) if checkpoint else None, launch.rank)()


def make_envs(config: EnvironmentConfig, num_envs: int) -> VecEnv:
    """So many of the configured environments."""
    return make_vec_env(config.id, num_envs, config.kwargs, config.previous_action_reward)
