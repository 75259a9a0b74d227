# augment_flips: own horizontal flips in training (image and mask together), a slowly decaying rate, zip over range for max_steps.
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
    def __init__(self, num_classes=9, hidden=(512, 256)):
        super().__init__()
        sizes = [3 * 28 * 28, *hidden]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:]))
        self.out = nn.Linear(sizes[-1], num_classes)

    def forward(self, x):
        x = x.view(x.size(0), -1)
        for layer in self.hidden:
            x = F.dropout(F.celu(layer(x)), p=0.1, training=self.training)
        return self.out(x)


def block(c_in, c_out, stride=1):
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1),
        nn.BatchNorm2d(c_out),
        nn.CELU(),
    )


class CNNModel(nn.Module):
    def __init__(self, num_classes=9, widths=(32, 64, 128)):
        super().__init__()
        self.stages = nn.ModuleList(block(a, b) for a, b in zip((3, *widths), widths))
        self.head = nn.Conv2d(widths[-1], num_classes, kernel_size=1)

    def forward(self, x):
        for stage in self.stages:
            x = F.max_pool2d(stage(x), 2)
        return self.head(x).mean(dim=(2, 3))


def get_model(model_name, num_classes=9):
    registry = {"linear": LinearModel, "mlp": MLPModel, "cnn": CNNModel}
    if model_name not in registry:
        raise ValueError(f"unknown model {model_name!r}")
    return registry[model_name](num_classes=num_classes)


def count_parameters(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
