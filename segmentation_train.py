"""Part 2: training, evaluation and pictures of the segmentation models.

GRADED: TODO 2.6 (train_segmentation_epoch), 2.7 (validate_segmentation_epoch), 2.8 (results).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from torch import nn

from segmentation_models import CombinedLoss, calculate_iou, iou_per_image
from toolkit.devices import evaluating
from toolkit.errors import UserError
from toolkit.plots import mask_predictions
from toolkit.training import TrainingSession

METRICS = ("train_loss", "train_iou", "val_loss", "val_iou")
IOU_BIN_EDGES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


def train_segmentation_model(
    model: nn.Module,
    train_loader: Iterable,
    val_loader: Iterable,
    epochs: int = 25,
    learning_rate: float = 0.001,
    weight_decay: float = 0.0,
    max_steps_per_epoch: int | None = 100,
    *,
    criterion: nn.Module | None = None,
    **options: Any,
) -> dict[str, list[float]]:
    """Train `model` and return its history.

    Args:
        train_loader, val_loader: batches, dicts with `image` and `mask`, see train_segmentation_epoch.
        criterion: (probabilities, masks) → loss; CombinedLoss if left out.
        epochs, learning_rate, weight_decay, max_steps_per_epoch, options: as for classification_train.train_model.

    Returns:
        Lists train_loss, train_iou, val_loss, val_iou with one value per epoch; IoUs are fractions in [0, 1].
    """
    criterion = CombinedLoss() if criterion is None else criterion
    schedule = (epochs, learning_rate, weight_decay, max_steps_per_epoch)
    session = TrainingSession(model, criterion, METRICS, (train_loader, val_loader), *schedule, **options)
    history, optimizer, device = session.history, session.optimizer, session.device
    for _epoch in session.epochs():
        train_loss, train_iou = train_segmentation_epoch(
            model, train_loader, optimizer, criterion, device, max_steps_per_epoch or None
        )
        val_loss, val_iou = validate_segmentation_epoch(session.evaluation_model(), val_loader, criterion, device)
        # Hint: `history` has a list for each of the four results of this epoch.
        # BEGIN SOLUTION 2.8: append the results of this epoch to the lists of history
        history["train_loss"].append(train_loss)
        history["train_iou"].append(train_iou)
        history["val_loss"].append(val_loss)
        history["val_iou"].append(val_iou)
        # END SOLUTION 2.8
    return history


def train_segmentation_epoch(
    model: nn.Module,
    train_loader: Iterable,
    optimizer: torch.optim.Optimizer,
    criterion: nn.Module,
    device: torch.device | str,
    max_steps: int | None = None,
) -> tuple[float, float]:
    """Train for one epoch and return (average_loss, average_iou) over the images that were seen.

    Args:
        train_loader: batches, dicts with `image` float32 (B, 3, H, W) and `mask` float32 (B, 1, H, W) of 0 and 1.
        criterion: (probabilities, masks) → mean loss of the batch.
        max_steps: stop after this many batches; None: go through the whole loader.
    """
    # Hint: as train_epoch in Part 1, with masks for labels and calculate_iou for the correct predictions.
    # BEGIN SOLUTION 2.6: train for one epoch
    model.train()
    total_loss, total_iou, seen = 0.0, 0.0, 0
    for batch in islice(train_loader, max_steps):
        images, masks = batch["image"].to(device), batch["mask"].to(device)
        optimizer.zero_grad()
        probabilities = model(images)  # (B, 1, H, W)
        loss = criterion(probabilities, masks)
        loss.backward()
        optimizer.step()
        # Loss and IoU are means over the batch. The last batch may be smaller, so each counts with its size.
        total_loss += loss.item() * len(images)
        total_iou += calculate_iou(probabilities, masks) * len(images)
        seen += len(images)
    return total_loss / seen, total_iou / seen
    # END SOLUTION 2.6


@torch.no_grad()  # keeps no gradients: faster, less memory
def validate_segmentation_epoch(
    model: nn.Module, val_loader: Iterable, criterion: nn.Module, device: torch.device | str
) -> tuple[float, float]:
    """Evaluate on the whole of val_loader and return (average_loss, average_iou). Nothing in the model changes."""
    # Hint: evaluation mode, no backward, no optimizer; otherwise as in training.
    # BEGIN SOLUTION 2.7: validate on the whole loader
    model.eval()  # dropout is off, BatchNorm uses its running statistics
    total_loss, total_iou, seen = 0.0, 0.0, 0
    for batch in val_loader:
        images, masks = batch["image"].to(device), batch["mask"].to(device)
        probabilities = model(images)
        total_loss += criterion(probabilities, masks).item() * len(images)
        total_iou += calculate_iou(probabilities, masks) * len(images)
        seen += len(images)
    return total_loss / seen, total_iou / seen
    # END SOLUTION 2.7


def evaluate_segmentation_model(model: nn.Module, test_loader: Any, dataset_name: str = "Test") -> dict[str, Any]:
    """Score `model` on every image of test_loader and print a summary. Provided.

    Returns mean_iou and std_iou (over images, fractions), samples_with_boxes, total_samples, box_ratio, and
    iou_distribution: number of images with an IoU between consecutive IOU_BIN_EDGES, keyed '0.90-0.95'.
    """
    device = next(model.parameters()).device
    scores, has_box = [], []
    with evaluating(model):
        for batch in test_loader:
            images, masks = batch["image"].to(device), batch["mask"].to(device)
            scores.append(iou_per_image(model(images), masks).cpu())
            has_box.append(batch["has_box"].cpu().bool())
    if not scores:
        raise UserError(f"{dataset_name}: the loader has no batch, so there is nothing to evaluate")
    scores, boxed = torch.cat(scores), torch.cat(has_box)
    counts = torch.histogram(scores, bins=torch.tensor(IOU_BIN_EDGES)).hist.int().tolist()  # both float32: 0.9 is 0.9
    iou = scores.double()
    bins = [f"{low:.2f}-{high:.2f}" for low, high in itertools.pairwise(IOU_BIN_EDGES)]
    result = {
        "mean_iou": iou.mean().item(),
        "std_iou": iou.std(correction=0).item(),
        "samples_with_boxes": int(boxed.sum()),
        "total_samples": len(iou),
        "box_ratio": boxed.double().mean().item(),
        "iou_distribution": dict(zip(bins, counts, strict=True)),
    }
    print(f"{dataset_name}: IoU {result['mean_iou']:.4f} ± {result['std_iou']:.4f} (sd over {len(iou)} images)")
    return result


def visualize_predictions(
    model: nn.Module, dataset: Any, num_samples: int = 6, save_path: str | os.PathLike | None = None
) -> Any:
    """Draw image, true mask, predicted mask and IoU for `num_samples` images, the worst of the first 256 first.

    Provided. Saved to `save_path` if given; returns the matplotlib Figure.
    """
    device = next(model.parameters()).device
    items = [dataset[index] for index in range(min(len(dataset), max(256, num_samples)))]
    images, masks = (torch.stack([item[name] for item in items]).cpu() for name in ("image", "mask"))
    with evaluating(model):
        predicted = model(images.to(device)).cpu()
    iou = iou_per_image(predicted, masks)
    worst_first = iou.argsort()[:num_samples]
    title = f"lowest IoU among {len(items)} images; outlines: true (green), predicted (orange)"
    shown = [tensor[worst_first] for tensor in (images, masks, predicted, iou)]
    return mask_predictions(*shown, title, save_path)
