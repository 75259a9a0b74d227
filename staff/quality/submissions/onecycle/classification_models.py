# onecycle: own AdamW and OneCycleLR stepped after each batch through an optional argument of train_epoch; ConvNeXt-like patches and 7x7 depthwise convolutions.
import torch
from torch import nn
import torch.nn.functional as F


class LinearModel(nn.Module):
    def __init__(self, num_classes=9):
        super().__init__()
        self.head = nn.Linear(3 * 28 ** 2, num_classes)

    def forward(self, x):
        return self.head(x.flatten(1))


class MLPModel(nn.Module):
    def __init__(self, num_classes=9):
        super().__init__()
        self.norm = nn.LayerNorm(3 * 28 ** 2)
        self.fc1 = nn.Linear(3 * 28 ** 2, 384)
        self.fc2 = nn.Linear(384, 384)
        self.head = nn.Linear(384, num_classes)

    def forward(self, x):
        x = self.norm(x.flatten(1))
        x = F.gelu(self.fc1(x))
        x = x + F.gelu(self.fc2(x))
        return self.head(x)


class LayerNorm2d(nn.LayerNorm):
    """layer norm over channels for (B, C, H, W)"""

    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        x = super().forward(x)
        return x.permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = LayerNorm2d(dim)
        self.pwconv1 = nn.Conv2d(dim, 4 * dim, 1)
        self.pwconv2 = nn.Conv2d(4 * dim, dim, 1)

    def forward(self, x):
        y = self.pwconv2(F.gelu(self.pwconv1(self.norm(self.dwconv(x)))))
        return x + y


class CNNModel(nn.Module):
    def __init__(self, num_classes=9, dims=(64, 128)):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, dims[0], kernel_size=4, stride=4), LayerNorm2d(dims[0]))  # 7 x 7
        self.stage1 = nn.Sequential(ConvNeXtBlock(dims[0]), ConvNeXtBlock(dims[0]))
        self.proj = nn.Conv2d(dims[0], dims[1], 1)
        self.stage2 = ConvNeXtBlock(dims[1])
        self.norm = nn.LayerNorm(dims[1])
        self.head = nn.Linear(dims[1], num_classes)

    def forward(self, x):
        x = self.stem(x)
        x = self.stage2(self.proj(self.stage1(x)))
        x = x.mean([-2, -1])
        return self.head(self.norm(x))


def get_model(model_name, num_classes=9):
    models = {"linear": LinearModel, "mlp": MLPModel, "cnn": CNNModel}
    if model_name not in models:
        raise ValueError(f"unknown model {model_name!r}, choose from {sorted(models)}")
    return models[model_name](num_classes)


def count_parameters(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
