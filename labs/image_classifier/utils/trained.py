"""A trained classifier as it is used: network, class names and preprocessing out of one checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from labs.image_classifier.models.networks import ImageClassifier, build
from labs.image_classifier.utils.datafolder import BETWEEN_LABELS
from labs.image_classifier.utils.reading import Preprocessing
from toolkit.augment import normalize
from toolkit.devices import evaluating, place_model
from toolkit.errors import UserError
from toolkit.runs import load_checkpoint

FORMAT = "labs.image_classifier 1"
BATCH_SIZE = 64


@dataclass(frozen=True)
class Trained:
    """Everything that predictions need."""

    model: ImageClassifier
    model_name: str
    classes: list[str]
    multi_label: bool
    preprocessing: Preprocessing
    data_name: str
    device: torch.device

    def predict(self, images: Sequence[np.ndarray], batch_size: int = BATCH_SIZE) -> np.ndarray:
        """Images as `preprocessing` makes them, uint8 (S, S, C) each → probabilities float32 (N, K).

        Files and arrays take the same way, so their results are equal bit for bit if the batches are.
        """
        return probabilities(self.model, np.stack(images), np.arange(len(images)), self.device, batch_size)

    def answer(self, row: np.ndarray) -> tuple[str, float]:
        """Label and confidence of one row of probabilities (K,).

        Multi-label: all labels of at least 0.5 joined by |, and the confidence of the least certain of the K answers.
        """
        if self.multi_label:
            named = [name for name, value in zip(self.classes, row, strict=True) if value >= 0.5]
            return BETWEEN_LABELS.join(named), float(0.5 + np.abs(row - 0.5).min())
        return self.classes[int(row.argmax())], float(row.max())


def probabilities(
    model: ImageClassifier, pixels: np.ndarray, rows: np.ndarray, device: torch.device, batch_size: int = BATCH_SIZE
) -> np.ndarray:
    """Rows of decoded images uint8 (N, S, S, C) → probabilities float32 (len(rows), K), in float32 arithmetic."""
    found = []
    with evaluating(model):
        for start in range(0, len(rows), batch_size):
            batch = torch.from_numpy(pixels[rows[start : start + batch_size]])
            images = normalize(batch.permute(0, 3, 1, 2).to(device))  # (B, C, S, S) in [-1, 1], channels last
            found.append(model.probabilities(images).cpu())
    return torch.cat(found).numpy()


def description(
    model_name: str, classes: list[str], multi_label: bool, preprocessing: Preprocessing, data_name: str
) -> dict[str, Any]:
    """What a checkpoint says beside the weights."""
    return {
        "format": FORMAT,
        "model_name": model_name,
        "classes": list(classes),
        "multi_label": multi_label,
        "preprocessing": preprocessing.as_dict(),
        "data_name": data_name,
    }


def load(path: Path | str, device: torch.device) -> Trained:
    """Load a run folder or its best.pt. Raises UserError for checkpoints that are none of this lab's."""
    path = Path(path)
    if path.is_dir():
        if not (path / "best.pt").is_file():
            raise UserError(f"{path} has no best.pt; give the run folder of a training (of one fold, if it has folds)")
        path = path / "best.pt"
    content = load_checkpoint(path)
    if content.get("format") != FORMAT:
        raise UserError(f"{path} is a checkpoint of something else; make one with labs.image_classifier.train")
    try:
        preprocessing = Preprocessing.from_dict(content["preprocessing"])
        classes, multi_label = content["classes"], content["multi_label"]
        size, channels = preprocessing.image_size, preprocessing.channels
        model = build(content["model_name"], channels, len(classes), size, multi_label)
        model.load_state_dict(content["state_dict"])
        facts = (content["model_name"], classes, multi_label, preprocessing, content["data_name"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{path} is damaged or of another version ({str(error).splitlines()[0]}); train anew") from None
    return Trained(place_model(model, device), *facts, device)
