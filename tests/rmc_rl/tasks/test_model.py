"""The model: what it reads and writes, for every core, and what it refuses."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from rmc_rl.cores import CORES, GRU, LSTM, Core, make_core
from rmc_rl.tasks import NthFarthest, ProgramEvaluation, SequenceModel
from rmc_rl.tasks.program_evaluation import ProgramBatch, one_hot
from rmc_rl.tasks.programs import END, NUM_SYMBOLS, PADDING, START

SMALL: dict[str, dict[str, Any]] = {
    "rmc": {"mem_slots": 3, "head_size": 5, "num_heads": 2},
    "dnc": {"memory_size": 4, "word_size": 3, "controller_size": 6, "output_size": 7},
    "deep_lstm": {"hidden_size": 7, "num_layers": 2},
    "lstm": {"hidden_size": 7},
    "gru": {"hidden_size": 7},
    "mingru": {"hidden_size": 7},
    "identity": {},
}
HEAD = {"head_size": 9, "head_layers": 2}
WITH_STATE = sorted(CORES.keys() - {"identity"})
BATCH = 6


def maker(core: str) -> Any:
    return partial(make_core, core, **SMALL[core])


def test_every_core_is_tested_here() -> None:
    assert SMALL.keys() == CORES.keys()


@pytest.mark.parametrize("core", CORES)
def test_every_core_answers(core: str) -> None:
    """Every parameter has a gradient."""
    task = NthFarthest(4, 3)
    model = task.make_model(maker(core), **HEAD)
    batch = task.sample(np.random.default_rng(0), BATCH)
    assert model(batch.inputs).shape == (BATCH, 4)
    loss, metrics, state = task.loss(model, batch, ())
    loss.backward()
    assert state == ()
    assert metrics["accuracy"][1] == BATCH
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name


@pytest.mark.parametrize("teacher_forcing", [False, True])
@pytest.mark.parametrize("decoder", ["shared", "own"])
@pytest.mark.parametrize("core", WITH_STATE)
def test_every_core_with_a_state_translates(core: str, decoder: Any, teacher_forcing: bool) -> None:
    task = ProgramEvaluation("double", 3, teacher_forcing=teacher_forcing)
    model = task.make_model(maker(core), decoder=decoder, **HEAD)
    assert (model.decoder is model.core) == (decoder == "shared")
    batch = task.sample(np.random.default_rng(0), BATCH)
    loss, _, _ = task.loss(model, batch, ())
    loss.backward()
    for name, parameter in model.named_parameters():
        # Of a core that only reads, the state counts and not the output, for which the DNC has a layer.
        assert parameter.grad is not None or (decoder == "own" and name.startswith("core.output.")), name
    metrics, _ = task.evaluate(model, batch, ())
    assert metrics["character_accuracy"][1] == int(batch.result_lengths.sum())


@pytest.mark.parametrize("core", WITH_STATE)
def test_padding_leaves_no_trace(core: str) -> None:
    """A program's answer does not depend on what it shares its batch with."""
    task = ProgramEvaluation("program", 4, 2)
    torch.manual_seed(0)
    model = task.make_model(maker(core), **HEAD).double()
    batch = task.sample(np.random.default_rng(1), BATCH)
    together = model.read(one_hot(batch.programs).double(), batch.program_lengths)
    for b in range(BATCH):
        length = int(batch.program_lengths[b])
        alone = model.read(one_hot(batch.programs[-length:, b : b + 1]).double(), batch.program_lengths[b : b + 1])
        for leaf, leaf_alone in zip(together, alone, strict=True):
            torch.testing.assert_close(leaf[b : b + 1], leaf_alone, rtol=0, atol=1e-9)
    assert batch.program_lengths.min() < len(batch.programs)


class Script(SequenceModel):
    """Answers with given symbols, and notes what it is given to read."""

    def __init__(self, written: torch.Tensor) -> None:
        super().__init__(LSTM(NUM_SYMBOLS, 3), NUM_SYMBOLS)
        self.written, self.step, self.was_read = written, 0, []

    def write(self, inputs: torch.Tensor, state: Any) -> Any:
        self.was_read += list(inputs)
        written = self.written[self.step : self.step + len(inputs)]
        self.step += len(inputs)
        return one_hot(written), state


def test_what_the_decoder_reads() -> None:
    """Nothing; or the true symbols in training, and its own when it is tested."""
    results = torch.tensor([[5, 6], [7, END], [END, PADDING]])
    programs = torch.tensor([[3, 0], [4, 5]])
    batch = ProgramBatch(programs, torch.tensor([2, 1]), results, torch.tensor([2, 1]))
    written = torch.tensor([[5, 8], [9, END], [END, END]])

    blind = Script(written)
    ProgramEvaluation("copy").loss(blind, batch, ())
    assert not torch.stack(blind.was_read).any()
    taught = Script(written)
    ProgramEvaluation("copy", teacher_forcing=True).loss(taught, batch, ())
    assert torch.stack(taught.was_read).argmax(dim=-1).tolist() == [[START, START], [5, 6], [7, END]]
    tested = Script(written)
    metrics, _ = ProgramEvaluation("copy", teacher_forcing=True).evaluate(tested, batch, ())
    assert torch.stack(tested.was_read).argmax(dim=-1).tolist() == [[START, START], [5, 8], [9, END]]
    # Of the characters 5, 7 and 6 the first is right; neither result is right as a whole.
    assert metrics == {"character_accuracy": (1, 3), "exact_match": (0, 2)}


def test_a_whole_result_needs_its_end_and_padding_does_not_count() -> None:
    results = torch.tensor([[5, 6], [7, END], [END, PADDING]])
    batch = ProgramBatch(torch.ones(1, 2).long(), torch.tensor([1, 1]), results, torch.tensor([2, 1]))
    for written, expected in [([[5, 6], [7, END], [END, 9]], 2), ([[5, 6], [7, 9], [END, END]], 1)]:
        metrics, _ = ProgramEvaluation("copy").evaluate(Script(torch.tensor(written)), batch, ())
        assert metrics == {"character_accuracy": (3, 3), "exact_match": (expected, 2)}


def test_the_questions_that_know_better_are_counted_apart() -> None:
    """Whoever knows only that the last rank is m itself is right there and nowhere else."""
    task = NthFarthest(4, 2)
    batch = task.sample(np.random.default_rng(0), 500)
    itself = batch.inputs[0, :, -4:]
    wrong = torch.roll(torch.nn.functional.one_hot(batch.labels, 4), 1, dims=1).float()

    class KnowsItself(SequenceModel):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return torch.where((task.ranks(inputs) == 4).unsqueeze(1), itself, wrong)

    _, metrics, _ = task.loss(KnowsItself(LSTM(3, 2), 4), batch, ())
    assert metrics["accuracy"] == ((task.ranks(batch.inputs) == 4).sum(), 500)
    assert metrics["accuracy_of_others"] == (0, (task.ranks(batch.inputs) < 4).sum())


def test_a_decoder_must_fit() -> None:
    core = LSTM(5, 7)
    for decoder, message in [
        (GRU(5, 7), r"decoder must have the state of the core that reads, \[\(7,\), \(7,\)\], got \[\(7,\)\]"),
        (LSTM(5, 6), "decoder must have the state of the core"),
        (LSTM(4, 7), "decoder must have the input_size of the core that reads, 5, got 4"),
    ]:
        with pytest.raises(ValueError, match=message):
            SequenceModel(core, 3, decoder)
    assert isinstance(SequenceModel(core, 3, LSTM(5, 7)).decoder, Core)


@pytest.mark.parametrize(
    ("core", "kwargs", "message"),
    [
        ("identity", {}, "core must have a state to start the decoder from, got IdentityCore, which has none"),
        ("lstm", {"decoder": "none"}, "decoder must be 'shared' or 'own', got 'none'"),
        ("lstm", {"head_size": 0}, "head_size must be a whole number of at least 1, got 0"),
        ("lstm", {"head_layers": -1}, "head_layers must be a whole number of at least 1, got -1"),
    ],
)
def test_bad_models_are_refused(core: str, kwargs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProgramEvaluation("copy").make_model(maker(core), **kwargs)


@pytest.mark.parametrize(("layers", "linears"), [(0, 1), (2, 3)])
def test_the_head_has_as_many_layers_as_said(layers: int, linears: int) -> None:
    model = SequenceModel(LSTM(3, 5), 4, head_size=6, head_layers=layers)
    assert sum(isinstance(module, torch.nn.Linear) for module in model.head.modules()) == linears
