# lenet_batch_means: LeNet without padding; averages of the batches' means, divided by the number of batches seen.
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F


class LinearSegmentation(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super(LinearSegmentation, self).__init__()
        self.out_channels = out_channels
        self.linear = nn.Linear(in_channels * 784, out_channels * 784)

    def forward(self, x):
        b = x.size(0)
        x = self.linear(x.view(b, -1))
        return torch.sigmoid(x).view(b, self.out_channels, 28, 28)


class MLPSegmentation(nn.Module):
    def __init__(self, in_channels=3, out_channels=1):
        super(MLPSegmentation, self).__init__()
        self.out_channels = out_channels
        self.fc1 = nn.Linear(in_channels * 784, 400)
        self.fc2 = nn.Linear(400, out_channels * 784)

    def forward(self, x):
        b = x.size(0)
        x = F.relu(self.fc1(x.view(b, -1)))
        x = self.fc2(x)
        return torch.sigmoid(x.view(b, self.out_channels, 28, 28))


class SimpleCNN(nn.Module):
    """strided convolutions down, transposed convolutions up"""

    def __init__(self, in_channels=3, out_channels=1):
        super(SimpleCNN, self).__init__()
        self.conv1 = nn.Conv2d(in_channels, 32, 3, padding=1)
        self.down1 = nn.Conv2d(32, 64, 4, stride=2, padding=1)
        self.down2 = nn.Conv2d(64, 96, 4, stride=2, padding=1)
        self.mid = nn.Conv2d(96, 96, 3, padding=1)
        self.up1 = nn.ConvTranspose2d(96, 64, 4, stride=2, padding=1)
        self.up2 = nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1)
        self.out = nn.Conv2d(32, out_channels, 3, padding=1)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.relu(self.down1(x))
        x = F.relu(self.down2(x))
        x = F.relu(self.mid(x))
        x = F.relu(self.up1(x))
        x = F.relu(self.up2(x))
        return torch.sigmoid(self.out(x))


class TinyUNet(nn.Module):
    def __init__(self, in_channels=3, out_channels=1, base_channels=16):
        super(TinyUNet, self).__init__()
        b = base_channels
        self.e1a = nn.Conv2d(in_channels, b, 3, padding=1)
        self.e1b = nn.Conv2d(b, b, 3, padding=1)
        self.e2a = nn.Conv2d(b, 2 * b, 3, padding=1)
        self.e2b = nn.Conv2d(2 * b, 2 * b, 3, padding=1)
        self.ma = nn.Conv2d(2 * b, 4 * b, 3, padding=1)
        self.mb = nn.Conv2d(4 * b, 4 * b, 3, padding=1)
        self.u2 = nn.ConvTranspose2d(4 * b, 2 * b, 2, stride=2)
        self.d2a = nn.Conv2d(4 * b, 2 * b, 3, padding=1)
        self.d2b = nn.Conv2d(2 * b, 2 * b, 3, padding=1)
        self.u1 = nn.ConvTranspose2d(2 * b, b, 2, stride=2)
        self.d1a = nn.Conv2d(2 * b, b, 3, padding=1)
        self.d1b = nn.Conv2d(b, b, 3, padding=1)
        self.out = nn.Conv2d(b, out_channels, 1)

    def forward(self, x):
        s1 = F.relu(self.e1b(F.relu(self.e1a(x))))
        s2 = F.relu(self.e2b(F.relu(self.e2a(F.max_pool2d(s1, 2)))))
        m = F.relu(self.mb(F.relu(self.ma(F.max_pool2d(s2, 2)))))
        y = torch.cat([s2, self.u2(m)], dim=1)
        y = F.relu(self.d2b(F.relu(self.d2a(y))))
        y = torch.cat([s1, self.u1(y)], dim=1)
        y = F.relu(self.d1b(F.relu(self.d1a(y))))
        return torch.sigmoid(self.out(y))


class DiceLoss(nn.Module):
    def __init__(self, smooth=1e-6):
        super(DiceLoss, self).__init__()
        self.smooth = smooth

    def forward(self, pred, target):
        pred = pred.reshape(pred.size(0), -1)
        target = target.reshape(target.size(0), -1)
        inter = (pred * target).sum(1)
        dice = (2. * inter + self.smooth) / (pred.sum(1) + target.sum(1) + self.smooth)
        return 1. - dice.mean()


class CombinedLoss(nn.Module):
    def __init__(self, bce_weight=0.5, dice_weight=0.5):
        super(CombinedLoss, self).__init__()
        self.bce_weight = bce_weight
        self.dice_weight = dice_weight

    def forward(self, pred, target):
        bce = F.binary_cross_entropy(pred, target)
        dice = DiceLoss()(pred, target)
        return self.bce_weight * bce + self.dice_weight * dice


def get_segmentation_model(model_name, in_channels=3, out_channels=1):
    models = {"linear": LinearSegmentation, "mlp": MLPSegmentation, "cnn": SimpleCNN, "unet": TinyUNet}
    if model_name not in models:
        raise ValueError(f"unknown model {model_name!r}, choose from {sorted(models)}")
    return models[model_name](in_channels, out_channels)


def count_parameters(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def calculate_iou(pred_mask, true_mask, threshold=0.5):
    if torch.is_tensor(pred_mask):
        pred_mask = pred_mask.detach().cpu().numpy()
    if torch.is_tensor(true_mask):
        true_mask = true_mask.detach().cpu().numpy()
    ious = []
    for p, t in zip(pred_mask, true_mask):
        p = p > threshold
        t = t > threshold
        union = np.logical_or(p, t).sum()
        if union == 0:
            ious.append(1.0)
        else:
            ious.append(np.logical_and(p, t).sum() / union)
    return float(np.mean(ious))
