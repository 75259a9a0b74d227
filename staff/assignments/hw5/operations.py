"""What the worker can be asked for Homework 5 only: its functions on drawn data, as plain arrays."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import nn

from staff.student_side.answers import Answer, Arrays, to_array, to_numbers
from staff.student_side.epochs import make_loader

if TYPE_CHECKING:
    from staff.student_side.worker import Worker

MODULE, EVALUATION = "labs.hw5_pneumonia.hw5_dl", "labs.hw5_pneumonia.hw5_evaluate"
SPLITS = ("train", "val", "test")


class Split(NamedTuple):
    """As the toolkit's, which lies in the submission's tree and cannot be imported before it is there."""

    images: torch.Tensor
    labels: torch.Tensor
    file: None = None


class DrawnSource:
    """Stands for the toolkit's Source; `read` gives the arrays {split}_images and {split}_labels."""

    name = origin = "drawn"
    class_names = ("normal", "pneumonia")

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays

    def read(self, split: str) -> object:
        return Split(*(torch.from_numpy(self.arrays[f"{split}_{part}"]) for part in ("images", "labels")))


def _scratch() -> Path:
    return Path(tempfile.mkdtemp())


def op_loaders(worker: Worker, spec: dict, arrays: Arrays) -> Answer:
    """Images and labels in the order of each loader; of the training loader a second epoch, too.

    `augment` is another TODO: here it is replaced, and halves what it is given.
    """
    module = worker.module(MODULE)
    found: Arrays = {}
    with mock.patch.object(module, "augment", lambda images, generator=None: images / 2):
        loaders = module.make_dataloaders(DrawnSource(arrays), spec["batch_size"], spec["seed"], spec["augmented"])
        for split in SPLITS:
            for epoch in range(2 if split == "train" else 1):
                batches = list(loaders[split])
                found[f"{split}{epoch}_images"] = to_array(torch.cat([images for images, _ in batches]))
                found[f"{split}{epoch}_labels"] = to_array(torch.cat([labels for _, labels in batches]))
                found[f"{split}{epoch}_sizes"] = np.array([len(labels) for _, labels in batches])
    return None, found


def op_explore(worker: Worker, spec: dict, arrays: Arrays) -> Answer:
    """Images a class of each split, (3, 2)."""
    source = DrawnSource(arrays)
    counts = worker.module(MODULE).explore({s: source.read(s) for s in SPLITS}, source.class_names, _scratch())
    return None, {"counts": np.array([[int(n) for n in counts[split]] for split in SPLITS])}


def op_augment(worker: Worker, spec: dict, arrays: Arrays) -> Answer:
    """Augmented images, and the input as it is afterwards. other_seed: of PyTorch's own generator."""
    torch.manual_seed(spec["other_seed"])
    images = torch.from_numpy(arrays["images"])
    generator = torch.Generator().manual_seed(spec["seed"])
    output = worker.module(MODULE).augment(images, generator)
    return None, {"output": to_array(output), "input": to_array(images)}


def op_layers(worker: Worker, spec: dict, arrays: Arrays) -> Answer:
    """Names of a model's layers, and of torch's functions that run in its forward."""
    model = worker.objects[spec["object"]].eval()
    with torch.no_grad(), _Calls() as calls:
        model(torch.from_numpy(arrays["images"]))
    return {"names": [type(module).__name__ for module in model.modules()][:500], "calls": calls.names[:2000]}, {}


class _Calls(torch.overrides.TorchFunctionMode):
    """Notes the functions that run, whether modules call them or the student's forward does."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.names.append(getattr(function, "__name__", "").rstrip("_")[:40])
        return function(*args, **(kwargs or {}))


def op_train_by_script(worker: Worker, spec: dict, arrays: Arrays) -> Answer:
    """The history of a training in which the validation labels are those of the script, (epochs, N), for each epoch.

    Validation that comes after training is that of a new epoch, however often a loop goes through either.
    """
    train = make_loader(arrays, "train_", {"batch_size": 8})
    val = make_loader(arrays, "val_", {"batch_size": 8, "passes": len(arrays["val_targets"])})
    starts: list[int] = []  # how often training had begun when each epoch was validated

    def start() -> None:
        if train.started not in starts:
            starts.append(train.started)
        val.dataset.start_pass(len(starts) - 1)

    val.on_start = start
    torch.manual_seed(0)
    history = worker.module(MODULE).train(worker.objects[spec["object"]], train, val, **spec["keywords"])
    return None, {name: to_numbers(history[name], len(history[name]), name) for name in spec["keys"]}


def op_plot_training(worker: Worker, spec: dict, arrays: Arrays) -> Answer:
    """best_epoch, loss_gap and loss_rise of a history."""
    history = {name: values.tolist() for name, values in arrays.items()}
    verdict = worker.module(MODULE).plot_training(history, "history", _scratch() / "curves.png")
    return None, _numbers(verdict, ("best_epoch", "loss_gap", "loss_rise"))


def set_geometry(convolution: nn.Module, geometry: Mapping[str, list[int]]) -> None:
    """Give a convolution another stride, padding or dilation than plain models have."""
    for name, value in geometry.items():
        setattr(convolution, name, tuple(value))


def op_trainable(worker: Worker, spec: dict, arrays: Arrays) -> Answer:
    """Names of the parameters of a model that require no gradient."""
    parameters = worker.objects[spec["object"]].named_parameters()
    return {"frozen": [name for name, weight in parameters if not weight.requires_grad]}, {}


def op_adapt(worker: Worker, spec: dict, arrays: Arrays) -> Answer:
    """Features before the head of an adapted copy of a plain model for three channels, its logits and first weights."""
    backbone = worker.objects[spec["object"]]
    set_geometry(backbone[0], spec["geometry"])
    model = worker.module(MODULE).adapt_backbone(backbone, spec["num_classes"]).eval()
    heads = [module for module in model.modules() if isinstance(module, nn.Linear)]
    features: list[torch.Tensor] = []
    heads[-1].register_forward_pre_hook(lambda _module, inputs: features.append(inputs[0]))
    with torch.no_grad():
        logits = model(torch.from_numpy(arrays["images"]))
    return None, {"features": to_array(features[0]), "logits": to_array(logits)}


def op_table(worker: Worker, spec: dict, arrays: Arrays) -> Answer:
    """The comparison table as text."""
    return {"text": worker.module(EVALUATION).comparison_table(spec["rows"])}, {}


def op_evaluate(worker: Worker, spec: dict, arrays: Arrays) -> Answer:
    """The metrics named in spec."""
    found = worker.module(EVALUATION).evaluate(arrays["probabilities"], arrays["labels"], spec["threshold"])
    return None, _numbers(found, spec["names"])


def op_areas(worker: Worker, spec: dict, arrays: Arrays) -> Answer:
    """AUC and average precision of two models, (2, 2)."""
    probabilities = {name: arrays[name] for name in ("first", "second")}
    thresholds = dict.fromkeys(probabilities, 0.5)
    path = _scratch() / "curves.png"
    areas = worker.module(EVALUATION).plot_roc_and_pr(probabilities, arrays["labels"], thresholds, path)
    return None, {"areas": np.array([[float(v) for v in areas[name]] for name in probabilities])}


def op_cases(worker: Worker, spec: dict, arrays: Arrays) -> Answer:
    """Indices of each kind."""
    cases = worker.module(EVALUATION).sort_cases(arrays["probabilities"], arrays["labels"], spec["threshold"])
    return None, {kind: np.array([int(i) for i in cases[kind]], np.int64) for kind in ("TP", "TN", "FP", "FN")}


def op_filters(worker: Worker, spec: dict, arrays: Arrays) -> Answer:
    """Weights of the first convolution of a plain model, as plot_filters returns them."""
    weights = worker.module(EVALUATION).plot_filters(worker.objects[spec["object"]], _scratch() / "filters.png")
    return None, {"weights": to_array(weights)}


def op_grad_cam(worker: Worker, spec: dict, arrays: Arrays) -> Answer:
    """Maps of a plain model at one of its layers; whether mode and gradients stayed as they were."""
    model = worker.objects[spec["object"]].train().requires_grad_(not spec["frozen"])
    set_geometry(model[spec["strided"]], {"stride": [2, 2]})
    images, targets = (torch.from_numpy(arrays[name]) for name in ("images", "targets"))
    maps = worker.module(EVALUATION).grad_cam(model, model[spec["layer"]], images, targets)
    clean = model.training and all(weight.grad is None for weight in model.parameters())
    return {"clean": clean, "hooks": len(model[spec["layer"]]._forward_hooks)}, {"maps": to_array(maps)}


def op_overlays(worker: Worker, spec: dict, arrays: Arrays) -> Answer:
    """Indices that plot_grad_cam returns, and what it asked grad_cam for: images and their targets."""
    module, model = worker.module(EVALUATION), worker.objects[spec["object"]].eval()
    asked: list[tuple[torch.Tensor, torch.Tensor]] = []

    def grad_cam(model: nn.Module, layer: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        asked.append((images.detach().clone(), torch.as_tensor(targets).detach().clone().reshape(-1)))
        return torch.linspace(0, 1, images[0, 0].numel()).view_as(images[0, 0]).repeat(len(images), 1, 1)

    images = torch.from_numpy(arrays["images"])
    figures = (arrays["labels"], arrays["probabilities"], spec["threshold"], _scratch() / "maps.png")
    with mock.patch.object(module, "grad_cam", grad_cam):
        indices = module.plot_grad_cam(model, model[spec["layer"]], images, *figures)
    found = {"indices": np.array([int(index) for index in indices], np.int64)}
    found["images"] = to_array(torch.cat([images for images, _ in asked] or [images[:0]]))
    found["targets"] = to_array(torch.cat([targets.long() for _, targets in asked] or [torch.zeros(0).long()]))
    return None, found


def _numbers(found: object, names: list[str] | tuple[str, ...]) -> Arrays:
    """The values of a returned dict in the order of `names`."""
    if not isinstance(found, Mapping):
        raise TypeError(f"a {type(found).__name__} was returned, expected a dict")
    missing = [name for name in names if name not in found]
    if missing:
        raise KeyError(f"the returned dict lacks {', '.join(missing)}")
    return {"values": np.array([float(found[name]) for name in names])}
