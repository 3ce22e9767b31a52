"""What a training run is made of: every setting with its default, its meaning and its check. Imports nothing heavy."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .hyperparameters import Hyperparameters, ImpalaHyperparameters
from .placement import Placement

MOST_THREADS = 1024
LONGEST_VIDEO = 86_400
"""Seconds."""

PolicyName = Literal[
    "RMCPolicy", "LSTMPolicy", "GRUPolicy", "DeepLSTMPolicy", "DNCPolicy", "MinGRUPolicy", "FeedForwardPolicy"
]


@dataclass(frozen=True, kw_only=True)
class EnvironmentConfig:
    """What the agent plays."""

    id: str = "envs:MiniPacman-v0"
    """Gymnasium id; `module:Name-v0` imports the module first. One with a method action_masks() is masked by it."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of that environment. Mini-Pacman: mode, viewport, observation, frame_cap."""
    num_envs: int = 128
    """Environments of all actors and replicas together."""
    previous_action_reward: bool = True
    """Whether the agent also observes its previous action and reward."""

    def __post_init__(self) -> None:
        check_at_least("environment.num_envs", self.num_envs, 1)


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """The network: encoder, embedding, core, heads."""

    name: PolicyName = "RMCPolicy"
    """The policy, by its core."""
    core_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the core, over the policy's defaults. RMC: mem_slots, head_size, num_heads, gate_style, ...; LSTM
    and GRU: hidden_size."""
    encoder: str = "auto"
    """`grid` for small images, `nature` or `resnet` for large ones, `flat` for vectors, `auto` to go by the size."""
    encoder_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the encoder."""
    embedding_size: int = 256
    """Width of the layer between encoder and core."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of matrix products: bf16 rounds what they multiply to 8 bits, which a processor made for it does faster (large
    memories train about 1.6 times as fast); parameters, sums and all else stay fp32."""

    def __post_init__(self) -> None:
        check_at_least("policy.embedding_size", self.embedding_size, 1)

    def kwargs(self) -> dict[str, Any]:
        """The policy's arguments."""
        names = ("core_kwargs", "encoder", "encoder_kwargs", "embedding_size", "precision")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How the agent is measured, in games of its own: actions sampled, random numbers apart from training's."""

    interval: int = 1_000_000
    """Environment steps between two evaluations during training, which choose the best model; 0 for none."""
    episodes: int = 32
    """Episodes of each of these."""
    final_episodes: int = 100
    """Episodes of the final evaluation, of the last model."""
    video_seconds: float = 30
    """Length of the video of the trained agent; 0 for none."""

    def __post_init__(self) -> None:
        check_at_least("evaluation.interval", self.interval, 0)
        check_at_least("evaluation.episodes", self.episodes, 1)
        check_at_least("evaluation.final_episodes", self.final_episodes, 1)
        check_between("evaluation.video_seconds", self.video_seconds, 0, LONGEST_VIDEO)


@dataclass(frozen=True, kw_only=True)
class AgentRun:
    """One training run of an agent."""

    run: Literal["agent"] = "agent"
    """What is trained."""
    name: str | None = None
    """The run's folder is runs/NAME; null: the configuration's name, the seed, date and time."""
    seed: int = 0
    """Of all random numbers; below 1,000,000, where the seeds of evaluation begin."""
    total_timesteps: int = 10_000_000
    """Environment steps to train for, all environments together."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU if there is one."""
    replicas: int | None = None
    """Processes that share the environments and average their gradients; null: one a core, of 32 environments or more
    each; one in all on an accelerator."""
    threads: int = 1
    """Threads of one operation in each process. More replicas use cores better than more threads do."""
    checkpoint_minutes: float = 2.0
    """Minutes between two checkpoints."""
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    algorithm: Literal["A2C", "IMPALA"] = "A2C"
    """How the agent learns; each has settings of its own."""
    agent: Hyperparameters = field(default_factory=Hyperparameters)
    """A2C's."""
    impala: ImpalaHyperparameters = field(default_factory=ImpalaHyperparameters)
    """IMPALA's."""
    placement: Placement = field(default_factory=Placement)
    """IMPALA's: where its actors run."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        check_between("seed", self.seed, 0, 999_999)
        if self.name is not None and not Path(self.name).name:
            raise ValueError(f"name must name a folder, got {self.name!r}")
        check_at_least("total_timesteps", self.total_timesteps, 1)
        check_between("threads", self.threads, 1, MOST_THREADS)
        check_at_least("checkpoint_minutes", self.checkpoint_minutes, 0)
        self._check_algorithm()
        if self.replicas is not None:
            check_at_least("replicas", self.replicas, 1)
        self.check_shares(self.replicas or 1)

    @property
    def hyperparameters(self) -> Hyperparameters:
        """Those of the algorithm."""
        return self.impala if self.algorithm == "IMPALA" else self.agent

    def check_shares(self, replicas: int) -> None:
        """Raise a ValueError unless so many replicas can share environments and batch evenly."""
        num_envs = self.environment.num_envs
        if num_envs % replicas:
            raise ValueError(f"replicas must divide environment.num_envs, {num_envs}, got {replicas}")
        if self.algorithm == "IMPALA":
            self.placement.check_shares(num_envs, self.impala.batch_size, replicas)

    def _check_algorithm(self) -> None:
        """What is set for the other algorithm would have no effect."""
        if self.algorithm == "A2C":
            self._check_idle("impala", ImpalaHyperparameters())
            self._check_idle("placement", Placement())
        else:
            self._check_idle("agent", Hyperparameters())
        if self.placement.kind != "sync" and self.threads != 1:
            raise ValueError(f"threads must be 1 with placement.kind {self.placement.kind}, got {self.threads}")

    def _check_idle(self, name: str, default: object) -> None:
        if getattr(self, name) != default:
            instead = ", whose settings are in impala" if name == "agent" else ""
            raise ValueError(f"{name} must be left out with algorithm {self.algorithm}{instead}")


def check_at_least(name: str, value: float, least: float) -> None:
    """Raise a ValueError that names the field unless value >= least (which NaN is not)."""
    if not value >= least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")


def check_between(name: str, value: float, least: float, most: float) -> None:
    """Raise a ValueError that names the field unless least <= value <= most (which NaN is not)."""
    if not least <= value <= most:
        raise ValueError(f"{name} must be from {least} to {most}, got {value!r}")
