"""Train an agent: `python train.py` for the quick start, `--config configs/NAME.yaml` for anything else.

Or a model on a supervised task: `--config configs/tasks/NAME.yaml`; `--run task --help` explains those settings.
"""

import sys
from dataclasses import fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from agents.config import AgentRun
from rmc_rl.tasks.command import run_task, says_task
from rmc_rl.tasks.config import TaskRun

if TYPE_CHECKING:
    from rmc_rl.run_folder import RunFolder

QUICK_START = Path(__file__).parent / "configs" / "quick_start.yaml"
MAY_BE_NULL = ("config", "resume", "name", "replicas", "placement.address", "placement.precision")


def main(arguments: list[str]) -> int:
    """Parse, build, run. Returns the exit code: 0, 1 if training failed, 2 for bad input."""
    try:
        config, resume = parse(arguments)
    except (ArgumentError, ValueError) as error:
        return fail(error, code=2)
    if isinstance(config, TaskRun):
        return run_task(config, resume, fail)

    import gymnasium  # heavy imports wait until the arguments are known to be good

    from agents.processes import ActorError, BeginError
    from agents.replicas import ReplicaError, launched
    from agents.training import Training
    from rmc_rl.checkpoint import CheckpointError
    from rmc_rl.masks import ActionMaskError
    from rmc_rl.run_folder import RunFolder

    launch = launched()
    if launch is not None and launch.rank > 0:
        return follow_first(config, launch.rank)
    try:
        if resume:
            training = Training.resume(config, RunFolder.open(resume))
        else:
            training = Training.start(config, Path("runs", str(config.name)))
    except (ValueError, TypeError, NotImplementedError, ImportError, OSError, gymnasium.error.Error) as error:
        return fail(error, code=2)

    folder = training.folder.path
    print(f"run folder: {folder}")
    try:
        evaluation = training.run()
    except BeginError as error:
        return fail(error, code=2)
    except ActorError as error:
        print(*getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
        return fail(f"{error}; {last_checkpoint(training.folder)}", code=1)
    # An OSError may be a full disk.
    except (FloatingPointError, ActionMaskError, ReplicaError, CheckpointError, OSError) as error:
        return fail(f"{error}; {last_checkpoint(training.folder)}", code=1)
    except KeyboardInterrupt:  # a second one while training, or the first while evaluating
        return fail(f"interrupted; {last_checkpoint(training.folder)}", code=130)
    if evaluation is None:
        print(f"stopped after {training.agent.num_timesteps:,} steps; go on with: python train.py --resume {folder}")
    else:
        print(describe(evaluation.summary()))
        print(f"watch it play: python play.py {folder}")
    return 0


def follow_first(config: AgentRun, rank: int) -> int:
    """What torchrun's other processes do: learn, and leave the rest to the first. Returns the exit code."""
    from agents.processes import ActorError
    from agents.replicas import ReplicaError
    from agents.training import follow

    try:
        follow(config)
    except (FloatingPointError, ReplicaError, ActorError, ValueError, TypeError) as error:
        return fail(f"replica {rank}: {error}", code=1)
    return 0


def parse(arguments: list[str]) -> tuple[AgentRun | TaskRun, str | None]:
    """The configuration, and the folder of the run to be resumed, if any.

    Raises:
        ArgumentError, ValueError: an unknown key, a wrong type, or an illegal value.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    # Options are spelled out: a shortened --resume would be overlooked below, and start a new run.
    parser = ArgumentParser(prog="train.py", description=__doc__, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML with any of the settings below")
    parser.add_argument("--resume", metavar="RUN", help="folder of a run to go on with, with its own configuration")

    resume = _value_of("--resume", arguments)
    if resume is not None:
        from rmc_rl.run_folder import RunFolder

        if (name := _value_of("--name", arguments)) is not None:
            raise ValueError(f"name of a run that is resumed must stay what it is: leave out --name {name}")
        arguments = ["--config", str(RunFolder.open(resume).config), *arguments]
    elif _value_of("--run", arguments) != "task" and not {"--config", "--help", "-h"} & {
        argument.partition("=")[0] for argument in arguments
    }:
        arguments = ["--config", str(QUICK_START), *arguments]
    kind = kind_of_run(arguments)
    parser.add_class_arguments(kind)
    parsed = parser.parse_args(arguments)
    check_values(parsed, resume, kind)
    values = parser.instantiate(parsed)
    settings = {field.name: values[field.name] for field in fields(kind)}
    if settings["name"] is None:
        config_name = Path(_value_of("--config", arguments) or "run").stem
        settings["name"] = f"{config_name}-seed{settings['seed']}-{datetime.now():%Y%m%d-%H%M%S}"
    return kind(**settings), resume


def kind_of_run(arguments: list[str]) -> type[AgentRun] | type[TaskRun]:
    """What is trained, by the command line or the configuration that it names."""
    config = _value_of("--config", arguments)
    is_task = _value_of("--run", arguments) == "task" or (config is not None and says_task(Path(config)))
    return TaskRun if is_task else AgentRun


def check_values(values: Namespace, resume: str | None, kind: type[AgentRun] | type[TaskRun]) -> None:
    """Raise a ValueError for what jsonargparse lets pass in a YAML file: lists, null anywhere, and `resume`."""
    if values.resume != resume:
        raise ValueError(f"resume belongs on the command line, not into a configuration: --resume {values.resume}")
    for field in fields(kind):
        if is_dataclass(field.type) and not isinstance(values[field.name], Namespace):
            raise ValueError(f"{field.name} must hold settings, as in {field.name}: {{KEY: VALUE}}")
    for key, value in values.items():
        if value is None and key not in MAY_BE_NULL:
            raise ValueError(f"{key} must have a value, got null")


def last_checkpoint(folder: "RunFolder") -> str:
    """Where to go on from after a failure."""
    newest = next(iter(folder.checkpoints()), None)
    return f"the last checkpoint is {newest}" if newest else "there was no checkpoint yet"


def describe(summary: dict[str, float]) -> str:
    """The final evaluation in one line."""
    text = (
        f"return {summary['mean_return']:.1f} +- {summary['standard_error']:.1f} (standard error) "
        f"over {summary['episodes']:.0f} episodes, mean length {summary['mean_length']:.0f} steps"
    )
    return text + (f", mean level {summary['mean_level']:.1f}" if "mean_level" in summary else "")


def fail(reason: object, code: int) -> int:
    """Say in one line what is wrong."""
    print(f"train.py: {' '.join(str(reason).split())}", file=sys.stderr)
    return code


def _value_of(option: str, arguments: list[str]) -> str | None:
    for i, argument in enumerate(arguments):
        if argument == option:
            return next(iter(arguments[i + 1 :]), None)
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2]
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
