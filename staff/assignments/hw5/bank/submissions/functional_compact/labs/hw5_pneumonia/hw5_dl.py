# functional_compact: short: comprehensions and torch.nn.functional, no prints, inner functions
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
    def loader(split, training):
        data = ImageDataset(source.read(split), augmentation=augment_bytes if training and augmented else None, seed=seed)
        return make_loader(data, batch_size, shuffle=training, seed=seed)

    return {split: loader(split, split == "train") for split in SPLITS}


# ANSWER 1.2: Pneumonia is about three times as frequent as normal, so a model that always says pneumonia
# already reaches a high accuracy; report recall, specificity and AUC too.
def explore(splits: Mapping[str, Split], class_names: Sequence[str], folder: Path) -> dict[str, list[int]]:
    """Write 1_samples.png (a grid of each class) and 1_distribution.png (bars); return images per class of each split.

    ANSWER 1.2 says what the imbalance does to training and to the metrics that are reported.
    """
    counts = {k: [int(torch.sum(s.labels == i)) for i in range(len(class_names))] for k, s in splits.items()}
    pool = splits["train"]
    figures.image_grid(
        [normalize(pool.images[pool.labels == i][:8]) for i in range(len(class_names))],
        class_names,
        "one row per class",
        Path(folder, "1_samples.png"),
    )
    fig = new_figure(5, 4)
    ax = fig.subplots()
    for i, name in enumerate(class_names):
        ax.barh([f"{k} {name}" for k in counts], [c[i] for c in counts.values()])
    save_figure(fig, Path(folder, "1_distribution.png"))
    return counts


# ANSWER 1.3: There are few medical images, and augmentation shows variations of position and exposure; a
# radiologist would object to mirroring since the heart lies on the left.
def augment(images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Random versions of training images, float32 (B, 1, H, W) in [-1, 1] → the same; the input is not changed.

    Each image independently: mirrored left to right with probability 1/2, rotated by up to 10 degrees either way,
    contrast times 0.8 ... 1.2 and brightness plus -0.2 ... 0.2; what then lies outside [-1, 1] is clipped.
    ANSWER 1.3: why does augmentation matter in medicine, and which of these would a radiologist object to?
    """
    B = len(images)
    u = torch.rand(B, 4, generator=generator, dtype=images.dtype).to(images.device)
    phi = torch.deg2rad(20 * u[:, 1] - 10)
    flip = torch.where(u[:, 0] < 0.5, 1.0, -1.0)
    zero = torch.zeros_like(phi)
    theta = torch.stack((flip * phi.cos(), phi.sin(), zero, -flip * phi.sin(), phi.cos(), zero), 1).reshape(B, 2, 3)
    turned = F.grid_sample(
        images, F.affine_grid(theta, list(images.shape), align_corners=True), padding_mode="border", align_corners=True
    )
    return (turned * (0.8 + 0.4 * u[:, 2, None, None, None]) + (0.4 * u[:, 3, None, None, None] - 0.2)).clamp(-1, 1)


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
        self.features = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in ((1, 24), (24, 48), (48, 96)))  # 28, 14, 7
        self.classifier = nn.Linear(96 * 3 * 3, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 1, 28, 28) → logits (B, 2)."""
        x = images
        for convolution in self.features:
            x = F.max_pool2d(F.relu(convolution(x)), 2)
        return self.classifier(F.dropout(x.flatten(1), 0.25, training=self.training))


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
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    rows, best = [], None
    for epoch in range(epochs):
        rows.append(
            (*run_epoch(model, train_loader, nn.CrossEntropyLoss(), optimizer), *run_epoch(model, val_loader, nn.CrossEntropyLoss()))
        )
        if best is None or rows[-1][2] < best[0]:
            best = rows[-1][2], epoch, copy.deepcopy(model.state_dict())
        if epoch - best[1] >= patience:
            break
    if best:
        model.load_state_dict(best[2])
    return {name: [row[i] for row in rows] for i, name in enumerate(HISTORY)}


def run_epoch(
    model: nn.Module, loader: Any, criterion: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> tuple[float, float]:
    """One epoch: training with an optimizer, validation without. Returns (loss, accuracy) over all images seen."""
    model.train(optimizer is not None)
    device = next(model.parameters()).device
    total = np.zeros(3)
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        with torch.set_grad_enabled(optimizer is not None):
            loss = criterion(logits := model(images), labels)
        if optimizer:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        total += len(labels) * loss.item(), (logits.argmax(1) == labels).sum().item(), len(labels)
    return total[0] / total[2], total[1] / total[2]


# ANSWER 2.3: The training loss keeps falling while the validation loss turns upwards after some epochs, so
# the network overfits slightly, which the gap between both curves shows.
def plot_training(history: Mapping[str, Sequence[float]], title: str, path: Path) -> dict[str, float]:
    """Write the curves of loss and accuracy as PNG; return the numbers behind the verdict on overfitting.

    best_epoch: the one with the lowest val_loss (from 1). loss_gap: val_loss - train_loss at the last epoch.
    loss_rise: val_loss at the last epoch minus its lowest. ANSWER 2.3: is it overfitting, and how can you tell?
    """
    learning_curves(history, "acc", title, path)
    val, train_loss = history["val_loss"], history["train_loss"]
    return {"best_epoch": np.argmin(val) + 1, "loss_gap": val[-1] - train_loss[-1], "loss_rise": val[-1] - min(val)}


# ---- Part 3: transfer from photographs -------------------------------------------------------------------------------


# ANSWER 3.1: Edges and textures learned on photographs are useful on X-rays also, but photographs bring no
# knowledge about anatomy, colour means nothing here and exposure differs.
def adapt_backbone(backbone: nn.Module, num_classes: int = 2) -> nn.Module:
    """Change a torchvision classifier in place so that it takes one channel and returns num_classes logits.

    The weights (O, 3, k, k) of the first convolution are summed to (O, 1, k, k): a grey image then gives exactly what
    its three equal channels gave before. The last linear layer is new. Works with any torchvision classifier.
    ANSWER 3.1: why may weights that were learned on photographs help on X-rays, and what may they not bring?
    """
    (conv_name, conv), (head_name, head) = first_convolution(backbone), last_linear(backbone)
    grey = copy.deepcopy(conv)
    grey.in_channels = 1
    grey.weight = nn.Parameter(conv.weight.detach().sum(1, keepdim=True))
    replace_module(backbone, conv_name, grey)
    replace_module(backbone, head_name, nn.Linear(head.in_features, num_classes))
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
    phases = []
    for parameters_of, count, rate in ((last_linear(model)[1], head_epochs, learning_rate), (model, epochs, learning_rate / 10)):
        model.requires_grad_(False)
        parameters_of.requires_grad_(True)
        phases.append(train(model, train_loader, val_loader, count, rate, patience))
    return {name: phases[0][name] + phases[1][name] for name in HISTORY}


if __name__ == "__main__":
    sys.modules[__spec__.name] = sys.modules[__name__]  # run.py imports this module: the same one, not a second copy
    from labs.hw5_pneumonia.run import main
    from toolkit.cli import run_script

    run_script(main)
