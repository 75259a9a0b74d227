# clipping: gradient clipping in both training loops; AlexNet-like CNN with a global pool, GroupNorm.
import torch
import torch.nn as nn


class LinearModel(nn.Module):
    def __init__(self, num_classes=9):
        super().__init__()
        self.layer = nn.Linear(28 * 28 * 3, num_classes)
        nn.init.xavier_uniform_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x):
        return self.layer(x.view(x.shape[0], -1))


class MLPModel(nn.Module):
    def __init__(self, num_classes=9):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(28 * 28 * 3, 300), nn.Tanh(), nn.Linear(300, 100), nn.Tanh(), nn.Linear(100, num_classes)
        )

    def forward(self, x):
        return self.net(x.view(x.shape[0], -1))


class CNNModel(nn.Module):
    def __init__(self, num_classes=9):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 48, kernel_size=5, stride=1, padding=2),
            nn.GroupNorm(4, 48),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(48, 96, kernel_size=3, padding=1),
            nn.GroupNorm(4, 96),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(96, 128, kernel_size=3, padding=1),
            nn.ReLU(),
        )
        self.pool = nn.AdaptiveMaxPool2d((2, 2))
        self.classifier = nn.Sequential(nn.Linear(128 * 2 * 2, 128), nn.ReLU(), nn.Linear(128, num_classes))

    def forward(self, x):
        x = self.pool(self.features(x))
        return self.classifier(x.view(x.shape[0], -1))


def get_model(model_name, num_classes=9):
    models = {"linear": LinearModel, "mlp": MLPModel, "cnn": CNNModel}
    if model_name not in models:
        raise ValueError(f"unknown model {model_name!r}, choose from {sorted(models)}")
    return models[model_name](num_classes)


def count_parameters(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
