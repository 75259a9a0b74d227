"""The table of an experiment, and MedMNIST's own benchmark to put beside it."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolkit.medmnist_data import Source

PUBLISHED_TITLE = "published: "  # how a row that is not ours begins
PUBLISHED_SOURCE = (
    "Yang et al., MedMNIST v2, Scientific Data 10, 41 (2023), tables of AUC and ACC; means of three trainings"
)

# (method, AUC, accuracy) on the official test splits at 28 pixels. Only rows that were checked; other sets have none.
PUBLISHED: dict[str, tuple[tuple[str, float, float], ...]] = {
    "pneumoniamnist": (("ResNet-18 (28)", 0.944, 0.854),),
    "breastmnist": (("ResNet-18 (28)", 0.901, 0.863),),
    "nodulemnist3d": (("auto-sklearn", 0.914, 0.874),),
    "adrenalmnist3d": (("ResNet-18 + ACS", 0.839, 0.754), ("auto-sklearn", 0.828, 0.802)),
}


@dataclass(frozen=True)
class Row:
    """A line of the table: metric → one value for each seed. `where` says what it was measured on."""

    title: str
    values: Mapping[str, Sequence[float]]
    where: str = "test"


def published_rows(flag: str) -> list[Row]:
    """MedMNIST's own figures for the set, as rows; none where it publishes none."""
    return [
        Row(f"{PUBLISHED_TITLE}{name}", {"auc": [auc], "accuracy": [acc]}) for name, auc, acc in PUBLISHED.get(flag, ())
    ]


def table(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """Markdown: mean ± sample standard deviation over the seeds, '-' where a row lacks a metric."""
    from toolkit.compare import figure
    from toolkit.compare import table as markdown

    heads = ["", "measured on", *(name.replace("_", " ") for name in metrics)]
    lines = []
    for row in rows:
        cells = [figure(row.values.get(name, ())) for name in metrics]
        if row.title.startswith(PUBLISHED_TITLE):
            cells = [cell.replace(" (n=1)", "") for cell in cells]
        lines.append([row.title, row.where, *cells])
    return markdown(heads, lines)


def table_csv(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """The same as CSV: n, mean and sd of each metric as numbers."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "measured_on", "n", *(f"{name}{kind}" for name in metrics for kind in ("", "_sd"))])
    for row in rows:
        cells: list[object] = []
        for name in metrics:
            values = row.values.get(name, ())
            cells.append(f"{statistics.fmean(values):.6f}" if values else "")
            cells.append(f"{statistics.stdev(values):.6f}" if len(values) > 1 else "")
        writer.writerow([row.title, row.where, max((len(v) for v in row.values.values()), default=0), *cells])
    return text.getvalue()


def data_line(source: Source) -> str:
    """'breastmnist (official file, bundled)': what the figures were measured on."""
    kind = "a sample, not comparable with published figures" if source.is_sample else "official file"
    kind = "a file of your own" if source.name.endswith("-unverified") else kind
    return f"{source.name} ({kind}, {source.origin})"
