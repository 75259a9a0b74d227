# tqdm_postfix: tqdm with set_postfix, total=len(loader), loop variables named pbar; SGD-free Adam, global average pool.
import torch
import torch.nn as nn
import torch.nn.functional as F


class LinearModel(nn.Module):
    def __init__(self, num_classes=9):
        super().__init__()
        self.fc = nn.Linear(3 * 28 * 28, num_classes)

    def forward(self, x):
        x = x.view(-1, 3 * 28 * 28)
        return self.fc(x)


class MLPModel(nn.Module):
    def __init__(self, num_classes=9, hidden=256, p=0.1):
        super().__init__()
        self.fc1 = nn.Linear(3 * 28 * 28, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, num_classes)
        self.drop = nn.Dropout(p)

    def forward(self, x):
        x = x.view(-1, 3 * 28 * 28)
        x = self.drop(F.relu(self.fc1(x)))
        x = self.drop(F.relu(self.fc2(x)))
        return self.fc3(x)


class CNNModel(nn.Module):
    def __init__(self, num_classes=9):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.conv3 = nn.Conv2d(64, 128, 3, padding=1, bias=False)
        self.conv4 = nn.Conv2d(128, 128, 3, padding=1, bias=False)
        self.bn1, self.bn2, self.bn3, self.bn4 = [nn.BatchNorm2d(c) for c in (32, 64, 128, 128)]
        self.fc = nn.Linear(128, num_classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        x = F.relu(self.bn3(self.conv3(x)))
        x = F.relu(self.bn4(self.conv4(x)))
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.fc(x)


def get_model(model_name, num_classes=9):
    models = {"linear": LinearModel, "mlp": MLPModel, "cnn": CNNModel}
    if model_name not in models:
        raise ValueError(f"unknown model {model_name!r}, choose from {sorted(models)}")
    return models[model_name](num_classes)


def count_parameters(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
