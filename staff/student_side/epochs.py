"""Operations that run the student's loops: epochs, whole trainings, and what a training does to its optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import DataLoader, Dataset

from staff.student_side.answers import Answer, Arrays, to_numbers
from staff.student_side.plain_models import build_criterion, build_optimizer

if TYPE_CHECKING:
    from staff.student_side.worker import Worker

UNSEEN_CHANNEL = (
    2  # zero in all images of a training whose optimizer is watched: the loss says nothing about its weights
)


class ArrayDataset(Dataset):
    """Images and targets as tuples, or as the dicts that the box data set yields.

    passes: the targets are (passes, N, ...), and each time through the loader has its own.
    """

    def __init__(self, images: np.ndarray, targets: np.ndarray, as_dict: bool, passes: int = 0) -> None:
        self.images, self.all_targets = torch.from_numpy(images), torch.from_numpy(targets)
        self.as_dict, self.passes = as_dict, passes
        self.start_pass(0)

    def start_pass(self, number: int) -> None:
        """Yield the targets of pass `number` from now on; the last ones again when there are no more."""
        self.targets = self.all_targets[min(number, self.passes - 1)] if self.passes else self.all_targets

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple | dict:
        image, target = self.images[index], self.targets[index]
        if not self.as_dict:
            return image, target
        return {"image": image, "mask": target, "pathmnist_label": torch.tensor(0), "has_box": torch.tensor(True)}


class CountingLoader(DataLoader):
    """A DataLoader that counts the batches that it handed out and how often it was gone through.

    on_start: called each time that it is begun.
    """

    drawn = started = 0
    on_start = staticmethod(lambda: None)

    def __iter__(self):
        self.dataset.start_pass(self.started)
        self.started += 1
        self.on_start()
        for batch in super().__iter__():
            self.drawn += 1
            yield batch


def make_loader(arrays: Arrays, prefix: str, spec: dict) -> CountingLoader:
    """The arrays `<prefix>images` and `<prefix>targets` in their order, in batches of spec['batch_size']."""
    of_data = (spec.get("as_dict", False), spec.get("passes", 0))
    data = ArrayDataset(arrays[f"{prefix}images"], arrays[f"{prefix}targets"], *of_data)
    return CountingLoader(data, batch_size=spec["batch_size"], shuffle=False)


def op_train_epoch(worker: Worker, spec: dict, arrays: Arrays) -> Answer:
    """The student's training epoch, `epochs` times with one optimizer: the last two averages, and batches drawn."""
    model = worker.objects[spec["object"]]
    model.train(spec["start_in_train_mode"])
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, spec["stale_gradient"]) if spec["stale_gradient"] else None
    optimizer = build_optimizer(spec["optimizer"], model, spec["optimizer_settings"])
    criterion = build_criterion(*spec["criterion"])
    loader = make_loader(arrays, "", spec)
    function = getattr(worker.module(spec["module"]), spec["function"])
    torch.manual_seed(spec["seed"])
    keywords = {} if spec["max_steps"] is None else {"max_steps": spec["max_steps"]}
    for _epoch in range(spec.get("epochs", 1)):
        averages = function(model, loader, optimizer, criterion, torch.device("cpu"), **keywords)
    return {"drawn": loader.drawn}, {"averages": to_numbers(averages, 2, spec["function"])}


def op_validate_epoch(worker: Worker, spec: dict, arrays: Arrays) -> Answer:
    """The student's validation epoch: two averages, and whether autograd was on while the model ran."""
    model = worker.objects[spec["object"]]
    model.train(spec["start_in_train_mode"])
    grad_enabled = []
    hook = model.register_forward_pre_hook(lambda module, inputs: grad_enabled.append(torch.is_grad_enabled()))
    loader = make_loader(arrays, "", spec)
    function = getattr(worker.module(spec["module"]), spec["function"])
    try:
        averages = function(model, loader, build_criterion(*spec["criterion"]), torch.device("cpu"))
    finally:
        hook.remove()
    return {"grad_enabled": any(grad_enabled)}, {"averages": to_numbers(averages, 2, spec["function"])}


def op_train_model(worker: Worker, spec: dict, arrays: Arrays) -> Answer:
    """The student's whole training function with the base arguments; lists of its history, and its optimizers."""
    model = worker.objects[spec["object"]]
    torch.manual_seed(spec["seed"])
    loaders = make_loader(arrays, "train_", spec), make_loader(arrays, "val_", spec)
    function = getattr(worker.module(spec["module"]), spec["function"])
    watch = OptimizerWatch(model)
    loaders[1].on_start = watch.note_validation
    hook = register_optimizer_step_pre_hook(watch.note_step)
    try:
        history = function(model, *loaders, **spec["keywords"])
    finally:
        hook.remove()
    if not isinstance(history, dict):
        raise TypeError(f"{spec['function']} returned {type(history).__name__}, expected a dict of lists")
    values = {}
    for key in spec["keys"]:  # what else it holds is the student's own
        items = history.get(key)
        if isinstance(items, (list, tuple)) and len(items) <= 1000:
            values[key] = to_numbers(items, len(items), f"history[{key!r}]")
    return {"optimizers": watch.report()}, values


class OptimizerWatch:
    """What all optimizers do with the first weights of `model`, which are those of its first layer."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.weight = next(model.parameters())
        self.optimizers: list[torch.optim.Optimizer] = []  # kept, so that no new one gets the id of an old one
        self.steps, self.validated_steps, self.decay, self.penalty = 0, 0, 0.0, 0.0

    def note_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Before each step of any optimizer of this process."""
        for group in optimizer.param_groups:
            if any(weight is self.weight for weight in group["params"]):
                self.steps += 1
                self.decay = max(self.decay, float(group.get("weight_decay", 0.0)))
                self.penalty = max(self.penalty, self._likeness())
                if not any(optimizer is known for known in self.optimizers):
                    self.optimizers.append(optimizer)

    def note_validation(self) -> None:
        """The validation images are gone through: whatever was learned so far is looked at."""
        self.validated_steps = self.steps

    def _likeness(self) -> float:
        """How much the gradient of weights that no image touches points along these weights, in [-1, 1].

        The loss of the images gives them none; a penalty on the weights gives a multiple of the weights.
        """
        if self.weight.grad is None:
            return 0.0
        both = (self.weight.detach(), self.weight.grad.detach())
        w, g = (t.reshape(len(t), 3, -1)[:, UNSEEN_CHANNEL].flatten().double() for t in both)
        return float((w @ g) / (w.norm() * g.norm())) if g.abs().max() > 0 else 0.0

    def report(self) -> dict:
        """Steps taken, those of them after the last validation, optimizers, largest decay, likeness to a penalty."""
        late = self.steps - self.validated_steps
        return {
            "steps": self.steps,
            "late": late,
            "count": len(self.optimizers),
            "decay": self.decay,
            "penalty": self.penalty,
        }


class _Captured(Exception):
    """Leaves the student's training function once its criterion is known."""


def op_capture_criterion(worker: Worker, spec: dict, arrays: Arrays) -> Answer:
    """Run the training function until it calls its epoch function, and keep the criterion that it passes."""
    module = worker.module(spec["module"])
    caught: list[object] = []

    def recorder(*positional: object, **keywords: object) -> None:
        caught.append(keywords.get("criterion", positional[3] if len(positional) > 3 else None))
        raise _Captured

    original = getattr(module, spec["epoch_function"])
    setattr(module, spec["epoch_function"], recorder)
    loaders = make_loader(arrays, "train_", spec), make_loader(arrays, "val_", spec)
    try:
        getattr(module, spec["function"])(worker.objects[spec["object"]], *loaders, epochs=1, max_steps_per_epoch=1)
    except _Captured:
        pass
    finally:
        setattr(module, spec["epoch_function"], original)
    criterion = caught[0] if caught else None
    return {"object": worker.keep(criterion), "called": bool(caught), "type": type(criterion).__name__[:60]}, {}
