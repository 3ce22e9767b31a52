"""Learning curves: they show what was logged, once, and say how sure they are."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from rmc_rl.figures import (
    EVALUATION,
    Curve,
    FigureError,
    bootstrap_interval,
    draw,
    group_runs,
    learning_curve,
    main,
    mean_curve,
)
from rmc_rl.run_folder import RunFolder, RunFolderError

HEADER = "rollout/ep_rew_mean,train/loss,time/total_timesteps,eval/mean_return\n"


def make_run(path: Path, *logs: str, seed: int = 0, **settings: Any) -> Path:
    """A run's folder with the rows of its logs, of which each is `return,loss,steps,return in evaluation`."""
    folder = RunFolder.create(path, yaml.safe_dump({"name": path.name, "seed": seed, **settings}))
    for rows in logs:
        (path / f"progress{folder.log_suffix()}.csv").write_text(HEADER + "".join(f"{row}\n" for row in rows.split()))
    return path


def points(curve: Curve) -> list[tuple[float, float]]:
    return list(zip(curve.steps.tolist(), curve.returns.tolist(), strict=True))


def test_a_curve_holds_what_was_logged(tmp_path: Path) -> None:
    """Rows without a return, before the first episode has ended, are no points."""
    run = make_run(tmp_path / "run", ",0.5,10, 1.5,0.4,20, 2.5,0.3,30,7")
    assert points(learning_curve(run)) == [(20, 1.5), (30, 2.5)]
    assert points(learning_curve(run, EVALUATION)) == [(30, 7)]


def test_a_resumed_run_replaces_the_steps_that_it_took_again(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "1,0,10, 2,0,20, 3,0,30,", "12,0,20, 13,0,30,", "14,0,40,")
    assert points(learning_curve(run)) == [(10, 1), (20, 12), (30, 13), (40, 14)]


def test_parts_of_a_log_are_read_by_number(tmp_path: Path) -> None:
    """The tenth comes after the ninth, not after the first."""
    run = make_run(tmp_path / "run", *(f"{part},0,{part}0," for part in range(1, 12)))
    assert points(learning_curve(run)) == [(10 * part, part) for part in range(1, 12)]


def test_the_mean_covers_only_what_all_runs_reach() -> None:
    """Beyond it, the mean would jump as runs drop out."""
    short = Curve(np.array([10.0, 30.0]), np.array([0.0, 20.0]))
    long = Curve(np.array([0.0, 100.0]), np.array([10.0, 110.0]))
    steps, returns, low, high = mean_curve([short, long])
    assert (steps[0], steps[-1]) == (10, 30)
    np.testing.assert_allclose(returns, ((steps - 10) + (steps + 10)) / 2)
    assert low is not None
    assert high is not None
    np.testing.assert_allclose(low, steps - 10, atol=1e-9)
    np.testing.assert_allclose(high, steps + 10, atol=1e-9)


def test_one_run_is_shown_as_it_is() -> None:
    curve = Curve(np.array([1.0, 5.0]), np.array([2.0, 3.0]))
    assert mean_curve([curve]) is curve


def test_runs_without_common_steps_have_no_mean() -> None:
    early, late = (Curve(np.array(steps), np.zeros(2)) for steps in ([1.0, 2.0], [3.0, 4.0]))
    with pytest.raises(FigureError, match="some steps in common"):
        mean_curve([early, late])


def test_the_interval_is_that_of_the_mean() -> None:
    """For many normal values the bootstrap agrees with theory: 1.96 standard errors to both sides."""
    values = np.random.default_rng(1).normal(5, 3, size=(400, 3))
    low, high = bootstrap_interval(values)
    error = values.std(axis=0) / np.sqrt(400)
    np.testing.assert_allclose(low, values.mean(axis=0) - 1.96 * error, atol=0.2 * error.mean())
    np.testing.assert_allclose(high, values.mean(axis=0) + 1.96 * error, atol=0.2 * error.mean())


def test_runs_that_differ_only_in_seed_are_one_group(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", seed=1, policy={"name": "RMCPolicy", "size": 4}, agent={"rate": 0.1})
    second = make_run(tmp_path / "b", seed=2, policy={"name": "RMCPolicy", "size": 4}, agent={"rate": 0.1})
    other = make_run(tmp_path / "c", seed=1, policy={"name": "LSTMPolicy", "size": 4}, agent={"rate": 0.1})
    assert group_runs([first, other, second, first]) == [
        ("policy.name=RMCPolicy (2 runs)", [first, second]),
        ("c", [other]),
    ]
    assert group_runs([second, first]) == [("b, ... (2 runs)", [second, first])]


def test_the_figure_has_one_curve_for_each_configuration(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"rmc{seed}", "1,0,10, 5,0,90,", seed=seed, core="rmc") for seed in range(3)]
    runs.append(make_run(tmp_path / "lstm", "1,0,10, 3,0,90,", core="lstm"))
    (axes,) = draw(runs).axes
    assert [line.get_label() for line in axes.get_lines()] == ["core=rmc (3 runs)", "lstm"]
    assert len(axes.collections) == 1, "the interval of the three"
    assert axes.get_lines()[1].get_ydata().tolist() == [1, 3]


def test_the_command_writes_an_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, output = make_run(tmp_path / "run", "1,0,10, 5,0,90,"), tmp_path / "curves.png"
    assert main([str(run), "--output", str(output)]) == 0
    assert capsys.readouterr().out == f"wrote {output}\n"
    with Image.open(output) as image:
        assert image.size == (1200, 750)


def test_bad_input_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", "1,0,10, 5,0,90,")
    unreadable = make_run(tmp_path / "unreadable", "one,0,10,")
    no_settings = make_run(tmp_path / "no_settings", "1,0,10,")
    (no_settings / "config.yaml").write_text("- a list")
    for arguments, message in [
        ([tmp_path / "nowhere"], "there is no run folder"),
        ([make_run(tmp_path / "new")], "has logged no rollout/ep_rew_mean yet"),
        ([run, "--evaluation"], "has logged no eval/mean_return yet"),
        ([unreadable], "cannot read"),
        ([no_settings], "cannot read"),
        ([run, "--output", tmp_path / "curves.jpg"], "must end in .png, .pdf, .svg"),
        ([run, "--output", tmp_path / "no" / "curves.png"], "No such file or directory"),
    ]:
        assert main([str(argument) for argument in arguments]) == 2
        out, err = capsys.readouterr()
        assert message in err
        assert (out, err.count("\n")) == ("", 1)


def test_a_folder_that_is_no_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="not a run folder"):
        learning_curve(tmp_path)
