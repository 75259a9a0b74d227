"""Where images and labels come from: a folder for each class, a CSV, or a MedMNIST set exported as PNG files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from labs.image_classifier.utils.datafolder import BETWEEN_LABELS, LEFT_OUT, SPLITS, Record, read_table
from labs.image_classifier.utils.reading import SUFFIXES
from toolkit.errors import UserError

# Names that people and data sets use for the three splits.
SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def image_files(folder: Path) -> Iterator[Path]:
    """Image files below `folder` in alphabetical order; also files without a suffix that begin as DICOM does."""
    for path in sorted(folder.rglob("*")):
        if path.name.startswith(".") or not path.is_file():
            continue
        if path.suffix.lower() in SUFFIXES or (not path.suffix and _is_dicom(path)):
            yield path


def _is_dicom(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def from_folders(root: Path, group_pattern: str | None = None) -> list[Record]:
    """root/CLASS/... or root/SPLIT/CLASS/...; Raises UserError for a class without images and for a single class."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise UserError(f"{root} has no sub-folders; make one for each class, or give a CSV with paths and labels")
    splits = {folder: SPLIT_NAMES.get(folder.name.lower()) for folder in folders}
    if all(splits.values()):
        parts = [(classes, split) for folder, split in splits.items() for classes in sorted(folder.iterdir())]
        parts = [(folder, split) for folder, split in parts if folder.is_dir() and not folder.name.startswith(".")]
    else:
        parts = [(folder, "") for folder in folders]
    records = []
    for folder, split in parts:
        found = [Record(path, folder.name, split) for path in image_files(folder)]
        if not found:
            raise UserError(f"the class folder {folder} has no image ({', '.join(SUFFIXES)}); fill or remove it")
        records += found
    return with_groups(records, group_pattern)


def from_csv(
    path: Path, columns: dict[str, str | None], image_root: Path | None = None, group_pattern: str | None = None
) -> list[Record]:
    """Rows of a CSV. columns: our names (path, label, group, split) → its names; paths relative to image_root or it."""
    given = {ours: theirs for ours, theirs in columns.items() if theirs}
    root = image_root or path.parent
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
        records.append(Record(root / values["path"], values["label"], SPLIT_NAMES.get(split, ""), group))
    return with_groups(records, group_pattern)


def with_groups(records: list[Record], pattern: str | None) -> list[Record]:
    """Take the group out of each file name: the first parenthesis of `pattern`, or all that it matches."""
    if pattern is None:
        return records
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"group_pattern is {pattern!r}, which is no regular expression: {error}") from None
    result = []
    for record in records:
        match = expression.search(record.path.name)
        if match is None:
            raise UserError(f"group_pattern {pattern!r} does not match the file name {record.path}")
        group = match.group(1) if expression.groups else match.group(0)
        result.append(Record(record.path, record.label, record.split, group))
    return result


def export_medmnist(flag: str, size: int, data_root: str, folder: Path) -> tuple[list[Record], list[str], bool, str]:
    """Write a 2D MedMNIST set as PNG files folder/SPLIT/CLASS/NUMBER.png (no CLASS for several labels an image).

    Its official splits are kept. Returns records, class names, whether it is multi-label, and its name.
    """
    from PIL import Image

    from toolkit.medmnist_data import locate

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
        pixels = part.images.permute(0, 2, 3, 1).numpy()  # (N, H, W, C)
        for number, (image, label) in enumerate(zip(pixels, part.labels, strict=True)):
            numbers = label.nonzero().flatten().tolist() if source.multi_label else [int(label)]
            names = [classes[n] for n in numbers]
            inside = folder / split if source.multi_label else folder / split / re.sub(r"[^\w]+", "-", names[0])
            inside.mkdir(parents=True, exist_ok=True)
            path = inside / f"{number:06d}.png"
            Image.fromarray(image.squeeze(-1) if image.shape[2] == 1 else image).save(path)
            records.append(Record(path, BETWEEN_LABELS.join(names), split))
    return records, classes, source.multi_label, source.name
