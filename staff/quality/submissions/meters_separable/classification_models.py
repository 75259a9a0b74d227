# meters_separable: AverageMeter class, depthwise separable convolutions, PixelShuffle decoder, AdamW with amsgrad.
import torch
import torch.nn as nn
import torch.nn.functional as F


class LinearModel(nn.Module):
    def __init__(self, num_classes=9):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(2352, num_classes))

    def forward(self, x):
        return self.net(x)


class MLPModel(nn.Module):
    def __init__(self, num_classes=9):
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(2352, 256),
            nn.Tanh(),
            nn.Linear(256, 128),
            nn.Tanh(),
            nn.Linear(128, num_classes),
        )

    def forward(self, x):
        return self.net(x)


def block(c_in, c_out, stride=1):
    """Depthwise, then pointwise convolution."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_in, 3, stride=stride, padding=1, groups=c_in, bias=False),
        nn.Conv2d(c_in, c_out, 1, bias=False),
        nn.BatchNorm2d(c_out),
        nn.Hardswish(),
    )


class CNNModel(nn.Module):
    def __init__(self, num_classes=9):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 48, 3, padding=1),
            nn.BatchNorm2d(48),
            nn.Hardswish(),
            block(48, 96, stride=2),
            block(96, 128),
            block(128, 192, stride=2),
            block(192, 192),
            nn.AdaptiveMaxPool2d(2),
            nn.Flatten(),
            nn.Linear(192 * 4, num_classes),
        )

    def forward(self, x):
        return self.net(x)


def get_model(model_name, num_classes=9):
    registry = {"linear": LinearModel, "mlp": MLPModel, "cnn": CNNModel}
    if model_name not in registry:
        raise ValueError(f"unknown model {model_name!r}")
    return registry[model_name](num_classes=num_classes)


def count_parameters(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
