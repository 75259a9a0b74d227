"""Augmentation beyond toolkit.augment, for whole batches: stains by colour deconvolution, and RandAugment.

Each is a callable (uint8 (B, 3, H, W), generator) → float32 (B, 3, H, W) in [-1, 1], as ImageDataset wants it. Every
image has random numbers of its own; nothing loops over images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torchvision.transforms.v2 import functional as vision

from toolkit.augment import Augmentation, named_augmentation, normalize

# Absorption of haematoxylin, eosin and DAB in red, green and blue (Ruifrok & Johnston 2001); rows are stains.
STAINS = torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
DARKEST = 1e-6  # of a channel, so that its logarithm exists


class BatchAugmentation(Protocol):
    """What happens to training batches."""

    def __call__(self, images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """uint8 (B, 3, H, W) → float32 (B, 3, H, W) in [-1, 1]."""


def named(name: str, image_size: int) -> BatchAugmentation:
    """The augmentation called `name`; image_size: side of the stored images, which sets the padding of crops."""
    if name == "stain":
        return StainJitter(Augmentation(turns=True, crop_padding=max(1, image_size // 14)))
    if name == "randaugment":
        return RandAugment()
    return named_augmentation(name)


@dataclass(frozen=True)
class StainJitter:
    """Geometry, then more or less of each stain, as another laboratory would have it (Tellez et al. 2018).

    Optical density is linear in the amount of stain, so an image is taken apart into haematoxylin, eosin and DAB, each
    is multiplied by 1 ± gain and shifted by ± offset, and the image is put together again.
    """

    geometry: Augmentation
    gain: float = 0.2
    offset: float = 0.02  # optical density (natural logarithm)

    def __call__(self, images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """See BatchAugmentation."""
        light = self.geometry.geometry(images, generator).to(torch.float32).div_(255)  # (B, 3, H, W), 1: glass
        uniform = torch.rand(2, len(images), 3, generator=generator).mul_(2).sub_(1).to(images.device)
        return jitter_stains(light, 1 + self.gain * uniform[0], self.offset * uniform[1]).mul_(2).sub_(1)


def jitter_stains(light: torch.Tensor, gains: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Transmitted light (B, 3, H, W) in [0, 1], gains and offsets (B, 3) of the three stains → the same, jittered."""
    B, C, H, W = light.shape
    stains = STAINS.to(light.device)
    # density = stains^T @ amounts; amounts' = gain * amounts + offset. Both steps are one 3 x 3 matrix an image.
    mixing = stains.T @ (gains[:, :, None] * torch.linalg.inv(stains.T))  # (B, 3, 3)
    shift = stains.T @ offsets[:, :, None]  # (B, 3, 1)
    density = light.clamp(min=DARKEST).log_().neg_().reshape(B, C, H * W)
    return torch.baddbmm(shift, mixing, density).neg_().exp_().clamp_(0, 1).view(B, C, H, W)


Operation = Callable[[torch.Tensor, float], torch.Tensor]  # uint8 (B, C, H, W), strength in [-1, 1] → the same


def _moved(images: torch.Tensor, angle: float = 0.0, across: float = 0.0, down: float = 0.0, shear=(0.0, 0.0)):
    """torchvision's affine map with the corners filled with white, which is glass without tissue."""
    size = images.shape[-1]
    shift = [round(across * size), round(down * size)]
    return vision.affine(images, angle, shift, 1.0, list(shear), fill=[255.0] * images.shape[1])


# The operations of RandAugment (Cubuk et al. 2020) that leave tissue recognisable. Inversion, solarisation and the
# equalisation of each channel turn it black or green.
OPERATIONS: dict[str, Operation] = {
    "identity": lambda images, strength: images,
    "rotate": lambda images, strength: _moved(images, angle=30 * strength),
    "shear across": lambda images, strength: _moved(images, shear=(17 * strength, 0.0)),
    "shear down": lambda images, strength: _moved(images, shear=(0.0, 17 * strength)),
    "move across": lambda images, strength: _moved(images, across=0.3 * strength),
    "move down": lambda images, strength: _moved(images, down=0.3 * strength),
    "brightness": lambda images, strength: vision.adjust_brightness(images, 1 + 0.5 * strength),
    "saturation": lambda images, strength: vision.adjust_saturation(images, 1 + 0.5 * strength),
    "contrast": lambda images, strength: vision.adjust_contrast(images, 1 + 0.5 * strength),
    "sharpness": lambda images, strength: vision.adjust_sharpness(images, 1 + 0.9 * strength),
    "posterise": lambda images, strength: vision.posterize(images, 8 - round(4 * abs(strength))),
}


@dataclass(frozen=True)
class RandAugment:
    """Flips, then `count` random operations of one strength for each image; the operation is drawn image by image.

    torchvision's own class draws one operation for the whole batch. Here images with the same draw go through it
    together, so a batch costs at most 2 * len(OPERATIONS) calls whatever its size.
    """

    count: int = 2
    magnitude: float = 0.4  # share of the largest strength
    geometry: Augmentation = field(default_factory=Augmentation)

    def __call__(self, images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """See BatchAugmentation."""
        images = self.geometry.geometry(images, generator)
        for _ in range(self.count):
            images = self._one_operation_each(images, generator)
        return normalize(images)

    def _one_operation_each(self, images: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        drawn = torch.randint(2 * len(OPERATIONS), (len(images),), generator=generator)  # operation and sign
        changed = images.clone()
        for number in drawn.unique().tolist():
            operation = list(OPERATIONS.values())[number // 2]
            chosen = (drawn == number).nonzero().view(-1).to(images.device)
            strength = self.magnitude if number % 2 else -self.magnitude
            changed.index_copy_(0, chosen, operation(images.index_select(0, chosen), strength))
        return changed
