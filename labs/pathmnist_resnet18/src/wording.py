"""How settings and figures of results.json read in the report and in its pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WORDS = {
    "f1": "F1",
    "macro_f1": "macro F1",
    "macro_auc": "macro AUC",
    "adam": "Adam",
    "adamw": "AdamW",
    "sgd": "SGD (Nesterov momentum)",
    "cross_entropy": "cross-entropy",
    "mixup": "MixUp",
    "randaugment": "RandAugment",
    "augment": "augmentation",
}
NETWORKS = {"resnet": "ResNet-", "densenet": "DenseNet-"}


def words(name: Any) -> str:
    """The name of a setting or a figure without underscores: 'learning_rate' → 'learning rate'."""
    return WORDS.get(name, str(name).replace("_", " "))


def network(name: str) -> str:
    """'resnet18' → 'ResNet-18'."""
    kind = name.rstrip("0123456789")
    return NETWORKS.get(kind, kind) + name[len(kind) :]


def change(settings: Mapping[str, Any]) -> str:
    """'augmentation stain, MixUp 0.2'; 'baseline' for no change."""
    return ", ".join(_one_change(name, value) for name, value in settings.items()) or "baseline"


def _one_change(name: str, value: Any) -> str:
    if name == "model_name":
        return network(value)
    if isinstance(value, bool):
        return words(name) if value else f"no {words(name)}"
    return f"{words(name)} {words(value)}"


def schedule(settings: Mapping[str, Any]) -> str:
    """The learning rate's course in words."""
    if settings["schedule"] == "step":
        return f"times {settings['step_factor']} every {settings['step_epochs']} epochs"
    names = {"constant": "constant rate", "cosine": "cosine schedule", "onecycle": "one-cycle schedule"}
    return names[settings["schedule"]]


def fixed(value: float | None) -> str:
    """Three decimals; nothing for a figure that does not exist."""
    return "" if value is None else f"{value:.3f}"


def mean_sd(row: Mapping[str, Any]) -> str:
    """'0.842 ± 0.011 (n = 2)', or the value alone for one seed."""
    return f"{row['mean']:.3f}" + (f" ± {row['sd']:.3f}" if row["sd"] is not None else "") + f" (n = {row['n']})"
