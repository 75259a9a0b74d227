# bare_parameters: weights as bare nn.Parameter, products with @ and einsum, functional convolutions; cross-entropy object from functional code.
import math

import torch
import torch.nn as nn
import torch.nn.functional as F


class LinearModel(nn.Module):
    def __init__(self, num_classes=9):
        super().__init__()
        self.W = nn.Parameter(torch.randn(3 * 28 * 28, num_classes) * 0.01)
        self.b = nn.Parameter(torch.zeros(num_classes))

    def forward(self, x):
        return x.reshape(x.shape[0], -1) @ self.W + self.b


class MLPModel(nn.Module):
    def __init__(self, num_classes=9):
        super().__init__()
        n_in, n_hidden = 3 * 28 * 28, 256
        self.W1 = nn.Parameter(torch.randn(n_in, n_hidden) * math.sqrt(2 / n_in))
        self.b1 = nn.Parameter(torch.zeros(n_hidden))
        self.W2 = nn.Parameter(torch.randn(n_hidden, n_hidden) * math.sqrt(2 / n_hidden))
        self.b2 = nn.Parameter(torch.zeros(n_hidden))
        self.W3 = nn.Parameter(torch.randn(n_hidden, num_classes) * math.sqrt(1 / n_hidden))
        self.b3 = nn.Parameter(torch.zeros(num_classes))

    def forward(self, x):
        h = x.reshape(x.shape[0], -1)
        h = (h @ self.W1 + self.b1).clamp(min=0)
        h = (h @ self.W2 + self.b2).clamp(min=0)
        return h @ self.W3 + self.b3


class CNNModel(nn.Module):
    def __init__(self, num_classes=9):
        super().__init__()
        self.kernels = nn.ParameterList()
        self.gains = nn.ParameterList()
        self.shifts = nn.ParameterList()
        sizes = [3, 32, 64, 128]
        for n_in, n_out in zip(sizes, sizes[1:]):
            self.kernels.append(nn.Parameter(torch.randn(n_out, n_in, 3, 3) * math.sqrt(2 / (9 * n_in))))
            self.gains.append(nn.Parameter(torch.ones(n_out)))
            self.shifts.append(nn.Parameter(torch.zeros(n_out)))
        self.W = nn.Parameter(torch.randn(128, num_classes) * 0.05)
        self.b = nn.Parameter(torch.zeros(num_classes))

    def forward(self, x):
        for kernel, gain, shift in zip(self.kernels, self.gains, self.shifts):
            x = F.conv2d(x, kernel, padding=1)
            x = F.relu(F.group_norm(x, 8, gain, shift))
            x = F.max_pool2d(x, 2)
        return torch.einsum("bchw,ck->bk", x, self.W) / (x.shape[2] * x.shape[3]) + self.b


def get_model(model_name, num_classes=9):
    models = {"linear": LinearModel, "mlp": MLPModel, "cnn": CNNModel}
    if model_name not in models:
        raise ValueError(f"unknown model {model_name!r}, choose from {sorted(models)}")
    return models[model_name](num_classes)


def count_parameters(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
