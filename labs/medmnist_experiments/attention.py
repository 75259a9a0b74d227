"""Are maps of attention worth anything? Three measurements of Grad-CAM, for images and volumes alike.

Sanity (Adebayo et al. 2018): weights are replaced by random ones layer by layer, from the output to the input. A map
that stays as it was shows edges of the image and nothing that was learned.
Deletion (Petsiuk et al. 2018): places are blanked in the order of the map. If the map is right, the answer falls sooner
than for places in random order; the area below that curve is the figure, and lower is better.
Pointing game (Zhang et al. 2016): where the truth is known, is the highest place of the map on it?
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import rankdata
from torch import nn
from torch.nn import functional as F

from toolkit.devices import evaluating
from toolkit.gradcam import grad_cam

BATCH_SIZE = 64
FRACTIONS = tuple(np.linspace(0, 1, 21))


@dataclass(frozen=True)
class Explained:
    """A network, the layer whose maps are drawn, samples (N, C, ...) in [-1, 1] and the class asked for each (N,).

    by_class: True if the outputs of the network are classes that exclude each other, False for yes-or-no questions.
    """

    network: nn.Module
    layer: str
    samples: torch.Tensor
    targets: torch.Tensor
    by_class: bool

    def maps(self, network: nn.Module | None = None) -> torch.Tensor:
        """Grad-CAM of every sample, float32 (N, ...) in [0, 1]; of `network` instead of the own one."""
        chosen = self.network if network is None else network
        pairs = zip(self.samples.split(BATCH_SIZE), self.targets.split(BATCH_SIZE), strict=True)
        return torch.cat([grad_cam(chosen, self.layer, samples, targets) for samples, targets in pairs])

    def scores(self, samples: torch.Tensor) -> np.ndarray:
        """Probability of the class asked for, float64 (N,)."""
        found = []
        with evaluating(self.network):
            for part, targets in zip(samples.split(BATCH_SIZE), self.targets.split(BATCH_SIZE), strict=True):
                logits = self.network(part).double()
                probabilities = logits.softmax(dim=1) if self.by_class else logits.sigmoid()
                found.append(probabilities.gather(1, targets[:, None])[:, 0].cpu())
        return torch.cat(found).numpy()


def similarity(maps: torch.Tensor, others: torch.Tensor) -> np.ndarray:
    """Spearman's rank correlation of each pair of maps (N, ...), float64 (N,); NaN where a map is constant."""
    ranks = [rankdata(each.flatten(1).cpu().numpy(), axis=1) for each in (maps, others)]
    ranks = [each - each.mean(axis=1, keepdims=True) for each in ranks]
    norms = np.sqrt((ranks[0] ** 2).sum(axis=1) * (ranks[1] ** 2).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(norms > 0, (ranks[0] * ranks[1]).sum(axis=1) / norms, np.nan)


def stages_from_output(network: nn.Module) -> list[tuple[str, list[nn.Module]]]:
    """Layers with weights, from the last to the first; a BatchNorm belongs to the convolution before it."""
    stages: list[tuple[str, list[nn.Module]]] = []
    for name, module in network.named_modules():
        if not callable(getattr(module, "reset_parameters", None)):
            continue
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and stages:
            stages[-1][1].append(module)
        else:
            stages.append((name, [module]))
    return stages[::-1]


def randomisation(explained: Explained, seed: int = 0) -> dict[str, np.ndarray]:
    """Correlation of the maps with those of the network whose layers, from the output on, are random: step → (N,)."""
    maps = explained.maps()
    network = copy.deepcopy(explained.network)
    found: dict[str, np.ndarray] = {"as trained": similarity(maps, maps)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, modules in stages_from_output(network):
            for module in modules:
                module.reset_parameters()
            found[name] = similarity(maps, explained.maps(network))
    return found


def order_of(maps: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Places from the highest to the lowest, int64 (N, places); equal ones in random order."""
    flat = maps.flatten(1).cpu().double()
    return (flat + 1e-9 * torch.rand(flat.shape, generator=generator, dtype=torch.float64)).argsort(1, descending=True)


def deletion(explained: Explained, order: torch.Tensor, blank: float) -> np.ndarray:
    """Probability of the class asked for while places are set to `blank` in this order: float64 (N, len(FRACTIONS))."""
    samples = explained.samples
    places = order.shape[1]
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(places).expand_as(order))  # (N, places)
    rank = rank.view(len(samples), 1, *samples.shape[2:]).to(samples.device)
    return np.stack(
        [explained.scores(samples.masked_fill(rank < round(share * places), blank)) for share in FRACTIONS], axis=1
    )


def area(curves: np.ndarray) -> np.ndarray:
    """Area below each curve over FRACTIONS (N, len(FRACTIONS)), by trapezoids: float64 (N,)."""
    widths = np.diff(FRACTIONS)
    return ((curves[:, 1:] + curves[:, :-1]) / 2 * widths).sum(axis=1)


def deletion_curves(explained: Explained, others: Mapping[str, torch.Tensor], blank: float) -> dict[str, np.ndarray]:
    """Curves for Grad-CAM, for its order reversed, for a random order, and for `others` (name → maps)."""
    generator = torch.Generator().manual_seed(0)
    maps = explained.maps()
    orders = {"Grad-CAM": order_of(maps, generator)}
    orders |= {name: order_of(values, generator) for name, values in others.items()}
    orders["random order"] = order_of(torch.zeros_like(maps), generator)
    orders["Grad-CAM, lowest first"] = order_of(-maps, generator)
    return {name: deletion(explained, order, blank) for name, order in orders.items()}


def pointing_game(maps: torch.Tensor, truth: torch.Tensor, tolerance: int) -> tuple[np.ndarray, np.ndarray]:
    """Is the highest place of each map (N, ...) within `tolerance` places of the truth (N, ...) of bool?

    Returns hits, 0 or 1 (N,), and the share of places that would have been a hit (N,): what chance gives.
    """
    widened = dilated(truth, tolerance).flatten(1).cpu()
    highest = maps.flatten(1).argmax(dim=1).cpu()
    return widened.gather(1, highest[:, None])[:, 0].double().numpy(), widened.double().mean(dim=1).numpy()


def dilated(truth: torch.Tensor, places: int) -> torch.Tensor:
    """Truth (N, ...) of bool grown by `places` in every direction."""
    pool: Callable = {3: F.max_pool2d, 4: F.max_pool3d}[truth.dim()]
    return pool(truth[:, None].float(), 2 * places + 1, stride=1, padding=places)[:, 0] > 0


def mean_of(values: np.ndarray) -> float | None:
    """The mean of what is defined; None if nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
