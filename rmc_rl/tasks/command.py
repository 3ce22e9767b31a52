"""What `train.py` does with a configuration that says `run: task`."""

from collections.abc import Callable
from pathlib import Path

from .config import TaskRun


def run_task(config: TaskRun, resume: str | None, fail: Callable[[object, int], int]) -> int:
    """Start or resume a run. Returns the exit code: 0, 1 if training failed, 2 for bad input, 130 for an interrupt.

    Args:
        config: of the run.
        resume: folder of the run to go on with, if any.
        fail: says in one line what is wrong, and gives back the exit code.
    """
    from ..checkpoint import CheckpointError  # heavy imports wait until the arguments are known to be good
    from ..run_folder import RunFolder
    from .supervised import TaskTraining

    try:
        if resume:
            training = TaskTraining.resume(config, RunFolder.open(resume))
        else:
            training = TaskTraining.start(config, Path("runs", str(config.name)))
    except (ValueError, TypeError, OSError) as error:
        return fail(error, 2)

    folder = training.folder.path
    print(f"run folder: {folder}")
    try:
        evaluation = training.run()
    except (FloatingPointError, CheckpointError, OSError) as error:  # OSError: a full disk
        return fail(f"{error}; go on with: python train.py --resume {folder}", 1)
    except KeyboardInterrupt:  # a second one while training, or the first while evaluating
        return fail(f"interrupted; go on with: python train.py --resume {folder}", 130)
    if evaluation is None:
        print(f"stopped after {training.learner.updates:,} updates; go on with: python train.py --resume {folder}")
    else:
        print(", ".join(f"{name} {value:.4g}" for name, value in evaluation.items()))
    return 0


def says_task(config: Path) -> bool:
    """Whether a YAML file says `run: task`; one that cannot be read is left to whoever reads it in earnest."""
    import yaml

    try:
        settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False
    return isinstance(settings, dict) and settings.get("run") == "task"
