# own_dataset: a Dataset of one's own with one image an item, BCE on the difference of the logits, contrast around the mean
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

from collections import OrderedDict
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


class XrayDataset(torch.utils.data.Dataset):
    """One X-ray and its label per item."""

    def __init__(self, split, augmented=False, seed=0):
        self.images = split.images
        self.labels = split.labels.long()
        self.augmented = augmented
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        image = normalize(self.images[index])
        if self.augmented:
            image = augment(image.unsqueeze(0), self.generator).squeeze(0)
        return image, self.labels[index]


def make_dataloaders(source: Source, batch_size: int = 128, seed: int = 0, augmented: bool = True) -> dict[str, Any]:
    """Return {"train": DataLoader, "val": DataLoader, "test": DataLoader} of (images, labels).

    source: locate("pneumoniamnist"); source.read(split) gives images uint8 (N, 1, 28, 28) and labels int64 (N,).
    Only training batches are shuffled (the same for the same seed) and, if `augmented`, sent through `augment`.
    """
    g = torch.Generator().manual_seed(seed)
    train_set = XrayDataset(source.read("train"), augmented, seed)
    return {
        "train": DataLoader(train_set, batch_size=batch_size, shuffle=True, generator=g),
        "val": DataLoader(XrayDataset(source.read("val")), batch_size=batch_size, shuffle=False),
        "test": DataLoader(XrayDataset(source.read("test")), batch_size=batch_size, shuffle=False),
    }


# ANSWER 1.2: Pneumonia is about three times as frequent as normal, so a model that always says pneumonia
# already reaches a high accuracy; report recall, specificity and AUC too.
def explore(splits: Mapping[str, Split], class_names: Sequence[str], folder: Path) -> dict[str, list[int]]:
    """Write 1_samples.png (a grid of each class) and 1_distribution.png (bars); return images per class of each split.

    ANSWER 1.2 says what the imbalance does to training and to the metrics that are reported.
    """
    table = {}
    for name, split in splits.items():
        values, numbers = np.unique(split.labels.numpy(), return_counts=True)
        row = [0 for _ in class_names]
        for v, n in zip(values, numbers):
            row[int(v)] = int(n)
        table[name] = row
    ds = XrayDataset(splits["train"])
    rows = [[], []]
    for image, label in ds:
        if len(rows[int(label)]) < 6:
            rows[int(label)].append(image)
        if len(rows[0]) == 6 and len(rows[1]) == 6:
            break
    figures.image_grid(
        [torch.stack(r) if r else torch.empty(0, 1, 28, 28) for r in rows], class_names, "samples", folder / "1_samples.png"
    )
    fig = new_figure(6, 4)
    axes = fig.subplots()
    for shift, (split, numbers) in enumerate(table.items()):
        axes.bar(np.arange(len(numbers)) + 0.25 * shift, numbers, width=0.25, label=split)
    axes.set_xticks(np.arange(len(class_names)) + 0.25, class_names)
    axes.set_yscale("log")
    axes.legend()
    save_figure(fig, folder / "1_distribution.png")
    return table


# ANSWER 1.3: There are few medical images, and augmentation shows variations of position and exposure; a
# radiologist would object to mirroring since the heart lies on the left.
def augment(images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Random versions of training images, float32 (B, 1, H, W) in [-1, 1] → the same; the input is not changed.

    Each image independently: mirrored left to right with probability 1/2, rotated by up to 10 degrees either way,
    contrast times 0.8 ... 1.2 and brightness plus -0.2 ... 0.2; what then lies outside [-1, 1] is clipped.
    ANSWER 1.3: why does augmentation matter in medicine, and which of these would a radiologist object to?
    """
    def draw(low, high):
        return (torch.rand(len(images), 1, 1, 1, generator=generator) * (high - low) + low).to(images.device)

    x = torch.where(draw(0, 1) < 0.5, torch.flip(images, (3,)), images)
    angle = draw(-10, 10).flatten() * np.pi / 180
    theta = torch.zeros(len(images), 2, 3, device=images.device)
    theta[:, 0, 0] = theta[:, 1, 1] = torch.cos(angle)
    theta[:, 1, 0] = torch.sin(angle)
    theta[:, 0, 1] = -theta[:, 1, 0]
    x = F.grid_sample(x, F.affine_grid(theta, x.shape, align_corners=False), padding_mode="border", align_corners=False)
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = (x - mean) * draw(0.8, 1.2) + mean + draw(-0.2, 0.2)
    return x.clamp(min=-1, max=1)


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
        self.features = nn.Sequential(OrderedDict(
            conv1=nn.Conv2d(1, 32, 3, padding=1), relu1=nn.ReLU(), pool1=nn.MaxPool2d(2),  # (32, 14, 14)
            conv2=nn.Conv2d(32, 64, 3, padding=1), relu2=nn.ReLU(), pool2=nn.MaxPool2d(2),  # (64, 7, 7)
        ))
        self.classifier = nn.Sequential(nn.Linear(64 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, num_classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 1, 28, 28) → logits (B, 2)."""
        feature_maps = self.features(images)
        flat = feature_maps.reshape(feature_maps.shape[0], -1)
        return self.classifier(flat)


class BinaryLoss(nn.Module):
    """BCE of the logit of pneumonia against normal, which is the difference of both outputs."""

    def forward(self, logits, labels):
        return F.binary_cross_entropy_with_logits(logits[:, 1] - logits[:, 0], labels.float())


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
    loss_function = BinaryLoss()
    adam = torch.optim.Adam(model.parameters(), lr=learning_rate, betas=(0.9, 0.999))
    history = {key: [] for key in HISTORY}
    lowest = float("inf")
    no_progress = 0
    snapshot = {}
    for epoch in range(epochs):
        for (loss_key, acc_key), arguments in {
            ("train_loss", "train_acc"): (train_loader, loss_function, adam),
            ("val_loss", "val_acc"): (val_loader, loss_function),
        }.items():
            loss, accuracy = run_epoch(model, *arguments)
            history[loss_key].append(loss)
            history[acc_key].append(accuracy)
        if history["val_loss"][-1] < lowest:
            lowest = history["val_loss"][-1]
            snapshot = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            no_progress = 0
        else:
            no_progress += 1
        if no_progress >= patience:
            break
    if snapshot:
        model.load_state_dict(snapshot)
    return history


def run_epoch(
    model: nn.Module, loader: Any, criterion: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> tuple[float, float]:
    """One epoch: training with an optimizer, validation without. Returns (loss, accuracy) over all images seen."""
    device = next(model.parameters()).device
    sums = {"loss": 0.0, "correct": 0, "images": 0}

    def count(logits, labels, loss):
        sums["loss"] += loss.item() * len(labels)
        sums["correct"] += int((logits.softmax(dim=1)[:, 1] > 0.5).long().eq(labels).sum())
        sums["images"] += len(labels)

    if optimizer is None:
        model.eval()
        with torch.inference_mode():
            for images, labels in loader:
                images, labels = images.to(device), labels.to(device)
                logits = model(images)
                count(logits, labels, criterion(logits, labels))
    else:
        model.train()
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            model.zero_grad()
            logits = model(images)
            loss = criterion(logits, labels)
            loss.backward()
            optimizer.step()
            count(logits, labels, loss)
    return sums["loss"] / sums["images"], sums["correct"] / sums["images"]


# ANSWER 2.3: The training loss keeps falling while the validation loss turns upwards after some epochs, so
# the network overfits slightly, which the gap between both curves shows.
def plot_training(history: Mapping[str, Sequence[float]], title: str, path: Path) -> dict[str, float]:
    """Write the curves of loss and accuracy as PNG; return the numbers behind the verdict on overfitting.

    best_epoch: the one with the lowest val_loss (from 1). loss_gap: val_loss - train_loss at the last epoch.
    loss_rise: val_loss at the last epoch minus its lowest. ANSWER 2.3: is it overfitting, and how can you tell?
    """
    figure = new_figure(6, 6)
    upper, lower = figure.subplots(2, 1, sharex=True)
    x = np.arange(1, len(history["val_loss"]) + 1)
    upper.plot(x, history["train_loss"], "o-", x, history["val_loss"], "s-")
    upper.legend(["train", "val"])
    lower.plot(x, history["train_acc"], "o-", x, history["val_acc"], "s-")
    upper.set_title(title)
    lower.set_xlabel("epoch")
    best_epoch, best_loss = min(enumerate(history["val_loss"], 1), key=lambda pair: pair[1])
    upper.axvline(best_epoch, color="gray")
    save_figure(figure, path)
    last_train, last_val = history["train_loss"][-1], history["val_loss"][-1]
    return {"best_epoch": best_epoch, "loss_gap": last_val - last_train, "loss_rise": last_val - best_loss}


# ---- Part 3: transfer from photographs -------------------------------------------------------------------------------


# ANSWER 3.1: Edges and textures learned on photographs are useful on X-rays also, but photographs bring no
# knowledge about anatomy, colour means nothing here and exposure differs.
def adapt_backbone(backbone: nn.Module, num_classes: int = 2) -> nn.Module:
    """Change a torchvision classifier in place so that it takes one channel and returns num_classes logits.

    The weights (O, 3, k, k) of the first convolution are summed to (O, 1, k, k): a grey image then gives exactly what
    its three equal channels gave before. The last linear layer is new. Works with any torchvision classifier.
    ANSWER 3.1: why may weights that were learned on photographs help on X-rays, and what may they not bring?
    """
    conv_name, conv = first_convolution(backbone)
    single = nn.Conv2d(
        1, conv.out_channels, conv.kernel_size, stride=conv.stride, padding=conv.padding, bias=conv.bias is not None
    )
    with torch.no_grad():
        single.weight[:] = torch.einsum("oikl->okl", conv.weight)[:, None]
        if conv.bias is not None:
            single.bias[:] = conv.bias
    parent_name, _, attribute = conv_name.rpartition(".")
    setattr(backbone.get_submodule(parent_name), attribute, single)
    head_name, head = last_linear(backbone)
    parent_name, _, attribute = head_name.rpartition(".")
    setattr(backbone.get_submodule(parent_name), attribute, nn.Linear(head.in_features, num_classes))
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
    head_ids = [id(p) for p in head.parameters()]
    body = [p for p in model.parameters() if id(p) not in head_ids]
    for p in body:
        p.requires_grad = False
    history = train(model, train_loader, val_loader, head_epochs, learning_rate, patience)
    for p in body:
        p.requires_grad = True
    for key, values in train(model, train_loader, val_loader, epochs, learning_rate / 10, patience).items():
        history[key] += values
    return history


if __name__ == "__main__":
    sys.modules[__spec__.name] = sys.modules[__name__]  # run.py imports this module: the same one, not a second copy
    from labs.hw5_pneumonia.run import main
    from toolkit.cli import run_script

    run_script(main)
