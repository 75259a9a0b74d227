# numpy_by_hand: numpy everywhere: curves, areas and metrics by hand, history of numpy floats
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


def make_dataloaders(source: Source, batch_size: int = 128, seed: int = 0, augmented: bool = True) -> dict[str, Any]:
    """Return {"train": DataLoader, "val": DataLoader, "test": DataLoader} of (images, labels).

    source: locate("pneumoniamnist"); source.read(split) gives images uint8 (N, 1, 28, 28) and labels int64 (N,).
    Only training batches are shuffled (the same for the same seed) and, if `augmented`, sent through `augment`.
    """
    aug = augment_bytes if augmented else None
    return {
        "train": make_loader(
            ImageDataset(source.read("train"), augmentation=aug, seed=seed), batch_size, shuffle=True, seed=seed
        ),
        "val": make_loader(ImageDataset(source.read("val")), batch_size, shuffle=False, seed=seed),
        "test": make_loader(ImageDataset(source.read("test")), batch_size, shuffle=False, seed=seed),
    }


# ANSWER 1.2: Pneumonia is about three times as frequent as normal, so a model that always says pneumonia
# already reaches a high accuracy; report recall, specificity and AUC too.
def explore(splits: Mapping[str, Split], class_names: Sequence[str], folder: Path) -> dict[str, list[int]]:
    """Write 1_samples.png (a grid of each class) and 1_distribution.png (bars); return images per class of each split.

    ANSWER 1.2 says what the imbalance does to training and to the metrics that are reported.
    """
    counts = {s: np.bincount(np.asarray(d.labels), minlength=len(class_names)).tolist() for s, d in splits.items()}
    images, labels = splits["train"].images, splits["train"].labels
    rng = np.random.default_rng(0)
    rows = []
    for c in range(len(class_names)):
        candidates = np.flatnonzero(labels.numpy() == c)
        picked = rng.choice(candidates, size=min(7, len(candidates)), replace=False)
        rows.append(normalize(images[torch.from_numpy(picked)]))
    figures.image_grid(rows, class_names, "PneumoniaMNIST", folder / "1_samples.png")
    fig = new_figure(6, 3)
    ax = fig.subplots()
    names = [f"{s}\n{c}" for s in counts for c in class_names]
    ax.bar(names, [n for s in counts for n in counts[s]])
    save_figure(fig, folder / "1_distribution.png")
    return counts


# ANSWER 1.3: There are few medical images, and augmentation shows variations of position and exposure; a
# radiologist would object to mirroring since the heart lies on the left.
def augment(images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Random versions of training images, float32 (B, 1, H, W) in [-1, 1] → the same; the input is not changed.

    Each image independently: mirrored left to right with probability 1/2, rotated by up to 10 degrees either way,
    contrast times 0.8 ... 1.2 and brightness plus -0.2 ... 0.2; what then lies outside [-1, 1] is clipped.
    ANSWER 1.3: why does augmentation matter in medicine, and which of these would a radiologist object to?
    """
    N, _, H, W = images.shape
    u = torch.rand((4, N), generator=generator)
    angle = np.deg2rad(10) * (2 * u[1] - 1)
    ys, xs = torch.meshgrid(
        (torch.arange(H) * 2 + 1) / H - 1, (torch.arange(W) * 2 + 1) / W - 1, indexing="ij"
    )  # pixel centres in [-1, 1]
    c, s = torch.cos(angle).view(N, 1, 1), torch.sin(angle).view(N, 1, 1)
    gx = c * xs - s * ys
    gy = s * xs + c * ys
    gx = torch.where(u[0].view(N, 1, 1) < 0.5, -gx, gx)
    grid = torch.stack([gx, gy], dim=-1)
    out = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    out = out * (0.8 + 0.4 * u[2]).view(N, 1, 1, 1) + (-0.2 + 0.4 * u[3]).view(N, 1, 1, 1)
    return out.clamp(-1, 1)


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
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),  # 8, 28, 28
            nn.ReLU(),
            nn.MaxPool2d(2),  # 8, 14, 14
            nn.Conv2d(8, 16, 3, padding=1),  # 16, 14, 14
            nn.ReLU(),
            nn.MaxPool2d(2),  # 16, 7, 7
            nn.Conv2d(16, 32, 3, padding=1),  # 32, 7, 7
            nn.ReLU(),
            nn.MaxPool2d(2),  # 32, 3, 3
            nn.Flatten(),  # 288
        )
        self.classifier = nn.Sequential(nn.Linear(288, 32), nn.ReLU(), nn.Linear(32, num_classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 1, 28, 28) → logits (B, 2)."""
        return self.classifier(self.features(images))


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
    crit = nn.CrossEntropyLoss()
    opt = torch.optim.Adam(model.parameters(), learning_rate)
    table = []
    best = (np.inf, None)
    since = 0
    for e in range(epochs):
        row = run_epoch(model, train_loader, crit, opt) + run_epoch(model, val_loader, crit)
        table.append(row)
        if row[2] < best[0]:
            best = (row[2], copy.deepcopy(model.state_dict()))
            since = 0
            continue
        since += 1
        if since == patience:
            break
    model.load_state_dict(best[1])
    table = np.array(table)
    return {name: list(table[:, i]) for i, name in enumerate(HISTORY)}


def run_epoch(
    model: nn.Module, loader: Any, criterion: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> tuple[float, float]:
    """One epoch: training with an optimizer, validation without. Returns (loss, accuracy) over all images seen."""
    model.train(optimizer is not None)
    device = next(model.parameters()).device
    losses, hits, sizes = [], [], []
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        if optimizer is not None:
            optimizer.zero_grad()
        with torch.set_grad_enabled(optimizer is not None):
            out = model(images)
            loss = criterion(out, labels)
        if optimizer is not None:
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
        hits.append((out.argmax(1) == labels).float().mean().item())
        sizes.append(len(images))
    return np.average(losses, weights=sizes), np.average(hits, weights=sizes)


# ANSWER 2.3: The training loss keeps falling while the validation loss turns upwards after some epochs, so
# the network overfits slightly, which the gap between both curves shows.
def plot_training(history: Mapping[str, Sequence[float]], title: str, path: Path) -> dict[str, float]:
    """Write the curves of loss and accuracy as PNG; return the numbers behind the verdict on overfitting.

    best_epoch: the one with the lowest val_loss (from 1). loss_gap: val_loss - train_loss at the last epoch.
    loss_rise: val_loss at the last epoch minus its lowest. ANSWER 2.3: is it overfitting, and how can you tell?
    """
    learning_curves(history, "acc", title, path)
    train_loss, val_loss = np.asarray(history["train_loss"]), np.asarray(history["val_loss"])
    return {
        "best_epoch": int(val_loss.argmin()) + 1,
        "loss_gap": float(val_loss[-1] - train_loss[-1]),
        "loss_rise": float(val_loss[-1] - val_loss.min()),
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
    name, conv = first_convolution(backbone)
    conv.weight = nn.Parameter(conv.weight.detach().sum(dim=1, keepdim=True))
    conv.in_channels = 1
    name, head = last_linear(backbone)
    head.weight = nn.Parameter(torch.empty(num_classes, head.in_features))
    head.bias = nn.Parameter(torch.zeros(num_classes))
    head.out_features = num_classes
    nn.init.kaiming_uniform_(head.weight, a=5**0.5)
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
    for p in model.parameters():
        p.requires_grad = False
    for p in head.parameters():
        p.requires_grad = True
    a = train(model, train_loader, val_loader, head_epochs, learning_rate, patience)
    for p in model.parameters():
        p.requires_grad = True
    b = train(model, train_loader, val_loader, epochs, learning_rate / 10, patience)
    return {k: np.concatenate([a[k], b[k]]).tolist() for k in HISTORY}


if __name__ == "__main__":
    sys.modules[__spec__.name] = sys.modules[__name__]  # run.py imports this module: the same one, not a second copy
    from labs.hw5_pneumonia.run import main
    from toolkit.cli import run_script

    run_script(main)
