# tensor_history: sums as tensors on the device, history of 0-dim tensors, an EarlyStopping class
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
    splits = {name: source.read(name) for name in SPLITS}
    train_data = ImageDataset(splits["train"], augmentation=augment_bytes if augmented else None, seed=seed)
    eval_data = [ImageDataset(splits[name]) for name in ("val", "test")]
    g = torch.Generator()
    g.manual_seed(seed)
    collate = make_loader(train_data, batch_size, shuffle=True).collate_fn
    train_loader = DataLoader(train_data, batch_size=batch_size, shuffle=True, generator=g, collate_fn=collate)
    val_loader, test_loader = (DataLoader(d, batch_size=batch_size, collate_fn=collate) for d in eval_data)
    return {"train": train_loader, "val": val_loader, "test": test_loader}


# ANSWER 1.2: Pneumonia is about three times as frequent as normal, so a model that always says pneumonia
# already reaches a high accuracy; report recall, specificity and AUC too.
def explore(splits: Mapping[str, Split], class_names: Sequence[str], folder: Path) -> dict[str, list[int]]:
    """Write 1_samples.png (a grid of each class) and 1_distribution.png (bars); return images per class of each split.

    ANSWER 1.2 says what the imbalance does to training and to the metrics that are reported.
    """
    folder = Path(folder)
    per_split = {s: torch.bincount(splits[s].labels.long(), minlength=len(class_names)).tolist() for s in splits}
    some = splits.get("train", next(iter(splits.values())))
    pictures = []
    for c, _name in enumerate(class_names):
        which = torch.nonzero(some.labels == c).squeeze(1)
        which = which[torch.randperm(len(which), generator=torch.Generator().manual_seed(1))[:8]]
        pictures.append(some.images[which].float() / 127.5 - 1)
    figures.image_grid(pictures, class_names, "Examples", folder / "1_samples.png")
    fig = new_figure(6, 4)
    ax = fig.add_subplot()
    bottom = np.zeros(len(per_split))
    for c, name in enumerate(class_names):
        heights = np.array([per_split[s][c] for s in per_split])
        ax.bar(list(per_split), heights, bottom=bottom, label=name)
        bottom = bottom + heights
    ax.legend(title="class")
    ax.set_ylabel("images")
    save_figure(fig, folder / "1_distribution.png")
    return per_split


# ANSWER 1.3: There are few medical images, and augmentation shows variations of position and exposure; a
# radiologist would object to mirroring since the heart lies on the left.
def augment(images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Random versions of training images, float32 (B, 1, H, W) in [-1, 1] → the same; the input is not changed.

    Each image independently: mirrored left to right with probability 1/2, rotated by up to 10 degrees either way,
    contrast times 0.8 ... 1.2 and brightness plus -0.2 ... 0.2; what then lies outside [-1, 1] is clipped.
    ANSWER 1.3: why does augmentation matter in medicine, and which of these would a radiologist object to?
    """
    b = images.size(0)
    dev = images.device
    r = torch.rand(b, 4, generator=generator).to(dev)
    mirror = 1 - 2 * (r[:, 0] < 0.5).float()  # 1 or -1
    a = (r[:, 1] - 0.5) * 20 * np.pi / 180
    z = torch.zeros_like(a)
    theta = torch.stack([mirror * a.cos(), -mirror * a.sin(), z, a.sin(), a.cos(), z], dim=1).view(b, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, align_corners=False, padding_mode="border")
    gain = (0.8 + 0.4 * r[:, 2]).view(b, 1, 1, 1)
    bias = (0.4 * r[:, 3] - 0.2).view(b, 1, 1, 1)
    return torch.clip(moved * gain + bias, -1, 1)


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
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)  # (B, 32, 28, 28), pooled (B, 32, 14, 14)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)  # (B, 64, 14, 14), pooled (B, 64, 7, 7)
        self.conv3 = nn.Conv2d(64, 128, 3, padding=1)  # (B, 128, 7, 7), pooled (B, 128, 3, 3)
        self.pool = nn.MaxPool2d(2)
        self.features = nn.Sequential(
            self.conv1, nn.ReLU(), self.pool, self.conv2, nn.ReLU(), self.pool, self.conv3, nn.ReLU(), self.pool
        )
        self.fc1 = nn.Linear(128 * 9, 64)
        self.fc2 = nn.Linear(64, num_classes)
        self.classifier = nn.Sequential(self.fc1, nn.ReLU(), self.fc2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 1, 28, 28) → logits (B, 2)."""
        return self.classifier(torch.flatten(self.features(images), start_dim=1))


class EarlyStopping:
    """Remembers the best weights, and says when to stop."""

    def __init__(self, patience):
        self.patience = patience
        self.best_loss = None
        self.best_weights = None
        self.bad_epochs = 0

    def step(self, loss, model):
        if self.best_loss is None or loss < self.best_loss:
            self.best_loss = loss
            self.best_weights = {k: v.detach().clone() for k, v in model.state_dict().items()}
            self.bad_epochs = 0
        else:
            self.bad_epochs += 1
        return self.bad_epochs >= self.patience

    def restore(self, model):
        if self.best_weights is not None:
            model.load_state_dict(self.best_weights)


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
    criterion = nn.CrossEntropyLoss()
    stopper = EarlyStopping(patience)
    history = {name: [] for name in HISTORY}
    for _ in range(epochs):
        train_result = run_epoch(model, train_loader, criterion, optimizer)
        val_result = run_epoch(model, val_loader, criterion)
        for name, value in zip(HISTORY, (*train_result, *val_result), strict=True):
            history[name].append(value)
        if stopper.step(val_result[0], model):
            break
    stopper.restore(model)
    return history


def run_epoch(
    model: nn.Module, loader: Any, criterion: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> tuple[float, float]:
    """One epoch: training with an optimizer, validation without. Returns (loss, accuracy) over all images seen."""
    train_mode = optimizer is not None
    model.train(mode=train_mode)
    device = next(model.parameters()).device
    loss_sum = torch.zeros((), device=device)
    right = torch.zeros((), device=device)
    n = 0
    for images, labels in loader:
        images = images.to(device, non_blocking=True)
        labels = labels.to(device, non_blocking=True)
        with torch.set_grad_enabled(train_mode):
            logits = model(images)
            loss = criterion(logits, labels)
        if train_mode:
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        loss_sum += loss.detach() * labels.numel()
        right += logits.detach().argmax(dim=-1).eq(labels).sum()
        n += labels.numel()
    return (loss_sum / n).cpu(), (right / n).cpu()


# ANSWER 2.3: The training loss keeps falling while the validation loss turns upwards after some epochs, so
# the network overfits slightly, which the gap between both curves shows.
def plot_training(history: Mapping[str, Sequence[float]], title: str, path: Path) -> dict[str, float]:
    """Write the curves of loss and accuracy as PNG; return the numbers behind the verdict on overfitting.

    best_epoch: the one with the lowest val_loss (from 1). loss_gap: val_loss - train_loss at the last epoch.
    loss_rise: val_loss at the last epoch minus its lowest. ANSWER 2.3: is it overfitting, and how can you tell?
    """
    numbers = {k: [float(v) for v in history[k]] for k in HISTORY}
    learning_curves(numbers, "acc", title, path)
    v = np.array(numbers["val_loss"])
    return {
        "best_epoch": v.argmin() + 1,
        "loss_gap": v[-1] - numbers["train_loss"][-1],
        "loss_rise": v[-1] - v.min(),
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
    where, conv = first_convolution(backbone)
    grey = nn.Conv2d(
        in_channels=1,
        out_channels=conv.out_channels,
        kernel_size=conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        padding_mode=conv.padding_mode,
        bias=(conv.bias is not None),
    ).to(conv.weight.device)
    grey.weight.data = conv.weight.data.sum(dim=1).unsqueeze(1)
    if conv.bias is not None:
        grey.bias.data = conv.bias.data.clone()
    replace_module(backbone, where, grey)
    where, linear = last_linear(backbone)
    replace_module(backbone, where, nn.Linear(linear.in_features, num_classes).to(linear.weight.device))
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
    _, head = last_linear(model)
    head_params = set(head.parameters())
    for p in model.parameters():
        p.requires_grad_(p in head_params)
    phase_1 = train(model, train_loader, val_loader, epochs=head_epochs, learning_rate=learning_rate, patience=patience)
    for p in model.parameters():
        p.requires_grad_(True)
    phase_2 = train(model, train_loader, val_loader, epochs=epochs, learning_rate=learning_rate / 10, patience=patience)
    return {name: [*phase_1[name], *phase_2[name]] for name in HISTORY}


if __name__ == "__main__":
    sys.modules[__spec__.name] = sys.modules[__name__]  # run.py imports this module: the same one, not a second copy
    from labs.hw5_pneumonia.run import main
    from toolkit.cli import run_script

    run_script(main)
