"""What the worker can be asked to do. Each operation gets (worker, arguments, arrays) and returns (JSON, arrays).

There is no ready-made training loop here that a submission could borrow: `op_fit` updates weights by hand, without an
optimizer, a loader or averages.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from staff.student_side.plain_models import build_criterion, build_optimizer, build_plain
from staff.student_side.protocol import MAX_PAYLOAD_BYTES

if TYPE_CHECKING:
    from staff.student_side.worker import Worker

Arrays = dict[str, np.ndarray]
Answer = tuple[Any, Arrays]
CONVOLUTIONS = (torch.conv2d, torch.conv_transpose2d)
CHUNK = 128  # images that are predicted at once


def to_array(value: object, what: str = "output") -> np.ndarray:
    """A plain array of whatever the student's code returned; TypeError names what it was."""
    if isinstance(value, torch.Tensor):
        if value.numel() * value.element_size() > MAX_PAYLOAD_BYTES:
            raise ValueError(f"{what} has shape {tuple(value.shape)}, which is far too large")
        return np.array(value.detach().cpu().numpy())
    if isinstance(value, (bool, int, float, np.ndarray, np.number)):
        return np.array(value)
    raise TypeError(f"{what} is {type(value).__name__}, expected a tensor or a number")


def to_numbers(value: object, length: int, what: str) -> np.ndarray:
    """float64 of `length` numbers out of a returned tuple."""
    if not isinstance(value, (tuple, list)) or len(value) != length:
        raise TypeError(f"{what} returned {type(value).__name__}, expected a tuple of {length} numbers")
    return np.array([float(item) for item in value], dtype=np.float64)


class ArrayDataset(Dataset):
    """Images and targets as tuples, or as the dicts that the box data set yields."""

    def __init__(self, images: np.ndarray, targets: np.ndarray, as_dict: bool) -> None:
        self.images, self.targets, self.as_dict = torch.from_numpy(images), torch.from_numpy(targets), as_dict

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple | dict:
        image, target = self.images[index], self.targets[index]
        if not self.as_dict:
            return image, target
        return {"image": image, "mask": target, "pathmnist_label": torch.tensor(0), "has_box": torch.tensor(True)}


class CountingLoader(DataLoader):
    """A DataLoader that counts the batches it handed out."""

    drawn = 0

    def __iter__(self):
        for batch in super().__iter__():
            self.drawn += 1
            yield batch


def make_loader(arrays: Arrays, prefix: str, args: dict) -> CountingLoader:
    """The arrays `<prefix>images` and `<prefix>targets` in their order, in batches of args['batch_size']."""
    data = ArrayDataset(arrays[f"{prefix}images"], arrays[f"{prefix}targets"], args.get("as_dict", False))
    return CountingLoader(data, batch_size=args["batch_size"], shuffle=False)


def op_import(worker: Worker, args: dict, arrays: Arrays) -> Answer:
    """Import one module of the submission."""
    worker.module(args["module"])
    return None, {}


def op_model(worker: Worker, args: dict, arrays: Arrays) -> Answer:
    """Build one of the student's models after seeding: by `factory` (function, argument), else class and keywords."""
    torch.manual_seed(args["seed"])
    module, factory = worker.module(args["module"]), args.get("factory")
    if factory and hasattr(module, factory[0]):  # builds it with the student's own settings, as their main does
        model = getattr(module, factory[0])(factory[1])
    else:
        model = getattr(module, args["name"])(**args.get("keywords", {}))
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"{args['name']} gave {type(model).__name__}, expected a torch.nn.Module")
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"object": worker.keep(model), "trainable": trainable}, {}


def op_plain_model(worker: Worker, args: dict, arrays: Arrays) -> Answer:
    """Build one of the grader's small models with the weights given."""
    model = build_plain(args["layers"])
    model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    return {"object": worker.keep(model)}, {}


def op_state(worker: Worker, args: dict, arrays: Arrays) -> Answer:
    """All weights and statistics of a model, whether it is in train mode, and which gradients are set and not zero."""
    model = worker.objects[args["object"]]
    state = {name: to_array(tensor, name) for name, tensor in model.state_dict().items()}
    gradients = [n for n, p in model.named_parameters() if p.grad is not None and bool((p.grad != 0).any())]
    return {"training": bool(model.training), "gradients": gradients}, state


def op_forward(worker: Worker, args: dict, arrays: Arrays) -> Answer:
    """Outputs for a batch of images, in the mode asked for. In evaluation mode large batches are cut into chunks."""
    model = worker.objects[args["object"]]
    model.train(args.get("training", False))
    images = torch.from_numpy(arrays["images"])
    chunks = [images] if len(images) <= 2 * CHUNK else images.split(CHUNK)
    with torch.no_grad():
        outputs = [to_array(model(chunk)) for chunk in chunks]
    return None, {"output": np.concatenate(outputs) if len(outputs) > 1 else outputs[0]}


def op_gradients(worker: Worker, args: dict, arrays: Arrays) -> Answer:
    """Largest absolute gradient of each trainable parameter for the loss sum(weights * output)."""
    model = worker.objects[args["object"]]
    model.train()
    model.zero_grad()
    output = model(torch.from_numpy(arrays["images"]))
    (output * torch.from_numpy(arrays["weights"])).sum().backward()
    largest = {n: 0.0 if p.grad is None else float(p.grad.abs().max()) for n, p in model.named_parameters()}
    return {"names": list(largest)[:400]}, {"largest": np.array(list(largest.values())[:400], dtype=np.float64)}


def op_fit(worker: Worker, args: dict, arrays: Arrays) -> Answer:
    """Adam's update by hand on batches `order` (S, B) of images and targets; says nothing about how well it went."""
    model = worker.objects[args["object"]]
    model.train()
    torch.manual_seed(args["seed"])
    images, targets = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["targets"])
    weights = [p for p in model.parameters() if p.requires_grad]
    first, second = [torch.zeros_like(w) for w in weights], [torch.zeros_like(w) for w in weights]
    for step, picked in enumerate(torch.from_numpy(arrays["order"]), 1):
        output = model(images[picked])
        if args["loss"] == "cross_entropy":
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
                weight.addcdiv_(mean / (1 - 0.9**step), scale, value=-args["learning_rate"])
    return None, {}


def op_train_epoch(worker: Worker, args: dict, arrays: Arrays) -> Answer:
    """The student's training epoch: two averages, and how many batches were drawn from the loader."""
    model = worker.objects[args["object"]]
    model.train(args["start_in_train_mode"])
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, args["stale_gradient"]) if args["stale_gradient"] else None
    optimizer = build_optimizer(args["optimizer"], model, args["optimizer_settings"])
    criterion = build_criterion(*args["criterion"])
    loader = make_loader(arrays, "", args)
    function = getattr(worker.module(args["module"]), args["function"])
    torch.manual_seed(args["seed"])
    keywords = {} if args["max_steps"] is None else {"max_steps": args["max_steps"]}
    averages = function(model, loader, optimizer, criterion, torch.device("cpu"), **keywords)
    return {"drawn": loader.drawn}, {"averages": to_numbers(averages, 2, args["function"])}


def op_validate_epoch(worker: Worker, args: dict, arrays: Arrays) -> Answer:
    """The student's validation epoch: two averages, and whether autograd was on while the model ran."""
    model = worker.objects[args["object"]]
    model.train(args["start_in_train_mode"])
    grad_enabled = []
    hook = model.register_forward_pre_hook(lambda module, inputs: grad_enabled.append(torch.is_grad_enabled()))
    loader = make_loader(arrays, "", args)
    function = getattr(worker.module(args["module"]), args["function"])
    try:
        averages = function(model, loader, build_criterion(*args["criterion"]), torch.device("cpu"))
    finally:
        hook.remove()
    return {"grad_enabled": any(grad_enabled)}, {"averages": to_numbers(averages, 2, args["function"])}


def op_train_model(worker: Worker, args: dict, arrays: Arrays) -> Answer:
    """The student's whole training function, with the base arguments only; its history as arrays."""
    model = worker.objects[args["object"]]
    torch.manual_seed(args["seed"])
    loaders = make_loader(arrays, "train_", args), make_loader(arrays, "val_", args)
    function = getattr(worker.module(args["module"]), args["function"])
    history = function(model, *loaders, **args["keywords"])
    if not isinstance(history, dict):
        raise TypeError(f"{args['function']} returned {type(history).__name__}, expected a dict of lists")
    values = {}
    for key, items in list(history.items())[:32]:
        if isinstance(items, (list, tuple)) and len(items) <= 1000:
            values[str(key)[:60]] = np.array([float(item) for item in items], dtype=np.float64)
    return {"keys": [str(key)[:60] for key in list(history)[:32]]}, values


class _Captured(Exception):
    """Leaves the student's training function once its criterion is known."""


def op_capture_criterion(worker: Worker, args: dict, arrays: Arrays) -> Answer:
    """Run the training function until it calls its epoch function, and keep the criterion that it passes."""
    module = worker.module(args["module"])
    caught: list[object] = []

    def recorder(*positional: object, **keywords: object) -> None:
        caught.append(keywords.get("criterion", positional[3] if len(positional) > 3 else None))
        raise _Captured

    original = getattr(module, args["epoch_function"])
    setattr(module, args["epoch_function"], recorder)
    loaders = make_loader(arrays, "train_", args), make_loader(arrays, "val_", args)
    try:
        getattr(module, args["function"])(worker.objects[args["object"]], *loaders, epochs=1, max_steps_per_epoch=1)
    except _Captured:
        pass
    finally:
        setattr(module, args["epoch_function"], original)
    criterion = caught[0] if caught else None
    return {"object": worker.keep(criterion), "called": bool(caught), "type": type(criterion).__name__[:60]}, {}


def op_new_criterion(worker: Worker, args: dict, arrays: Arrays) -> Answer:
    """Build one of the student's losses."""
    return {"object": worker.keep(getattr(worker.module(args["module"]), args["name"])(**args["keywords"]))}, {}


def op_loss(worker: Worker, args: dict, arrays: Arrays) -> Answer:
    """Value of a criterion for `pred` and `target`, and its gradient with respect to `pred`."""
    pred = torch.from_numpy(arrays["pred"]).requires_grad_()
    value = worker.objects[args["object"]](pred, torch.from_numpy(arrays["target"]))
    if not isinstance(value, torch.Tensor) or value.ndim != 0:
        raise TypeError("the loss is not a tensor with a single value (reduce it with a mean)")
    value.backward()
    gradient = torch.zeros_like(pred) if pred.grad is None else pred.grad
    return None, {"value": to_array(value).astype(np.float64), "gradient": to_array(gradient)}


def op_call(worker: Worker, args: dict, arrays: Arrays) -> Answer:
    """A function of the student's on arrays (as tensors, or as arrays if `as_arrays`), answering one number."""
    function = getattr(worker.module(args["module"]), args["function"])
    inputs = [a if args.get("as_arrays") else torch.from_numpy(a) for a in arrays.values()]
    inputs = [worker.objects[number] for number in args.get("objects", [])] + inputs
    return None, {"value": np.array(float(function(*inputs, **args.get("keywords", {}))), dtype=np.float64)}


def op_ablate_smallest(worker: Worker, args: dict, arrays: Arrays) -> Answer:
    """Outputs while every feature map of the smallest spatial size is replaced by zeros; and that size.

    `cut_sides`: the sizes of the encoder at which no convolution then gets a gradient.

    A network without skips no longer sees its input, and a level without a skip no longer reaches the output. Works on
    what functions return and so for any style of code.
    """
    model = worker.objects[args["object"]].eval()
    images = torch.from_numpy(arrays["images"])
    finder = _SmallestMap(None)
    with torch.no_grad(), finder:
        model(images[:1])
    cut = _SmallestMap(finder.smallest)
    with cut:
        output = model(images)
    weights = [weight for weight, _ in cut.encoder]
    if output.requires_grad and weights:
        found = torch.autograd.grad(output.square().sum(), weights, allow_unused=True)
        reached = {area for (_, area), g in zip(cut.encoder, found, strict=True) if g is not None and bool(g.any())}
    else:
        reached = set()
    sides = sorted({round(area**0.5) for _, area in cut.encoder if area not in reached})
    return {"smallest_side": round((finder.smallest or 0) ** 0.5), "cut_sides": sides}, {"output": to_array(output)}


class _SmallestMap(torch.overrides.TorchFunctionMode):
    """Finds the smallest H*W of 4-D results, or (given one) sets all results of that size to zero.

    encoder: weight and H*W of the result of each convolution before the first map of that size.
    """

    def __init__(self, area: int | None) -> None:
        super().__init__()
        self.area, self.smallest = area, None
        self.encoder: list[tuple[torch.Tensor, int]] = []
        self.passed = False

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if isinstance(result, torch.Tensor) and result.ndim == 4 and result.is_floating_point():
            area = result.shape[2] * result.shape[3]
            # One value per channel is a gate (squeeze and excitation), not a feature map.
            if area > 1:
                self.smallest = min(area, self.smallest or area)
            if area == self.area:
                self.passed = True
                return torch.zeros_like(result)
            weight = kwargs.get("weight", args[1] if len(args) > 1 else None)
            if not self.passed and function in CONVOLUTIONS and weight.requires_grad:
                self.encoder.append((weight, area))
        return result


def op_load_checkpoint(worker: Worker, args: dict, arrays: Arrays) -> Answer:
    """Build the model that a submitted checkpoint names (else the default one) and load its weights.

    Plain weights, or the best.pt of a run: a dict that holds them and perhaps `model_name`.
    """
    path = os.path.join(worker.folder, args["file"])
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise TypeError(f"{args['file']} holds {type(content).__name__}, expected a dict of weights")
    name = content.get("model_name", args["default"])
    for key in ("state_dict", "model_state_dict", "model_state", "model", "weights"):
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    model = getattr(worker.module(args["module"]), args["factory"])(name if isinstance(name, str) else args["default"])
    model.load_state_dict(content)
    return {"object": worker.keep(model)}, {}


def op_forget(worker: Worker, args: dict, arrays: Arrays) -> Answer:
    """Drop all objects."""
    worker.objects.clear()
    return None, {}
