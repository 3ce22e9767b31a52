"""Run folders: nothing is overwritten, nothing is half-written, and the newest comes first."""

import json
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from threading import Barrier

import pytest

from rmc_rl.run_folder import KEPT_CHECKPOINTS, RunFolder, RunFolderError, to_json, write_text

CONFIG = "seed: 3\nname: größe\n"


def test_a_new_folder_holds_configuration_and_versions(tmp_path: Path) -> None:
    """What is needed to repeat a run is on disk before it begins."""
    folder = RunFolder.create(tmp_path / "runs" / "new", CONFIG)
    assert folder.config.read_text(encoding="utf-8") == CONFIG
    versions = json.loads((folder.path / "versions.json").read_text())
    assert set(versions) == {"python", "rmc-rl", "torch", "numpy", "numba", "gymnasium", "stable-baselines3"}
    assert versions["torch"] == metadata.version("torch")
    assert folder.checkpoints() == []
    assert sorted(path.name for path in folder.path.iterdir()) == ["checkpoints", "config.yaml", "versions.json"]


def test_versions_of_a_source_folder_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its metadata the package still trains; so do checkpoints."""

    def version(package: str) -> str:
        if package == "rmc-rl":
            raise metadata.PackageNotFoundError(package)
        return "1.2.3"

    monkeypatch.setattr("rmc_rl.run_folder.version", version)
    folder = RunFolder.create(tmp_path / "new", CONFIG)
    versions = json.loads((folder.path / "versions.json").read_text())
    assert (versions["rmc-rl"], versions["numpy"]) == ("unknown", "1.2.3")


@pytest.mark.parametrize("present", ["file inside", "file instead", "folder inside"])
def test_nothing_that_is_there_is_overwritten(tmp_path: Path, present: str) -> None:
    path = tmp_path / "taken"
    if present == "file instead":
        path.write_text("precious")
    elif present == "file inside":
        path.mkdir()
        (path / "notes.txt").write_text("precious")
    else:
        (path / "checkpoints").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RunFolderError, match=r"taken exists already: choose another name, or .* --resume .*taken$"):
        RunFolder.create(path, CONFIG)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert RunFolder.create(tmp_path / "empty", CONFIG).config.is_file()


def test_of_runs_that_start_at_once_one_gets_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs in one folder would overwrite each other's checkpoints."""
    barrier = Barrier(2)
    iterdir = Path.iterdir

    def slow_iterdir(path: Path) -> object:  # both have looked before either writes
        found = list(iterdir(path))
        barrier.wait(timeout=10)
        return iter(found)

    monkeypatch.setattr(Path, "iterdir", slow_iterdir)
    (tmp_path / "same").mkdir()

    def create(config: str) -> str | None:
        try:
            RunFolder.create(tmp_path / "same", config)
        except RunFolderError:
            return None
        return config

    with ThreadPoolExecutor() as pool:
        made = [config for config in pool.map(create, ["seed: 1\n", "seed: 2\n"]) if config]
    assert made == [(tmp_path / "same" / "config.yaml").read_text()]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"cannot write the run folder .*file/run: Not a directory"):
        RunFolder.create(tmp_path / "file" / "run", CONFIG)


def test_only_a_run_folder_opens(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"there is no run folder .*missing"):
        RunFolder.open(tmp_path / "missing")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"there is no run folder .*file"):
        RunFolder.open(tmp_path / "file")
    with pytest.raises(RunFolderError, match=r"is not a run folder: it has no config\.yaml"):
        RunFolder.open(tmp_path)
    made = RunFolder.create(tmp_path / "made", CONFIG)
    assert vars(RunFolder.open(str(tmp_path / "made"))) == vars(made)


def test_checkpoints_are_ordered_by_steps_not_by_name(tmp_path: Path) -> None:
    """By name, 900 would come after 10000, and the newest checkpoint would be the one that is dropped."""
    folder = RunFolder.create(tmp_path / "run", CONFIG)
    steps = [900, 10_000, 1_200_000, 50]
    assert len(steps) > KEPT_CHECKPOINTS
    for count in steps:
        folder.checkpoint(count).write_text("")
    (folder.path / "checkpoints" / ".1f2e.tmp").write_text("")  # a save that was interrupted
    names = ["model_1200000.zip", "model_10000.zip", "model_900.zip", "model_50.zip"]
    assert [path.name for path in folder.checkpoints()] == names
    for count in [*steps, 2_000_000]:  # of the last, the model was never written
        for rank in (0, 11):
            folder.progress(count, rank).write_text("")
    folder.drop_old_checkpoints()
    assert [path.name for path in folder.checkpoints()] == names[:KEPT_CHECKPOINTS]
    progress = {
        path for count in (10_000, 1_200_000) for path in (folder.progress(count, 0), folder.progress(count, 11))
    }
    assert set((folder.path / "checkpoints").glob("progress_*")) == progress


def test_files_of_others_among_the_checkpoints_are_left_alone(tmp_path: Path) -> None:
    """A user's copies are no checkpoints, and are not dropped as old ones."""
    folder = RunFolder.create(tmp_path / "run", CONFIG)
    others = ["model_copy.zip", "model_0_backup.zip", "progress_old_0.zip"]
    for name in others:
        (folder.path / "checkpoints" / name).write_text("")
    for count in range(KEPT_CHECKPOINTS + 1):
        folder.checkpoint(count).write_text("")
    folder.drop_old_checkpoints()
    assert [path.name for path in folder.checkpoints()] == ["model_2.zip", "model_1.zip"]
    assert all((folder.path / "checkpoints" / name).exists() for name in others)


def test_every_part_of_a_run_has_a_log_of_its_own(tmp_path: Path) -> None:
    """A resumed run must not touch what was logged before."""
    folder = RunFolder.create(tmp_path / "run", CONFIG)
    suffixes = []
    for _ in range(3):
        suffixes.append(folder.log_suffix())
        (folder.path / f"progress{suffixes[-1]}.csv").write_text("")
    assert suffixes == ["", "_2", "_3"]
    (folder.path / "progress.csv").unlink()
    assert folder.log_suffix() == "_4"


def test_text_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "evaluation.json"
    write_text(path, "old ß\n")
    assert path.read_bytes() == "old ß\n".encode()

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new\n")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [(path.name, "old ß\n".encode())]


def test_json_is_json() -> None:
    """Python would write NaN, the standard error of a single episode, which no other reader of JSON takes."""
    text = to_json({"steps": 12, "mean_return": 2.5, "standard_error": float("nan"), "best": float("inf"), "name": "ß"})
    expected = {"steps": 12, "mean_return": 2.5, "standard_error": None, "best": None, "name": "ß"}
    assert json.loads(text, parse_constant=pytest.fail) == expected
    assert text.endswith("}\n")
