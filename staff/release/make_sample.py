"""Draw a sample of a MedMNIST set for data/bundled, with its origin in manifest.json and README.md.

    python -m staff.make_sample bloodmnist --train 600 --val 150 --test 100

The official file is taken from --data_root, or downloaded. Each part comes from the official split of its name, every
class as often as there, and records the place of each image in that split. A second run replaces what the first made.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from staff.grader import dataset as datasets
from staff.grader.dataset import SIDE, DataSet
from staff.release.starter import recipe as recipes
from staff.release.starter.sample import npz_bytes
from toolkit.cli import OneLineParser, in_range
from toolkit.errors import UserError
from toolkit.medmnist_catalog import medmnist_info
from toolkit.medmnist_data import Source, locate
from toolkit.npz_file import SPLITS, md5_of, read_array
from toolkit.runs import write_bytes

FOLDER = recipes.ROOT / "data" / "bundled"


def build_parser() -> OneLineParser:
    """The flags."""
    parser = OneLineParser(description=__doc__.splitlines()[0])
    parser.add_argument("flag", help="of a two-dimensional set of MedMNIST, such as bloodmnist")
    for split, count in zip(SPLITS, (600, 150, 100), strict=True):
        parser.add_argument(f"--{split}", type=in_range(int, 1), default=count, help="images")
    parser.add_argument("--seed", type=in_range(int, 0), default=0, help="of the drawing")
    parser.add_argument("--shows", help="what the images show, for the documents, such as 'blood cells'")
    parser.add_argument("--cite", help="their source, for the documents")
    parser.add_argument("--data_root", default=str(recipes.ROOT / "data"), help="folder of the official file")
    parser.add_argument("--bundled", type=Path, default=FOLDER, help="folder to write to")
    return parser


def main() -> None:
    """Parse, draw, write the file, then the documents that name it."""
    args = build_parser().parse_args()
    dataset = datasets.find(args.flag)
    manifest = args.bundled / "manifest.json"
    records = json.loads(manifest.read_text(encoding="utf-8"))["files"]
    kept = [record for record in records if (record["flag"], record.get("seed")) == (args.flag, None)]
    if kept:
        raise UserError(f"{manifest} has {kept[0]['file']}, which this tool has not made; remove that entry first")
    source = locate(args.flag, data_root=args.data_root, dataset="full")
    counts = {split: getattr(args, split) for split in SPLITS}
    content = npz_bytes(draw(source.path, counts, args.seed))
    record = describe(source, dataset, counts, args.seed)
    record["md5"] = hashlib.md5(content, usedforsecurity=False).hexdigest()
    record |= {name: value for name in ("shows", "cite") if (value := getattr(args, name))}
    records = [one for one in records if one["flag"] != args.flag] + [record]
    write_bytes(args.bundled / record["file"], content)
    write_bytes(manifest, (json.dumps({"files": records}, indent=2, ensure_ascii=False) + "\n").encode())
    readme = args.bundled / "README.md"
    write_bytes(readme, with_records(readme.read_text(encoding="utf-8"), records).encode())
    size = f"{len(content) / 1e6:.1f} MB"
    print(f"{args.bundled / record['file']}: {record['what']}, {size}; manifest.json and README.md name it")


def draw(path: Path, counts: dict[str, int], seed: int) -> dict[str, np.ndarray]:
    """Arrays of the sample: images, labels and places in the official split, for each split.

    Args:
        path: of the official file.
        counts: images to draw of each split. UserError if it has fewer, or a class would be left out.
        seed: the same one draws the same images.
    """
    arrays, rng = {}, np.random.default_rng(seed)
    for split, count in counts.items():
        labels = read_array(path, f"{split}_labels")
        if count > len(labels):
            raise UserError(f"--{split} is {count}; {path.name} has {len(labels)} images there")
        quotas = quotas_of(np.bincount(labels[:, 0]), count)
        if missed := [str(number) for number in np.unique(labels) if not quotas[number]]:
            raise UserError(f"--{split} is {count}: no image of class {', '.join(missed)} would be drawn; ask for more")
        classes = (rng.permutation(np.flatnonzero(labels == number))[:quota] for number, quota in enumerate(quotas))
        index = np.sort(np.concatenate(list(classes)))
        arrays[f"{split}_images"] = read_array(path, f"{split}_images")[index]
        arrays[f"{split}_labels"], arrays[f"{split}_index"] = labels[index], index
    return arrays


def quotas_of(available: np.ndarray, count: int) -> np.ndarray:
    """How many images of each class make `count` with the shares of `available` (largest remainders)."""
    shares = available * count / available.sum()
    quotas = np.floor(shares).astype(int)
    quotas[np.argsort(quotas - shares, kind="stable")[: count - quotas.sum()]] += 1
    return quotas


def describe(source: Source, dataset: DataSet, counts: dict[str, int], seed: int) -> dict[str, Any]:
    """The entry of the manifest: what the sample is and where it comes from."""
    origin = (
        "the official splits" if source.name == dataset.flag else f"{source.path.name}, which is not the official file"
    )
    return {
        "file": f"{dataset.flag}_sample.npz",
        "flag": dataset.flag,
        "size": SIDE,
        "name": f"{dataset.flag}-sample",
        "official": False,
        "what": f"a sample of {dataset.name}: {' / '.join(map(str, counts.values()))} images",
        "shows": f"images of {dataset.name}",
        "drawn_from": f"{origin}, each class as often as there",
        "source_md5": md5_of(source.path),
        "seed": seed,
        "cite": f"The source of {dataset.name} is named at https://medmnist.com.",
    }


def with_records(readme: str, records: list[dict[str, Any]]) -> str:
    """README.md of data/bundled with a row of its table and an entry of its list of sources for each record."""
    rows = ["| file | what it is | shows | licence |", "|---|---|---|---|"]
    for record in records:
        licence = medmnist_info()[record["flag"]]["license"]
        rows.append(f"| `{record['file']}` | {record['what']} | {record['shows']} | {licence} |")
    sources = dict.fromkeys(f"- {datasets.DataSet(record['flag']).name}: {record['cite']}" for record in records)
    for start, lines in ((r"\| file \|", rows), ("- PathMNIST: ", sources)):
        block = "\n".join(lines) + "\n"
        readme = re.sub(rf"^{start}.*?\n(?=\n)", lambda _, block=block: block, readme, count=1, flags=re.S | re.M)
    return readme
