"""The graded TODOs of this assignment, in the order in which they are tested and shown."""

from __future__ import annotations

from tests.todo import Todo

TODOS = (
    Todo("1.0", "linear classifier", 2, "tests/test_todo_1_models.py"),
    Todo("1.1", "MLP classifier", 3, "tests/test_todo_1_models.py"),
    Todo("1.2", "CNN classifier", 5, "tests/test_todo_1_models.py"),
    Todo("1.3", "loss", 2, "tests/test_todo_1_training.py"),
    Todo("1.4", "train_epoch", 4, "tests/test_todo_1_training.py"),
    Todo("1.5", "validate_epoch", 4, "tests/test_todo_1_training.py"),
    Todo("1.6", "results", 5, "tests/test_todo_1_training.py"),
    Todo("2.0", "linear segmentation", 1, "tests/test_todo_2_models.py"),
    Todo("2.1", "MLP segmentation", 2, "tests/test_todo_2_models.py"),
    Todo("2.2", "CNN encoder-decoder", 3, "tests/test_todo_2_models.py"),
    Todo("2.3", "U-Net", 5, "tests/test_todo_2_models.py"),
    Todo("2.4", "Dice loss", 2, "tests/test_todo_2_losses.py"),
    Todo("2.5", "combined loss", 2, "tests/test_todo_2_losses.py"),
    Todo("2.6", "train_segmentation_epoch", 3, "tests/test_todo_2_training.py"),
    Todo("2.7", "validate_segmentation_epoch", 3, "tests/test_todo_2_training.py"),
    Todo("2.8", "results", 4, "tests/test_todo_2_training.py"),
)
