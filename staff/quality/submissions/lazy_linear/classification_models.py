# lazy_linear: nn.LazyLinear and nn.LazyConv2d, made real by one dry run in the constructor.
import torch
from torch import nn


class LinearModel(nn.Module):
    def __init__(self, num_classes=9):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))
        self.net(torch.zeros(1, 3, 28, 28))  # dry run, so that the lazy layer gets its shape

    def forward(self, x):
        return self.net(x)


class MLPModel(nn.Module):
    def __init__(self, num_classes=9):
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(), nn.LazyLinear(256), nn.ReLU(), nn.LazyLinear(128), nn.ReLU(), nn.LazyLinear(num_classes)
        )
        self.net(torch.zeros(1, 3, 28, 28))

    def forward(self, x):
        return self.net(x)


class CNNModel(nn.Module):
    def __init__(self, num_classes=9):
        super().__init__()
        self.net = nn.Sequential(
            nn.LazyConv2d(32, kernel_size=5, padding=2), nn.LazyBatchNorm2d(), nn.ReLU(), nn.MaxPool2d(2),
            nn.LazyConv2d(64, kernel_size=3, padding=1), nn.LazyBatchNorm2d(), nn.ReLU(), nn.MaxPool2d(2),
            nn.LazyConv2d(128, kernel_size=3, padding=1), nn.LazyBatchNorm2d(), nn.ReLU(), nn.AvgPool2d(7),
            nn.Flatten(), nn.LazyLinear(num_classes),
        )
        self.eval()
        with torch.no_grad():
            self.net(torch.zeros(1, 3, 28, 28))
        self.train()

    def forward(self, x):
        return self.net(x)


def get_model(model_name, num_classes=9):
    models = {"linear": LinearModel, "mlp": MLPModel, "cnn": CNNModel}
    if model_name not in models:
        raise ValueError(f"unknown model {model_name!r}, choose from {sorted(models)}")
    return models[model_name](num_classes)


def count_parameters(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
