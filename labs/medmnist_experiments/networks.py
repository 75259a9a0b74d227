"""A plain convolutional network, written once for images and volumes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from toolkit.devices import evaluating, place_model, uses_channels_last

LAYERS = {
    2: (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d),
    3: (nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d, nn.AdaptiveAvgPool3d),
}


class ConvNet(nn.Module):
    """Stages of convolution, BatchNorm and ReLU with max pooling between them, then dense layers with dropout.

    stages: widths of the convolutions of each stage, such as ((16, 16), (32, 32), (64,)). first_stride: of the very
    first convolution. Between stages max pooling halves every side; behind the last one the mean over all places is
    taken. hidden: width of the dense layer between the two dropouts.
    """

    def __init__(
        self,
        dimensions: int,
        channels: int,
        outputs: int,
        stages: Sequence[Sequence[int]],
        *,
        first_stride: int = 1,
        hidden: int = 64,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        convolution, batch_norm, max_pool, mean = LAYERS[dimensions]
        layers: list[nn.Module] = []
        width, stride = channels, first_stride
        for number, widths in enumerate(stages):
            if number:
                layers.append(max_pool(2))
            for new in widths:
                layers += [convolution(width, new, 3, stride, padding=1, bias=False), batch_norm(new), nn.ReLU()]
                width, stride = new, 1
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            mean(1),
            nn.Flatten(),
            nn.Linear(width, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, outputs),
        )

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """float32 (B, C, H, W) or (B, C, D, H, W) in [-1, 1] → logits (B, outputs)."""
        return self.head(self.features(samples))


def place(model: nn.Module, device: torch.device) -> nn.Module:
    """Move to `device`, weights in the layout with channels last where that is faster, those of volumes included."""
    if uses_channels_last(device) and any(parameter.dim() == 5 for parameter in model.parameters()):
        return model.to(device, memory_format=torch.channels_last_3d)
    return place_model(model, device)


def attention_layer(network: ConvNet, samples: torch.Tensor, cells: int = 4) -> nn.Module:
    """The last ReLU whose output still has `cells` places along every side: where Grad-CAM can show something.

    samples: (B, C, ...) to try it with. A network that leaves fewer from the start gives its first one.
    """
    relus, sizes, values = [m for m in network.features if isinstance(m, nn.ReLU)], {}, samples
    with evaluating(network):
        for layer in network.features:
            values = layer(values)
            sizes[layer] = min(values.shape[2:])
    large = [relu for relu in relus if sizes[relu] >= cells]
    return large[-1] if large else relus[0]
