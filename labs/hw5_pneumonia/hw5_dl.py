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
from labs.hw5_pneumonia.hw5_evaluate import (  # noqa: F401 -- run.py finds Parts 4 and 5 here, too
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
    # Hint: ImageDataset makes a data set of what source.read returns. Its `augmentation` is a function (uint8 images,
    # generator) → floats, such as augment_bytes below. make_loader makes a DataLoader of a data set.
    # BEGIN SOLUTION 1.1: three DataLoaders
    loaders: dict[str, DataLoader] = {}
    for name in SPLITS:
        training = name == "train"
        function = augment_bytes if training and augmented else None
        dataset = ImageDataset(source.read(name), augmentation=function, seed=seed)  # type: ignore[arg-type]
        loaders[name] = make_loader(dataset, batch_size, shuffle=training, seed=seed)
    return loaders
    # END SOLUTION 1.1


def explore(splits: Mapping[str, Split], class_names: Sequence[str], folder: Path) -> dict[str, list[int]]:
    """Write 1_samples.png (a grid of each class) and 1_distribution.png (bars); return images per class of each split.

    ANSWER 1.2 says what the imbalance does to training and to the metrics that are reported.
    """
    # Hint: torch.bincount; figures.image_grid(rows, titles, title, path) draws one row of images per class.
    # BEGIN SOLUTION 1.2: count the classes and draw both pictures
    counts = {name: torch.bincount(split.labels, minlength=len(class_names)).tolist() for name, split in splits.items()}
    train = splits["train"]
    rows = [normalize(train.images[train.labels == c][:8]) for c in range(len(class_names))]
    figures.image_grid(rows, class_names, "training images of each class", folder / "1_samples.png")
    figure = new_figure(7, 3.6)
    axes = figure.subplots()
    for c, class_name in enumerate(class_names):
        bars = axes.bar([i + 0.4 * c for i in range(len(counts))], [n[c] for n in counts.values()], 0.4)
        bars.set_label(class_name)
        axes.bar_label(bars)
    axes.set_xticks([i + 0.2 for i in range(len(counts))], [f"{s} (n = {sum(n)})" for s, n in counts.items()])
    axes.set(ylabel="images", title="PneumoniaMNIST: images of each class")
    axes.margins(y=0.12)
    axes.legend()
    save_figure(figure, folder / "1_distribution.png")
    # ANSWER 1.2: Three of four training images show pneumonia. A model that always says "pneumonia" is right for 74 %
    # of them, so accuracy alone says little. In the plain loss the normal images together weigh a third of what the
    # others weigh, so the model learns to say "pneumonia" when in doubt. In a population with fewer sick people (62.5 %
    # in the test split, far fewer in a screening) that becomes false alarms. Remedies: class weights in the loss, a
    # threshold chosen on validation data for sensitivity and specificity alike, and metrics that do not depend on
    # prevalence.
    return counts
    # END SOLUTION 1.2


def augment(images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Random versions of training images, float32 (B, 1, H, W) in [-1, 1] → the same; the input is not changed.

    Each image independently: mirrored left to right with probability 1/2, rotated by up to 10 degrees either way,
    contrast times 0.8 ... 1.2 and brightness plus -0.2 ... 0.2; what then lies outside [-1, 1] is clipped.
    ANSWER 1.3: why does augmentation matter in medicine, and which of these would a radiologist object to?
    """
    # Hint: F.affine_grid and F.grid_sample rotate and mirror a whole batch; torch.rand takes a generator.
    # BEGIN SOLUTION 1.3: flip, rotation, contrast, brightness
    B = len(images)
    flip, angle, gain, offset = torch.rand(4, B, generator=generator).to(images.device)  # (B,) each
    sign = torch.where(flip < 0.5, -1.0, 1.0)
    angle = (2 * angle - 1) * torch.pi * 10 / 180
    zero = torch.zeros_like(angle)
    row_x = torch.stack([sign * angle.cos(), -angle.sin(), zero], dim=1)
    row_y = torch.stack([sign * angle.sin(), angle.cos(), zero], dim=1)
    grid = F.affine_grid(torch.stack([row_x, row_y], dim=1), list(images.shape), align_corners=False)  # (B, H, W, 2)
    # Reflection fills the corners with tissue: black corners would tell the model how far the image was rotated.
    rotated = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    gain, offset = 1 + 0.2 * (2 * gain - 1), 0.2 * (2 * offset - 1)
    # ANSWER 1.3: There are few images, all from one hospital, and labels are expensive. Patients do not stand perfectly
    # straight and exposure differs, so small rotations and changes of brightness are what a new hospital will bring. A
    # radiologist objects to the mirror image: it puts the heart on the right (dextrocardia) and the liver on the left,
    # which is very rare in healthy people, and it swaps the side marker. Here it is harmless for the label "pneumonia",
    # but it would be wrong wherever sides matter. Strong contrast changes are doubtful too: a faint opacity is the
    # finding.
    return (rotated * gain.view(B, 1, 1, 1) + offset.view(B, 1, 1, 1)).clamp(-1, 1)
    # END SOLUTION 1.3


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
        # Hint: padding=1 keeps 28 x 28 through a 3 x 3 convolution; each pooling halves it: 28, 14, 7, 3.
        # BEGIN SOLUTION 2.1: define the layers
        layers: list[nn.Module] = []
        # (B, 1, 28, 28) → (B, 32, 14, 14) → (B, 64, 7, 7) → (B, 128, 3, 3)
        for channels_in, channels_out in ((1, 32), (32, 64), (64, 128)):
            layers += [
                nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False),
                nn.BatchNorm2d(channels_out),  # allows a learning rate ten times that without it
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Flatten(),  # (B, 1152)
            nn.Dropout(0.5),  # 4,708 images are few for 150,000 weights
            nn.Linear(128 * 3 * 3, 64),
            nn.ReLU(),
            nn.Linear(64, num_classes),
        )
        # END SOLUTION 2.1

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 1, 28, 28) → logits (B, 2)."""
        # BEGIN SOLUTION 2.1: features, then logits
        return self.classifier(self.features(images))
        # END SOLUTION 2.1


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
    # Hint: run_epoch below does one epoch; copy.deepcopy(model.state_dict()) keeps weights, load_state_dict restores.
    # BEGIN SOLUTION 2.2: epochs with early stopping
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    history: dict[str, list[float]] = {name: [] for name in HISTORY}
    for epoch in range(epochs):
        train_loss, train_acc = run_epoch(model, train_loader, criterion, optimizer)
        val_loss, val_acc = run_epoch(model, val_loader, criterion)
        for name, value in zip(HISTORY, (train_loss, train_acc, val_loss, val_acc), strict=True):
            history[name].append(value)
        best_epoch = int(np.argmin(history["val_loss"]))
        if best_epoch == epoch:
            best_weights = copy.deepcopy(model.state_dict())  # a copy: the next step changes the weights in place
        if epoch - best_epoch >= patience:
            break
    model.load_state_dict(best_weights)
    return history
    # END SOLUTION 2.2


def run_epoch(
    model: nn.Module, loader: Any, criterion: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> tuple[float, float]:
    """One epoch: training with an optimizer, validation without. Returns (loss, accuracy) over all images seen."""
    # Hint: model.train(...) and torch.set_grad_enabled(...); then zero_grad, forward, loss, backward, step.
    # BEGIN SOLUTION 2.2: one epoch of training or validation
    device = next(model.parameters()).device
    training = optimizer is not None
    model.train(training)  # dropout and BatchNorm behave differently in evaluation
    total_loss, hits, seen = 0.0, 0, 0
    with torch.set_grad_enabled(training):
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            logits = model(images)
            loss = criterion(logits, labels)
            if training:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            total_loss += loss.item() * len(labels)  # the last batch is smaller, so weigh by its images
            hits += (logits.argmax(dim=1) == labels).sum().item()
            seen += len(labels)
    return total_loss / seen, hits / seen
    # END SOLUTION 2.2


def plot_training(history: Mapping[str, Sequence[float]], title: str, path: Path) -> dict[str, float]:
    """Write the curves of loss and accuracy as PNG; return the numbers behind the verdict on overfitting.

    best_epoch: the one with the lowest val_loss (from 1). loss_gap: val_loss - train_loss at the last epoch.
    loss_rise: val_loss at the last epoch minus its lowest. ANSWER 2.3: is it overfitting, and how can you tell?
    """
    # Hint: toolkit.plots.learning_curves, or draw them yourself.
    # BEGIN SOLUTION 2.3: curves and verdict
    learning_curves(history, "acc", title, path)
    training, validation = history["train_loss"], history["val_loss"]
    # ANSWER 2.3: Overfitting shows where training loss keeps falling while validation loss rises again (loss_rise
    # above 0 by more than its noise) and the gap between them grows. Dropout and augmentation make the training
    # curves look worse than they are: they are measured on harder images with half of the units missing, so a
    # validation loss below the training loss is not an error. Early stopping keeps the weights from before the rise.
    # But validation images come from the same source as the training images: the test split shows what the curves
    # cannot.
    return {
        "best_epoch": 1 + int(np.argmin(validation)),
        "loss_gap": validation[-1] - training[-1],
        "loss_rise": validation[-1] - min(validation),
    }
    # END SOLUTION 2.3


# ---- Part 3: transfer from photographs -------------------------------------------------------------------------------


def adapt_backbone(backbone: nn.Module, num_classes: int = 2) -> nn.Module:
    """Change a torchvision classifier in place so that it takes one channel and returns num_classes logits.

    The weights (O, 3, k, k) of the first convolution are summed to (O, 1, k, k): a grey image then gives exactly what
    its three equal channels gave before. The last linear layer is new. Works with any torchvision classifier.
    ANSWER 3.1: why may weights that were learned on photographs help on X-rays, and what may they not bring?
    """
    # Hint: first_convolution(backbone) and last_linear(backbone) give name and module; replace_module(...) swaps.
    # BEGIN SOLUTION 3.1: one channel in, a new head
    name, old = first_convolution(backbone)
    convolution = nn.Conv2d(
        1,
        old.out_channels,
        kernel_size=old.kernel_size,
        stride=old.stride,
        padding=old.padding,
        dilation=old.dilation,
        bias=old.bias is not None,
    )
    with torch.no_grad():
        convolution.weight.copy_(old.weight.sum(dim=1, keepdim=True))  # (O, 1, k, k)
        if old.bias is not None:
            convolution.bias.copy_(old.bias)
    replace_module(backbone, name, convolution)
    name, head = last_linear(backbone)
    replace_module(backbone, name, nn.Linear(head.in_features, num_classes))
    # ANSWER 3.1: The first layers of any network for images look for edges, blobs and textures, and ribs, the border of
    # the heart and the haze of an infiltrate are made of those. 4,708 images are few to learn them from; a million
    # photographs taught them already. So training starts near a good place, needs fewer steps and labels, and varies
    # less between seeds. What they cannot bring: photographs have colours, objects and perspective, X-rays have none of
    # that, so the later layers know dogs and not lungs and must be trained again. And the network saw 224 pixels: with
    # 28 pixels most of its detail has no place, so the images are enlarged first.
    return backbone
    # END SOLUTION 3.1


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
    # Hint: last_linear(model) gives the head; requires_grad_(False) freezes.
    # BEGIN SOLUTION 3.2: the head, then everything
    _name, head = last_linear(model)
    model.requires_grad_(False)
    head.requires_grad_(True)
    first = train(model, train_loader, val_loader, head_epochs, learning_rate, patience)
    model.requires_grad_(True)
    second = train(model, train_loader, val_loader, epochs, learning_rate / 10, patience)
    # ANSWER 3.2: The fine-tuned network starts with a lower validation loss and reaches its best in fewer epochs; from
    # scratch the same network needs more epochs and spreads more over the seeds. The new head is trained alone first
    # because its weights are random: their large gradients would destroy what the convolutions know. The lower rate
    # afterwards changes them a little at a time. The fewer the labels, the larger the gain: with all 4,708 images the
    # two end close to each other, with some hundred of them from scratch learns almost nothing in the same time.
    return {name: first[name] + second[name] for name in HISTORY}
    # END SOLUTION 3.2


if __name__ == "__main__":
    sys.modules[__spec__.name] = sys.modules[__name__]  # run.py imports this module: the same one, not a second copy
    from labs.hw5_pneumonia.run import main
    from toolkit.cli import run_script

    run_script(main)
