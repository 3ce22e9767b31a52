"""The benchmark of training measures all configurations, and its shares add up."""

import json
import time

import pytest

from benchmarks.train import CORES, Stopwatch, main
from rmc_rl.cores import native


def test_it_prints_the_figures_of_every_core(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--num-envs", "4", "--unroll-length", "3", "--seconds", "0.01", "--rounds", "2"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    in_bf16 = [f"{core}, bf16" for core in CORES] if native.BF16_IS_FAST else []
    assert [line["name"] for line in lines] == [*CORES, *in_bf16]
    for line in lines:
        assert (line["num_envs"], line["unroll_length"], line["repeats"]) == (4, 3, 2)
        assert 0 < line["slowest"] <= line["steps_per_second"] <= line["fastest"]
        shares = [line[f"{part}_share"] for part in ("environment", "acting", "learning")]
        assert all(0 < share < 1 for share in shares)
        assert sum(shares) == pytest.approx(1, abs=0.002)


def test_a_stopwatch_counts_a_methods_time_and_passes_its_result_on() -> None:
    class Sleeper:
        def sleep(self, seconds: float) -> float:
            time.sleep(seconds)
            return 2 * seconds

    sleeper = Sleeper()
    stopwatch = Stopwatch(sleeper, "sleep")
    assert sleeper.sleep(0.02) + sleeper.sleep(0.03) == 0.1
    assert stopwatch.seconds >= 0.05
