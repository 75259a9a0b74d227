# checkpoint_file: the best weights in a file of the working folder, pyplot, a loop over images in the augmentation
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

import matplotlib.pyplot as plt
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
    def dataset(split):
        if split == "train" and augmented:
            return ImageDataset(source.read(split), augmentation=augment_bytes, seed=seed)
        return ImageDataset(source.read(split), seed=seed)

    return {s: make_loader(dataset(s), batch_size, shuffle=(s == "train"), seed=seed) for s in SPLITS}


def explore(splits: Mapping[str, Split], class_names: Sequence[str], folder: Path) -> dict[str, list[int]]:
    """Write 1_samples.png (a grid of each class) and 1_distribution.png (bars); return images per class of each split.

    ANSWER 1.2: Pneumonia is about three times as frequent as normal, so a model that always says
    pneumonia already reaches a high accuracy; report recall, specificity and AUC too.
    """
    n_classes = len(class_names)
    fig, axs = plt.subplots(n_classes, 5, figsize=(8, 4))
    for c in range(n_classes):
        idx = (splits["train"].labels == c).nonzero().flatten()
        for j in range(5):
            axs[c, j].axis("off")
            if j < len(idx):
                axs[c, j].imshow(splits["train"].images[idx[j], 0], cmap="gray")
                axs[c, j].set_title(class_names[c])
    plt.savefig(folder / "1_samples.png")
    plt.close(fig)

    distribution = {}
    for name, data in splits.items():
        distribution[name] = [(data.labels == c).sum().item() for c in range(n_classes)]

    plt.figure()
    for c in range(n_classes):
        plt.bar([i + 0.3 * c for i in range(len(splits))], [distribution[s][c] for s in splits], 0.3, label=class_names[c])
    plt.xticks([i + 0.15 for i in range(len(splits))], list(splits))
    plt.legend()
    plt.savefig(folder / "1_distribution.png")
    plt.close()
    return distribution


def augment(images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Random versions of training images, float32 (B, 1, H, W) in [-1, 1] → the same; the input is not changed.

    Each image independently: mirrored left to right with probability 1/2, rotated by up to 10 degrees either way,
    contrast times 0.8 ... 1.2 and brightness plus -0.2 ... 0.2; what then lies outside [-1, 1] is clipped.
    ANSWER 1.3: There are few medical images, and augmentation shows variations of position and
    exposure; a radiologist would object to mirroring since the heart lies on the left.
    """
    result = []
    for image in images:
        r = torch.rand(4, generator=generator)
        img = image.clone()
        if r[0] < 0.5:
            img = torch.flip(img, dims=[2])
        angle = torch.deg2rad((r[1] * 2 - 1) * 10)
        matrix = torch.tensor([[torch.cos(angle), -torch.sin(angle), 0.0], [torch.sin(angle), torch.cos(angle), 0.0]])
        grid = F.affine_grid(matrix[None], [1, *img.shape], align_corners=False)
        img = F.grid_sample(img[None], grid, padding_mode="border", align_corners=False)[0]
        img = img * (0.8 + 0.4 * r[2]) + (0.4 * r[3] - 0.2)
        result.append(img.clamp(-1, 1))
    return torch.stack(result)


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
            nn.Conv2d(1, 16, kernel_size=5, padding=2),  # 16x28x28
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2, 2),  # 16x14x14
            nn.Conv2d(16, 32, kernel_size=5, padding=2),  # 32x14x14
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2, 2),  # 32x7x7
        )
        self.classifier = nn.Sequential(nn.Linear(32 * 7 * 7, 64), nn.ReLU(inplace=True), nn.Linear(64, num_classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 1, 28, 28) → logits (B, 2)."""
        x = self.features(images)
        x = x.view(x.size(0), -1)
        x = self.classifier(x)
        return x


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
    optimizer = torch.optim.Adam(filter(lambda p: p.requires_grad, model.parameters()), lr=learning_rate)
    loss_fn = nn.CrossEntropyLoss()
    log = {k: [] for k in HISTORY}
    checkpoint = Path("best_model.pth")
    best = None
    waited = 0
    epoch = 0
    while epoch < epochs and waited < patience:
        tl, ta = run_epoch(model, train_loader, loss_fn, optimizer)
        vl, va = run_epoch(model, val_loader, loss_fn)
        for key, value in zip(HISTORY, (tl, ta, vl, va)):
            log[key].append(value)
        if best is None or vl < best:
            best = vl
            torch.save(model.state_dict(), checkpoint)
            waited = 0
        else:
            waited += 1
        epoch += 1
    if best is not None:
        model.load_state_dict(torch.load(checkpoint, weights_only=True))
    return log


def run_epoch(
    model: nn.Module, loader: Any, criterion: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> tuple[float, float]:
    """One epoch: training with an optimizer, validation without. Returns (loss, accuracy) over all images seen."""
    device = next(model.parameters()).device
    is_train = optimizer is not None
    model.train() if is_train else model.eval()
    losses, hits, count = 0.0, 0, 0
    context = torch.enable_grad() if is_train else torch.no_grad()
    with context:
        for batch in loader:
            x, y = batch
            x, y = x.to(device), y.to(device).long()
            prediction = model(x)
            loss = criterion(prediction, y)
            if is_train:
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            losses += float(loss) * x.shape[0]
            hits += int((prediction.argmax(1) == y).sum())
            count += x.shape[0]
    return losses / count, hits / count


# ANSWER 2.3: The training loss keeps falling while the validation loss turns upwards after some epochs, so
# the network overfits slightly, which the gap between both curves shows.
def plot_training(history: Mapping[str, Sequence[float]], title: str, path: Path) -> dict[str, float]:
    """Write the curves of loss and accuracy as PNG; return the numbers behind the verdict on overfitting.

    best_epoch: the one with the lowest val_loss (from 1). loss_gap: val_loss - train_loss at the last epoch.
    loss_rise: val_loss at the last epoch minus its lowest. ANSWER 2.3: is it overfitting, and how can you tell?
    """
    fig, (a, b) = plt.subplots(1, 2, figsize=(10, 4))
    a.plot(history["train_loss"], label="train loss")
    a.plot(history["val_loss"], label="val loss")
    b.plot(history["train_acc"], label="train acc")
    b.plot(history["val_acc"], label="val acc")
    a.legend()
    b.legend()
    plt.suptitle(title)
    plt.savefig(path)
    plt.close(fig)
    lowest = min(history["val_loss"])
    for number, value in enumerate(history["val_loss"], start=1):
        if value == lowest:
            best_epoch = number
            break
    gap = history["val_loss"][-1] - history["train_loss"][-1]
    return dict(best_epoch=best_epoch, loss_gap=gap, loss_rise=history["val_loss"][-1] - lowest)


# ---- Part 3: transfer from photographs -------------------------------------------------------------------------------


def adapt_backbone(backbone: nn.Module, num_classes: int = 2) -> nn.Module:
    """Change a torchvision classifier in place so that it takes one channel and returns num_classes logits.

    The weights (O, 3, k, k) of the first convolution are summed to (O, 1, k, k): a grey image then gives exactly what
    its three equal channels gave before. The last linear layer is new. Works with any torchvision classifier.
    ANSWER 3.1: Edges and textures learned on photographs are useful on X-rays also, but photographs
    bring no knowledge about anatomy, colour means nothing here and exposure differs.
    """
    name, old = first_convolution(backbone)
    new = nn.Conv2d(1, old.out_channels, old.kernel_size, old.stride, old.padding, old.dilation, bias=old.bias is not None)
    state = {"weight": old.weight.data.sum(dim=1, keepdim=True)}
    if old.bias is not None:
        state["bias"] = old.bias.data
    new.load_state_dict(state)
    replace_module(backbone, name, new)
    name, fc = last_linear(backbone)
    replace_module(backbone, name, nn.Linear(fc.in_features, num_classes, bias=True))
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
    head_name, _ = last_linear(model)
    for name, p in model.named_parameters():
        p.requires_grad = name.startswith(head_name + ".")
    h1 = train(model, train_loader, val_loader, head_epochs, learning_rate, patience)
    for p in model.parameters():
        p.requires_grad = True
    h2 = train(model, train_loader, val_loader, epochs, learning_rate * 0.1, patience)
    return {k: list(h1[k]) + list(h2[k]) for k in h1}


if __name__ == "__main__":
    sys.modules[__spec__.name] = sys.modules[__name__]  # run.py imports this module: the same one, not a second copy
    from labs.hw5_pneumonia.run import main
    from toolkit.cli import run_script

    run_script(main)
