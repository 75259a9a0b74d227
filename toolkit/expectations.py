"""What the course expects: the one place that holds these numbers.

Source: the course's handout of Project 2, for the full PathMNIST, validation split, one epoch of 100 steps of 32
("quick"), and for a long schedule of the student's choice ("long").
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Expectation:
    """A validation accuracy or IoU (fraction) to reach; `about` marks values that describe more than they demand."""

    value: float
    about: bool = False

    def is_met(self, result: float) -> bool:
        """True if `result` reaches the expectation."""
        return result >= self.value if self.about else result > self.value

    def __str__(self) -> str:
        return f"{'about ' if self.about else '> '}{self.value:.0%}"


QUICK = {
    ("classification", "mlp"): Expectation(0.32, about=True),
    ("classification", "cnn"): Expectation(0.54),
    ("segmentation", "mlp"): Expectation(0.43, about=True),
    ("segmentation", "cnn"): Expectation(0.94),
    ("segmentation", "unet"): Expectation(0.96),
}
LONG = {"classification": Expectation(0.90), "segmentation": Expectation(0.97)}
HAND_IN = {"segmentation": Expectation(0.95)}  # what the model that is handed in has to reach
EXTRA_CREDIT = {"classification": Expectation(0.99)}
