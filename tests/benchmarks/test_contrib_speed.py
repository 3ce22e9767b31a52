"""The benchmark of RecurrentPPO compares our policy with each of its own."""

import json

import pytest

from benchmarks import contrib


def test_it_prints_figures_and_ratios(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"num_envs": 2, "n_steps": 5, "batch_size": 10, "n_epochs": 1}
    monkeypatch.setattr(contrib, "SETTINGS", {"tiny": settings})
    contrib.main(["--rounds", "3", "--seconds", "0.01"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["settings"], line["policy"]) for line in lines] == [("tiny", policy) for policy in contrib.POLICIES]
    ours = lines[0]["steps_per_second"]
    assert ours > 0
    for line in lines[1:]:
        assert line["steps_per_second"] > 0
        assert line["ratio"]["low"] <= line["ratio"]["median"] <= line["ratio"]["high"]
