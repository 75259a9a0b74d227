"""Turn a folder, a CSV or a MedMNIST flag into a data folder that train.py reads: metadata.csv and dataset.json.

    python -m labs.image_classifier.prepare breastmnist --out data/breast
    python -m labs.image_classifier.prepare xrays/ --out data/xrays --group_pattern "^(patient[0-9]+)_"
    python -m labs.image_classifier.prepare tiles.csv --out data/tiles --label_column diagnosis --group_column patient

Every image is read once. What cannot be read, and copies with different labels, is listed in problems.csv.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.cli import OneLineParser, in_range, run_script
from toolkit.errors import UserError

if TYPE_CHECKING:
    from argparse import Namespace

    from labs.image_classifier.utils.datafolder import Record
    from labs.image_classifier.utils.inspection import Facts


def build_parser() -> OneLineParser:
    """The flags; nothing heavy is imported for --help."""
    parser = OneLineParser(prog="python -m labs.image_classifier.prepare", description=__doc__.splitlines()[0])
    parser.add_argument("source", help="folder with a sub-folder a class, CSV with paths and labels, or MedMNIST flag")
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
    group.add_argument("--multi_label", action="store_true", help="an image may have several labels, or none")
    group = parser.add_argument_group("reading")
    group.add_argument("--channels", choices=("auto", "1", "3"), default="auto", help="auto: 1 if all images are grey")
    group.add_argument("--window", nargs=2, type=float, metavar=("CENTER", "WIDTH"), help="for DICOM, in its units")
    group.add_argument("--max_pixels", type=in_range(int, 1), default=100_000_000, help="larger images are refused")
    group.add_argument("--size", type=in_range(int, 28), default=28, help="of a MedMNIST set: 28, 64, 128 or 224")
    group.add_argument("--data_root", default="./data", help="folder with MedMNIST files, or to download them to")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Collect, read every image, split, write, report."""
    args = build_parser().parse_args(argv)
    if args.val + args.test >= 1:
        raise UserError(f"val + test is {args.val + args.test:g}; allowed: below 1, so that something is left to train")

    from labs.image_classifier.utils import datafolder, inspection

    out = Path(args.out)
    if (out / datafolder.METADATA).exists() and not args.overwrite:
        raise UserError(f"{out} holds a {datafolder.METADATA} already; choose another --out, or give --overwrite")
    records, classes, multi_label, name = collect(args, out)
    out.mkdir(parents=True, exist_ok=True)
    window = tuple(args.window) if args.window else None
    facts = inspection.inspect([record.path for record in records], window, args.max_pixels)
    readable, problems = keep_readable(records, facts)
    classes = check_classes(readable, classes, multi_label, args.source)
    readable, moved = settle_splits(readable, classes, args)
    problems += conflicting_copies(readable)
    train_facts = [facts[record.path] for record in readable if record.split == "train"]
    settings = {
        "name": name,
        "classes": classes,
        "multi_label": multi_label,
        "channels": inspection.channels(facts.values()) if args.channels == "auto" else int(args.channels),
        "value_range": inspection.value_range(train_facts),
        "window": window,
        "max_pixels": args.max_pixels,
        "source": args.source,
        "seed": args.seed,
    }
    data = datafolder.DataFolder(out, tuple(readable), settings)
    write_problems(out / "problems.csv", problems)
    datafolder.check(data)
    datafolder.write(data)
    report(data, facts, problems, moved)


def collect(args: Namespace, out: Path) -> tuple[list[Record], list[str] | None, bool, str]:
    """Records of the source, class names if the source states them, multi-label?, and the name of the data."""
    from labs.image_classifier.utils import sources
    from toolkit.medmnist_catalog import medmnist_info

    path = Path(args.source)
    if path.is_dir():
        records = sources.from_folders(path, args.group_pattern)
        return records, None, args.multi_label, path.resolve().name
    if path.is_file():
        columns = {
            "path": args.path_column,
            "label": args.label_column,
            "group": args.group_column,
            "split": args.split_column,
        }
        image_root = Path(args.image_root) if args.image_root else None
        records = sources.from_csv(path, columns, image_root, args.group_pattern)
        return records, None, args.multi_label, path.stem
    if args.source in medmnist_info():
        return sources.export_medmnist(args.source, args.size, args.data_root, out / "images")
    raise UserError(
        f"source is {args.source!r}: no such folder or file, and no MedMNIST set; those are "
        + ", ".join(flag for flag in medmnist_info() if not flag.endswith("3d"))
    )


def keep_readable(records: list[Record], facts: dict[Path, Facts | str]) -> tuple[list[Record], list[tuple[Path, str]]]:
    """Records with the hash of their content, and (path, reason) of those that cannot be used."""
    from dataclasses import replace

    problems = [(record.path, str(facts[record.path])) for record in records if isinstance(facts[record.path], str)]
    kept = [replace(r, content=facts[r.path].content) for r in records if not isinstance(facts[r.path], str)]
    if not kept:
        raise UserError(f"none of the {len(records)} images can be read; the first one: {problems[0][1]}")
    return kept, problems


def check_classes(records: list[Record], classes: list[str] | None, multi_label: bool, source: str) -> list[str]:
    """The class names, sorted unless the source has an order. Raises UserError for a single class, odd labels."""
    from labs.image_classifier.utils.datafolder import names_in

    if not multi_label:
        for record in records:
            if not record.label:
                raise UserError(f"{record.path} has an empty label; leave its row out, or give --multi_label")
            if len(names_in(record.label)) > 1:
                raise UserError(f"{record.path} has several labels ({record.label}); give --multi_label")
    found = sorted({name for record in records for name in names_in(record.label)})
    if len(found) < (1 if multi_label else 2):
        raise UserError(f"{source} has {len(found)} class ({', '.join(found)}); a classifier needs at least two")
    return classes or found


def settle_splits(records: list[Record], classes: list[str], args: Namespace) -> tuple[list[Record], int]:
    """Draw the splits, or keep given ones; → records with splits, and how many copies were left out of given ones."""
    import numpy as np

    from labs.image_classifier.utils import datafolder, splitting

    given = {bool(record.split) for record in records}
    if given == {True, False}:
        odd = next(record for record in records if not record.split)
        raise UserError(f"{odd.path} has no split, others have; give all images one, or none")
    units = splitting.bind([r.group for r in records], [r.content for r in records])
    table = datafolder.one_hot(records, classes)
    if given == {False}:
        shares = {"train": 1 - args.val - args.test, "val": args.val, "test": args.test}
        return with_splits(records, splitting.assign(units, table, shares, args.seed)), 0
    records, moved = leave_out_copies(records)
    splits = np.array([record.split for record in records])
    if "val" not in splits and "train" in splits:  # many sets come with train and test alone
        inside = splits == "train"
        shares = {"train": 1 - args.val, "val": args.val}
        splits = splits.astype(object)
        splits[inside] = splitting.assign(units[inside], table[inside], shares, args.seed)
    return with_splits(records, splits), moved


def with_splits(records: list[Record], splits: Any) -> list[Record]:
    """The records with these splits."""
    from dataclasses import replace

    return [replace(record, split=str(split)) for record, split in zip(records, splits, strict=True)]


def leave_out_copies(records: list[Record]) -> tuple[list[Record], int]:
    """In given splits, an image that is also in a later split (train < val < test) is left out of the earlier one.

    So the test set stays as it was given, and scores on it can be compared. Groups in two splits are not mended: read()
    refuses them.
    """
    from dataclasses import replace

    from labs.image_classifier.utils.datafolder import LEFT_OUT, SPLITS

    last: dict[str, int] = {}
    for record in records:
        last[record.content] = max(last.get(record.content, 0), SPLITS.index(record.split))
    early = [SPLITS.index(record.split) < last[record.content] for record in records]
    kept = [replace(r, split=LEFT_OUT) if is_early else r for r, is_early in zip(records, early, strict=True)]
    return kept, sum(early)


def conflicting_copies(records: list[Record]) -> list[tuple[Path, str]]:
    """Images of the same content with different labels: one of the labels must be wrong."""
    labels: dict[str, Record] = {}
    problems = []
    for record in records:
        first = labels.setdefault(record.content, record)
        if first.label != record.label:
            problems.append((record.path, f"the same image as {first.path}, but {record.label!r} and {first.label!r}"))
    return problems


def write_problems(path: Path, problems: list[tuple[Path, str]]) -> None:
    """problems.csv, or no such file if there are none."""
    from toolkit.runs import write_bytes

    path.unlink(missing_ok=True)
    if problems:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([("path", "problem"), *problems])
        write_bytes(path, text.getvalue().encode("utf-8"))


def report(data: Any, facts: dict[Path, Any], problems: list[tuple[Path, str]], moved: int) -> None:
    """What was found, in a few lines."""
    from labs.image_classifier.utils.datafolder import SPLITS, names_in

    used = data.of(*SPLITS)
    print(f"{data.name}: {len(used)} images, {len(data.classes)} classes, channels: {data.facts['channels']}")
    for split in SPLITS:
        counts = Counter(name for record in data.of(split) for name in names_in(record.label))
        shown = ", ".join(f"{name} {counts[name]}" for name in data.classes[:8])
        more = f", and {len(data.classes) - 8} more classes" if len(data.classes) > 8 else ""
        print(f"{split:>6}: {data.count(split):>6}  ({shown}{more})")
    sizes = Counter(fact.size for fact in facts.values() if not isinstance(fact, str)).most_common(3)
    print("sizes: " + ", ".join(f"{width} x {height} ({count})" for (width, height), count in sizes))
    if data.facts["value_range"]:
        low, high = data.facts["value_range"]
        print(f"more than 8 bits: {low:g} becomes black and {high:g} white, taken from the training images")
    copies = len(used) - len({record.content for record in used})
    if copies or moved:
        print(f"copies: {copies} in the same split as their original; {moved} left out, being in a later split too")
    for path, problem in problems[:5]:
        print(f"problem: {problem}" if str(path) in problem else f"problem: {path}: {problem}")
    if problems:
        print(f"{len(problems)} problems, all in {data.path / 'problems.csv'}")
    print(f"files: metadata.csv, dataset.json in {data.path}")


if __name__ == "__main__":
    run_script(main)
