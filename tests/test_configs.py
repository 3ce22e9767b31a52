"""The files in configs/: every one trains, says what its name says, and holds nothing but what differs."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

import train
from agents.config import AgentRun
from agents.training import ALGORITHMS, make_envs

CONFIGS = Path(__file__).parents[1] / "configs"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
COMPARED = [f"mini_pacman_{maze}_{core}" for maze in ("viewport", "full") for core in ("rmc", "lstm")]


def load(name: str) -> AgentRun:
    config, resume = train.parse(["--config", str(CONFIGS / f"{name}.yaml"), "--name=same"])
    assert resume is None
    return config


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys; the arguments of environment, core and encoder are one value each."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and not key.endswith("kwargs"):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def test_nothing_else_is_there() -> None:
    """The comparison has all of its parts, and no file escapes these tests by another suffix."""
    assert {"quick_start", "cartpole", *COMPARED} <= set(NAMES)
    assert {path.suffix for path in CONFIGS.rglob("*") if path.is_file()} == {".yaml"}


@pytest.mark.parametrize("name", NAMES)
def test_every_configuration_trains(name: str) -> None:
    """The environment takes its arguments, the policy takes the environment, and an update can be made."""
    config = load(name)
    model = ALGORITHMS[config.algorithm](
        config.policy.name,
        make_envs(config.environment, 2),
        policy_kwargs=config.policy.kwargs(),
        device="cpu",
        seed=0,
        **vars(config.hyperparameters),
    )
    steps = getattr(config.hyperparameters, "batch_size", 2) * config.hyperparameters.unroll_length
    model.learn(steps)
    assert model.num_timesteps == steps
    assert model._n_updates == 1


@pytest.mark.parametrize("name", NAMES)
def test_only_what_differs_from_the_defaults(name: str) -> None:
    """A default that is repeated would stay behind when the default is changed. Arguments of environments may be."""
    text = (CONFIGS / f"{name}.yaml").read_text()
    assert text.startswith("# "), "its first line says what it is"
    defaults = flatten(dataclasses.asdict(AgentRun()))
    repeated = [key for key, value in flatten(yaml.safe_load(text)).items() if value == defaults[key]]
    assert set(repeated) <= {"policy.name"}  # where policies are compared, each is named


def test_impala_is_set_up_as_in_the_relational_memory_paper() -> None:
    """Its BoxWorld agents: batches of 32 unrolls of 40 steps, discount 0.99, entropy cost 0.005, 4 slots of 4 x 64."""
    config = load("mini_pacman_impala_rmc")
    assert (config.algorithm, config.placement.kind) == ("IMPALA", "local")
    settings = config.impala
    assert (settings.batch_size, settings.unroll_length, settings.discount) == (32, 40, 0.99)
    assert (settings.entropy_cost, settings.optimizer) == (0.005, "rmsprop")
    assert config.policy.core_kwargs == {"mem_slots": 4, "head_size": 64, "num_heads": 4, "gate_style": "memory"}


def test_quick_start_is_what_no_arguments_mean() -> None:
    assert train.parse(["--name=same"]) == (load("quick_start"), None)
    assert str(train.parse([])[0].name).startswith("quick_start-")


def test_compared_configurations_differ_in_nothing_but_what_is_compared() -> None:
    """A comparison of cores, and of viewports, is worth nothing if more differs than was tuned for each."""
    configs = [flatten(dataclasses.asdict(load(name))) for name in COMPARED]
    viewports = [config["environment.kwargs"].pop("viewport") for config in configs]
    policies = [config.pop("policy.name") for config in configs]
    cores = [config.pop("policy.core_kwargs") for config in configs]
    embeddings = [config.pop("policy.embedding_size") for config in configs]
    for config in configs:
        del config["agent.learning_rate"]  # tuned for each core and view
    assert embeddings == [256, 256, 64, 64]
    assert viewports == [5, 5, "centred", "centred"]
    assert policies == ["RMCPolicy", "LSTMPolicy"] * 2
    assert cores[:2] == cores[2:]
    assert all(config == configs[0] for config in configs)
    assert configs[0]["environment.id"] == "envs:MiniPacman-v0"
