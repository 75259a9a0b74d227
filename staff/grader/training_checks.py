"""Checks that both parts share: an epoch and a history against our own arithmetic, 100-step gates, checkpoints."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from staff.grader import mistakes, oracle
from staff.grader.client import CheckFailed, NothingToCheckError, StudentError, StudentProcess, expect
from staff.grader.model import Model, made_model, plain_model, student_model

TINY_RATE = 1e-12  # leaves the weights as they are, so that every value of the history is known


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
    answer: Callable[[np.ndarray], np.ndarray]  # the targets that a model's outputs are right for

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
    epochs: int = 1

    def settings(self, train: bool) -> dict:
        """Arguments of oracle.run_epoch."""
        fixed = ("layers", "state", "images", "targets", "batch_size", "criterion")
        found = {name: getattr(self, name) for name in fixed}
        found |= {"optimizer": self.optimizer if train else None, "max_steps": self.max_steps if train else None}
        return found | {"epochs": self.epochs if train else 1}

    def expected(self, train: bool) -> oracle.Epoch:
        """Our own result."""
        return oracle.run_epoch(**self.settings(train))

    def loss_of(self, state: dict[str, np.ndarray]) -> float:
        """Average loss of a model with these weights, in evaluation mode."""
        return oracle.run_epoch(**self.settings(False) | {"state": state}).averages()["loss"][0]

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
            args |= {"max_steps": self.max_steps, "stale_gradient": 0, "epochs": self.epochs}
        arrays = {"images": self.images, "targets": self.targets}
        operation = "train_epoch" if train else "validate_epoch"
        reply = student.ask(operation, args, arrays, {"averages": ("float64", (2,))})
        return reply.arrays["averages"], reply.result, model

    def expect_weights(self, model: Model, what: str, atol: float = 2e-5) -> None:
        """The student's epoch left the weights that ours leaves; else the cause, if it is a usual one."""
        wanted, state = self.expected(True).state, model.state()[1]
        worst, name = _largest_difference(state, wanted, what)
        if worst > atol:
            cause = mistakes.cause_of_weights(self.settings(True), state, atol)
            raise CheckFailed(
                f"{cause or 'the weights are not those of forward, backward and step for each batch'}\n"
                f"{what}: {name} is off by {worst:.2g}"
            )

    def expect_averages(self, averages: np.ndarray, train: bool, what: str, tolerance: float = 2e-5) -> None:
        """Loss and metric are averages over samples or over batches; else the cause, if it is a usual one.

        tolerance: of the metric; the loss has 2e-5.
        """
        wanted, names = self.expected(train).averages(), ("loss", "accuracy" if self.targets.ndim == 1 else "IoU")
        for index, (key, allowed) in enumerate((("loss", 2e-5), ("metric", tolerance))):
            got = float(averages[index])
            if any(abs(got - value) <= allowed for value in wanted[key]):
                continue
            right = " or ".join(dict.fromkeys(f"{value:.5f}" for value in wanted[key]))
            cause = mistakes.cause_of_average(index, averages, self.settings(train))
            numbers = f"the average {names[index]} {what} is {got:.5f}, expected {right}"
            raise CheckFailed(f"{cause}\n{numbers}" if cause else numbers)


def _largest_difference(state: dict[str, np.ndarray], wanted: dict[str, np.ndarray], what: str) -> tuple[float, str]:
    expect(set(state) == set(wanted), f"{what}: the model's parameters are not those it had before")
    for name, array in wanted.items():
        expect(state[name].shape == array.shape, f"{what}: {name} changed its shape")
    worst = {n: float(np.abs(state[n].astype(np.float64) - array).max()) for n, array in wanted.items() if array.size}
    name = max(worst, key=worst.__getitem__)
    return worst[name], name


def expect_state(model: Model, wanted: dict[str, np.ndarray], what: str, atol: float = 2e-5) -> None:
    """All weights and statistics of a plain model must be those given."""
    worst, name = _largest_difference(model.state()[1], wanted, what)
    expect(worst <= atol, f"{what}: {name} is off by {worst:.2g} (allowed {atol:.0e})")


def _train(
    student: StudentProcess, part: Part, model: Model, train, val, batch_size: int, timeout_s=None, passes=0, **keywords
):
    """Ask for the student's whole training; passes: the targets have one more axis, see ArrayDataset of the worker."""
    arrays = {"train_images": train[0], "train_targets": train[1], "val_images": val[0], "val_targets": val[1]}
    args = {"object": model.number, "module": part.module, "function": part.function, "batch_size": batch_size}
    args |= {"as_dict": train[1].ndim > 2, "keywords": keywords, "seed": 0, "passes": passes}
    args |= {"keys": part.keys}
    return student.ask("train_model", args, arrays, timeout_s=timeout_s)


def check_history(student: StudentProcess, rng: np.random.Generator, part: Part) -> None:
    """Three epochs that cannot change the weights, over data that changes: every value is known, and all differ.

    Each pass has its own targets, and the best values come in the middle. So a history that keeps the best value, or
    one epoch's for all, is found out. Only the last epoch is no better than the one before: no reason to stop early.
    Turning or mirroring the batches changes nothing.
    """
    state = oracle.new_state(part.layers, int(rng.integers(2**31)))
    train, val = (_passes(rng, part, state, count, shares) for count, shares in ((24, TRAIN_SHARES), (16, VAL_SHARES)))
    model = plain_model(student, part.layers, state)
    settings = {"epochs": 3, "learning_rate": TINY_RATE, "max_steps_per_epoch": 2}
    reply = _train(student, part, model, train, val, 8, passes=3, **settings)
    missing = [key for key in part.keys if key not in reply.arrays]
    expect(not missing, f"the history has no list {', '.join(missing)}")
    own = _own_averages(student, part, state, train, val)
    for key in part.keys:
        values, data = reply.arrays[key], train if key.startswith("train") else val
        expect(values.shape == (3,), f"history[{key!r}] has {values.size} values after 3 epochs; append one per epoch")
        expect(np.isfinite(values).all(), f"history[{key!r}] holds NaN or infinite values")
        seen = slice(16) if key.startswith("train") else slice(None)  # two steps of 8
        wanted = [own[key][epoch : epoch + 1] for epoch in range(3)]
        if not key.endswith("loss") or part.loss is not None:
            wanted = [
                [*known, _figure(part, key, state, data[0][seen], data[1][epoch][seen])]
                for epoch, known in enumerate(wanted)
            ]
        for epoch in range(3):
            _expect_entry(key, values, epoch, wanted[epoch])


TRAIN_SHARES, VAL_SHARES = (0.4, 0.75, 0.55), (0.5, 0.8, 0.3)  # of targets that the model gets right, by epoch


def _passes(rng, part: Part, state, count: int, shares: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Images, and for each pass targets (passes, count, ...) of which the model gets a given share right."""
    images, other = part.draw(rng, count)
    right = part.answer(oracle.outputs(part.layers, state, images))
    position = np.arange(count) % 8 / 8 + 1 / 16  # the same share in each batch of 8
    chosen = [(position < share).reshape(-1, *[1] * (right.ndim - 1)) for share in shares]
    return images, np.stack([np.where(pick, right, other).astype(other.dtype) for pick in chosen])


def _figure(part: Part, key: str, state, images: np.ndarray, targets: np.ndarray) -> float:
    output = oracle.outputs(part.layers, state, images)
    return part.loss(output, targets) if key.endswith("loss") else float(np.mean(part.score(output, targets)))


def _expect_entry(key: str, values: np.ndarray, epoch: int, wanted: list[float]) -> None:
    """One value of the history must be one of those wanted, and not that of the epoch before; the cause comes first."""
    got, cause = float(values[epoch]), ""
    repeated = epoch > 0 and abs(got - float(values[epoch - 1])) < 1e-9
    if any(abs(got - value) <= 2e-3 for value in wanted) or (not wanted and not repeated):
        return
    if repeated:
        cause = "the history repeats the value of an earlier epoch; append what this epoch's functions returned\n"
    elif any(abs(got - 100 * value) <= 0.2 for value in wanted):
        cause = "the history is in percent; keep fractions between 0 and 1\n"
    right = " or ".join(dict.fromkeys(f"{value:.4f}" for value in wanted)) or "another value"
    what = "for a model that does not change and data that does"
    raise CheckFailed(f"{cause}history[{key!r}][{epoch}] is {got:.4f}, expected {right} ({what})")


def _own_averages(student: StudentProcess, part: Part, state, train, val) -> dict[str, list[float]]:
    """Key of the history -> what the student's own epoch function returns for it in each epoch, or nothing.

    A wrong average costs points of the epoch function's TODO. A history that holds what the function returned is right.
    """
    found: dict[str, list[float]] = {key: [] for key in part.keys}
    for split, data, steps in (("train", train, 2), ("val", val, None)):
        for targets in data[1]:
            still = Problem(part.layers, state, data[0], targets, 8, part.criterion, ("sgd", {"lr": TINY_RATE}), steps)
            with contextlib.suppress(CheckFailed):  # its own checks say why
                averages = still.ask(student, part.module, part.epochs[split], split == "train", split == "train")[0]
                found[f"{split}_loss"].append(float(averages[0]))
                found[f"{split}_{part.metric}"].append(float(averages[1]))
    known_loss = part.loss is not None  # else the criterion is the student's choice, and ours says nothing about it
    return {key: values if known_loss or not key.endswith("loss") else [] for key, values in found.items()}


def check_validation_data_unused(student: StudentProcess, rng: np.random.Generator, part: Part) -> None:
    """The weights after one epoch must not depend on the validation data, and must depend on the training data.

    One epoch, because a loop with early stopping may put back the weights of its best epoch, and a schedule may follow
    the validation loss: both look at validation data and train on none of it.
    """
    state = oracle.new_state(part.layers, int(rng.integers(2**31)))
    train, ends = part.draw(rng, 32), []
    for _ in range(2):
        model = plain_model(student, part.layers, state)
        _train(student, part, model, train, part.draw(rng, 16), 8, epochs=1, learning_rate=0.01, max_steps_per_epoch=4)
        ends.append(model.state()[1])
    expect(set(ends[0]) == set(ends[1]) == set(state), "the model's parameters are not those it had before")
    changed = max(float(np.abs(ends[0][name] - state[name]).max()) for name in state)
    expect(changed > 1e-4, "training leaves the weights as they were")
    still = [name for name in state if (ends[0][name] == state[name]).all()]
    expect(not still, f"training leaves {', '.join(still)} as it was: give the optimizer all of model.parameters()")
    apart = max(float(np.abs(ends[0][name] - ends[1][name]).max()) for name in state)
    expect(apart < 1e-3, "the trained weights depend on the validation data: it is trained on")


WEIGHT_DECAY = 0.02
OPTIMIZER_FACTS = ("steps", "late", "count", "decay", "penalty")


def check_optimizer(student: StudentProcess, rng: np.random.Generator, part: Part) -> None:
    """One optimizer, one step per batch, then validation, and the weight decay that was asked for, once. Reported.

    A training without a torch.optim.Optimizer is not judged.
    """
    state = oracle.new_state(part.layers, int(rng.integers(2**31)))
    train, val = part.draw(rng, 32), part.draw(rng, 16)
    train[0][:, 2] = 0.0  # see UNSEEN_CHANNEL of the worker
    model = plain_model(student, part.layers, state)
    settings = {"epochs": 2, "learning_rate": 0.001, "weight_decay": WEIGHT_DECAY, "max_steps_per_epoch": 3}
    found = _train(student, part, model, train, val, 8, **settings).result.get("optimizers")
    found = found if isinstance(found, dict) else {}
    steps, late, count, decay, penalty = facts = [found.get(name) for name in OPTIMIZER_FACTS]
    expect(all(type(value) in (int, float) for value in facts), "your process answered nonsense about its optimizers")
    if not steps:
        return
    expect(
        count == 1, f"{count} optimizers in 2 epochs: make one before the loop; a new one has forgotten its averages"
    )
    expect(steps == 6, f"{steps} optimizer steps in 2 epochs of 3 batches, expected 6")
    expect(not late, f"the last {late} training steps come after the last validation: validate after each epoch")
    in_loss = penalty > 0.99
    expect(decay or in_loss, f"weight_decay={WEIGHT_DECAY} has no effect: hand it to the optimizer")
    expect(not (decay and in_loss), "the weight decay is applied twice: by the optimizer and by a penalty in the loss")
    right = not decay or abs(decay - WEIGHT_DECAY) < 1e-9
    expect(right, f"weight_decay={WEIGHT_DECAY} reaches the optimizer as {decay:g}")


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
    """The metric after 100 steps must reach the gate."""

    def attempt(number: int) -> float:
        return after_100_steps(student, rng, part, hidden, gate, kind, number)

    gate.apply(attempt, record, f"{part.names[kind]} after 100 steps of 32")


def score(model: Model, part: Part, hidden, rng, split: str = "test", limit: int = 1000) -> float:
    """Accuracy or mean IoU on moved hidden images; their labels and masks never leave this process.

    Their own generator: what the student's process was sent before tells nothing about the order of the images.
    """
    rng = rng.spawn(1)[0]
    if part.metric == "acc":
        images, labels = hidden.evaluation(rng, split, limit)
        return float((model(images, model.num_classes).argmax(axis=1) == labels).mean())
    images, masks = hidden.boxes(rng, split, 400)
    return float(np.mean(oracle.iou(model(images), masks)))


def checkpoint_model(student: StudentProcess, place, file: str, part: Part, default: str) -> Model:
    """The model of a submitted checkpoint."""
    if not (place.tree / file).exists():
        raise NothingToCheckError(f"no {file} was handed in")
    args = {"module": part.models, "factory": part.factory, "default": default, "file": file}
    try:
        reply = student.ask("load_checkpoint", args)
    except StudentError as error:
        if error.kind == "UserError":  # of toolkit/weights.py: a whole sentence, with the cure
            raise NothingToCheckError(error.message) from None
        error.is_about_code = False
        raise
    return made_model(student, reply)
