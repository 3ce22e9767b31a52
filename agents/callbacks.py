"""What happens beside the training of a run: progress, checkpoints, evaluation, a clean stop."""

import sys
import time
from typing import cast

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import safe_mean
from stable_baselines3.common.vec_env import VecEnv
from tqdm import tqdm

from rmc_rl.run_folder import RunFolder, to_json, write_text

from . import replicas
from .actor_critic import ActorCritic
from .evaluate import evaluate
from .progress import save_progress, why_no_progress

GO_ON, SAVE, STOP = range(3)
"""What the first replica decides between two updates."""


class Progress(BaseCallback):
    """A progress bar on stderr: steps, steps/s, time left, and the mean return of the last episodes."""

    def __init__(self, total_timesteps: int) -> None:
        super().__init__()
        self.total_timesteps = total_timesteps

    def _on_training_start(self) -> None:
        # A bar that is redrawn in a file would fill it.
        interval = 0.5 if sys.stderr.isatty() else 15.0
        self.bar = tqdm(
            total=self.total_timesteps,
            initial=self.num_timesteps,
            mininterval=interval,
            maxinterval=interval,
            unit=" steps",
            unit_scale=True,
            dynamic_ncols=True,
        )

    def _on_step(self) -> bool:
        self.bar.update(self.num_timesteps - self.bar.n)
        return True

    def _on_rollout_end(self) -> None:
        episodes = self.model.ep_info_buffer
        if episodes:
            mean_return = safe_mean([episode["r"] for episode in episodes])
            self.bar.set_postfix_str(f"return {mean_return:.1f}", refresh=False)

    def close(self) -> None:
        """Leave the bar's line, so that whatever is printed next begins one of its own."""
        if hasattr(self, "bar"):  # training has begun
            self.bar.close()


class Checkpoint(BaseCallback):
    """Saves a run every so many minutes and at its end, and ends it if the agent's `stop` is requested: all between two
    updates.

    Every replica needs one. The first decides when, for all; each writes its own progress, and the first the model.
    The two newest checkpoints are kept.

    Args:
        folder: the run's.
        minutes: between two checkpoints.
        seed: the run's; resumed with another one, it plays other games.
    """

    def __init__(self, folder: RunFolder, minutes: float, seed: int) -> None:
        super().__init__()
        self.folder, self.seconds, self.seed = folder, 60 * minutes, seed

    def _on_training_start(self) -> None:
        self.agent = cast(ActorCritic, self.model)
        if replicas.rank() == 0 and (reason := why_no_progress(self.agent)):
            print(f"warning: if resumed, this run starts fresh episodes: {reason}", file=sys.stderr)
        self.last = time.monotonic()

    def _on_rollout_start(self) -> None:
        if self.locals["source"].has_batch:
            return  # a batch that is left over is in no file
        is_due = time.monotonic() - self.last >= self.seconds
        decision = STOP if self.agent.stop.requested else SAVE if is_due else GO_ON
        decision = replicas.agree(decision)
        if decision == SAVE:
            self.save()
        self.agent.stop_requested = decision == STOP

    def _on_training_end(self) -> None:
        self.save()

    def save(self) -> None:
        """Write the model last: a checkpoint is one once its model is there, and until then the previous one counts."""
        steps = self.agent.num_timesteps
        save_progress(self.folder.progress(steps, replicas.rank()), self.agent, self.seed)
        replicas.wait_for_all()
        if replicas.rank() == 0:
            self.agent.save(self.folder.checkpoint(steps))
            self.folder.drop_old_checkpoints()
        self.last = time.monotonic()

    def _on_step(self) -> bool:
        return True


class BestModel(BaseCallback):
    """Evaluates the policy every `interval` steps on the same games, logs the result, and keeps the best model."""

    def __init__(self, folder: RunFolder, env: VecEnv, interval: int, episodes: int, seed: int) -> None:
        super().__init__()
        self.folder, self.env = folder, env
        self.interval, self.episodes, self.seed = interval, episodes, seed

    def _on_training_start(self) -> None:
        self.best = self.folder.best_score("mean_return")
        self.next = (self.num_timesteps // self.interval + 1) * self.interval

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= self.next:
            self._evaluate()

    def _on_training_end(self) -> None:
        if self.num_timesteps >= self.next and not cast(ActorCritic, self.model).stop.requested:
            self._evaluate()
            self.logger.dump(self.num_timesteps)

    def _evaluate(self) -> None:
        self.next += self.interval
        summary = evaluate(cast(ActorCritic, self.model).policy, self.env, self.episodes, self.seed).summary()
        for name in summary.keys() - {"episodes"}:
            self.logger.record(f"eval/{name}", summary[name])
        if summary["mean_return"] > self.best:
            self.best = summary["mean_return"]
            self.model.save(self.folder.best_model)
            write_text(self.folder.best_evaluation, to_json({"steps": self.num_timesteps} | summary))

    def _on_step(self) -> bool:
        return True
