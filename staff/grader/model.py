"""Models that live in the student's process: built there, asked from here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from staff.grader.client import FIT_CPU_S, Reply, StudentProcess, expect


@dataclass
class Model:
    """A model in the student's process; of a classifier, `num_classes` is the number of its logits."""

    student: StudentProcess
    number: int
    trainable: int = 0
    channels: int = 3
    num_classes: int = 9

    def __call__(
        self, images: np.ndarray, channels: int | None = None, training: bool = False, seed: int = 0, passes: int = 1
    ) -> np.ndarray:
        """Outputs: logits (B, channels), or for `images` of a mask model probabilities (B, 1, H, W).

        seed: of what is random in the model. passes: how often the images go through it; the last time counts.
        """
        shape = (len(images), channels) if channels else (len(images), None, *images.shape[2:])
        reply = self.student.ask(
            "forward",
            {"object": self.number, "training": training, "seed": seed, "passes": passes},
            {"images": images},
            {"output": ("float32", shape)},
        )
        return reply.arrays["output"]

    def state(self) -> tuple[dict, dict[str, np.ndarray]]:
        """(what the process says about mode and gradients, all weights and statistics)."""
        reply = self.student.ask("state", {"object": self.number})
        return reply.result, reply.arrays

    def fit(self, images, targets, order, loss: str, learning_rate: float, seed: int) -> None:
        """Train by our own updates in the student's process; tells nothing, ask for predictions afterwards.

        A network that is too wide for all steps gets as many as FIT_CPU_S allow.
        """
        spec = {"object": self.number, "loss": loss, "learning_rate": learning_rate, "seed": seed, "cpu_s": FIT_CPU_S}
        arrays = {"images": images, "targets": targets, "order": order}
        self.student.ask("fit", spec, arrays, timeout_s=4 * FIT_CPU_S)  # it ends by itself, on any machine

    def dead_parameters(self, images: np.ndarray, weights: np.ndarray) -> list[str]:
        """Names of parameters that get no gradient, as the student's process reports them."""
        arrays = {"images": images, "weights": weights}
        reply = self.student.ask("gradients", {"object": self.number}, arrays, {"largest": ("float64", (None,))})
        names = reply.result.get("names")
        names = names if isinstance(names, list) else []
        return [str(n)[:80] for n, value in zip(names, reply.arrays["largest"], strict=False) if value == 0]


def is_number(value: object) -> bool:
    """A usable object number in a reply (a bool is none)."""
    return type(value) is int and value > 0


def student_model(
    student: StudentProcess, module: str, name: str, seed: int = 0, factory: tuple | None = None, **keywords: int
) -> Model:
    """Build one of the student's models: by a `factory` (function, argument) if they have it, else by its class."""
    channels = keywords.get("in_channels", student.channels)
    spec = {"module": module, "name": name, "keywords": keywords, "seed": seed, "channels": channels}
    reply = student.ask("model", spec | ({"factory": list(factory)} if factory else {}))
    return made_model(student, reply, channels, keywords.get("num_classes"))


def plain_model(student: StudentProcess, layers: list, state: dict[str, np.ndarray]) -> Model:
    """Build one of our small models over there."""
    return made_model(student, student.ask("plain_model", {"layers": layers}, state))


def made_model(
    student: StudentProcess, reply: Reply, channels: int | None = None, num_classes: int | None = None
) -> Model:
    """The model that an answer numbers, for the images and classes of the data set unless it was made for others."""
    number, trainable = reply.result.get("object"), reply.result.get("trainable", 0)
    expect(is_number(number), "your process answered nonsense about a model")
    trainable = trainable if type(trainable) is int else 0
    return Model(student, number, trainable, channels or student.channels, num_classes or student.num_classes)
