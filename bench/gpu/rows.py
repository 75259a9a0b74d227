"""Rows of the table, and the files that hold them."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from toolkit.runs import write_bytes, write_json


@dataclass(frozen=True)
class Row:
    """A line of the table.

    section: the part of the benchmark. what: what was measured or tried. result: figures with their units, or
    "failed: reason". how: settings that the numbers depend on.
    """

    section: str
    what: str
    result: str
    how: str = ""

    @property
    def is_failure(self) -> bool:
        """True for a row that stands for something that did not work."""
        return self.result.startswith("failed: ")


def append(path: Path, row: Row) -> None:
    """Add a row to a file of one JSON object per line; what is there survives the process."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(row)) + "\n")


def read(path: Path) -> list[Row]:
    """Rows that a section wrote; a last line that was cut off by a kill is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [Row(**json.loads(line)) for line in lines if line.endswith("\n")]


class Report:
    """The table so far, kept on disk as Markdown and JSON, with the log of all sections."""

    def __init__(self, path: Path, command: str, tiny: bool) -> None:
        self.path, self.command, self.tiny = path, command, tiny
        self.rows: list[Row] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in self.files():
            old.unlink(missing_ok=True)

    def files(self) -> tuple[Path, Path, Path]:
        """The table, its rows as JSON, and what the commands printed."""
        return self.path, self.path.with_suffix(".json"), self.path.with_suffix(".log")

    def add(self, rows: Iterable[Row], log: str) -> None:
        """Take the rows and the output of a section, and write the files."""
        self.rows += rows
        table, as_json, as_text = self.files()
        write_bytes(table, self.markdown().encode())
        write_json(as_json, [asdict(row) for row in self.rows])
        with open(as_text, "a", encoding="utf-8") as file:
            file.write(log)

    def failures(self) -> list[Row]:
        """Rows of what did not work."""
        return [row for row in self.rows if row.is_failure]

    def markdown(self) -> str:
        """The table with a line that says how it was made."""
        note = f"`{self.command}`, {date.today().isoformat()}, Python {platform.python_version()}."
        note += " TINY RUN: these numbers mean nothing." if self.tiny else ""
        lines = [note, "", "| section | what | result | how |", "|---|---|---|---|"]
        for row in self.rows:
            cells = (row.section, row.what, row.result, row.how)
            lines.append("| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |")
        return "\n".join(lines) + "\n"
