"""Make the reference solution's checkpoints, small enough to be versioned: `python -m staff.reference_checkpoint`.

Trains the CNN and the U-Net of the solution on the training images of the bundled sample (its test images are not read)
and writes classification.pt and segmentation.pt to staff/assignments/project2/checkpoints. They are what our own tests
hand in, as students hand in the best.pt of their longest run. Weights are stored in half precision, which halves
the files.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

import classification_dataset
import classification_models
import classification_train
import segmentation_models
import segmentation_train
import synthetic_data
from toolkit.errors import UserError
from toolkit.runs import save_checkpoint

TASKS = ("classification", "segmentation")
FOLDER = Path(__file__).resolve().parents[1] / "assignments" / "project2" / "checkpoints"


def build_parser() -> argparse.ArgumentParser:
    """Flags of the command line."""
    parser = argparse.ArgumentParser(prog="python -m staff.reference_checkpoint", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write to")
    parser.add_argument("--epochs", type=int, nargs=2, default=(10, 3), metavar=("CNN", "UNET"), help="of 100 steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=TASKS, help="make this one alone")
    return parser


def train(kind: str, epochs: int, seed: int) -> tuple[dict, float]:
    """(weights in half precision with the entries that best.pt has, validation metric of the last epoch)."""
    torch.manual_seed(seed)
    if kind == "classification":
        # The grader turns and mirrors the images at random.
        loaders = classification_dataset.create_pathmnist_dataloaders(dataset="sample", augment="strong", seed=seed)[:2]
        name, model, run = "cnn", classification_models.CNNModel(), classification_train.train_model
    else:
        loaders = synthetic_data.create_box_dataloaders(dataset="sample", augment="standard", seed=seed)[:2]
        name, model = "unet", segmentation_models.get_segmentation_model("unet")
        run = segmentation_train.train_segmentation_model
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.003, total_steps=100 * epochs)
    history = run(model, *loaders, epochs=epochs, optimizer=optimizer, scheduler=schedule)
    weights = {k: v.half() if v.is_floating_point() else v for k, v in model.cpu().state_dict().items()}
    measured = history["val_acc" if kind == "classification" else "val_iou"][-1]
    return {"task": kind, "model_name": name, "state_dict": weights}, measured


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    arguments = build_parser().parse_args(argv)

    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        for kind, epochs in zip(TASKS, arguments.epochs, strict=True):
            if arguments.only not in (None, kind):
                continue
            content, measured = train(kind, epochs, arguments.seed)
            path = arguments.out / f"{kind}.pt"
            save_checkpoint(path, content)
            size = path.stat().st_size / 1e6
            print(f"{path}: {size:.2f} MB, validation {measured:.4f} after {epochs} epochs of 100 steps of 32")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
