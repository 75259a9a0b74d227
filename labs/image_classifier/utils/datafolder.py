"""A prepared data folder: metadata.csv (path, label, split, group, content) and dataset.json, read and checked."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from labs.image_classifier.utils import splitting
from labs.image_classifier.utils.tables import read_table
from toolkit.errors import UserError
from toolkit.runs import read_json, write_bytes, write_json

METADATA, FACTS = "metadata.csv", "dataset.json"
COLUMNS = ("path", "label", "split", "group", "content")
SPLITS = ("train", "val", "test")
LEFT_OUT = "left_out"  # a copy of an image that is in a later split, too
BETWEEN_LABELS = "|"


@dataclass(frozen=True)
class Record:
    """One image: where it is, what it shows, where it belongs. label: class names joined by | if there are several."""

    path: Path
    label: str
    split: str = ""
    group: str = ""
    content: str = ""


@dataclass(frozen=True)
class DataFolder:
    """A prepared folder. It answers the questions that toolkit.experiment asks of a data source.

    size: side in pixels that images are given, once train.py knows it.
    """

    path: Path
    records: tuple[Record, ...]
    facts: dict[str, Any]
    size: int = 0

    @property
    def name(self) -> str:
        """What results call the data."""
        return self.facts["name"]

    @property
    def classes(self) -> list[str]:
        """Class names in the order of the network's outputs."""
        return self.facts["classes"]

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for colour."""
        return self.facts["channels"]

    @property
    def multi_label(self) -> bool:
        """True if an image may have several labels, or none."""
        return self.facts["multi_label"]

    def of(self, *splits: str) -> list[Record]:
        """The records of these splits, in the order of the file."""
        return [record for record in self.records if record.split in splits]

    def has(self, split: str) -> bool:
        """True if there is an image in `split`."""
        return any(record.split == split for record in self.records)

    def count(self, split: str) -> int:
        """Number of images in `split`."""
        return len(self.of(split))

    @cached_property
    def positions(self) -> dict[str, int]:
        """Class name → number."""
        return {name: number for number, name in enumerate(self.classes)}

    def labels(self, records: Sequence[Record]) -> np.ndarray:
        """int64 (N,) of class numbers, or (N, L) of 0 and 1 for multi-label data."""
        if not self.multi_label:
            return np.array([self.positions[record.label] for record in records], dtype=np.int64)
        return one_hot(records, self.classes)

    def units(self, records: Sequence[Record]) -> np.ndarray:
        """Which images belong together, int (N,)."""
        return splitting.bind([record.group for record in records], [record.content for record in records])


def names_in(label: str) -> list[str]:
    """'a|b' → ['a', 'b']; '' → []."""
    return [name.strip() for name in label.split(BETWEEN_LABELS) if name.strip()]


def one_hot(records: Sequence[Record], classes: Sequence[str]) -> np.ndarray:
    """int64 (N, L) of 0 and 1."""
    positions = {name: number for number, name in enumerate(classes)}
    table = np.zeros((len(records), len(classes)), dtype=np.int64)
    for row, record in enumerate(records):
        table[row, [positions[name] for name in names_in(record.label)]] = 1
    return table


def write(data: DataFolder) -> None:
    """Write dataset.json and metadata.csv, with paths relative to the folder where they lie inside it.

    File names that are not UTF-8 keep their bytes.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    base = data.path.resolve()
    for record in data.records:
        path = record.path.resolve()
        shown = path.relative_to(base) if path.is_relative_to(base) else path
        writer.writerow([shown.as_posix(), record.label, record.split, record.group, record.content])
    write_json(data.path / FACTS, data.facts)
    write_bytes(data.path / METADATA, text.getvalue().encode("utf-8", "surrogateescape"))


def read(path: Path | str) -> DataFolder:
    """Read and check a prepared folder (or its metadata.csv). Raises UserError with file, line and cure."""
    folder = Path(path)
    folder = folder.parent if folder.name == METADATA else folder
    for name in (METADATA, FACTS):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} has no {name}; make it with: python -m labs.image_classifier.prepare SOURCE --out {folder}"
            )
    facts = read_json(folder / FACTS)
    missing = [key for key in ("name", "classes", "multi_label", "channels") if key not in facts]
    if missing:
        raise UserError(f"{folder / FACTS} lacks {', '.join(missing)}; make it again with prepare")
    data = DataFolder(folder, tuple(_read_rows(folder / METADATA, facts)), facts)
    check(data)
    return data


def _read_rows(path: Path, facts: dict[str, Any]) -> Iterable[Record]:
    known = set(facts["classes"])
    for line, row in read_table(path, ("path", "label", "split"), "surrogateescape"):
        record = Record(path.parent / row["path"], *(row.get(name, "") for name in COLUMNS[1:]))
        names = names_in(record.label) if facts["multi_label"] else [record.label]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise UserError(f"{path}, line {line}: label {unknown[0]!r} is not one of {', '.join(facts['classes'])}")
        if record.split not in (*SPLITS, LEFT_OUT):
            allowed = ", ".join((*SPLITS, LEFT_OUT))
            raise UserError(f"{path}, line {line}: split is {record.split!r}; allowed: {allowed}")
        yield record


def check(data: DataFolder) -> None:
    """Raise UserError for everything that makes a training or its figures worthless."""
    where = data.path / METADATA
    if len(data.classes) < (1 if data.multi_label else 2):
        raise UserError(f"{where}: only one class ({', '.join(data.classes)}); a classifier needs at least two")
    seen = {split: _labels_in(data.of(split)) for split in SPLITS}
    for split in ("train", "val"):
        if not data.has(split):
            raise UserError(f"{where}: no image in split {split}; add some, or let prepare draw the splits")
    for split in ("val", "test"):
        new = sorted(set(seen[split]) - set(seen["train"]))
        if new:
            raise UserError(
                f"{where}: split {split} has the label {new[0]!r}, which no training image has; leave it out, "
                "or move some of its images to train"
            )
    empty = sorted(set(data.classes) - set(seen["train"]))
    if empty:
        raise UserError(f"{where}: the class {empty[0]!r} has no training image; add some, or prepare without it")
    used = data.of(*SPLITS)
    splits_of: dict[int, str] = {}
    for record, unit in zip(used, data.units(used), strict=True):
        if splits_of.setdefault(unit, record.split) != record.split:
            what = f"of group {record.group}" if record.group else "with the same content"
            raise UserError(
                f"{where}: images {what} are in {splits_of[unit]} and {record.split} (one of them: {record.path}), so "
                "the figures would be too good; correct that, or let prepare draw the splits"
            )


def _labels_in(records: Iterable[Record]) -> Counter[str]:
    return Counter(name for record in records for name in names_in(record.label))
