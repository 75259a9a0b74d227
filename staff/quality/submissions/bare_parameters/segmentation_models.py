# bare_parameters: weights as bare nn.Parameter, products with @ and einsum, functional convolutions; cross-entropy object from functional code.
import math

import torch
import torch.nn as nn
import torch.nn.functional as F


class LinearSegmentation(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.out_channels = out_channels
        self.W = nn.Parameter(torch.randn(in_channels * 784, out_channels * 784) * 0.01)
        self.b = nn.Parameter(torch.zeros(out_channels * 784))

    def forward(self, x):
        z = x.reshape(x.shape[0], -1) @ self.W + self.b
        return torch.sigmoid(z).reshape(-1, self.out_channels, 28, 28)


class MLPSegmentation(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.out_channels = out_channels
        n, h = in_channels * 784, 512
        self.W1 = nn.Parameter(torch.randn(n, h) * math.sqrt(2 / n))
        self.b1 = nn.Parameter(torch.zeros(h))
        self.W2 = nn.Parameter(torch.randn(h, h) * math.sqrt(2 / h))
        self.b2 = nn.Parameter(torch.zeros(h))
        self.W3 = nn.Parameter(torch.randn(h, out_channels * 784) * math.sqrt(1 / h))
        self.b3 = nn.Parameter(torch.zeros(out_channels * 784))

    def forward(self, x):
        h = F.relu(x.reshape(x.shape[0], -1) @ self.W1 + self.b1)
        h = F.relu(h @ self.W2 + self.b2)
        return torch.sigmoid(h @ self.W3 + self.b3).reshape(-1, self.out_channels, 28, 28)


def kernel(n_in, n_out, size=3):
    return nn.Parameter(torch.randn(n_out, n_in, size, size) * math.sqrt(2 / (n_in * size * size)))


class SimpleCNN(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super().__init__()
        self.k1, self.k2, self.k3 = kernel(in_channels, 32), kernel(32, 64), kernel(64, 128)
        self.k4, self.k5 = kernel(128, 64), kernel(64, 32)
        self.k6 = kernel(32, out_channels, 1)
        self.bias = nn.Parameter(torch.zeros(out_channels))

    @staticmethod
    def conv(x, k):
        return F.relu(F.instance_norm(F.conv2d(x, k, padding=1)))

    def forward(self, x):
        x = F.max_pool2d(self.conv(x, self.k1), 2)
        x = F.max_pool2d(self.conv(x, self.k2), 2)
        x = self.conv(x, self.k3)
        x = self.conv(F.interpolate(x, scale_factor=2), self.k4)
        x = self.conv(F.interpolate(x, scale_factor=2), self.k5)
        return torch.sigmoid(F.conv2d(x, self.k6, self.bias))


class TinyUNet(nn.Module):
    def __init__(self, in_channels=3, out_channels=1, base_channels=16):
        super().__init__()
        n = base_channels
        self.e1a, self.e1b = kernel(in_channels, n), kernel(n, n)
        self.e2a, self.e2b = kernel(n, 2 * n), kernel(2 * n, 2 * n)
        self.ma, self.mb = kernel(2 * n, 4 * n), kernel(4 * n, 4 * n)
        self.d2, self.d1 = kernel(6 * n, 2 * n), kernel(3 * n, n)
        self.last = kernel(n, out_channels, 1)
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def conv(self, x, k):
        return F.relu(F.instance_norm(F.conv2d(x, k, padding=1)))

    def forward(self, x):
        e1 = self.conv(self.conv(x, self.e1a), self.e1b)
        e2 = self.conv(self.conv(F.max_pool2d(e1, 2), self.e2a), self.e2b)
        m = self.conv(self.conv(F.max_pool2d(e2, 2), self.ma), self.mb)
        d2 = self.conv(torch.cat([F.interpolate(m, scale_factor=2), e2], 1), self.d2)
        d1 = self.conv(torch.cat([F.interpolate(d2, scale_factor=2), e1], 1), self.d1)
        return torch.sigmoid(F.conv2d(d1, self.last, self.bias))


class DiceLoss(nn.Module):
    def __init__(self, smooth=1.0):
        super().__init__()
        self.smooth = smooth

    def forward(self, pred, target):
        both = torch.einsum("bchw,bchw->b", pred, target)
        sizes = torch.einsum("bchw->b", pred) + torch.einsum("bchw->b", target)
        return (1 - (2 * both + self.smooth) / (sizes + self.smooth)).mean()


class CombinedLoss(nn.Module):
    def __init__(self, bce_weight=0.5, dice_weight=0.5):
        super().__init__()
        self.bce_weight = bce_weight
        self.dice_weight = dice_weight

    def forward(self, pred, target):
        eps = 1e-6
        log_p = torch.log(pred + eps)
        log_not_p = torch.log(1 - pred + eps)
        bce = -torch.mean(target * log_p + (1 - target) * log_not_p)
        return self.bce_weight * bce + self.dice_weight * DiceLoss()(pred, target)


def get_segmentation_model(model_name, in_channels=3, out_channels=1):
    models = {"linear": LinearSegmentation, "mlp": MLPSegmentation, "cnn": SimpleCNN, "unet": TinyUNet}
    if model_name not in models:
        raise ValueError(f"unknown model {model_name!r}, choose from {sorted(models)}")
    return models[model_name](in_channels, out_channels)


def count_parameters(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def calculate_iou(pred_mask, true_mask, threshold=0.5):
    pred_mask = torch.as_tensor(pred_mask)
    true_mask = torch.as_tensor(true_mask).to(pred_mask.device)
    pred = (pred_mask > threshold).flatten(1)
    true = (true_mask > threshold).flatten(1)
    intersection = (pred & true).sum(1).float()
    union = (pred | true).sum(1).float()
    iou = torch.where(union > 0, intersection / union.clamp(min=1), torch.ones_like(union))
    return iou.mean().item()
