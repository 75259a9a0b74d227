"""Where images and labels come from: a folder for each class, a CSV, or a MedMNIST set exported as PNG files."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from PIL import Image

from labs.image_classifier.utils.datafolder import BETWEEN_LABELS, LEFT_OUT, SPLITS, Record
from labs.image_classifier.utils.layout import SPLIT_NAMES, check_no_class_is_empty, layout_of
from labs.image_classifier.utils.tables import Finder, read_table
from toolkit.errors import UserError
from toolkit.images import LeftOut, frames_of, printable, scan
from toolkit.medmnist_data import locate


def from_folders(root: Path, group_by_folder: bool = False) -> tuple[list[Record], list[LeftOut], str]:
    """root/CLASS/..., with splits above or below the class, or folds above it (see layout.py).

    Returns records, every file that is none of them, and what a person should know about the layout.
    group_by_folder: images of one sub-folder of the class (a patient, a series) get its name as their group.
    Raises UserError for a class without images, and where no folder says what the classes are.
    """
    found = scan(root)
    places = {path: path.relative_to(root).parts for path in found.taken}
    layout = layout_of(root, list(places.values()))
    records, left_out = [], list(found.left_out)
    for path, parts in places.items():
        if layout.is_outside(parts):
            reason = f"in {printable(parts[0])}, next to the folders of the splits"
            left_out.append(LeftOut(path, f"in {printable(parts[0])}", reason, True))
        elif len(parts) <= layout.depth:
            folder = printable(Path(*parts[:-1])) if parts[:-1] else "the folder itself"
            left_out.append(LeftOut(path, f"directly in {folder}", "not in the folder of a class", True))
        else:
            group = "/".join(parts[layout.depth : -1]) if group_by_folder else ""
            if layout.fold_level is not None:
                group = printable(parts[layout.fold_level])
            records.append(Record(path, printable(parts[layout.class_level]), layout.split(parts), group))
    if not records:
        raise UserError(
            f"{printable(root)} has no image in a folder for its class ({found.summary()}); make a folder for each "
            "class, or give a CSV with paths and labels"
        )
    check_no_class_is_empty(root, {part for record in records for part in record.path.parents}, layout)
    return records, left_out, layout.note


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


def compiled(pattern: str | None) -> re.Pattern[str] | None:
    """The regular expression of --group_pattern. Raises UserError if it is none."""
    try:
        return None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise UserError(f"group_pattern is {pattern!r}, which is not a regular expression: {error}") from None


def with_groups(records: list[Record], pattern: re.Pattern[str] | None) -> list[Record]:
    """Take the group out of each file name: the first parenthesis of `pattern`, or all that it matches."""
    if pattern is None:
        return records
    result = []
    for record in records:
        match = pattern.search(record.path.name)
        if match is None:
            raise UserError(f"group_pattern {pattern.pattern!r} does not match the file name {printable(record.path)}")
        group = match.group(1) if pattern.groups else match.group(0)
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


@contextlib.contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A temporary folder on the disk of `out` for exported images; it is gone afterwards, and `out` was not touched.

    Raises UserError if `out` cannot be written.
    """
    base = out if out.exists() else next(parent for parent in out.absolute().parents if parent.exists())
    try:
        folder = tempfile.TemporaryDirectory(dir=base, prefix=".prepare-")
    except OSError as error:
        raise UserError(f"cannot write to --out {printable(out)}: {error.strerror}") from None
    with folder:
        yield Path(folder.name)


def moved(records: list[Record], staged: Path, target: Path) -> list[Record]:
    """Move exported images from the staging folder to `target`; records of other files stay as they are."""
    result = []
    for record in records:
        if record.path.is_relative_to(staged):
            path = target / record.path.relative_to(staged)
            path.parent.mkdir(parents=True, exist_ok=True)
            record = replace(record, path=record.path.replace(path))
        result.append(record)
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
