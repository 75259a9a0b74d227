"""The building block that the convolutional networks of the course have in common."""

from __future__ import annotations

from torch import nn


def conv_block(in_channels: int, out_channels: int) -> nn.Sequential:
    """Convolution, normalisation, nonlinearity: (B, in_channels, H, W) → (B, out_channels, H, W).

    A 3 x 3 convolution with one pixel of padding keeps height and width. It has no bias, because BatchNorm subtracts
    the mean of each channel and adds its own bias.
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
        # For validation BatchNorm keeps running statistics; momentum is the share of the newest batch in them. With
        # PyTorch's 0.1 they lag behind weights that change as fast as in the course's 100 steps.
        nn.BatchNorm2d(out_channels, momentum=0.3),
        nn.ReLU(),
    )
