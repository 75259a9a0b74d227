"""Residual networks built from nothing but convolutions (He et al. 2016), and the same networks without skips.

A block computes relu(F(x) + x), where F is Conv-BatchNorm-ReLU-Conv-BatchNorm. F only has to learn what is to change,
and the gradient reaches x both through F and directly. Modules carry torchvision's names, so that its weights fit.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from toolkit.errors import UserError

STEMS = ("small", "photograph")
# Four stages for photographs: blocks a stage. Each block has two convolutions; stem and dense layer make 18 or 34.
FOUR_STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
DEEPEST = 110
NAMES = "resnet or plain and a depth: 18, 34, or 6n + 2 (8, 14, 20, ..., 56, ..., 110), such as resnet20 or plain56"


def convolution(in_channels: int, out_channels: int, size: int, stride: int = 1) -> nn.Conv2d:
    """Keeps height and width (stride 1) or halves them; BatchNorm follows and shifts, so there is no bias."""
    return nn.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, bias=False)


class Block(nn.Module):
    """Two 3 x 3 convolutions (B, in_channels, H, W) → (B, channels, H / stride, W / stride), and the skip around them.

    skip: add the input to the result. Where its shape differs, a 1 x 1 convolution projects it, else it is added as it
    is (identity). Without skip the block is the plain network of the same depth.
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1, skip: bool = True) -> None:
        super().__init__()
        self.skip = skip
        self.conv1 = convolution(in_channels, channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = convolution(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if skip and (stride != 1 or in_channels != channels):
            self.downsample = nn.Sequential(convolution(in_channels, channels, 1, stride), nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if not self.skip:
            return F.relu(residual)
        return F.relu(residual + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Stem, stages of blocks, global average pooling, dense layer: (B, in_channels, H, W) → logits (B, num_classes).

    blocks: how many in each stage; from the second stage on the first of them halves height and width and doubles the
    channels, which begin with `width`. stem: 'photograph' (7 x 7 with stride 2, then max pooling with stride 2, for 224
    pixels) or 'small' (3 x 3, stride 1, for 28: the other one would leave 7 x 7 of it before the first block).
    """

    def __init__(
        self,
        blocks: Sequence[int],
        num_classes: int,
        *,
        in_channels: int = 3,
        width: int = 64,
        stem: str = "small",
        skips: bool = True,
    ) -> None:
        super().__init__()
        if stem not in STEMS:
            raise UserError(f"stem is {stem!r}; allowed: {', '.join(STEMS)}")
        large = stem == "photograph"
        self.conv1 = convolution(in_channels, width, 7, 2) if large else convolution(in_channels, width, 3)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if large else nn.Identity()
        self.stages = [f"layer{number}" for number in range(1, len(blocks) + 1)]
        channels = width
        for number, (name, count) in enumerate(zip(self.stages, blocks, strict=True)):
            wanted, stride = width * 2**number, 1 if number == 0 else 2
            first = Block(channels, wanted, stride, skips)
            self.add_module(name, nn.Sequential(first, *(Block(wanted, wanted, 1, skips) for _ in range(count - 1))))
            channels = wanted
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # keeps the size of activations through ReLU (He et al. 2015)
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.maxpool(F.relu(self.bn1(self.conv1(images))))
        for name in self.stages:
            features = getattr(self, name)(features)
        return self.fc(features.mean(dim=(2, 3)))  # (B, C)


def build(name: str, num_classes: int, *, in_channels: int = 3, width: int = 16, stem: str = "small") -> ResNet:
    """The network `name`: resnet18, resnet34 with four stages; resnet20, 32, 56, ... (6n + 2) with three; plain20, ...

    The three-stage ones are those of section 4.2 of the paper, except that a change of shape is projected here and
    zero-padded there. Raises UserError for other names, resnet50 among them, which is made of bottleneck blocks.
    """
    match = re.fullmatch(r"(resnet|plain)(\d{1,3})", name)
    depth = int(match[2]) if match else 0
    if depth in FOUR_STAGES:
        blocks = FOUR_STAGES[depth]
    elif 8 <= depth <= DEEPEST and depth % 6 == 2 and depth != 50:
        blocks = ((depth - 2) // 6,) * 3
    else:
        raise UserError(f"the network is {name!r}; allowed: {NAMES}")
    return ResNet(blocks, num_classes, in_channels=in_channels, width=width, stem=stem, skips=match[1] == "resnet")


def without_batchnorm(model: nn.Module) -> nn.Module:
    """A copy whose BatchNorm layers do nothing: shows what they do for the gradients, apart from the skips."""
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
    return model


def gradient_norms(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """Euclidean norm of the gradient of the cross-entropy with respect to each layer's weights, from input to output.

    images float32 (B, C, H, W), labels int64 (B,). The layers on the main path: 3 x 3 convolutions (stem included) and
    the dense layer, so that networks with and without skips have equally many. `model` stays as it is.
    """
    model = copy.deepcopy(model).train()  # BatchNorm as in training: with the statistics of this batch
    F.cross_entropy(model(images).float(), labels).backward()
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    return [float(module.weight.grad.norm()) for name, module in layers if "downsample" not in name]
