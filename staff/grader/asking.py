"""How graded tests talk to a submission: models and functions of the student's that answer with checked arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from staff.grader import oracle
from staff.grader.client import CheckFailed, Reply, StudentProcess


def expect(condition: object, message: str) -> None:
    """Fail the check with words for the student."""
    if not condition:
        raise CheckFailed(message)


def expect_close(got: float, wanted: float | tuple[float, ...], tolerance: float, what: str) -> None:
    """`got` must be within `tolerance` of (one of) the values wanted."""
    values = wanted if isinstance(wanted, tuple) else (wanted,)
    if not any(abs(got - value) <= tolerance for value in values):
        distinct = list(dict.fromkeys(f"{value:.4f}" for value in values))
        raise CheckFailed(f"{what} is {got:.4f}, expected {' or '.join(distinct)}")


@dataclass
class Model:
    """A model in the student's process."""

    student: StudentProcess
    number: int
    trainable: int = 0

    def __call__(self, images: np.ndarray, channels: int | None = None, training: bool = False) -> np.ndarray:
        """Outputs: logits (B, channels), or for `images` of a mask model probabilities (B, 1, H, W)."""
        shape = (len(images), channels) if channels else (len(images), None, *images.shape[2:])
        reply = self.student.ask(
            "forward",
            {"object": self.number, "training": training},
            {"images": images},
            {"output": ("float32", shape)},
        )
        return reply.arrays["output"]

    def state(self) -> tuple[dict, dict[str, np.ndarray]]:
        """(what the process says about mode and gradients, all weights and statistics)."""
        reply = self.student.ask("state", {"object": self.number})
        return reply.result, reply.arrays

    def fit(self, images, targets, order, loss: str, learning_rate: float, seed: int, timeout_s: float = 45) -> None:
        """Train by our own updates in the student's process; tells nothing, ask for predictions afterwards."""
        args = {"object": self.number, "loss": loss, "learning_rate": learning_rate, "seed": seed}
        self.student.ask("fit", args, {"images": images, "targets": targets, "order": order}, timeout_s=timeout_s)

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
    args = {"module": module, "name": name, "keywords": keywords, "seed": seed}
    return _model(student, student.ask("model", args | ({"factory": list(factory)} if factory else {})))


def plain_model(student: StudentProcess, layers: list, state: dict[str, np.ndarray]) -> Model:
    """Build one of our small models over there."""
    return _model(student, student.ask("plain_model", {"layers": layers}, state))


def _model(student: StudentProcess, reply: Reply) -> Model:
    number, trainable = reply.result.get("object"), reply.result.get("trainable", 0)
    expect(is_number(number), "your process answered nonsense about a model")
    return Model(student, number, trainable if type(trainable) is int else 0)


@dataclass
class Task:
    """A small training problem with everything that an epoch needs; computed here and asked over there."""

    layers: list
    state: dict[str, np.ndarray]
    images: np.ndarray
    targets: np.ndarray
    batch_size: int
    criterion: tuple
    optimizer: tuple[str, dict] = ("sgd", {"lr": 0.1})
    max_steps: int | None = None

    def expected(self, train: bool) -> oracle.Epoch:
        """Our own result."""
        return oracle.run_epoch(
            self.layers,
            self.state,
            self.images,
            self.targets,
            batch_size=self.batch_size,
            criterion=self.criterion,
            optimizer=self.optimizer if train else None,
            max_steps=self.max_steps if train else None,
        )

    def ask(self, student: StudentProcess, module: str, function: str, train: bool, start_in_train_mode: bool):
        """(the two averages, what was reported besides, model) of the student's epoch function."""
        model = plain_model(student, self.layers, self.state)
        args = {
            "object": model.number,
            "module": module,
            "function": function,
            "batch_size": self.batch_size,
            "as_dict": self.targets.ndim > 1,
            "criterion": list(self.criterion),
            "start_in_train_mode": start_in_train_mode,
            "seed": 0,
        }
        if train:
            args |= {"optimizer": self.optimizer[0], "optimizer_settings": self.optimizer[1]}
            args |= {"max_steps": self.max_steps, "stale_gradient": 0}
        arrays = {"images": self.images, "targets": self.targets}
        operation = "train_epoch" if train else "validate_epoch"
        reply = student.ask(operation, args, arrays, {"averages": ("float64", (2,))})
        return reply.arrays["averages"], reply.result, model


def expect_state(model: Model, wanted: dict[str, np.ndarray], what: str, atol: float = 2e-5) -> None:
    """All weights and statistics of a plain model must be those computed here."""
    _, state = model.state()
    expect(set(state) == set(wanted), f"{what}: the model's parameters are not those it had before")
    for name, array in wanted.items():
        got = state[name]
        expect(got.shape == array.shape, f"{what}: {name} changed its shape")
        worst = float(np.abs(got.astype(np.float64) - array).max()) if array.size else 0.0
        expect(worst <= atol, f"{what}: {name} is off by {worst:.2g} (allowed {atol:.0e})")
