"""What a MedMNIST set asks: one class, several labels, or a grade on a scale; loss, samples and metrics for each.

The course's one training loop knows classes: logits (B, K), labels (B,), and it counts how often the largest logit is
right. A set with several labels per image (ChestMNIST) and one with ordered grades (RetinaMNIST) become yes-or-no
questions: is label 3 there? is the grade above 2? Each of the Q answers for an image is a row (0, z) of the batch, so
that the largest logit is "yes" where z > 0 and the loss is the binary cross-entropy of z.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from torch import nn
from torch.nn import functional as F

from classification_dataset import ImageDataset
from toolkit import metrics
from toolkit.batches import StackedBatch
from toolkit.errors import UserError
from toolkit.medmnist_data import Source, Split

CLASSES, LABELS, GRADES = "classes", "labels", "grades"


@dataclass(frozen=True)
class Task:
    """kind: CLASSES (one of K), LABELS (any of K) or GRADES (one of K in order)."""

    kind: str
    class_names: tuple[str, ...]

    @classmethod
    def of(cls, source: Source) -> Task:
        """The task of a data set, from MedMNIST's own word for it."""
        if source.multi_label:
            return cls(LABELS, source.class_names)
        return cls(GRADES if source.task.startswith("ordinal") else CLASSES, source.class_names)

    @property
    def outputs(self) -> int:
        """Outputs of a network per image: one logit per class, per label, or per step between two grades."""
        return len(self.class_names) - (self.kind == GRADES)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of the table, the most important one first."""
        if self.kind == LABELS:
            return ("auc", "label_accuracy", "label_accuracy_of_always_no")
        several = ("auc", "accuracy", "balanced_accuracy")
        return several if self.kind == CLASSES else (*several[:2], "mean_absolute_error", "quadratic_kappa")

    def targets(self, labels: torch.Tensor) -> torch.Tensor:
        """Labels int64 (N,) or (N, K) → what the loop compares with: (N,) or 0 and 1 (N, Q)."""
        if self.kind == GRADES:
            return (labels[:, None] > torch.arange(self.outputs)).long()  # question k: is the grade above k?
        return labels

    def prepared(self, network: nn.Module) -> nn.Module:
        """The network as the loop takes it."""
        return network if self.kind == CLASSES else Questions(network)

    def criterion(self, labels: torch.Tensor, weighted: bool) -> nn.Module:
        """The loss; `weighted` makes the rare as heavy as the frequent, by their counts in training labels (N, ...)."""
        if self.kind == CLASSES:
            return BalancedCrossEntropy(self.weights(labels)) if weighted else nn.CrossEntropyLoss()
        positives = self.targets(labels).float().mean(dim=0)  # (Q,)
        weight = (1 - positives) / positives.clamp(min=1 / len(labels))
        return BinaryCrossEntropy(weight if weighted else torch.ones_like(weight))

    def weights(self, labels: torch.Tensor) -> torch.Tensor:
        """N / (K * count) of each class, float32 (K,). Raises UserError for a class without a training image."""
        counts = torch.bincount(labels, minlength=len(self.class_names))
        if not counts.all():
            name = self.class_names[int((counts == 0).nonzero()[0])]
            raise UserError(f"the training split has no image of {name!r}; class weights need all classes")
        return len(labels) / (len(counts) * counts.float())

    def probabilities(self, answers: np.ndarray) -> np.ndarray:
        """What metrics.predict gives, (N, K) or (N * Q, 2) → probability of each class, label or grade (N, K)."""
        if self.kind == CLASSES:
            return answers
        yes = answers[:, 1].reshape(-1, self.outputs).astype(np.float64)  # (N, Q)
        if self.kind == LABELS:
            return yes
        # P(grade > k) can only fall with k; where the network says otherwise the lower value counts for both.
        above = np.minimum.accumulate(yes, axis=1)
        ends = np.ones((len(yes), 1)), np.zeros((len(yes), 1))
        return -np.diff(np.concatenate([ends[0], above, ends[1]], axis=1), axis=1)

    def measure(self, probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        """What is reported. auc: mean of one against the rest, over the classes for which it is defined."""
        if self.kind == LABELS:
            return _label_metrics(probabilities, labels, self.class_names)
        found = metrics.classification_metrics(probabilities, labels)
        named = {"auc": found["macro_auc"], "accuracy": found["accuracy"]}
        named["balanced_accuracy"] = found["balanced_accuracy"]
        return named | (_grade_metrics(probabilities, labels) if self.kind == GRADES else {})

    def check_metric(self, name: str) -> None:
        """Refuse accuracy where the most probable class answers nothing."""
        if self.kind == LABELS and name == "accuracy":
            raise UserError(
                f"--metric accuracy: an image of this set may have none or several of its {len(self.class_names)} "
                "labels, so the most probable one is not an answer, and answering 'nothing' to all is right for most "
                "labels of most images; take --metric auc (it is given for every label)"
            )


class Questions(nn.Module):
    """Turns the Q outputs of a network (B, Q) into B * Q yes-or-no answers (B * Q, 2) = (0, z)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See the class."""
        z = self.network(images)
        return torch.stack([torch.zeros_like(z), z], dim=-1).flatten(0, 1)


class BalancedCrossEntropy(nn.Module):
    """Cross-entropy with class weights whose network still answers with the probabilities of the data as they are.

    With plain class weights w a network learns softmax(logits) = p w / sum(p w): it answers as if all classes were
    equally frequent, and its accuracy suffers. Here log w is added to its logits within the loss, so that the logits
    themselves learn log p. Up to that constant it is the same loss.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)  # (K,)

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """logits (B, K), labels int64 (B,) → mean loss in nats."""
        weight = self.weight.to(logits.device)
        return F.cross_entropy(logits.float() + weight.log(), labels, weight=weight)


class BinaryCrossEntropy(nn.Module):
    """Mean binary cross-entropy of answers (B * Q, 2); a "yes" to question q weighs positive_weight[q] times a "no"."""

    def __init__(self, positive_weight: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("positive_weight", positive_weight)  # (Q,)

    def forward(self, answers: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """answers (B * Q, 2), targets 0 or 1 (B * Q,) → mean loss in nats."""
        questions = len(self.positive_weight)
        z = (answers[:, 1] - answers[:, 0]).view(-1, questions).float()
        weight = self.positive_weight.to(z.device)
        return F.binary_cross_entropy_with_logits(z, targets.view(-1, questions).float(), pos_weight=weight)


def _label_metrics(probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """AUC of each label and their mean; label_accuracy, and that of a model that always says no."""
    defined = [k for k in range(labels.shape[1]) if 0 < labels[:, k].sum() < len(labels)]
    each = {names[k]: float(roc_auc_score(labels[:, k], probabilities[:, k])) for k in defined}
    return {
        "auc": float(np.mean(list(each.values()))) if each else None,
        "label_accuracy": float(((probabilities >= 0.5) == labels).mean()),
        "label_accuracy_of_always_no": float((labels == 0).mean()),
        "auc_of_each_label": {name: each.get(name) for name in names},
    }


def _grade_metrics(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """How far off the grade is: mean absolute error in grades, and kappa with quadratic weights (1: perfect)."""
    median = (1 - probabilities.cumsum(axis=1)[:, :-1] >= 0.5).sum(axis=1)  # steps more likely passed than not
    grades = np.arange(probabilities.shape[1])
    several = len(np.unique(np.concatenate([median, labels]))) > 1  # else kappa is 0 / 0
    kappa = float(cohen_kappa_score(labels, median, labels=grades, weights="quadratic")) if several else 0.0
    return {"mean_absolute_error": float(np.abs(median - labels).mean()), "quadratic_kappa": kappa}


class Samples(ImageDataset):
    """Images (C, H, W) or volumes (1, D, H, W) of one split, kept as uint8; targets as the loop takes them.

    augmentation: uint8 (B, C, ...) and a Generator → float32 (B, C, ...) in [-1, 1]; None only normalises.
    """

    def __init__(
        self, split: Split, task: Task, *, augmentation: Callable | None = None, seed: int = 0, device: Any = "cpu"
    ) -> None:
        super().__init__(replace(split, labels=task.targets(split.labels)), seed=seed, device=device)
        self.augmentation = augmentation

    def __getitems__(self, indices: Sequence[int]) -> StackedBatch:
        """Stacked samples and targets (B,), or (B * Q,) for questions."""
        images, targets = super().__getitems__(indices).stacked
        return StackedBatch((images, targets.flatten()), len(images), lambda i: (images[i], targets[i]))
