# torchvision_style: torchvision's functional transforms image by image, deepcopy of the model for Grad-CAM
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

import torchvision.transforms.functional as TF
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
    train_split = source.read("train")
    val_split = source.read("val")
    test_split = source.read("test")
    if augmented:
        train_dataset = ImageDataset(train_split, augmentation=augment_bytes, seed=seed)
    else:
        train_dataset = ImageDataset(train_split, seed=seed)
    val_dataset = ImageDataset(val_split, seed=seed)
    test_dataset = ImageDataset(test_split, seed=seed)
    train_loader = make_loader(train_dataset, batch_size=batch_size, shuffle=True, num_workers=0, seed=seed)
    val_loader = make_loader(val_dataset, batch_size=batch_size, shuffle=False, num_workers=0)
    test_loader = make_loader(test_dataset, batch_size=batch_size, shuffle=False, num_workers=0)
    return dict(train=train_loader, val=val_loader, test=test_loader)


# ANSWER 1.2: Pneumonia is about three times as frequent as normal, so a model that always says pneumonia
# already reaches a high accuracy; report recall, specificity and AUC too.
def explore(splits: Mapping[str, Split], class_names: Sequence[str], folder: Path) -> dict[str, list[int]]:
    """Write 1_samples.png (a grid of each class) and 1_distribution.png (bars); return images per class of each split.

    ANSWER 1.2 says what the imbalance does to training and to the metrics that are reported.
    """
    result = {}
    for split in splits:
        count = [0] * len(class_names)
        for label in splits[split].labels.tolist():
            count[label] += 1
        result[split] = count
    rows = []
    for c in range(len(class_names)):
        rows.append(normalize(splits["train"].images[splits["train"].labels == c][:10]))
    figures.image_grid(rows, class_names, "samples", folder / "1_samples.png")
    figure = new_figure(8, 3)
    for k, split in enumerate(result):
        ax = figure.add_subplot(1, len(result), k + 1)
        ax.bar(class_names, result[split])
        ax.set_title(f"{split} (n={sum(result[split])})")
    figure.savefig(folder / "1_distribution.png")
    return result


# ANSWER 1.3: There are few medical images, and augmentation shows variations of position and exposure; a
# radiologist would object to mirroring since the heart lies on the left.
def augment(images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Random versions of training images, float32 (B, 1, H, W) in [-1, 1] → the same; the input is not changed.

    Each image independently: mirrored left to right with probability 1/2, rotated by up to 10 degrees either way,
    contrast times 0.8 ... 1.2 and brightness plus -0.2 ... 0.2; what then lies outside [-1, 1] is clipped.
    ANSWER 1.3: why does augmentation matter in medicine, and which of these would a radiologist object to?
    """
    augmented = []
    for image in images:
        # image: (1, H, W)
        if torch.rand(1, generator=generator).item() < 0.5:
            image = TF.hflip(image)
        angle = torch.empty(1).uniform_(-10, 10, generator=generator).item()
        image = TF.rotate(image, angle, interpolation=TF.InterpolationMode.BILINEAR, fill=-1.0)
        contrast = torch.empty(1).uniform_(0.8, 1.2, generator=generator).item()
        brightness = torch.empty(1).uniform_(-0.2, 0.2, generator=generator).item()
        image = image * contrast + brightness
        augmented.append(image.clamp(-1, 1))
    return torch.stack(augmented)


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
        layers = []
        channels = [1, 32, 64, 96]
        for c_in, c_out in zip(channels, channels[1:]):
            layers += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]  # 28 -> 14 -> 7 -> 3
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)  # (96, 1, 1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(96, num_classes))
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, nonlinearity="relu")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 1, 28, 28) → logits (B, 2)."""
        x = self.features(images)
        x = self.avgpool(x).squeeze(-1).squeeze(-1)
        return self.classifier(x)


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
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)

    best_model_wts = copy.deepcopy(model.state_dict())
    best_val_loss = 1e10
    epochs_no_improve = 0
    train_loss_hist, train_acc_hist, val_loss_hist, val_acc_hist = [], [], [], []

    for epoch in range(1, epochs + 1):
        for phase in ["train", "val"]:
            if phase == "train":
                epoch_loss, epoch_acc = run_epoch(model, train_loader, criterion, optimizer)
                train_loss_hist.append(epoch_loss)
                train_acc_hist.append(epoch_acc)
            else:
                epoch_loss, epoch_acc = run_epoch(model, val_loader, criterion)
                val_loss_hist.append(epoch_loss)
                val_acc_hist.append(epoch_acc)
                if epoch_loss < best_val_loss:
                    best_val_loss = epoch_loss
                    best_model_wts = copy.deepcopy(model.state_dict())
                    epochs_no_improve = 0
                else:
                    epochs_no_improve += 1
        if epochs_no_improve == patience:
            break

    model.load_state_dict(best_model_wts)
    return {
        "train_loss": train_loss_hist,
        "train_acc": train_acc_hist,
        "val_loss": val_loss_hist,
        "val_acc": val_acc_hist,
    }


def run_epoch(
    model: nn.Module, loader: Any, criterion: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> tuple[float, float]:
    """One epoch: training with an optimizer, validation without. Returns (loss, accuracy) over all images seen."""
    phase = "train" if optimizer is not None else "val"
    if phase == "train":
        model.train()
    else:
        model.eval()
    device = next(model.parameters()).device
    running_loss = 0.0
    running_corrects = 0
    n_samples = 0
    for inputs, labels in loader:
        inputs = inputs.to(device)
        labels = labels.to(device)
        with torch.set_grad_enabled(phase == "train"):
            outputs = model(inputs)
            _, preds = torch.max(outputs, 1)
            loss = criterion(outputs, labels)
            if phase == "train":
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        running_loss += loss.item() * inputs.size(0)
        running_corrects += torch.sum(preds == labels.data)
        n_samples += inputs.size(0)
    epoch_loss = running_loss / n_samples
    epoch_acc = running_corrects.double() / n_samples
    return epoch_loss, epoch_acc.item()


# ANSWER 2.3: The training loss keeps falling while the validation loss turns upwards after some epochs, so
# the network overfits slightly, which the gap between both curves shows.
def plot_training(history: Mapping[str, Sequence[float]], title: str, path: Path) -> dict[str, float]:
    """Write the curves of loss and accuracy as PNG; return the numbers behind the verdict on overfitting.

    best_epoch: the one with the lowest val_loss (from 1). loss_gap: val_loss - train_loss at the last epoch.
    loss_rise: val_loss at the last epoch minus its lowest. ANSWER 2.3: is it overfitting, and how can you tell?
    """
    fig = learning_curves(history, "acc", title)
    save_figure(fig, path)
    best = min(range(len(history["val_loss"])), key=lambda i: history["val_loss"][i])
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
    conv_name, conv1 = first_convolution(backbone)
    w = conv1.weight.clone().detach()
    new = nn.Conv2d(
        1,
        conv1.out_channels,
        kernel_size=conv1.kernel_size,
        stride=conv1.stride,
        padding=conv1.padding,
        dilation=conv1.dilation,
        groups=conv1.groups,
        bias=conv1.bias is not None,
    )
    new.weight = nn.Parameter(w[:, 0:1] + w[:, 1:2] + w[:, 2:3])
    if conv1.bias is not None:
        new.bias = conv1.bias
    replace_module(backbone, conv_name, new)
    fc_name, fc = last_linear(backbone)
    new_fc = nn.Linear(fc.in_features, num_classes)
    nn.init.xavier_uniform_(new_fc.weight)
    nn.init.zeros_(new_fc.bias)
    replace_module(backbone, fc_name, new_fc)
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
    def set_requires_grad(module, value):
        for p in module.parameters():
            p.requires_grad = value

    set_requires_grad(model, False)
    _, classifier = last_linear(model)
    set_requires_grad(classifier, True)
    print("phase 1: head only")
    h1 = train(
        model, train_loader, val_loader, epochs=head_epochs, learning_rate=learning_rate, patience=patience
    )
    print("phase 2: all layers")
    set_requires_grad(model, True)
    h2 = train(
        model, train_loader, val_loader, epochs=epochs, learning_rate=learning_rate / 10.0, patience=patience
    )
    history = {}
    for key in h1.keys():
        history[key] = h1[key] + h2[key]
    return history


if __name__ == "__main__":
    sys.modules[__spec__.name] = sys.modules[__name__]  # run.py imports this module: the same one, not a second copy
    from labs.hw5_pneumonia.run import main
    from toolkit.cli import run_script

    run_script(main)
