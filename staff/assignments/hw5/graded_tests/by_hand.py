"""What Homework 5's functions must give, computed here in plain PyTorch and NumPy."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from staff.grader import oracle

Arrays = dict[str, np.ndarray]
METRICS = ("accuracy", "auc", "precision", "recall", "f1", "specificity", "tn", "fp", "fn", "tp")


def one_hot_bce(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of both logits, which the handout allows too. (Of one logit it is cross-entropy.)"""
    return F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, logits.shape[1]).float())


def train(
    layers,
    state,
    arrays: Arrays,
    epochs: int,
    learning_rate: float,
    patience: int = 10**6,
    only: str = "",
    loss_of=F.cross_entropy,
):
    """Adam on batches of 8 in their order: (history, weights of the epoch with the lowest val_loss).

    arrays: val_targets may be (epochs, N), the labels of each epoch. only: train the parameters whose names start so.
    """
    model = oracle.build(layers, state)
    weights = [weight for name, weight in model.named_parameters() if name.startswith(only)]
    optimizer = torch.optim.Adam(weights, lr=learning_rate)
    history: dict[str, list[float]] = {name: [] for name in ("train_loss", "train_acc", "val_loss", "val_acc")}
    best = copy.deepcopy(model.state_dict())
    for epoch in range(epochs):
        for part in ("train", "val"):
            images, labels = (torch.from_numpy(arrays[f"{part}_{kind}"]) for kind in ("images", "targets"))
            labels = labels if labels.ndim == 1 else labels[epoch]
            loss, accuracy = _epoch(model, images, labels, loss_of, optimizer if part == "train" else None)
            history[f"{part}_loss"].append(loss)
            history[f"{part}_acc"].append(accuracy)
        lowest = int(np.argmin(history["val_loss"]))
        if lowest == epoch:
            best = copy.deepcopy(model.state_dict())
        if epoch - lowest >= patience:
            break
    return history, {name: value.numpy().copy() for name, value in best.items()}


def _epoch(model, images, labels, loss_of, optimizer) -> tuple[float, float]:
    """Mean loss and accuracy over all images."""
    model.train(optimizer is not None)
    losses = hits = 0.0
    for inputs, wanted in zip(images.split(8), labels.split(8), strict=True):
        logits = model(inputs)
        loss = loss_of(logits, wanted)
        if optimizer is not None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses += loss.item() * len(wanted)
        hits += (logits.argmax(1) == wanted).sum().item()
    return losses / len(labels), hits / len(labels)


def stops(losses: Sequence[float] | np.ndarray, patience: int, rule: str = "") -> tuple[int, int]:
    """(epochs done, index of the best) of early stopping on these losses, or with the mistake `rule`."""
    lowest, best, waited = float("inf"), 0, 0
    patience += {"late": 1, "early": -1}.get(rule, 0)
    for epoch, loss in enumerate(losses):
        better = loss < lowest
        if better or rule == "than the epoch before":
            lowest = loss
        best = epoch if better else best
        waited = waited + (not better) if rule == "in all" or not better else 0
        if waited >= patience:
            return epoch + 1, best
    return len(losses), best


RULES = ("late", "early", "in all", "than the epoch before")


def script(rng, layers, state, arrays: Arrays, epochs: int, learning_rate: float, patience: int) -> np.ndarray:
    """Validation labels (epochs, N) with which right early stopping differs from each of RULES, and from stopping on
    accuracy or on the training loss."""
    logits, training = _learn(layers, state, arrays, epochs, learning_rate)
    log_p = logits - np.logaddexp(*np.moveaxis(logits, -1, 0))[..., None]  # (epochs, N, 2)
    targets = arrays["val_targets"]
    for _ in range(2000):
        wrong = rng.random((epochs, len(targets))) < rng.uniform(0.05, 0.95, (epochs, 1))
        tried = np.where(wrong, 1 - targets, targets)
        losses = -np.take_along_axis(log_p, tried[..., None], 2)[..., 0].mean(axis=1)
        accuracies = (logits.argmax(axis=2) == tried).mean(axis=1)
        done, best = stops(losses, patience)
        others = [stops(losses, patience, rule) for rule in RULES]
        others += [stops(-accuracies, patience), stops(training, patience)]
        if best > 1 and done < epochs and (done, best) not in others and np.diff(np.sort(losses)).min() > 1e-3:
            return tried
    raise RuntimeError("2000 draws gave no script that tells the rules of early stopping apart")


def _learn(layers, state, arrays: Arrays, epochs: int, learning_rate: float) -> tuple[np.ndarray, list[float]]:
    """Validation logits (epochs, N, 2) and training losses of a training that nothing stops."""
    model = oracle.build(layers, state)
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    images, labels, others = (
        torch.from_numpy(arrays[name]) for name in ("train_images", "train_targets", "val_images")
    )
    logits, losses = [], []
    for _ in range(epochs):
        losses.append(_epoch(model, images, labels, F.cross_entropy, optimizer)[0])
        with torch.no_grad():
            logits.append(model.eval()(others).double().numpy())
    return np.stack(logits), losses


def metrics(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> list[float]:
    """METRICS by counting."""
    called, ill = probabilities >= threshold, labels == 1
    tp, fp = int((called & ill).sum()), int((called & ~ill).sum())
    fn, tn = int((~called & ill).sum()), int((~called & ~ill).sum())
    return [
        (tp + tn) / len(labels),
        auc(probabilities, labels),
        tp / max(tp + fp, 1),
        tp / max(tp + fn, 1),
        2 * tp / max(2 * tp + fp + fn, 1),
        tn / max(tn + fp, 1),
        *(tn, fp, fn, tp),
    ]


def auc(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Share of pairs (ill, healthy) in the right order; ties count half (Mann and Whitney)."""
    ill, healthy = probabilities[labels == 1][:, None], probabilities[labels == 0]
    return float(((ill > healthy) + 0.5 * (ill == healthy)).mean())


def average_precision(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the ill of the precision at their rank; for probabilities without ties."""
    ranked = labels[np.argsort(-probabilities)]
    precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
    return float(precision[ranked == 1].mean())


def grad_cam(
    network: torch.nn.Sequential, layer: int, images: np.ndarray, targets: np.ndarray, align_corners: bool
) -> np.ndarray:
    """Maps (B, H, W): the network cut in two behind `layer`."""
    network.eval()
    with torch.no_grad():
        features = network[: layer + 1](torch.from_numpy(images))
    features.requires_grad_()
    chosen = network[layer + 1 :](features)[torch.arange(len(images)), torch.from_numpy(targets)]
    (gradient,) = torch.autograd.grad(chosen.sum(), features)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    maps = torch.relu((weights * features).sum(dim=1, keepdim=True)).detach()
    maps = F.interpolate(maps, images.shape[2:], mode="bilinear", align_corners=align_corners)[:, 0]
    return (maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=1e-30)).numpy()
