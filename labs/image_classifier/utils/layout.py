"""Which folder above an image is its class, its split or its fold: the ways in which people arrange image folders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import UserError
from toolkit.images import SUFFIXES, printable
from toolkit.images.scan import is_hidden

# Names that people and data sets use for the three splits.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "holdout"), "test"),
}
SAYS_NOTHING = (
    "set",
    "data",
    "dataset",
    "image",
    "images",
    "img",
    "imgs",
    "split",
    "folder",
)  # training_set, test-images
FOLD = re.compile(r"(cv|k|cross)?[ _-]*(fold|folds|cv|split|subset|partition)[ _-]*[0-9]+", re.IGNORECASE)
SHOWN = 3

Places = Sequence[tuple[str, ...]]  # of each image: the folders below the root, and its name


@dataclass(frozen=True)
class Layout:
    """Which folders, numbered from the root, say class, split and fold. The images of a fold stay together.

    note: what a person should know about it; '' if it is a usual one.
    """

    class_level: int = 0
    split_level: int | None = None
    fold_level: int | None = None
    note: str = ""

    @property
    def depth(self) -> int:
        """How many folders an image must be in."""
        return 1 + max(self.class_level, self.split_level or 0, self.fold_level or 0)

    def split(self, parts: tuple[str, ...]) -> str:
        """train, val or test; '' if folders do not say it, or say something else."""
        return "" if self.split_level is None else split_of(parts[self.split_level])

    def is_outside(self, parts: tuple[str, ...]) -> bool:
        """True for what lies next to the folders of the splits or folds: docs, __MACOSX of a zip."""
        if self.fold_level is not None:
            return FOLD.fullmatch(parts[self.fold_level]) is None
        return self.split_level == 0 and not self.split(parts)


def split_of(name: str) -> str:
    """The split that a folder's name stands for: 'Training_set' → 'train'; '' for any other name."""
    words = [word for word in re.split(r"[ _.-]+", name.lower()) if word and word not in SAYS_NOTHING]
    return SPLIT_NAMES.get(words[0].removesuffix("set"), "") if len(words) == 1 else ""


def layout_of(root: Path, places: Places) -> Layout:
    """How the images of a folder are arranged. Raises UserError where folders cannot be what they seem."""
    by_top: dict[str, list[tuple[str, ...]]] = {}
    for parts in places:
        if len(parts) > 1:
            by_top.setdefault(parts[0], []).append(parts)
    folds = sorted(top for top in by_top if FOLD.fullmatch(top))
    if len(folds) > 1:
        return _folds(root, folds, {parts[1] for top in folds for parts in by_top[top] if len(parts) > 2})
    if _has_splits(by_top):
        return Layout(class_level=1, split_level=0)
    inside = [{parts[1] if len(parts) > 2 else "" for parts in found} for found in by_top.values()]
    if inside and all(map(split_of, set().union(*inside))) and len({split_of(n) for n in set().union(*inside)}) > 1:
        return Layout(class_level=0, split_level=1)
    if len(inside) == 1 and len(inside[0] - {""}) > 1 and "" not in inside[0]:
        only, names = printable(root / next(iter(by_top))), ", ".join(map(printable, sorted(inside[0])[:SHOWN]))
        raise UserError(f"the only folder is {only}, and it holds {names}; if these are the classes, give {only}")
    return Layout(note=_doubt(sorted(by_top), inside))


def _folds(root: Path, folds: list[str], inside: set[str]) -> Layout:
    shown = ", ".join(map(printable, folds[:SHOWN])) + (", ..." if len(folds) > SHOWN else "")
    if not inside:
        raise UserError(
            f"{shown} are the folds of a cross-validation by their names, and hold no folder for each class; make "
            f"such folders in them, or give a CSV with paths and labels (as --group_column, the fold)"
        )
    if all(map(split_of, inside)):
        first = printable(root / folds[0])
        raise UserError(
            f"{shown} hold {', '.join(sorted(map(printable, inside)))} each: every one is a division of all images of "
            f"its own; prepare one of them: python -m labs.image_classifier.prepare {first} --out FOLDER"
        )
    note = f"{shown} are taken as folds: the images of a fold stay together, and the folders in it are the classes"
    return Layout(class_level=1, fold_level=0, note=note)


def _has_splits(by_top: dict[str, list[tuple[str, ...]]]) -> bool:
    """True if the top folders are train, val, test and not classes.

    Folders for at least two splits decide it, whatever lies next to them (docs, __MACOSX of a zip). A single one, such
    as `train`, is a split if its images lie in folders of their own, and no other top folder has images as a class has.
    """
    named = {split_of(top) for top in by_top} - {""}
    if len(named) != 1:
        return len(named) > 1
    nested = {top for top, inside in by_top.items() if all(len(parts) > 2 for parts in inside)}
    _check_no_other_split(by_top, nested)
    return all(bool(split_of(top)) == (top in nested) for top in by_top)


def _check_no_other_split(by_top: dict[str, list[tuple[str, ...]]], nested: set[str]) -> None:
    """Next to the one split must be no folder with the same classes: a split under a name that is not known."""
    split = next(top for top in by_top if split_of(top))
    inside = {top: {parts[1] for parts in by_top[top]} for top in nested}
    for top in sorted(name for name in nested if not split_of(name)):
        shared = sorted(inside[top] & inside.get(split, set()))
        if len(shared) > 1:
            raise UserError(
                f"{printable(split)} and {printable(top)} both hold the folders "
                f"{', '.join(map(printable, shared))}; if these are the classes, name the splits train, val and test"
            )


def _doubt(tops: list[str], inside: list[set[str]]) -> str:
    """A warning where every class has the same folders in it: they may be the classes, and the others hospitals."""
    shared = sorted(set.intersection(*inside)) if len(inside) > 1 else []
    if len(shared) < 2 or any(one != set(shared) for one in inside):
        return ""
    first = ", ".join(map(printable, tops[:SHOWN])) + (", ..." if len(tops) > SHOWN else "")
    second = ", ".join(map(printable, shared[:SHOWN])) + (", ..." if len(shared) > SHOWN else "")
    return (
        f"warning: {first} are taken as the classes, and each holds the folders {second}. If those are the classes, "
        "rename the outer ones to fold1, fold2, ...: each stays together, and the inner ones are the classes"
    )


def check_no_class_is_empty(root: Path, full: set[Path], layout: Layout) -> None:
    """Every folder that stands for a class must have an image: one that is empty was not filled, or is none.

    full: the folders above the images that were taken.
    """
    folders = [root]
    for _ in range(layout.class_level + 1):
        folders = [path for folder in folders for path in sorted(folder.iterdir()) if path.is_dir()]
    for folder in folders:
        parts = folder.relative_to(root).parts
        if folder not in full and not any(map(is_hidden, parts)) and not layout.is_outside(parts):
            raise UserError(
                f"the class folder {printable(folder)} has no image ({', '.join(SUFFIXES)}); fill or remove it"
            )
