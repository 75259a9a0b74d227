"""Augmentation of whole batches for the labs: images in the plane by one affine sampling, volumes by one gather.

Every sample gets its own random numbers, drawn from one CPU Generator, and nothing loops over samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from toolkit.augment import Augmentation, normalize
from toolkit.errors import UserError


def _uniform(batch: int, columns: int, generator: torch.Generator | None) -> torch.Tensor:
    """Random numbers in [-1, 1), float32 (batch, columns)."""
    return torch.rand(batch, columns, generator=generator) * 2 - 1


def _coins(batch: int, columns: int, generator: torch.Generator | None) -> torch.Tensor:
    """-1 or 1 with equal probability, float32 (batch, columns)."""
    return torch.randint(0, 2, (batch, columns), generator=generator).float() * 2 - 1


def jitter_intensity(samples: torch.Tensor, amount: float, generator: torch.Generator | None) -> torch.Tensor:
    """float32 (B, C, ...) in [-1, 1] → the same, contrast and brightness changed by up to `amount`, clipped."""
    if not amount:
        return samples
    drawn = _uniform(len(samples), 2, generator).to(samples.device)
    shape = (-1, *[1] * (samples.dim() - 1))
    return samples.mul(1 + amount * drawn[:, 0].view(shape)).add_(amount * drawn[:, 1].view(shape)).clamp_(-1, 1)


@dataclass(frozen=True)
class ImageAugmentation:
    """Random changes of images (B, C, H, W), each with its own strength; 0 or False leaves it out.

    mirror, upside_down: flips with probability 1/2. rotation: half-range in degrees. scaling: half-range of the
    logarithm of the zoom. shift: half-range as a share of the side. intensity: half-range of contrast and brightness.
    erasing: side of a grey square at a random place, as a share of the image's side.
    """

    mirror: bool = False
    upside_down: bool = False
    rotation: float = 0.0
    scaling: float = 0.0
    shift: float = 0.0
    intensity: float = 0.0
    erasing: float = 0.0

    def __call__(self, images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """uint8 (B, C, H, W) → augmented float32 (B, C, H, W) in [-1, 1]."""
        return self.change(normalize(images), generator)

    def change(self, samples: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """float32 (B, C, H, W) in [-1, 1] → the same, augmented."""
        if self.mirror or self.upside_down or self.rotation or self.scaling or self.shift:
            grid = F.affine_grid(self.matrices(len(samples), generator), list(samples.shape), align_corners=False)
            grid = grid.to(samples.device)
            samples = F.grid_sample(samples, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        samples = jitter_intensity(samples, self.intensity, generator)
        return self._erase(samples, generator) if self.erasing else samples

    def matrices(self, batch: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """float32 (B, 2, 3): where each place of the result comes from, in coordinates from -1 to 1."""
        drawn = _uniform(batch, 4, generator)
        flips = _coins(batch, 2, generator)
        flip_x = flips[:, 0] if self.mirror else torch.ones(batch)
        flip_y = flips[:, 1] if self.upside_down else torch.ones(batch)
        angle = drawn[:, 0] * math.radians(self.rotation)
        zoom = torch.exp(drawn[:, 1] * self.scaling)
        cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
        shift = 2 * self.shift * drawn[:, 2:]  # the side is 2 in these coordinates
        rows = [torch.stack([cos * flip_x, -sin * flip_y, shift[:, 0]], dim=1)]
        rows.append(torch.stack([sin * flip_x, cos * flip_y, shift[:, 1]], dim=1))
        return torch.stack(rows, dim=1)  # (B, 2, 3)

    def _erase(self, samples: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """Set a square to 0 (mid-grey) in every image."""
        B, _, H, W = samples.shape
        middle = torch.rand(B, 2, generator=generator).to(samples.device)
        y = (torch.arange(H, device=samples.device) + 0.5) / H
        x = (torch.arange(W, device=samples.device) + 0.5) / W
        inside_y = (y - middle[:, :1]).abs() < self.erasing / 2  # (B, H)
        inside_x = (x - middle[:, 1:]).abs() < self.erasing / 2  # (B, W)
        return samples.masked_fill((inside_y[:, :, None] & inside_x[:, None, :])[:, None], 0.0)


@dataclass(frozen=True)
class CombinedAugmentation:
    """What moves whole pixels (flips, quarter turns, crops), then what interpolates or changes intensity, then colour.

    The first works on bytes and costs little; the second is only paid for where it is asked for.
    """

    exact: Augmentation
    smooth: ImageAugmentation

    def __call__(self, images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """uint8 (B, C, H, W) → augmented float32 (B, C, H, W) in [-1, 1]."""
        samples = self.smooth.change(normalize(self.exact.geometry(images, generator)), generator)
        return self.exact.color(samples, generator)


@dataclass(frozen=True)
class VolumeAugmentation:
    """Random changes of volumes (B, C, S, S, S).

    flips: along each axis with probability 1/2. turns: the axes in any order; with the flips that makes all 48
    symmetries of the cube, quarter turns about every axis among them. shift: at most, in voxels along each axis; the
    border is repeated. intensity: half-range of contrast and brightness.
    """

    flips: bool = True
    turns: bool = True
    shift: int = 2
    intensity: float = 0.1

    def __call__(self, volumes: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """uint8 (B, C, S, S, S) → augmented float32 of the same shape in [-1, 1]."""
        return jitter_intensity(normalize(self.geometry(volumes, generator)), self.intensity, generator)

    def geometry(self, volumes: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """uint8 (B, C, S, S, S) → the same, turned, flipped and shifted: one gather for the whole batch.

        Voxel (i, j, k) of the result is the voxel of the input whose coordinate along axis order[0] comes from i,
        along order[1] from j, along order[2] from k; so its place in memory is a sum of three terms.
        """
        B, C, S = volumes.shape[:3]
        if volumes.shape[2:] != (S, S, S):
            raise UserError(f"volumes have shape {tuple(volumes.shape)}; turns and flips here need cubes")
        order = torch.rand(B, 3, generator=generator).argsort(dim=1) if self.turns else torch.arange(3).expand(B, 3)
        coins = torch.randint(0, 2, (B, 3, 1), generator=generator) if self.flips else torch.zeros(B, 3, 1)
        offset = torch.randint(-self.shift, self.shift + 1, (B, 3, 1), generator=generator)
        place = torch.arange(S).view(1, 1, S)
        place = torch.where(coins.bool(), S - 1 - place, place)  # (B, 3, S)
        place = (place + offset).clamp(0, S - 1) * torch.tensor([S * S, S, 1])[order][:, :, None]
        flat = place[:, 0, :, None, None] + place[:, 1, None, :, None] + place[:, 2, None, None, :]  # (B, S, S, S)
        flat = flat.view(B, 1, -1).expand(B, C, -1).to(volumes.device)
        return volumes.reshape(B, C, -1).gather(2, flat).view(volumes.shape)
