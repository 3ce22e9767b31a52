"""Forward and backward of the cores over unrolls of 40 steps: `python -m benchmarks.cores`.

Prints one JSON object a line. The cores run beside what a user would have otherwise: the RMC beside its equations in
eager PyTorch (`plain_rmc.py`), the LSTM beside a loop over `nn.LSTMCell` with the same resets, the minGRU beside its
own loop. Both take turns; a ratio is the median of the rounds' own ratios, with the lowest and the highest. The
machine's peak is the better of torch's two matrix products, (1280, 256) by (256, 768) in float32, in the same rounds.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rmc_rl.cores import LSTM, Core, MinGRU, RelationalMemory, native

from .plain_rmc import PlainRMC

STEPS, INPUT_SIZE, SLOTS, HEADS = 40, 256, 4, 4
EPISODE_STEPS = 50
"""Mean length of an episode: so often the state is reset within an unroll."""
MFLOP_A_FRAME = 9.4
"""Multiplications and additions of an RMC of 4 x 256, forward and backward."""

Work = Callable[[], object]


def rmc_work(head_size: int, batch_size: int, precision: str = "fp32") -> tuple[Work, Work]:
    """Ours and the rival's forward and backward of an RMC with memory gates; the rival's in float32."""
    core = RelationalMemory(INPUT_SIZE, SLOTS, head_size, HEADS, gate_style="memory")
    x, starts = make_inputs(batch_size)
    plain = PlainRMC(INPUT_SIZE, SLOTS, HEADS, head_size)
    return core_work(core, x, starts, precision), lambda: train(
        plain, plain.unroll(x, plain.initial_memory(batch_size), starts)
    )


def gated_work(
    units: int, batch_size: int, precision: str = "fp32", kind: type[LSTM] | type[MinGRU] = LSTM
) -> tuple[Work, Work]:
    """Ours and a loop over the cell in float32."""
    core = kind(INPUT_SIZE, units)
    x, starts = make_inputs(batch_size)
    state = core.initial_state(batch_size)
    return core_work(core, x, starts, precision), lambda: train(core, core.unroll_loop(x, state, starts))


def core_work(core: Core, x: Tensor, starts: Tensor, precision: str = "fp32") -> Work:
    state = core.initial_state(x.shape[1])

    def work() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            assert core.unroll_path(x, state) != "loop", "the compiled path is not available here"
            unrolled = core.unroll(x, state, starts)
        train(core, unrolled)

    return work


def train(module: nn.Module, unrolled: tuple[Tensor, Any]) -> None:
    module.zero_grad()
    torch.autograd.backward(unrolled[0].sum())


def make_inputs(batch_size: int) -> tuple[Tensor, Tensor]:
    """x [T, B, I], as if a network were before it, and starts [T, B]."""
    x = torch.randn(STEPS, batch_size, INPUT_SIZE, requires_grad=True)
    return x, torch.rand(STEPS, batch_size) < 1 / EPISODE_STEPS


def peak_work() -> tuple[Work, Work]:
    """The products of the machine's peak."""
    x, weight = torch.randn(1280, 256), torch.randn(768, 256)
    transposed, onednn = weight.T.contiguous(), torch.ops.mkldnn._linear_pointwise
    return lambda: torch.mm(x, transposed), lambda: onednn(x, weight, None, "none", [], "")


def seconds(work: Work) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def peak_gflops() -> float:
    """The machine's, here and now."""
    best = min(min(seconds(work) for _ in range(30)) for work in peak_work())
    return 2 * 1280 * 256 * 768 / best / 1e9


def compare(name: str, pairs: dict[int, tuple[Work, Work]], rounds: int, mflop_a_frame: float | None = None) -> None:
    """Print ours against the rival, each at its best batch size."""
    for ours, rival in pairs.values():
        for work in (ours, rival, ours):
            work()
    ratios, rates, shares = [], [], []
    for _ in range(rounds):
        our_rates = {batch: STEPS * batch / seconds(ours) for batch, (ours, _) in pairs.items()}
        rival_rates = {batch: STEPS * batch / seconds(rival) for batch, (_, rival) in pairs.items()}
        rate = max(our_rates.values())
        rates.append(rate)
        ratios.append(rate / max(rival_rates.values()))
        if mflop_a_frame:
            shares.append(rate * mflop_a_frame / 1e3 / peak_gflops())
    figures = {"frames_per_second": round(statistics.median(rates)), "ratio": spread(ratios)}
    if shares:
        figures["share_of_peak"] = spread(shares)
    settings = {"threads": torch.get_num_threads(), "batches": list(pairs), "rounds": rounds}
    print(json.dumps({"name": name, **settings, **figures}), flush=True)


def spread(values: list[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {"median": round(statistics.median(values), 3), "low": round(min(values), 3), "high": round(max(values), 3)}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.cores", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="of each comparison")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of torch, one after the other")
    options = parser.parse_args(arguments)
    for threads in options.threads:
        torch.set_num_threads(threads)
        batches = (32, 64, 128, 256)
        compare("RMC 4 x 256", {batch: rmc_work(64, batch) for batch in batches}, options.rounds, MFLOP_A_FRAME)
        if native.BF16_IS_FAST:
            compare("RMC 4 x 256, bf16", {b: rmc_work(64, b, "bf16") for b in batches}, options.rounds)
            compare("LSTM 256, bf16", {64: gated_work(256, 64, "bf16")}, options.rounds)
        compare("RMC 4 x 64", {batch: rmc_work(16, batch) for batch in batches}, options.rounds)
        compare("RMC 4 x 32", {32: rmc_work(8, 32)}, options.rounds)
        compare("LSTM 256", {64: gated_work(256, 64)}, options.rounds)
        for units in (64, 256):
            compare(f"minGRU {units}", {32: gated_work(units, 32, kind=MinGRU)}, options.rounds)


if __name__ == "__main__":
    main(sys.argv[1:])
