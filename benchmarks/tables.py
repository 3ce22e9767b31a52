"""How the benchmarks write down rows: as CSV, as a table in Markdown, and in the names of files."""

import csv
import io
from collections.abc import Sequence
from typing import Any


def comma_separated(rows: Sequence[dict[str, Any]]) -> str:
    """The rows under their columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def markdown(rows: Sequence[dict[str, str]]) -> str:
    """The same as a table."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), ""])


def slug(row: str) -> str:
    """A row's name as a part of a file's."""
    return "".join(letter if letter.isalnum() else "-" for letter in row.lower())
