"""MedMNIST's own benchmark, to put next to our rows: the like-for-like network, and the best method at 28 pixels."""

from __future__ import annotations

from toolkit.study import TableRow

TITLE = "published: "  # how a row that is not ours begins
SOURCE = "Yang et al., MedMNIST v2, Scientific Data 10, 41 (2023), tables of AUC and ACC; means of three trainings"

# (method, AUC, accuracy) on the official test splits at 28 pixels. The first is the nearest to our networks; the others
# are there because one of their two values is the highest published there. Only checked rows; other sets have none.
PUBLISHED: dict[str, tuple[tuple[str, float, float], ...]] = {
    "pneumoniamnist": (("ResNet-18 (28)", 0.944, 0.854), ("Google AutoML Vision, best at 28", 0.991, 0.946)),
    "breastmnist": (
        ("ResNet-18 (28)", 0.901, 0.863),
        ("Google AutoML Vision, best AUC at 28", 0.919, 0.861),
    ),
    "retinamnist": (("ResNet-18 (28)", 0.717, 0.524), ("Google AutoML Vision, best at 28", 0.750, 0.531)),
    "nodulemnist3d": (("auto-sklearn", 0.914, 0.874),),
    "adrenalmnist3d": (("ResNet-18 + ACS", 0.839, 0.754), ("auto-sklearn", 0.828, 0.802)),
}


def published_rows(flag: str) -> list[TableRow]:
    """MedMNIST's own figures for the set, as rows; none where it publishes none."""
    rows = PUBLISHED.get(flag, ())
    return [TableRow(f"{TITLE}{name}", {"auc": [auc], "accuracy": [acc]}, published=True) for name, auc, acc in rows]
