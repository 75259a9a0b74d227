"""What the worker can be asked to do. Each operation gets (worker, arguments, arrays) and returns (JSON, arrays).

There is no ready-made training loop here that a submission could borrow: `op_fit` updates weights by hand, without an
optimizer, a loader or averages.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.parameter import is_lazy

from staff.student_side.answers import Answer, Arrays, pack, to_array, unpack_argument
from staff.student_side.epochs import (  # noqa: F401 -- the worker finds every operation here
    op_capture_criterion,
    op_train_epoch,
    op_train_model,
    op_validate_epoch,
)
from staff.student_side.plain_models import build_plain
from staff.student_side.skips import op_ablate_smallest, op_largest_kernel  # noqa: F401 -- as above

if TYPE_CHECKING:
    from staff.student_side.worker import Worker

SIDE = 28
CHUNK = 128  # images that are predicted at once
FEW = 8  # images that are asked whether a model's answers stay the same
SAME = 1e-3  # of their spread


def op_import(worker: Worker, spec: dict, arrays: Arrays) -> Answer:
    """Import one module of the submission."""
    worker.module(spec["module"])
    return None, {}


def op_model(worker: Worker, spec: dict, arrays: Arrays) -> Answer:
    """Build one of the student's models after seeding: by `factory` (function, argument), else class and keywords."""
    torch.manual_seed(spec["seed"])
    module, factory = worker.module(spec["module"]), spec.get("factory")
    if factory and hasattr(module, factory[0]):  # builds it with the student's own settings, as their main does
        model = getattr(module, factory[0])(factory[1])
    else:
        model = getattr(module, spec["name"])(**spec.get("keywords", {}))
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"{spec['name']} gave {type(model).__name__}, expected a torch.nn.Module")
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):  # nn.LazyLinear and its like
        with torch.no_grad():
            model.eval()(torch.zeros(2, spec.get("channels", 3), SIDE, SIDE))
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"object": worker.keep(model), "trainable": trainable}, {}


def op_plain_model(worker: Worker, spec: dict, arrays: Arrays) -> Answer:
    """Build one of the grader's small models with the weights given."""
    model = build_plain(spec["layers"])
    model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    return {"object": worker.keep(model)}, {}


def op_state(worker: Worker, spec: dict, arrays: Arrays) -> Answer:
    """All weights and statistics of a model, whether it is in train mode, and which gradients are set and not zero."""
    model = worker.objects[spec["object"]]
    state = {name: to_array(tensor, name) for name, tensor in model.state_dict().items()}
    gradients = [n for n, p in model.named_parameters() if p.grad is not None and bool((p.grad != 0).any())]
    return {"training": bool(model.training), "gradients": gradients}, state


def op_forward(worker: Worker, spec: dict, arrays: Arrays) -> Answer:
    """Outputs for a batch of images, in the mode asked for. In evaluation mode large batches are cut into chunks.

    passes: that many times, and the last outputs count. In training mode that moves the statistics of BatchNorm.
    """
    model = worker.objects[spec["object"]]
    model.train(spec.get("training", False))
    images = torch.from_numpy(arrays["images"])
    chunks = [images] if len(images) <= 2 * CHUNK else images.split(CHUNK)
    with torch.no_grad():
        for _ in range(spec.get("passes", 1)):
            torch.manual_seed(spec.get("seed", 0))
            outputs = [to_array(model(chunk)) for chunk in chunks]
    return None, {"output": np.concatenate(outputs) if len(outputs) > 1 else outputs[0]}


def op_settle(worker: Worker, spec: dict, arrays: Arrays) -> Answer:
    """Give BatchNorm the statistics of these images.

    It starts with a variance of 1, far above that of a new layer; after 20 passes what is left of it adds up over the
    layers of a deep network until the last ones are dead. So nn.BatchNorm forgets it and averages.

    passes: of the images, at most, for statistics that the student's own code keeps; it ends when the model's answers
    stay the same, which is after two with nn.BatchNorm.
    """
    model, images = worker.objects[spec["object"]], torch.from_numpy(arrays["images"])
    norms = [one for one in model.modules() if isinstance(one, torch.nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the average of all passes

    def passed(training: bool, batch: torch.Tensor) -> np.ndarray:
        torch.manual_seed(0)
        with torch.no_grad():
            return to_array(model.train(training)(batch))

    before = passed(False, images[:FEW])
    for _ in range(spec["passes"]):
        passed(True, images)
        after = passed(False, images[:FEW])
        if np.abs(after - before).max() <= SAME * after.std():
            break
        before = after
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return None, {}


def op_gradients(worker: Worker, spec: dict, arrays: Arrays) -> Answer:
    """Largest absolute gradient of each trainable parameter for the loss sum(weights * output)."""
    model = worker.objects[spec["object"]]
    model.train()
    model.zero_grad()
    output = model(torch.from_numpy(arrays["images"]))
    (output * torch.from_numpy(arrays["weights"])).sum().backward()
    largest = {n: 0.0 if p.grad is None else float(p.grad.abs().max()) for n, p in model.named_parameters()}
    return {"names": list(largest)[:400]}, {"largest": np.array(list(largest.values())[:400], dtype=np.float64)}


def op_fit(worker: Worker, spec: dict, arrays: Arrays) -> Answer:
    """Adam's update by hand on batches `order` (S, B) of images and targets; says nothing about how well it went.

    cpu_s: it ends after this many seconds of processor time; a wide network is judged by what it has learned by then.
    """
    model = worker.objects[spec["object"]]
    model.train()
    torch.manual_seed(spec["seed"])
    images, targets = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["targets"])
    weights = [p for p in model.parameters() if p.requires_grad]
    first, second = [torch.zeros_like(w) for w in weights], [torch.zeros_like(w) for w in weights]
    deadline = time.process_time() + spec["cpu_s"]
    for step, picked in enumerate(torch.from_numpy(arrays["order"]), 1):
        if time.process_time() > deadline:
            break
        output = model(images[picked])
        if spec["loss"] == "cross_entropy":
            loss = torch.nn.functional.cross_entropy(output, targets[picked])
        else:
            wanted = targets[picked]
            loss = torch.nn.functional.binary_cross_entropy(output.clamp(1e-6, 1 - 1e-6), wanted)
            loss = loss + 1 - (2 * (output * wanted).sum() + 1) / (output.sum() + wanted.sum() + 1)
        slopes = torch.autograd.grad(loss, weights, allow_unused=True)
        with torch.no_grad():
            for weight, slope, mean, square in zip(weights, slopes, first, second, strict=True):
                if slope is None:
                    continue
                mean.mul_(0.9).add_(slope, alpha=0.1)
                square.mul_(0.999).addcmul_(slope, slope, value=0.001)
                scale = (square / (1 - 0.999**step)).sqrt_().add_(1e-8)
                weight.addcdiv_(mean / (1 - 0.9**step), scale, value=-spec["learning_rate"])
    return None, {}


def op_new_criterion(worker: Worker, spec: dict, arrays: Arrays) -> Answer:
    """Build one of the student's losses."""
    return {"object": worker.keep(getattr(worker.module(spec["module"]), spec["name"])(**spec["keywords"]))}, {}


def op_loss(worker: Worker, spec: dict, arrays: Arrays) -> Answer:
    """Value of a criterion for `pred` and `target`, and its gradient with respect to `pred`."""
    pred = torch.from_numpy(arrays["pred"]).requires_grad_()
    value = worker.objects[spec["object"]](pred, torch.from_numpy(arrays["target"]))
    if not isinstance(value, torch.Tensor) or value.ndim != 0:
        raise TypeError("the loss is not a tensor with a single value (reduce it with a mean)")
    value.backward()
    gradient = torch.zeros_like(pred) if pred.grad is None else pred.grad
    return None, {"value": to_array(value).astype(np.float64), "gradient": to_array(gradient)}


def op_call(worker: Worker, spec: dict, arrays: Arrays) -> Answer:
    """Whatever a function of the student's returns for plain arguments and arrays; see staff/grader/functions.py."""
    function = getattr(worker.module(spec["module"]), spec["function"])
    torch.manual_seed(spec.get("seed", 0))
    given = [unpack_argument(value, arrays, spec["as_tensors"]) for value in spec["arguments"]]
    named = {name: unpack_argument(value, arrays, spec["as_tensors"]) for name, value in spec["keywords"].items()}
    found: Arrays = {}
    return {"value": pack(function(*given, **named), found)}, found


def op_load_checkpoint(worker: Worker, spec: dict, arrays: Arrays) -> Answer:
    """Build the model that a submitted checkpoint names (else the default one) and load its weights."""
    from toolkit.weights import fit_weights, read_weights  # late: it lies in the submission's tree, with all provided

    weights, content = read_weights(os.path.join(worker.folder, spec["file"]))
    named = content.get("model_name")
    name = named if isinstance(named, str) else spec["default"]
    model = getattr(worker.module(spec["module"]), spec["factory"])(name)
    fit_weights(model, weights, spec["file"], name)
    return {"object": worker.keep(model)}, {}


def op_forget(worker: Worker, spec: dict, arrays: Arrays) -> Answer:
    """Drop all objects."""
    worker.objects.clear()
    return None, {}
