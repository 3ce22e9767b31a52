"""Text as numbered words on disk: files larger than memory are read line by line and mapped, never loaded."""

import hashlib
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..files import replacing

Words = NDArray[np.uint32]

UNKNOWN, END_OF_LINE = "<unk>", "<eos>"
SPLITS = ("train", "valid", "test")
TOKENIZED = ".tokens"
"""Suffix of files in WikiText's format: words with spaces between them. Others are plain text."""
WORD = re.compile(r"\w+(?:'\w+)*|[^\w\s]")
CHUNK = 1 << 20
FORMAT = "1"


class CorpusError(ValueError):
    """A text or a vocabulary that cannot be used; one line that names the file and says why."""


class Vocabulary:
    """Words by number, the most frequent first; what is not among them counts as `<unk>`.

    Raises:
        CorpusError: a word twice, no `<unk>`, or fewer than two words.
    """

    def __init__(self, words: Sequence[str], source: str | Path = "the vocabulary") -> None:
        self.words = tuple(words)
        self.numbers = {word: number for number, word in enumerate(self.words)}
        if len(self.numbers) < len(self.words):
            twice = next(word for word, count in Counter(self.words).items() if count > 1)
            raise CorpusError(f"{source} must hold every word once, got {twice!r} more than once")
        if UNKNOWN not in self.numbers or len(self.words) < 2:
            raise CorpusError(f"{source} must hold {UNKNOWN} and at least one word more, got {len(self.words)} words")

    def __len__(self) -> int:
        return len(self.words)

    @classmethod
    def build(cls, path: Path, size: int | None = None) -> "Vocabulary":
        """The words of a text, the `size` most frequent of them, or all."""
        counts = Counter(word for line in read_words(path) for word in line)
        if not counts:
            raise CorpusError(f"{path} must hold at least one word, got none")
        del counts[UNKNOWN]
        frequent = sorted(counts, key=lambda word: (-counts[word], word))[: None if size is None else size - 1]
        return cls([UNKNOWN, *frequent], path)

    @classmethod
    def read(cls, path: Path) -> "Vocabulary":
        """From a file with one word a line."""
        return cls([line.strip() for line in read_lines(path) if line.strip()], path)


def find_splits(path: Path) -> dict[str, Path]:
    """The files of a corpus: of its folder, the one with `train`, `valid` or `test` in its name.

    Raises:
        CorpusError: there is not one of each.
    """
    if not path.is_dir():
        raise CorpusError(f"path must be a folder with texts to train, valid and test on, got {path}")
    found: dict[str, Path] = {}
    for split in SPLITS:
        files = sorted(file for file in path.glob(f"*{split}*") if file.suffix in (TOKENIZED, ".txt"))
        if len(files) != 1:
            names = [file.name for file in files]
            raise CorpusError(f"{path} must hold one .txt or {TOKENIZED} file with {split} in its name, got {names}")
        found[split] = files[0]
    return found


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file.

    Raises:
        CorpusError: it cannot be read, or is not UTF-8.
    """
    try:
        with path.open(encoding="utf-8") as file:
            yield from file
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} must be UTF-8, got a byte that is not: {error.reason}") from error
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror or error}") from error


def read_words(path: Path) -> Iterator[list[str]]:
    """The words of each line that has any, and a word for its end; plain text is taken in lower case."""
    for line in read_lines(path):
        words = line.split() if path.suffix == TOKENIZED else WORD.findall(line.lower())
        if words:
            yield [*words, END_OF_LINE]


def encode(path: Path, vocabulary: Vocabulary, cache: Path) -> Words:
    """The numbers of a text's words, [N], mapped from a file in `cache`, which is written if it is not there.

    Says on stderr how many words the vocabulary lacks.

    Raises:
        CorpusError: the text is empty, not UTF-8, or cannot be read; or the cache cannot be written.
    """
    try:
        file = cache / f"{path.stem}-{_digest(path, vocabulary)}.words"
        if not file.is_file():
            cache.mkdir(parents=True, exist_ok=True)
            _write(path, vocabulary, file)
        return np.memmap(file, np.uint32, mode="r")
    except OSError as error:
        raise CorpusError(f"cannot encode {path} into {cache}: {error.strerror or error}") from error


def _write(path: Path, vocabulary: Vocabulary, target: Path) -> None:
    unknown, total = vocabulary.numbers[UNKNOWN], 0
    missing = 0
    words = (word for line in read_words(path) for word in line)
    with replacing(target) as file:
        while chunk := list(islice(words, CHUNK)):
            numbers = np.array([vocabulary.numbers.get(word, unknown) for word in chunk], np.uint32)
            missing += int((numbers == unknown).sum()) - chunk.count(UNKNOWN)
            total += len(chunk)
            file.write(numbers.tobytes())
        if total == 0:
            raise CorpusError(f"{path} must hold at least one word, got none")
    if missing:
        share = f"{missing:,} of {total:,} words of {path}"
        print(f"{share} are not in the vocabulary and are read as {UNKNOWN}", file=sys.stderr)


def _digest(path: Path, vocabulary: Vocabulary) -> str:
    """Changes when the text or the vocabulary does."""
    status = path.stat()
    text = [FORMAT, str(path.resolve()), str(status.st_size), str(status.st_mtime_ns)]
    return hashlib.sha256("\n".join([*text, *vocabulary.words]).encode()).hexdigest()[:16]
