# module_lists: nn.ModuleList loops everywhere; a U-Net of three levels (28, 14, 7, 3); average kept in a running-mean style.
import torch
from torch import nn


class LinearModel(nn.Module):
    def __init__(self, num_classes=9):
        super().__init__()
        self.layers = nn.ModuleList([nn.Flatten(), nn.Linear(3 * 28 * 28, num_classes)])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class MLPModel(nn.Module):
    def __init__(self, num_classes=9, hidden=(512, 256)):
        super().__init__()
        sizes = [3 * 28 * 28, *hidden]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))
        self.output = nn.Linear(sizes[-1], num_classes)

    def forward(self, x):
        x = x.flatten(1)
        for layer in self.hidden:
            x = torch.relu(layer(x))
        return self.output(x)


class CNNModel(nn.Module):
    def __init__(self, num_classes=9, channels=(32, 64, 128)):
        super().__init__()
        self.convs = nn.ModuleList()
        self.norms = nn.ModuleList()
        previous = 3
        for c in channels:
            self.convs.append(nn.Conv2d(previous, c, 3, padding=1))
            self.norms.append(nn.BatchNorm2d(c))
            previous = c
        self.fc = nn.Linear(previous, num_classes)

    def forward(self, x):
        last = len(self.convs) - 1
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms)):
            x = torch.relu(norm(conv(x)))
            if i < last:
                x = nn.functional.max_pool2d(x, 2)
        return self.fc(x.amax(dim=(2, 3)))


def get_model(model_name, num_classes=9):
    models = {"linear": LinearModel, "mlp": MLPModel, "cnn": CNNModel}
    if model_name not in models:
        raise ValueError(f"unknown model {model_name!r}, choose from {sorted(models)}")
    return models[model_name](num_classes)


def count_parameters(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
