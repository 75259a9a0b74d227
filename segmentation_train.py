"""Part 2: training, evaluation and pictures of the segmentation models.

GRADED: TODO 2.6 (train_segmentation_epoch), 2.7 (validate_segmentation_epoch), 2.8 (results).
"""

from __future__ import annotations

import itertools
import os
from typing import Any

import torch
from torch import nn

from classification_train import check_schedule
from segmentation_models import CombinedLoss, calculate_iou, iou_per_image
from toolkit.devices import autocast, evaluating, pick_device
from toolkit.runs import RunFolder
from toolkit.training import TrainingSession, check_loss, limited

METRICS = ("train_loss", "train_iou", "val_loss", "val_iou")
IOU_BIN_EDGES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


def train_segmentation_model(
    model: nn.Module,
    train_loader: Any,
    val_loader: Any,
    epochs: int = 25,
    learning_rate: float = 0.001,
    weight_decay: float = 0.0,
    max_steps_per_epoch: int | None = 100,
    *,
    criterion: nn.Module | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: Any = None,
    device: torch.device | str | None = None,
    precision: str = "float32",
    ema_decay: float = 0.0,
    patience: int | None = None,
    run: RunFolder | None = None,
    best_extra: dict[str, Any] | None = None,
) -> dict[str, list[float]]:
    """Train `model` and return its history: lists train_loss, train_iou, val_loss, val_iou with one value an epoch.

    IoUs are fractions in [0, 1]. criterion: CombinedLoss unless given, called with (probabilities, masks). The other
    arguments and errors are those of classification_train.train_model; batches are dicts with `image` and `mask`.
    """
    check_schedule(epochs, learning_rate, weight_decay)
    device = pick_device("auto") if device is None else torch.device(device)
    model.to(device)
    criterion = CombinedLoss() if criterion is None else criterion
    if optimizer is None:
        optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    session = TrainingSession(
        model,
        optimizer,
        METRICS,
        loaders=(train_loader, val_loader),
        scheduler=scheduler,
        ema_decay=ema_decay,
        patience=patience,
        run=run,
        best_extra=best_extra,
    )
    history = session.history
    for _epoch in session.epochs(epochs):
        train_loss, train_iou = train_segmentation_epoch(
            model,
            train_loader,
            optimizer,
            criterion,
            device,
            max_steps_per_epoch,
            precision=precision,
            after_step=session.after_step,
        )
        val_loss, val_iou = validate_segmentation_epoch(
            session.evaluation_model(), val_loader, criterion, device, precision=precision
        )
        # Hint: `history` has one list for each of the four figures of this epoch.
        # BEGIN SOLUTION 2.8: record the results of this epoch in history
        for name, value in zip(METRICS, (train_loss, train_iou, val_loss, val_iou), strict=True):
            history[name].append(value)
        # END SOLUTION 2.8
    session.finish()
    return history


def train_segmentation_epoch(
    model: nn.Module,
    train_loader: Any,
    optimizer: torch.optim.Optimizer,
    criterion: nn.Module,
    device: torch.device | str,
    max_steps: int | None = None,
    *,
    precision: str = "float32",
    after_step: Any = None,
) -> tuple[float, float]:
    """Train for one epoch and return (average_loss, average_iou) over the images that were seen.

    train_loader: batches with `image` (B, 3, H, W) and `mask` (B, 1, H, W). max_steps: stop after so many batches.
    after_step: called without arguments after each optimizer step.
    """
    device = torch.device(device)
    # Hint: as train_epoch in Part 1, with masks instead of labels and calculate_iou instead of hits.
    # The losses stand outside autocast and take float32: sums over pixels need it, and CUDA refuses BCE in float16.
    # BEGIN SOLUTION 2.6: train for one epoch
    model.train()
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
    total_loss, total_iou, seen = 0.0, 0.0, 0
    for step, batch in limited(train_loader, max_steps):
        images, masks = images_and_masks(batch, device)
        optimizer.zero_grad()
        with autocast(device, precision):
            probabilities = model(images)
        loss = criterion(probabilities.float(), masks)
        batch_loss = loss.item()
        check_loss(batch_loss, step, optimizer)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if after_step is not None:
            after_step()
        total_loss += batch_loss * len(images)
        total_iou += calculate_iou(probabilities, masks) * len(images)
        seen += len(images)
    return total_loss / seen, total_iou / seen
    # END SOLUTION 2.6


@torch.no_grad()
def validate_segmentation_epoch(
    model: nn.Module,
    val_loader: Any,
    criterion: nn.Module,
    device: torch.device | str,
    *,
    precision: str = "float32",
) -> tuple[float, float]:
    """Evaluate on the whole of val_loader and return (average_loss, average_iou); nothing in the model changes."""
    device = torch.device(device)
    # Hint: evaluation mode, no gradients, no optimizer; otherwise as in training.
    # BEGIN SOLUTION 2.7: validate on the whole loader
    model.eval()
    total_loss, total_iou, seen = 0.0, 0.0, 0
    for _step, batch in limited(val_loader, None, "validate"):
        images, masks = images_and_masks(batch, device)
        with autocast(device, precision):
            probabilities = model(images)
        total_loss += criterion(probabilities.float(), masks).item() * len(images)
        total_iou += calculate_iou(probabilities, masks) * len(images)
        seen += len(images)
    return total_loss / seen, total_iou / seen
    # END SOLUTION 2.7


def images_and_masks(batch: dict[str, torch.Tensor], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Move the two tensors that training needs. Provided."""
    return batch["image"].to(device, non_blocking=True), batch["mask"].to(device, non_blocking=True)


def evaluate_segmentation_model(model: nn.Module, test_loader: Any, dataset_name: str = "Test") -> dict[str, Any]:
    """Score `model` on every image of test_loader and print a summary. Provided.

    Returns mean_iou and std_iou (over images, fractions), samples_with_boxes, total_samples, box_ratio, and
    iou_distribution: number of images with an IoU between consecutive IOU_BIN_EDGES, keyed '0.90-0.95'.
    """
    device = next(model.parameters()).device
    scores, has_box = [], []
    with evaluating(model):
        for _step, batch in limited(test_loader, None, dataset_name):
            images, masks = images_and_masks(batch, device)
            scores.append(iou_per_image(model(images), masks).cpu())
            has_box.append(batch["has_box"].cpu().bool())
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
    from toolkit.plots import mask_predictions

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
