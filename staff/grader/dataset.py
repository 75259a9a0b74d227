"""The data set of an assignment: any two-dimensional one of MedMNIST with one label for each image.

Sources and templates are written for the reference, PathMNIST, and run as they are. `adapted` gives their text for
another set: its name, its number of classes, its channels. `left_over` finds what should have been adapted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from toolkit.errors import UserError, check_choice
from toolkit.medmnist_catalog import Entry, medmnist_info, official_entry
from toolkit.npz_file import Layout

REFERENCE = "pathmnist"
SIDE = 28  # pixels
WORDS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen".split()


@dataclass(frozen=True)
class DataSet:
    """What MedMNIST says of one flag."""

    flag: str

    @cached_property
    def entry(self) -> Entry:
        """The official file, with the names of the classes."""
        return official_entry(self.flag, SIDE)

    @property
    def layout(self) -> Layout:
        """Channels and number of classes."""
        return self.entry.layout

    @property
    def name(self) -> str:
        """'PathMNIST'."""
        return medmnist_info()[self.flag]["python_class"]

    @property
    def count(self) -> str:
        """'nine', of classes."""
        return WORDS[self.layout.num_classes]

    @property
    def is_reference(self) -> bool:
        """True for the set that the sources are written for."""
        return self.flag == REFERENCE

    def spellings(self) -> list[tuple[str, str]]:
        """How texts spell the facts of this set: (pattern with {} in the place of the fact, the fact).

        Names of functions and keys hold the reference's name, too (create_pathmnist_dataloaders): older submissions
        rely on them, and \\b does not match inside them.
        """
        channels, classes = self.layout.channels, str(self.layout.num_classes)
        return [
            (r"\b{}\b", self.flag),
            (r"\b{}\b", self.name),
            (r"\b{}\b", self.count),
            (r"\b{}\b", self.count.title()),
            (r"(?<=num_classes=){}\b", classes),
            (r"(?<=num_classes: int = ){}\b", classes),
            (r"(?<=NUM_CLASSES = ){}\b", classes),
            (r"(?<=channels: int = ){}\b", str(channels)),
            (r"(?<=channels=){}(?=, out_channels=1\b)", str(channels)),
            (r"(?<=\(){}\b", f"{channels}, {SIDE}, {SIDE}"),
            (r"(?<=\([BN], ){}\b", f"{channels}, {SIDE}, {SIDE}"),
            (r"\b{}\b", f"{channels} x {SIDE} x {SIDE}"),
            (r"\b{}\b", f"{channels} * {SIDE} * {SIDE}"),
            (r"\b{}\b", str(channels * SIDE**2)),
        ]

    def adapted(self, text: str) -> str:
        """A text of the sources with the facts of this set."""
        if self.is_reference:
            return text
        for (pattern, old), (_, new) in zip(DataSet(REFERENCE).spellings(), self.spellings(), strict=True):
            text = re.sub(pattern.format(re.escape(old)), new, text)
        return text

    def left_over(self, text: str) -> list[tuple[int, str]]:
        """(line, words) for each fact of the reference that a text for this set still states."""
        if self.is_reference:
            return []
        pairs = zip(DataSet(REFERENCE).spellings(), self.spellings(), strict=True)
        foreign = [pattern.format(re.escape(old)) for (pattern, old), (_, new) in pairs if old != new]
        found = re.compile("|".join([*foreign, *PROSE_OF_THE_REFERENCE]))
        return [(text.count("\n", 0, match.start()) + 1, match[0]) for match in found.finditer(text)]


PROSE_OF_THE_REFERENCE = (r"(?i:\btissues?\b)", r"(?i:\bcolorectal\b)", r"(?i:\bpathologists?\b)")


def find(flag: str) -> DataSet:
    """The data set of a flag; UserError for one that the course cannot be held on."""
    info = medmnist_info()
    usable = [name for name in info if not name.endswith("3d") and not info[name]["task"].startswith("multi-label")]
    check_choice("dataset", flag, usable)
    return DataSet(flag)


def of_assignment(name: str, settings: Mapping[str, Any], flag: str | None = None) -> DataSet | None:
    """The data set of an assignment's settings, or of `flag` in its place; None if its checks draw their own data."""
    if flag and "dataset" not in settings:
        raise UserError(f"--dataset {flag}: the checks of {name} draw their own data and read none")
    return find(flag or settings["dataset"]) if "dataset" in settings else None
