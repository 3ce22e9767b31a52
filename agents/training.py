"""One training run of an agent, from its configuration to its final score."""

import shutil
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from stable_baselines3.common.logger import Logger, make_output_format
from stable_baselines3.common.vec_env import VecEnv

from rmc_rl.checkpoint import CheckpointError
from rmc_rl.run_folder import RunFolder, RunFolderError, to_json, write_text
from rmc_rl.vec_env import make_vec_env

from .a2c import A2C
from .callbacks import BestModel, Checkpoint, Progress, StopOnSignal
from .config import AgentRun, EnvironmentConfig
from .evaluate import Evaluation, evaluate
from .video import record_policy
from .watch import make_watched_env

# Seeds of the games that are not trained on: a run's own seed is below all of them.
BEST_MODEL_SEED = 1_000_000
FINAL_SEED = 2_000_000
VIDEO_SEED = 3_000_000
MOST_EVALUATION_ENVS = 128


@dataclass
class Training:
    """An agent, the folder of its run, and what is needed to train it; made by `start` or `resume`."""

    config: AgentRun
    folder: RunFolder
    agent: A2C

    @classmethod
    def start(cls, config: AgentRun, path: Path, config_text: str) -> "Training":
        """A new run in a new folder at `path`; nothing is written unless all parts could be made.

        Raises:
            ValueError: an illegal setting, or a folder that is there already or cannot be written.
            TypeError: an argument that the environment, the core or the encoder does not have.
            gymnasium.error.Error: what an environment says of its arguments.
        """
        check_device(config.device)
        torch.set_num_threads(config.threads)
        agent = A2C(
            config.policy.name,
            make_envs(config.environment, config.environment.num_envs),
            policy_kwargs=config.policy.kwargs(),
            seed=config.seed,
            device=config.device,
            **vars(config.agent),
        )
        return cls(config, RunFolder.create(path, config_text), agent)

    @classmethod
    def resume(cls, config: AgentRun, folder: RunFolder) -> "Training":
        """Go on from the newest checkpoint of a run that can be read.

        Raises:
            RunFolderError: there is none.
            ValueError, TypeError, gymnasium.error.Error: as for `start`.
        """
        check_device(config.device)
        torch.set_num_threads(config.threads)
        env = make_envs(config.environment, config.environment.num_envs)
        failures = []
        for checkpoint in folder.checkpoints():
            try:
                agent = A2C.load(checkpoint, env, device=config.device, **vars(config.agent))
            except CheckpointError as error:
                failures.append((checkpoint, error))
                continue
            for path, failure in failures:
                # Set aside, or it would count as the newest, and better ones would be dropped for it.
                print(f"warning: {failure}; it is renamed to {path.stem}.damaged", file=sys.stderr)
                path.rename(path.with_suffix(".damaged"))
            # With the run's own seed, the games it began with would be played again.
            sequence = np.random.SeedSequence([config.seed, agent.num_timesteps])
            agent.set_random_seed(int(sequence.generate_state(1)[0] >> 1))
            return cls(config, folder, agent)
        reason = "; ".join(str(error) for _, error in failures) or "it was stopped before its first one"
        raise RunFolderError(f"{folder.path} has no checkpoint to go on from: {reason}")

    def run(self) -> Evaluation | None:
        """Train for what is left of the steps, then evaluate; None if the user stopped it (it can be resumed).

        Raises:
            FloatingPointError: something was not finite; the last checkpoint is kept.
            CheckpointError: a checkpoint could not be written.
        """
        stop = StopOnSignal()
        checkpoint = Checkpoint(self.folder, self.config.checkpoint_minutes)
        self.agent.set_logger(self._logger())
        with closing(self.agent.logger), stop.listening():
            self._learn(stop, checkpoint)
        checkpoint.init_callback(self.agent)
        checkpoint.save()
        if stop.requested:
            return None
        shutil.copyfile(self.folder.checkpoint(self.agent.num_timesteps), self.folder.model)
        return self._evaluate()

    def _learn(self, stop: StopOnSignal, checkpoint: Checkpoint) -> None:
        settings, total = self.config.evaluation, self.config.total_timesteps
        progress = Progress(total)
        callbacks = [stop, progress, checkpoint]
        if settings.interval:
            env = make_envs(self.config.environment, min(settings.episodes, MOST_EVALUATION_ENVS))
            callbacks.append(BestModel(self.folder, env, settings.interval, settings.episodes, BEST_MODEL_SEED))
        with closing(progress):
            self.agent.learn(max(0, total - self.agent.num_timesteps), callbacks, reset_num_timesteps=False)

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

    def _logger(self) -> Logger:
        path = str(self.folder.path)
        formats = [make_output_format("csv", path, self.folder.log_suffix()), make_output_format("tensorboard", path)]
        return Logger(path, formats)


def check_device(name: str) -> None:
    """Raise a ValueError unless torch can compute there; Stable-Baselines3 would quietly take the CPU instead."""
    try:
        torch.ones(1, device="cpu" if name == "auto" else name).item()
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device must be auto, cpu or an accelerator of this machine, got {name!r}") from error


def make_envs(config: EnvironmentConfig, num_envs: int) -> VecEnv:
    """So many of the configured environments."""
    return make_vec_env(config.id, num_envs, config.kwargs, config.previous_action_reward)
