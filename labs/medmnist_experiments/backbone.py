"""A network of torchvision as a feature extractor with a new head, and which of its parts learn."""

from __future__ import annotations

import torch
from torch import nn

from toolkit import backbones
from toolkit.devices import evaluating
from toolkit.errors import UserError

STRATEGIES = ("frozen", "partly", "scratch")
# Mean and deviation of ImageNet's photographs on the [0, 1] scale, with which torchvision's weights were trained.
IMAGENET_MEAN, IMAGENET_SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class TransferNet(nn.Module):
    """Enlarge, normalise as ImageNet was, convolutions of a backbone, global average pooling, dense layers.

    forward: float32 images (B, C, H, W) in [-1, 1], grey or RGB → logits (B, outputs). Blocks that `freeze` named stay
    in evaluation mode, so that their BatchNorm statistics stay ImageNet's, too.
    """

    def __init__(self, features: nn.Sequential, width: int, outputs: int, image_size: int, hidden: int = 128) -> None:
        super().__init__()
        self.features = backbones.Resized(features, image_size)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, hidden),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(hidden, outputs),
        )
        self.frozen_blocks = 0
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("sd", torch.tensor(IMAGENET_SD).view(1, 3, 1, 1), persistent=False)

    @property
    def blocks(self) -> list[nn.Module]:
        """The children of the convolutional part, from the image to the head."""
        return list(self.features.network)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See the class."""
        colours = images.expand(-1, 3, -1, -1)  # grey becomes three equal channels
        return self.head(self.features(((colours + 1) / 2 - self.mean) / self.sd))

    def freeze(self, count: int) -> None:
        """Let the first `count` blocks keep their weights."""
        self.frozen_blocks = count
        for number, block in enumerate(self.blocks):
            block.requires_grad_(number >= count)
        self.train(self.training)

    def train(self, mode: bool = True) -> TransferNet:
        """As nn.Module.train, but frozen blocks stay in evaluation mode."""
        super().train(mode)
        for block in self.blocks[: self.frozen_blocks]:
            block.eval()
        return self


def build(
    name: str, weights: dict[str, torch.Tensor] | None, outputs: int, image_size: int, images: torch.Tensor
) -> TransferNet:
    """The network with a new head. images: float32 (B, C, H, W) in [-1, 1] to measure widths and statistics with.

    Raises UserError for a backbone that is unknown or has no chain of convolutional blocks, and for odd weights.
    """
    features = convolutions(backbones.build(name, weights), name)
    with evaluating(features):
        maps = features(torch.zeros(1, 3, image_size, image_size))
    if maps.dim() != 4:
        raise UserError(f"--backbone {name} gives no maps (B, C, H, W) to average; choose a convolutional network")
    net = TransferNet(features, maps.shape[1], outputs, image_size)
    if weights is not None and backbones.is_folded(features):
        backbones.unfold_batchnorm(net, images)
    return net


def convolutions(network: nn.Module, name: str) -> nn.Sequential:
    """The convolutional part as a chain of blocks: `features`, or a ResNet's children up to its pooling."""
    features = getattr(network, "features", None)
    if isinstance(features, nn.Sequential):
        return features
    children = dict(network.named_children())
    if "layer4" in children:
        return nn.Sequential(*(module for key, module in children.items() if key not in ("avgpool", "fc")))
    raise UserError(
        f"--backbone is {name!r}, whose convolutions are not a chain of blocks; "
        "allowed: vgg16, resnet18, mobilenet_v2, densenet121, efficientnet_b0 and their relatives"
    )


def frozen_blocks(net: TransferNet, strategy: str, trainable: float) -> int:
    """How many blocks keep their weights: all, all but those with the last `trainable` share of the weights, none.

    At least one block learns for 'partly', and at least one does not. A block without weights goes with the one before.
    """
    if strategy == "scratch":
        return 0
    if strategy == "frozen":
        return len(net.blocks)
    sizes = [sum(parameter.numel() for parameter in block.parameters()) for block in net.blocks]
    with_weights = [number for number, size in enumerate(sizes) if size]
    if len(with_weights) < 2:
        return with_weights[0] if with_weights else 0
    first, last = with_weights[1], with_weights[-1]
    for number in with_weights:
        if sum(sizes[number:]) <= trainable * sum(sizes):
            return min(max(number, first), last)
    return last
