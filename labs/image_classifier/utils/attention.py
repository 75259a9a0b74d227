"""What decided? Grad-CAM pictures of predictions, through toolkit.gradcam (captum)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from labs.image_classifier.models.networks import ImageClassifier, attention_layer
from labs.image_classifier.utils.trained import Trained
from toolkit import plots
from toolkit.augment import normalize
from toolkit.errors import UserError
from toolkit.gradcam import grad_cam
from toolkit.images import printable


class Scores(nn.Module):
    """A classifier that returns one score a class, also for multi-label data."""

    def __init__(self, model: ImageClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W) in [-1, 1] → (B, K)."""
        return self.model.scores(images)


class Painter:
    """Writes one picture for each image: as the network saw it, and with the regions that spoke for its answer."""

    def __init__(self, model: Trained, folder: Path) -> None:
        self.model, self.folder, self.count = model, folder, 0
        self._parts = [(Scores(one), attention_layer(one, model.preprocessing.image_size)) for one in model.models]
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to --gradcam {folder}: {error.strerror}") from None
        self.attention(np.zeros((model.preprocessing.image_size,) * 2 + (model.preprocessing.channels,), np.uint8), 0)

    def attention(self, image: np.ndarray, target: int) -> np.ndarray:
        """Image uint8 (S, S, C) → float32 (S, S) in [0, 1]: where the features speak for class `target`.

        Of several networks (folds) the mean.
        """
        inputs = normalize(torch.tensor(image).permute(2, 0, 1)[None].to(self.model.device))  # (1, C, S, S)
        maps = [grad_cam(scores, layer, inputs, target)[0].cpu().numpy() for scores, layer in self._parts]
        return np.mean(maps, axis=0)

    def paint(self, path: Path, image: np.ndarray, row: np.ndarray) -> Path:
        """Write the picture for the most probable class of `row` (K,); returns its path. Files are numbered."""
        target = int(row.argmax())
        heat = self.attention(image, target)
        figure = plots.new_figure(6.4, 3.6)
        figure.suptitle(f"{printable(path.name)}\n{self.model.classes[target]} {row[target]:.1%}", fontsize=10)
        left, right = figure.subplots(1, 2)
        for axes in (left, right):
            axes.imshow(image.squeeze(-1) if image.shape[2] == 1 else image, cmap="gray", vmin=0, vmax=255)
            axes.axis("off")
        shown = right.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.5)
        figure.colorbar(shown, ax=right, label="Grad-CAM, share of its highest value", shrink=0.8)
        self.count += 1
        target_path = self.folder / f"{self.count:04d}_{printable(path.stem)}.png"
        plots.save_figure(figure, target_path)
        return target_path
