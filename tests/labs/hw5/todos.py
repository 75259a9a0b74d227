"""The graded TODOs of Homework 5, in the order in which they are tested and shown."""

from __future__ import annotations

from tests.todo import Todo

DATA, TRAINING, TRANSFER, EVALUATION = (
    f"tests/labs/hw5/test_{name}.py" for name in ("data", "training", "transfer", "evaluation")
)

TODOS = (
    Todo("1.1", "data loaders", 5, DATA, "hw5"),
    Todo("1.2", "classes, distribution", 5, DATA, "hw5"),
    Todo("1.3", "augmentation", 5, DATA, "hw5"),
    Todo("2.1", "CNN", 10, TRAINING, "hw5"),
    Todo("2.2", "training with early stopping", 10, TRAINING, "hw5"),
    Todo("2.3", "curves and overfitting", 5, TRAINING, "hw5"),
    Todo("3.1", "backbone for one channel", 8, TRANSFER, "hw5"),
    Todo("3.2", "fine-tuning in two phases", 8, TRANSFER, "hw5"),
    Todo("3.3", "comparison table", 9, TRANSFER, "hw5"),
    Todo("4.1", "confusion matrix and metrics", 8, EVALUATION, "hw5"),
    Todo("4.2", "ROC and precision-recall", 6, EVALUATION, "hw5"),
    Todo("4.3", "right and wrong cases", 6, EVALUATION, "hw5"),
    Todo("5.1", "filters of the first layer", 5, EVALUATION, "hw5"),
    Todo("5.2", "Grad-CAM", 10, EVALUATION, "hw5"),
    Todo("6.1", "question: threshold", 0, EVALUATION, "hw5"),
    Todo("6.2", "question: small images", 0, EVALUATION, "hw5"),
    Todo("6.3", "question: full resolution", 0, EVALUATION, "hw5"),
)
