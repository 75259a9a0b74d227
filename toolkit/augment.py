"""Augmentation of whole batches: every image gets its own random numbers, and nothing loops over images in Python.

Geometry (flips, right-angle turns, reflect-padded random crop) works on uint8, colour jitter on the normalised floats.
All random numbers come from one CPU Generator, so a seed gives the same batches on every device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from toolkit.errors import check_choice

NAMES = ("none", "flips", "standard", "strong")


def normalize(images: torch.Tensor) -> torch.Tensor:
    """uint8 images of any shape in 0..255 → float32 in [-1, 1], as ToTensor and Normalize(0.5, 0.5) give, bit for bit.

    (x / 255 - 0.5) / 0.5 rounds as 2 (x / 255) - 1 and as x / 127.5 - 1 do: doubling is exact in binary floating point.
    """
    return images.to(torch.float32).div_(127.5).sub_(1)


def denormalize(images: torch.Tensor) -> torch.Tensor:
    """float images in [-1, 1] → [0, 1], for pictures; values outside (the drawn boxes) are clipped."""
    return images.float().add(1).div(2).clamp(0, 1)


@dataclass(frozen=True)
class Augmentation:
    """What happens to training batches. Probabilities and ranges apply to each image independently.

    flips: left-right and up-down, each with probability 1/2; 'left_right' or 'up_down': one of them alone.
    turns: transposition with probability 1/2; with both flips that makes all eight symmetries of the square (quarter
    turns and mirror images) equally likely.
    crop_padding: pixels of reflection around the image from which a window of the old size is cut (0: no crop).
    stain_jitter: half-range of the gain of each colour channel, which mimics stains of different strength between
    laboratories. brightness_jitter: half-range of an offset on the [-1, 1] scale, common to the channels.
    """

    flips: bool | Literal["left_right", "up_down"] = True
    turns: bool = False
    crop_padding: int = 0
    stain_jitter: float = 0.0
    brightness_jitter: float = 0.0

    def geometry(self, images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """uint8 (B, C, H, W) → the same shape, contiguous; turns need H == W. The input is left as it is."""
        if not (self.flips or self.turns or self.crop_padding):
            return images.contiguous()
        images = images.permute(0, 2, 3, 1).contiguous()  # (B, H, W, C), free when channels are last in memory
        if self.turns:
            images = _transpose_some(images, generator)
        images = _crop_and_flip(images, self.crop_padding, self.flips, generator)
        return images.permute(0, 3, 1, 2).contiguous()  # bytes are quicker to reorder than the floats made of them

    def color(self, images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """float32 (B, C, H, W) in [-1, 1] → the same, jittered in place and clipped to [-1, 1]."""
        if not (self.stain_jitter or self.brightness_jitter):
            return images
        B, C = images.shape[:2]
        uniform = torch.rand(B, C + 1, generator=generator).mul_(2).sub_(1)
        uniform = uniform.to(images.device)[:, :, None, None]  # (B, C + 1, 1, 1)
        # One number per image and channel, not per pixel: a stain is stronger or weaker on the whole slide.
        # White (+1) is glass with nothing on it and stays white: the gain scales the distance from it, as stain does.
        gain = 1 + self.stain_jitter * uniform[:, :C]
        offset = self.brightness_jitter * uniform[:, C:]
        return images.sub_(1).mul_(gain).add_(1).add_(offset).clamp_(-1, 1)

    def __call__(self, images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """uint8 (B, C, H, W) → augmented float32 (B, C, H, W) in [-1, 1]."""
        return self.color(normalize(self.geometry(images, generator)), generator)


def named_augmentation(name: str) -> Augmentation:
    """Return the augmentation called 'none', 'flips', 'standard' (symmetries, crop) or 'strong' (and colour)."""
    check_choice("augment", name, NAMES)
    # A slice under a microscope has no up, down, left or right, so every symmetry gives an image that could have been
    # taken. For photographs or chest X-rays, where up is up, 'flips' and 'standard' would teach what never occurs.
    if name == "none":
        return Augmentation(flips=False)
    if name == "flips":
        return Augmentation()
    if name == "standard":  # 2 pixels of 28: what is shown moves a little, and its class stays what it was
        return Augmentation(turns=True, crop_padding=2)
    # For long schedules, which would otherwise learn the training images by heart.
    return Augmentation(turns=True, crop_padding=4, stain_jitter=0.2, brightness_jitter=0.1)


def _transpose_some(images: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Swap height and width of about half of the images (B, H, H, C)."""
    B, H, W, _ = images.shape
    if H != W:
        raise ValueError(f"turns need square images; these are {H} x {W}")
    chosen = (torch.rand(B, generator=generator) < 0.5).nonzero().view(-1).to(images.device)
    turned = images.index_select(0, chosen).transpose(1, 2)
    return images.clone().index_copy_(0, chosen, turned)


def _crop_and_flip(
    images: torch.Tensor, padding: int, flips: bool | str, generator: torch.Generator | None
) -> torch.Tensor:
    """Reflect-pad, cut a random window of the old size, flip; images uint8 (B, H, W, C) contiguous, padding < H, W.

    Each row of the result is W * C neighbouring bytes of a padded row, so one gather of byte windows does the crop
    and both flips: rows of the upright and of the mirrored batch lie in one buffer, and a start byte selects from it.
    """
    B, H, W, C = images.shape
    mirrored = images.permute(0, 3, 1, 2).flip(3).permute(0, 2, 3, 1)  # this layout takes torch's vectorised path
    rows, mirrored_rows = images.reshape(B * H, W * C), mirrored.reshape(B * H, W * C)
    strips = torch.cat([_reflect(rows, mirrored_rows, padding, C), _reflect(mirrored_rows, rows, padding, C)])
    stride = strips.shape[1]  # (W + 2 padding) * C bytes

    dy, dx = torch.randint(-padding, padding + 1, (2, B, 1), generator=generator)
    mirror, upside_down = torch.randint(0, 2 if flips else 1, (2, B, 1), generator=generator)
    if flips == "left_right":
        upside_down = torch.zeros_like(upside_down)
    elif flips == "up_down":
        mirror = torch.zeros_like(mirror)
    row = torch.arange(H) + dy  # (B, H), reflected into 0 .. H - 1 by the next line
    row = (H - 1) - ((H - 1) - row.abs()).abs()
    row = torch.where(upside_down.bool(), row.flip(1), row)
    first_row = torch.arange(B)[:, None] * H + mirror * (B * H)
    start = (first_row + row) * stride + (dx + padding) * C  # (B, H)

    windows = strips.view(-1).as_strided((strips.numel() - W * C + 1, W * C), (1, 1))
    return windows.index_select(0, start.view(-1).to(images.device)).view(B, H, W, C)


def _reflect(rows: torch.Tensor, mirrored_rows: torch.Tensor, padding: int, channels: int) -> torch.Tensor:
    """Pad rows (N, W * C) by reflection without repeating the edge pixel; the mirrored rows hold the reflections."""
    if not padding:
        return rows
    width = padding * channels
    left = mirrored_rows[:, -width - channels : -channels]
    right = mirrored_rows[:, channels : channels + width]
    return torch.cat([left, rows, right], dim=1)
