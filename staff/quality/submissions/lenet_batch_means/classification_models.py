# lenet_batch_means: LeNet without padding; averages of the batches' means, divided by the number of batches seen.
import torch
import torch.nn as nn
import torch.nn.functional as F


class LinearModel(nn.Module):
    def __init__(self, num_classes=9):
        super(LinearModel, self).__init__()
        self.linear = nn.Linear(2352, num_classes)

    def forward(self, x):
        return self.linear(x.view(x.size(0), -1))


class MLPModel(nn.Module):
    def __init__(self, num_classes=9):
        super(MLPModel, self).__init__()
        self.fc1 = nn.Linear(2352, 256)
        self.fc2 = nn.Linear(256, 64)
        self.out = nn.Linear(64, num_classes)

    def forward(self, x):
        x = x.view(x.size(0), -1)
        x = F.leaky_relu(self.fc1(x))
        x = F.leaky_relu(self.fc2(x))
        return self.out(x)


class CNNModel(nn.Module):
    """LeNet-5 for colour images, with more channels and batch norm"""

    def __init__(self, num_classes=9):
        super(CNNModel, self).__init__()
        self.conv1 = nn.Conv2d(3, 24, 5)  # 28 -> 24 -> 12
        self.bn1 = nn.BatchNorm2d(24)
        self.conv2 = nn.Conv2d(24, 48, 5)  # 12 -> 8 -> 4
        self.bn2 = nn.BatchNorm2d(48)
        self.fc1 = nn.Linear(48 * 4 * 4, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), (2, 2))
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        x = x.view(-1, 48 * 4 * 4)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


def get_model(model_name, num_classes=9):
    models = {"linear": LinearModel, "mlp": MLPModel, "cnn": CNNModel}
    if model_name not in models:
        raise ValueError(f"unknown model {model_name!r}, choose from {sorted(models)}")
    return models[model_name](num_classes)


def count_parameters(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
