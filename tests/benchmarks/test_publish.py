"""Publishing a trained agent: what is copied can be played, and what is no finished run is refused."""

import json
from pathlib import Path

import pytest

from agents.saved_model import SavedModel
from benchmarks import publish
from play import PRETRAINED
from rmc_rl.run_folder import RunFolder

AGENT = PRETRAINED / "quick_start"


def test_a_published_agent_can_be_loaded_and_has_its_card(tmp_path: Path) -> None:
    target = publish.publish(RunFolder(AGENT), "copy", tmp_path)
    assert {file.name for file in target.iterdir()} == {*publish.FILES, "README.md"}
    SavedModel.read(target / "model.zip")
    score = json.loads((AGENT / "evaluation.json").read_text())
    card = (target / "README.md").read_text()
    assert f"{score['mean_return']:.1f}" in card
    assert "play.py --agent copy`" in card


def test_cards_are_what_their_files_say() -> None:
    for config in PRETRAINED.glob("*/config.yaml"):
        assert (config.parent / "README.md").read_text() == publish.card(RunFolder(config.parent), config.parent.name)


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b"])
def test_names_that_are_no_folders(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="NAME must be of letters"):
        publish.publish(RunFolder(AGENT), name, tmp_path)


def test_a_run_that_has_not_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("seed: 0")
    assert publish.main([str(run), "new"]) == 2
    assert capsys.readouterr().err == (
        f"publish: RUN must be a run that has ended, but {run} has no evaluation.json, model.zip, versions.json\n"
    )
    assert not (PRETRAINED / "new").exists()
