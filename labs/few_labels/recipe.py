"""The methods of this lab: which images, which network, which loss. This is the file to read, and the one to change.

All of them train on the course's one loop, classification_train.train_model. What differs is the batch and the loss:
a batch of a semi-supervised method holds labelled images, then unlabelled ones, and the loss tells them apart by their
targets (0 .. 8 for a label, WEAK and STRONG for the two views of an unlabelled image).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from classification_dataset import ImageDataset
from classification_models import CNNModel
from labs.medmnist_experiments.residual import ResNet
from toolkit.augment import Augmentation, named_augmentation
from toolkit.batches import StackedBatch, make_loader
from toolkit.medmnist_data import Split

WEAK, STRONG = -1, -2  # targets of the two views of an unlabelled image
VIEWS = ((), (2,), (3,), (2, 3))  # axes that are mirrored: tissue has no up and no left
# Flips, turns, shifts, and colour as another laboratory's stain and scanner would change it.
STAIN = Augmentation(turns=True, crop_padding=4, stain_jitter=0.3, brightness_jitter=0.15)


# ---- which images ----------------------------------------------------------------------------------------------------


def draw(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Indices of `count` labelled images, each class as frequent as in all of them; the draw is the seed.

    Draws of one seed are nested: the 45 are among the 90, so that a curve over the number of labels compares like with
    like. An image's place is its rank among the shuffled images of its class over their number; the lowest come first.
    """
    generator = np.random.default_rng(seed)
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        place[generator.permutation(members)] = (np.arange(len(members)) + generator.random()) / len(members)
    return np.argsort(place, kind="stable")[:count]


class MixedBatches(ImageDataset):
    """Labelled images, and with each batch of B of them `ratio` x B unlabelled ones, drawn at random, in two views.

    A batch is (images, targets): the labelled images with their labels, then the unlabelled ones weakly augmented
    (target WEAK), then the same ones strongly augmented (target STRONG).
    """

    def __init__(self, labelled: Split, unlabelled: torch.Tensor, ratio: int, augmentation: Augmentation, seed: int):
        super().__init__(labelled, augmentation=augmentation, seed=seed)
        self.unlabelled, self.ratio = unlabelled, ratio  # uint8 (N, 3, 28, 28)
        self.weak = named_augmentation("standard")

    def __getitems__(self, indices: Sequence[int]) -> StackedBatch:
        """See the class."""
        images, labels = super().__getitems__(indices).stacked
        chosen = torch.randint(len(self.unlabelled), (self.ratio * len(labels),), generator=self.generator)
        pixels = self.unlabelled[chosen]
        views = [self.weak(pixels, self.generator), self.augmentation(pixels, self.generator)]
        marks = [torch.full_like(chosen, mark) for mark in (WEAK, STRONG)]
        images, targets = torch.cat([images, *views]), torch.cat([labels, *marks])
        return StackedBatch((images, targets), len(targets), lambda i: (images[i], targets[i]))


# ---- which loss ------------------------------------------------------------------------------------------------------


class FixMatch(nn.Module):
    """Cross-entropy of the labelled images, and consistency between two views of the unlabelled ones.

    loss = CE(labelled) + mean over unlabelled u of [max p(weak u) >= threshold] * CE(strong u, argmax p(weak u))

    The network's own answer to the weakly augmented image becomes the label of the strongly augmented one, wherever it
    is sure (Sohn et al., FixMatch, NeurIPS 2020, equations 3 and 4).
    """

    def __init__(self, threshold: float = 0.95) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """logits (B, 9), targets (B,) as MixedBatches makes them → loss."""
        loss = F.cross_entropy(logits[targets >= 0], targets[targets >= 0])
        if not (targets == WEAK).any():  # a batch of validation images
            return loss
        confidence, guess = logits[targets == WEAK].detach().softmax(dim=1).max(dim=1)  # no gradient through the guess
        each = F.cross_entropy(self.learner(logits, targets), guess, reduction="none")
        return loss + (each * (confidence >= self.threshold)).mean()

    def learner(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The logits that are to follow the guess."""
        return logits[targets == STRONG]


class PseudoLabel(FixMatch):
    """The same with one view: a sure answer becomes the label of the very image it was given for (Lee 2013).

    Without a second view the network learns only to be surer of what it believes already, mistakes included.
    """

    def learner(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The logits that are to follow the guess."""
        return logits[targets == WEAK]


# ---- the methods -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """One row of the table.

    title: what it adds to the row above it. unlabelled: the loss of the unlabelled images; none: labels only. ratio:
    unlabelled images for each labelled one of a batch. ema_decay: averaged weights; 0: none. views: mirror images whose
    answers are averaged.
    """

    title: str
    network: Literal["cnn", "residual"] = "residual"
    augmentation: Augmentation = STAIN
    unlabelled: Literal["none", "pseudo", "fixmatch"] = "none"
    threshold: float = 0.95
    ratio: int = 2
    ema_decay: float = 0.99
    views: int = len(VIEWS)
    learning_rate: float = 0.003
    weight_decay: float = 0.05


FLIPS = named_augmentation("flips")
METHODS = {
    "labels": Method("the tutorial CNN, labels only", "cnn", FLIPS, ema_decay=0, views=1),
    "stain": Method("+ stain and colour augmentation", "cnn", ema_decay=0, views=1),
    "averaged": Method("+ averaged weights and views", "cnn"),
    "residual": Method("+ a residual network"),
    "pseudo": Method("+ pseudo-labels of the unlabelled images", unlabelled="pseudo"),
    "fixmatch": Method("+ consistency of two views instead (FixMatch)", unlabelled="fixmatch"),
}


def build(method: Method, num_classes: int) -> nn.Module:
    """The network with random weights: the course's CNN, or a residual one with a third of a million parameters."""
    if method.network == "cnn":
        return CNNModel(num_classes)
    return ResNet((1, 1, 1), num_classes, width=32)


def criterion(method: Method) -> nn.Module:
    """The loss of the method."""
    if method.unlabelled == "none":
        return nn.CrossEntropyLoss()
    return {"pseudo": PseudoLabel, "fixmatch": FixMatch}[method.unlabelled](method.threshold)


def training_loader(
    method: Method, labelled: Split, unlabelled: torch.Tensor, batch_size: int, steps: int, seed: int
) -> DataLoader:
    """`steps` batches of `batch_size` labelled images each, with the unlabelled ones that the method takes."""
    if method.unlabelled == "none":
        data = ImageDataset(labelled, augmentation=method.augmentation, seed=seed)
    else:
        data = MixedBatches(labelled, unlabelled, method.ratio, method.augmentation, seed)
    return make_loader(data, min(batch_size, len(labelled)), shuffle=True, seed=seed, min_batches=steps)


def answers(model: nn.Module, images: torch.Tensor, views: int) -> np.ndarray:
    """Images float32 (N, 3, 28, 28) → probabilities (N, 9), means over the first `views` mirror images."""
    model.eval()
    with torch.inference_mode():
        batches = [
            sum(model(batch.flip(axes) if axes else batch).float().softmax(dim=1) for axes in VIEWS[:views]) / views
            for batch in images.split(256)
        ]
    return torch.cat(batches).numpy()


def evaluation_loader(split: Split) -> DataLoader:
    """All images of a split once, in order, as they are."""
    return make_loader(ImageDataset(split), 256, shuffle=False)
