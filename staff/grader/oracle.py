"""What must come out, computed here: plain PyTorch and NumPy on data that the grader drew, never the student's code."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from staff.student_side.plain_models import build_criterion, build_optimizer, build_plain

Arrays = dict[str, np.ndarray]


def new_state(layers: list, seed: int) -> Arrays:
    """Initial weights of a described model, reproducible from the seed, with lively BatchNorm statistics."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in build_plain(layers).state_dict().items():
        if not value.is_floating_point():
            state[name] = value.numpy()
        elif name.endswith("running_var"):
            state[name] = (0.5 + torch.rand(value.shape, generator=generator)).numpy()
        elif value.ndim > 1:
            fan_in = value[0].numel()
            state[name] = (torch.randn(value.shape, generator=generator) * fan_in**-0.5).numpy()
        else:
            state[name] = (0.3 * torch.randn(value.shape, generator=generator)).numpy()
    return state


def build(layers: list, state: Arrays) -> torch.nn.Module:
    """The described model with these weights."""
    model = build_plain(layers)
    model.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in state.items()})
    return model


def outputs(layers: list, state: Arrays, images: np.ndarray) -> np.ndarray:
    """What the described model answers in evaluation mode."""
    with torch.no_grad():
        return build(layers, state).eval()(torch.from_numpy(images)).numpy()


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """1 for each image whose largest logit is that of its label, else 0."""
    return (logits.argmax(dim=1) == labels).double().tolist()


def iou(probabilities: torch.Tensor | np.ndarray, masks: torch.Tensor | np.ndarray, threshold: float = 0.5) -> list:
    """IoU of each image at the threshold; two empty masks agree fully."""
    predicted = np.asarray(probabilities).reshape(len(masks), -1) > threshold
    true = np.asarray(masks).reshape(len(masks), -1) > 0.5
    union = (predicted | true).sum(axis=1)
    return np.where(union == 0, 1.0, (predicted & true).sum(axis=1) / np.maximum(union, 1)).tolist()


def pooled_iou(probabilities: torch.Tensor, masks: torch.Tensor) -> list[float]:
    """The wrong IoU: that of all pixels of the batch together, once for each image."""
    predicted, true = probabilities > 0.5, masks > 0.5
    return [float((predicted & true).sum() / (predicted | true).sum().clamp_min(1))] * len(masks)


@dataclass
class Epoch:
    """Results of an epoch: averages over samples and over batches (both are right), and the weights afterwards."""

    losses: list[float]
    metrics: list[list[float]]
    state: Arrays

    def averages(self) -> dict[str, tuple[float, float]]:
        """{'loss': (over samples, over batches), 'metric': the same}."""
        sizes = np.array([len(m) for m in self.metrics], dtype=float)
        means = np.array([np.mean(m) for m in self.metrics])
        losses = np.array(self.losses)
        return {
            "loss": (float((losses * sizes).sum() / sizes.sum()), float(losses.mean())),
            "metric": (float((means * sizes).sum() / sizes.sum()), float(means.mean())),
        }


def run_epoch(
    layers: list,
    state: Arrays,
    images: np.ndarray,
    targets: np.ndarray,
    *,
    batch_size: int,
    criterion: tuple,
    optimizer: tuple[str, dict] | None = None,
    max_steps: int | None = None,
    epochs: int = 1,
    fault: str = "",
) -> Epoch:
    """Epochs over the arrays in their order: training with an optimizer (name, settings), else validation.

    The results are those of the last epoch. fault: a mistake made on purpose, see staff/grader/mistakes.py.
    """
    model = build(layers, state)
    model.train((optimizer is not None) == (fault != "wrong mode"))
    steps = build_optimizer(optimizer[0], model, optimizer[1]) if optimizer else None
    loss_of, metric = build_criterion(*criterion), accuracy if targets.ndim == 1 else iou
    metric = pooled_iou if fault == "IoU over the batch" else metric
    pieces = (torch.from_numpy(array).split(batch_size) for array in (images, targets))
    batches = list(zip(*pieces, strict=True))
    for _epoch in range(epochs):
        losses, metrics = [], []
        for inputs, wanted in batches[: _steps(len(batches), max_steps, fault)]:
            with torch.set_grad_enabled(steps is not None):
                output = model(inputs)
                loss = loss_of(output, wanted)
            if steps and fault == "new optimizer":
                steps = build_optimizer(optimizer[0], model, optimizer[1])
            if steps:
                _update(steps, loss, fault)
            losses.append(loss.item())
            metrics.append(metric(output.detach(), wanted))
        if steps and fault == "new optimizer per epoch":
            steps = build_optimizer(optimizer[0], model, optimizer[1])
    return Epoch(losses, metrics, {name: value.numpy().copy() for name, value in model.state_dict().items()})


def _steps(batches: int, max_steps: int | None, fault: str) -> int:
    if fault == "first batch only":
        return 1
    if max_steps is None or fault == "max_steps ignored":
        return batches
    return max_steps + {"one step more": 1, "one step less": -1}.get(fault, 0)


def _update(optimizer: torch.optim.Optimizer, loss: torch.Tensor, fault: str) -> None:
    if fault != "no zero_grad":
        optimizer.zero_grad()
    loss.backward()
    for _ in range({"no step": 0, "two steps": 2}.get(fault, 1)):
        optimizer.step()


def dice_losses(pred: np.ndarray, target: np.ndarray, smooth: float) -> dict[str, float]:
    """1 - Dice as the mean over images and as one number for the whole batch; both are in use and both are right."""
    p, t = pred.reshape(len(pred), -1).astype(np.float64), target.reshape(len(pred), -1).astype(np.float64)
    per_image = 1 - (2 * (p * t).sum(1) + smooth) / (p.sum(1) + t.sum(1) + smooth)
    whole = 1 - (2 * (p * t).sum() + smooth) / (p.sum() + t.sum() + smooth)
    return {"mean over images": float(per_image.mean()), "whole batch": float(whole)}


def dice_gradients(pred: np.ndarray, target: np.ndarray, smooth: float) -> dict[str, np.ndarray]:
    """Derivatives of both with respect to `pred`."""
    shape = (len(pred),) + (1,) * (pred.ndim - 1)
    axes = tuple(range(1, pred.ndim))
    p, t = pred.astype(np.float64), target.astype(np.float64)

    def slope(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
        return -(2 * t * bottom - top) / bottom**2

    top, bottom = (2 * (p * t).sum(axes) + smooth).reshape(shape), (p.sum(axes) + t.sum(axes) + smooth).reshape(shape)
    whole = slope(2 * (p * t).sum() + smooth, p.sum() + t.sum() + smooth)
    return {"mean over images": slope(top, bottom) / len(pred), "whole batch": whole}


def smooth_of(loss: float, pred: np.ndarray, target: np.ndarray) -> float | None:
    """The smoothing term in [0, 1000] for which one of the two Dice losses has this value; None if there is none."""
    for kind in ("mean over images", "whole batch"):
        low, high = 0.0, 1000.0
        at = lambda smooth, kind=kind: dice_losses(pred, target, smooth)[kind] - loss  # noqa: E731
        if at(low) < -1e-5 or at(high) > 1e-5:
            continue
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if at(middle) > 0 else (low, middle)
        return low
    return None
