"""Figures from the run folders of tasks: `python -m rmc_rl.tasks.figures KIND RUN ... --output FILE`.

`curves`: a metric against updates; runs that differ in nothing but their seed become one curve, their mean with a 95%
interval. `attention`: where an RMC trained on Nth Farthest looks at every step of a sequence. `perplexity`: of language
models, by the number of words read from a fresh state, and by how often a word is in the training text.
"""

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from ..cores import RelationalMemory
from ..figures import COLORS, FORMATS, FigureError, draw, save
from ..run_folder import RunFolder
from .language_model import LanguageModel
from .language_modeling import LanguageModeling
from .learner import TaskLearner, load_run
from .model import SequenceModel
from .nth_farthest import NthFarthest
from .perplexity import by_context, by_frequency

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REFERENCE_COLOR = "#d55e00"


def curves(runs: Sequence[str | Path], metric: str | None = None) -> "Figure":
    """A metric in evaluation against updates; by default the one that chooses the best model.

    Raises:
        RunFolderError, FigureError: a folder is not a run's, or has not logged the metric.
    """
    name = metric or _read_run(runs[0]).task.score
    return draw(runs, f"eval/{name}", xlabel="updates", ylabel=f"{name.replace('_', ' ')} in evaluation")


def attention(runs: Sequence[str | Path], seed: int = 0) -> "Figure":
    """The attention weights of each head (rows) at every step (columns) of one sequence of Nth Farthest.

    In a matrix, rows attend to columns; the last of both is the input. The step that presents vector m, to which all
    distances are taken, is marked, as is the one that presents the answer.

    Raises:
        RunFolderError: not a run's folder, or one without a model.
        FigureError: several runs, or a run of another task or core.
    """
    from matplotlib.figure import Figure

    if len(runs) != 1:
        raise FigureError(f"attention must be given one run, got {len(runs)}")
    learner = _read_run(runs[0])
    task, core = learner.task, cast(SequenceModel, learner.model).core
    if not isinstance(task, NthFarthest) or not isinstance(core, RelationalMemory):
        raise FigureError(
            "attention must be given a run of task nth_farthest and core rmc, "
            f"got {learner.config.task.name} and {learner.config.core}"
        )
    inputs, (answer,) = task.sample(np.random.default_rng(seed), 1)
    weights = attention_weights(core, inputs)  # [T, blocks, heads, N, N]
    first, count = task.num_features, task.num_objects
    labels = inputs[:, 0, first : first + count].argmax(dim=-1).tolist()  # of every step
    reference = int(inputs[0, 0, -count:].argmax())
    steps, heads = len(weights), weights.shape[2]
    figure = Figure(figsize=(1.3 * steps + 1, 1.3 * heads + 1), layout="constrained")
    grid = figure.subplots(heads, steps, squeeze=False)
    image: Any = None
    for head in range(heads):
        for step in range(steps):
            axes = grid[head, step]
            image = axes.imshow(weights[step, 0, head].numpy(), cmap="viridis", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            if labels[step] == reference:
                for spine in axes.spines.values():
                    spine.set(color=REFERENCE_COLOR, linewidth=3)
    for axes, label in zip(grid[0], labels, strict=True):
        marks = [name for name, is_it in (("m", label == reference), ("answer", label == int(answer))) if is_it]
        axes.set_title(
            f"vector {label}" + (f"\n{', '.join(marks)}" if marks else "\n"),
            fontsize="small",
            color=REFERENCE_COLOR if label == reference else "black",
        )
    for head, axes in enumerate(grid[:, 0]):
        axes.set_ylabel(f"head {head}", fontsize="small")
    figure.colorbar(image, ax=grid, label="attention weight", shrink=0.6)
    figure.suptitle(f"number {int(task.ranks(inputs))} in distance from vector {reference}, the farthest first?")
    return figure


def perplexity(runs: Sequence[str | Path], num_words: int = 50) -> "Figure":
    """Perplexity on the test text by context and by frequency, a curve for each run.

    Raises:
        RunFolderError: not a run's folder, or one without a model.
        FigureError: a run of another task.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for color, run in zip(itertools.cycle(COLORS), runs, strict=False):
        learner = _read_run(run)
        if not isinstance(learner.task, LanguageModeling):
            raise FigureError(f"perplexity must be given runs of language_modeling, got {learner.config.task.name}")
        model = cast(LanguageModel, learner.model)
        left.plot(*by_context(learner.task, model, num_words), color=color, label=Path(run).resolve().name)
        right.plot(*by_frequency(learner.task, model), color=color, marker="o")
    left.set(xlabel="words read from a fresh state", ylabel="perplexity of the next word")
    right.set(xlabel="least number of times in the training text", xscale="log", yscale="log")
    for axes in (left, right):
        axes.grid(color="#dddddd", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(edgecolor="none")
    return figure


@torch.no_grad()
def attention_weights(core: RelationalMemory, inputs: torch.Tensor) -> torch.Tensor:
    """Of a sequence [T, 1, I] from its beginning: [T, blocks, heads, slots + 1 (from), slots + 1 (to)]."""
    weights, state = [], core.initial_state(1)
    for x in inputs:
        _, state, attended = core(x, state, return_attention=True)
        weights.append(attended[0])
    return torch.stack(weights)


def _read_run(run: str | Path) -> TaskLearner:
    """The last model of a run, on the CPU."""
    return load_run(RunFolder.open(run))


KINDS: dict[str, Callable[..., "Figure"]] = {"curves": curves, "attention": attention, "perplexity": perplexity}


def main(arguments: list[str]) -> int:
    """Parse, draw, save. Returns the exit code: 0, or 2 for bad input."""
    parser = argparse.ArgumentParser("python -m rmc_rl.tasks.figures", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders")
    parser.add_argument("--output", help=f"{', '.join(FORMATS)}; default: KIND.png")
    parser.add_argument("--metric", help="of curves; default: the one that chooses the best model")
    options = parser.parse_args(arguments)
    output = options.output or f"{options.kind}.png"
    try:
        settings = {"metric": options.metric} if options.kind == "curves" else {}
        save(KINDS[options.kind](options.runs, **settings), output)
    except ValueError as error:
        print(f"figures: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(f"wrote {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
