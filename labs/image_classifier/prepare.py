"""Turn a folder, a CSV or a MedMNIST flag into a data folder that train.py reads: metadata.csv and dataset.json.

    python -m labs.image_classifier.prepare breastmnist --out data/breast
    python -m labs.image_classifier.prepare xrays/ --out data/xrays --group_pattern "^(patient[0-9]+)_"
    python -m labs.image_classifier.prepare tiles.csv --out data/tiles --label_column diagnosis --group_column patient

Every image is read once. What is left out, cannot be read, or is labelled in two ways is listed in problems.csv.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from labs.image_classifier.utils import datafolder, inspection, sources, splitting
from labs.image_classifier.utils.datafolder import LEFT_OUT, SPLITS, DataFolder, Record, names_in
from labs.image_classifier.utils.inspection import Facts
from labs.image_classifier.utils.tables import PROBLEMS, odd_groups, odd_labels, write_problems
from toolkit.cli import OneLineParser, in_range, run_script
from toolkit.errors import UserError
from toolkit.images import MAX_PIXELS, LeftOut, frame_choice, printable
from toolkit.images.scan import summary
from toolkit.medmnist_catalog import medmnist_info

SHOWN_PROBLEMS, SHOWN_CLASSES = 5, 8


@dataclass(frozen=True)
class Collected:
    """What a source holds. classes: in its own order, if it has one. left_out: the other files of a folder.

    note: what a person should know about it.
    """

    name: str
    records: list[Record]
    classes: list[str] | None = None
    multi_label: bool = False
    left_out: list[LeftOut] | None = None
    note: str = ""


def build_parser() -> OneLineParser:
    """The flags."""
    parser = OneLineParser(prog="python -m labs.image_classifier.prepare", description=__doc__.splitlines()[0])
    parser.add_argument(
        "source", help="folder with a sub-folder per class, CSV with paths and labels, or MedMNIST flag"
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="data folder to make")
    parser.add_argument("--overwrite", action="store_true", help="replace metadata.csv and dataset.json in --out")
    group = parser.add_argument_group("columns of the CSV")
    group.add_argument("--path_column", default="path", help="relative to --image_root")
    group.add_argument("--label_column", default="label", help="several labels of an image are joined by |")
    group.add_argument("--group_column", help="such as the patient; one group is never in two splits")
    group.add_argument("--split_column", help="train, val, test; without it the splits are drawn")
    group.add_argument("--image_root", metavar="FOLDER", help="where paths start (default: the CSV's folder)")
    group = parser.add_argument_group("splits")
    group.add_argument("--val", type=in_range(float, 0, 0.9, open_low=True), default=0.15, help="share for validation")
    group.add_argument("--test", type=in_range(float, 0, 0.9), default=0.15, help="share for the test")
    group.add_argument("--seed", type=in_range(int, 0, 2**32 - 1), default=0, help="of the splits")
    group.add_argument("--group_pattern", metavar="REGEX", help="finds the group in a file's name")
    group.add_argument(
        "--group_by_folder", action="store_true", help="a class's sub-folders (patients, series) are groups"
    )
    group.add_argument("--multi_label", action="store_true", help="an image may have several labels, or none")
    group = parser.add_argument_group("reading")
    group.add_argument("--channels", choices=("auto", "1", "3"), default="auto", help="auto: 1 if all images are grey")
    group.add_argument(
        "--window",
        nargs=2,
        type=in_range(float, -1e9, 1e9),
        metavar=("CENTER", "WIDTH"),
        help="for DICOM, in its units",
    )
    group.add_argument("--frame", type=frame_choice, default="", help="of files with several: a number from 1, or all")
    group.add_argument("--max_pixels", type=in_range(int, 1), default=MAX_PIXELS, help="larger images are refused")
    group.add_argument("--size", type=in_range(int, 28), default=28, help="of a MedMNIST set: 28, 64, 128 or 224")
    group.add_argument("--data_root", default="./data", help="folder with MedMNIST files, or to download them to")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Collect, read every image, split, write, report."""
    args = build_parser().parse_args(argv)
    if args.val + args.test >= 1:
        raise UserError(f"val + test is {args.val + args.test:g}; allowed: below 1, so that something is left to train")
    if args.window and args.window[1] <= 0:
        raise UserError(f"the width of --window is {args.window[1]:g}; allowed: above 0")
    out = Path(args.out)
    if (out / datafolder.METADATA).exists() and not args.overwrite:
        raise UserError(f"{out} holds a {datafolder.METADATA} already; choose another --out, or give --overwrite")

    columns = {name: getattr(args, f"{name}_column") for name in ("path", "label", "group", "split")}
    pattern = sources.compiled(args.group_pattern)
    window = tuple(args.window) if args.window else None
    with sources.staging(out) as images:  # exported images replace older ones when everything has been checked
        found = collect(
            args.source,
            columns,
            args.image_root,
            group_by_folder=args.group_by_folder,
            multi_label=args.multi_label,
            size=args.size,
            data_root=args.data_root,
            images=images,
        )
        records = sources.with_frames(sources.with_groups(found.records, pattern), args.frame)
        facts = inspection.inspect([record.path for record in records], window, args.max_pixels)
        readable, problems = keep_readable(records, facts)
        classes = check_classes(readable, found.classes, found.multi_label, args.source)
        readable, moved = settle_splits(readable, classes, args.val, args.test, args.seed)
        settings = {
            "name": found.name,
            "classes": classes,
            "multi_label": found.multi_label,
            "channels": inspection.channels(facts.values()) if args.channels == "auto" else int(args.channels),
            "value_range": inspection.value_range(facts[r.path] for r in readable if r.split == "train"),
            "scales": dict(Counter(facts[record.path].scale for record in readable)),
            "window": window,
            "frame": args.frame,
            "max_pixels": args.max_pixels,
            "source": args.source,
            "seed": args.seed,
        }
        datafolder.check(DataFolder(out, tuple(readable), settings))
        data = DataFolder(out, tuple(sources.moved(readable, images, out / "images")), settings)
    problems += conflicting_copies(data.records)
    out.mkdir(parents=True, exist_ok=True)
    rows = [(file.path, f"left out: {file.reason}") for file in found.left_out or []]
    write_problems(out / PROBLEMS, problems + rows)
    datafolder.write(data)
    report(data, facts, moved)
    if found.note:
        print(found.note)
    report_problems(data, problems)
    if found.left_out is not None:
        where = f" (listed in {out / PROBLEMS})" if found.left_out else ""
        print(f"{summary(len(found.records), found.left_out)}{where}")
    print(f"files: metadata.csv, dataset.json in {out}")


def collect(
    source: str,
    columns: Mapping[str, str | None],
    image_root: str | None,
    *,
    group_by_folder: bool,
    multi_label: bool,
    size: int,
    data_root: str,
    images: Path,
) -> Collected:
    """What the source holds: a folder, a CSV with these columns, or a MedMNIST set, exported to the folder `images`."""
    path = Path(source)
    if not source or len(path.name) > 255:  # an empty path would be this folder; a longer one is a slip, too
        raise UserError(f"source is {source!r}; give a folder, a CSV or a MedMNIST flag")
    check_columns(path, {**columns, "image_root": image_root}, group_by_folder)
    if path.is_dir():
        records, left_out, note = sources.from_folders(path, group_by_folder)
        return Collected(path.resolve().name, records, None, multi_label, left_out, note)
    if path.is_file():
        records = sources.from_csv(path, columns, Path(image_root) if image_root else None)
        return Collected(path.stem, records, None, multi_label)
    if source in medmnist_info():
        records, classes, multi_label, name = sources.export_medmnist(source, size, data_root, images)
        return Collected(name, records, classes, multi_label)
    raise UserError(
        f"source is {source!r}: no such folder or file, and no MedMNIST set; those are "
        + ", ".join(flag for flag in medmnist_info() if not flag.endswith("3d"))
    )


def check_columns(source: Path, given: Mapping[str, str | None], group_by_folder: bool) -> None:
    """Flags that say nothing about this kind of source are refused: a group that is not looked at is a leak."""
    flags = {"group": "--group_column", "split": "--split_column", "image_root": "--image_root"}
    useless = [flag for name, flag in flags.items() if given.get(name)]
    if useless and not source.is_file():
        raise UserError(
            f"{useless[0]} is for a CSV, and {source} is none; for groups of a folder there are --group_pattern and "
            "--group_by_folder"
        )
    if group_by_folder and not source.is_dir():
        raise UserError(f"--group_by_folder is for a folder, and {source} is none; a CSV has --group_column")


def keep_readable(records: list[Record], facts: dict[Path, Facts | str]) -> tuple[list[Record], list[tuple[Path, str]]]:
    """Records with the hash of their content, and (path, reason) of those that cannot be used."""
    problems = []
    kept = []
    for record in records:
        fact = facts[record.path]
        if isinstance(fact, str):
            problems.append((record.path, fact.removeprefix(f"{printable(record.path)}: ")))
        else:
            kept.append(replace(record, content=fact.content))
    if not kept:
        path, reason = problems[0]
        raise UserError(f"none of the {len(records)} images can be read; the first one: {printable(path)}: {reason}")
    left = {name for record in kept for name in names_in(record.label)}
    for record in records:
        if lost := [name for name in names_in(record.label) if name not in left]:
            reason = str(facts[record.path]).removeprefix(f"{printable(record.path)}: ")
            raise UserError(
                f"no image of the class {lost[0]!r} can be read ({printable(record.path)}: {reason}); repair its "
                "images, or leave the class out"
            )
    return kept, problems


def check_classes(records: list[Record], classes: list[str] | None, multi_label: bool, source: str) -> list[str]:
    """The class names, sorted unless the source has an order. Raises UserError for a single class, odd labels."""
    if not multi_label:
        for record in records:
            if not record.label:
                raise UserError(
                    f"{printable(record.path)} has an empty label; leave its row out, or give --multi_label"
                )
            if len(names_in(record.label)) > 1:
                raise UserError(f"{printable(record.path)} has several labels ({record.label}); give --multi_label")
    found = sorted({name for record in records for name in names_in(record.label)})
    if len(found) < (1 if multi_label else 2):
        raise UserError(f"{source} has {len(found)} class ({', '.join(found)}); a classifier needs at least two")
    return classes or found


def settle_splits(
    records: list[Record], classes: list[str], val: float, test: float, seed: int
) -> tuple[list[Record], int]:
    """Draw the splits, or keep given ones; → records with splits, and how many copies were left out of given ones."""
    given = {bool(record.split) for record in records}
    if given == {True, False}:
        odd = next(record for record in records if not record.split)
        raise UserError(f"{printable(odd.path)} has no split, others have; give all images one, or none")
    units = splitting.bind([r.group for r in records], [r.content for r in records])
    table = datafolder.one_hot(records, classes)
    if given == {False}:
        shares = {"train": 1 - val - test, "val": val, "test": test}
        return with_splits(records, draw_splits(units, table, shares, seed)), 0
    records, moved = leave_out_copies(records)
    splits = np.array([record.split for record in records])
    if "val" not in splits and "train" in splits:  # many sets come with train and test alone
        inside = splits == "train"
        shares = {"train": 1 - val, "val": val}
        splits = splits.astype(object)
        splits[inside] = draw_splits(units[inside], table[inside], shares, seed)
    return with_splits(records, splits), moved


def draw_splits(units: np.ndarray, table: np.ndarray, shares: Mapping[str, float], seed: int) -> np.ndarray:
    """As splitting.assign does. Raises UserError if there are too few independent images for the splits."""
    drawn = splitting.assign(units, table, shares, seed)
    empty = [split for split, share in shares.items() if share and split not in drawn]
    if empty:
        parts = [split for split, share in shares.items() if share]
        most = max(len(np.unique(units[column > 0])) for column in table.T)  # independent images of a class
        cure = ", or give --test 0" if shares.get("test") and most > 1 else ""
        raise UserError(
            f"{len(drawn)} images are too few: none is left for {' and '.join(empty)}. A class that is to be in "
            f"{', '.join(parts)} needs {len(parts)} images of different groups and contents; add some{cure}"
        )
    return drawn


def with_splits(records: list[Record], splits: Iterable[Any]) -> list[Record]:
    """The records with these splits."""
    return [replace(record, split=str(split)) for record, split in zip(records, splits, strict=True)]


def leave_out_copies(records: list[Record]) -> tuple[list[Record], int]:
    """In given splits, an image that is also in a later split (train < val < test) is left out of the earlier one.

    So the test set stays as it was given, and scores on it can be compared. Groups in two splits are left as they are:
    datafolder.check refuses them.
    """
    last: dict[str, int] = {}
    for record in records:
        last[record.content] = max(last.get(record.content, 0), SPLITS.index(record.split))
    early = [SPLITS.index(record.split) < last[record.content] for record in records]
    kept = [replace(r, split=LEFT_OUT) if is_early else r for r, is_early in zip(records, early, strict=True)]
    return kept, sum(early)


def conflicting_copies(records: Iterable[Record]) -> list[tuple[Path, str]]:
    """Images of the same content with different labels: one of the labels must be wrong."""
    labels: dict[str, Record] = {}
    problems = []
    for record in records:
        first = labels.setdefault(record.content, record)
        if first.label != record.label:
            reason = f"the same image as {printable(first.path)}, but {record.label!r} and {first.label!r}"
            problems.append((record.path, reason))
    return problems


def report(data: DataFolder, facts: dict[Path, Facts | str], moved: int) -> None:
    """What the data folder holds, in a few lines."""
    used = data.of(*SPLITS)
    print(f"{data.name}: {len(used)} images, {len(data.classes)} classes, channels: {data.facts['channels']}")
    for split in SPLITS:
        counts = Counter(name for record in data.of(split) for name in names_in(record.label))
        shown = ", ".join(f"{name} {counts[name]}" for name in data.classes[:SHOWN_CLASSES])
        hidden = len(data.classes) - SHOWN_CLASSES
        print(f"{split:>6}: {data.count(split):>6}  ({shown}{f', and {hidden} more classes' if hidden > 0 else ''})")
    sizes = Counter(fact.size for fact in facts.values() if not isinstance(fact, str)).most_common(3)
    print("sizes: " + ", ".join(f"{width} x {height} ({count})" for (width, height), count in sizes))
    if data.facts["value_range"]:
        low, high = data.facts["value_range"]
        print(f"more than 8 bits: {low:g} becomes black and {high:g} white, taken from the training images")
    copies = len(used) - len({record.content for record in used})
    if copies or moved:
        print(f"copies: {copies} in the same split as their original; {moved} left out because a later split has them")


def report_problems(data: DataFolder, problems: list[tuple[Path, str]]) -> None:
    """Warnings, and the first problems."""
    scales = data.facts["scales"]
    if len(scales) > 1:
        counts = ", ".join(f"{count} with {scale}" for scale, count in scales.items())
        cure = "; --window CENTER WIDTH gives all DICOM files the same" if "window" in scales else ""
        print(f"warning: {len(scales)} grey scales in one set ({counts}): equal values may mean different things{cure}")
    labels = (name for record in data.records for name in names_in(record.label))
    for warning in odd_labels(labels) + odd_groups(record.group for record in data.records):
        print(f"warning: {warning}")
    for path, reason in problems[:SHOWN_PROBLEMS]:
        print(f"problem: {printable(path)}: {reason}")
    if problems:
        print(f"{len(problems)} problems, all in {data.path / PROBLEMS}")


if __name__ == "__main__":
    run_script(main)
