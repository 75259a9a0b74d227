"""Checks that both parts share: an epoch and a history against our own arithmetic, 100-step gates, checkpoints."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from staff.grader import oracle
from staff.grader.client import CheckFailed, Model, StudentProcess, expect, expect_close, plain_model, student_model

TINY_RATE = 1e-12  # leaves the weights as they are, so that every figure of the history is known


@dataclass
class Part:
    """What differs between Part 1 and Part 2."""

    module: str
    function: str
    models: str  # module of the models, their names by kind, and the function that builds one of a kind
    names: dict[str, str]
    factory: str
    metric: str  # as in the history: val_acc, val_iou
    layers: list
    draw: Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]
    loss: Callable[[np.ndarray, np.ndarray], float] | None
    criterion: tuple  # of `loss`; any if the choice is the student's
    epochs: dict[str, str]  # names of the functions for "train" and "val"
    score: Callable[[np.ndarray, np.ndarray], list[float]]

    @property
    def keys(self) -> list[str]:
        """Names of the history's lists."""
        return ["train_loss", f"train_{self.metric}", "val_loss", f"val_{self.metric}"]


@dataclass
class Problem:
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


def _train(student: StudentProcess, part: Part, model: Model, train, val, batch_size: int, timeout_s=None, **keywords):
    arrays = {"train_images": train[0], "train_targets": train[1], "val_images": val[0], "val_targets": val[1]}
    args = {"object": model.number, "module": part.module, "function": part.function, "batch_size": batch_size}
    args |= {"as_dict": train[1].ndim > 1, "keywords": keywords, "seed": 0}
    return student.ask("train_model", args, arrays, timeout_s=timeout_s)


def check_history(student: StudentProcess, rng: np.random.Generator, part: Part) -> None:
    """Three epochs that cannot change the weights: every figure is known, and the four differ from each other."""
    state = oracle.new_state(part.layers, int(rng.integers(2**31)))
    model, ours = plain_model(student, part.layers, state), oracle.build(part.layers, state).eval()
    train, val = part.draw(rng, 24), part.draw(rng, 16)
    settings = {"epochs": 3, "learning_rate": TINY_RATE, "max_steps_per_epoch": 2}
    reply = _train(student, part, model, train, val, 8, **settings)
    missing = [key for key in part.keys if key not in reply.arrays]
    expect(not missing, f"the history has no list {', '.join(missing)}")
    seen = {"train": (train[0][:16], train[1][:16]), "val": val}
    own = _own_averages(student, part, Problem(part.layers, state, *train, 8, part.criterion, max_steps=2), val)
    for key in part.keys:
        values = reply.arrays[key]
        expect(values.shape == (3,), f"history[{key!r}] has {values.size} values after 3 epochs")
        expect(np.isfinite(values).all(), f"history[{key!r}] holds NaN or infinite values")
        images, targets = seen[key.split("_")[0]]
        output = _outputs(ours, images)
        if key.endswith("loss") and part.loss is None:
            continue
        wanted = part.loss(output, targets) if key.endswith("loss") else float(np.mean(part.score(output, targets)))
        for value in values:
            expect_close(float(value), (wanted, *own[key]), 2e-3, f"history[{key!r}] of a model that does not change")


def _own_averages(student: StudentProcess, part: Part, problem: Problem, val) -> dict[str, tuple[float, ...]]:
    """Key of the history -> what the student's own epoch function returns for it, or nothing.

    A wrong average costs points of the epoch function's TODO. A history that holds what the function returned is right.
    """
    found: dict[str, tuple[float, ...]] = dict.fromkeys(part.keys, ())
    held_out = dataclasses.replace(problem, images=val[0], targets=val[1], max_steps=None)
    for split, epoch in (("train", problem), ("val", held_out)):
        still = dataclasses.replace(epoch, optimizer=("sgd", {"lr": TINY_RATE}))
        with contextlib.suppress(CheckFailed):  # its own checks say why
            averages = still.ask(student, part.module, part.epochs[split], split == "train", split == "train")[0]
            found[f"{split}_loss"], found[f"{split}_{part.metric}"] = (float(averages[0]),), (float(averages[1]),)
    return found


def _outputs(model, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(images)).numpy()


def check_validation_data_unused(student: StudentProcess, rng: np.random.Generator, part: Part) -> None:
    """The weights after training must not depend on the validation data, and must depend on the training data."""
    state = oracle.new_state(part.layers, int(rng.integers(2**31)))
    train, ends = part.draw(rng, 32), []
    for _ in range(2):
        model = plain_model(student, part.layers, state)
        _train(student, part, model, train, part.draw(rng, 16), 8, epochs=2, learning_rate=0.01, max_steps_per_epoch=4)
        ends.append(model.state()[1])
    expect(set(ends[0]) == set(ends[1]) == set(state), "the model's parameters are not those it had before")
    changed = max(float(np.abs(ends[0][name] - state[name]).max()) for name in state)
    expect(changed > 1e-4, "training leaves the weights as they were")
    apart = max(float(np.abs(ends[0][name] - ends[1][name]).max()) for name in state)
    expect(apart < 1e-3, "the trained weights depend on the validation data")


def after_100_steps(student, rng, part: Part, hidden, gate, kind: str, number: int) -> float:
    """100 steps of 32 with the student's own training function from start `number`, scored here on hidden images.

    The model comes from the student's factory, as in the mains: its width there is their choice.
    """
    train = hidden.training(rng, 3200) if part.metric == "acc" else hidden.boxes(rng, "train", 3200)
    val = hidden.training(rng, 64) if part.metric == "acc" else hidden.boxes(rng, "train", 64)
    model = student_model(student, part.models, part.names[kind], seed=number, factory=(part.factory, kind))
    settings = {"epochs": 1, "learning_rate": 0.001, "max_steps_per_epoch": 100}
    _train(student, part, model, train, val, 32, timeout_s=gate.timeout_s, **settings)
    return score(model, part, hidden, rng)


def check_gate(student, rng, part: Part, hidden, gate, kind: str, record) -> None:
    """The figure after 100 steps must reach the gate."""

    def attempt(number: int) -> float:
        return after_100_steps(student, rng, part, hidden, gate, kind, number)

    gate.apply(attempt, record, f"{part.names[kind]} after 100 steps of 32")


def score(model: Model, part: Part, hidden, rng, split: str = "test", limit: int = 1000) -> float:
    """Accuracy or mean IoU on moved hidden images; their labels and masks never leave this process.

    A generator of their own: what the student's process was sent before tells nothing about the order of the images.
    """
    rng = rng.spawn(1)[0]
    if part.metric == "acc":
        images, labels = hidden.evaluation(rng, split, limit)
        return float((model(images, 9).argmax(axis=1) == labels).mean())
    images, masks = hidden.boxes(rng, split, 400)
    return float(np.mean(oracle.iou(model(images), masks)))


def checkpoint_model(student: StudentProcess, place, file: str, part: Part, default: str) -> Model:
    """The model of a submitted checkpoint."""
    if not (place.tree / file).exists():
        raise CheckFailed(f"no {file} was handed in")
    args = {"module": part.models, "factory": part.factory, "default": default, "file": file}
    reply = student.ask("load_checkpoint", args)
    number = reply.result.get("object")
    expect(type(number) is int, "your process answered nonsense about the checkpoint")
    return Model(student, number)
