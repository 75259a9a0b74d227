# groupnorm_islice: GroupNorm, itertools.islice for max_steps, inference_mode, weighted numpy averages.
import math

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
            nn.Linear(2352, 384),
            nn.BatchNorm1d(384),
            nn.ReLU(),
            nn.Linear(384, 384),
            nn.BatchNorm1d(384),
            nn.ReLU(),
            nn.Linear(384, 96),
            nn.BatchNorm1d(96),
            nn.ReLU(),
            nn.Linear(96, num_classes),
        )

    def forward(self, x):
        return self.net(x)


def block(c_in, c_out, stride=1):
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1),
        nn.GroupNorm(math.gcd(8, c_out), c_out),
        nn.SiLU(),
    )


class CNNModel(nn.Module):
    def __init__(self, num_classes=9):
        super().__init__()
        self.net = nn.Sequential(
            block(3, 32),
            nn.MaxPool2d(2),
            block(32, 64),
            nn.MaxPool2d(2),
            block(64, 128),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(1152, num_classes),
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
