"""Samples of every task, for a person to read: `python -m rmc_rl.tasks.show`, or `... copy program --number 5`.

Language modelling is shown when `--text` names its folder: windows of the training text, words apart.
"""

import argparse
import sys
from collections.abc import Iterator
from typing import get_args

import numpy as np
import torch

from .corpus import CorpusError
from .language_modeling import LanguageModeling
from .nth_farthest import NthFarthest
from .program_evaluation import ProgramEvaluation, ProgramTask

WINDOW = 15
"""Words of a sample of text."""
NAMES = ("nth_farthest", *get_args(ProgramTask))


def show(name: str, rng: np.random.Generator, number: int) -> Iterator[str]:
    """Lines with so many samples of a task."""
    if name == "nth_farthest":
        for _ in range(number):
            yield from show_farthest(NthFarthest(num_objects=4, num_features=2), rng)
    else:
        for program, result in ProgramEvaluation(name).sample_text(rng, number):  # type: ignore[arg-type]
            yield f"{program} -> {result}"


def show_farthest(task: NthFarthest, rng: np.random.Generator) -> Iterator[str]:
    """One sequence: the question, every vector with its label and distance, and the answer."""
    inputs, (answer,) = task.sample(rng, 1)
    sequence, count = inputs[:, 0], task.num_objects  # [T, I]
    parts = torch.split(sequence, [task.num_features, count, count, count], dim=1)
    labels = parts[1].argmax(dim=1)  # [T]
    reference = int(parts[3][0].argmax())
    distances = (parts[0] - parts[0][labels == reference]).norm(dim=1)  # [T]
    yield f"which is number {int(task.ranks(inputs))} in order of distance from {reference}, the farthest first?"
    for vector, label, distance in zip(parts[0], labels, distances, strict=True):
        numbers = " ".join(f"{value:6.2f}" for value in vector.tolist())
        yield f"  {int(label)}: [{numbers} ]  distance {float(distance):.2f}"
    yield f"  -> {int(answer)}"


def show_text(folder: str, rng: np.random.Generator, number: int) -> Iterator[str]:
    """Windows of a training text and the word that follows each, as its vocabulary has them.

    Raises:
        CorpusError: a text that cannot be used.
    """
    task = LanguageModeling(folder, WINDOW)
    text, names = task.texts["train"], task.vocabulary.words
    for begin in rng.integers(len(text) - WINDOW, size=number):
        *words, target = (names[word] for word in text[begin : begin + WINDOW + 1])
        yield f"{' '.join(words)} -> {target}"


def main(arguments: list[str]) -> int:
    """Parse and print. Returns the exit code, 0, or 2 for a bad text; argparse ends the process with 2 for others."""
    parser = argparse.ArgumentParser("python -m rmc_rl.tasks.show", description=__doc__)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"{', '.join(NAMES)}; default: all")
    parser.add_argument("--number", type=int, default=3, help="of samples of each; default: 3")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--text", metavar="FOLDER", help="of a text for language modelling")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.tasks if name not in NAMES]:
        parser.error(f"TASK must be one of {', '.join(NAMES)}, got {unknown[0]!r}")
    if options.number < 1 or options.seed < 0:
        parser.error(f"number must be at least 1 and seed at least 0, got {options.number} and {options.seed}")
    for name in options.tasks or NAMES:
        print(f"{name}:")
        for line in show(name, np.random.default_rng(options.seed), options.number):
            print(f"  {line}")
    if options.text:
        print("language_modeling:")
        try:
            for line in show_text(options.text, np.random.default_rng(options.seed), options.number):
                print(f"  {line}")
        except CorpusError as error:
            print(f"show: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
