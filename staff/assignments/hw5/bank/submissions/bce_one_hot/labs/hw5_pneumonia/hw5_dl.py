# bce_one_hot: binary cross-entropy on one-hot targets, torch.save of the best weights, retain_grad for Grad-CAM
"""Homework 5: normal or pneumonia? Chest X-rays of PneumoniaMNIST, from loading to Grad-CAM.

    python -m labs.hw5_pneumonia.hw5_dl --quick     # all five parts on few images: about two minutes on two cores
    python -m labs.hw5_pneumonia.hw5_dl             # the real run; pictures and tables go to outputs/

GRADED: TODO 1.1 ... 3.2 here; 3.3 ... 5.2 and the three questions in hw5_evaluate.py. The other files of the folder are
provided: run.py calls these functions in order, choices.py chooses thresholds on validation images, figures.py draws
images; toolkit/study.py repeats trainings over seeds and keeps the test images closed until the thresholds are written
down; toolkit/backbones.py finds ImageNet weights. Where a TODO asks for an answer, write it as a comment that starts
with "ANSWER" and its number, at least 15 words.

Throughout: images are float32 (B, 1, 28, 28) in [-1, 1]; labels are int64 (B,), 0 normal and 1 pneumonia; models
return logits (B, 2); "probability" is that of pneumonia; pneumonia is the positive class.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import io
import math
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from classification_dataset import ImageDataset
from labs.hw5_pneumonia import figures
from labs.hw5_pneumonia.hw5_evaluate import (  # noqa: F401 -- Parts 4 and 5 of this homework, under the same name
    comparison_table,
    evaluate,
    grad_cam,
    plot_filters,
    plot_grad_cam,
    plot_roc_and_pr,
    reflection,
    sort_cases,
)
from toolkit.augment import normalize
from toolkit.backbones import first_convolution, last_linear, replace_module
from toolkit.batches import make_loader
from toolkit.medmnist_data import Source, Split
from toolkit.plots import learning_curves, new_figure, save_figure

SPLITS = ("train", "val", "test")
HISTORY = ("train_loss", "train_acc", "val_loss", "val_acc")

# ---- Part 1: data ----------------------------------------------------------------------------------------------------


def _only_normalize(images, generator=None):
    return normalize(images)


def make_dataloaders(source: Source, batch_size: int = 128, seed: int = 0, augmented: bool = True) -> dict[str, Any]:
    """Return {"train": DataLoader, "val": DataLoader, "test": DataLoader} of (images, labels).

    source: locate("pneumoniamnist"); source.read(split) gives images uint8 (N, 1, 28, 28) and labels int64 (N,).
    Only training batches are shuffled (the same for the same seed) and, if `augmented`, sent through `augment`.
    """
    train_set = ImageDataset(source.read("train"), augmentation=augment_bytes if augmented else _only_normalize, seed=seed)
    val_set = ImageDataset(source.read("val"))
    test_set = ImageDataset(source.read("test"))
    return {
        "train": make_loader(train_set, batch_size, shuffle=True, seed=seed),
        "val": make_loader(val_set, batch_size, shuffle=False),
        "test": make_loader(test_set, batch_size, shuffle=False),
    }


# ANSWER 1.2: Pneumonia is about three times as frequent as normal, so a model that always says pneumonia
# already reaches a high accuracy; report recall, specificity and AUC too.
def explore(splits: Mapping[str, Split], class_names: Sequence[str], folder: Path) -> dict[str, list[int]]:
    """Write 1_samples.png (a grid of each class) and 1_distribution.png (bars); return images per class of each split.

    ANSWER 1.2 says what the imbalance does to training and to the metrics that are reported.
    """
    counts = {}
    for split_name in splits:
        labels = splits[split_name].labels.numpy()
        counts[split_name] = [int((labels == c).sum()) for c in range(len(class_names))]
        print(split_name, counts[split_name])

    labels = splits["train"].labels
    grid = [normalize(splits["train"].images[labels == c][:6]) for c in range(len(class_names))]
    figures.image_grid(grid, class_names, "training images", Path(folder) / "1_samples.png")

    figure = new_figure(9, 3)
    for axes, split_name in zip(figure.subplots(1, len(counts), squeeze=False)[0], counts):
        bars = axes.bar(list(class_names), counts[split_name], color=["tab:blue", "tab:red"])
        axes.bar_label(bars)
        axes.set_title(split_name)
    save_figure(figure, Path(folder) / "1_distribution.png")
    return counts


# ANSWER 1.3: There are few medical images, and augmentation shows variations of position and exposure; a
# radiologist would object to mirroring since the heart lies on the left.
def augment(images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Random versions of training images, float32 (B, 1, H, W) in [-1, 1] → the same; the input is not changed.

    Each image independently: mirrored left to right with probability 1/2, rotated by up to 10 degrees either way,
    contrast times 0.8 ... 1.2 and brightness plus -0.2 ... 0.2; what then lies outside [-1, 1] is clipped.
    ANSWER 1.3: why does augmentation matter in medicine, and which of these would a radiologist object to?
    """
    n = len(images)

    def uniform(low, high):
        return low + (high - low) * torch.rand(n, generator=generator)

    # mirror
    flipped = uniform(0, 1) < 0.5
    out = torch.where(flipped.view(n, 1, 1, 1), images.flip(-1), images)
    # rotate
    phi = uniform(-math.radians(10), math.radians(10))
    cos, sin, zero = phi.cos(), phi.sin(), torch.zeros(n)
    theta = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)
    grid = F.affine_grid(theta, out.size(), align_corners=False)
    out = F.grid_sample(out, grid, padding_mode="reflection", align_corners=False)
    # contrast, brightness
    out = out * uniform(0.8, 1.2).view(n, 1, 1, 1)
    out = out + uniform(-0.2, 0.2).view(n, 1, 1, 1)
    return out.clamp(-1.0, 1.0)


def augment_bytes(images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """uint8 (B, 1, H, W) → `augment` of the normalised images."""
    return augment(normalize(images), generator)


# ---- Part 2: a network of your own -----------------------------------------------------------------------------------


class PneumoniaCNN(nn.Module):
    """Two or three convolutions, each with ReLU and max pooling, then one or two dense layers.

    (B, 1, 28, 28) → logits (B, 2). `features` holds the convolutions, `classifier` the dense layers. Write your layers
    with their output shapes here.
    """

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        def block(c_in, c_out):
            return nn.Sequential(nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU(), nn.MaxPool2d(2))

        self.features = nn.Sequential(
            block(1, 16),  # (16, 14, 14)
            block(16, 32),  # (32, 7, 7)
            block(32, 64),  # (64, 3, 3)
        )
        self.classifier = nn.Linear(64 * 3 * 3, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 1, 28, 28) → logits (B, 2)."""
        features = self.features(images)
        return self.classifier(features.flatten(1))


class OneHotBCE(nn.Module):
    """Binary cross-entropy for two outputs: each class has its own yes or no."""

    def __init__(self):
        super().__init__()
        self.bce = nn.BCEWithLogitsLoss()

    def forward(self, logits, labels):
        targets = F.one_hot(labels, num_classes=logits.shape[1]).float()
        return self.bce(logits, targets)


def train(
    model: nn.Module,
    train_loader: Any,
    val_loader: Any,
    epochs: int = 30,
    learning_rate: float = 1e-3,
    patience: int = 8,
) -> dict[str, list[float]]:
    """Train with Adam and cross-entropy, and stop early; `model` ends with the weights of its best epoch.

    model: images (B, 1, H, W) → logits (B, 2); it stays on the device where it is.
    train_loader, val_loader: batches (images, labels).
    epochs: at most this many.
    patience: stop once val_loss has not reached a new minimum for this many epochs. The best epoch is the one with the
        lowest val_loss.
    Returns lists train_loss, train_acc, val_loss, val_acc with one value per epoch: mean losses in nats, accuracies as
    fractions, both over all images seen.
    """
    criterion = OneHotBCE()
    optimizer = torch.optim.Adam(params=[p for p in model.parameters() if p.requires_grad], lr=learning_rate)
    train_losses, train_accs, val_losses, val_accs = [], [], [], []
    best, best_epoch = np.inf, -1
    weights = None
    for epoch in range(epochs):
        loss, acc = run_epoch(model, train_loader, criterion, optimizer)
        train_losses.append(loss)
        train_accs.append(acc)
        loss, acc = run_epoch(model, val_loader, criterion, None)
        val_losses.append(loss)
        val_accs.append(acc)
        print(f"epoch {epoch + 1}: val_loss {loss:.4f}, val_acc {acc:.4f}")
        if loss < best:
            best, best_epoch = loss, epoch
            weights = io.BytesIO()
            torch.save(model.state_dict(), weights)
        elif epoch - best_epoch >= patience:
            break
    if weights is not None:
        weights.seek(0)
        model.load_state_dict(torch.load(weights))
    return {"train_loss": train_losses, "train_acc": train_accs, "val_loss": val_losses, "val_acc": val_accs}


def run_epoch(
    model: nn.Module, loader: Any, criterion: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> tuple[float, float]:
    """One epoch: training with an optimizer, validation without. Returns (loss, accuracy) over all images seen."""
    if optimizer is None:
        model.eval()
    else:
        model.train()
    device = next(model.parameters()).device
    total_loss = 0.0
    total_correct = 0
    seen = 0
    for x, y in loader:
        x = x.to(device)
        y = y.to(device)
        if optimizer is not None:
            optimizer.zero_grad()
            logits = model(x)
            loss = criterion(logits, y)
            loss.backward()
            optimizer.step()
        else:
            with torch.no_grad():
                logits = model(x)
                loss = criterion(logits, y)
        total_loss += loss.item() * len(y)
        _, predicted = torch.max(logits, 1)
        total_correct += (predicted == y).sum().item()
        seen += len(y)
    return total_loss / seen, total_correct / seen


# ANSWER 2.3: The training loss keeps falling while the validation loss turns upwards after some epochs, so
# the network overfits slightly, which the gap between both curves shows.
def plot_training(history: Mapping[str, Sequence[float]], title: str, path: Path) -> dict[str, float]:
    """Write the curves of loss and accuracy as PNG; return the numbers behind the verdict on overfitting.

    best_epoch: the one with the lowest val_loss (from 1). loss_gap: val_loss - train_loss at the last epoch.
    loss_rise: val_loss at the last epoch minus its lowest. ANSWER 2.3: is it overfitting, and how can you tell?
    """
    epochs = range(1, len(history["train_loss"]) + 1)
    fig = new_figure(10, 4)
    left, right = fig.subplots(1, 2)
    left.plot(epochs, history["train_loss"], label="training")
    left.plot(epochs, history["val_loss"], label="validation")
    left.set_ylabel("loss")
    right.plot(epochs, history["train_acc"], label="training")
    right.plot(epochs, history["val_acc"], label="validation")
    right.set_ylabel("accuracy")
    for ax in (left, right):
        ax.set_xlabel("epoch")
        ax.legend()
    fig.suptitle(title)
    save_figure(fig, path)
    best = int(np.argmin(history["val_loss"]))
    return {
        "best_epoch": best + 1,
        "loss_gap": history["val_loss"][-1] - history["train_loss"][-1],
        "loss_rise": history["val_loss"][-1] - history["val_loss"][best],
    }


# ---- Part 3: transfer from photographs -------------------------------------------------------------------------------


# ANSWER 3.1: Edges and textures learned on photographs are useful on X-rays also, but photographs bring no
# knowledge about anatomy, colour means nothing here and exposure differs.
def adapt_backbone(backbone: nn.Module, num_classes: int = 2) -> nn.Module:
    """Change a torchvision classifier in place so that it takes one channel and returns num_classes logits.

    The weights (O, 3, k, k) of the first convolution are summed to (O, 1, k, k): a grey image then gives exactly what
    its three equal channels gave before. The last linear layer is new. Works with any torchvision classifier.
    ANSWER 3.1: why may weights that were learned on photographs help on X-rays, and what may they not bring?
    """
    conv_name, old = first_convolution(backbone)
    conv = copy.deepcopy(old)
    conv.in_channels = 1
    conv.weight = nn.Parameter(old.weight.detach().sum(1, keepdim=True))
    replace_module(backbone, conv_name, conv)
    head_name, fc = last_linear(backbone)
    replace_module(backbone, head_name, nn.Linear(fc.in_features, num_classes))
    return backbone


# ANSWER 3.2: The pretrained network converges within fewer epochs and varies less between seeds than the same
# network from scratch, while the final quality is only slightly better.
def fine_tune(
    model: nn.Module,
    train_loader: Any,
    val_loader: Any,
    head_epochs: int = 2,
    epochs: int = 10,
    learning_rate: float = 1e-3,
    patience: int = 8,
) -> dict[str, list[float]]:
    """Train only the new head first, then everything at a tenth of the rate; return one history of both phases.

    head_epochs, epochs: of the first and of the second phase, at most.
    learning_rate: of the first phase.
    patience: of both, see `train`.
    Afterwards every parameter has requires_grad again. ANSWER 3.2: compare with the same network trained from scratch.
    """
    head = last_linear(model)[1]
    model.requires_grad_(False)
    head.requires_grad_(True)
    history = train(model, train_loader, val_loader, epochs=head_epochs, learning_rate=learning_rate, patience=patience)
    model.requires_grad_(True)
    rest = train(model, train_loader, val_loader, epochs=epochs, learning_rate=0.1 * learning_rate, patience=patience)
    for key in history:
        history[key].extend(rest[key])
    return history


if __name__ == "__main__":
    sys.modules[__spec__.name] = sys.modules[__name__]  # run.py imports this module: the same one, not a second copy
    from labs.hw5_pneumonia.run import main
    from toolkit.cli import run_script

    run_script(main)
