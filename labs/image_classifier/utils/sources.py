"""Where images and labels come from: a folder for each class, a CSV, or a MedMNIST set exported as PNG files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from PIL import Image

from labs.image_classifier.utils.datafolder import BETWEEN_LABELS, LEFT_OUT, SPLITS, Record
from labs.image_classifier.utils.tables import Finder, read_table
from toolkit.errors import UserError
from toolkit.images import SUFFIXES, LeftOut, frames_of, printable, scan
from toolkit.images.scan import is_hidden
from toolkit.medmnist_data import locate

# Names that people and data sets use for the three splits.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "holdout"), "test"),
}


def from_folders(root: Path, group_by_folder: bool = False) -> tuple[list[Record], list[LeftOut]]:
    """root/CLASS/... or root/SPLIT/CLASS/...; → records, and every file that is none of them.

    group_by_folder: images of one sub-folder of the class (a patient, a series) get its name as their group.
    Raises UserError for a class without images, and where no folder says what the classes are.
    """
    found = scan(root)
    places = {path: path.relative_to(root).parts for path in found.taken}
    with_splits = _has_splits(list(places.values()))
    depth = 2 if with_splits else 1  # of the folders above an image
    records, left_out = [], list(found.left_out)
    for path, parts in places.items():
        split = SPLIT_NAMES.get(parts[0].lower(), "") if with_splits else ""
        if with_splits and not split:
            reason = f"in {printable(parts[0])}, next to the folders of the splits"
            left_out.append(LeftOut(path, f"in {printable(parts[0])}", reason, True))
        elif len(parts) <= depth:
            folder = printable(Path(*parts[:-1])) if parts[:-1] else "the folder itself"
            left_out.append(LeftOut(path, f"directly in {folder}", "not in the folder of a class", True))
        else:
            group = "/".join(parts[depth:-1]) if group_by_folder else ""
            records.append(Record(path, printable(parts[depth - 1]), split, group))
    if not records:
        raise UserError(
            f"{printable(root)} has no image in a folder for its class ({found.summary()}); make a folder for each "
            "class, or give a CSV with paths and labels"
        )
    _check_no_class_is_empty(root, records, with_splits)
    return records, left_out


def _has_splits(places: list[tuple[str, ...]]) -> bool:
    """True if the top folders are train, val, test and not classes.

    Folders for at least two splits decide it, whatever lies next to them (docs, __MACOSX of a zip). A single one, such
    as `train`, is a split if its images lie in folders of their own, and no other top folder has images as a class has.
    """
    by_top: dict[str, list[tuple[str, ...]]] = {}
    for parts in places:
        if len(parts) > 1:
            by_top.setdefault(parts[0], []).append(parts)
    named = {SPLIT_NAMES[top.lower()] for top in by_top if top.lower() in SPLIT_NAMES}
    if len(named) != 1:
        return len(named) > 1
    nested = {top for top, inside in by_top.items() if all(len(parts) > 2 for parts in inside)}
    _check_no_other_split(by_top, nested)
    return all((top.lower() in SPLIT_NAMES) == (top in nested) for top in by_top)


def _check_no_other_split(by_top: dict[str, list[tuple[str, ...]]], nested: set[str]) -> None:
    """Next to the one split must be no folder with the same classes: a split under a name that is not known."""
    split = next(top for top in by_top if top.lower() in SPLIT_NAMES)
    inside = {top: {parts[1] for parts in by_top[top]} for top in nested}
    for top in sorted(nested - {split}):
        shared = sorted(inside[top] & inside.get(split, set()))
        if len(shared) > 1:
            raise UserError(
                f"{printable(split)} and {printable(top)} both hold the folders "
                f"{', '.join(map(printable, shared))}; if these are the classes, name the splits train, val and test"
            )


def _check_no_class_is_empty(root: Path, records: list[Record], with_splits: bool) -> None:
    """Every folder that stands for a class must have an image: one that is empty was not filled, or is none."""
    full = {part for record in records for part in record.path.parents}
    tops = sorted(path for path in root.iterdir() if path.is_dir() and not is_hidden(path.name))
    if with_splits:
        tops = [path for top in tops if top.name.lower() in SPLIT_NAMES for path in sorted(top.iterdir())]
        tops = [path for path in tops if path.is_dir() and not is_hidden(path.name)]
    for folder in tops:
        if folder not in full:
            raise UserError(
                f"the class folder {printable(folder)} has no image ({', '.join(SUFFIXES)}); fill or remove it"
            )


def from_csv(path: Path, columns: Mapping[str, str | None], image_root: Path | None = None) -> list[Record]:
    """Rows of a CSV. columns: our names (path, label, group, split) → its names; paths relative to image_root or it."""
    given = {ours: theirs for ours, theirs in columns.items() if theirs}
    finder = Finder(image_root or path.parent)
    records = []
    for line, row in read_table(path, list(given.values())):
        values = {ours: row[theirs] for ours, theirs in given.items()}
        split = values.get("split", "").lower()
        if split == LEFT_OUT:  # the CSV is a metadata.csv
            continue
        if split and split not in SPLIT_NAMES:
            raise UserError(f"{path}, line {line}: split is {split!r}; allowed: {', '.join(SPLIT_NAMES)}")
        if not values["path"]:
            raise UserError(f"{path}, line {line}: the path is empty")
        group = values.get("group", "")
        records.append(Record(finder.find(values["path"]), values["label"], SPLIT_NAMES.get(split, ""), group))
    return records


def with_groups(records: list[Record], pattern: str | None) -> list[Record]:
    """Take the group out of each file name: the first parenthesis of `pattern`, or all that it matches."""
    if pattern is None:
        return records
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"group_pattern is {pattern!r}, which is not a regular expression: {error}") from None
    result = []
    for record in records:
        match = expression.search(record.path.name)
        if match is None:
            raise UserError(f"group_pattern {pattern!r} does not match the file name {printable(record.path)}")
        group = match.group(1) if expression.groups else match.group(0)
        result.append(replace(record, group=group or ""))
    return result


def with_frames(records: list[Record], frame: str) -> list[Record]:
    """Name the frame to read of files with several.

    frame: '' leaves such files alone (reading refuses them), a number takes that frame, 'all' makes each frame an image
    of its own; frames of one file are one group, unless a group is given.
    """
    if not frame:
        return records
    result = []
    for record in records:
        paths = frames_of(record.path, frame)
        group = record.group or (printable(record.path) if len(paths) > 1 else "")
        result += [replace(record, path=path, group=group) for path in paths]
    return result


def export_medmnist(flag: str, size: int, data_root: str, folder: Path) -> tuple[list[Record], list[str], bool, str]:
    """Write a 2D MedMNIST set as PNG files folder/SPLIT/CLASS/NUMBER.png (no CLASS for several labels per image).

    Its official splits are kept. Returns records, class names, whether it is multi-label, and its name.
    """
    source = locate(flag, size=size, data_root=data_root)
    if source.layout.is_3d:
        raise UserError(f"{flag} has volumes; this lab reads two-dimensional sets (breastmnist, pathmnist, ...)")
    # A name with the separator in it would be two labels.
    classes = [name.replace(BETWEEN_LABELS, "/") for name in source.class_names]
    records = []
    for split in SPLITS:
        if not source.has(split):
            continue
        part = source.read(split)
        pixels = part.file or part.images.permute(0, 2, 3, 1).numpy()  # (N, H, W, C)
        for number, (image, label) in enumerate(zip(pixels, part.labels, strict=True)):
            numbers = label.nonzero().flatten().tolist() if source.multi_label else [int(label)]
            names = [classes[n] for n in numbers]
            inside = folder / split if source.multi_label else folder / split / re.sub(r"[^\w]+", "-", names[0])
            inside.mkdir(parents=True, exist_ok=True)
            path = inside / f"{number:06d}.png"
            Image.fromarray(image.squeeze(-1) if image.shape[2] == 1 else image).save(path)
            records.append(Record(path, BETWEEN_LABELS.join(names), split))
    return records, classes, source.multi_label, source.name
