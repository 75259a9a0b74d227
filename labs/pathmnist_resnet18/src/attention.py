"""Grad-CAM of the final model on validation images, and the maps of the same network with random weights."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from labs.image_classifier.models.networks import attention_layer
from labs.pathmnist_resnet18.src import fitting
from labs.pathmnist_resnet18.src.study import Study
from toolkit import backbones, plots
from toolkit.augment import denormalize, normalize
from toolkit.errors import UserError
from toolkit.gradcam import grad_cam, randomised
from toolkit.runs import RunFolder, load_checkpoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN, COLUMNS = 10, 5  # images, one of each class; more columns cannot be read on paper


def draw(study: Study, folder: Path) -> None:
    """gradcam.png, if there is a final model; without captum a line says what is missing."""
    path = folder / "gradcam.png"
    path.unlink(missing_ok=True)
    run = RunFolder(study.folder / "final")
    if not run.file("results.json").exists():
        return
    model, size = load_model(run)
    val = fitting.read(study.source, "val")
    rows = [int(np.flatnonzero(val.labels == k)[0]) for k in np.unique(val.labels)[:SHOWN]]  # the first of each class
    images = enlarged(val.pixels[rows], size)
    try:
        picture(model, images, val.labels[rows], study.source.class_names, f"{study.source.name}", path)
    except UserError as error:
        print(f"no gradcam.png: {error}")


def load_model(run: RunFolder) -> tuple[backbones.Resized, int]:
    """The network in best.pt of a run, and the side of the images that it sees."""
    content = load_checkpoint(run.file("best.pt"))
    settings = [content[name] for name in ("model_name", "image_size", "stem")]
    model = fitting.build_model(*settings, len(content["classes"]))
    model.load_state_dict(content["state_dict"])
    return model.eval(), content["image_size"]


def enlarged(pixels: np.ndarray, size: int) -> torch.Tensor:
    """Pixels uint8 (N, H, W, C) → float32 (N, C, size, size) in [-1, 1], as the network sees them."""
    images = normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous())
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)


def picture(
    model: backbones.Resized,
    images: torch.Tensor,
    labels: np.ndarray,
    classes: tuple[str, ...],
    data: str,
    path: Path | None,
) -> Figure:
    """Bands of images, each with the maps of the model and of random weights; targets are the predicted classes."""
    layer = next(name for name, module in model.named_modules() if module is stage(model))
    with torch.no_grad():
        predicted = model(images).argmax(dim=1)
    with torch.random.fork_rng(devices=[]):  # the same picture each time
        torch.manual_seed(0)
        random_one = randomised(model)
    maps = [grad_cam(network, layer, images, predicted) for network in (model, random_one)]
    bands = -(-len(images) // COLUMNS)
    figure = plots.new_figure(1.25 * COLUMNS + 0.4, 4.4 * bands + 0.5)
    figure.suptitle(f"Grad-CAM for the predicted class, final model\nvalidation images of {data}", fontsize=11)
    panels = figure.subplots(3 * bands, COLUMNS, squeeze=False)
    for axes in panels.flat:
        axes.set(xticks=[], yticks=[], frame_on=False)
    for number, image in enumerate(denormalize(images).permute(0, 2, 3, 1).numpy()):
        true, said = classes[labels[number]], classes[int(predicted[number])]
        color = plots.TRUE_COLOR if true == said else plots.PREDICTED_COLOR
        band, column = divmod(number, COLUMNS)
        column_panels = panels[3 * band : 3 * band + 3, column]
        column_panels[0].set_title(wrapped(f"{true}" if true == said else f"{true} → {said}"), fontsize=7, color=color)
        for axes, heat, name in zip(
            column_panels, (None, maps[0][number], maps[1][number]), ("image", "trained", "random weights"), strict=True
        ):
            axes.imshow(image)
            if heat is not None:
                axes.imshow(heat.numpy(), cmap="inferno", vmin=0, vmax=1, alpha=0.5)
            if not column:
                axes.set_ylabel(name)
    return plots.save_figure(figure, path)


def stage(model: backbones.Resized) -> torch.nn.Module:
    """The last stage with a map that is worth looking at."""
    return attention_layer(model.network, model.size)


def wrapped(name: str) -> str:
    """A class name on lines of at most 20 letters."""
    return "\n".join(textwrap.wrap(name, 20))
