"""A trained classifier as it is used: network, class names and preprocessing out of one checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from labs.image_classifier.models.networks import ImageClassifier, build
from labs.image_classifier.utils.datafolder import BETWEEN_LABELS
from labs.image_classifier.utils.reading import Preprocessing
from toolkit.augment import normalize
from toolkit.devices import evaluating, place_model
from toolkit.errors import UserError, reason_of
from toolkit.images import printable
from toolkit.runs import load_checkpoint, read_json
from toolkit.stored_images import StoredImages

FORMAT = "labs.image_classifier 1"
BATCH_SIZE = 64
KINDS = ("training", "validation")


@dataclass(frozen=True)
class Trained:
    """Everything that predictions need.

    models: one network, or those of all folds, whose probabilities are averaged.
    training_images, validation_images: hashes of the contents of all images that any of them was trained on, or its
    epoch chosen with; empty if unknown.
    """

    models: tuple[ImageClassifier, ...]
    model_name: str
    classes: list[str]
    multi_label: bool
    preprocessing: Preprocessing
    data_name: str
    device: torch.device
    training_images: frozenset[str] = frozenset()
    validation_images: frozenset[str] = frozenset()

    def predict(self, images: Sequence[np.ndarray] | StoredImages, batch_size: int = BATCH_SIZE) -> np.ndarray:
        """Images as `preprocessing` makes them, uint8 (S, S, C) each → probabilities float32 (N, K).

        Files and arrays take the same way, so their results are equal bit for bit if the batches are.
        """
        pixels = images if isinstance(images, np.ndarray | StoredImages) else np.stack(images)
        rows = np.arange(len(images))
        each = [probabilities(model, pixels, rows, self.device, batch_size) for model in self.models]
        return each[0] if len(each) == 1 else np.mean(each, axis=0)

    def answer(self, row: np.ndarray) -> tuple[str, float]:
        """Label and confidence of one row of probabilities (K,).

        Multi-label: all labels of at least 0.5 joined by |, and the confidence of the least certain of the K answers.
        """
        if self.multi_label:
            named = [name for name, value in zip(self.classes, row, strict=True) if value >= 0.5]
            return BETWEEN_LABELS.join(named), float(0.5 + np.abs(row - 0.5).min())
        return self.classes[int(row.argmax())], float(row.max())


def probabilities(
    model: ImageClassifier,
    pixels: np.ndarray | StoredImages,
    rows: np.ndarray,
    device: torch.device,
    batch_size: int = BATCH_SIZE,
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
    model_name: str,
    classes: list[str],
    multi_label: bool,
    preprocessing: Preprocessing,
    data_name: str,
    images: Sequence[Sequence[str]],
    earlier: Sequence[frozenset[str]],
) -> dict[str, Any]:
    """What a checkpoint says besides the weights.

    images: hashes of the contents of its training and validation images. earlier: those of the runs before it.
    """
    return {
        "format": FORMAT,
        "model_name": model_name,
        "classes": list(classes),
        "multi_label": multi_label,
        "preprocessing": preprocessing.as_dict(),
        "data_name": data_name,
        **{f"{kind}_images": _packed(hashes) for kind, hashes in zip(KINDS, images, strict=True)},
        **{f"earlier_{kind}_images": _packed(hashes) for kind, hashes in zip(KINDS, earlier, strict=True)},
    }


def images_behind(weights: str) -> list[frozenset[str]]:
    """Hashes of all training and of all validation images of the run that weights come from, and of those before it."""
    if weights in ("none", "imagenet"):
        return [frozenset(), frozenset()]
    path = Path(weights)
    return _images_of(load_checkpoint(path / "best.pt" if path.is_dir() else path))


def _images_of(content: dict[str, Any]) -> list[frozenset[str]]:
    texts = [(content.get(f"{kind}_images", ""), content.get(f"earlier_{kind}_images", "")) for kind in KINDS]
    return [frozenset(" ".join(parts).split()) for parts in texts]


def _packed(hashes: Iterable[str]) -> str:
    """One text loads much faster than a list of a hundred thousand."""
    return " ".join(sorted(filter(None, hashes)))


def check_same_images(path: Path, training_images: Sequence[str], validation_images: Sequence[str] = ()) -> None:
    """Raise UserError if the checkpoint at `path` was trained, or its epoch chosen, on other images than these.

    Without validation_images those are not compared.
    """
    content = load_checkpoint(path)
    for kind, hashes in zip(KINDS, (training_images, validation_images), strict=True):
        before = content.get(f"{kind}_images")
        if before and hashes and before != _packed(hashes):
            raise UserError(
                f"{path.parent} was started with other {kind} images: the data folder was prepared again since; "
                "prepare it as it was (the same --seed), or start a new run"
            )


def checkpoints_of(path: Path) -> list[Path]:
    """The best.pt of a run folder, or of all folds of a cross-validation. Raises UserError if one is missing."""
    if not path.is_dir():
        return [path]
    if (path / "best.pt").is_file():
        return [path / "best.pt"]
    folds = read_json(path / "config.json").get("folds", 0) if (path / "config.json").is_file() else 0
    found = [path / f"fold-{fold}" / "best.pt" for fold in range(1, folds + 1)]
    if not found:
        raise UserError(f"{printable(path)} has no best.pt; give the run folder of a training")
    for fold in found:
        if not (fold.is_file() and (fold.parent / "results.json").is_file()):
            raise UserError(
                f"{printable(fold.parent)} is not finished; finish it with: python -m labs.image_classifier.train "
                f"--resume {printable(path)}, or give the folder of one fold"
            )
    return found


def load(path: Path | str, device: torch.device) -> Trained:
    """Load a run folder, its best.pt, or all folds of a cross-validation.

    Raises UserError for checkpoints that another program made.
    """
    parts = [_load_one(found, device) for found in checkpoints_of(Path(path))]
    return replace(
        parts[0],
        models=tuple(model for part in parts for model in part.models),
        training_images=frozenset().union(*(part.training_images for part in parts)),
        validation_images=frozenset().union(*(part.validation_images for part in parts)),
    )


def _load_one(path: Path, device: torch.device) -> Trained:
    content = load_checkpoint(path)
    if content.get("format") != FORMAT:
        raise UserError(
            f"{printable(path)} is a checkpoint of something else; make one with labs.image_classifier.train"
        )
    try:
        preprocessing = Preprocessing.from_dict(content["preprocessing"])
        classes, multi_label = content["classes"], content["multi_label"]
        size, channels = preprocessing.image_size, preprocessing.channels
        model = build(content["model_name"], channels, len(classes), size, multi_label)
        model.load_state_dict(content["state_dict"])
        facts = (content["model_name"], classes, multi_label, preprocessing, content["data_name"])
        images = _images_of(content)
    except (KeyError, TypeError, RuntimeError) as error:
        reason = reason_of(error)
        raise UserError(f"{printable(path)} is damaged or of another version ({reason}); train again") from None
    return Trained((place_model(model, device),), *facts, device, *images)
