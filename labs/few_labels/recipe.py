"""The methods of this lab: which images, which network, which loss. This is the file to read, and the one to change.

All of them train on the course's one loop, classification_train.train_model. What differs is the batch and the loss:
a batch of a semi-supervised method holds labelled images, then unlabelled ones, and the loss tells them apart by their
targets (0 .. 8 for a label, WEAK and STRONG for the two views of an unlabelled image, MIXED for a mixed image).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from classification_dataset import ImageDataset
from classification_models import CNNModel
from labs.medmnist_experiments import backbone
from labs.medmnist_experiments.residual import ResNet
from toolkit.augment import Augmentation, named_augmentation
from toolkit.batches import StackedBatch, make_loader
from toolkit.devices import evaluating
from toolkit.medmnist_data import Split

WEAK, STRONG, MIXED = -1, -2, -3  # targets: the two views of an unlabelled image, an image mixed of two
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


class MixMatchBatches(MixedBatches):
    """Labelled and unlabelled images, each mixed with another one of the batch, and their mixed labels with them.

    The label of an unlabelled image is the network's mean answer to its two views, sharpened. A batch is
    (images, MIXED for each); the labels, probabilities (B, 9), wait in `loss.labels`.
    """

    def __init__(self, *arguments: Any, model: nn.Module, loss: MixMatch) -> None:
        super().__init__(*arguments)
        self.model, self.loss = model, loss

    def __getitems__(self, indices: Sequence[int]) -> StackedBatch:
        """See the class."""
        images, targets = super().__getitems__(indices).stacked
        labelled, unlabelled = images[targets >= 0], torch.cat([images[targets == WEAK], images[targets == STRONG]])
        with evaluating(self.model):
            device = next(self.model.parameters()).device
            answers = (
                self.model(unlabelled.to(device)).float().softmax(dim=1).cpu()
            )  # (2 U, 9), views one after another
        guess = self.loss.sharpen(answers.view(2, -1, answers.shape[1]).mean(dim=0))
        images = torch.cat([labelled, unlabelled])
        labels = torch.cat([F.one_hot(targets[targets >= 0], answers.shape[1]).float(), guess, guess])
        order = torch.randperm(len(images), generator=self.generator)
        share = self.loss.shares.sample(order.shape)
        share = torch.maximum(share, 1 - share)  # so that an image stays nearer to itself than to its partner
        column = share.view(-1, 1, 1, 1)
        images = column * images + (1 - column) * images[order]
        self.loss.labels = share.view(-1, 1) * labels + (1 - share.view(-1, 1)) * labels[order]
        self.loss.count = len(labelled)
        marks = torch.full((len(images),), MIXED)
        return StackedBatch((images, marks), len(marks), lambda i: (images[i], marks[i]))


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


class MixMatch(nn.Module):
    """Cross-entropy of the mixed labelled images, and the squared error of the mixed unlabelled ones.

    loss = CE(labelled, labels) + weight * mean (softmax(unlabelled) - labels)^2, both after mixing (MixMatchBatches)

    Berthelot et al., MixMatch, NeurIPS 2019, equations 2 to 5: temperature 0.5, shares from Beta(0.75, 0.75). Their
    weight of 75 is reached slowly; a constant 10 stands in for that here.
    """

    def __init__(self, weight: float = 10.0, temperature: float = 0.5) -> None:
        super().__init__()
        self.weight, self.temperature = weight, temperature
        self.shares = torch.distributions.Beta(0.75, 0.75)
        self.labels, self.count = torch.empty(0), 0  # of the batch that comes next; the first `count` had labels

    def sharpen(self, answers: torch.Tensor) -> torch.Tensor:
        """Probabilities (N, 9) → surer ones, p^(1/T) scaled to a sum of 1."""
        powers = answers ** (1 / self.temperature)
        return powers / powers.sum(dim=1, keepdim=True)

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """logits (B, 9), targets (B,) as MixMatchBatches makes them → loss."""
        if not (targets == MIXED).any():  # a batch of validation images
            return F.cross_entropy(logits, targets)
        labels, count = self.labels.to(logits.device), self.count
        consistency = (logits[count:].softmax(dim=1) - labels[count:]).square().mean()
        return F.cross_entropy(logits[:count], labels[:count]) + self.weight * consistency


# ---- the methods -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """One row of the table.

    title: what it adds to the row above it. unlabelled: the loss of the unlabelled images; none: labels only. ratio:
    unlabelled images for each labelled one of a batch. ema_decay: averaged weights; 0: none. views: mirror images whose
    answers are averaged. members: methods whose answers are averaged; nothing is trained for this row.
    """

    title: str
    network: Literal["cnn", "residual", "imagenet"] = "residual"
    augmentation: Augmentation = STAIN
    unlabelled: Literal["none", "pseudo", "fixmatch", "mixmatch"] = "none"
    threshold: float = 0.95
    ratio: int = 2
    ema_decay: float = 0.99
    views: int = len(VIEWS)
    learning_rate: float = 0.003
    weight_decay: float = 0.05
    members: tuple[str, ...] = ()


FLIPS = named_augmentation("flips")
METHODS = {
    "labels": Method("the tutorial CNN, labels only", "cnn", FLIPS, ema_decay=0, views=1),
    "stain": Method("+ stain and colour augmentation", "cnn", ema_decay=0, views=1),
    "averaged": Method("+ averaged weights and views", "cnn"),
    "residual": Method("+ a residual network"),
    "pseudo": Method("+ pseudo-labels of the unlabelled images", unlabelled="pseudo"),
    "fixmatch": Method("+ consistency of two views instead (FixMatch)", unlabelled="fixmatch"),
    "mixmatch": Method("+ mixed images and guessed labels instead (MixMatch)", unlabelled="mixmatch"),
    "imagenet": Method("fine-tuned ImageNet weights, labels only", "imagenet", learning_rate=0.001),
    "imagenet_fixmatch": Method(
        "ImageNet weights and FixMatch's loss", "imagenet", unlabelled="fixmatch", ratio=1, learning_rate=0.001
    ),
    "combined": Method("FixMatch and ImageNet weights, answers averaged", members=("fixmatch", "imagenet")),
}
ENLARGED = 64  # pixels: networks for ImageNet shrink an image by 32


@dataclass(frozen=True)
class Pretrained:
    """A network of torchvision, its ImageNet weights, and some images float32 (B, 3, 28, 28) to measure it with."""

    name: str
    weights: Mapping[str, torch.Tensor]
    images: torch.Tensor


def build(method: Method, num_classes: int, pretrained: Pretrained | None) -> nn.Module:
    """The course's CNN, a residual network with a third of a million parameters, or one with ImageNet weights."""
    if method.network == "cnn":
        return CNNModel(num_classes)
    if method.network == "residual":
        return ResNet((1, 1, 1), num_classes, width=32)
    return backbone.build(pretrained.name, dict(pretrained.weights), num_classes, ENLARGED, pretrained.images)


def criterion(method: Method) -> nn.Module:
    """The loss of the method."""
    if method.unlabelled in ("pseudo", "fixmatch"):
        return {"pseudo": PseudoLabel, "fixmatch": FixMatch}[method.unlabelled](method.threshold)
    return MixMatch() if method.unlabelled == "mixmatch" else nn.CrossEntropyLoss()


@dataclass(frozen=True)
class Batches:
    """How batches are drawn. size: labelled images in each. steps: batches of an epoch."""

    size: int
    steps: int
    seed: int


def training_loader(
    method: Method, labelled: Split, unlabelled: torch.Tensor, batches: Batches, model: nn.Module, loss: nn.Module
) -> DataLoader:
    """The labelled images with the unlabelled ones that the method takes; `model` guesses the labels of MixMatch."""
    seed = batches.seed
    arguments = (labelled, unlabelled, method.ratio, method.augmentation, seed)
    if method.unlabelled == "none":
        data: ImageDataset = ImageDataset(labelled, augmentation=method.augmentation, seed=seed)
    elif method.unlabelled == "mixmatch":
        data = MixMatchBatches(*arguments, model=model, loss=loss)
    else:
        data = MixedBatches(*arguments)
    return make_loader(data, min(batches.size, len(labelled)), shuffle=True, seed=seed, min_batches=batches.steps)


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
