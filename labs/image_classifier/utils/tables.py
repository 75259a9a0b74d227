"""Lists of images and labels as people have them: CSV from any spreadsheet, and the oddities of labels in them."""

from __future__ import annotations

import codecs
import csv
import io
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from toolkit.errors import UserError
from toolkit.images import printable, scan, split_frame, with_frame
from toolkit.runs import write_bytes

PROBLEMS = "problems.csv"
DELIMITERS = ",;\t|"
MISSING = ("nan", "na", "n/a", "none", "null", "nat", "?", "-", "unknown")
SHOWN = 3


def read_table(path: Path, needed: Sequence[str], errors: str = "strict") -> list[tuple[int, dict[str, str]]]:
    """Rows of a CSV with their line numbers, as text without surrounding blanks; rows without any text are skipped.

    needed: columns that must be there, once each. The delimiter is a comma, a semicolon, a tab or a bar, the encoding
    UTF-8 or, as spreadsheets export "Unicode text", UTF-16 with a mark. errors: of the decoding; 'surrogateescape' for
    a table that this lab wrote: file names keep their bytes and their blanks.
    Raises UserError if columns are missing or there twice, if a row has more cells than the header, if a quotation
    mark has no second one, or if nothing is there.
    """
    shown = printable(path)
    text = _text_of(path, errors)
    if not text.strip():
        raise UserError(f"{shown} is empty; give a CSV with a header, such as {','.join(needed)}")
    start = _lines_before_header(text)
    delimiter = _delimiter(text.splitlines()[start], needed)
    rows = []
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        for _ in range(start):
            next(reader)
        columns = [name.strip() for name in next(reader)]
        _check_columns(columns, needed, shown)
        for cells in reader:
            cells = cells if errors == "surrogateescape" else [cell.strip() for cell in cells]
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
        raise UserError(f"{shown} is not a CSV file: {error} (line {reader.line_num})") from None
    if not rows:
        raise UserError(f"{shown} has a header and no rows")
    return rows


def write_problems(path: Path, problems: Sequence[tuple[Path | str, str]]) -> None:
    """problems.csv out of files and reasons; an older one is removed if there are none."""
    if not problems:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "problem"))
    writer.writerows((printable(file), reason) for file, reason in problems)
    write_bytes(path, text.getvalue().encode("utf-8"))


def _lines_before_header(text: str) -> int:
    """Number of empty lines at the start, and of the line `sep=;` by which Excel names the delimiter."""
    lines = text.splitlines()
    header = (n for n, line in enumerate(lines) if line.strip() and not line.strip().lower().startswith("sep="))
    return next(header, 0)


def _check_columns(columns: Sequence[str], needed: Sequence[str], shown: str) -> None:
    lacking = [name for name in needed if name not in columns]
    if lacking:
        raise UserError(f"{shown} has no column {', '.join(lacking)}; it has: {', '.join(columns)}")
    twice = [name for name in needed if columns.count(name) > 1]
    if twice:
        raise UserError(f"{shown} has the column {twice[0]} {columns.count(twice[0])} times; rename or remove one")


def _text_of(path: Path, errors: str) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {printable(path)}: {error.strerror}") from None
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if is_wide else "utf-8-sig", errors)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # UTF-16 without a mark looks like ASCII with zeros
        raise UserError(f"{printable(path)} is not a text file in UTF-8; export it as CSV (UTF-8)")
    return text


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
        if os.path.exists(path):
            return with_frame(path, frame)
        path = self.root / str(path.relative_to(self.root) if path.is_relative_to(self.root) else path).replace(
            "\\", "/"
        )
        if os.path.exists(path):
            return with_frame(path, frame)
        found = self._found(path)
        if len(found) > 1:
            names = ", ".join(printable(file.relative_to(self.root)) for file in found[:SHOWN])
            raise UserError(
                f"path {text!r} fits {len(found)} files of {printable(self.root)} ({names}); write the whole name"
            )
        return with_frame(found[0] if found else path, frame)

    def _found(self, path: Path) -> list[Path]:
        """Files that are called so in another Unicode form (macOS), or that have this id, in a folder that fits."""
        if not path.is_relative_to(self.root):
            return []
        wanted = _composed(path.relative_to(self.root))
        keys = {_composed(path.name), _composed(path.stem)}
        known = {file: _composed(file.relative_to(self.root)) for key in keys for file in self._by_stem.get(key, ())}
        same = [file for file, name in known.items() if name == wanted]
        ids = {file: name.removesuffix(file.suffix) for file, name in known.items()}
        fitting = [file for file, name in ids.items() if f"/{name}".endswith(f"/{wanted}")]
        return same or [file for file in fitting if ids[file] == wanted] or fitting

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        """Images anywhere below the folder, by their name without its ending."""
        found = defaultdict(list)
        for path in scan(self.root).taken if self.root.is_dir() else ():
            found[_composed(path.stem)].append(path)
        return found


def _composed(path: Path | str) -> str:
    """The one Unicode form in which equal names are equal, with / between folders."""
    return unicodedata.normalize("NFC", Path(path).as_posix())


def odd_groups(groups: Iterable[str]) -> list[str]:
    """Warnings: groups that look like one written in two ways, and images without a group where others have one."""
    counts = Counter(groups)
    without = counts.pop("", 0)
    warnings = [f"{without} images have no group: each stands by itself, and may be split from its patient's others"]
    return (warnings if without and counts else []) + _alike(counts, "groups")


def odd_labels(labels: Iterable[str]) -> list[str]:
    """Warnings: labels that usually mean "missing", and labels that look like one written in two ways."""
    counts = Counter(labels)
    warnings = [
        f"{counts[name]} images have the label {name!r}, which often means a missing one; leave their rows out if so"
        for name in sorted(counts)
        if name.casefold() in MISSING
    ]
    return warnings + _alike(counts, "labels")


def _alike(counts: Counter[str], kind: str) -> list[str]:
    alike = defaultdict(list)
    for name in sorted(counts):
        alike[_essence(name)].append(name)
    warnings = []
    for names in (names for names in alike.values() if len(names) > 1):
        show = repr if len(set(map(_composed, names))) == len(names) else ascii  # else they look the same
        shown = ", ".join(f"{show(name)} ({counts[name]})" for name in names[:SHOWN])
        shown += f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        what = "classes" if kind == "labels" else kind
        warnings.append(f"the {kind} {shown} are different {what} here; write them in one way if they mean one")
    return warnings


def _essence(name: str) -> str:
    """A name without case, in one Unicode form, with one blank for any blanks and underscores; a number as such."""
    name = unicodedata.normalize("NFKC", name)
    try:
        return repr(float(name))
    except ValueError:
        return " ".join(name.casefold().replace("_", " ").split())
