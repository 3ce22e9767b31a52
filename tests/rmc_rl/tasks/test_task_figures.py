"""Figures of tasks: they show what was logged and where the core looked, and refuse what they cannot show."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rmc_rl.cores import RelationalMemory
from rmc_rl.run_folder import RunFolder, RunFolderError
from rmc_rl.tasks.config import OptimizationConfig, TaskConfig, TaskEvaluationConfig, TaskRun
from rmc_rl.tasks.figures import REFERENCE_COLOR, attention, attention_weights, curves, main
from rmc_rl.tasks.learner import load_run
from rmc_rl.tasks.supervised import TaskTraining

HEADS, OBJECTS, SLOTS = 2, 5, 3
CONFIG = TaskRun(
    name="run",
    updates=4,
    log_interval=2,
    device="cpu",
    core_kwargs={"rmc": {"mem_slots": SLOTS, "head_size": 4, "num_heads": HEADS}, "lstm": {"hidden_size": 3}},
    task=TaskConfig(name="nth_farthest", kwargs={"num_objects": OBJECTS, "num_features": 2}),
    optimization=OptimizationConfig(batch_size=3),
    evaluation=TaskEvaluationConfig(interval=2, samples=20, final_samples=20),
)


def run(path: Path, **settings: Any) -> Path:
    TaskTraining.start(replace(CONFIG, **settings), path).run()
    return path


def test_curves_show_what_evaluation_gave(tmp_path: Path) -> None:
    runs = [run(tmp_path / f"rmc{seed}", seed=seed) for seed in range(2)] + [run(tmp_path / "lstm", core="lstm")]
    (axes,) = curves(runs).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("updates", "accuracy in evaluation")
    assert [line.get_label() for line in axes.get_lines()] == ["core=rmc (2 runs)", "lstm"]
    assert len(axes.collections) == 1, "the interval of the two"
    assert axes.get_lines()[1].get_xdata().tolist() == [2, 4]
    last = load_run(RunFolder.open(runs[2])).evaluate(20)
    assert axes.get_lines()[1].get_ydata()[-1] == last["accuracy"]
    (axes,) = curves(runs, "accuracy_of_others").axes
    assert axes.get_lines()[1].get_ydata()[-1] == last["accuracy_of_others"]


def test_attention_is_what_the_core_pays() -> None:
    """Rows sum to one, every step goes on from the one before, and the whole is the core's own unroll."""
    torch.manual_seed(0)
    core, inputs = RelationalMemory(6, SLOTS, 4, HEADS), torch.randn(OBJECTS, 1, 6)
    weights = attention_weights(core, inputs)
    assert weights.shape == (OBJECTS, 1, HEADS, SLOTS + 1, SLOTS + 1)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(OBJECTS, 1, HEADS, SLOTS + 1))
    starts = torch.zeros(OBJECTS - 1, 1, dtype=torch.bool)
    _, state = core.unroll(inputs[:-1], core.initial_state(1), starts)
    _, _, last = core(inputs[-1], state, return_attention=True)
    torch.testing.assert_close(weights[-1], last[0])


def test_the_reference_is_marked(tmp_path: Path) -> None:
    """In the column of the step that presents vector m, and in no other."""
    path = run(tmp_path / "run")
    learner = load_run(RunFolder.open(path))
    for seed in range(3):
        inputs, _ = learner.task.sample(np.random.default_rng(seed), 1)  # type: ignore[attr-defined]
        labels, reference = inputs[:, 0, 2 : 2 + OBJECTS].argmax(dim=-1), inputs[0, 0, -OBJECTS:].argmax()
        figure = attention([path], seed)
        titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
        assert [title.split("\n")[0] for title in titles] == [f"vector {label}" for label in labels.tolist()]
        assert ["m" in title.split("\n")[1].split(", ") for title in titles] == (labels == reference).tolist()
        marked = [axes.get_title() for axes in figure.axes if axes.title.get_color() == REFERENCE_COLOR]
        assert marked == [title for title in titles if "m" in title.split("\n")[1].split(", ")]


def test_the_command_writes_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run(tmp_path / "run")
    for kind in ("curves", "attention"):
        output = tmp_path / f"{kind}.png"
        assert main([kind, str(path), "--output", str(output)]) == 0
        assert capsys.readouterr().out == f"wrote {output}\n"
        with Image.open(output) as image:
            assert min(image.size) > 300


def test_bad_input_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, lstm = run(tmp_path / "run"), run(tmp_path / "lstm", core="lstm")
    agent = tmp_path / "agent"
    RunFolder.create(agent, "run: agent\n")
    capsys.readouterr()
    for arguments, message in [
        (["curves", tmp_path / "nowhere"], "there is no run folder"),
        (["curves", agent], "is not the folder of a task's run"),
        (["curves", path, "--metric", "speed"], "has logged no eval/speed yet"),
        (["attention", lstm], "of task nth_farthest and core rmc, got nth_farthest and lstm"),
        (["attention", path, lstm], "attention must be given one run, got 2"),
        (["attention", path, "--output", tmp_path / "x.jpg"], "must end in .png, .pdf, .svg"),
    ]:
        assert main([str(argument) for argument in arguments]) == 2
        out, err = capsys.readouterr()
        assert message in err
        assert (out, err.count("\n")) == ("", 1)


def test_a_run_that_has_not_ended_is_read_from_its_checkpoint(tmp_path: Path) -> None:
    path = run(tmp_path / "run")
    (path / "model.zip").unlink()
    assert load_run(RunFolder.open(path)).updates == 4
    (path / "checkpoints" / "model_4.zip").unlink()
    with pytest.raises(RunFolderError, match="no checkpoint"):
        load_run(RunFolder.open(path))
