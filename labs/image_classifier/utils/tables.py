"""Lists of images and labels as people have them: CSV from any spreadsheet, and the oddities of labels in them."""

from __future__ import annotations

import codecs
import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from toolkit.errors import UserError
from toolkit.images import printable, scan, split_frame, with_frame

DELIMITERS = ",;\t"
MISSING = ("nan", "na", "n/a", "none", "null", "nat", "?", "-", "unknown")
SHOWN = 3


def read_table(path: Path, needed: Sequence[str], errors: str = "strict") -> list[tuple[int, dict[str, str]]]:
    """Rows of a CSV with their line numbers, as text without surrounding blanks; rows without any text are skipped.

    needed: columns that must be there. The delimiter is a comma, a semicolon or a tab, the encoding UTF-8 or, as
    spreadsheets export "Unicode text", UTF-16 with a mark. errors: of the decoding ('surrogateescape' for file names).
    Raises UserError if columns are missing, if a row has more cells than the header, or if nothing is there.
    """
    shown = printable(path)
    text = _text_of(path, errors)
    if not text.strip():
        raise UserError(f"{shown} is empty; give a CSV with a header, such as {','.join(needed)}")
    delimiter = _delimiter(text.splitlines()[0], needed)
    rows = []
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        columns = [name.strip() for name in next(reader)]
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if any(cells[len(columns) :]):
                raise UserError(
                    f"{shown}, line {reader.line_num}: {len(cells)} cells, but the header has {len(columns)}; put "
                    "quotation marks around a cell with a delimiter in it"
                )
            cells += [""] * (len(columns) - len(cells))
            rows.append((reader.line_num, dict(zip(columns, cells, strict=False))))
    except csv.Error as error:
        raise UserError(f"{shown} is not a CSV file: {error}") from None
    lacking = [name for name in needed if name not in columns]
    if lacking:
        raise UserError(f"{shown} has no column {', '.join(lacking)}; it has: {', '.join(columns)}")
    if not rows:
        raise UserError(f"{shown} has a header and no rows")
    return rows


def _text_of(path: Path, errors: str) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {printable(path)}: {error.strerror}") from None
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if is_wide else "utf-8-sig", errors)
    except UnicodeDecodeError:
        raise UserError(f"{printable(path)} is not a text file in UTF-8; export it as CSV (UTF-8)") from None


def _delimiter(header: str, needed: Sequence[str]) -> str:
    """The delimiter that makes the needed columns of the header, else the most frequent one."""

    def columns(delimiter: str) -> list[str]:
        return [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]

    fitting = [mark for mark in DELIMITERS if set(needed) <= set(columns(mark))]
    return fitting[0] if fitting else max(DELIMITERS, key=header.count)


class Finder:
    """Files for the paths in a table: relative to a folder, with backslashes of Windows, or ids without an ending."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, text: str) -> Path:
        """The file for one cell; a path that leads nowhere is returned as it is, and reading it will say so.

        Raises UserError for an id that fits several files.
        """
        path, frame = split_frame(self.root / text)
        if path.exists():
            return with_frame(path, frame)
        path = self.root / str(path.relative_to(self.root) if path.is_relative_to(self.root) else path).replace(
            "\\", "/"
        )
        if path.exists():
            return with_frame(path, frame)
        found = self._by_stem.get(path.name, [])
        found = [file for file in found if file.parent == path.parent] or found
        if len(found) > 1:
            names = ", ".join(printable(file.relative_to(self.root)) for file in found[:SHOWN])
            raise UserError(
                f"path {text!r} fits {len(found)} files of {printable(self.root)} ({names}); write the whole name"
            )
        return with_frame(found[0] if found else path, frame)

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        """Images anywhere below the folder, by their name without its ending."""
        found = defaultdict(list)
        for path in scan(self.root).taken if self.root.is_dir() else ():
            found[path.stem].append(path)
        return found


def odd_labels(labels: Iterable[str]) -> list[str]:
    """Warnings: labels that usually mean "missing", and labels that look like one written in two ways."""
    counts = Counter(labels)
    warnings = [
        f"{counts[name]} images have the label {name!r}, which often means a missing one; leave their rows out if so"
        for name in sorted(counts)
        if name.casefold() in MISSING
    ]
    alike = defaultdict(list)
    for name in sorted(counts):
        alike[_essence(name)].append(name)
    for names in alike.values():
        if len(names) > 1:
            shown = ", ".join(f"{name!r} ({counts[name]})" for name in names)
            warnings.append(f"the labels {shown} are different classes here; write them in one way if they mean one")
    return warnings


def _essence(name: str) -> str:
    """A label without case, and with one blank for any blanks and underscores; a number without trailing zeros."""
    try:
        return repr(float(name))
    except ValueError:
        return " ".join(name.casefold().replace("_", " ").split())
